"""Monitoring through an engine: every update in order, in whichever sink, and callbacks that do what they like."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from support.engines import MakeEngine, Seen
from support.ioc import IOCFactory

from daqca import Engine
from daqca.ca.dbr import Mask
from daqca.errors import PVNotFoundError
from daqca.events import ALL_SLOTS, Batch, Kind, decode
from daqca.outcome import Outcome
from daqca.sim import SimIOC, SoftIOC

RECORDS = """
record(ao, "S:count") { field(VAL, "0") field(PINI, "YES") }
record(ao, "S:second") { field(VAL, "0") field(PINI, "YES") }
record(ao, "S:bands") { field(PINI, "YES") field(ADEL, "10") field(HIGH, "50") field(HSV, "MINOR") }
record(stringout, "S:string") { field(VAL, "first") field(PINI, "YES") }
record(waveform, "S:wave") { field(FTVL, "LONG") field(NELM, "100") }
record(waveform, "S:frame") { field(FTVL, "UCHAR") field(NELM, "1000000") }
record(mbbo, "S:enum") { field(ZRST, "Idle") field(ONST, "Run") field(PINI, "YES") }
"""


@pytest.fixture(scope="module")
def target(servers: Any, repeater: Any) -> Any:
    """An IOC with these records, for this module."""
    factory = IOCFactory(servers)
    yield factory(RECORDS)
    factory.stop()


@pytest.fixture
def watcher(target: SoftIOC, point_at: Any, make_engine: MakeEngine) -> Engine:
    """An engine that reaches these records."""
    point_at(target)
    return make_engine()


def first_values(seen: Seen, count: int) -> None:
    seen.wait(lambda: len({event.slot for event in seen.events(Kind.UPDATE)}) == count, "all first values")


# --- what a sink is told --------------------------------------------------------------------


def test_initial_values_of_every_type(engine: Engine, ioc: SimIOC):
    names = [name for name in ioc.names if not ioc.database.by_name[name].changing]
    names += list(ioc.database.special_values)
    expected = engine.snapshot(names, timeout=20)
    seen = Seen()
    with engine.subscribe([*names, names[0], *names[:5]], seen) as subscription:
        assert subscription.names == names  # each once
        first_values(seen, len(names))
    assert [event.slot for event in seen.events(Kind.CONNECTED)] == list(range(len(names)))
    for event, data in seen.rows:
        if event.kind == Kind.CONNECTED:
            assert event.dbr_type == expected.native_type[event.slot]
            assert event.count == expected.native_count[event.slot]
            assert event.status == 3
            continue
        assert event.kind == Kind.UPDATE
        reading = expected.reading(event.slot)
        assert (event.status, event.severity, event.timestamp) == (reading.status, reading.severity, reading.timestamp)
        if isinstance(reading.value, np.ndarray) and event.dbr_type:
            assert decode(data, event.dbr_type, event.count).tolist() == reading.value.tolist()
        elif isinstance(reading.value, str):
            assert data.rstrip(b"\0").decode() == reading.value
        elif not isinstance(reading.value, np.ndarray):
            assert event.value == reading.value
    assert sum(event.kind == Kind.UPDATE for event, _ in seen.rows) == len(names)


def test_every_update_comes_in_order(engine: Engine, ioc: SimIOC):
    """Counters go up by one with each update: what is missing or turned round shows."""
    names = ioc.database.changing_names
    seen = Seen()
    with engine.subscribe(names, seen):
        seen.wait(lambda: len(seen.rows) > 40 * len(names), "40 updates of each", timeout=40)
    for slot, name in enumerate(names):
        values = seen.values(slot)
        assert len(values) > 30, name
        assert values == list(range(int(values[0]), int(values[0]) + len(values))), name
    assert not seen.events(Kind.LOST, Kind.DISCONNECTED, Kind.REFUSED)


def test_none_is_lost_of_a_flood(watcher: Engine):
    """The IOC itself drops updates of a client that lags by more than some hundred; within that none may miss."""
    seen, other = Seen(), Seen()
    watcher.put("S:count", -1, timeout=20)
    with watcher.subscribe(["S:count", "S:wave"], seen), watcher.subscribe(["S:wave", "S:count"], other):
        first_values(seen, 2)
        first_values(other, 2)
        start_at = len(seen.values(0))
        for start in range(0, 3000, 50):
            for value in range(start, start + 50):
                watcher.put("S:count", value, wait=False)
            watcher.put("S:wave", [start, start + 1], wait=False)
            last = start + 49
            seen.wait(lambda last=last: seen.values(0)[-1] == last, f"the value {last}")
        assert seen.values(0)[start_at:] == list(range(3000))
        other.wait(lambda: len(other.values(0)) > 3000 // 50, "all arrays")
        other.wait(lambda: other.values(1)[-1] == 2999, "the last value")
        assert other.values(1)[-3000:] == list(range(3000))
        arrays = [decode(data, 5, 2).tolist() for event, data in other.rows if event.slot == 0 and data][-60:]
        assert arrays == [[start, start + 1] for start in range(0, 3000, 50)]


def test_the_last_value_of_strings_and_arrays_in_the_table_is_the_last(watcher: Engine):
    names = ["S:string", "S:wave", "S:count", "S:frame", "S:enum"]
    seen = Seen()
    with watcher.subscribe(names, seen):
        first_values(seen, len(names))
        watcher.put("S:enum", 1)
        seen.wait(lambda: seen.values(4)[-1] == 1, "the enum")
        already = {slot: len(seen.events(Kind.UPDATE, slot=slot)) for slot in range(5)}
        for i in range(30):
            frame = np.full(1_000_000 if i % 2 else 7, i, np.uint8)
            values = [f"text {i}", list(range(i + 1)), i + 0.5, frame, i % 2]
            assert watcher.put_many(names, values, wait=True, timeout=20).ok
            # An IOC may send its updates behind the confirmation of the put that made them.
            seen.wait(lambda i=i: all(len(seen.events(Kind.UPDATE, slot=n)) > i + already[n] for n in already), "it")
            snap = watcher.snapshot(names, fresh=False)
            assert snap.missing == {}
            assert snap["S:string"].value == f"text {i}"
            assert snap["S:wave"].value.tolist() == list(range(i + 1))
            assert snap["S:count"].value == i + 0.5
            assert np.array_equal(snap["S:frame"].value, frame)
            assert snap["S:enum"].value == i % 2


def test_masks_choose_what_is_told(watcher: Engine):
    by_value, by_log, by_alarm, again = Seen(), Seen(), Seen(), Seen()
    watcher.put("S:bands", 0.0, timeout=20)
    with (
        watcher.subscribe(["S:bands"], by_value, Mask.VALUE),
        watcher.subscribe(["S:bands"], by_log, Mask.LOG),
        watcher.subscribe(["S:bands"], by_alarm, Mask.ALARM),
    ):
        for seen in (by_value, by_log, by_alarm):
            first_values(seen, 1)
        two = watcher.subscribe(["S:bands"], again, Mask.LOG)
        for value in (5.0, 12.0, 13.0, 60.0, 61.0, 20.0):
            watcher.put("S:bands", value)
        by_value.wait(lambda: by_value.values()[-1] == 20, "the last value")
        by_log.wait(lambda: by_log.values()[-1] == 20, "the last value")
        again.wait(lambda: again.values()[-1] == 20, "the last value")
        by_alarm.wait(lambda: by_alarm.values()[-1] == 20, "the last value")
        two.close()
    assert by_value.values() == [0, 5, 12, 13, 60, 61, 20]
    assert by_log.values() == again.values() == [0, 12, 60, 20]
    assert by_alarm.values() == [0, 60, 20]
    assert [event.severity for event in by_alarm.events(Kind.UPDATE)] == [0, 1, 0]


def test_a_second_sink_is_told_the_present_at_once(watcher: Engine):
    names = ["S:count", "S:string", "S:wave", "NO:SUCH:PV"]
    watcher.put_many(names[:3], [17, "present", [1, 2, 3]], wait=True, timeout=1)
    first, second = Seen(), Seen()
    with watcher.subscribe(names, first):
        first_values(first, 3)
        with watcher.subscribe(list(reversed(names)), second):
            # No server is asked for it: it is there when subscribe returns.
            assert [(event.kind, event.slot) for event, _ in second.rows] == [
                *((Kind.CONNECTED, 1), (Kind.CONNECTED, 2), (Kind.CONNECTED, 3)),
                *((Kind.UPDATE, 1), (Kind.UPDATE, 2), (Kind.UPDATE, 3)),
            ]
            assert second.values(3) == [17]
            texts = [data.rstrip(b"\0") for event, data in second.rows if event.slot == 2 and data]
            assert texts == [b"present"]
            assert [decode(data, 5, 3).tolist() for event, data in second.rows if event.slot == 1 and data] == [
                [1, 2, 3]
            ]
            watcher.put("S:count", 18)
            second.wait(lambda: second.values(3) == [17, 18], "the update")
        watcher.put("S:count", 19)
        first.wait(lambda: first.values(0)[-1] == 19, "the update")
        assert second.values(3) == [17, 18]


def test_closing_a_subscription_stops_the_server(engine: Engine, ioc: SimIOC):
    """After it nothing but the answers to gets comes on the circuits, while the record changes on."""
    name = ioc.prefix + "calc00001"
    first, second = Seen(), Seen()
    one, two = engine.subscribe([name], first), engine.subscribe([name], second)
    first.wait(lambda: len(first.values()) > 3, "updates")
    one.close()
    one.close()
    told = len(first.rows)
    second.wait(lambda: len(second.values()) > 6, "updates")
    assert len(first.rows) == told
    two.close()
    assert sum(shard["subscriptions"] for shard in engine.stats()["shards"]) == 0

    def received() -> int:
        return sum(shard["bytes_received"] for shard in engine.stats()["shards"])

    begin = engine.get(name).value
    before, told, gets = received(), len(second.rows), 0
    while engine.get(name).value < begin + 5:
        gets += 1
    # The server confirms the end of the subscription (16 bytes) when it gets to it; an update would be longer.
    assert received() - before - 40 * (gets + 1) in (0, 16)
    assert len(second.rows) == told


def test_subscriptions_of_absent_pvs_wait(engine: Engine, ioc: SimIOC):
    seen = Seen()
    with engine.subscribe(["NO:SUCH:PV", ioc.prefix + "calc00001"], seen):
        seen.wait(lambda: len(seen.values(1)) > 2, "updates of the other")
        assert not seen.events(*Kind, slot=0)
    empty = Seen()
    engine.subscribe([], empty).close()
    assert empty.rows == []


def test_many_subscriptions_come_and_go(engine: Engine, ioc: SimIOC):
    names = ioc.names[:100]
    engine.connect(names, timeout=20)
    for round_ in range(30):
        seen = Seen()
        part = names[round_ : round_ + 60]
        with engine.subscribe(part, seen):
            first_values(seen, len(part))
    assert sum(shard["subscriptions"] for shard in engine.stats()["shards"]) == 0
    assert engine.stats()["events_lost"] == 0


# --- callbacks ------------------------------------------------------------------------------


def test_a_callback_may_get_put_and_subscribe(watcher: Engine):
    """On the dispatcher thread, what libca forbids is allowed."""
    done = threading.Event()
    results: dict[str, Any] = {}
    inner = Seen()

    def callback(batch: Batch) -> None:
        if done.is_set() or not any(event.kind == Kind.UPDATE for event in batch):
            return
        results["thread"] = threading.current_thread().name
        watcher.put("S:second", 42.0)
        results["get"] = watcher.get("S:second").value
        results["snapshot"] = watcher.snapshot(["S:second", "S:string"]).outcome.tolist()
        results["subscription"] = watcher.subscribe(["S:second"], inner)
        with pytest.raises(PVNotFoundError):
            watcher.get("NO:SUCH:PV", timeout=0.05)
        done.set()

    with watcher.subscribe(["S:count"], callback):
        assert done.wait(20)
    assert results["thread"] == "daqca-dispatcher"
    assert results["get"] == 42.0
    assert results["snapshot"] == [Outcome.OK, Outcome.OK]
    first_values(inner, 1)
    assert inner.values() == [42.0]
    results["subscription"].close()
    assert watcher.stats()["callback_errors"] == 0


def test_a_callback_that_raises_stays_installed(watcher: Engine, caplog: pytest.LogCaptureFixture):
    values: list[float] = []
    changed = threading.Condition()

    def callback(batch: Batch) -> None:
        with changed:
            values.extend(event.value for event in batch if event.kind == Kind.UPDATE)
            changed.notify_all()
        raise RuntimeError("of the user")

    watcher.put("S:count", 0, timeout=20)
    with watcher.subscribe(["S:count"], callback), changed:
        for value in range(1, 4):
            watcher.put("S:count", value)
            assert changed.wait_for(lambda value=value: values and values[-1] == value, 20)
    assert values == [0, 1, 2, 3]
    assert watcher.stats()["callback_errors"] >= 4
    assert "of the user" in caplog.text


def test_a_callback_that_blocks_delays_no_table_and_no_sink(watcher: Engine):
    gate, entered = threading.Event(), threading.Event()

    def callback(batch: Batch) -> None:
        entered.set()
        assert gate.wait(30)

    direct = Seen()
    try:
        with watcher.subscribe(["S:count"], callback), watcher.subscribe(["S:count"], direct):
            assert entered.wait(20)
            for value in range(1000, 1100):
                watcher.put("S:count", value, timeout=20)
                direct.wait(lambda value=value: direct.values()[-1] == value, "the update")
                assert watcher.snapshot(["S:count"], fresh=False)["S:count"].value == value
            assert direct.values()[-100:] == list(range(1000, 1100))
            assert watcher.stats()["callback_events_waiting"] >= 100
            gate.set()
    finally:
        gate.set()


def test_what_a_slow_callback_misses_is_bounded_and_counted(watcher: Engine):
    watcher.dispatcher.limit = 50
    gate, entered = threading.Event(), threading.Event()
    slow, direct = Seen(), Seen()

    def callback(batch: Batch) -> None:
        entered.set()
        assert gate.wait(30)
        slow.deliver(batch)

    try:
        with watcher.subscribe(["S:count"], callback), watcher.subscribe(["S:count"], direct):
            assert entered.wait(20)
            for value in range(500):
                watcher.put("S:count", value, timeout=20)
            direct.wait(lambda: direct.values()[-1] == 499, "the last value")
            stats = watcher.stats()
            assert 0 < stats["callback_events_waiting"] <= 50
            assert stats["callback_events_dropped"] >= 440
            gate.set()
            # Told although nothing comes after what was dropped.
            slow.wait(lambda: slow.lost() == stats["callback_events_dropped"], "the count of the lost")
            assert len(slow.events(Kind.UPDATE, Kind.CONNECTED)) + slow.lost() == len(direct.rows)
            watcher.put("S:count", -1)
            slow.wait(lambda: slow.values()[-1] == -1, "the next value")
            kinds = [event.kind for event, _ in slow.rows]
            assert kinds[-2:] == [Kind.LOST, Kind.UPDATE]
            assert [event.slot for event in slow.events(Kind.LOST)] == [ALL_SLOTS]
            assert watcher.stats()["callback_events_waiting"] == 0
    finally:
        gate.set()


def test_large_arrays_for_a_slow_callback_are_bounded_by_their_bytes(watcher: Engine):
    watcher.dispatcher.limit_bytes = 5_000_000
    gate, entered = threading.Event(), threading.Event()
    slow, direct = Seen(), Seen()

    def callback(batch: Batch) -> None:
        entered.set()
        assert gate.wait(30)
        slow.deliver(batch)

    try:
        with watcher.subscribe(["S:frame"], callback), watcher.subscribe(["S:frame"], direct):
            assert entered.wait(20)
            for value in range(20):
                watcher.put("S:frame", np.full(1_000_000, value, np.uint8), timeout=20)
                direct.wait(lambda value=value: direct.rows[-1][1] == bytes([value]) * 1_000_000, "the frame")
            gate.set()
            slow.wait(lambda: slow.lost() > 0, "the count of the lost")
            frames = [data[0] for event, data in slow.rows if len(data) == 1_000_000]
            assert len(frames) <= 6
            assert len(slow.events(Kind.UPDATE, Kind.CONNECTED)) + slow.lost() == len(direct.rows)
    finally:
        gate.set()
