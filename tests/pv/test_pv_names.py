"""Names of the manual's chapter 3 that no other test is about, and what docs/pv.md says to differ there."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.access import AccessIOC
from support.ca_records import Records
from support.calls import Calls
from support.engines import MakeEngine
from support.pv_functions import spent
from support.recording import eventually

from daqca import Engine
from daqca.pv_proxy import PV


def test_connect(engine: Engine, records: Records):
    """It waits for the connection, for as long as is said, and tells whether there is one."""
    pv = PV(records("double"))
    assert pv.connect(timeout=20) is True
    assert pv.connected
    assert pv.connect() is True
    missing = PV(records("nowhere"), connection_timeout=0.3)
    found, took = spent(missing.connect)
    assert found is False
    assert 0.25 < took < 5
    found, took = spent(missing.connect, timeout=0.02)
    assert found is False
    assert took < 0.25
    assert missing.connect(0.02) is missing.wait_for_connection(0.02) is False


def test_poll(engine: Engine, records: Records):
    """A pause, after which what has come meanwhile is seen."""
    pv = PV(records("free"))
    end = time.monotonic() + 20
    while not pv.connected:
        pv.poll()
        assert time.monotonic() < end
    assert spent(pv.poll, evt=0.05, iot=1.0)[1] >= 0.05
    assert spent(pv.poll, 0.05)[1] >= 0.05
    assert spent(pv.poll)[1] < 1
    engine.put(records("free"), 2.5)
    while pv.get() != 2.5:
        pv.poll(evt=1e-3)
        assert time.monotonic() < end


def test_reconnect_of_a_pv_that_is_connected_tells_nobody(engine: Engine, records: Records):
    """Nothing has changed: docs/pv.md, What differs from PyEpics."""
    connections, values = Calls(), Calls()
    pv = PV(records("count"), connection_callback=connections, callback=values)
    connections.wait()
    values.wait()
    assert pv.reconnect() is True
    assert pv.put(pv.get() + 1, wait=True) == 1
    values.wait_last(pv.get())
    assert connections.all("conn") == [True]
    pv.force_connect()
    assert connections.all("conn") == [True, True]
    assert pv.connected
    pv.disconnect()


def test_a_get_that_was_not_answered_is_asked_anew(own_engine: Engine, own_records: Records):
    """And gives the value of now: docs/pv.md, What differs from the manual."""
    pv = PV(own_records("free"), auto_monitor=False)
    assert pv.get(timeout=20) == 0
    own_records.ioc.suspend()
    assert pv.get(timeout=0.1) is None
    own_records.ioc.resume()
    own_engine.put(own_records("free"), 5, wait=True, timeout=20)
    assert pv.get(timeout=20) == 5


def test_the_value_after_disconnect(engine: Engine, records: Records):
    """None, but that of another PV of the name, if there is one."""
    alone, one, two = PV(records("double")), PV(records("long")), PV(records("long"))
    assert (alone.get(timeout=20), one.get(timeout=20), two.get(timeout=20)) == (1.5, 7, 7)
    eventually(lambda: engine.last(two._slot), "its monitor has told it too")
    alone.disconnect()
    one.disconnect()
    assert alone.get(timeout=0.1) is one.get(timeout=0.1) is None
    assert (alone.value, one.value, two.value) == (None, 7, 7)


def test_limits(engine: Engine, records: Records):
    pv = PV(records("double"))
    assert (pv.upper_disp_limit, pv.lower_disp_limit) == (100, -100)
    assert (pv.upper_alarm_limit, pv.lower_alarm_limit) == (90, -90)
    assert (pv.upper_warning_limit, pv.lower_warning_limit) == (80, -80)
    assert (pv.upper_ctrl_limit, pv.lower_ctrl_limit) == (50, -50)


def test_an_access_callback_that_raises_stays(
    access_ioc: AccessIOC, point_at: Any, make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
):
    """It is logged with its PV and counted, the others are called, and it is called the next time too."""
    point_at(access_ioc)
    engine = make_engine()
    engine.put(access_ioc.name("switch"), 0, timeout=20)
    rights: list[tuple[bool, bool]] = []
    after = Calls()

    def raises(read_access: bool, write_access: bool, pv: PV) -> None:
        rights.append((read_access, write_access))
        raise ValueError("no")

    pv = engine.pv(access_ioc.name("sometimes"), access_callback=raises)
    pv.access_callbacks.append(after)
    eventually(lambda: rights == [(True, False)], "the first call")
    engine.put(access_ioc.name("switch"), 1)
    after.wait_last((True, True), "args")
    assert rights == [(True, False), (True, True)]
    assert engine.stats()["callback_errors"] == 2
    assert len([text for text in caplog.messages if "raised" in text and pv.pvname in text]) == 2
    pv.disconnect()
