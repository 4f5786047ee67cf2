"""The life of an engine: many threads, closing at any moment, and nothing left behind."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.background import Background
from support.engines import MakeEngine, Seen
from support.ioc import IOCFactory
from support.recording import eventually

from daqca import Engine
from daqca.errors import EngineClosedError
from daqca.events import Batch, Kind
from daqca.sim import SimIOC

PointAt = Callable[..., Any]


def waiting(engine: Engine) -> int:
    return sum(len(link.operations) for link in engine._links)


def open_files() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = os.readlink(entry)
        except OSError:
            continue
    return found


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


def use(engine: Engine, ioc: SimIOC) -> None:
    """Something of everything."""
    seen = Seen()
    names = [*ioc.names[:50], ioc.prefix + "wf:large"]
    assert engine.snapshot(names, timeout=20).missing == {}
    with engine.subscribe(names, seen), engine.subscribe(names[:5], lambda batch: None):
        seen.wait(lambda: len({event.slot for event in seen.events(Kind.UPDATE)}) == len(names), "first values")
    engine.put(ioc.prefix + "longout00001", 5)
    assert engine.get(ioc.prefix + "longout00001").value == 5


# --- nothing left ---------------------------------------------------------------------------


def test_engines_that_come_and_go_leave_nothing(ioc: SimIOC, make_engine: MakeEngine, request: Any):
    cycles = 50 if request.node.callspec.params["make_engine"] == 0 else 5
    with make_engine() as engine:
        use(engine, ioc)
    gc.collect()
    files, threads, memory = open_files(), threading.active_count(), resident_kb()
    for _ in range(cycles):
        with make_engine() as engine:
            use(engine, ioc)
        assert threading.active_count() <= threads
        assert len(open_files()) <= len(files)
    gc.collect()
    after = open_files()
    assert {after[fd] for fd in after.keys() - files.keys()} == set()
    assert resident_kb() - memory < 20_000


def test_an_engine_that_is_used_does_not_grow(engine: Engine, ioc: SimIOC):
    name, missing = ioc.names[60], "NO:SUCH:PV"

    def round_() -> None:
        for _ in range(300):
            engine.get(name, timeout=20)
        engine.put_many([name] * 50, [1.0] * 50, wait=True, timeout=20)
        for _ in range(20):
            engine.snapshot([name, missing], timeout=0.001)
        use(engine, ioc)

    for _ in range(3):
        round_()
    gc.collect()
    before = resident_kb()
    objects = len(gc.get_objects())
    for _ in range(12):
        round_()
    gc.collect()
    assert waiting(engine) == 0
    assert len(gc.get_objects()) - objects < 2000
    assert resident_kb() - before < 20_000


# --- closing --------------------------------------------------------------------------------


def test_a_closed_engine_says_so(make_engine: MakeEngine, ioc: SimIOC):
    engine = make_engine()
    names = ioc.names[:200]
    assert engine.snapshot(names, timeout=20).missing == {}
    subscription = engine.subscribe(names, Seen())
    engine.close()
    engine.close()
    calls: list[Callable[[], Any]] = [
        lambda: engine.get(names[0]),
        lambda: engine.get("NEW:NAME"),
        lambda: engine.put(names[0], 1),
        lambda: engine.put(names[0], 1, wait=False),
        lambda: engine.put_many(names, [1] * 200),
        lambda: engine.connect(names),
        lambda: engine.channels(names),
        lambda: engine.snapshot(names),
        lambda: engine.snapshot(names, fresh=False),
        lambda: engine.subscribe(names, Seen()),
    ]
    begin = time.monotonic()
    for call in calls:
        with pytest.raises(EngineClosedError, match="closed"):
            call()
    assert time.monotonic() - begin < 2
    subscription.close()


def test_closing_wakes_everyone_who_waits(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine):
    ioc = make_ioc(scalars=200, changing=0)
    point_at(ioc)
    engine = make_engine()
    name = ioc.prefix + "ao00001"
    assert engine.snapshot(ioc.names, timeout=20).missing == {}
    ioc.suspend()  # so that nothing is answered
    try:
        calls = [
            Background(engine.get, name, timeout=60),
            Background(engine.get, "NO:SUCH:PV", timeout=60),
            Background(engine.put, name, 1, timeout=60),
            Background(engine.put, "NO:SUCH:PV", 1, timeout=60),
            Background(engine.put_many, ioc.names, [1] * 200, wait=True, timeout=60),
            Background(engine.snapshot, ioc.names, timeout=60),
            Background(engine.snapshot, [*ioc.names, "NO:SUCH:PV"], timeout=60, form="ctrl", progress=print),
            Background(engine.connect, ["NO:SUCH:PV"], timeout=60),
        ]
        # The get, the put, and for each engine part the put of many and the snapshots.
        eventually(lambda: waiting(engine) >= 6 and len(engine._delivery._connecting) == 2, "all are under way")
        begin = time.monotonic()
        engine.close()
        for call in calls:
            call.join(10)
        assert time.monotonic() - begin < 10
        assert [type(call.error) for call in calls] == [EngineClosedError] * len(calls)
    finally:
        ioc.resume()


def test_an_engine_may_be_closed_from_a_callback(make_engine: MakeEngine, ioc: SimIOC):
    engine = make_engine()
    closed = threading.Event()

    def callback(batch: Batch) -> None:
        engine.close()
        closed.set()

    engine.subscribe([ioc.names[0]], callback)
    assert closed.wait(20)
    with pytest.raises(EngineClosedError):
        engine.get(ioc.names[0])


def everything(engine: Engine, ioc: SimIOC) -> list[Callable[[], Any]]:
    """Calls of each kind."""
    name = ioc.prefix + "longout00002"
    return [
        lambda: engine.get(name),
        lambda: engine.put(name, 3),
        lambda: engine.put(name, 3, wait=False),
        lambda: engine.snapshot(ioc.names, form="ctrl"),
        lambda: engine.put_many([name], [4], wait=True),
        lambda: engine.subscribe(ioc.names[:20], Seen()).close(),
    ]


def forever(call: Callable[[], Any], start: threading.Barrier) -> None:
    start.wait()
    while True:
        call()


def test_closing_while_everything_runs(make_engine: MakeEngine, ioc: SimIOC):
    """At a random moment of gets, puts, snapshots and subscriptions on six threads: each ends with one clear error."""
    for attempt in range(6):
        engine = make_engine()
        engine.connect(ioc.names, timeout=20)
        start = threading.Barrier(7)
        calls = [Background(forever, call, start) for call in everything(engine, ioc)]
        start.wait()
        deadline = time.monotonic() + 0.02 * attempt
        while time.monotonic() < deadline:
            engine.stats()
        engine.close()
        for call in calls:
            call.join(10)
        assert [type(call.error) for call in calls] == [EngineClosedError] * 6, [call.error for call in calls]


# --- many threads ---------------------------------------------------------------------------


def test_many_threads_share_an_engine(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine):
    """Each with PVs of its own, whose values nobody else can have; and all with one that all read."""
    threads, rounds = 8, 60
    text = "\n".join(
        f'record(ao, "T:{i}") {{ }} record(waveform, "T:w{i}") {{ field(FTVL, "LONG") field(NELM, "9") }}'
        for i in range(threads)
    )
    ioc = make_ioc(text + '\nrecord(stringout, "T:all") { field(VAL, "all") field(PINI, "YES") }')
    point_at(ioc)
    engine = make_engine()
    failures: list[str] = []
    watched = [Seen() for _ in range(threads)]

    def work(i: int) -> None:
        scalar, wave = f"T:{i}", f"T:w{i}"
        with engine.subscribe([scalar], watched[i]):
            for n in range(rounds):
                value = i * 1000 + n
                engine.put(scalar, value, timeout=20)
                engine.put(wave, [value, value + 1], wait=n % 2 == 0, timeout=20)
                if engine.get(scalar, timeout=20).value != value:
                    failures.append(f"{scalar} is not {value}")
                snap = engine.snapshot([wave, "T:all", scalar], timeout=20)
                if snap.missing or snap["T:all"].value != "all" or snap[scalar].value != value:
                    failures.append(f"snapshot {n} of thread {i}: {snap.to_dict()}")
                if snap[wave].value.tolist() != [value, value + 1]:
                    failures.append(f"{wave} is {snap[wave].value}")
                if not engine.put_many([scalar, wave], [value, [value]], wait=True, timeout=20).ok:
                    failures.append(f"put_many {n} of thread {i}")
            watched[i].wait(lambda: watched[i].values() and watched[i].values()[-1] == value, "the last value")

    calls = [Background(work, i) for i in range(threads)]
    for call in calls:
        call.join(50)
        assert call.error is None, call.error
    assert failures == []
    for i, seen in enumerate(watched):
        values = [int(value) for value in seen.values()]
        assert set(values) <= {0, *range(i * 1000, i * 1000 + rounds)}
        assert values == sorted(values)
    assert waiting(engine) == 0
    assert np.isfinite(engine.snapshot([f"T:{i}" for i in range(threads)]).number).all()
