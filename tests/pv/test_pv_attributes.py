"""What a PV says of itself: every attribute of the manual's chapter 3.1.2, those added since, and the texts of 3.2."""

from __future__ import annotations

import gc
import math
import re
import time
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.access import AccessIOC
from support.ca_records import LIMITS, STATES, TEXT, Records
from support.engines import MakeEngine
from support.ioc import IOCFactory, random_prefix
from support.recording import eventually

from daqca import Engine, ca, dbr
from daqca.errors import ConfigurationError
from daqca.proxies.texts import float_text, long_string, time_text
from daqca.pv_proxy import PV

SHORT_NAMES = ("string", "short", "float", "enum", "char", "long", "double")
NO_LIMITS = dict.fromkeys(LIMITS)
UNSET = {name: math.nan if "alarm" in name or "warning" in name else 0.0 for name in LIMITS}
WHOLE = dict.fromkeys(LIMITS, 0)

# type, value, char_value, nelm, precision, units, enum_strs, limits
TABLE: dict[str, tuple[str, Any, str, int, int | None, str | None, tuple[str, ...] | None, dict[str, Any]]] = {
    "double": ("double", 1.5, "1.500", 1, 3, "mm", None, LIMITS),
    "long": ("long", 7, "7", 1, None, "µs", None, LIMITS),
    "enum": ("enum", 2, STATES[2], 1, None, None, STATES, NO_LIMITS),
    "stateless": ("enum", 1, "1", 1, None, None, None, NO_LIMITS),
    "string": ("string", "a string", "a string", 1, None, None, None, NO_LIMITS),
    "alarmed": ("double", 95.0, "95", 1, 0, "", None, {**UNSET, "upper_alarm_limit": 90.0}),
    "double.PREC": ("short", 3, "3", 1, None, "", None, {**WHOLE, **dict.fromkeys(
        ("upper_disp_limit", "upper_ctrl_limit"), 32767), **dict.fromkeys(
        ("lower_disp_limit", "lower_ctrl_limit"), -32768)}),
    "doubles": ("double", np.array([1.5, -2.5, 1e300]), "<array size=3, type=time_double>", 8, 2, "V", None, UNSET),
    "floats": ("float", np.float32([1.5, -2.5, 0.25]), "<array size=3, type=time_float>", 8, 2, "V", None, UNSET),
    "longs": ("long", np.int32([-(2**31), 0, 2**31 - 1]), "<array size=3, type=time_long>", 8, None, "V", None, WHOLE),
    "shorts": ("short", np.int16([-32768, 0, 32767]), "<array size=3, type=time_short>", 8, None, "V", None, WHOLE),
    "chars": ("char", np.uint8([0, 127, 255]), "", 8, None, "V", None, WHOLE),
    "enums": ("enum", np.uint16([0, 1, 65535]), "<array size=3, type=time_enum>", 8, None, None, None, NO_LIMITS),
    "strings": ("string", np.array(["one", "", " three "]), "<array size=3, type=time_string>", 8, None, None, None,
                NO_LIMITS),
    "full": ("double", np.array([1.0, 2.0, 3.0]), "<array size=3, type=time_double>", 3, 0, "", None, UNSET),
    "one:double": ("double", 4.5, "4", 1, 0, "", None, UNSET),
    "one:float": ("float", 4.5, "4", 1, 0, "", None, UNSET),
    "one:short": ("short", -3, "-3", 1, None, "", None, WHOLE),
    "one:char": ("char", 200, "200", 1, None, "", None, WHOLE),
    "one:string": ("string", "only", "only", 1, None, None, None, NO_LIMITS),
    "no:doubles": ("double", np.zeros(0), "<array size=0, type=time_double>", 8, 0, "", None, UNSET),
    "no:chars": ("char", np.zeros(0, np.uint8), "", 8, None, "", None, WHOLE),
    "no:strings": ("string", np.zeros(0, "U1"), "<array size=0, type=time_string>", 8, None, None, None, NO_LIMITS),
    "no:enums": ("enum", np.zeros(0, np.uint16), "<array size=0, type=time_enum>", 8, None, None, None, NO_LIMITS),
    "text": ("char", np.zeros(0, np.uint8), "", 100, None, "", None, WHOLE),
    "large": ("double", np.zeros(0), "<array size=0, type=time_double>", 200_000, 0, "", None, UNSET),
}  # fmt: skip
ALARMS = {"enum": (7, 2, "STATE", "MAJOR"), "alarmed": (3, 2, "HIHI", "MAJOR")}


