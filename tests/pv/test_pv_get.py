"""`PV.get` and `PV.get_with_metadata`: manual, chapters 3.1, 5.1, 5.2, 5.3 and 10.1."""

from __future__ import annotations

import logging
import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.access import AccessIOC
from support.ca_records import LIMITS, STATES, TEXT, Records
from support.engines import MakeEngine
from support.pvs import made
from support.recording import eventually

from daqca import Engine, ca, dbr
from daqca.errors import ChannelAccessException, ChannelAccessGetFailure
from daqca.pv_proxy import PV

RECORDS = (
    *("double", "long", "enum", "stateless", "string", "alarmed", "double.DESC", "double.PREC", "double.HHSV"),
    *("doubles", "floats", "longs", "shorts", "chars", "enums", "strings", "full", "text", "large"),
    *("one:double", "one:float", "one:short", "one:char", "one:string"),
    *("no:doubles", "no:chars", "no:strings", "no:enums"),
)
KEYS = frozenset(
    (
        *("pvname", "value", "char_value", "status", "severity", "timestamp", "posixseconds", "nanoseconds", "ftype"),
        *("type", "typefull", "chid", "host", "count", "nelm", "access", "read_access", "write_access"),
        *("monitor_delta", "precision", "units", "enum_strs", *LIMITS),
    )
)


def shown(value: Any) -> Any:
    """A value with its types, so that what is equal is the same."""
    if isinstance(value, np.ndarray):
        return ("array", str(value.dtype), value.flags.writeable, value.tolist())
    return (type(value), value)


@pytest.mark.parametrize("form", ["native", "time", "ctrl"])
def test_the_monitor_and_the_server_give_the_same(engine: Engine, records: Records, form: str):
    for record in RECORDS:
        pv = made(records(record), form=form)
        if pv.auto_monitor_mask:
            eventually(lambda pv=pv: engine.last(pv._slot) is not None, "the first update")
        unmonitored = made(records(record), form=form, auto_monitor=False)
        for how in ({}, {"as_string": True}, {"as_numpy": False}, {"count": 1}, {"count": 2}, {"with_ctrlvars": True}):
            expected = shown(pv.get(use_monitor=False, **how))  # type: ignore[arg-type]
            assert shown(pv.get(**how)) == expected, (record, how)  # type: ignore[arg-type]
            assert shown(pv.get(use_monitor=True, **how)) == expected, (record, how)  # type: ignore[arg-type]
            assert shown(unmonitored.get(**how)) == expected, (record, how)  # type: ignore[arg-type]
            assert shown(pv.get_with_metadata(**how)["value"]) == expected, (record, how)  # type: ignore[arg-type]
        assert shown(pv.value) == shown(unmonitored.value) == shown(pv.get()), record


def test_numbers_are_plain_numbers_of_python(engine: Engine, records: Records):
    for record, kind in (
        *(("double", float), ("long", int), ("enum", int), ("string", str), ("one:float", float)),
        *(("one:short", int), ("one:char", int), ("one:string", str), ("double.PREC", int), ("double.DESC", str)),
    ):
        for options in ({}, {"auto_monitor": False}):
            pv = made(records(record), **options)
            for how in ({}, {"use_monitor": False}, {"as_numpy": False}, {"count": 1}):
                assert type(pv.get(**how)) is kind, (record, options, how)


def test_count(engine: Engine, records: Records):
    for options in ({}, {"auto_monitor": False}):
        pv = made(records("doubles"), **options)
        for use_monitor in (True, False):
            for count, expected in ((1, [1.5]), (2, [1.5, -2.5]), (3, [1.5, -2.5, 1e300]), (100, [1.5, -2.5, 1e300])):
                value = pv.get(count=count, use_monitor=use_monitor)
                assert (value.dtype, value.tolist()) == (np.float64, expected)
                assert pv.get(count=count, as_numpy=False, use_monitor=use_monitor) == expected
                assert pv.get_with_metadata(count=count, use_monitor=use_monitor)["value"].tolist() == expected
            for count in (0, None):  # all
                assert pv.get(count=count, use_monitor=use_monitor).tolist() == [1.5, -2.5, 1e300]
    assert made(records("double")).get(count=5) == 1.5
    assert made(records("string")).get(count=5) == "a string"


def test_a_pv_with_a_count(engine: Engine, records: Records):
    pv = made(records("doubles"), count=2)
    for use_monitor in (True, False):
        assert pv.get(use_monitor=use_monitor).tolist() == [1.5, -2.5]
        assert pv.get(use_monitor=use_monitor, count=1).tolist() == [1.5]
        assert pv.get(use_monitor=use_monitor, as_string=True) == "<array size=2, type=time_double>"
        found = pv.get_with_metadata(use_monitor=use_monitor)
        assert (found["value"].tolist(), found["count"], found["nelm"]) == ([1.5, -2.5], 2, 8)
    assert pv.get(count=3).tolist() == [1.5, -2.5, 1e300]
    assert (pv.value.tolist(), pv.count, pv.nelm) == ([1.5, -2.5], 2, 8)
    assert repr(pv) == f"<PV '{records('doubles')}', count=2/8, type=time_double, access=read/write>"
    for count in (0, None, 50):
        assert made(records("doubles"), count=count).get().tolist() == [1.5, -2.5, 1e300]
    assert made(records("double"), count=3).get() == 1.5
    chars = made(records("text"), count=4)
    chars.put("abcdefgh", wait=True)
    assert (chars.get(as_string=True), chars.char_value, bytes(chars.get())) == ("abcd", "abcd", b"abcd")


