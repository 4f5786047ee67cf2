from __future__ import annotations

import array
import decimal
import fractions
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqca.ca import dbr
from daqca.ca.conversion import FLOAT_MAX, RANGES, encode_value, fits
from daqca.ca.dbr import DBRType
from daqca.errors import ConversionError

STRING, SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE = map(DBRType, range(7))
NUMERIC = [SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE]
INTEGER = [SHORT, ENUM, CHAR, LONG]


def put(value, native, count=1):
    return encode_value(value, native, count, "T:pv")


def refused(value, native, count=1) -> str:
    with pytest.raises(ConversionError) as caught:
        put(value, native, count)
    assert caught.value.pvname == "T:pv"
    assert caught.value.operation == "put"
    message = str(caught.value)
    assert message.startswith("cannot put ")
    assert f" to T:pv ({native.name}" in message
    assert len(message) < 300
    return message


@pytest.mark.parametrize("native", [SHORT, FLOAT, ENUM, LONG, DOUBLE], ids=lambda t: t.name)
@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize(
    "value",
    [7, 7.0, np.int8(7), np.uint64(7), np.float32(7), np.array(7), np.array([7]), [7], (7.0,), decimal.Decimal(7)],
    ids=lambda value: type(value).__name__,
)
def test_one_number_is_a_double(native, count, value):
    assert put(value, native, count) == (DOUBLE, 1, struct.pack(">d", 7.0))


@pytest.mark.parametrize("value", [True, np.True_, fractions.Fraction(1), "1", b"0x1", " 1 ", np.str_("1e0")])
def test_more_that_is_a_number(value):
    assert put(value, DOUBLE) == (DOUBLE, 1, struct.pack(">d", 1.0))


@pytest.mark.parametrize(("value", "byte"), [(0, 0), (127, 127), (200, 200), (255, 255), (-1, 255), (-128, 128)])
def test_one_char_is_sent_as_its_eight_bits(value, byte):
    assert put(value, CHAR) == (CHAR, 1, bytes([byte]))
    assert put(float(value), CHAR, 100) == (CHAR, 1, bytes([byte]))


@given(st.floats(allow_nan=False))
def test_a_double_is_sent_exactly(value):
    dbr_type, count, payload = put(value, DOUBLE)
    assert (dbr_type, count) == (DOUBLE, 1)
    assert struct.unpack(">d", payload)[0] == value


def test_nan_and_infinity_go_to_floats():
    for native in (FLOAT, DOUBLE):
        assert math.isnan(struct.unpack(">d", put(math.nan, native)[2])[0])
        assert put("-inf", native) == (DOUBLE, 1, struct.pack(">d", -math.inf))


@pytest.mark.parametrize("native", INTEGER, ids=lambda t: t.name)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), decimal.Decimal("NaN")])
def test_nan_and_infinity_do_not_go_to_integers(native, value):
    assert refused(value, native).endswith("not a finite number")
    assert "finite" in refused([1, float(value)], native, 2)
    assert native == ENUM or "finite" in refused("nan", native)  # it may be the name of a state


@pytest.mark.parametrize("native", [SHORT, ENUM, CHAR, LONG], ids=lambda t: t.name)
def test_the_ends_of_the_ranges(native):
    low, high = RANGES[native]
    for value in (low, high, high + 0.9):
        put(value, native)
        assert put([value, value], native, 2)[:2] == (native, 2)
    for value in (low - 1, high + 1, 10**30, 10**400, np.float64(1e300)):
        assert "out of range" in refused(value, native)
        assert "out of range" in refused([value, 0], native, 2)


def test_a_float_takes_no_double_beyond_it():
    assert put(FLOAT_MAX, FLOAT) == (DOUBLE, 1, struct.pack(">d", FLOAT_MAX))
    assert "out of range" in refused(1e39, FLOAT)
    assert "out of range" in refused([0.0, -1e39], FLOAT, 2)
    assert put([0.0, math.inf], FLOAT, 2) == (FLOAT, 2, struct.pack(">2f", 0, math.inf))
    for value in (10**400, decimal.Decimal("1e400"), "1e400", np.longdouble("1e400"), [decimal.Decimal("1e400")]):
        assert "out of range" in refused(value, DOUBLE)
    assert "out of range" in refused(np.array(["1", "1e400"], "g"), DOUBLE, 2)


@pytest.mark.parametrize("native", NUMERIC, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i2", ">u2", "<i4", "<u4", ">i8", "u8", "f2", "<f4", ">f8", "g"])
def test_arrays_have_the_type_of_the_pv_and_the_order_of_the_network(native, dtype):
    values = np.array([0, 1, 1, 100, 7], dtype)
    dbr_type, count, payload = put(values, native, 5)
    assert (dbr_type, count) == (native, 5)
    assert np.frombuffer(payload, dbr.element(native)).tolist() == values.astype(float).tolist()


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=20))
def test_a_list_of_integers_comes_back(values):
    dbr_type, count, payload = put(values, LONG, 20)
    assert (dbr_type, count) == (LONG, len(values))
    assert struct.unpack(f">{count}i", payload) == tuple(values)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (np.array([-1, -128, 127], "i1"), b"\xff\x80\x7f"),
        ([-1, 255, 200], b"\xff\xff\xc8"),
        ([1.9, -1.9], b"\x01\xff"),
        (b"\x00\xff\x10", b"\x00\xff\x10"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (array.array("h", [1, 2]), b"\x01\x02"),
        (np.eye(2), b"\x01\0\0\x01"),
        ("", b"\0"),
        ("mü", b"m\xc3\xbc\0"),
        (["12", "0x0d"], b"\x0c\x0d"),
        ([decimal.Decimal(3), 4], b"\x03\x04"),
    ],
)
def test_arrays_of_char(value, sent):
    assert put(value, CHAR, 4) == (CHAR, len(sent), sent)


