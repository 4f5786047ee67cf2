"""From the bytes of an answer to values, strings, arrays and dictionaries, against layouts that NumPy writes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqca import ca
from daqca import dbr as surface
from daqca.ca.dbr import DTYPES, DBRType, element, padding, value_offset
from daqca.ca.lowlevel.raw import Raw, decode_string, metadata_of, raw_of, text_of, time_fields, value_of
from daqca.ca.lowlevel.updates import known_of

STRING, SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE = range(7)
NUMERIC = (SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE)
PLAIN = (STRING, *NUMERIC)
ROWS = range(5)
"""Plain, STS, TIME, GR and CTRL."""
CLASS_NAME, STSACK = 38, 37
LIMITS = surface.ctrl_limits

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(lambda text: len(text.encode()) < 40)


def numbers(kind: int) -> st.SearchStrategy:
    if kind in (FLOAT, DOUBLE):
        return st.floats(width=32 if kind == FLOAT else 64, allow_nan=False)
    limits = np.iinfo(element(kind))
    return st.integers(int(limits.min), int(limits.max))


def answer(ftype: int, values: list, **fields) -> Raw:
    """What is kept of an answer that a server sends: the values, and what GR and CTRL have before them."""
    kind = ftype % 7 if ftype < 35 else STRING
    if kind == STRING:
        values = [value if isinstance(value, bytes) else value.encode(ca.IOENCODING) for value in values]
    data = np.array(values, element(kind)).tobytes()
    if ftype >= 21 and ftype != CLASS_NAME:
        head = np.zeros(1, DTYPES[DBRType(ftype)])
        for name, value in fields.items():
            head[name] = value
        data = head.tobytes()[: value_offset(ftype)] + data + b"\xee" * (-len(data) % 8)
    elif len(values) == 1 and kind != STRING:
        return Raw(ftype, 1, float(values[0]), b"", 0, 0, 0)
    return Raw(ftype, len(values), None, memoryview(data), 0, 0, 0)


@pytest.fixture
def options(monkeypatch):
    """Change options of the low-level interface for one test: ``options(HAS_NUMPY=False)``."""

    def change(**values):
        for name, value in values.items():
            monkeypatch.setattr(ca, name, value)

    return change


# --- values


@given(st.data())
def test_scalars_come_back_in_every_row_of_types(data):
    kind = data.draw(st.sampled_from(NUMERIC))
    number = data.draw(numbers(kind))
    for row in ROWS:
        value = value_of(answer(kind + 7 * row, [number]))
        assert value == number
        assert type(value) is (float if kind in (FLOAT, DOUBLE) else int)


@given(st.data())
def test_arrays_come_back_in_every_row_of_types(data):
    kind = data.draw(st.sampled_from(NUMERIC))
    values = data.draw(st.lists(numbers(kind), min_size=2, max_size=20))
    count = data.draw(st.none() | st.integers(0, 25))
    for row in ROWS:
        array = value_of(answer(kind + 7 * row, values), count, is_array=True)
        wanted = values[: count or None]
        if len(wanted) == 1 and kind != CHAR:  # one element is a number
            assert array == wanted[0]
            continue
        assert array.dtype == element(kind).newbyteorder("=")
        assert array.dtype.isnative
        assert array.tolist() == wanted
        array += 1  # it is the reader's own


@pytest.mark.parametrize("kind", NUMERIC)
@pytest.mark.parametrize("row", ROWS)
def test_no_elements(kind, row):
    raw = answer(kind + 7 * row, [])
    array = value_of(raw, None, is_array=True)
    assert (array.shape, array.dtype) == ((0,), element(kind).newbyteorder("="))
    plain = value_of(raw, None, is_array=True, as_numpy=False)
    assert (len(plain), plain._type_) == (0, surface.Map[kind])


@pytest.mark.parametrize("row", ROWS)
def test_chars_of_an_array_are_an_array_even_if_there_is_one(row):
    assert value_of(answer(CHAR + 7 * row, [200]), None, is_array=True).tolist() == [200]
    assert value_of(answer(CHAR + 7 * row, [200]), None, is_array=False) == 200
    assert list(value_of(answer(CHAR + 7 * row, [200]), None, True, as_numpy=False)) == [200]
    assert value_of(answer(SHORT + 7 * row, [200]), None, is_array=True) == 200


@given(st.data())
def test_without_numpy_arrays_are_those_of_ctypes(data):
    kind = data.draw(st.sampled_from(NUMERIC))
    values = data.draw(st.lists(numbers(kind), min_size=2, max_size=20))
    for row in ROWS:
        array = value_of(answer(kind + 7 * row, values), None, True, as_numpy=False)
        assert isinstance(array, ctypes.Array)
        assert array._type_ is surface.Map[kind]
        assert list(array) == values


def test_the_same_if_numpy_is_switched_off(options):
    raw = answer(LONG, [1, 2, 3])
    options(HAS_NUMPY=False)
    assert list(value_of(raw, None, True)) == [1, 2, 3]
    assert isinstance(value_of(raw, None, True), ctypes.Array)


@given(st.lists(texts, min_size=2, max_size=5))
def test_strings_come_back_in_every_row_of_types(values):
    for ftype in (*(7 * row for row in ROWS), STSACK):
        raw = answer(ftype, values)
        assert value_of(raw, None, is_array=True) == values
        assert value_of(raw, 1, is_array=True) == values[:1]
        assert value_of(raw, 1, is_array=False) == values[0]
        assert value_of(answer(ftype, values[:1])) == values[0]
        assert value_of(answer(ftype, []), None, True) == []


def test_the_name_of_a_class_is_one_string_whatever_the_server_counts():
    raw = answer(CLASS_NAME, ["waveform", "\x01", b"\xff"])
    assert value_of(raw, None, is_array=True) == "waveform"
    assert text_of(value_of(raw, None, True), CLASS_NAME, None, 8) == "waveform"


def test_rows_of_events_are_kept_as_they_are():
    row = (3, 2, 6, 4, 1, 5_000_000_000, 1.5, 1, 99)
    assert raw_of(20, row, b"") == Raw(20, 1, 1.5, b"", 4, 1, 5_000_000_000)
    row = (3, 2, 6, 4, 1, 5_000_000_000, (0, 16), 2, 99)
    assert raw_of(20, row, b"data") == Raw(20, 2, None, b"data", 4, 1, 5_000_000_000)


# --- text


@given(texts)
def test_text_comes_back_from_a_field(text):
    data = text.encode()
    for field in (data, data + b"\0", data.ljust(40, b"\0"), memoryview(data + b"\0rubbish \xff").toreadonly()):
        assert decode_string(field) == text


@given(st.text(st.characters(codec="latin-1", exclude_characters="\0"), max_size=39))
def test_text_comes_back_in_latin_1(text):
    ca.IOENCODING = "latin-1"
    try:
        assert decode_string(text.encode("latin-1").ljust(40, b"\0")) == text
    finally:
        ca.IOENCODING = "utf-8"


@given(st.binary(max_size=40))
def test_any_bytes_are_text(data):
    text = decode_string(data)
    assert "\0" not in text


def test_what_is_not_in_the_encoding_is_latin_1():
    assert decode_string(b"5 \xb5m\0") == "5 µm"
    assert decode_string(b"\xb5") == "µ"


@given(st.text(st.characters(codec="utf-8", min_codepoint=0x80), min_size=1))
def test_a_character_that_a_full_field_cuts_is_left_off(text):
    data = text.encode()
    for size in range(1, len(data)):
        assert text.startswith(decode_string(data[:size]))
        assert text.startswith(decode_string(data[:size] + b"\0"))
        assert len(decode_string(data[:size])) > (size - 4) / 4


def test_cut_characters_in_other_encodings(options):
    options(IOENCODING="shift_jis")
    data = "日本".encode("shift_jis")
    assert decode_string(data) == "日本"
    assert decode_string(data[:3]) == "日"
    assert decode_string(data[:3] + bytes(10)) == data[:3].decode("latin-1")


def test_string_forms(options):
    array = np.array([72, 105, 32, 0, 65], np.uint8)
    assert text_of(array, CHAR) == text_of(array, CHAR + 14) == "Hi"
    assert text_of((ctypes.c_ubyte * 2)(72, 105), CHAR) == "Hi"
    assert text_of(array[:0], CHAR) == ""
    assert text_of(np.zeros(3), DOUBLE) == "<array count=3, type=6>"
    assert text_of(np.zeros(3), DOUBLE + 14) == "<array count=3, type=20>"
    assert text_of(np.zeros(3), DOUBLE, None, 8) == "<array count=8, type=6>"
    assert text_of(2.5, DOUBLE, None, 8) == "<array count=8, type=6>"
    assert text_of(["a", "b"], STRING) == "<array count=2, type=0>"
    assert text_of(["a"], STRING, None, 1) == "a"
    assert text_of(2.5, DOUBLE) == "2.5"
    assert text_of("text ", STRING) == "text "
    assert text_of(65, CHAR) == "65"
    assert text_of(1, ENUM, ("Off", "On")) == "On"
    assert text_of(2, ENUM, ("Off", "On")) == "2"
    assert text_of(2, ENUM, None) == "2"
    options(AUTOMONITOR_MAXLENGTH=5)
    assert text_of(array, CHAR) == "<array count=5, type=4>"
    assert text_of(array, CHAR, None, 4) == "Hi"
    assert text_of(array[:2], CHAR, None, 5) == "<array count=5, type=4>"


# --- what comes beside the value


def test_plain_types_have_nothing_more():
    for kind in PLAIN:
        assert metadata_of(answer(kind, ["1"] if kind == STRING else [1])) == {}
    assert metadata_of(answer(CLASS_NAME, ["ao"])) == {}


@given(st.integers(0, 21), st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(0, 10**9 - 1))
def test_alarm_and_time(status, severity, seconds, nanoseconds):
    stamp = (seconds + 631_152_000) * 10**9 + nanoseconds
    for kind in PLAIN:
        raw = Raw(kind + 7, 1, 1.0, b"", status, severity, 0)
        assert metadata_of(raw) == {"status": status, "severity": severity}
        known = metadata_of(raw._replace(ftype=kind + 14, timestamp=stamp))
        assert (known["status"], known["severity"]) == (status, severity)
        assert known == {"status": status, "severity": severity, **time_fields(stamp)}
        assert known["posixseconds"] == seconds + 631_152_000
        assert known["nanoseconds"] == nanoseconds
        assert isinstance(known["posixseconds"], float)
        assert abs(known["timestamp"] - stamp / 1e9) < 2e-6
        # To the microsecond, as make_unixtime of the manual's structures.
        assert known["timestamp"] == surface.make_unixtime(surface.TimeStamp(seconds, nanoseconds))


@given(st.data())
def test_limits_units_and_precision(data):
    kind = data.draw(st.sampled_from((SHORT, FLOAT, LONG, DOUBLE)))
    units = data.draw(texts.filter(lambda text: len(text.encode()) <= 8))
    precision = data.draw(st.integers(0, 15))
    limits = {name: data.draw(numbers(kind)) for name in LIMITS}
    for row, names in ((3, LIMITS[:6]), (4, LIMITS)):
        fields = {"status": 3, "severity": 2, "units": units.encode(), **{name: limits[name] for name in names}}
        if kind in (FLOAT, DOUBLE):
            fields["precision"] = precision
        known = metadata_of(answer(kind + 7 * row, [1], **fields))
        assert known == {**fields, "units": units}


def test_limits_of_chars():
    known = metadata_of(answer(CHAR + 28, [1], upper_disp_limit=255, lower_disp_limit=0))
    assert (known["upper_disp_limit"], known["lower_disp_limit"]) == (255, 0)
    assert "precision" not in known


@given(st.lists(texts.filter(lambda text: len(text.encode()) <= 26), max_size=16))
def test_states_of_an_enum(names):
    states = [name.encode() for name in names] + [b""] * (16 - len(names))
    for ftype in (ENUM + 21, ENUM + 28):
        known = metadata_of(answer(ftype, [1], status=7, severity=1, no_str=len(names), strs=states))
        wanted = {"enum_strs": tuple(names)} if names else {}
        assert known == {"status": 7, "severity": 1, **wanted}


def test_strings_have_an_alarm_only():
    for ftype in (STRING + 21, STRING + 28):
        assert metadata_of(answer(ftype, ["text"], status=4, severity=1)) == {"status": 4, "severity": 1}
    raw = answer(STSACK, ["text"], status=4, severity=1, ackt=1, acks=2)
    assert metadata_of(raw) == {"status": 4, "severity": 1, "ackt": 1, "acks": 2}
    assert value_of(raw) == "text"


def test_units_and_states_are_in_the_encoding_too(options):
    units, states = "µÄm".encode("latin-1"), ["Ä".encode("latin-1"), "Ãµ".encode("latin-1")] + [b""] * 14
    for encoding, wanted in (("latin-1", ("Ä", "Ãµ")), ("utf-8", ("Ä", "õ"))):
        options(IOENCODING=encoding)
        assert metadata_of(answer(DOUBLE + 28, [1], units=units))["units"] == "µÄm"
        assert metadata_of(answer(ENUM + 28, [1], no_str=2, strs=states))["enum_strs"] == wanted
    # Eight bytes of units end in the middle of the last character.
    assert metadata_of(answer(DOUBLE + 28, [1], units="1234567µ".encode()[:8]))["units"] == "1234567"


@pytest.mark.parametrize("ftype", range(21, 35))
def test_what_servers_leave_in_the_padding_makes_no_difference(ftype):
    """Else each update would be decoded anew, and kept."""
    head = bytearray(answer(ftype, ["1"] if ftype % 7 == STRING else [1]).data)
    for at in padding(ftype):
        head[at] = 0x5A
    clean = known_of(answer(ftype, ["1"] if ftype % 7 == STRING else [1]))
    assert known_of(Raw(ftype, 1, None, bytes(head), 0, 0, 0)) is clean
    head[3] += 1
    assert known_of(Raw(ftype, 1, None, bytes(head), 0, 0, 0))["severity"] == clean["severity"] + 1