def test_text(engine: Engine, records: Records):
    """`as_string` knows precision and states without being told to ask for them."""
    for options in ({}, {"auto_monitor": False}, {"form": "native"}, {"form": "ctrl"}):
        for use_monitor in (True, False):
            assert made(records("double"), **options).get(as_string=True, use_monitor=use_monitor) == "1.500"
            assert made(records("enum"), **options).get(as_string=True, use_monitor=use_monitor) == STATES[2]
            assert made(records("long"), **options).get(as_string=True, use_monitor=use_monitor) == "7"
    found = made(records("enum")).get_with_metadata(as_string=True)
    assert (found["value"], found["char_value"]) == (STATES[2], STATES[2])
    made(records("text")).put(TEXT, wait=True)
    assert made(records("text")).get(as_string=True) == TEXT


def test_lists_and_arrays(engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch):
    pv = made(records("longs"))
    assert pv.get(as_numpy=False) == [-(2**31), 0, 2**31 - 1]
    assert list(map(type, pv.get(as_numpy=False))) == [int] * 3
    assert made(records("strings")).get(as_numpy=False) == ["one", "", " three "]
    monkeypatch.setattr(ca, "HAS_NUMPY", False)  # manual, 5.1
    assert list(pv.get()) == [-(2**31), 0, 2**31 - 1]
    assert isinstance(pv.get(), list)


def test_arrays_are_the_users_own(engine: Engine, records: Records):
    """Who changes what he was given changes nothing else."""
    for record in ("doubles", "chars", "enums", "strings"):
        pv = made(records(record))
        for use_monitor in (True, False):
            expected = pv.get(use_monitor=use_monitor).tolist()
            changed = pv.get(use_monitor=use_monitor)
            changed[0] = changed[1]
            assert pv.get(use_monitor=use_monitor).tolist() == expected != changed.tolist()


def test_large_arrays(engine: Engine, records: Records):
    """They are not monitored by themselves, and come as they are now; manual, 5.3.1."""
    numbers = np.random.default_rng(1).normal(size=200_000)
    pv, monitored = made(records("large")), made(records("large"), auto_monitor=True)
    assert (pv.auto_monitor, pv.auto_monitor_mask) == (False, None)
    assert (monitored.auto_monitor, monitored.auto_monitor_mask) == (True, 5)
    assert pv.put(numbers, wait=True, timeout=20) == 1
    for one in (pv, monitored):
        for use_monitor in (True, False):
            value = one.get(use_monitor=use_monitor, timeout=20)
            assert np.array_equal(value, numbers)
    assert (pv.count, pv.nelm, pv.char_value) == (200_000, 200_000, "<array size=200000, type=time_double>")
    assert np.array_equal(pv.get(count=3), numbers[:3])
    engine.put(records("large"), [5.0])
    assert pv.get().tolist() == pv.value.tolist() == [5.0]
    eventually(lambda: monitored.get().tolist() == [5.0], "the update")
    assert (pv.count, monitored.count) == (1, 1)
    engine.put(records("large"), [0.0])


def test_nord_and_nelm(engine: Engine, records: Records):
    """The example of the manual, 5.2."""
    pv, unmonitored = made(records("doubles")), made(records("doubles"), auto_monitor=False)
    for length in (5, 1, 8, 2):
        numbers = np.arange(length) / 5.0
        assert pv.put(numbers, wait=True) == 1
        for one in (pv, unmonitored):
            assert one.get().tolist() == numbers.tolist()
            assert (one.count, one.nelm) == (length, 8)
            assert f"count={length}/8" in repr(one)
    pv.put([1.5, -2.5, 1e300], wait=True)


def test_get_with_metadata(engine: Engine, records: Records):
    pv = made(records("double"))
    pv.units  # noqa: B018 - asks
    found = pv.get_with_metadata()
    assert set(found) == KEYS
    assert {name: found[name] for name in LIMITS} == LIMITS
    timestamp = engine.get(records("double")).timestamp
    assert int(found["posixseconds"]) * 10**9 + found["nanoseconds"] == timestamp
    assert found["timestamp"] == timestamp // 10**9 + 1e-6 * (timestamp % 10**9 // 1000)
    expected = {
        "pvname": pv.pvname,
        "value": 1.5,
        "char_value": "1.500",
        "status": 0,
        "severity": 0,
        "ftype": 20,
        "type": "time_double",
        "typefull": "time_double",
        "count": 1,
        "nelm": 1,
        "access": "read/write",
        "read_access": True,
        "write_access": True,
        "monitor_delta": None,
        "precision": 3,
        "units": "mm",
        "enum_strs": None,
        "host": pv.host,
    }
    assert {name: found[name] for name in expected} == expected
    space = pv.get_with_metadata(as_namespace=True, as_string=True)
    assert isinstance(space, SimpleNamespace)
    assert (space.value, space.units, space.status) == ("1.500", "mm", 0)
    for use_monitor in (True, False):
        alarmed = made(records("alarmed")).get_with_metadata(use_monitor=use_monitor)
        assert (alarmed["status"], alarmed["severity"]) == (dbr.AlarmStatus.HIHI, dbr.AlarmSeverity.MAJOR)


