"""Values for one who says as which type to send them, text in other encodings, and rare kinds of values."""

from __future__ import annotations

import ctypes
import datetime
import decimal
import enum
import fractions
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqca.ca import dbr
from daqca.ca.conversion import RANGES, encode_as, encode_value
from daqca.ca.dbr import DBRType
from daqca.ca.lowlevel.putting import is_state
from daqca.errors import ChannelAccessException, ConversionError

STRING, SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE = map(DBRType, range(7))
NUMERIC = (SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE)
PLAIN = (STRING, *NUMERIC)
ACKT, ACKS = DBRType.PUT_ACKT, DBRType.PUT_ACKS


def sent(value, dbr_type, count=1, encoding="utf-8"):
    return encode_as(value, dbr_type, count, "T:pv", encoding)


def refused(value, dbr_type, count=1, encoding="utf-8") -> str:
    with pytest.raises(ConversionError) as caught:
        sent(value, dbr_type, count, encoding)
    assert isinstance(caught.value, ChannelAccessException)
    assert (caught.value.pvname, caught.value.operation) == ("T:pv", "put")
    assert "T:pv" in str(caught.value)
    return str(caught.value)


def elements(encoded):
    dbr_type, count, payload = encoded
    return np.frombuffer(payload, dbr.element(dbr_type), count).tolist()


@pytest.mark.parametrize("dbr_type", NUMERIC, ids=lambda t: t.name)
@pytest.mark.parametrize("value", [7, 7.0, "7", b"0x7", np.uint8(7), decimal.Decimal(7), [7], np.array(7)])
def test_one_number_is_sent_as_the_type_that_is_said(dbr_type, value):
    encoded = sent(value, dbr_type)
    assert encoded[:2] == (dbr_type, 1)
    assert elements(encoded) == [7]


@pytest.mark.parametrize("dbr_type", NUMERIC, ids=lambda t: t.name)
@pytest.mark.parametrize("value", [[1, 2], (1.0, "2"), np.array([1, 2], "f4"), range(1, 3), ["1", b"2"]])
def test_many_are_too(dbr_type, value):
    encoded = sent(value, dbr_type, 2)
    assert encoded[:2] == (dbr_type, 2)
    assert elements(encoded) == [1, 2]


@pytest.mark.parametrize("dbr_type", [SHORT, ENUM, LONG], ids=lambda t: t.name)
def test_ranges_and_fractions_are_those_of_that_type(dbr_type):
    low, high = RANGES[dbr_type]
    assert elements(sent(high, dbr_type)) == [high]
    assert elements(sent(low, dbr_type)) == [low]
    assert elements(sent(2.9, dbr_type)) == [2]
    for value in (low - 1, high + 1, str(high + 1), [0, high + 1]):
        assert f"out of range, {dbr_type.name} takes" in refused(value, dbr_type, 2)
    assert "finite" in refused(float("nan"), dbr_type)


def test_everything_is_a_string_as_string():
    for value, said in ((5, b"5"), (1.5, b"1.5"), (True, b"1"), ("Idle", b"Idle"), (b"Idle", b"Idle")):
        assert sent(value, STRING) == (STRING, 1, said + b"\0")
    assert sent([1, "two", True, np.float32(0.1)], STRING, 4) == (
        STRING,
        4,
        b"".join(text.ljust(40, b"\0") for text in (b"1", b"two", b"1", b"0.1")),
    )


def test_text_as_enum_is_the_number_of_a_state():
    assert sent("0x2", ENUM) == (ENUM, 1, b"\0\2")
    assert sent(["1", 2, np.True_], ENUM, 3) == (ENUM, 3, b"\0\1\0\2\0\1")
    assert sent(bytearray(b"3"), ENUM) == (ENUM, 1, b"\0\3")
    assert refused("Idle", ENUM).endswith("not a number")
    assert "out of range" in refused("65536", ENUM)