def same(found: Any, expected: Any) -> bool:
    """Whether value and type are the same, NaN too."""
    if isinstance(expected, np.ndarray):
        return (
            isinstance(found, np.ndarray)
            and (found.dtype == expected.dtype or found.dtype.kind == expected.dtype.kind == "U")
            and found.flags.writeable
            and np.array_equal(found, expected)
        )
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(found, float) and math.isnan(found)
    return type(found) is type(expected) and bool(found == expected)


@pytest.fixture
def low_level() -> Iterator[ModuleType]:
    """The low-level interface, all of which is ended after the test."""
    yield ca
    ca.finalize_libca()


def test_attributes(engine: Engine, records: Records):
    for record in TABLE:
        check_attributes(engine, records, record)


def check_attributes(engine: Engine, records: Records, record: str) -> None:
    kind, value, text, nelm, precision, units, states, limits = TABLE[record]
    name = records(record)
    pv = PV(name)
    assert pv.wait_for_connection(20)
    reading = engine.get(name)
    assert (pv.pvname, pv.connected, pv.form) == (name, True, "time")
    assert (pv.type, pv.typefull) == (f"time_{kind}", f"time_{kind}")
    assert pv.ftype == SHORT_NAMES.index(kind) + 14
    assert pv.nelm == nelm
    assert pv.host == f"127.0.0.1:{records.ioc.ports.server}"
    assert (pv.read_access, pv.write_access, pv.access) == (True, True, "read/write")
    assert same(pv.value, value)
    assert same(pv.get(), value)
    assert pv.count == (len(value) if isinstance(value, np.ndarray) else 1)
    assert pv.char_value == text
    assert (pv.status, pv.severity, pv.char_status, pv.char_severity) == ALARMS.get(
        record, (0, 0, "NO_ALARM", "NO_ALARM")
    )
    seconds, nanoseconds = divmod(reading.timestamp, 10**9)
    assert seconds > 1_500_000_000
    assert (pv.posixseconds, pv.nanoseconds) == (seconds, nanoseconds)
    assert pv.timestamp == seconds + 1e-6 * (nanoseconds // 1000)
    assert (pv.precision, pv.units, pv.enum_strs) == (precision, units, states)
    for limit, expected in limits.items():
        found = getattr(pv, limit)
        assert same(found, expected if expected is None else type(found)(expected)), limit
        assert isinstance(found, {"double": float, "float": float}.get(kind, int) if expected is not None else object)
    assert (pv.put_complete, pv.monitor_delta) == (None, None)
    assert pv.auto_monitor is (record != "large")
    assert pv.auto_monitor_mask == (None if record == "large" else dbr.DBE_VALUE | dbr.DBE_ALARM)
    assert (dict(pv.callbacks), list(pv.connection_callbacks), list(pv.access_callbacks)) == ({}, [], [])
    count = f"{pv.count}/{nelm}" if nelm > 1 else "1"
    assert repr(pv) == f"<PV '{name}', count={count}, type=time_{kind}, access=read/write>"


def test_chid_and_context(engine: Engine, records: Records, low_level: ModuleType):
    """A channel for the functions of the low-level interface."""
    pv = PV(records("double"))
    assert pv.wait_for_connection(20)
    assert low_level.name(pv.chid) == records("double")
    assert low_level.connect_channel(pv.chid, timeout=20)
    assert low_level.get(pv.chid) == 1.5
    assert pv.context == low_level.current_context()
    assert low_level.name(pv.get_with_metadata()["chid"]) == records("double")


@pytest.mark.parametrize(("form", "first"), [("native", 0), ("time", 14), ("ctrl", 28)])
def test_forms(engine: Engine, records: Records, form: str, first: int):
    """The form decides the type, and whose time the timestamp is."""
    begin = time.time()
    for record in ("double", "long", "enum", "string", "doubles", "strings", "large"):
        pv = PV(records(record), form=form)
        assert pv.wait_for_connection(20)
        kind, number = TABLE[record][0], SHORT_NAMES.index(TABLE[record][0])
        if form == "ctrl" and kind == "string":  # has no control values
            assert (pv.type, pv.ftype) == ("time_string", 14)
        else:
            assert (pv.type, pv.ftype) == (f"{form}_{kind}".removeprefix("native_"), first + number)
        assert same(pv.value, TABLE[record][1])
        assert (pv.units, pv.precision, pv.enum_strs) == (TABLE[record][5], TABLE[record][4], TABLE[record][6])
        timestamp = pv.timestamp
        assert timestamp is not None
        if form == "time":
            assert timestamp == pytest.approx(engine.get(pv.pvname).timestamp / 1e9, abs=2e-6)
            assert timestamp < begin
        else:
            assert begin - 1e-3 <= timestamp <= time.time()
        assert pv.posixseconds == timestamp // 1
        assert abs(pv.posixseconds + 1e-9 * (pv.nanoseconds or 0) - timestamp) < 2e-6


def test_the_time_of_arrival_where_another_pv_monitors_it_already(engine: Engine, records: Records):
    first = PV(records("double"))
    assert first.wait_for_connection(20)
    eventually(lambda: engine.last(first._slot), "the first update")
    engine.ask(first._slot, 20)  # what else came with it has been taken in
    begin = time.time()
    second = PV(records("double"), form="native")
    assert second.get(timeout=20) == 1.5
    assert second.timestamp is not None
    assert begin - 1e-3 <= second.timestamp <= time.time()
    assert second.get_with_metadata(form="time")["timestamp"] == first.timestamp
    assert first.get_with_metadata(form="native")["timestamp"] == first.timestamp


def test_the_timestamp_is_of_the_last_update(engine: Engine, records: Records):
    timed, arrived = PV(records("free")), PV(records("free"), form="native")
    assert timed.wait_for_connection(20)
    for number in (1, 2):
        begin = time.time()
        engine.put(records("free"), number)
        eventually(lambda number=number: timed.get() == arrived.get() == number, "the update")
        for pv in (timed, arrived):
            assert pv.timestamp is not None
            assert begin - 1e-3 <= pv.timestamp <= time.time()
        assert arrived.timestamp >= timed.timestamp  # type: ignore[operator]


def test_a_pv_that_never_connected(engine: Engine, records: Records):
    pv = PV(records("nowhere"), connection_timeout=0.05)
    begin = time.monotonic()
    assert (pv.connected, pv.type, pv.typefull, pv.access, pv.nelm) == (False, "unknown", "unknown", "unknown", -1)
    assert (pv.host, pv.ftype, pv.count, pv.read_access, pv.write_access) == (None,) * 5
    assert time.monotonic() - begin < 0.5
    assert (pv.value, pv.status, pv.severity, pv.char_status, pv.char_severity, pv.timestamp) == (None,) * 6
    assert (pv.posixseconds, pv.nanoseconds, pv.put_complete, pv.auto_monitor_mask, pv.monitor_delta) == (None,) * 5
    assert pv.char_value == "None"
    assert (pv.auto_monitor, PV(records("nowhere"), auto_monitor=False).auto_monitor) == (None, False)
    assert repr(pv) == f"<PV '{records('nowhere')}': not connected>"
    pv.connection_timeout = 0.01
    assert pv.info is None
    assert pv.get_ctrlvars(timeout=5) is None
    assert pv.get_timevars(timeout=5) is None
    assert (pv.precision, pv.upper_ctrl_limit) == (None, None)


def test_attributes_of_a_pv_that_was_just_made(engine: Engine, records: Records):
    """What needs the connection waits for it; nobody has called anything before."""
    assert PV(records("double")).units == "mm"
    assert PV(records("enum")).enum_strs == STATES
    assert PV(records("enum")).char_value == STATES[2]
    assert PV(records("long")).severity == 0
    assert PV(records("long")).timestamp > 1_500_000_000  # type: ignore[operator]
    assert PV(records("double")).upper_ctrl_limit == 50
    assert PV(records("double")).precision == 3
    assert "1.500" in str(PV(records("double")).info)


def test_access(make_engine: MakeEngine, access_ioc: AccessIOC, point_at: Any):
    point_at(access_ioc)
    engine = make_engine()
    expected = {"open": (True, True), "nowrite": (True, False), "noread": (False, False), "sometimes": (True, False)}
    pvs = {name: engine.pv(access_ioc.name(name)) for name in expected}
    words = {(True, True): "read/write", (True, False): "read-only", (False, False): "no access"}
    for name, pv in pvs.items():
        assert pv.wait_for_connection(20)
        assert (pv.read_access, pv.write_access) == expected[name], name
        assert pv.access == words[expected[name]]
        assert repr(pv).endswith(f"access={pv.access}>")
    pv = pvs["sometimes"]
    for switch, rights in ((1, (True, True)), (2, (False, False)), (0, (True, False))):
        engine.put(access_ioc.name("switch"), switch)
        eventually(lambda rights=rights: (pv.read_access, pv.write_access) == rights, f"the rights are {rights}")
        assert pv.access == words[rights]
        pv.force_read_access_rights()
        if rights[0]:
            assert pv.get_with_metadata(timeout=20)["access"] == words[rights]


def test_a_pv_that_was_lost(own_engine: Engine, own_records: Records, caplog: pytest.LogCaptureFixture):
    """It keeps what it had, and says once that it is lost; nothing waits."""
    options: dict[str, dict[str, Any]] = {"double": {}, "enum": {}, "doubles": {"count": 2}, "text": {"count": 3}}
    options |= {"long": {"form": "native"}, "string": {"auto_monitor": False}, "large": {}}
    pvs = {record: PV(own_records(record), **more) for record, more in options.items()}
    names = ("value", "char_value", "count", "nelm", "status", "severity", "timestamp", "nanoseconds", "type", "ftype",
             "units", "precision", "enum_strs", "upper_ctrl_limit")  # fmt: skip
    assert pvs["text"].put("hello", wait=True, timeout=20) == 1
    for pv in pvs.values():
        assert pv.wait_for_connection(20)
        assert pv.get(timeout=20) is not None
    before = {record: [getattr(pv, name) for name in names] for record, pv in pvs.items()}
    assert before["text"][1] == "hel"
    own_records.ioc.stop()
    eventually(lambda: not any(pv.connected for pv in pvs.values()), "all are lost")
    caplog.clear()
    begin = time.monotonic()
    for _ in range(2):
        for record, pv in pvs.items():
            for name, item in zip(names, before[record], strict=True):
                assert np.array_equal(getattr(pv, name), item), (record, name)
    assert time.monotonic() - begin < 1
    for pv in pvs.values():
        (text,) = (each.getMessage() for each in caplog.records if f"{pv.pvname}:" in each.getMessage())
        assert "was connected, and is not now" in text
        assert repr(pv) == f"<PV '{pv.pvname}': not connected>"
        assert pv.host is None
        assert pv.get(timeout=0.01) is None


def test_attributes_cannot_be_assigned_to(engine: Engine, records: Records):
    pv = PV(records("double"))
    for name in ("char_value", "status", "type", "count", "nelm", "severity", "timestamp", "precision", "units",
                 "enum_strs", "info", "put_complete", "host", "access", "upper_disp_limit", "connected"):  # fmt: skip
        with pytest.raises(AttributeError):
            setattr(pv, name, 1)


def test_names_and_forms(engine: Engine, records: Records):
    pv = PV(f" {records('double')} ", form="CTRL")
    assert (pv.pvname, pv.form, pv.get(timeout=20)) == (records("double"), "ctrl", 1.5)
    with pytest.raises(ConfigurationError, match="native, time, ctrl"):
        PV(records("double"), form="other")
    other = PV(records("double"))
    assert pv == other
    assert pv != PV(records("long"))
    assert pv != "a text"
    assert len({pv, other}) == 1


def test_info(engine: Engine, records: Records):
    pv = PV(records("double"))
    assert pv.wait_for_connection(20)
    begin, *lines, callbacks, end = str(pv.info).split("\n")
    assert begin == f"== {records('double')}  (time_double) =="
    assert end == "============================="
    assert callbacks == "   PV is internally monitored, with 0 user-defined callbacks"
    assert pv.timestamp is not None
    day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(pv.timestamp))
    found = dict(re.fullmatch(r"   (\w+) += (.*)", line).groups() for line in lines)  # type: ignore[union-attr, misc]
    assert re.fullmatch(rf"{pv.timestamp:.3f} \({day[:-2]}\d\d\.\d{{5}}\)", found.pop("timestamp"))
    assert found == {
        "value": "1.5",
        "char_value": "'1.500'",
        "count": "1",
        "nelm": "1",
        "type": "time_double",
        "units": "mm",
        "precision": "3",
        "host": f"127.0.0.1:{records.ioc.ports.server}",
        "access": "read/write",
        "status": "0",
        "char_status": "NO_ALARM",
        "severity": "0",
        "char_severity": "NO_ALARM",
        "posixseconds": str(pv.posixseconds),
        "nanoseconds": str(pv.nanoseconds),
        **{name: str(float(item)) for name, item in LIMITS.items()},
    }


