"""The functions for many PVs, ``caget_many`` and ``caput_many``: every argument, on every kind of PV."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from support.ca_records import SLOW_S, TEXT, Records
from support.pv_functions import TEXTS, VALUES, same, spent
from support.recording import eventually

from daqca import PV, Engine, caget, caget_many, caput, caput_many, get_pv
from daqca.errors import ConfigurationError
from daqca.pv_proxy import _PVcache_


def test_caget_many_of_every_kind(engine: Engine, records: Records):
    names = [records(ending) for ending in VALUES]
    for value, expected in zip(caget_many(names, timeout=20, connection_timeout=20), VALUES.values(), strict=True):
        same(value, expected)
    # As a PV gives them.
    for name, value in zip(names, caget_many(iter(names)), strict=True):
        same(value, PV(name).get())
    assert len(_PVcache_) == 0


def test_caget_many_of_texts(engine: Engine, records: Records):
    names = [records(ending) for ending in TEXTS]
    assert caget_many(names, as_string=True) == list(TEXTS.values())
    assert caget_many(names, True) == [PV(name).get(as_string=True, with_ctrlvars=True) for name in names]
    assert caput(records("text"), TEXT, wait=True) == 1
    assert caget_many([records("text"), records("longs")], as_string=True, count=2) == [
        TEXT[:2],
        "<array size=2, type=time_long>",
    ]


def test_caget_many_of_some_elements_and_of_lists(engine: Engine, records: Records):
    names = [records("longs"), records("double"), records("strings"), records("no:doubles")]
    assert caget_many(names, as_numpy=False, count=2) == [[-2147483648, 0], 1.5, ["one", ""], []]
    first, *_ = caget_many(names, count=1)
    same(first, np.array([-2147483648], np.int32))


def test_caget_many_of_a_name_twice_and_of_none(engine: Engine, records: Records):
    assert caget_many([records("double"), records("long"), records("double")]) == [1.5, 7, 1.5]
    assert caget_many([]) == []
    assert caget_many([get_pv(records("double"))]) == [1.5]


def test_caget_many_with_some_missing(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    names = [records("double"), records("missing"), records("long"), records("gone")]
    for times in ({"connection_timeout": 0.3}, {"conn_timeout": 0.3}, {"conn_timeout": 0.3, "connection_timeout": 20}):
        engine.connect([names[0], names[2]], 20)
        caplog.clear()
        values, took = spent(caget_many, names, timeout=20, **times)
        assert values == [1.5, None, 7, None]
        assert 0.3 <= took < 5
        (text,) = caplog.messages
        assert text == f"caget_many: 2 of 4 PVs failed: {names[1]} (never found); {names[3]} (never found)"
    caplog.clear()
    names = [records(f"missing{number}") for number in range(15)]
    assert caget_many(names, connection_timeout=0) == [None] * 15
    assert caplog.messages[0].endswith("missing9 (never found); and 5 more")


def test_caput_many(engine: Engine, records: Records):
    names = [records(ending) for ending in ("free", "count", "enum", "string", "full")]
    values = [1.25, 3, "Run", "text", [7.0, 8.0]]
    assert caput_many(names, values, wait="all") == [1] * 5
    assert caget_many(names, as_numpy=False) == [1.25, 3, 1, "text", [7.0, 8.0]]
    before = [0, 0, 2, "a string", [1.0, 2.0, 3.0]]
    assert caput_many(iter(names), tuple(before), wait="each") == [1] * 5
    assert caget_many(names, as_numpy=False) == before
    assert caput_many(names[:2], np.array([4, 5])) == [1, 1]
    eventually(lambda: caget_many(names[:2]) == [4, 5], "both are written")
    assert caput_many(names[:2], [6, 7], wait=True) == [1, 1]
    assert caget_many(names[:2]) == [6, 7]
    assert caput_many([], []) == []
    assert caput_many([names[0]] * 3, [1, 2, 3], wait="all") == [1] * 3
    assert caget(names[0]) == 3
    assert caput_many(names[:2], [0, 0], wait="all") == [1, 1]


@pytest.mark.parametrize("wait", [False, "all", "each"])
def test_caput_many_waits_as_told(engine: Engine, records: Records, wait: Any):
    names = [records("slow"), records("free")]
    assert caget_many(names, connection_timeout=20)[0] == 0
    status, took = spent(caput_many, names, [1, 4], wait=wait)
    assert status == [1, 1]
    assert took >= SLOW_S if wait else took < SLOW_S
    eventually(lambda: caget(names[0]) == 0, "it has ended")
    assert caget(names[1]) == 4
    caput(names[1], 0, wait=True)


@pytest.mark.parametrize(("wait", "meanwhile"), [("each", 0), ("all", 5)])
def test_caput_many_each_writes_one_after_the_other(engine: Engine, records: Records, wait: str, meanwhile: int):
    """The second is written when the first is processed; with ``"all"`` it is written at once."""
    names = [records("slow"), records("free")]
    assert caput_many(names, [0, 0], wait="all", connection_timeout=20) == [1, 1]
    status: list[Any] = []
    thread = threading.Thread(target=lambda: status.extend(caput_many(names, [1, 5], wait=wait)))
    thread.start()
    try:
        eventually(lambda: caget_many(names) == [1, meanwhile], "the second is as it should be meanwhile")
    finally:
        thread.join()
    assert status == [1, 1]
    assert caget_many(names) == [0, 5]
    assert caput(names[1], 0, wait=True) == 1


def test_caput_many_when_the_time_is_over(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    names = [records("slow"), records("free")]
    for wait in ("all", "each"):
        caplog.clear()
        assert caget(names[0]) == 0
        status, took = spent(caput_many, names, [1, 4], wait=wait, put_timeout=0.1)
        assert status == [-1, 1]
        assert took < SLOW_S
        assert caplog.messages == [f"caput_many: 1 of 2 PVs failed: {names[0]} (timeout)"]
        eventually(lambda: caget(names[0]) == 0, "it has ended")


@pytest.mark.parametrize("wait", [False, "all", "each"])
def test_caput_many_with_some_that_fail(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture, wait: Any):
    names = [records(ending) for ending in ("free", "missing", "enum", "double", "count")]
    engine.connect([name for name in names if name != names[1]], 20)
    caplog.clear()
    status, took = spent(caput_many, names, [9, 1, "Nowhere", "much", 9], wait=wait, connection_timeout=0.2)
    assert status == [1, None, -1, -1, 1]
    assert took < 5
    (text,) = caplog.messages
    assert text.startswith(f"caput_many: 3 of 5 PVs failed: {names[1]} (never found); ")
    assert "'Nowhere' is none of its states, which are 'Idle', 'Run', 'Wait for ever'" in text
    eventually(lambda: caget_many([names[0], *names[2:]]) == [9, 2, 1.5, 9], "the others are written")
    assert caput_many([names[0], names[4]], [0, 0], wait="all") == [1, 1]


def test_caput_many_of_what_a_server_refuses(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    names = [records("disabled"), records("free")]
    assert caput_many(names, [1, 2], wait="all") == [-1, 1]
    assert caplog.messages == [f"caput_many: 1 of 2 PVs failed: {names[0]} (refused)"]
    assert caget(names[0]) == 7


def test_what_is_no_list_of_names_is_refused(engine: Engine, records: Records):
    name = records("double")
    with pytest.raises(TypeError, match=f"expected a list of names, got the text '{name}'; for one PV say"):
        caget_many(name)
    with pytest.raises(TypeError, match="expected a list of names, got the text"):
        caput_many(name, [1])
    with pytest.raises(TypeError, match="expected a list of names, and got 7"):
        caget_many(7)
    with pytest.raises(TypeError, match="expected the name of a PV, and got None"):
        caget_many([name, None])
    with pytest.raises(ConfigurationError, match="name"):
        caget("")


def test_values_that_are_no_list_are_refused(engine: Engine, records: Records):
    names = [records("free"), records("count")]
    with pytest.raises(ConfigurationError, match="as many values as names, and got 1 and 2"):
        caput_many(names, [1])
    with pytest.raises(TypeError, match="takes a list of values, and got '12'"):
        caput_many(names, "12")
    with pytest.raises(TypeError, match="takes a list of values, and got 3"):
        caput_many(names, 3)
    with pytest.raises(ConfigurationError, match=r"caput_many\(wait='some'\): it is 'each', 'all' or False"):
        caput_many(names, [1, 2], wait="some")
