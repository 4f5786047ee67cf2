"""PVs whose servers come, go, fall silent and come back as something else. Manual, chapters 3.5 and 3.8."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.access import AccessIOC
from support.ca_records import STATES, Records
from support.calls import Calls
from support.engines import MakeEngine
from support.ioc import IOCFactory, random_prefix
from support.recording import eventually

from daqca import Engine
from daqca.pv_proxy import PV

PointAt = Callable[..., Any]


def shards(engine: Engine, counter: str) -> int:
    return sum(int(shard[counter]) for shard in engine.stats()["shards"])


def lines(caplog: pytest.LogCaptureFixture, pvname: str) -> list[str]:
    """The warnings that name a PV."""
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [warning for warning in warnings if re.search(rf"{pvname}\b", warning)]


# --- who is told of connections ---------------------------------------------------------------------


def test_connection_callbacks(own_engine: Engine, own_records: Records):
    name = own_records("double")
    given, later, value, silent = Calls(), Calls(), Calls(), Calls()
    pv = PV(name, connection_callback=given, callback=value)
    assert pv.connection_callbacks == [given]
    assert given.wait()[0] == {"pvname": name, "conn": True, "pv": pv}
    value.wait()
    pv.connection_callbacks.append(later)
    other = PV(name)
    assert other.wait_for_connection(20)
    other.connection_callbacks.append(silent)
    own_records.ioc.kill()
    for calls in (given, later, silent):
        calls.wait_last(False, "conn")
    assert not pv.connected
    assert not other.connected
    own_records.ioc.start()
    for calls in (given, later, silent):
        calls.wait_last(True, "conn")
    eventually(lambda: len(value) == 2, "the value of the new server")
    assert given.all("conn") == [True, False, True]
    assert later.all("conn") == silent.all("conn") == [False, True]
    pv.connection_callbacks.remove(later)
    pv.clear_callbacks(with_connect_callback=True)
    assert pv.connection_callbacks == []
    own_records.ioc.kill()
    silent.wait_last(False, "conn")
    assert (len(given), len(later)) == (3, 2)


def test_a_connection_callback_that_raises_stays(own_engine: Engine, own_records: Records, caplog: Any):
    conns: list[bool] = []

    def raises(conn: bool, **kw: Any) -> None:
        conns.append(conn)
        raise ValueError("no")

    after = Calls()
    pv = PV(own_records("double"), connection_callback=raises)
    pv.connection_callbacks.append(after)
    eventually(lambda: conns == [True], "the first call")
    own_records.ioc.kill()
    after.wait_last(False, "conn")
    assert conns == [True, False]
    assert own_engine.stats()["callback_errors"] == 2
    assert len([line for line in lines(caplog, pv.pvname) if "raised" in line]) == 2


def test_access_callbacks(access_ioc: AccessIOC, point_at: PointAt, make_engine: MakeEngine):
    point_at(access_ioc)
    engine = make_engine()
    engine.put(access_ioc.name("switch"), 0, timeout=20)
    calls, later = Calls(), Calls()
    pv = engine.pv(access_ioc.name("sometimes"), access_callback=calls)
    assert calls.wait()[0] == {"args": (True, False), "pv": pv}
    assert (pv.read_access, pv.write_access, pv.access) == (True, False, "read-only")
    pv.access_callbacks.append(later)
    engine.put(access_ioc.name("switch"), 1)
    calls.wait_last((True, True), "args")
    later.wait_last((True, True), "args")
    assert (pv.read_access, pv.write_access, pv.access) == (True, True, "read/write")
    assert pv.put(8, wait=True) == 1
    engine.put(access_ioc.name("switch"), 2)
    calls.wait_last((False, False), "args")
    assert (pv.read_access, pv.write_access, pv.access) == (False, False, "no access")
    pv.clear_callbacks(with_access_callback=True)
    assert pv.access_callbacks == []
    engine.put(access_ioc.name("switch"), 1)
    eventually(lambda: pv.write_access, "the access")
    assert calls.all("args") == [(True, False), (True, True), (False, False)]


def test_access_is_told_with_values(access_ioc: AccessIOC, point_at: PointAt, make_engine: MakeEngine):
    point_at(access_ioc)
    engine = make_engine()
    engine.put(access_ioc.name("switch"), 1, timeout=20)
    calls = Calls()
    pv = engine.pv(access_ioc.name("sometimes"), callback=calls)
    assert calls.wait()[0]["access"] == "read/write"
    engine.put(access_ioc.name("switch"), 0)
    eventually(lambda: pv.access == "read-only", "the access")
    pv.run_callbacks()
    assert (calls.calls[-1]["access"], calls.calls[-1]["write_access"]) == ("read-only", False)


def test_force_connect(engine: Engine, records: Records):
    calls = Calls()
    pv = PV(records("double"), connection_callback=calls)
    calls.wait()
    pv.force_connect()
    pv.force_connect(conn=False)
    assert calls.all("conn") == [True, True, False]
    assert pv.connected


# --- a server that comes later, goes, and comes back ----------------------------------------------


def test_a_pv_made_before_its_server(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, caplog: Any):
    prefix = random_prefix()
    ioc = make_ioc(f'record(ao, "{prefix}a") {{ field(PINI, YES) field(VAL, 5) field(EGU, "mm") }}', start=False)
    point_at(ioc)
    engine = make_engine()
    values, connections = Calls(), Calls()
    pv = engine.pv(f"{prefix}a", callback=values, connection_callback=connections, connection_timeout=0.05)
    assert pv.wait_for_connection() is False
    assert pv.connected is False
    assert pv.get() is pv.get() is pv.value is None
    assert pv.put(1) is None
    assert (pv.type, pv.count, pv.units, pv.access, pv.ftype) == ("unknown", None, None, "unknown", None)
    assert repr(pv) == f"<PV '{prefix}a': not connected>"
    (line,) = lines(caplog, pv.pvname)
    assert "no server answered for this name" in line
    assert (len(values), len(connections)) == (0, 0)
    ioc.start()
    assert pv.wait_for_connection(30)
    first = values.wait()[0]
    assert (first["value"], first["units"], first["type"]) == (5, "mm", "time_double")
    assert connections.all("conn") == [True]
    assert pv.get() == 5


def test_a_server_that_is_killed_and_started_again(own_engine: Engine, own_records: Records, caplog: Any):
    name = own_records("double")
    values, connections = Calls(), Calls()
    pv = PV(name, callback=values, connection_callback=connections, connection_timeout=0.2)
    array = PV(own_records("doubles"), connection_timeout=0.2)
    asked = PV(own_records("long"), auto_monitor=False, connection_timeout=0.2)
    assert pv.get(timeout=20) == 1.5
    assert asked.get(timeout=20) == 7
    eventually(lambda: array.get(timeout=20) is not None, "the array")
    values.wait()
    own_records.ioc.kill()
    connections.wait_last(False, "conn")
    eventually(lambda: not array.connected and not asked.connected, "all are lost")
    for other in (pv, array, asked):
        begin = time.monotonic()
        assert other.get() is other.get() is None
        assert 0.35 < time.monotonic() - begin < 5, "each get waits until its timeout"
        assert other.get(timeout=0.01) is None
        (line,) = lines(caplog, other.pvname)
        assert "its channel was connected, and is not now" in line
    assert (pv.value, asked.value, array.value.tolist()) == (1.5, 7, [1.5, -2.5, 1e300])
    assert (pv.char_value, pv.units, pv.severity, pv.type) == ("1.500", "mm", 0, "time_double")
    assert repr(pv) == f"<PV '{name}': not connected>"
    assert pv.host is None
    own_records.ioc.start()
    connections.wait_last(True, "conn")
    assert pv.wait_for_connection(20)
    assert pv.put(4, wait=True) == 1
    assert values.wait_last(4)["char_value"] == "4.000"
    assert connections.all("conn") == [True, False, True]
    assert values.all() == [1.5, 1.5, 4]
    assert pv.get() == 4
    assert asked.get(timeout=20) == 7
    own_records.ioc.kill()
    connections.wait_last(False, "conn")
    assert pv.get() is None
    assert len(lines(caplog, pv.pvname)) == 2, "told again after it was back"


def test_another_record_of_the_same_name(own_engine: Engine, own_records: Records):
    name = own_records("double")
    values = Calls()
    pv = PV(name, callback=values)
    silent = PV(name)
    assert values.wait()[0]["ftype"] == 20
    assert silent.get(timeout=20) == 1.5
    assert silent.get_with_metadata(with_ctrlvars=True)["units"] == "mm"

    fields = " ".join(f'field({f}, "{s}")' for f, s in zip(("ZRST", "ONST", "TWST"), STATES, strict=True))
    own_records.ioc.restart(f'record(mbbo, "{name}") {{ field(PINI, YES) field(VAL, 2) {fields} }}')
    call = values.wait_last(2)
    assert isinstance(call["value"], int)
    told = {key: call[key] for key in ("ftype", "type", "char_value", "enum_strs", "units", "precision", "nelm")}
    assert told == {
        "ftype": 17, "type": "time_enum", "char_value": STATES[2], "enum_strs": STATES, "units": None,
        "precision": None, "nelm": 1,
    }  # fmt: skip
    for one in (pv, silent):
        eventually(lambda one=one: one.get(timeout=20) == 2, "the value")
        assert (one.type, one.ftype, one.nelm, one.count) == ("time_enum", 17, 1, 1)
        assert (one.enum_strs, one.units, one.precision, one.char_value) == (STATES, None, None, STATES[2])
        assert one.get(as_string=True) == STATES[2]
    known = silent.get_with_metadata()
    assert (known["type"], known["enum_strs"], known["char_value"]) == ("time_enum", STATES, STATES[2])
    assert known["units"] is None

    own_records.ioc.restart(f'record(mbbo, "{name}") {{ field(PINI, YES) field(VAL, 1) field(ONST, "New") }}')
    call = values.wait_last(1)
    assert (call["char_value"], call["enum_strs"]) == ("New", ("", "New"))
    eventually(lambda: silent.char_value == "New", "the other state")
    assert silent.enum_strs == ("", "New")

    own_records.ioc.restart(
        f'record(waveform, "{name}") {{ field(PINI, YES) field(FTVL, LONG) field(NELM, 5) field(INP, [4, 5]) '
        'field(EGU, "V") }'
    )
    eventually(lambda: values.calls[-1]["nelm"] == 5, "an array")
    call = values.calls[-1]
    assert call["value"].tolist() == [4, 5]
    assert (call["count"], call["type"], call["units"], call["enum_strs"]) == (2, "time_long", "V", None)
    for one in (pv, silent):
        eventually(lambda one=one: one.nelm == 5 and one.get(timeout=20) is not None, "an array")
        assert (one.type, one.nelm, one.count, one.units, one.enum_strs) == ("time_long", 5, 2, "V", None)
        assert one.get().tolist() == one.value.tolist() == [4, 5]

    own_records.ioc.restart(f'record(stringout, "{name}") {{ field(PINI, YES) field(VAL, "text") }}')
    call = values.wait_last("text")
    assert (call["char_value"], call["type"], call["units"], call["nelm"]) == ("text", "time_string", None, 1)
    eventually(lambda: silent.get(timeout=20) == "text", "the text")
    assert (silent.type, silent.units, silent.count) == ("time_string", None, 1)
    assert own_engine.stats()["callback_errors"] == 0


def test_a_server_that_comes_back_at_another_port(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine):
    prefix = random_prefix()
    text = f'record(ao, "{prefix}a") {{ field(PINI, YES) field(VAL, 5) }}'
    first, second = make_ioc(text), make_ioc(text.replace("VAL, 5", "VAL, 6"), start=False)
    point_at(first, second)
    engine = make_engine()
    values = Calls()
    pv = engine.pv(f"{prefix}a", callback=values)
    assert values.wait()[0]["host"] == pv.host == f"127.0.0.1:{first.server_port}"
    first.kill()
    second.start()
    assert values.wait_last(6)["host"] == f"127.0.0.1:{second.server_port}"
    assert pv.host == f"127.0.0.1:{second.server_port}"


# --- a server that falls silent, a worker that dies -------------------------------------------------


def test_a_server_that_falls_silent(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    prefix = random_prefix()
    ioc = make_ioc(f'record(ao, "{prefix}a") {{ field(PINI, YES) field(VAL, 5) }}')
    point_at(ioc)
    monkeypatch.setenv("EPICS_CA_CONN_TMO", "0.5")
    engine = make_engine()
    values, connections = Calls(), Calls()
    pv = engine.pv(f"{prefix}a", callback=values, connection_callback=connections, connection_timeout=0.2)
    assert pv.get(timeout=20) == 5
    values.wait()
    ioc.suspend()
    begin = time.monotonic()
    assert pv.get(use_monitor=False, timeout=0.1) is None
    assert time.monotonic() - begin < 5
    assert len(lines(caplog, pv.pvname)) == 1
    connections.wait_last(False, "conn")
    assert pv.get() is None
    assert (pv.connected, pv.value) == (False, 5)
    ioc.resume()
    connections.wait_last(True, "conn")
    assert pv.put(6, wait=True) == 1
    values.wait_last(6)
    assert connections.all("conn") == [True, False, True]
    assert pv.get() == 6


def test_a_server_that_is_silent_when_the_text_is_wanted(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, caplog: Any
):
    """The value is there, its units or states are not: nothing waits beyond the timeout, and it is said."""
    prefix = random_prefix()
    ioc = make_ioc(f'''record(ao, "{prefix}a") {{ field(PINI, YES) field(VAL, 5) field(PREC, 2) }}
record(mbbo, "{prefix}e") {{ field(PINI, YES) field(VAL, 1) field(ONST, "on") }}''')
    point_at(ioc)
    pvs = [make_engine().pv(prefix + name) for name in "ae"]
    assert [pv.get(timeout=20) for pv in pvs] == [5, 1]
    for pv in pvs:
        eventually(lambda pv=pv: pv._watch.wishes.was_told(pv._slot), "its monitor")
    ioc.suspend()
    for pv, options in (
        (pvs[0], {"as_string": True}),
        (pvs[1], {"as_string": True}),
        (pvs[0], {"with_ctrlvars": True}),
    ):
        caplog.clear()
        begin = time.monotonic()
        assert pv.get(timeout=0.1, **options) is not None
        assert time.monotonic() - begin < 0.8  # a second is what precision and units get when no time is said
        assert len(lines(caplog, pv.pvname)) == 1
    ioc.resume()
    assert [pv.get(as_string=True, timeout=20) for pv in pvs] == ["5.00", "on"]


def test_the_first_value_after_a_restart_is_new(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine):
    prefix = random_prefix()
    record = f'record(ao, "{prefix}a") {{{{ field(PINI, YES) field(VAL, {{}}) }}}}'
    ioc = make_ioc(record.format(0))
    point_at(ioc)
    pv = make_engine().pv(f"{prefix}a")
    assert pv.get(timeout=20) == 0
    for number in range(1, 4):
        ioc.kill()
        eventually(lambda: not pv.connected, "it is lost")
        assert pv.value == number - 1
        ioc.restart(record.format(number))
        assert pv.wait_for_connection(30)
        assert pv.get(timeout=20) == number
        assert pv.value == number


@pytest.mark.parametrize("make_engine", [2], indirect=True, ids=["workers"])
def test_a_worker_that_is_killed(own_engine: Engine, own_records: Records, caplog: Any):
    names = [own_records(name) for name in ("double", "long", "enum", "free", "count", "string")]
    values, connections = [Calls() for _ in names], [Calls() for _ in names]
    pvs = [PV(n, callback=v, connection_callback=c) for n, v, c in zip(names, values, connections, strict=True)]
    first = [one.wait()[0] for one in values]
    units = [pv.units for pv in pvs]
    assert units[0] == "mm"
    before = own_engine._pool.pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for one in connections:
        one.wait(3)
        assert one.all("conn") == [True, False, True]
    for one, call in zip(values, first, strict=True):
        eventually(lambda one=one: len(one) == 2, "the value after the worker is back")
        again = one.calls[1]
        assert {key: again[key] for key in ("value", "char_value", "units", "enum_strs", "access", "host")} == {
            key: call[key] for key in ("value", "char_value", "units", "enum_strs", "access", "host")
        }
    assert pvs[0].put(3, wait=True) == 1
    values[0].wait_last(3)
    own_engine.put(f"{names[0]}.EGU", "um")
    eventually(lambda: pvs[0].units == "um", "metadata are monitored again")
    assert [pv.units for pv in pvs[1:]] == units[1:]
    assert not set(own_engine._pool.pids) & set(before)


# --- the end ----------------------------------------------------------------------------------------


def test_disconnect_and_reconnect(engine: Engine, records: Records, caplog: Any):
    name = records("free")
    engine.put(name, 1, timeout=20)
    values, connections, again = Calls(), Calls(), Calls()
    pv = PV(name, callback=values, connection_callback=connections)
    values.wait()
    before = shards(engine, "subscriptions")
    pv.disconnect()
    assert (pv.connected, pv.callbacks, pv.connection_callbacks) == (False, {}, [])
    eventually(lambda: shards(engine, "subscriptions") == before - 2, "value and metadata are monitored no more")
    begin = time.monotonic()
    assert pv.get(timeout=5) is pv.get(timeout=5) is pv.put(3) is None
    assert pv.wait_for_connection(5) is False
    assert time.monotonic() - begin < 4, "nothing is waited for"
    (line,) = lines(caplog, name)
    assert "reconnect()" in line
    assert "disconnect() was called" in pv.read(timeout=1).why
    pv.disconnect()
    engine.put(name, 2)
    assert pv.reconnect() is True
    assert pv.connected
    eventually(lambda: pv.get() == 2, "the value")
    assert (len(values), len(connections)) == (1, 1)
    pv.add_callback(again)
    engine.put(name, 3)
    again.wait_last(3)
    assert pv.connected


def test_a_disconnected_pv_leaves_another_of_its_name_alone(engine: Engine, records: Records):
    engine.put(records("free"), 1, timeout=20)
    values = Calls()
    one, two = PV(records("free"), callback=Calls()), PV(records("free"), callback=values)
    values.wait()
    one.disconnect()
    engine.put(records("free"), 2)
    values.wait_last(2)
    assert two.get() == 2
    assert not one.connected


def test_a_pv_without_callbacks_ends_with_its_last_reference(engine: Engine, records: Records):
    """Its monitor ends too, as soon as anything is told."""
    kept = PV(records("count"))
    pv = PV(records("free"), auto_monitor=5)  # DBE_VALUE | DBE_ALARM
    assert pv.get(timeout=20) is not None
    assert pv.units is not None
    eventually(lambda: kept.connected and shards(engine, "subscriptions") == 3, "three monitors")
    found = weakref.ref(pv)
    del pv
    gc.collect()
    assert found() is None
    kept.put(kept.get() + 1)
    eventually(lambda: shards(engine, "subscriptions") == 1, "only the monitor of the other one is left")


def test_a_pv_with_callbacks_lives_until_it_is_disconnected(engine: Engine, records: Records):
    engine.put(records("free"), 1, timeout=20)
    values = Calls()
    pv = PV(records("free"), callback=values)
    values.wait()
    found = weakref.ref(pv)
    del pv
    values.calls.clear()
    gc.collect()
    engine.put(records("free"), 2)
    values.wait_last(2)
    values.calls.clear()
    assert found() is not None
    found().disconnect()  # type: ignore[union-attr]
    eventually(lambda: gc.collect() >= 0 and found() is None, "it is gone")


@pytest.mark.parametrize("end", ["clear_callbacks", "callbacks", "listeners"])
def test_a_pv_that_has_no_callbacks_any_more_is_not_kept(engine: Engine, records: Records, end: str):
    values = Calls()
    pv = PV(records("free"))
    assert pv.wait_for_connection(20)
    if end == "listeners":
        pv.callbacks = {}
        pv.connection_callbacks = []
        pv.access_callbacks = []
    else:
        pv.add_callback(values, run_now=True)
        values.wait()
        values.calls.clear()
        if end == "callbacks":
            pv.callbacks = {}
        else:
            pv.clear_callbacks()
    found = weakref.ref(pv)
    del pv
    values.calls.clear()
    eventually(lambda: gc.collect() >= 0 and found() is None, "it is gone")


def test_pvs_of_an_engine_that_was_closed(engine: Engine, records: Records):
    from daqca.errors import EngineClosedError

    pv, unread = PV(records("double")), PV(records("long"), auto_monitor=False)
    assert pv.get(timeout=20) is not None
    engine.close()
    assert not pv.connected
    for call in (pv.get, lambda: pv.value, lambda: pv.put(1), unread.get, lambda: pv.read(timeout=1), pv.get_ctrlvars):
        with pytest.raises(EngineClosedError, match="closed"):
            call()
    with pytest.raises(EngineClosedError, match="closed"):
        engine.pv(records("double"))
    assert repr(pv) == f"<PV '{pv.pvname}': not connected>"
    pv.disconnect()
