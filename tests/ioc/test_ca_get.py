"""Reading with the low-level interface: types, forms and counts, what comes beside values, and late answers."""

from __future__ import annotations

import contextlib
import ctypes
import time
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import ca_records
from support.background import Background
from support.ca_records import LIMITS, SLOW_S, STATES, TEXT, Records, connected, is_read_by_who_waits, nothing_under_way
from support.raw_client import RawClient
from support.recording import eventually

from daqca import dbr
from daqca.errors import CASeverityException, ChannelAccessException, ChannelAccessGetFailure

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
    for ending, name in (("double", "ao"), ("enum", "mbbo"), ("doubles", "waveform"), ("strings", "waveform")):
        chid = connected(records(ending))
        assert ca.get(chid, ftype=dbr.CLASS_NAME) == name
        assert ca.get(chid, ftype=dbr.CLASS_NAME, as_string=True) == name
        assert ca.get_with_metadata(chid, ftype=dbr.CLASS_NAME) == {"value": name}


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


# --- gets that are not waited for, or not long enough: chapter 10.1


def test_a_get_that_is_not_waited_for(ca: ModuleType, records: Records):
    for ending in ("double", "string", "doubles", "strings", "enum"):
        chid = connected(records(ending))
        assert ca.get_complete(chid) is None
        assert ca.get(chid, wait=False) is None
        assert same(ca.get_complete(chid), VALUES[ending])
        assert ca.get_complete(chid) is None
        assert ca.get(chid, wait=False, ftype=dbr.TIME_STRING) is None
        assert ca.get_complete(chid) is None
        assert ca.get_complete(chid, ftype=dbr.TIME_STRING, timeout=5) is not None
        assert ca.get(chid, wait=False) is None
        assert same(ca.get(chid), VALUES[ending])
        assert ca.get_complete(chid) is None  # the get that was waited for has completed it
        assert nothing_under_way(chid)


def test_gets_see_what_was_put_before(ca: ModuleType, own_records: Records):
    """Also if an earlier one of the same type has not been answered yet."""
    chid = connected(own_records("free"))
    for number in range(1, 200):
        ca.get(chid, wait=False)
        ca.put(chid, number)
        if number % 2:
            ca.get(chid, wait=False)
            assert ca.get_complete(chid) == number
        else:
            assert ca.get(chid) == number
    eventually(lambda: nothing_under_way(chid), "all gets are answered")


def test_a_server_that_does_not_answer_in_time(ca: ModuleType, own_records: Records, caplog):
    chid = connected(own_records("free"))
    ca.put(chid, 1, wait=True)
    assert ca.get(chid) == 1
    own_records.ioc.suspend()
    begin = time.monotonic()
    assert ca.get(chid, timeout=0.2) is None
    assert 0.2 <= time.monotonic() - begin < 1
    assert "no answer within 0.2 s; get_complete() may have it later" in caplog.text
    assert ca.get_complete(chid, timeout=0.05) is None
    own_records.ioc.resume()
    assert ca.get_complete(chid, timeout=20) == 1
    assert ca.get_complete(chid) is None
    assert ca.get(chid) == 1
    assert nothing_under_way(chid)


@pytest.mark.parametrize("ending", ["free", "doubles"])
def test_a_get_gives_no_late_answer_of_an_earlier_one(ca: ModuleType, own_records: Records, ending: str):
    chid = connected(own_records(ending))
    own_records.ioc.suspend()
    for _ in range(3):
        assert ca.get(chid, timeout=0.02) is None
    ca.put(chid, [2.5])  # behind these gets, and before the next
    waiting = Background(ca.get, chid, timeout=20)
    eventually(lambda: len(chid.client.operations) == 4, "the next get is under way")
    own_records.ioc.resume()
    assert waiting.join().result == 2.5
    eventually(lambda: nothing_under_way(chid), "the late answers have come")
    assert ca.get(chid) == 2.5


def test_answers_that_came_late_are_old_when_others_write(ca: ModuleType, own_records: Records):
    chid = connected(own_records("free"))
    with RawClient(own_records.ioc.server_port) as other:
        other.connect(own_records("free"))
        own_records.ioc.suspend()
        assert ca.get(chid, timeout=0.02) is None
        own_records.ioc.resume()
        for number in range(1, 20):
            other.put_number(own_records("free"), number)
            assert ca.get(chid) == number


def test_no_request_is_repeated_for_a_get_that_is_not_waited_for(ca: ModuleType, own_records: Records):
    """Whoever polls with ``wait=False`` a server that is slow does not make it slower; another count is another get."""
    chid = connected(own_records("doubles"))
    own_records.ioc.suspend()
    for _ in range(10):
        ca.get(chid, wait=False)
    assert len(chid.client.operations) == 1
    ca.get(chid, wait=False, count=2)
    ca.get(chid, wait=False, count=2)
    assert len(chid.client.operations) == 2
    own_records.ioc.resume()
    assert same(ca.get_complete(chid, timeout=20), VALUES["doubles"][:2])
    eventually(lambda: nothing_under_way(chid), "the first get is answered too")


