"""What goes beyond the manual: readings with an outcome, PVs of an engine, and waiting for conditions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.access import AccessIOC
from support.background import Background
from support.ca_records import LIMITS, STATES, Records
from support.calls import Calls
from support.engines import MakeEngine
from support.pvs import made
from support.recording import eventually

from daqca import Engine
from daqca.errors import ConfigurationError
from daqca.outcome import Outcome
from daqca.pv_proxy import PV

PointAt = Callable[..., Any]


# --- PV.read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auto_monitor", [None, False])
@pytest.mark.parametrize("fresh", [False, True])
def test_read(engine: Engine, records: Records, auto_monitor: bool | None, fresh: bool):
    engine.put(records("double"), 1.5, timeout=20)
    reading = engine.pv(records("double"), auto_monitor=auto_monitor).read(20, fresh=fresh)
    assert (reading.name, reading.value, reading.outcome, reading.why) == (records("double"), 1.5, Outcome.OK, "")
    assert (reading.status, reading.severity, reading.native_type, reading.ok) == (0, 0, 6, True)
    assert (reading.units, reading.precision, reading.as_text()) == ("mm", 3, "1.500")
    assert {name: getattr(reading.metadata, name) for name in LIMITS} == LIMITS
    assert abs(reading.timestamp - time.time_ns()) < 600e9
    alarm = engine.pv(records("alarmed"), auto_monitor=auto_monitor).read(20, fresh=fresh)
    assert (alarm.value, alarm.status, alarm.severity, alarm.ok) == (95, 3, 2, True)
    state = engine.pv(records("enum"), auto_monitor=auto_monitor).read(20, fresh=fresh)
    assert (state.enum_strings, state.as_text()) == (STATES, STATES[state.value])
    text = engine.pv(records("string"), auto_monitor=auto_monitor).read(20, fresh=fresh)
    assert (text.value, text.units, text.precision, text.enum_strings) == ("a string", "", None, ())
    array = engine.pv(records("doubles"), auto_monitor=auto_monitor).read(20, fresh=fresh)
    assert isinstance(array.value, np.ndarray)
    assert (array.value.tolist(), array.units) == ([1.5, -2.5, 1e300], "V")


def test_a_fresh_reading_asks_the_server(engine: Engine, records: Records):
    pv = engine.pv(records("free"))
    assert pv.read(20).ok
    eventually(lambda: pv._is_monitored() and engine.last(pv._slot), "the monitor")
    asked: list[int] = []
    ask = engine.ask
    engine.ask = lambda slot, *args, **kw: asked.append(slot) or ask(slot, *args, **kw)  # type: ignore[method-assign]
    assert pv.read(20).ok
    assert asked == []
    assert pv.read(20, fresh=True).ok
    assert asked == [pv._slot]


def test_a_reading_of_what_is_not_there(engine: Engine, records: Records):
    name = records("no such record")
    begin = time.monotonic()
    reading = engine.pv(name.replace(" ", "_")).read(0.1)
    assert time.monotonic() - begin < 10
    assert (reading.outcome, reading.value, reading.ok) == (Outcome.NEVER_FOUND, None, False)
    assert "no server answered for this name" in reading.why
    assert reading.as_text() == ""
    assert reading.native_type is None


@pytest.mark.parametrize("auto_monitor", [None, False])
def test_a_reading_of_what_was_lost_is_stale(own_engine: Engine, own_records: Records, auto_monitor: bool | None):
    pv = own_engine.pv(own_records("double"), auto_monitor=auto_monitor)
    array = own_engine.pv(own_records("doubles"), auto_monitor=auto_monitor)
    never_read = own_engine.pv(own_records("long"), auto_monitor=False)
    before = pv.read(20)
    assert array.read(20).ok
    eventually(lambda: never_read.connected, "it connects")
    own_records.ioc.kill()
    eventually(lambda: not pv.connected and not never_read.connected, "all are lost")
    reading = pv.read(0.05)
    assert (reading.outcome, reading.value, reading.timestamp) == (Outcome.STALE, 1.5, before.timestamp)
    assert (reading.units, reading.ok) == ("mm", False)
    assert "was connected, and is not now" in reading.why
    stale = array.read(0.05, fresh=True)
    assert isinstance(stale.value, np.ndarray)
    assert (stale.outcome, stale.value.tolist()) == (Outcome.STALE, [1.5, -2.5, 1e300])
    nothing = never_read.read(0.05)
    assert (nothing.outcome, nothing.value) == (Outcome.DISCONNECTED, None)
    assert "was connected, and is not now" in nothing.why
    own_records.ioc.start()
    back = pv.read(20)
    assert (back.outcome, back.value, back.why) == (Outcome.OK, 1.5, "")
    assert back.timestamp > before.timestamp


def test_a_reading_that_is_not_answered(own_engine: Engine, own_records: Records):
    pv = own_engine.pv(own_records("double"), auto_monitor=False)
    monitored = own_engine.pv(own_records("long"))
    assert pv.read(20).ok
    assert monitored.read(20).ok
    own_records.ioc.suspend()
    try:
        begin = time.monotonic()
        reading = pv.read(0.1)
        assert time.monotonic() - begin < 10
        assert (reading.outcome, reading.value) == (Outcome.TIMEOUT, None)
        assert "did not answer in time" in reading.why
        assert monitored.read(0.1, fresh=True).outcome == Outcome.TIMEOUT
        assert monitored.read(0.1).value == 7
    finally:
        own_records.ioc.resume()


def test_a_reading_that_is_not_allowed(access_ioc: AccessIOC, point_at: PointAt, make_engine: MakeEngine):
    point_at(access_ioc)
    engine = make_engine()
    for auto_monitor in (None, False):
        reading = engine.pv(access_ioc.name("noread"), auto_monitor=auto_monitor).read(10)
        assert (reading.outcome, reading.value) == (Outcome.NO_READ_ACCESS, None)
        assert "does not give this client the access" in reading.why


def test_a_reading_after_disconnect(engine: Engine, records: Records):
    pv = engine.pv(records("double"))
    assert pv.read(20).ok
    pv.disconnect()
    reading = pv.read(5)
    assert reading.outcome in (Outcome.DISCONNECTED, Outcome.STALE)
    assert "reconnect()" in reading.why
    assert pv.reconnect()
    assert pv.read(20).ok


# --- the PVs of an engine -----------------------------------------------------------------------------


def test_pv_and_pvs(engine: Engine, records: Records):
    calls = Calls()
    one = engine.pv(records("double"), form="ctrl", callback=calls, auto_monitor=1)
    assert isinstance(one, PV)
    assert (one.engine, one.pvname, one.form, one.auto_monitor) == (engine, records("double"), "ctrl", 1)
    calls.wait()
    names = [records(name) for name in ("double", "long", "double")]
    pvs = engine.pvs(tuple(names), auto_monitor=False)
    assert [pv.pvname for pv in pvs] == names
    assert pvs[0] is not pvs[2]
    assert pvs[0] == pvs[2]
    assert all(pv.wait_for_connection(20) for pv in pvs)
    assert [pv.auto_monitor for pv in pvs] == [False] * 3
    assert engine.pvs([]) == []
    with pytest.raises(TypeError, match="expected a list of names"):
        engine.pvs(records("double"))
    with pytest.raises(ConfigurationError):
        engine.pv("x" * 100_000)


# --- Engine.wait_for --------------------------------------------------------------------------------


def test_wait_for(engine: Engine, records: Records):
    engine.put(records("free"), 0, timeout=20)
    pv = engine.pv(records("free"))
    begin = time.monotonic()
    assert engine.wait_for(lambda: "at once", 20) == "at once"
    assert time.monotonic() - begin < 5
    assert engine.wait_for(lambda: pv.connected and pv.get() == 0, 20) is True
    looks: list[int] = []

    def condition() -> Any:
        looks.append(1)
        return pv.get() == 3

    waiting = Background(engine.wait_for, condition, 20)
    eventually(lambda: looks, "it looks")
    for value in (1, 2, 3):
        engine.put(records("free"), value)
    assert waiting.join().result is True
    assert waiting.took < 15
    begin = time.monotonic()
    assert engine.wait_for(list, 0.2) == []
    assert 0.2 <= time.monotonic() - begin < 10
    assert engine.wait_for(lambda: 0, 0) == 0
    assert engine.wait_for(lambda: True, 0) is True
    with pytest.raises(ZeroDivisionError):
        engine.wait_for(lambda: 1 / 0, 20)
    assert not pv._watch._waits


def test_wait_for_hears_of_connections_and_puts(own_engine: Engine, own_records: Records):
    pv = own_engine.pv(own_records("double"))
    assert own_engine.wait_for(lambda: pv.connected, 20)
    waiting = Background(own_engine.wait_for, lambda: not pv.connected, 20)
    own_records.ioc.kill()
    assert waiting.join().result is True
    waiting = Background(own_engine.wait_for, lambda: pv.connected, 20)
    own_records.ioc.start()
    assert waiting.join().result is True


def test_wait_for_in_a_callback(engine: Engine, records: Records):
    engine.put(records("count"), 0, timeout=20)
    other = engine.pv(records("count"))
    assert other.get(timeout=20) == 0
    found: list[Any] = []
    pv = engine.pv(records("free"), callback=lambda **kw: found.append(engine.wait_for(lambda: other.get() == 1, 20)))
    eventually(lambda: pv.connected, "it connects")
    engine.put(records("count"), 1)
    eventually(lambda: found and found[0] is True, "the callback goes on")


def test_wait_for_ends_with_the_engine(engine: Engine, records: Records):
    began = threading.Event()
    waiting = Background(engine.wait_for, lambda: began.set(), 30)
    assert began.wait(20)
    engine.close()
    assert waiting.join().took < 20
    assert not waiting.result


def test_what_the_connection_tells_is_waited_for(engine: Engine, records: Records):
    """By a PV that never connected."""
    assert PV(records("double")).host == engine.channels([records("double")])[0].host != ""
    engine.put(records("doubles"), [1.0, 2.0, 3.0])
    assert PV(records("doubles")).count == 3  # and not the 8 that it may have
    assert PV(records("long")).access == "read/write"
    assert PV(records("enum")).read_access is True
    assert PV(records("string")).write_access is True


def test_what_a_program_sets_beside_what_is_known(engine: Engine, records: Records):
    pv = made(records("long"))
    value = pv.get()
    pv._args["mine"] = 1
    pv._args = {"yours": 2, "value": "no"}
    assert (pv._args["mine"], pv._args["yours"], pv._args["value"]) == (1, 2, value)
    assert pv._args.popitem() == ("yours", 2)
    with pytest.raises(KeyError):
        pv._args["yours"]
    pv._args.clear()
    assert "mine" not in pv._args
    assert pv._args["pvname"] == pv.pvname
    with pytest.raises(KeyError):
        pv._args.popitem()
