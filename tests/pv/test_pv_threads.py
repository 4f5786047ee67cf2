"""PVs used from many threads, and in the child of a fork. Manual, chapter 10.4."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import ca_records
from support.background import Background
from support.ca_records import Records
from support.ca_scripts import FORKED
from support.calls import Calls
from support.engines import MODES
from support.recording import eventually

from daqca import Engine
from daqca.link import METADATA
from daqca.pv_proxy import PV

ca = ca_records.ca

# A warning of os.fork beside threads, since Python 3.12.
FLAGS = ("-W", "error", "-W", "ignore::DeprecationWarning")


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Call all at the same time, each on a thread; returns what they returned."""
    gate = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        gate.wait(20)
        return call()

    threads = [Background(begin, call) for call in calls]
    for thread in threads:
        thread.join()
        if thread.error is not None:
            raise thread.error
    return [thread.result for thread in threads]


def test_one_pv_in_many_threads(engine: Engine, records: Records):
    """Eight threads read and write one PV, and each sees what it has written or newer."""
    engine.put(records("free"), 0, timeout=20)
    calls = Calls()
    pv = PV(records("free"), callback=calls)
    calls.wait_last(0)
    numbers = iter(range(1, 10_000))
    lock = threading.Lock()

    def use() -> int:
        for _ in range(40):
            with lock:  # in order
                number = next(numbers)
                assert pv.put(number, wait=True) == 1
                assert pv.get() == number
            assert pv.get(use_monitor=False, timeout=20) >= number
            assert pv.value >= number
            assert pv.char_value
            assert pv.units is not None
        return number

    last = max(together(*[use] * 8))
    assert last == 320
    calls.wait_last(320)
    assert calls.all() == list(range(321))
    assert engine.stats()["callback_errors"] == 0


def test_pvs_made_in_many_threads(engine: Engine, records: Records):
    """Of the same names, at once, with and without callbacks."""
    names = [records(name) for name in ("double", "long", "enum", "string", "doubles", "free", "count")]

    def make() -> list[Any]:
        calls = [Calls() for _ in names]
        pvs = [PV(name, callback=one) for name, one in zip(names, calls, strict=True)]
        silent = [PV(name) for name in names]
        assert all(pv.wait_for_connection(20) for pv in pvs + silent)
        for pv in pvs + silent:
            assert pv.get(timeout=20) is not None
        for one in calls:
            one.wait()
        firsts = [str(one.calls[0]["value"]) for one in calls]
        units = [one.calls[0]["units"] for one in calls]
        for pv in pvs:
            pv.disconnect()
        return [firsts, units, [str(pv.get(timeout=20)) for pv in silent]]

    results = together(*[make] * 8)
    assert all(result == results[0] for result in results)
    assert results[0][0] == results[0][2]
    assert results[0][1][:2] == ["mm", "µs"]
    assert engine.stats()["callback_errors"] == 0


def test_monitors_that_are_changed_in_many_threads(engine: Engine, records: Records):
    """In the end exactly what is wanted is monitored."""
    pvs = [PV(records("free")) for _ in range(4)]

    def change(pv: PV) -> None:
        for i in range(30):
            pv.auto_monitor = (True, False, 1, 5, None)[i % 5]
            pv.get(timeout=20)
            if i % 7 == 0:
                index = pv.add_callback(lambda **kw: None)
                pv.remove_callback(index)
        pv.auto_monitor = False

    together(*[lambda pv=pv: change(pv) for pv in pvs])  # type: ignore[misc]
    watch = pvs[0]._watch
    slot = pvs[0]._slot
    for mask, users in watch.wishes.users.items():
        if mask != METADATA:  # add_callback has asked for those
            assert (int(users.always[slot]), int(users.if_short[slot]), bool(users.is_on[slot])) == (0, 0, False)
    calls = Calls()
    pvs[0].auto_monitor = True
    pvs[0].add_callback(calls)
    pvs[0].put(((pvs[0].get() or 0) + 1) % 50)
    calls.wait_last(pvs[0].get(use_monitor=False, timeout=20))


