"""Reading with the low-level interface: types, forms and counts of values, and what comes beside them."""

from __future__ import annotations

import ctypes
import time
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import ca_records
from support.ca_records import LIMITS, STATES, TEXT, Records, connected, nothing_under_way

from daqca import dbr
from daqca.errors import CASeverityException, ChannelAccessGetFailure

ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records

VALUES: dict[str, Any] = {
    "double": 1.5,
    "long": 7,
    "enum": 2,
    "string": "a string",
    "one:double": 4.5,
    "one:float": 4.5,
    "one:short": -3,
    "one:char": 200,
    "one:string": "only",
    "doubles": np.array([1.5, -2.5, 1e300]),
    "floats": np.array([1.5, -2.5, 0.25], "f4"),
    "longs": np.array([-(2**31), 0, 2**31 - 1], "i4"),
    "shorts": np.array([-(2**15), 0, 2**15 - 1], "i2"),
    "chars": np.array([0, 127, 255], "u1"),
    "enums": np.array([0, 1, 65535], "u2"),
    "strings": ["one", "", " three "],
    "full": np.array([1.0, 2.0, 3.0]),
    "no:doubles": np.zeros(0),
    "no:chars": np.zeros(0, "u1"),
    "no:enums": np.zeros(0, "u2"),
    "no:strings": [],
    "double.DESC": "",
    "double.SCAN": 0,
    "doubles.NORD": 3.0,
}
ROWS = {"plain": 0, "STS": 7, "TIME": 14, "GR": 21, "CTRL": 28}