@pytest.mark.parametrize("dbr_type", [ACKT, ACKS], ids=lambda t: t.name)
def test_alarms_are_acknowledged_with_one_number(dbr_type):
    assert sent(2, dbr_type, 8) == (dbr_type, 1, b"\0\2")
    assert sent(True, dbr_type) == (dbr_type, 1, b"\0\1")
    assert sent("1", dbr_type) == (dbr_type, 1, b"\0\1")
    assert "holds at most 1" in refused([1, 0], dbr_type, 8)
    refused(-1, dbr_type)
    refused("MAJOR", dbr_type)


@pytest.mark.parametrize("dbr_type", [7, 20, 34, 37, 38, 39, -1, 255])
def test_other_types_are_not_written(dbr_type):
    assert f"as DBR type {dbr_type}: only" in refused(1, dbr_type)


@given(
    st.sampled_from(NUMERIC), st.lists(st.integers(0, 127), min_size=1, max_size=5), st.sampled_from([int, float, str])
)
def test_the_form_of_numbers_makes_no_difference(dbr_type, numbers, form):
    values = [form(number) for number in numbers]
    encoded = sent(values, dbr_type, 5)
    assert encoded[:2] == (dbr_type, len(numbers))
    assert elements(encoded) == numbers
    if len(numbers) == 1:
        assert sent(values[0], dbr_type, 5) == encoded


# --- encodings


@given(st.text(st.characters(codec="latin-1", exclude_characters="\0"), max_size=39))
def test_latin_1_has_one_byte_for_a_character(text):
    data = text.encode("latin-1")
    assert encode_value(text, STRING, 1, "T:pv", "latin-1") == (STRING, 1, data + b"\0")
    assert encode_value(text, CHAR, 40, "T:pv", "latin-1") == (CHAR, len(data) + 1, data + b"\0")
    assert sent(text, STRING, 1, "latin-1") == (STRING, 1, data + b"\0")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=45))
def test_a_string_is_measured_in_bytes(text):
    data = text.encode()
    if len(data) <= 39:
        assert encode_value(text, STRING, 1, "T:pv") == (STRING, 1, data + b"\0")
    else:
        assert f"{len(data)} bytes, and a string holds at most 39" in refused(text, STRING)


def test_what_an_encoding_does_not_have():
    message = refused("5 €", STRING, 1, "latin-1")
    assert message.startswith("cannot put '5 €' to T:pv (STRING): '€' cannot be written in the encoding latin-1 (")
    assert "ascii" in refused("µ", CHAR, 10, "ascii")
    assert "ascii" in refused(["a", "µ"], STRING, 2, "ascii")
    assert refused("a", STRING, 1, "klingon").endswith("there is no encoding 'klingon'")


def test_bytes_have_no_encoding():
    assert sent(b"\xb5\xff", STRING, 1, "ascii") == (STRING, 1, b"\xb5\xff\0")
    assert encode_value(b"\xb5", CHAR, 4, "T:pv", "ascii") == (CHAR, 1, b"\xb5")


def test_names_of_states():
    states = ("Off", "Grün", "x" * 25, "é" * 12)
    for name in states:
        assert is_state(name.encode(), states)
    # What is longer than the 25 bytes that are told of a name may be it; the last character of a name may be cut.
    assert is_state(b"x" * 30, states)
    assert is_state(("é" * 13).encode(), states)
    for name in ("", "off", "Off ", "x" * 24, "é" * 11, "\xff"):
        assert not is_state(name.encode("latin-1"), states)


# --- rare kinds of values


class Number(enum.IntEnum):
    FIVE = 5