def test_a_pv_made_in_one_thread_and_used_in_others(engine: Engine, records: Records):
    engine.put(records("free"), 4, timeout=20)
    pv = Background(PV, records("free")).join().result
    assert Background(pv.get, timeout=20).join().result == 4
    calls = Calls()
    assert Background(pv.add_callback, calls).join().result == 1
    assert Background(pv.put, 5, wait=True).join().result == 1
    calls.wait_last(5)
    assert pv.get() == 5
    assert Background(pv.disconnect).join().error is None
    assert pv.get() is None


def test_ca_threads(engine: Engine, records: Records, ca: Any):
    """The example of chapter 10.4.3: two threads with overlapping lists of PVs, whose callbacks are cleared."""
    names = [records(name) for name in ("free", "count", "long")]
    first = PV(names[0])
    told: list[tuple[str, str]] = []
    watched = {"A": threading.Event(), "B": threading.Event()}
    end = {"A": threading.Event(), "B": threading.Event()}

    def run_test(pvnames: list[str], run_name: str) -> None:
        pvs = [PV(name, callback=lambda pvname, **kw: told.append((run_name, pvname))) for name in pvnames]
        assert all(pv.get(timeout=20) is not None for pv in pvs)
        eventually(lambda: {(run_name, name) for name in pvnames} <= set(told), "the first values")
        watched[run_name].set()
        assert end[run_name].wait(20)
        for pv in pvs:
            pv.clear_callbacks()

    threads = [
        ca.CAThread(target=run_test, args=(names[:-1], "A")),
        ca.CAThread(target=run_test, args=(names[1:], "B")),
    ]
    for thread in threads:
        thread.start()
    assert all(event.wait(20) for event in watched.values())
    told.clear()
    first.put(((first.get() or 0) + 1) % 50, wait=True)
    PV(names[1]).put(((PV(names[1]).get() or 0) + 1) % 50, wait=True)
    eventually(lambda: sorted(told) == sorted([("A", names[0]), ("A", names[1]), ("B", names[1])]), "both are told")
    end["A"].set()
    threads[0].join(20)
    told.clear()
    PV(names[1]).put(((PV(names[1]).get() or 0) + 1) % 50, wait=True)
    eventually(lambda: told == [("B", names[1])], "only B is told")
    end["B"].set()
    threads[1].join(20)
    assert not any(thread.is_alive() for thread in threads)


CHILD = (
    """
    import os, signal, sys, threading, time, traceback
    from daqca import Engine, use_engine
    from daqca.errors import EngineClosedError
    from daqca.pv_proxy import PV
    import asyncio
    prefix, workers = sys.argv[1], int(sys.argv[2])
    if workers:
        use_engine(Engine(workers=workers))
"""
    + FORKED
    + """
    def until(condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)

    told = []
    parents = [
        PV(prefix + "double"),
        PV(prefix + "long", auto_monitor=False),
        PV(prefix + "free", callback=lambda value, **kw: told.append(value)),
        PV(prefix + "doubles"),
    ]
    assert all(pv.get(timeout=20) is not None for pv in parents)
    never = PV(prefix + "never")

    def refused():
        for pv in [*parents, never]:
            assert not pv.connected
            assert "not connected" in repr(pv)
            for number, call in enumerate((
                pv.get, lambda: pv.put(1), lambda: pv.put(1, wait=True), lambda: pv.get(use_monitor=False),
                pv.get_ctrlvars, pv.wait_for_connection, lambda: pv.read(1), lambda: pv.value, pv.get_with_metadata,
                lambda: asyncio.run(pv.aget(1)), lambda: asyncio.run(pv.aput(1)),
                lambda: pv.engine.pv(prefix + "count"), lambda: pv.engine.wait_for(lambda: pv.get(), 1),
            )):
                try:
                    call()
                except EngineClosedError as error:
                    assert "belongs to the process that made it" in str(error), error
                else:
                    raise AssertionError(f"{pv.pvname} of the parent works in the child: call {number}")
            pv.disconnect()

    def works():
        seen = []
        pv = PV(prefix + "count", callback=lambda value, **kw: seen.append(value))
        number = os.getpid()
        assert pv.put(number, wait=True) == 1
        assert pv.get() == number
        until(lambda: seen and seen[-1] == number)
        assert PV(prefix + "double").units == "mm"
        assert pv.engine is not parents[0].engine
        pv.engine.close()

    def both():
        refused()
        works()
"""
)