def test_info_of_others(engine: Engine, records: Records):
    def listener(**kw: Any) -> None:
        pass

    pv = PV(records("enum"), callback=listener)
    assert pv.wait_for_connection(20)
    enum = str(pv.info)
    assert f"char_value      = '{STATES[2]}'" in enum
    states = "\n".join(f"       {number} = {state}" for number, state in enumerate(STATES))
    assert f"   enum strings: \n{states}\n" in enum
    assert f"with 1 user-defined callbacks\n      listener in file '{__file__}'" in enum
    array = str(PV(records("doubles"), form="native").info)
    assert array.startswith(
        f"== {records('doubles')}  (native_double) ==\n   value           =  array  [1.5,-2.5,1e+300]"
    )
    assert "   count           = 3\n   nelm            = 8\n" in array
    unmonitored = PV(records("doubles"), form="ctrl", auto_monitor=False)
    assert str(unmonitored.info).endswith("   PV is NOT internally monitored\n=============================")
    strings = str(PV(records("strings")).info)
    assert "(time_string) ==\n   value           =  array  [one,, three ]" in strings
    engine.put(records("doubles"), np.arange(7.0))
    pv = PV(records("doubles"), auto_monitor=False)
    assert " array  [0,1,2,3,4,....]\n" in str(pv.info)
    engine.put(records("doubles"), [1.5, -2.5, 1e300])
    for record in TABLE:
        assert f"== {records(record)}  (" in str(PV(records(record)).info)


