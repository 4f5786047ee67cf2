"""The Snapshot container: columns, values, readings, what is missing."""

import pickle

import numpy as np
import pytest
from support.snapshots import STAMP, every_kind, same_value, with_metadata

from daqca.outcome import Outcome
from daqca.reading import LIMITS, Metadata, Reading, decode_text, encode_text, severity_name, status_name, time_text
from daqca.snapshot import Snapshot


def test_values_have_the_type_of_the_pv():
    snapshot = every_kind()
    expected = {
        "T:string": "a text",
        "T:short": -5,
        "T:float": 0.25,
        "T:enum": 2,
        "T:char": 200,
        "T:long": -2147483648,
        "T:double": 1e-300,
        "T:nan": np.nan,
        "T:wave": np.array([1.5, -2.5, np.inf]),
        "T:one": np.array([7], np.int32),
        "T:none": np.array([], np.int16),
        "T:strings": np.array(["one", "µm"]),
        "T:long_string": np.frombuffer(b"hello\0", "u1"),
        "T:stale": 3.0,
        "T:missing": None,
        "T:locked": None,
    }
    for name, value in expected.items():
        assert same_value(snapshot[name].value, value), name
    by_column = snapshot.to_dict()
    assert list(by_column) == list(reversed(expected))
    for name, value in expected.items():
        assert same_value(by_column[name], value), name
        assert same_value(snapshot[name].value, value), name


def test_counts_come_from_the_data_if_not_given():
    snapshot = every_kind()
    assert snapshot.count.tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 3, 1, 0, 2, 6, 1, 0, 0]


def test_missing_names_everything_that_was_not_read_as_asked():
    snapshot = every_kind()
    assert snapshot.missing == {
        "T:stale": Outcome.STALE,
        "T:missing": Outcome.NEVER_FOUND,
        "T:locked": Outcome.NO_READ_ACCESS,
    }
    assert snapshot.ok.sum() == len(snapshot) - 3
    assert snapshot.outcomes == {
        Outcome.OK: 13,
        Outcome.STALE: 1,
        Outcome.NEVER_FOUND: 1,
        Outcome.NO_READ_ACCESS: 1,
    }
    assert snapshot["T:short"].ok
    assert not snapshot["T:stale"].ok


def test_units_are_texts_where_they_were_asked_for():
    snapshot = with_metadata()
    units = snapshot.units
    assert units == [reading.units for reading in snapshot]
    assert {name: text for name, text in zip(snapshot.names, units, strict=True) if text} == {
        "T:double": "µm",
        "T:nan": "°C",
    }
    assert all(type(text) is str for text in units)
    assert every_kind().units is None


def test_a_reading_carries_all_columns():
    reading = with_metadata()["T:double"]
    assert (reading.status, reading.severity, reading.timestamp) == (0, 2, STAMP + 6)
    assert (reading.outcome, reading.native_type) == (Outcome.OK, 6)
    assert (reading.units, reading.precision, reading.enum_strings) == ("µm", 3, ())
    assert [getattr(reading.metadata, name) for name in LIMITS] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert reading.time == "2023-11-14T22:13:20.123456795Z"
    missing = every_kind()["T:missing"]
    assert (missing.native_type, missing.units, missing.precision, missing.time) == (None, "", None, "")


def test_readings_as_text():
    snapshot = with_metadata()
    assert snapshot["T:enum"].as_text() == "Übrig"
    assert every_kind()["T:enum"].as_text() == "2"
    assert Reading("X", 1.0 / 3, metadata=Metadata(precision=2)).as_text() == "0.33"
    assert snapshot["T:long_string"].as_text() == "hello"
    assert snapshot["T:wave"].as_text() == "1.5 -2.5 inf"
    assert snapshot["T:missing"].as_text() == ""


def test_a_name_asked_for_twice_is_there_twice():
    columns = {name: [0, 0, 0] for name in ("status", "severity", "timestamps")}
    snapshot = Snapshot(["A", "B", "A"], [1.0, 2.0, 3.0], outcome=[1, 1, 1], native_type=[6, 6, 6], **columns)
    assert snapshot.values == [1.0, 2.0, 3.0]
    assert snapshot["A"].value == 1.0
    assert snapshot.to_dict() == {"A": 1.0, "B": 2.0}
    assert [reading.name for reading in snapshot] == ["A", "B", "A"]


def test_a_name_that_was_not_asked_for():
    snapshot = every_kind()
    assert "T:short" in snapshot
    assert "T:other" not in snapshot
    with pytest.raises(KeyError, match="T:other is not in this snapshot of 16 PVs"):
        snapshot["T:other"]


def test_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match="column 'severity' has 2 rows, but there are 16 names"):
        every_kind(severity=[0, 0])
    with pytest.raises(ValueError, match="data for index 16"):
        every_kind(data={16: (0, 1, b"")})


def test_pickle_keeps_data_that_was_a_view():
    raw = memoryview(bytearray(b"xx" + b"text".ljust(40, b"\0")))[2:]
    snapshot = every_kind(text=raw)
    again = pickle.loads(pickle.dumps(snapshot))
    assert again["T:string"].value == "text"
    assert again.names == snapshot.names


def test_an_empty_snapshot():
    none = Snapshot([], [], status=[], severity=[], timestamps=[], outcome=[], native_type=[])
    assert (len(none), none.values, none.missing, none.outcomes) == (0, [], {}, {})
    assert repr(none) == "<Snapshot of 0 PVs: none asked for>"


def test_tables():
    snapshot = with_metadata()
    assert repr(snapshot) == ("<Snapshot of 16 PVs: 13 ok, 1 stale, 1 never found, 1 no read access; 0.250 s>")
    lines = snapshot.table(limit=14).splitlines()
    assert lines[1].split() == ["name", "value", "units", "alarm", "time", "(UTC)", "outcome"]
    assert lines[4].split() == ["T:short", "-5", "MINOR", "READ", "2023-11-14T22:13:20.123456790Z", "ok"]
    assert lines[-1] == "... and 2 more"
    assert lines[9].startswith("T:double       0.000")
    html = snapshot._repr_html_()
    assert "<td>T:missing</td><td></td><td></td><td></td><td></td><td>never found</td>" in html
    assert "&lt;" in every_kind(text=b"<b>")._repr_html_()


def test_words_of_alarms():
    assert [severity_name(i) for i in range(5)] == ["NO_ALARM", "MINOR", "MAJOR", "INVALID", "4"]
    assert (status_name(5), status_name(17), status_name(21), status_name(22)) == ("LOLO", "UDF", "WRITE_ACCESS", "22")


def test_text_of_the_network():
    assert decode_text(b"abc\0def") == "abc"
    assert decode_text(b"\xc2\xb5m") == "µm"
    assert decode_text(b"\xb5m") == "µm"
    assert decode_text(encode_text("µ" * 40, 40)) == "µ" * 40
    assert encode_text("µm", 8) == b"\xc2\xb5m"
    assert time_text(0) == ""
    assert time_text(1) == "1970-01-01T00:00:00.000000001Z"