def test_a_get_that_threads_share(ca: ModuleType, records: Records):
    endings = ["double", "doubles", "enum"]
    chids = [connected(records(ending)) for ending in endings]

    def many() -> list[Any]:
        ca.use_initial_context()
        return [ca.get(chid) for _ in range(100) for chid in chids]

    threads = [Background(many) for _ in range(4)]
    for thread in threads:
        found = thread.join().result
        assert len(found) == 300
        assert all(same(value, VALUES[ending]) for value, ending in zip(found, endings * 100, strict=True))
    assert nothing_under_way(chids[0])


def test_a_get_that_is_lost_with_its_channel(ca: ModuleType, own_records: Records):
    chid = connected(own_records("free"))
    ca.put(chid, 3, wait=True)
    assert ca.get(chid, wait=False, ftype=dbr.LONG) is None
    eventually(lambda: not len(chid.client.operations), "the answer is here")
    own_records.ioc.suspend()
    assert ca.get(chid, wait=False) is None
    waiting = Background(ca.get, chid, timeout=20, ftype=dbr.TIME_DOUBLE)
    eventually(lambda: len(chid.client.operations) == 2, "both are under way")
    own_records.ioc.kill()
    assert waiting.join().result is None
    assert ca.get_complete(chid) is None
    assert ca.get_complete(chid, ftype=dbr.LONG) == 3  # this one had come before
    assert nothing_under_way(chid)


@pytest.mark.parametrize("is_alone", [True, False], ids=["one that waits alone for its answer", "many"])
def test_clearing_a_channel_with_gets_under_way(ca: ModuleType, own_records: Records, is_alone: bool):
    """They end at once, or when the server says that the channel is cleared, and nothing is left of them."""
    other, chid = connected(own_records("long")), connected(own_records("free"))
    operations = chid.client.operations
    assert [ca.get(chid) for _ in range(3)] == [0, 0, 0]
    own_records.ioc.suspend()
    if is_alone:
        waiting = [Background(ca.get, chid, timeout=20)]
        eventually(lambda: is_read_by_who_waits(chid), "it reads the circuit itself")
    else:
        waiting = [Background(ca.get, chid, timeout=20, ftype=ftype) for ftype in (dbr.DOUBLE, dbr.STRING, dbr.STRING)]
        for _ in range(2):
            ca.get(chid, wait=False, ftype=dbr.LONG)
            ca.put(chid, 1)
        eventually(lambda: len(operations) == 5, "all are under way")
    ca.clear_channel(chid)
    assert not len(operations)
    own_records.ioc.resume()
    for thread in waiting:
        assert thread.join().result in ((None, 0.0) if is_alone else (None,))
        assert thread.took < 10
    assert nothing_under_way(chid)
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.get_complete(chid, ftype=dbr.LONG)
    assert ca.get(other) == 7


def test_clearing_a_channel_while_a_thread_waits_in_vain(ca: ModuleType, own_records: Records):
    """The server stays silent: what the thread waited for is given up with its wait."""
    chid = connected(own_records("free"))
    assert [ca.get(chid) for _ in range(3)] == [0, 0, 0]
    own_records.ioc.suspend()
    waiting = Background(ca.get, chid, timeout=0.5)
    eventually(lambda: is_read_by_who_waits(chid), "it reads the circuit itself")
    ca.clear_channel(chid)
    assert waiting.join().result is None
    assert nothing_under_way(chid)
    own_records.ioc.resume()
    assert ca.get(connected(own_records("long"))) == 7


def test_the_time_that_is_given(ca: ModuleType, own_records: Records):
    """By default 1 + log10 of the number of elements, in seconds."""
    double, doubles = connected(own_records("double")), connected(own_records("doubles"))
    own_records.ioc.suspend()
    threads = {
        1.0: Background(ca.get, double),
        1.9: Background(ca.get, doubles),
        1.3: Background(ca.get, doubles, dbr.FLOAT, 2),
        0.1: Background(ca.get, double, dbr.LONG, timeout=0.1),
        0.0: Background(ca.get, double, dbr.SHORT, timeout=0),
    }
    for limit, thread in threads.items():
        assert thread.join().result is None
        assert limit <= thread.took < limit + 0.8
    own_records.ioc.resume()


def test_gets_while_a_put_is_processed(ca: ModuleType, records: Records):
    """A slow record does not hold up what is read from its server."""
    slow, double = connected(records("slow")), connected(records("double"))
    writing = Background(ca.put, slow, 1, wait=True)
    with contextlib.suppress(AssertionError):
        eventually(lambda: ca.get(slow) == 1, "the record is busy", SLOW_S)
    begin = time.monotonic()
    assert ca.get(double) == 1.5
    assert time.monotonic() - begin < SLOW_S / 2
    assert writing.join().result == 1
    assert writing.took > SLOW_S * 0.9
    assert ca.get(slow) == 0