# --- the table of string representations, manual, chapter 3.2 -----------------------------------

FLOATS = [
    # value, precision, as the manual's formula has it
    (1.5, 3, "1.500"),
    (0.0, 2, "0.00"),
    (-2.345, 2, "-2.35"),
    (99999.4, 2, "99999.40"),
    (100000.0, 2, "1e+05"),
    (123456.0, 8, "123456"),
    (-123456.0, 3, "-123456.000"),  # the logarithm of a negative number does not exist
    (1e22, 3, "1e+22"),
    (0.0001, 3, "0.000"),
    (0.000001, 3, "1e-06"),
    (1e300, 0, "1e+300"),
    (2.6, 0, "3"),
    (math.inf, 2, "inf"),
    (-math.inf, 2, "-inf"),
    (math.nan, 2, "nan"),
    (1.25, -1, "1.25"),
    (1e22, -3, "1e+22"),
]


def formula(value: float, precision: int) -> str:
    """The manual's table, word for word; a text where the formula has none."""
    try:
        form = "%%.%ig" if 4 < abs(int(math.log10(abs(value + 1e-9)))) else "%%.%if"  # noqa: SIM300
        return (form % precision) % value
    except (ValueError, OverflowError):
        return str(value)


@pytest.mark.parametrize(("value", "precision"), [case[:2] for case in FLOATS])
def test_texts_of_floats_are_those_of_the_formula(value: float, precision: int):
    assert float_text(value, precision) == formula(value, precision)