def run(body: str, *args: str) -> str:
    script = textwrap.dedent(CHILD) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, *FLAGS, "-c", script, *args], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", MODES)
def test_a_child_has_its_own_pvs(records: Records, workers: int):
    """Those of the parent say clearly that they are not the child's, and the parent goes on."""
    body = """
    for round_ in range(3):
        assert forked(refused) == 0
        assert forked(both) == 0
        assert parents[0].connected
        assert parents[2].put(round_ + 1, wait=True) == 1
        until(lambda: told[-1] == round_ + 1)
    print("well")
    """
    assert run(body, records(""), str(workers)) == "well\n"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", MODES)
def test_a_fork_in_the_middle_of_everything(records: Records, workers: int):
    """While other threads of the parent make, read and write PVs, with whatever locks they hold."""
    body = """
    def forever(call):
        while True:
            call()
    for call in (
        lambda: parents[0].get(),
        lambda: parents[1].get(),
        lambda: parents[2].put(1, wait=True),
        lambda: PV(prefix + "string").get(timeout=20),
        lambda: PV(prefix + "enum", callback=print and (lambda **kw: None)).disconnect(),
    ):
        threading.Thread(target=forever, args=(call,), daemon=True).start()
    for round_ in range(8):
        assert forked(both) == 0
    print("well", flush=True)
    os._exit(0)
    """
    assert run(body, records(""), str(workers)) == "well\n"


def test_everything_at_once_leaves_nothing(engine: Engine, records: Records):
    """PVs that come, change and go in several threads: in the end exactly what is wanted is monitored."""
    names = [records(name) for name in ("double", "long", "enum", "string", "doubles", "free", "count")]
    masks = (None, True, False, 1, 5, 7)

    def ignore(**kw: Any) -> None:
        pass

    def use(seed: int) -> None:
        choose = random.Random(seed)
        pvs: list[PV] = []
        changes: tuple[Callable[[PV], Any], ...] = (
            lambda pv: setattr(pv, "auto_monitor", choose.choice(masks)),
            lambda pv: pv.add_callback(ignore),
            lambda pv: pv.connection_callbacks.append(ignore),
            lambda pv: pv.clear_callbacks(),
            lambda pv: pv.disconnect(),
            lambda pv: pv.reconnect(),
            lambda pv: pv.units,
            lambda pv: pv.get(timeout=20),
        )
        for _ in range(300):
            if not pvs or choose.random() < 0.3:
                callback = choose.choice((None, ignore))
                pvs.append(engine.pv(choose.choice(names), auto_monitor=choose.choice(masks), callback=callback))
            choose.choice(changes)(choose.choice(pvs))
            if len(pvs) > 20:
                pvs.pop(0).disconnect()
        for pv in pvs[::2]:
            pv.disconnect()
        for pv in pvs:
            pv.clear_callbacks(with_connect_callback=True)

    together(*[lambda seed=seed: use(seed) for seed in range(4)])  # type: ignore[misc]
    watch = engine.watch

    def nothing() -> bool:
        gc.collect()
        watch.begin()
        return not watch._listeners and not any(int(shard["subscriptions"]) for shard in engine.stats()["shards"])

    eventually(nothing, "nothing is monitored, and nobody is told")
    for users in watch.wishes.users.values():
        assert not (users.always.any())
        assert not (users.if_short.any())
        assert not (users.is_on.any())
    assert engine.stats()["callback_errors"] == 0
