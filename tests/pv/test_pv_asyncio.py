"""PVs in asyncio: reading, writing and updates, and what ends them."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.access import AccessIOC
from support.ca_records import Records
from support.engines import MakeEngine
from support.ioc import IOCFactory, random_prefix
from support.recording import eventually

from daqca import Engine
from daqca.errors import (
    AccessRightsError,
    ConversionError,
    EngineClosedError,
    PVDisconnectedError,
    PVNotFoundError,
    PVTimeoutError,
)
from daqca.outcome import Outcome
from daqca.pv_proxy import PV

PointAt = Callable[..., Any]


async def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.005)


def under_way(engine: Engine) -> int:
    return sum(len(link.operations) for link in engine._links)


# --- reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auto_monitor", [None, False])
def test_aget(engine: Engine, records: Records, auto_monitor: bool | None):
    engine.put(records("double"), 1.5, timeout=20)

    async def main() -> None:
        pv = engine.pv(records("double"), auto_monitor=auto_monitor)
        for fresh in (False, True):
            reading = await pv.aget(20, fresh=fresh)
            assert (reading.value, reading.outcome, reading.why) == (1.5, Outcome.OK, "")
            assert (reading.units, reading.precision, reading.name) == ("mm", 3, records("double"))
        array = await engine.pv(records("doubles"), auto_monitor=auto_monitor).aget(20)
        assert array.value.tolist() == [1.5, -2.5, 1e300]  # type: ignore[union-attr]

    asyncio.run(main())
    assert under_way(engine) == 0


def test_aget_of_what_is_not_there(engine: Engine, records: Records):
    async def main() -> None:
        begin = time.monotonic()
        reading = await engine.pv(records("missing")).aget(0.1)
        assert time.monotonic() - begin < 10
        assert (reading.outcome, reading.value) == (Outcome.NEVER_FOUND, None)

    asyncio.run(main())


def test_aget_lets_others_run_and_times_out(own_engine: Engine, own_records: Records):
    async def main() -> None:
        pv = own_engine.pv(own_records("double"), auto_monitor=False)
        assert (await pv.aget(20)).ok
        own_records.ioc.suspend()
        try:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.01)
                    ticks += 1

            task = asyncio.create_task(tick())
            reading = await pv.aget(0.3)
            assert (reading.outcome, reading.value) == (Outcome.TIMEOUT, None)
            assert ticks >= 3
            task.cancel()
            assert under_way(own_engine) == 0
        finally:
            own_records.ioc.resume()
        own_records.ioc.kill()
        await until(lambda: not pv.connected, "it is lost")
        reading = await pv.aget(0.05)
        assert (reading.outcome, reading.value) == (Outcome.STALE, 1.5)

    asyncio.run(main())


def test_aget_that_is_cancelled(own_engine: Engine, own_records: Records):
    async def main() -> None:
        pv = own_engine.pv(own_records("double"), auto_monitor=False)
        missing = own_engine.pv(own_records("missing"))
        assert (await pv.aget(20)).ok
        own_records.ioc.suspend()
        try:
            asking, connecting = asyncio.create_task(pv.aget(20)), asyncio.create_task(missing.aget(20))
            await until(lambda: under_way(own_engine) == 1 and len(own_engine._delivery._connecting) == 1, "both wait")
            for task in (asking, connecting):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert under_way(own_engine) == 0
            assert not own_engine._delivery._connecting
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pv.aget(20), 0.05)
            assert under_way(own_engine) == 0
        finally:
            own_records.ioc.resume()
        assert (await pv.aget(20)).value == 1.5

    asyncio.run(main())


def test_many_agets_at_once(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine):
    prefix = random_prefix()
    ioc = make_ioc(
        "\n".join(f'record(longout, "{prefix}{i}") {{ field(PINI, YES) field(VAL, {i}) }}' for i in range(1000))
    )
    point_at(ioc)
    engine = make_engine()

    async def main() -> None:
        pvs = engine.pvs([f"{prefix}{i}" for i in range(1000)], auto_monitor=False)
        for fresh in (False, True):
            readings = await asyncio.gather(*(pv.aget(20, fresh=fresh) for pv in pvs))
            assert [reading.value for reading in readings] == list(range(1000))
            assert all(reading.ok for reading in readings)
        await asyncio.gather(*(pv.aput(i + 1, timeout=20) for i, pv in enumerate(pvs)))
        readings = await asyncio.gather(*(pv.aget(20) for pv in pvs))
        assert [reading.value for reading in readings] == list(range(1, 1001))

    asyncio.run(main())
    assert under_way(engine) == 0


def test_event_loops_one_after_the_other(engine: Engine, records: Records):
    pv = engine.pv(records("free"))

    async def main(value: int) -> list[Any]:
        await pv.aput(value, timeout=20)
        updates = pv.updates()
        first = await anext(updates)
        await pv.aput(value + 1)
        second = await anext(updates)
        await updates.aclose()
        return [(await pv.aget()).value, first.value, second.value]

    for value in (10, 20, 30):
        assert asyncio.run(main(value)) == [value + 1, value, value + 1]
    assert pv.callbacks == {}
    assert pv.connection_callbacks == []


# --- writing ------------------------------------------------------------------------------------------


def test_aput(engine: Engine, records: Records):
    async def main() -> None:
        free, enum, text = (engine.pv(records(name)) for name in ("free", "enum", "string"))
        for value in range(50):
            await free.aput(value, timeout=20)
            assert (await free.aget()).value == value
        await enum.aput("Run", timeout=20)
        assert enum.get() == 1
        await text.aput("other", timeout=20)
        assert text.get() == "other"
        await text.aput("a string")
        await free.aput(99, wait=False)
        await until(lambda: free.get() == 99, "the value")

    asyncio.run(main())
    assert under_way(engine) == 0


def test_aput_errors(engine: Engine, records: Records):
    async def main() -> None:
        with pytest.raises(PVNotFoundError, match="cannot write"):
            await engine.pv(records("missing")).aput(1, timeout=0.1)
        free = engine.pv(records("free"))
        with pytest.raises(ConversionError):
            await free.aput("no number", timeout=20)
        with pytest.raises(ConversionError):
            await engine.pv(records("enum")).aput("no such state", timeout=20)
        slow = engine.pv(records("slow"))
        await slow.aput(0, timeout=20)
        begin = time.monotonic()
        with pytest.raises(PVTimeoutError, match="did not confirm it in time"):
            await slow.aput(1, timeout=0.1)
        assert time.monotonic() - begin < 10
        await until(lambda: slow.get(use_monitor=False) == 0, "the record has ended")
        await slow.aput(1, timeout=20)
        assert slow.get(use_monitor=False) == 0
        free.disconnect()
        with pytest.raises(PVDisconnectedError, match="reconnect"):
            await free.aput(1, timeout=5)

    asyncio.run(main())
    assert under_way(engine) == 0


def test_aput_without_access(access_ioc: AccessIOC, point_at: PointAt, make_engine: MakeEngine):
    point_at(access_ioc)
    engine = make_engine()

    async def main() -> None:
        for wait in (True, False):
            with pytest.raises(AccessRightsError):
                await engine.pv(access_ioc.name("nowrite")).aput(1, wait=wait, timeout=20)

    asyncio.run(main())


def test_aput_to_a_server_that_dies(own_engine: Engine, own_records: Records):
    async def main() -> None:
        slow, free = own_engine.pv(own_records("slow")), own_engine.pv(own_records("free"))
        await free.aput(1, timeout=20)
        await slow.aput(0, timeout=20)
        task = asyncio.create_task(slow.aput(1, timeout=20))
        await until(lambda: slow.get() == 1, "the record is busy")
        own_records.ioc.kill()
        with pytest.raises(PVDisconnectedError, match="whether the value was written is not known"):
            await task
        with pytest.raises(PVDisconnectedError):
            await free.aput(2, timeout=0.1)

    asyncio.run(main())
    assert under_way(own_engine) == 0


# --- updates ------------------------------------------------------------------------------------------


def counter(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, rate: int = 200) -> PV:
    prefix = random_prefix()
    name = f"{prefix}fast"
    ioc = make_ioc(
        f'record(calc, "{name}") {{ field(SCAN, "{rate} Hz") field(CALC, "A+1") field(INPA, "{name}.VAL") }}',
        scan_rates_hz=[rate],
    )
    point_at(ioc)
    return make_engine().pv(name)


@pytest.mark.parametrize("others", [False, True])
def test_updates_are_all_there_and_in_order(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, others: bool
):
    pv = counter(make_ioc, point_at, make_engine)
    if others:  # whose callbacks are behind when the updates begin
        pv.add_callback(lambda **kw: time.sleep(0.008))
    assert pv.wait_for_connection(20)

    async def main() -> None:
        for _ in range(5):
            values: list[Any] = []
            updates = pv.updates()
            async for reading in updates:
                assert reading.ok
                values.append(reading.value)
                if len(values) == 100:
                    break
            assert values == [values[0] + i for i in range(100)]
            assert updates.dropped == 0

    asyncio.run(main())


def test_updates_that_are_dropped_are_counted(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    pv = counter(make_ioc, point_at, make_engine)

    async def main() -> None:
        updates = pv.updates(limit=5)
        first = await anext(updates)
        await until(lambda: updates.dropped >= 20, "some are dropped")
        rest = [await anext(updates) for _ in range(5)]
        dropped = updates.dropped
        assert [reading.value for reading in rest] == [rest[0].value + i for i in range(5)]
        assert first.value + 20 < rest[0].value <= first.value + dropped + 1
        await updates.aclose()
        assert len([record for record in caplog.records if pv.pvname in record.getMessage()]) == 1

    asyncio.run(main())


def test_updates_of_a_pv_that_is_lost(own_engine: Engine, own_records: Records):
    async def main() -> None:
        pv = own_engine.pv(own_records("double"))
        updates = pv.updates()
        first = await asyncio.wait_for(anext(updates), 20)
        assert (first.value, first.outcome) == (1.5, Outcome.OK)
        own_records.ioc.kill()
        lost = await asyncio.wait_for(anext(updates), 20)
        assert (lost.value, lost.outcome) == (1.5, Outcome.STALE)
        assert "was connected, and is not now" in lost.why
        own_records.ioc.start()
        back = await asyncio.wait_for(anext(updates), 20)
        assert (back.value, back.outcome) == (1.5, Outcome.OK)
        await pv.aput(7)
        assert (await asyncio.wait_for(anext(updates), 20)).value == 7
        await updates.aclose()

    asyncio.run(main())


def test_updates_begin_before_it_connects(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine):
    prefix = random_prefix()
    ioc = make_ioc(f'record(ao, "{prefix}a") {{ field(PINI, YES) field(VAL, 5) }}', start=False)
    point_at(ioc)
    engine = make_engine()

    async def main() -> None:
        pv = engine.pv(f"{prefix}a")
        updates = pv.updates()
        task = asyncio.create_task(anext(updates))
        await until(lambda: pv.callbacks, "it waits")
        await asyncio.to_thread(ioc.start)
        assert (await asyncio.wait_for(task, 30)).value == 5
        await updates.aclose()

    asyncio.run(main())


def test_updates_end(engine: Engine, records: Records):
    pv = engine.pv(records("free"))

    async def main() -> None:
        # With aclose: also who waits already goes on.
        updates = pv.updates()
        assert (await asyncio.wait_for(anext(updates), 20)).ok
        task = asyncio.create_task(anext(updates, None))
        await until(lambda: updates._future is not None, "it waits")
        await updates.aclose()
        assert await asyncio.wait_for(task, 20) is None
        with pytest.raises(StopAsyncIteration):
            await anext(updates)
        assert pv.callbacks == {}
        assert pv.connection_callbacks == []
        await updates.aclose()
        unused = pv.updates()
        await unused.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(unused)
        # With break.
        async for reading in pv.updates():
            assert reading.ok
            break
        gc.collect()
        await until(lambda: pv.callbacks == {} and pv.connection_callbacks == [], "nothing is left behind")
        # Cancelled.
        updates = pv.updates()
        assert (await asyncio.wait_for(anext(updates), 20)).ok
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(updates), 0.05)
        await pv.aput((pv.get() + 1) % 50)
        assert (await asyncio.wait_for(anext(updates), 20)).value == pv.get()
        await updates.aclose()

    asyncio.run(main())
    assert engine.stats()["callback_errors"] == 0


def test_updates_end_with_the_engine(engine: Engine, records: Records):
    async def main() -> None:
        updates = engine.pv(records("free")).updates()
        assert (await asyncio.wait_for(anext(updates), 20)).ok
        task = asyncio.create_task(anext(updates))
        await until(lambda: updates._future is not None, "it waits")
        await asyncio.to_thread(engine.close)
        with pytest.raises(EngineClosedError, match="closed"):
            await asyncio.wait_for(task, 20)

    asyncio.run(main())


def test_a_loop_that_is_closed_meanwhile(engine: Engine, records: Records):
    """Updates that nobody takes any more, in a loop that is over, disturb nobody."""
    pv = engine.pv(records("free"))
    left: list[Any] = []

    async def main() -> None:
        updates = pv.updates()
        await asyncio.wait_for(anext(updates), 20)
        left.append(updates)

    asyncio.run(main())
    engine.put(records("free"), 41, timeout=20)
    eventually(lambda: left[0]._waiting, "the update")
    engine.put(records("free"), 42)
    assert engine.stats()["callback_errors"] == 0


def test_updates_of_a_pv_that_is_not_monitored(engine: Engine, records: Records):
    """It is, as long as they are taken."""
    pv = PV(records("free"), auto_monitor=False)
    assert pv.wait_for_connection(20)

    async def main() -> list[float]:
        found = []
        updates = pv.updates()
        async for reading in updates:
            found.append(reading.value)
            if len(found) == 3:
                break
            await pv.aput(reading.value + 1)
        assert pv.auto_monitor is True
        await updates.aclose()
        return found

    first, *others = asyncio.run(main())
    assert others == [first + 1, first + 2]
    assert pv.auto_monitor is False
    assert pv.auto_monitor_mask is None


@pytest.mark.parametrize("is_connected", [False, True])
def test_updates_of_a_large_array(engine: Engine, records: Records, is_connected: bool):
    """It is monitored only for them, also if its length is not known yet when they begin."""
    pv = PV(records("large"))
    if is_connected:
        assert pv.wait_for_connection(20)

    async def main() -> list[int]:
        updates = pv.updates()
        found = []
        async for reading in updates:
            found.append(len(reading.value))
            if len(found) == 2:
                break
            await pv.aput(np.arange(3.0))
        await updates.aclose()
        return found

    assert asyncio.run(asyncio.wait_for(main(), 20))[1] == 3
    assert pv._auto_monitor is None
    assert pv.auto_monitor is False