def test_texts_of_floats(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
    """Through a record: its value and its PREC."""
    name = random_prefix() + "x"
    point_at(make_ioc(f'record(ao, "{name}") {{ field(PINI, YES) }}'))
    engine = make_engine()
    pv = engine.pv(name)
    assert pv.wait_for_connection(20)
    for value, precision, _ in FLOATS:
        engine.put(f"{name}.PREC", precision)
        engine.put(name, value)
        eventually(lambda precision=precision: pv.precision == precision, "the precision")
        assert pv.get(use_monitor=False) == pytest.approx(value, nan_ok=True)
        assert pv.char_value == pv.get(as_string=True) == formula(value, precision)


def test_long_strings(engine: Engine, records: Records):
    """Up to the first zero, without blanks at the end; as the manual has it, for ASCII."""
    pv = PV(records("text"))
    assert pv.wait_for_connection(20)
    for value, expected in (
        (TEXT, TEXT),
        ([65, 66, 0, 67], "AB"),
        ([65, 66], "AB"),
        (b"AB \t ", "AB"),
        (b"  AB", "  AB"),
        (b"\0AB", ""),
        ("übermäßig 20 °C", "übermäßig 20 °C"),
        (b"20 \xb0C", "20 °C"),
        (b"x" * 100, "x" * 100),
    ):
        assert pv.put(value, wait=True) == 1
        assert pv.get(as_string=True) == pv.char_value == expected, value
        assert bytes(pv.get()).split(b"\0")[0].rstrip() == bytes(pv.value).split(b"\0")[0].rstrip()
    assert long_string([72, 105, 0, 1]) == "Hi"


def test_char_waveforms_that_are_not_short(engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch):
    """Only `as_string` makes a text of a long one; `char_value` says what it is (manual, 5.3)."""
    pv = PV(records("text"))
    pv.put("a text", wait=True)
    monkeypatch.setattr(ca, "AUTOMONITOR_MAXLENGTH", 100)
    pv = PV(records("text"))
    assert pv.char_value == "<array size=7, type=time_char>"
    assert pv.get(as_string=True) == "a text"
    monkeypatch.setattr(ca, "AUTOMONITOR_MAXLENGTH", 101)
    assert pv.char_value == "a text"


def test_texts_of_enums(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
    """The name of the state; its number, where it has no name."""
    name = random_prefix() + "x"
    point_at(make_ioc(f'record(mbbi, "{name}") {{ field(PINI, YES) field(ZRST, "a") field(TWST, "ü") }}'))
    engine = make_engine()
    pv = engine.pv(name)
    assert pv.wait_for_connection(20)
    assert pv.enum_strs == ("a", "", "ü")
    for value, expected in ((0, "a"), (1, ""), (2, "ü"), (3, "3"), (65535, "65535")):
        engine.put(f"{name}.VAL", value)
        assert pv.get(use_monitor=False) == value
        assert (pv.char_value, pv.get(as_string=True)) == (expected, expected)


def test_texts_of_arrays(engine: Engine, records: Records):
    """Of one element it is that of the element (count is 1), of several it says how many."""
    pv = PV(records("doubles"))
    assert pv.wait_for_connection(20)
    for value, expected in (([4.5], "4.50"), ([1.0, 2.0], "<array size=2, type=time_double>")):
        pv.put(value, wait=True)
        assert pv.get(as_string=True) == pv.char_value == expected
    pv.put([1.5, -2.5, 1e300], wait=True)
    strings = PV(records("strings"))
    strings.put(["single"], wait=True)
    assert strings.get(as_string=True) == strings.char_value == "single"
    strings.put(["one", "", " three "], wait=True)
    native = PV(records("doubles"), form="native")
    assert native.get(as_string=True) == "<array size=3, type=double>"
    few = PV(records("doubles"), count=2)
    assert few.get(as_string=True) == few.char_value == "<array size=2, type=time_double>"
    assert few.get(as_string=True, count=1) == "1.50"


def test_texts_of_nothing(engine: Engine, records: Records):
    assert PV(records("nowhere"), connection_timeout=0.01).char_value == "None"
    pv = PV(records("double"))
    assert pv.wait_for_connection(20)
    assert pv._set_charval(None) == "None"
    assert pv._set_charval(2.0) == "2.000"


def test_the_text_of_a_time():
    assert time_text(1.0)[-6:] == ".00000"
    assert time_text(1.123456)[-6:] == ".12346"
    assert time_text(1.999996) == time_text(2.0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{5}", time_text())


def test_a_pv_that_nobody_uses_any_more_is_gone(engine: Engine, records: Records):
    gc.collect()
    pv = PV(records("double"))
    assert (pv.get(timeout=20), pv.units) == (1.5, "mm")
    ghost = weakref.ref(pv)
    del pv
    gc.collect()
    assert ghost() is None
