"""Callbacks of PVs: who is called when, with what, and what a callback may do. Manual, chapters 3.4 and 3.8."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.ca_records import LIMITS, STATES, Records
from support.calls import Calls
from support.engines import MakeEngine
from support.ioc import IOCFactory, random_prefix
from support.recording import eventually

from daqca import Engine, dbr
from daqca.pv_proxy import PV

ALWAYS = (
    "pvname", "value", "char_value", "count", "ftype", "type", "status", "precision", "units", "severity", "timestamp",
    "read_access", "write_access", "access", "host", "enum_strs", "chid", "cb_info", *LIMITS,
)  # fmt: skip
"""The keywords of chapter 3.4."""


def put(engine: Engine, name: str, value: Any) -> None:
    engine.put(name, value, timeout=20)


def begun(pv: PV) -> None:
    """Wait until its first value has come, for which callbacks that come later are not called."""
    eventually(lambda: pv.engine.last(pv._begun()) is not None, "the first value")


# --- who is called --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda calls: calls[0], list, tuple], ids=["one", "list", "tuple"])
def test_callbacks_given_to_the_constructor(engine: Engine, records: Records, make: Callable[..., Any]):
    put(engine, records("free"), 1)
    first, second = Calls(), Calls()
    pv = PV(records("free"), callback=make([first, second]))
    assert first.wait()[0]["value"] == 1
    put(engine, records("free"), 2)
    first.wait_last(2)
    assert first.all() == [1, 2]
    assert first.calls[0]["cb_info"] == (0, pv)
    if make in (list, tuple):
        second.wait_last(2)
        assert second.all() == [1, 2]
        assert second.calls[0]["cb_info"] == (1, pv)
        assert list(pv.callbacks) == [0, 1]


def test_add_callback(engine: Engine, records: Records):
    put(engine, records("free"), 1)
    pv = PV(records("free"))
    begun(pv)
    assert pv.get() == 1
    first, second, named = Calls(), Calls(), Calls()
    assert pv.add_callback(first) == 1
    assert pv.add_callback(second, colour="red") == 2
    assert pv.add_callback(named, index="name") == "name"
    assert pv.add_callback(None) is None
    assert {index: given[1] for index, given in pv.callbacks.items()} == {1: {}, 2: {"colour": "red"}, "name": {}}
    put(engine, records("free"), 2)
    for calls in (first, second, named):
        assert calls.wait_last(2)["pvname"] == records("free")
        assert len(calls) == 1  # not of the value that there was already
    assert second.calls[0]["colour"] == "red"
    assert [calls.calls[0]["cb_info"] for calls in (first, second, named)] == [(1, pv), (2, pv), ("name", pv)]


def test_add_callback_run_now(engine: Engine, records: Records):
    put(engine, records("double"), 1.25)
    pv = PV(records("double"))
    begun(pv)
    calls = Calls()
    pv.add_callback(calls, run_now=True, colour="red")
    (call,) = calls.wait()
    assert (call["value"], call["char_value"], call["units"], call["colour"]) == (1.25, "1.250", "mm", "red")
    assert calls.threads == {threading.current_thread().name}


def test_add_callback_without_metadata(engine: Engine, records: Records):
    pv = PV(records("double"))
    begun(pv)
    calls = Calls()
    pv.add_callback(calls, with_ctrlvars=False)
    put(engine, records("double"), 3)
    calls.wait_last(3)
    assert calls.calls[0]["units"] is None
    assert calls.calls[0]["precision"] is None
    pv.add_callback(Calls())
    put(engine, records("double"), 4)
    assert calls.wait_last(4)["units"] == "mm"


def test_callbacks_run_in_the_order_of_their_indices(engine: Engine, records: Records):
    order: list[Any] = []
    pv = PV(records("free"), auto_monitor=False)
    for index in (7, 2, "b", 10, "a", 0):
        pv.add_callback(lambda cb_info=None, **kw: order.append(cb_info[0]), index=index)
    assert pv.wait_for_connection(20)
    pv.run_callbacks()
    assert order == [0, 2, 7, 10, "a", "b"]
    pv.auto_monitor = True
    eventually(lambda: len(order) == 12, "the callbacks of the first value")
    assert order[6:] == order[:6]


def test_remove_and_clear(engine: Engine, records: Records):
    pv = PV(records("free"))
    begun(pv)
    one, two, three = Calls(), Calls(), Calls()
    for calls in (one, two, three):
        pv.add_callback(calls)
    pv.remove_callback()  # which of them?
    assert len(pv.callbacks) == 3
    pv.remove_callback(2)
    pv.remove_callback("no such index")
    put(engine, records("free"), 11)
    three.wait_last(11)
    assert (len(one), len(two)) == (1, 0)
    pv.remove_callback(1)
    pv.remove_callback()  # the only one
    assert pv.callbacks == {}
    last = Calls()
    pv.add_callback(last)
    put(engine, records("free"), 12)
    last.wait_last(12)
    pv.clear_callbacks()
    assert pv.callbacks == {}
    put(engine, records("free"), 13)
    eventually(lambda: pv.get() == 13, "the value is still monitored")
    assert (len(one), len(two), len(three), len(last)) == (1, 0, 1, 1)


def test_run_callback(engine: Engine, records: Records):
    put(engine, records("double"), 2.5)
    pv = PV(records("double"))
    assert pv.get(timeout=20) == 2.5
    one, two = Calls(), Calls()
    pv.add_callback(one, more=1)
    pv.add_callback(two)
    pv.run_callback(1)
    pv.run_callback("no such index")
    assert (len(one), len(two)) == (1, 0)
    pv.run_callbacks()
    assert (len(one), len(two)) == (2, 1)
    call = one.calls[0]
    assert (call["value"], call["char_value"], call["units"], call["more"]) == (2.5, "2.500", "mm", 1)
    assert call["cb_info"] == (1, pv)


def test_callbacks_assigned_and_manipulated(engine: Engine, records: Records):
    pv = PV(records("free"))
    begun(pv)
    one, two, three = Calls(), Calls(), Calls()
    pv.callbacks = {5: (one, {"a": 1})}
    put(engine, records("free"), 21)
    assert one.wait_last(21)["a"] == 1
    pv.callbacks[6] = (two, {})
    pv.callbacks.update({7: (three, {})})
    put(engine, records("free"), 22)
    three.wait_last(22)
    two.wait_last(22)
    del pv.callbacks[5]
    pv.callbacks.pop(6)
    put(engine, records("free"), 23)
    three.wait_last(23)
    assert (one.all(), two.all()) == ([21, 22], [22])
    pv.callbacks = {}
    put(engine, records("free"), 24)
    eventually(lambda: pv.get() == 24, "the value")
    assert len(three) == 2


# --- what is told ---------------------------------------------------------------------------------


def test_every_keyword_is_right_from_the_first_call_on(engine: Engine, records: Records):
    put(engine, records("double"), 1.5)
    calls = Calls()
    pv = PV(records("double"), callback=calls)
    first = calls.wait()[0]
    assert set(ALWAYS) <= first.keys()
    expected = {
        "pvname": records("double"), "value": 1.5, "char_value": "1.500", "count": 1, "ftype": dbr.TIME_DOUBLE,
        "type": "time_double", "status": 0, "severity": 0, "precision": 3, "units": "mm", "enum_strs": None,
        "read_access": True, "write_access": True, "access": "read/write", "cb_info": (0, pv), **LIMITS,
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    assert first["host"] == pv.host
    assert first["host"].endswith(f":{records.ioc.server_port}")
    assert first["timestamp"] == pytest.approx(time.time(), abs=60)
    assert first["posixseconds"] + first["nanoseconds"] * 1e-9 == pytest.approx(first["timestamp"], abs=1e-6)
    assert int(first["chid"]) > 0
    put(engine, records("double"), 12)
    assert calls.wait_last(12.0)["timestamp"] > first["timestamp"]
    assert calls.calls[-1]["char_value"] == "12.000"
    alarmed = Calls()
    other = PV(records("alarmed"), callback=alarmed)
    call = alarmed.wait()[0]
    assert (call["value"], call["status"], call["severity"], call["pvname"]) == (95, 3, 2, other.pvname)


def test_keywords_of_an_enum_a_text_and_an_array(engine: Engine, records: Records):
    put(engine, records("enum"), 1)
    put(engine, records("chars"), np.array([0, 127, 255], np.uint8))
    enum, text, array, chars = Calls(), Calls(), Calls(), Calls()
    pvs = [
        PV(records(name), callback=calls)
        for name, calls in (("enum", enum), ("string", text), ("doubles", array), ("chars", chars))
    ]
    call = enum.wait()[0]
    assert (call["value"], call["char_value"], call["enum_strs"], call["type"]) == (1, "Run", STATES, "time_enum")
    assert call["precision"] is call["units"] is call["upper_ctrl_limit"] is None
    call = text.wait()[0]
    assert (call["value"], call["char_value"], call["type"], call["count"]) == ("a string",) * 2 + ("time_string", 1)
    call = array.wait()[0]
    assert call["value"].tolist() == [1.5, -2.5, 1e300]
    assert (call["count"], call["nelm"], call["units"], call["precision"]) == (3, 8, "V", 2)
    assert call["char_value"] == "<array size=3, type=time_double>"
    assert chars.wait()[0]["value"].tolist() == [0, 127, 255]
    put(engine, records("chars"), np.frombuffer(b"hello\0", np.uint8))
    eventually(lambda: chars.calls[-1]["char_value"] == "hello", "the text")
    assert [pv.pvname for pv in pvs] == [calls.calls[0]["pvname"] for calls in (enum, text, array, chars)]


def test_metadata_are_in_the_first_call_of_many(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
    prefix = random_prefix()
    ioc = make_ioc(
        "\n".join(
            f'record(ao, "{prefix}{i}") {{ field(PINI, YES) field(VAL, 1) field(PREC, 2) field(EGU, "u{i}") }}'
            for i in range(300)
        )
    )
    point_at(ioc)
    engine = make_engine()
    calls = [Calls() for _ in range(300)]
    pvs = [engine.pv(f"{prefix}{i}", callback=calls[i]) for i in range(300)]
    firsts = [one.wait()[0] for one in calls]
    assert [first["units"] for first in firsts] == [f"u{i}" for i in range(300)]
    assert {first["char_value"] for first in firsts} == {"1.00"}
    assert len(pvs) == 300


def test_metadata_are_in_the_first_call_of_a_callback_added_before_it_connects(engine: Engine, records: Records):
    pv = PV(records("double"))
    calls = Calls()
    pv.add_callback(calls)
    assert calls.wait()[0]["units"] == "mm"


def test_metadata_are_followed(own_engine: Engine, own_records: Records):
    name = own_records("double")
    calls = Calls()
    pv, silent = PV(name, callback=calls), PV(name)
    calls.wait()
    silent.wait_for_connection(20)
    assert silent.get_with_metadata()["units"] is None or silent.get_with_metadata()["units"] == "mm"
    assert (silent.units, silent.char_value) == ("mm", "1.500")
    put(own_engine, f"{name}.EGU", "um")
    put(own_engine, f"{name}.PREC", 1)
    eventually(lambda: pv.units == "um" and pv.precision == 1, "the new metadata")
    put(own_engine, name, 4)
    call = calls.wait_last(4)
    assert (call["units"], call["char_value"]) == ("um", "4.0")
    eventually(lambda: silent.units == "um", "the new metadata of the other")
    assert silent.char_value == "4.0"
    known = silent.get_with_metadata()
    assert (known["units"], known["precision"], known["char_value"]) == ("um", 1, "4.0")


def test_verbose_prints(engine: Engine, records: Records, capsys: pytest.CaptureFixture[str]):
    put(engine, records("double"), 1.5)
    pv = PV(records("double"), verbose=True)
    out: list[str] = []

    def printed(text: str) -> bool:
        out.append(capsys.readouterr().out)
        return text in "".join(out)

    eventually(lambda: printed(f"{records('double')}: 1.5 ("), "the first value is printed")
    pv.put(2)
    eventually(lambda: printed(f"{records('double')}: 2.0 ("), "the next")
    pv.verbose = False
    pv.put(3)
    eventually(lambda: pv.get() == 3, "the value")
    assert not printed(": 3.0 (")
    other = PV(records("double"))
    assert other.wait_for_connection(20)
    other.verbose = True
    other.put(4)
    eventually(lambda: printed(f"{records('double')}: 4.0 ("), "one that was made verbose later prints")


# --- every update -----------------------------------------------------------------------------------


def test_every_update_is_told_once_and_in_order(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
    prefix = random_prefix()
    name = f"{prefix}fast"
    database = f'record(calc, "{name}") {{ field(SCAN, "200 Hz") field(CALC, "A+1") field(INPA, "{name}.VAL") }}'
    ioc = make_ioc(database, scan_rates_hz=[200])
    point_at(ioc)
    engine = make_engine()
    calls, logged, late = Calls(), Calls(), Calls()
    one = engine.pv(name, callback=calls)
    two = engine.pv(name, callback=logged, auto_monitor=dbr.DBE_VALUE | dbr.DBE_LOG)
    calls.wait(100)
    three = engine.pv(name, callback=late)
    late.wait(200)
    for pv, told in ((one, calls), (two, logged), (three, late)):
        values, stamps = told.all(), told.all("timestamp")
        assert len(values) >= 200
        assert values == list(np.arange(len(values)) + values[0]), pv
        assert stamps == sorted(set(stamps))
    assert one.auto_monitor_mask != two.auto_monitor_mask
    assert engine.stats()["callback_events_dropped"] == 0


# --- what a callback may do -------------------------------------------------------------------------


def test_a_callback_that_removes_itself(engine: Engine, records: Records):
    values: list[Any] = []

    def once(value: Any = None, cb_info: Any = None, **kw: Any) -> None:
        values.append(value)
        cb_info[1].remove_callback(cb_info[0])

    put(engine, records("free"), 31)
    pv, after = PV(records("free"), callback=once), Calls()
    eventually(lambda: values == [31], "the first call")
    pv.add_callback(once, index=1)
    pv.add_callback(after, index=2)
    put(engine, records("free"), 32)
    after.wait_last(32)
    put(engine, records("free"), 33)
    after.wait_last(33)
    assert values == [31, 32]
    assert after.all() == [32, 33]
    assert engine.stats()["callback_errors"] == 0


def test_a_callback_that_adds_another(engine: Engine, records: Records):
    added = Calls()

    def adds(cb_info: Any = None, **kw: Any) -> None:
        cb_info[1].add_callback(added, index="added")

    put(engine, records("free"), 34)
    pv = PV(records("free"), callback=adds)
    eventually(lambda: "added" in pv.callbacks, "the other")
    put(engine, records("free"), 35)
    added.wait_last(35)
    assert engine.stats()["callback_errors"] == 0


class Odd(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [ValueError, SystemExit, Odd])
def test_a_callback_that_raises_stays(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture, error: Any):
    caplog.set_level(logging.INFO, "daqca")
    put(engine, records("free"), 41)
    calls, others = Calls(), Calls()

    def raises(value: Any = None, **kw: Any) -> None:
        calls(value=value)
        raise error(f"at {value}")

    pvs = [PV(records("free"), callback=[raises, others]) for _ in range(2)]
    others.wait(2)
    put(engine, records("free"), 42)
    others.wait(4)
    assert sorted(calls.all()) == sorted(others.all()) == [41, 41, 42, 42]
    eventually(lambda: engine.stats()["callback_errors"] == 4, "the errors are counted")
    told = [record for record in caplog.records if "raised" in record.message]
    assert len(told) == 4
    assert all(records("free") in record.message and "raises" in record.message for record in told)
    if error is ValueError:
        assert {str(record.exc_info[1]) for record in told if record.exc_info} == {"at 41.0", "at 42.0"}
    assert len(pvs) == 2


def test_a_callback_that_blocks_delays_no_get(engine: Engine, records: Records):
    put(engine, records("free"), 51)
    free, began, ended = threading.Event(), threading.Event(), threading.Event()

    def blocks(**kw: Any) -> None:
        began.set()
        free.wait(20)
        ended.set()

    blocked = PV(records("free"), callback=blocks)
    assert began.wait(20)
    other, monitored = PV(records("long"), auto_monitor=False), PV(records("count"))
    put(engine, records("count"), 5)
    begin = time.monotonic()
    assert other.get(timeout=20) == engine.get(records("long")).value
    assert other.put(9, wait=True) == 1
    eventually(lambda: monitored.get() == 5, "the value of another")
    put(engine, records("count"), 6)
    eventually(lambda: monitored.get() == 6, "its new value")
    assert time.monotonic() - begin < 15
    assert not ended.is_set()
    free.set()
    assert ended.wait(20)
    assert blocked.connected


def test_a_callback_may_call_anything(engine: Engine, records: Records):
    put(engine, records("free"), 0)
    put(engine, records("count"), 0)
    target = PV(records("count"))
    assert target.wait_for_connection(20)
    found: list[Any] = []

    def anything(value: Any = None, cb_info: Any = None, **kw: Any) -> None:
        new = engine.pv(records("long"), auto_monitor=False)
        found.append(
            (
                cb_info[1].get(),
                cb_info[1].get(use_monitor=False, timeout=20),
                target.put(value + 1, wait=True),
                target.get(),
                new.get(timeout=20),
                new.put(5, wait=True),
                new.get(),
                cb_info[1].get_ctrlvars(timeout=20)["precision"],
                engine.wait_for(lambda: target.get() == value + 1, 20),
            )
        )

    put(engine, records("long"), 5)
    pv = PV(records("free"), callback=anything)
    eventually(lambda: len(found) == 1, "the first call")
    put(engine, records("free"), 7)
    eventually(lambda: len(found) == 2, "the second call")
    assert found == [(0, 0, 1, 1, 5, 1, 5, 0, True), (7, 7, 1, 8, 5, 1, 5, 0, True)]
    assert pv.connected


def test_a_callback_in_a_connection_callback(engine: Engine, records: Records):
    """A PV made and read in a connection callback, before its first value."""
    found: list[Any] = []

    def on_connect(pvname: str, conn: bool, pv: PV) -> None:
        found.append((pvname, conn, pv.get(timeout=20), PV(records("double.PREC")).get(timeout=20)))

    put(engine, records("free"), 3)
    pv = PV(records("free"), connection_callback=on_connect)
    eventually(lambda: found, "the call")
    assert found == [(records("free"), True, 3, 3)]
    assert pv.connected


def test_monitor_delta(engine: Engine, records: Records):
    put(engine, records("free"), 0)
    calls = Calls()
    pv = PV(records("free"), callback=calls, monitor_delta=1)
    calls.wait_last(0)
    eventually(lambda: engine.get(f"{records('free')}.MDEL").value == 1, "MDEL is set")
    for value in (0.5, 1, 1.2, 2.5):
        put(engine, records("free"), value)
    calls.wait_last(2.5)
    put(engine, f"{records('free')}.MDEL", 0)
    assert pv.monitor_delta == 1
    assert calls.all() == [0, 2.5] or calls.all() == [0, 1.2, 2.5]


def test_a_subclass_runs_its_callbacks_itself(engine: Engine, records: Records):
    """Each update goes through its `run_callbacks` and `run_callback`, with what that update brought."""
    ran: list[Any] = []

    class Own(PV):
        def run_callback(self, index: Any) -> None:
            ran.append(index)
            super().run_callback(index)

    calls, listeners = Calls(), Calls()
    pv = Own(records("free"), callback=calls)
    pv.connection_callbacks[:] = [listeners]
    calls.wait()
    for number in range(20):
        pv.put(number, wait=True)
    calls.wait_last(19)
    assert calls.all("value")[-20:] == list(range(20))
    assert ran == [0] * len(calls)
    assert listeners.all("conn") == [True]
    pv.disconnect()