def test_metadata_are_there_if_they_are_asked_for(engine: Engine, records: Records):
    assert made(records("long")).get_with_metadata()["units"] is None
    for how in ({"form": "ctrl"}, {"with_ctrlvars": True}):
        found = made(records("long")).get_with_metadata(**how)
        assert (found["units"], found["upper_ctrl_limit"], found["value"]) == ("µs", 50, 7)
        assert found["timestamp"] > 1_500_000_000
    assert made(records("long"), form="ctrl").get_with_metadata()["units"] == "µs"
    pv = made(records("enum"))
    assert pv.get(with_ctrlvars=True) == 2
    assert pv._args["enum_strs"] == STATES


def test_get_ctrlvars_and_get_timevars(engine: Engine, records: Records):
    pv = made(records("double"))
    assert pv.get_ctrlvars() == {"precision": 3, "units": "mm", "status": 0, "severity": 0, **LIMITS}
    assert pv.get_ctrlvars(timeout=20, warn=False) == pv.get_ctrlvars()
    enum = made(records("enum")).get_ctrlvars()
    assert enum == {"status": 7, "severity": 2, "enum_strs": STATES}
    long = made(records("long")).get_ctrlvars()
    assert long == {"units": "µs", "status": 0, "severity": 0, **LIMITS}
    times = made(records("alarmed")).get_timevars()
    timestamp = engine.get(records("alarmed")).timestamp
    assert times is not None
    assert (times["status"], times["severity"]) == (3, 2)
    assert int(times["posixseconds"]) * 10**9 + times["nanoseconds"] == timestamp
    assert math.floor(times["timestamp"]) == timestamp // 10**9


def test_a_pv_that_is_not_there(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    """None at the timeout, and the log says once which and why."""
    pv = PV(records("nowhere"), connection_timeout=10)
    with caplog.at_level(logging.WARNING, "daqca"):
        begin = time.monotonic()
        assert pv.get(timeout=0.2) is None
        took = time.monotonic() - begin
        assert 0.15 < took < 2
        assert pv.get_with_metadata(timeout=0.01) is None
        pv.connection_timeout = 0.1
        for get in (pv.get, pv.get_ctrlvars, pv.get_timevars, lambda: pv.info, lambda: pv.units):
            begin = time.monotonic()
            assert get() is None
            assert time.monotonic() - begin < 2
    (record,) = caplog.records
    assert records("nowhere") in record.getMessage()
    assert "no server answered for this name" in record.getMessage()


def test_a_server_that_refuses_a_read(make_engine: MakeEngine, access_ioc: AccessIOC, point_at: Any):
    point_at(access_ioc)
    engine = make_engine()
    for options in ({}, {"auto_monitor": False}, {"auto_monitor": True, "form": "ctrl"}):
        pv = engine.pv(access_ioc.name("noread"), **options)
        assert pv.wait_for_connection(20)
        for get in (pv.get, lambda pv=pv: pv.get(use_monitor=False), pv.get_with_metadata, lambda pv=pv: pv.value):
            with pytest.raises(ChannelAccessGetFailure) as raised:
                get()
            assert isinstance(raised.value, ChannelAccessException)
            assert raised.value.status == 368  # ECA_GETFAIL is 152; no read access is this
            assert access_ioc.name("noread") in str(raised.value)
        assert (pv.read_access, pv.access) == (False, "no access")
    pv = engine.pv(access_ioc.name("sometimes"))
    assert pv.get(timeout=20) == 7.0
    engine.put(access_ioc.name("switch"), 2)
    eventually(lambda: pv.read_access is False, "the rights are gone")
    with pytest.raises(ChannelAccessGetFailure):
        pv.get(use_monitor=False)
    engine.put(access_ioc.name("switch"), 0)
    eventually(lambda: pv.read_access, "the rights are back")
    assert pv.get(use_monitor=False) == 7.0


def test_use_monitor(engine: Engine, records: Records):
    """A monitored PV follows; one that is not is asked for each time, by `value` too."""
    monitored, unmonitored = made(records("free")), made(records("free"), auto_monitor=False)
    for number in range(20):
        engine.put(records("free"), number)
        assert unmonitored.value == number
        assert unmonitored.get() == number
        assert monitored.get(use_monitor=False) == number
        assert monitored.get() == number
    assert (unmonitored.auto_monitor_mask, monitored.auto_monitor_mask) == (None, 5)