def test_a_long_string_must_fit_with_its_zero():
    assert put("x" * 299, CHAR, 300) == (CHAR, 300, b"x" * 299 + b"\0")
    assert "301 bytes with the closing zero" in refused("x" * 300, CHAR, 300)
    assert "5 elements, and the PV holds at most 4" in refused(b"12345", CHAR, 4)


@pytest.mark.parametrize("native", [STRING, ENUM], ids=lambda t: t.name)
def test_text_goes_as_string(native):
    assert put("Idle", native) == (STRING, 1, b"Idle\0")
    assert put(b"Idle\0\0", native) == (STRING, 1, b"Idle\0")
    assert put("", native) == (STRING, 1, b"\0")
    assert put("x" * 39, native) == (STRING, 1, b"x" * 39 + b"\0")
    assert "40 bytes, and a string holds at most 39" in refused("x" * 40, native)
    assert "40 bytes" in refused("ü" * 20, native)
    assert "a zero byte inside" in refused("a\0b", native)
    assert "surrogates" in refused("\udc80", native)
    assert put(["Idle", "Run"], native, 2) == (STRING, 2, b"Idle".ljust(40, b"\0") + b"Run".ljust(40, b"\0"))
    assert "at most 39" in refused(["Idle", "x" * 40], native, 2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, b"3"),
        (0.1, b"0.1"),
        (np.float32(0.1), b"0.1"),
        (True, b"1"),
        (np.False_, b"0"),
        (1e-300, b"1e-300"),
        (np.int16(-5), b"-5"),
        (decimal.Decimal("1.10"), b"1.10"),
        (math.nan, b"nan"),
    ],
)
def test_numbers_go_to_a_string_as_text(value, said):
    assert put(value, STRING) == (STRING, 1, said + b"\0")
    assert put([value, value], STRING, 2) == (STRING, 2, said.ljust(40, b"\0") * 2)
    assert "at most 39" in refused(10**40, STRING)


@pytest.mark.parametrize("native", [SHORT, FLOAT, LONG, DOUBLE, CHAR], ids=lambda t: t.name)
def test_text_that_says_no_number(native):
    assert refused("Idle", native).endswith("not a number")
    assert refused(["1", "x"], native, 2).endswith("not a number")
    assert refused("", native).endswith("not a number")


@pytest.mark.parametrize("native", list(DBRType)[:7], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "value",
    [
        None,
        1j,
        np.complex64(1),
        {"a": 1},
        {1, 2},
        object(),
        [None, 1],
        [1, [2, 3]],
        [object()],
        [None],
        np.datetime64("2020-01-01"),
        np.timedelta64(1, "s"),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "c8"),
        np.zeros(2, [("a", "i4")]),
        np.ma.array([1, 2], mask=[True, False]),
        [1, 2, 3, 4],
        [],
        np.zeros((2, 0)),
        lambda: 1,
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:12]}",
)
def test_what_no_pv_takes(native, value):
    refused(value, native, 3)


def test_the_error_names_pv_type_and_value():
    assert refused(70000, SHORT) == "cannot put 70000 to T:pv (SHORT): out of range, SHORT takes -32768 to 32767"
    assert refused([1, 2, 3], DOUBLE, 2) == (
        "cannot put [1, 2, 3] to T:pv (DOUBLE[2]): 3 elements, and the PV holds at most 2"
    )
    assert "cannot put an array (100, 100) of float64 to" in refused(np.zeros((100, 100)), LONG, 5)
    assert "..." in refused("x" * 1000, STRING)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@given(anything, st.sampled_from(list(DBRType)[:7]), st.integers(1, 6))
def test_anything_is_encoded_whole_or_refused(value, native, count):
    try:
        dbr_type, number, payload = encode_value(value, native, count, "T:pv")
    except ConversionError:
        return
    assert dbr_type <= DOUBLE
    assert 1 <= number <= count
    if dbr_type == STRING and number == 1:
        assert payload.endswith(b"\0")
        assert len(payload) <= 40
    else:
        assert len(payload) == dbr.payload_size(dbr_type, number)


@given(st.lists(st.tuples(st.floats(width=64), st.integers(0, 255)), max_size=20))
def test_fits_says_what_encode_value_sends_as_double(pairs):
    values = np.array([value for value, _ in pairs], float)
    types = np.array([native % 9 for _, native in pairs], np.uint8)
    answers = fits(values, types)
    assert answers.shape == values.shape
    assert answers.dtype == bool
    for value, native, answer in zip(values, types, answers, strict=True):
        beyond = native == CHAR and not -1 < value < 128
        if native == STRING or native > DOUBLE or beyond:
            assert not answer
            continue
        try:
            sent = encode_value(value, native, 1, "T:pv")
        except ConversionError:
            assert not answer
        else:
            assert answer
            assert native == CHAR or sent == (DOUBLE, 1, struct.pack(">d", value))