@pytest.mark.parametrize(
    "value",
    [
        *(np.dtype(code).type(5) for code in "bBhHiIlLqQefdg"),
        *(np.array(5, code) for code in "bBhHiIlLqQefdg"),
        ctypes.c_int(5),
        ctypes.c_double(5),
        Number.FIVE,
        decimal.Decimal("5.0"),
        fractions.Fraction(10, 2),
        "5",
        np.str_("5"),
        b"5",
        np.bytes_(b"5"),
        bytearray(b"5"),
        memoryview(b"5"),
        [5],
        np.ma.array(5),
        np.ma.array([5]),
        [[5]],
        np.array(["5"], np.dtypes.StringDType()),
        np.array([5], object),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
@pytest.mark.parametrize("native", [SHORT, FLOAT, ENUM, LONG, DOUBLE], ids=lambda t: t.name)
def test_kinds_of_one_number(value, native):
    encoded = encode_value(value, native, 1, "T:pv")
    if encoded[0] == STRING:  # text goes to an enum as it is
        assert encoded == (STRING, 1, b"5\0")
    else:
        assert encoded == (DOUBLE, 1, struct.pack(">d", 5))


@pytest.mark.parametrize(
    "value",
    [
        range(1, 4),
        (1, 2, 3),
        (ctypes.c_double * 3)(1, 2, 3),
        (ctypes.c_ubyte * 3)(1, 2, 3),
        memoryview(np.array([1, 2, 3], "i4")),
        np.ma.array([1, 2, 3], mask=False),
        np.array([[1], [2], [3]]),
        np.arange(6)[1:4],
        np.arange(1, 7)[::2] // 2 + 1,
        [np.True_, 2, np.float16(3)],
        [True, decimal.Decimal(2), fractions.Fraction(3)],
        ["1", 2, b"0x3"],
        np.array(["1", "2", "3"], np.dtypes.StringDType()),
        np.array([1, 2, 3], object),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_of_many_numbers(value):
    assert elements(encode_value(value, LONG, 3, "T:pv")) == [1, 2, 3]


def test_bytes_of_all_kinds_go_to_an_array_of_char():
    for value in (b"ab", bytearray(b"ab"), memoryview(b"ab"), memoryview(b"ab").cast("c"), memoryview(b"xab")[1:]):
        assert encode_value(value, CHAR, 4, "T:pv") == (CHAR, 2, b"ab")


def test_texts_and_numbers_mixed_keep_their_own_form():
    encoded = encode_value([True, 0.1, "x", b"y", 2], STRING, 5, "T:pv")
    assert [text.rstrip(b"\0") for text in np.frombuffer(encoded[2], "S40")] == [b"1", b"0.1", b"x", b"y", b"2"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((number for number in (1, 2)), "generator is neither a number, nor text, nor a sequence of them; make a list"),
        (map(int, "12"), "map is neither"),
        ({1: 2}.keys(), "dict_keys is neither"),
        ({1, 2}, "set is neither"),
        (None, "NoneType is neither"),
        (1j, "complex is neither"),
        (object(), "object is neither"),
        (datetime.datetime(2020, 1, 1), "datetime is neither"),
        (np.datetime64("2020-01-01"), "datetime64 is neither"),
        (np.timedelta64(1, "s"), "timedelta64 is neither"),
        (np.array(["2020-01-01"], "M8[D]"), "datetime64[D] is neither"),
        ([np.timedelta64(1, "s"), 2], "timedelta64[s] is neither"),
        (np.array([np.timedelta64(1, "s"), 2], object), "neither a number nor text"),
        ([1, None], "the element None is neither a number nor text"),
        ([[1, 2], [3]], "the nesting is uneven"),
        ([1, [2, 3]], "the nesting is uneven"),
        (["a", ["b"]], "the nesting is uneven"),
        (np.ma.array([1, 2], mask=[False, True]), "masked"),
        (np.ma.masked, "masked"),
        (np.ma.array(5, mask=True), "masked"),
        ([], "without elements"),
        (np.zeros(0), "without elements"),
        (range(0), "without elements"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("native", PLAIN, ids=lambda t: t.name)
def test_what_no_pv_takes_is_refused_with_the_reason(value, words, native):
    with pytest.raises(ConversionError) as caught:
        encode_value(value, native, 8, "T:pv")
    message = str(caught.value)
    assert words in message
    assert message.startswith("cannot put ")
    assert f" to T:pv ({native.name}[8]): " in message
    assert len(message) < 400


def test_a_generator_is_not_used_up():
    numbers = iter([1, 2])
    with pytest.raises(ConversionError):
        encode_value(numbers, LONG, 2, "T:pv")
    assert list(numbers) == [1, 2]
