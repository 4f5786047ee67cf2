"""What one name, one sink or one callback does must not reach the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.engines import MakeEngine, Seen
from support.ioc import IOCFactory

from daqca import Engine
from daqca.errors import ConfigurationError
from daqca.events import Kind

RECORDS = "\n".join(
    (
        *(f'record(ao, "CARE:a{i}") {{ field(VAL, "{i}") field(PINI, "YES") }}' for i in range(20)),
        *(f'record(stringin, "CARE:s{i}") {{ field(VAL, "text {i}") }}' for i in range(20)),
        'record(stringout, "CARE:path") { field(VAL, "old") }',
        'record(stringin, "CARE:seen") { field(INP, "CARE:path") }',
        'record(ao, "CARE:go") { field(FLNK, "CARE:seen") }',
    )
)


@pytest.fixture
def care(make_ioc: IOCFactory, point_at: Callable[..., dict[str, str]]) -> None:
    point_at(make_ioc(RECORDS))


@pytest.mark.usefixtures("care")
def test_a_refused_list_of_names_leaves_no_trace(make_engine: MakeEngine) -> None:
    engine = make_engine()
    many = [f"CARE:none{i}" for i in range(5000)]
    with pytest.raises(ConfigurationError, match="cannot be the name"):
        engine.connect(["CARE:a1", *many, ""], timeout=0.1)
    numbers, texts = [f"CARE:a{i}" for i in range(20)], [f"CARE:s{i}" for i in range(20)]
    snap = engine.snapshot([*texts, *numbers], timeout=10.0)
    assert snap.values == [f"text {i}" for i in range(20)] + [float(i) for i in range(20)]
    assert engine.stats()["pvs"] == 40


@pytest.mark.usefixtures("care")
def test_many_puts_are_written_in_their_order_whatever_their_types() -> None:
    with Engine() as engine:
        for text in ("first", "second", "third"):
            assert engine.put_many(["CARE:path", "CARE:go"], [text, 1], wait=True).ok
            assert engine.get("CARE:seen").value == text


@pytest.mark.usefixtures("care")
def test_a_sink_that_raises_takes_nothing_from_the_others(make_engine: MakeEngine) -> None:
    class Bad:
        def deliver(self, batch: object) -> None:
            raise ZeroDivisionError

    engine = make_engine()
    seen = Seen()
    bad = engine.subscribe(["CARE:a1"], Bad())
    engine.subscribe(["CARE:a1"], seen)
    seen.wait(lambda: seen.values() == [1.0], "the first value")
    for number in range(5):
        engine.put("CARE:a1", number)
    seen.wait(lambda: seen.values()[1:] == [0.0, 1.0, 2.0, 3.0, 4.0], "what was put")
    assert engine.stats()["sink_errors"] >= 5
    bad.close()


@pytest.mark.usefixtures("care")
def test_narrow_and_wide_subscriptions_see_their_own_pvs(make_engine: MakeEngine) -> None:
    engine = make_engine()
    names = [f"CARE:{kind}{i}" for i in range(20) for kind in "as"]
    wide, narrow = Seen(), [Seen() for _ in names]
    # More than are found by their slots: the others do not exist, and never tell anything.
    engine.subscribe([*names, *(f"CARE:none{i}" for i in range(80))], wide)
    for name, seen in zip(names, narrow, strict=True):
        engine.subscribe([name], seen)
    for place, seen in enumerate(narrow):
        seen.wait_kind(Kind.UPDATE)
        ((event, data),) = [row for row in seen.rows if row[0].kind == Kind.UPDATE]
        assert (data.rstrip(b"\0").decode() if place % 2 else event.value) == (
            f"text {place // 2}" if place % 2 else float(place // 2)
        )
    wide.wait(lambda: len(wide.events(Kind.UPDATE)) == len(names), "all first values")
    assert sorted(event.slot for event in wide.events(Kind.UPDATE)) == list(range(len(names)))
    engine.put_many(names[::2], np.arange(20) + 100.0, wait=True)
    for place, seen in enumerate(narrow[::2]):
        seen.wait(lambda seen=seen, place=place: seen.values()[-1] == place + 100.0, names[2 * place])
    assert all(len(seen.events(Kind.UPDATE)) == 1 for seen in narrow[1::2])
