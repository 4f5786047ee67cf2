"""PVs when things go wrong: Ctrl-C in the middle, clocks that step back, callbacks that are too slow, a closed engine.

Where two threads would have to meet, the test makes them.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.ca_records import Records
from support.recording import eventually

from daqca import Engine
from daqca.ca.dbr import Mask
from daqca.errors import WorkerError
from daqca.events import EVENT, Batch
from daqca.link import METADATA
from daqca.proxies import awaiting
from daqca.pv_proxy import PV

VALUE_AND_ALARM = int(Mask.VALUE | Mask.ALARM)


def connected(name: str, **options: Any) -> PV:
    """A PV that is connected and has its first value."""
    pv = PV(name, auto_monitor=True, **options)
    assert pv.wait_for_connection(20), name
    eventually(lambda: pv.engine.last(pv._slot) is not None, f"the first update of {name}")
    return pv


def users(engine: Engine, slot: int, mask: int = VALUE_AND_ALARM) -> int:
    """How many monitor a slot at the engine."""
    column = engine._monitors._users.get(mask)
    return 0 if column is None or slot >= len(column) else int(column[slot])


def wishes(engine: Engine, slot: int, mask: int) -> tuple[int, int]:
    """How many PVs want a slot monitored, in any case and if it is short."""
    counts = engine.watch.wishes.users.get(mask)
    return (0, 0) if counts is None else (counts.always.item(slot), counts.if_short.item(slot))


def once(function: Callable[..., Any], error: BaseException, first: bool = True) -> Callable[..., Any]:
    """The function, which raises at its first call, before or after what it does."""
    left = [error]

    def call(*args: Any, **kwargs: Any) -> Any:
        found = left.pop() if left else None
        if found is not None and first:
            raise found
        result = function(*args, **kwargs)
        if found is not None:
            raise found
        return result

    return call


def is_locked(lock: Any) -> bool:
    """Whether another thread would have to wait for a lock."""
    found: list[bool] = []

    def look() -> None:
        taken = lock.acquire(blocking=False)
        found.append(not taken)
        if taken:
            lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


# --- who wants what -----------------------------------------------------------------------------


def test_what_a_disconnected_pv_is_told_takes_nothing_from_others(engine: Engine, records: Records):
    one, other = connected(records("free")), connected(records("free"))
    one.disconnect()
    one.auto_monitor = False
    assert wishes(engine, other._slot, VALUE_AND_ALARM) == (1, 0)
    assert other.auto_monitor_mask == VALUE_AND_ALARM
    assert users(engine, other._slot) == 1
    one.auto_monitor = True
    assert one.reconnect()
    assert wishes(engine, other._slot, VALUE_AND_ALARM) == (2, 0)


def test_auto_monitor_may_be_assigned_while_a_pv_begins(
    engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch
):
    first = connected(records("free"))
    watch, inside, go = engine.watch, threading.Event(), threading.Event()
    join = watch._join

    def slow(slots: Any) -> None:
        inside.set()
        assert go.wait(20)
        join(slots)

    monkeypatch.setattr(watch, "_join", slow)
    pv = PV(records("free"), auto_monitor=True)
    assert inside.wait(20)
    thread = threading.Thread(target=setattr, args=(pv, "auto_monitor", False))
    thread.start()
    thread.join(0.05)
    go.set()
    thread.join()
    assert wishes(engine, first._slot, VALUE_AND_ALARM) == (1, 0)
    assert pv.auto_monitor is False
    assert pv.auto_monitor_mask is None


def test_metadata_are_wanted_once_by_a_pv_that_several_threads_ask(engine: Engine, records: Records):
    pv = connected(records("double"))
    start = threading.Barrier(4)
    found: list[Any] = []

    def ask() -> None:
        start.wait()
        found.append(pv.units)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["mm"] * 4
    assert wishes(engine, pv._slot, METADATA) == (1, 0)
    pv.disconnect()
    assert wishes(engine, 0, METADATA) == (0, 0)
    assert users(engine, 0, METADATA) == 0


def test_the_monitor_of_a_pv_that_nobody_has_ends(engine: Engine, records: Records):
    """With the next update of it, though no other PV is made."""
    pv = connected(records("count"))
    slot = pv._slot
    assert users(engine, slot) == 1
    del pv
    gc.collect()
    number = iter(range(1, 10_000))

    def ended() -> bool:
        engine.put(records("count"), next(number), wait=False)
        return users(engine, slot) == 0

    eventually(ended, "the monitor ends")


def test_a_subscription_that_two_threads_close_is_counted_once(engine: Engine, records: Records):
    name = records("free")
    subscription, other = engine.subscribe([name], lambda batch: None), engine.subscribe([name], lambda batch: None)
    slot, close = int(engine.slots([name])[0]), subscription._close
    assert close is not None
    subscription.close()
    close(subscription)  # what the second thread had found just before
    assert users(engine, slot) == 1
    other.close()
    assert users(engine, slot) == 0


# --- Ctrl-C -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["add", "monitor"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_ctrl_c_while_pvs_begin_loses_none_of_them(
    engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch, where: str, first: bool
):
    watch = connected(records("long"))._watch
    with watch.beginning:  # the thread that begins them in time waits
        pvs = [PV(records(name), auto_monitor=True) for name in ("free", "double")]
        monkeypatch.setattr(watch.feed, where, once(getattr(watch.feed, where), KeyboardInterrupt(), first))
        with pytest.raises(KeyboardInterrupt):
            watch.begin()
    for pv in pvs:
        eventually(lambda pv=pv: pv.connected and engine.last(pv._slot) is not None, f"{pv} begins")
        eventually(lambda pv=pv: wishes(engine, pv._slot, VALUE_AND_ALARM) == (1, 0), f"{pv} is counted once")
    pvs[0].put(17)
    eventually(lambda: pvs[0].value == 17, "its update")


@pytest.mark.parametrize("with_callback", [True, False], ids=["callback", "none"])
def test_ctrl_c_while_a_put_is_waited_for(
    engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch, with_callback: bool
):
    """Its callback is called all the same, once; without one nobody waits for the answer any more."""
    pv = connected(records("slow"))
    write, calls = engine.write, []

    def interrupted(slot: int, encoded: Any, operation: Any, timeout: float = 0.0) -> None:
        write(slot, encoded, operation, 0.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pv.put(1, wait=True, callback=(lambda **kw: calls.append(kw["pvname"])) if with_callback else None)
    monkeypatch.undo()
    if not with_callback:
        assert sum(len(link.operations) for link in engine._links) == 0
        return
    eventually(lambda: calls, "the callback")
    assert pv.put(0, wait=True) == 1
    assert calls == [pv.pvname]


# --- values -------------------------------------------------------------------------------------


def test_an_update_from_before_a_put_is_no_value_though_it_is_the_first(engine: Engine, records: Records):
    pv, old = connected(records("free")), np.zeros(1, EVENT)
    slots = np.array([pv._slot], np.uint32)
    for value in (1, 2):
        assert pv.put(value, wait=True) == 1
        assert pv.get() == value
        eventually(lambda value=value: engine.last(pv._slot)[6] == value, "its update")
        if value == 1:
            old[0] = engine.table.last[pv._slot]
    with engine.lock:  # as if its monitor had just begun
        engine.table.forget(slots)
        engine.table.doubts.forget(slots)
        engine.confirmed(pv._slot)
        engine.table.values(old, Batch(old))
    assert pv.get() == 2


def test_a_clock_that_steps_back_hides_no_value(engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch):
    pv = connected(records("free"))
    assert pv.put(1, wait=True) == 1
    assert pv.get() == 1  # asked for: what is older than this comes late
    table, back = engine.table, 3600 * 1_000_000_000
    values, refresh = table.values, table.refresh

    def late(found: Any, batch: Batch) -> None:
        found = found.copy()
        found["timestamp"] -= back
        values(found, batch)

    def late_row(row: Any, batch: Batch, serial: Any) -> None:
        refresh((*row[:5], row[5] - back, *row[6:]), batch, serial)

    monkeypatch.setattr(table, "values", late)
    monkeypatch.setattr(table, "refresh", late_row)
    pv.put(2)
    eventually(lambda: pv.get() == 2, "the value by a clock that was set back")


# --- callbacks ----------------------------------------------------------------------------------


def test_a_callback_that_removes_itself_raises_nothing(engine: Engine, records: Records):
    pv = connected(records("count"))
    values: list[int] = []

    def callback(value: Any = None, cb_info: Any = None, **kw: Any) -> None:
        values.append(value)
        pv.remove_callback(cb_info[0])

    pv.add_callback(callback)
    assert pv.put(41, wait=True) == 1
    eventually(lambda: values, "its call")
    assert pv.put(42, wait=True) == 1
    engine.dispatcher.call((done := threading.Event()).set)
    assert done.wait(20)
    assert engine.dispatcher.errors == 0
    assert values == [41]


def test_no_change_is_missed_while_a_callback_is_removed(
    engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch
):
    """A PV that listens to less from now on does not stop to listen meanwhile."""
    changes: list[bool] = []
    pv = connected(records("free"), connection_callback=lambda conn, **kw: changes.append(conn))
    index = pv.add_callback(lambda **kw: None)
    listen, held = pv._watch.listen, []

    def looked(pv: PV, greet: bool = False) -> None:
        held.append(is_locked(engine.lock))
        listen(pv, greet)

    monkeypatch.setattr(pv._watch, "listen", looked)
    pv.remove_callback(index)
    assert held == [True]


def test_who_was_too_slow_is_told_how_things_are_in_the_end(engine: Engine, records: Records):
    """The last value counts: a program may wait for it."""
    values: list[int] = []
    go = threading.Event()
    pv = connected(records("count"))
    pv.add_callback(lambda value, **kw: values.append(value))
    engine.dispatcher.limit = 5
    engine.dispatcher.call(lambda: go.wait(20))
    for number in range(100, 120):
        assert pv.put(number, wait=True) == 1
    eventually(lambda: engine.dispatcher.dropped > 0 and engine.last(pv._slot)[6] == 119, "updates are dropped")
    go.set()
    eventually(lambda: values and values[-1] == 119, "the last value is told")


def test_an_update_is_told_though_the_worker_does_not_tell_the_server(
    engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch
):
    pv = connected(records("count"))

    def hosts(slots: Any) -> list[str]:
        raise WorkerError("worker 0 does not tell the servers of its channels; is it overloaded?")

    monkeypatch.setattr(engine, "hosts", hosts)
    seen: list[Any] = []
    pv.add_callback(lambda value, host, **kw: seen.append((value, host)))
    value = pv.get() + 1
    assert pv.put(value, wait=True) == 1
    eventually(lambda: (value, None) in seen, "the callback")


def test_an_answer_that_comes_when_the_loop_is_closed_harms_nobody(engine: Engine):
    class Loop:
        """One that is closed just after it was looked at."""

        def is_closed(self) -> bool:
            return False

        def call_soon_threadsafe(self, function: Any) -> None:
            raise RuntimeError("Event loop is closed")

    async def tell() -> None:
        loop: Any = Loop()
        awaiting._tell(loop, asyncio.get_running_loop().create_future())

    asyncio.run(tell())


# --- the end ------------------------------------------------------------------------------------


def test_pvs_of_an_engine_that_was_closed_do_not_show_old_values_as_new(engine: Engine, records: Records):
    pv = connected(records("double"))
    engine.close()
    assert not pv.connected
    assert "not connected" in repr(pv)