def same(actual: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return isinstance(actual, np.ndarray) and actual.dtype == expected.dtype and np.array_equal(actual, expected)
    return type(actual) is type(expected) and actual == expected


# --- types


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("ending", VALUES)
def test_values_of_every_type_in_every_row(ca: ModuleType, records: Records, ending: str, row: str):
    chid = connected(records(ending))
    ftype = ca.field_type(chid) + ROWS[row]
    for _ in range(2):
        assert same(ca.get(chid, ftype=ftype), VALUES[ending])
        assert same(ca.get(int(chid)), VALUES[ending])
    assert ca.get(chid, wait=False, ftype=ftype) is None
    assert same(ca.get_complete(chid, ftype=ftype), VALUES[ending])
    assert nothing_under_way(chid)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_server_converts(ca: ModuleType, records: Records, row: int):
    double, doubles = connected(records("double")), connected(records("doubles"))
    for ftype, value in enumerate(("1.500", 1, 1.5, 1, 1, 1, 1.5)):
        assert same(ca.get(double, ftype=row + ftype), value)
    assert same(ca.get(doubles, ftype=row + dbr.FLOAT, count=2), np.array([1.5, -2.5], "f4"))
    assert same(ca.get(doubles, ftype=row + dbr.LONG, count=2), np.array([1, -2], "i4"))
    assert ca.get(doubles, ftype=row + dbr.STRING) == ["1.50", "-2.50", "1.00e+300"]
    assert ca.get(connected(records("enum")), ftype=row + dbr.STRING) == "Wait for ever"
    with pytest.raises(ChannelAccessGetFailure, match=r"P?:?string as .*LONG: its server answered: ") as failed:
        ca.get(connected(records("string")), ftype=row + dbr.LONG)
    assert failed.value.status == dbr.ECA_GETFAIL


def test_class_names(ca: ModuleType, records: Records):
    for ending, name in (("double", "ao"), ("enum", "mbbo"), ("strings", "waveform"), ("large", "waveform")):
        chid = connected(records(ending))
        assert ca.get(chid, ftype=dbr.CLASS_NAME) == name
        assert ca.get(chid, ftype=dbr.CLASS_NAME, as_string=True) == name
        assert ca.get_with_metadata(chid, ftype=dbr.CLASS_NAME) == {"value": name}
    # An array of them, as servers offer, would be eight megabytes of rubbish here.
    assert chid.client.context.stats()["bytes_received"] < 10_000


def test_alarms_that_are_to_be_acknowledged(ca: ModuleType, own_records: Records):
    """STSACK_STRING tells of them, PUT_ACKT and PUT_ACKS change them."""
    chid = connected(own_records("alarmed"))
    known = {"status": 3, "severity": 2, "ackt": 1, "acks": 2, "value": "95"}
    assert ca.get_with_metadata(chid, ftype=dbr.STSACK_STRING) == known
    assert ca.get(chid, ftype=dbr.STSACK_STRING) == "95"
    assert ca.put(chid, 0, wait=True, ftype=dbr.PUT_ACKT) == 1
    assert ca.get_with_metadata(chid, ftype=dbr.STSACK_STRING) == {**known, "ackt": 0}
    ca.put(chid, 1, wait=True, ftype=dbr.PUT_ACKS)  # less than the severity to acknowledge
    assert ca.get_with_metadata(chid, ftype=dbr.STSACK_STRING)["acks"] == 2
    ca.put(chid, 2, ftype=dbr.PUT_ACKS)
    assert ca.get_with_metadata(chid, ftype=dbr.STSACK_STRING)["acks"] == 0
    assert ca.get(chid) == 95
    for ftype in (dbr.PUT_ACKT, dbr.PUT_ACKS):
        with pytest.raises(ChannelAccessGetFailure, match="as PUT_ACK"):
            ca.get(chid, ftype=ftype)


def test_types_and_counts_that_are_none(ca: ModuleType, records: Records):
    chid = connected(records("doubles"))
    for ftype in (-1, 39, 99, 254, 255, 256):
        with pytest.raises(CASeverityException, match=rf"get returned .*{ftype}, for .*doubles"):
            ca.get(chid, ftype=ftype)
    with pytest.raises(CASeverityException, match=r"get returned .*count.*-1, for .*doubles"):
        ca.get(chid, count=-1)
    for rubbish in ("6", 6.0, [6]):
        with pytest.raises(TypeError):
            ca.get(chid, ftype=rubbish)
        with pytest.raises(TypeError):
            ca.get(chid, count=rubbish)
    assert nothing_under_way(chid)


# --- counts and forms


def test_counts(ca: ModuleType, records: Records):
    doubles, chars, strings = (connected(records(ending)) for ending in ("doubles", "chars", "strings"))
    for row in ROWS.values():
        for count in (None, 0, 3):
            assert same(ca.get(doubles, row + dbr.DOUBLE, count), VALUES["doubles"])
        assert same(ca.get(doubles, row + dbr.DOUBLE, 2), VALUES["doubles"][:2])
        assert same(ca.get(doubles, row + dbr.DOUBLE, 1), 1.5)
        assert same(ca.get(chars, row + dbr.CHAR, 1), VALUES["chars"][:1])
        assert ca.get(strings, row + dbr.STRING, 1) == ["one"]
        assert ca.get(strings, row + dbr.STRING, 2) == ["one", ""]
        # With a count a server sends as many, and fills up with zeros.
        assert same(ca.get(doubles, row + dbr.DOUBLE, 5), np.append(VALUES["doubles"], [0, 0]))
        assert len(ca.get(doubles, row + dbr.DOUBLE, 10**6)) == 8
    assert ca.get(connected(records("double")), count=3) == 1.5


def test_an_array_changes_its_length(ca: ModuleType, own_records: Records):
    chid = connected(own_records("doubles"))
    for n in (8, 5, 1, 2):
        values = np.arange(n) + 0.5
        assert ca.put(chid, values, wait=True) == 1
        assert np.array_equal(np.atleast_1d(ca.get(chid)), values)
        assert ca.element_count(chid) == 8


def test_a_large_array(ca: ModuleType, records: Records):
    chid = connected(records("large"))
    values = np.random.default_rng(1).random(200_000)
    assert ca.put(chid, values, wait=True) == 1
    assert np.array_equal(ca.get(chid), values)
    assert np.array_equal(ca.get(chid, dbr.CTRL_DOUBLE, 70_000), values[:70_000])
    assert list(ca.get(chid, count=1000, as_numpy=False)) == values[:1000].tolist()
    assert ca.get(chid, as_string=True) == "<array count=200000, type=6>"


@pytest.mark.parametrize("ending", ["doubles", "floats", "longs", "shorts", "chars", "enums", "no:doubles", "no:chars"])
def test_without_numpy(ca: ModuleType, records: Records, ending: str):
    """Chapter 5.1: arrays of ctypes, which a list can be made of."""
    chid = connected(records(ending))
    ctype = dbr.Map[ca.field_type(chid)]
    for row in ROWS.values():
        array = ca.get(chid, ca.field_type(chid) + row, as_numpy=False)
        assert isinstance(array, ctypes.Array)
        assert array._type_ is ctype
        assert list(array) == VALUES[ending].tolist()
    ca.HAS_NUMPY = False
    assert isinstance(ca.get(chid), ctypes.Array)
    assert list(ca.get(chid)) == VALUES[ending].tolist()
    assert ca.get(connected(records("strings"))) == VALUES["strings"]
    assert ca.get(connected(records("double"))) == 1.5


def test_an_array_is_the_readers_own(ca: ModuleType, records: Records):
    chid = connected(records("full"))
    for as_numpy in (True, False):
        array = ca.get(chid, as_numpy=as_numpy)
        array[0] = 99
        assert list(ca.get(chid, as_numpy=as_numpy)) == [1, 2, 3]


def test_strings_of_values(ca: ModuleType, records: Records):
    def text(ending: str, **options: Any) -> str:
        return ca.get(connected(records(ending)), as_string=True, **options)

    assert text("double") == "1.5"
    assert text("string") == "a string"
    assert text("one:char") == "200"
    assert text("enum") == "Wait for ever"
    assert text("enum", ftype=dbr.TIME_ENUM) == text("enum", ftype=dbr.CTRL_ENUM) == "Wait for ever"
    assert text("enum", ftype=dbr.LONG) == "2"
    assert text("stateless") == "1"
    assert text("doubles") == "<array count=8, type=6>"
    assert text("doubles", count=3) == "<array count=3, type=6>"
    assert text("doubles", count=1) == "1.5"
    assert text("doubles", ftype=dbr.TIME_DOUBLE) == "<array count=8, type=20>"
    assert text("enums") == "<array count=8, type=3>"
    assert text("strings") == "<array count=8, type=0>"
    assert text("strings", count=1) == "one"
    assert text("no:chars") == ""
    assert text("no:doubles") == "<array count=8, type=6>"


def test_text_in_characters(ca: ModuleType, records: Records):
    """Chapter 5.3: longer than a string of EPICS can be."""
    chid = connected(records("text"))
    ca.put(chid, TEXT, wait=True)
    assert bytes(ca.get(chid)) == TEXT.encode() + b"\0"
    assert ca.get(chid, as_string=True) == TEXT
    assert ca.get(chid, as_string=True, as_numpy=False) == TEXT
    assert ca.get(chid, as_string=True, ftype=dbr.TIME_CHAR) == TEXT
    assert ca.get(chid, as_string=True, count=13) == TEXT[:13]
    assert ca.get(chid, wait=False) is None
    assert ca.get_complete(chid, as_string=True) == TEXT
    # The manual's own way, for text in another encoding.
    ca.put(chid, "5 µm".encode("latin-1"), wait=True)
    assert str(bytes(list(ca.get(chid))), "LATIN-1") == "5 µm"


def test_long_arrays_of_characters_have_no_text(ca: ModuleType, records: Records):
    chid = connected(records("text"))
    ca.put(chid, TEXT, wait=True)
    ca.AUTOMONITOR_MAXLENGTH = 101
    assert ca.get(chid, as_string=True) == TEXT
    ca.AUTOMONITOR_MAXLENGTH = 100
    assert ca.get(chid, as_string=True) == "<array count=100, type=4>"
    assert ca.get(chid, as_string=True, count=13) == TEXT[:13]


# --- what comes beside the value


def test_metadata_by_type(ca: ModuleType, records: Records):
    chid = connected(records("double"))
    alarm = {"status": 0, "severity": 0}
    graphics = {name: limit for name, limit in LIMITS.items() if "ctrl" not in name}
    assert ca.get_with_metadata(chid) == {"value": 1.5}
    assert ca.get_with_metadata(chid, ftype=dbr.STS_DOUBLE) == {**alarm, "value": 1.5}
    known = ca.get_with_metadata(chid, ftype=dbr.TIME_DOUBLE)
    assert known.keys() == {"status", "severity", "timestamp", "posixseconds", "nanoseconds", "value"}
    assert ca.get_with_metadata(chid, ftype=dbr.GR_DOUBLE) == {
        **alarm, **graphics, "precision": 3, "units": "mm", "value": 1.5,
    }  # fmt: skip
    assert ca.get_with_metadata(chid, ftype=dbr.CTRL_DOUBLE) == {
        **alarm, **LIMITS, "precision": 3, "units": "mm", "value": 1.5,
    }  # fmt: skip
    assert ca.get_with_metadata(chid, wait=False, ftype=dbr.STS_DOUBLE) is None
    assert ca.get_complete_with_metadata(chid, ftype=dbr.STS_DOUBLE) == {**alarm, "value": 1.5}


def test_control_variables(ca: ModuleType, records: Records):
    known = ca.get_ctrlvars(connected(records("double")))
    assert known == {**LIMITS, "status": 0, "severity": 0, "precision": 3, "units": "mm"}
    assert all(type(known[name]) is float for name in LIMITS)
    known = ca.get_ctrlvars(connected(records("long")), timeout=2.0, warn=False)
    assert known == {**LIMITS, "status": 0, "severity": 0, "units": "µs"}
    assert all(type(known[name]) is int for name in LIMITS)
    known = ca.get_ctrlvars(connected(records("enum")))
    assert known == {"status": 7, "severity": 2, "enum_strs": STATES}
    assert ca.get_ctrlvars(connected(records("stateless"))) == {"status": 0, "severity": 0}
    # Of a string there is no CTRL variant; what PyEpics gives instead is that of TIME.
    assert ca.get_ctrlvars(connected(records("string"))).keys() == ca.get_timevars(connected(records("string"))).keys()
    known = ca.get_ctrlvars(connected(records("doubles")))
    assert (known["units"], known["precision"]) == ("V", 2)
    for function, wanted in (
        ("get_precision", {"double": 3, "doubles": 2, "one:float": 0, "long": 0, "enum": 0, "string": 0}),
        ("get_enum_strings", {"enum": STATES, "stateless": None, "double": None, "string": None}),
        ("get_severity", {"double": 0, "enum": 2, "alarmed": 2}),
    ):
        for ending, value in wanted.items():
            assert getattr(ca, function)(connected(records(ending))) == value, (function, ending)


def test_channels_are_given_time_to_connect(ca: ModuleType, records: Records):
    """Nothing is said of a channel that was created a moment ago and may be of any type."""
    assert ca.get_precision(ca.create_channel(records("double"))) == 3
    assert ca.get_enum_strings(ca.create_channel(records("enum"))) == STATES
    assert ca.get_ctrlvars(ca.create_channel(records("long")))["units"] == "µs"
    assert ca.get_severity(ca.create_channel(records("alarmed"))) == 2
    assert ca.get_timestamp(ca.create_channel(records("string"))) > 0
    assert ca.get(ca.create_channel(records("doubles")), count=1) == 1.5


def test_time_variables(ca: ModuleType, records: Records):
    chid = connected(records("free"))
    before = time.time()
    ca.put(chid, 2.5, wait=True)
    known = ca.get_timevars(chid, timeout=5.0)
    assert known.keys() == {"status", "severity", "timestamp", "posixseconds", "nanoseconds"}
    assert before - 1 < known["timestamp"] < time.time() + 1
    assert known["posixseconds"] == int(known["timestamp"])
    assert abs(known["posixseconds"] + known["nanoseconds"] * 1e-9 - known["timestamp"]) < 2e-6
    assert ca.get_timestamp(chid) == known["timestamp"]


def test_units_and_text_in_latin_1(ca: ModuleType, records: Records):
    """Both were written in UTF-8 into the database: so that shows whether the option is looked at."""
    chid = connected(records("long"))
    ca.IOENCODING = "latin-1"
    assert ca.get_ctrlvars(chid)["units"] == "Âµs"
    string = connected(records("string"))
    ca.put(string, "5 µm", wait=True)
    assert ca.get(string) == "5 µm"
    ca.IOENCODING = "utf-8"
    assert ca.get(string) == "5 µm"  # what is not UTF-8 is taken for Latin-1
    ca.put(string, "5 µm €", wait=True)
    assert ca.get(string) == "5 µm €"
    ca.IOENCODING = "latin-1"
    assert ca.get(string) == "5 µm €".encode().decode("latin-1")
    ca.IOENCODING = "utf-8"
    ca.put(string, "a string", wait=True)
