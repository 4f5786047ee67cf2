"""Values of every kind to records of every type with the low-level interface, and the errors where there is no way."""

from __future__ import annotations

import array
import ctypes
import decimal
import enum
import fractions
import math
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import ca_records
from support.ca_records import STATES, TEXT, Records, connected, nothing_under_way
from support.recording import eventually

from daqca import dbr
from daqca.errors import ChannelAccessException, ConversionError, RefusedError

ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records


class Number(enum.IntEnum):
    TWO = 2


NUMBER_CODES = "bBhHiIlLqQefdg"
ONE: dict[str, Any] = {
    "int": 2,
    "float": 2.0,
    "IntEnum": Number.TWO,
    "Decimal": decimal.Decimal("2.00"),
    "Fraction": fractions.Fraction(4, 2),
    **{np.dtype(code).name: np.dtype(code).type(2) for code in NUMBER_CODES},
    **{f"{np.dtype(code).name} array of no dimensions": np.array(2, code) for code in "bHqfd"},
    "big-endian": np.array(2, ">i4"),
    "c_int": ctypes.c_int(2),
    "str": "2",
    "numpy.str_": np.str_("2"),
    "bytes": b"2",
    "hexadecimal": "0x2",
    "bytearray": bytearray(b"2"),
    "list": [2],
    "tuple": (2.0,),
    "array of one": np.array([2]),
    "masked array": np.ma.array([2], mask=False),
}
"""Two, in many forms."""

MANY: dict[str, Any] = {
    "list": [1, 0, 1],
    "tuple": (1, 0.0, True),
    "range": range(1, -1, -1),
    "texts": ["1", "0x0", b"1"],
    "Decimals": [decimal.Decimal(1), fractions.Fraction(0), np.True_],
    "nested": [[1, 0], [1, 1]],
    **{np.dtype(code).name: np.array([1, 0, 1, 0], code) for code in "?" + NUMBER_CODES},
    "big-endian": np.array([1, 0], ">f8"),
    "reversed": np.arange(2)[::-1],
    "every second": np.array([1, 9, 0, 9])[::2],
    "two dimensions": np.eye(2),
    "objects": np.array([1, 0.0, "1"], object),
    "masked array": np.ma.array([1, 0], mask=False),
    "array.array": array.array("h", [1, 0]),
    "ctypes": (ctypes.c_float * 2)(1, 0),
    "memoryview": memoryview(np.array([1, 0], "i2")),
    "strings of numpy": np.array(["1", "0"]),
    "strings of any length": np.array(["1", "0"], np.dtypes.StringDType()),
}
ARRAYS = ("doubles", "floats", "longs", "shorts", "chars", "enums")


def put_and_get(ca: ModuleType, name: str, value: Any, **options: Any) -> Any:
    chid = connected(name)
    assert ca.put(chid, value, wait=True, timeout=20, **options) == 1
    assert nothing_under_way(chid)
    return ca.get(chid)


def numbers_of(value: Any) -> list[float]:
    array = np.asarray(value, object).ravel()
    return [float(int(item, 0) if item in ("0x0", b"1") else item) for item in array]


# --- what goes


@pytest.mark.parametrize("kind", ONE)
def test_one_number_of_every_kind_to_every_type(ca: ModuleType, records: Records, kind: str):
    value = ONE[kind]
    for ending in ("free", "count", "enum", "one:float", "one:double", "one:short", "one:char"):
        chid = connected(records(ending))
        for ftype in (None, ca.field_type(chid), dbr.DOUBLE, dbr.LONG, dbr.SHORT, dbr.FLOAT, dbr.CHAR, dbr.ENUM):
            ca.put(chid, 1, wait=True)
            assert put_and_get(ca, records(ending), value, ftype=ftype) == 2, (ending, ftype)
        ca.put(chid, 1)
        ca.put(chid, value)  # without completion, too
        assert ca.get(chid) == 2, ending
    assert put_and_get(ca, records("string"), value) in ("2", "2.0", "2.00", "0x2")


@pytest.mark.parametrize("truth", [True, False, np.True_, np.False_, np.array(True)])
def test_truth(ca: ModuleType, records: Records, truth: Any):
    for ending in ("free", "count", "enum", "one:float", "one:short", "one:char"):
        assert put_and_get(ca, records(ending), truth) == int(truth)
    assert put_and_get(ca, records("string"), truth) == str(int(truth))


@pytest.mark.parametrize("kind", MANY)
def test_many_numbers_of_every_kind_to_every_type(ca: ModuleType, records: Records, kind: str):
    numbers = numbers_of(MANY[kind])
    for ending in ARRAYS:
        found = put_and_get(ca, records(ending), MANY[kind])
        assert found.tolist() == numbers, ending
        assert found.dtype == dbr.NP_Map[ca.field_type(connected(records(ending)))]
    found = put_and_get(ca, records("strings"), MANY[kind])
    assert numbers_of(found) == numbers


@pytest.mark.parametrize("ending", ARRAYS)
def test_one_number_to_an_array(ca: ModuleType, records: Records, ending: str):
    for value in (1, [1], np.array([1]), "1"):
        if ending != "chars" or value != "1":
            assert put_and_get(ca, records(ending), value) == 1
    if ending != "enums":
        name = records(ending)
        dtype = dbr.NP_Map[ca.field_type(connected(name))]
        full = np.arange(8).astype(dtype)
        assert np.array_equal(put_and_get(ca, name, full), full)


EXACT = (
    *(("free", value) for value in (0.1, -1e300, 5e-324, 2**53, math.pi, -0.0, math.inf, -math.inf)),
    *(("one:double", value) for value in (0.1, 1e308, math.inf)),
    *(("one:float", value) for value in (0.5, float(np.float32(0.1)), float(np.finfo("f4").max), -math.inf)),
    *(("count", value) for value in (2**31 - 1, -(2**31), 0)),
    *(("one:short", value) for value in (2**15 - 1, -(2**15))),
    *(("one:char", value) for value in (0, 127, 128, 255)),
    *(("enum", value) for value in (0, 2, 15)),
)


@pytest.mark.parametrize(("ending", "value"), EXACT)
def test_the_ends_of_the_ranges(ca: ModuleType, records: Records, ending: str, value: Any):
    assert put_and_get(ca, records(ending), value) == value
    assert put_and_get(ca, records(ending), [value]) == value


def test_nan_goes_to_floats(ca: ModuleType, records: Records):
    for ending in ("free", "one:double", "one:float"):
        assert math.isnan(put_and_get(ca, records(ending), math.nan))
    found = put_and_get(ca, records("doubles"), [1, math.nan, math.inf])
    assert np.array_equal(found, [1, math.nan, math.inf], equal_nan=True)


def test_fractions_are_cut_off(ca: ModuleType, records: Records):
    for ending in ("count", "one:short", "enum"):
        assert put_and_get(ca, records(ending), 2.9) == 2
    assert put_and_get(ca, records("count"), -2.9) == -2
    assert put_and_get(ca, records("longs"), [2.9, -2.9]).tolist() == [2, -2]
    assert put_and_get(ca, records("count"), 2.9, ftype=dbr.LONG) == 2


def test_text(ca: ModuleType, records: Records):
    for value in ("", "a", "x" * 39, "Grüße, 5 µm €", " blanks ", b"bytes", np.str_("numpy"), bytearray(b"array")):
        wanted = value if isinstance(value, str) else bytes(value).decode()
        assert put_and_get(ca, records("string"), value) == wanted
        assert put_and_get(ca, records("one:string"), value) == wanted
    for values in (["a", "", " b "], ("x" * 39, "y"), np.array(["a", "bc"]), [b"a", "b", 1, 2.5, True]):
        wanted = ["a", "b", "1", "2.5", "1"] if len(values) == 5 else list(values)
        assert put_and_get(ca, records("strings"), values) == wanted
    assert put_and_get(ca, records("strings"), "only one") == ["only one"]
    assert put_and_get(ca, records("double.DESC"), "a description") == "a description"


def test_numbers_as_text(ca: ModuleType, records: Records):
    for value, said in ((5, "5"), (0.1, "0.1"), (np.float32(0.1), "0.1"), (1e300, "1e+300"), (-3, "-3")):
        assert put_and_get(ca, records("string"), value) == said
    assert put_and_get(ca, records("strings"), np.array([0.1, 2.0])) == ["0.1", "2.0"]
    assert put_and_get(ca, records("free"), 0.1, ftype=dbr.STRING) == 0.1


def test_text_in_an_array_of_characters(ca: ModuleType, records: Records):
    name = records("text")
    chid = connected(name)
    for text in (TEXT, "", "x" * 99, "Grüße, 5 µm €"):
        assert bytes(put_and_get(ca, name, text)) == text.encode() + b"\0"
        assert ca.get(chid, as_string=True) == text
    for data in (b"\x00\xff\x80", bytearray(b"ab"), memoryview(b"abc"), b"x" * 100):
        assert bytes(put_and_get(ca, name, data)) == bytes(data)
    assert put_and_get(ca, name, [72, 105]).tolist() == [72, 105]
    assert put_and_get(ca, name, np.array([-1, -128], "i1")).tolist() == [255, 128]


def test_other_encodings(ca: ModuleType, records: Records):
    string, text = records("string"), records("text")
    ca.IOENCODING = "latin-1"
    assert bytes(put_and_get(ca, text, "5 µm")) == b"5 \xb5m\0"
    assert put_and_get(ca, string, "ä" * 39) == "ä" * 39  # a byte each
    with pytest.raises(ConversionError, match="'€' cannot be written in the encoding latin-1") as refused:
        ca.put(connected(string), "5 €")
    assert_names(refused.value, string, "'5 €'", "STRING")
    ca.IOENCODING = "utf-8"
    assert bytes(put_and_get(ca, text, "5 µm")) == b"5 \xc2\xb5m\0"
    with pytest.raises(ConversionError, match="78 bytes"):
        ca.put(connected(string), "ä" * 39)


def test_states(ca: ModuleType, records: Records):
    name = records("enum")
    for number, state in enumerate(STATES):
        for value in (state, state.encode(), np.str_(state), [state], np.array([state]), number):
            assert put_and_get(ca, name, value) == number
        for text in (f"{number}", f" {number} ", f"0{number}", f"0x{number}", f"0b{number:b}"):
            assert put_and_get(ca, name, text) == number
    assert put_and_get(ca, records("double.SCAN"), "1 second") == 6
    assert put_and_get(ca, records("double.SCAN"), "Passive") == 0
    # One without names of states takes the numbers that a text says.
    assert put_and_get(ca, records("stateless"), "2") == 2
    assert put_and_get(ca, records("enums"), ["1", "0x2", 3]).tolist() == [1, 2, 3]


def test_states_that_change(ca: ModuleType, own_records: Records):
    name = own_records("enum")
    assert put_and_get(ca, name, "Run") == 1
    ca.put(connected(own_records("enum.THST")), "New one", wait=True)
    assert put_and_get(ca, name, "New one") == 3
    ca.put(connected(own_records("enum.ONST")), "Walk", wait=True)
    with pytest.raises(RefusedError, match=r"'Run' to .*its server answered"):  # we are told, if we wait
        ca.put(connected(name), "Run", wait=True)
    with pytest.raises(ConversionError, match="'Nothing' is none of its states, which are 'Idle', 'Walk'"):
        ca.put(connected(name), "Nothing")
    own_records.ioc.restart(f'record(mbbo, "{name}") {{ field(ZRST, "Off") field(ONST, "On") }}')
    with pytest.raises(ConversionError, match="'Walk' is none of its states, which are 'Off', 'On'"):
        ca.put(connected(name), "Walk")


# --- what does not


REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("count", 2**31, "out of range, LONG takes -2147483648 to 2147483647"),
    ("count", -(2**31) - 1, "out of range"),
    ("count", np.uint64(2**63), "out of range"),
    ("count", 10**400, "out of range"),
    ("count", "4294967296", "out of range"),
    ("count", decimal.Decimal("1e10"), "out of range"),
    ("count", math.nan, "not a finite number"),
    ("count", np.float16("inf"), "not a finite number"),
    ("count", "Idle", "not a number"),
    ("count", b"\xff", "not a number"),
    ("one:short", 40_000, "out of range, SHORT"),
    ("one:char", 256, "out of range, CHAR"),
    ("one:char", "A", "not a number"),
    ("one:float", 1e39, "out of range, FLOAT"),
    ("free", 10**400, "out of range, DOUBLE"),
    ("free", "1e400", "out of range, DOUBLE"),
    ("free", "fast", "not a number"),
    ("free", [1, 2], "2 elements, and the PV holds at most 1"),
    ("enum", -1, "out of range, ENUM"),
    ("enum", "Nothing", "'Nothing' is none of its states, which are 'Idle', 'Run', 'Wait for ever'"),
    ("enum", "idle", "none of its states"),
    ("enum", "3", "none of its states"),
    ("enum", "", "none of its states"),
    ("double.SCAN", "sometimes", "none of its states, which are 'Passive'"),
    ("enum", "1.5", "none of its states"),
    ("enum", "-1", "none of its states"),
    ("stateless", "Idle", "not a number"),
    ("enums", ["1", "Idle"], "not a number"),
    ("enums", ["1", "65536"], "out of range, ENUM"),
    ("string", "x" * 40, "40 bytes, and a string holds at most 39"),
    ("string", "ä" * 20, "40 bytes"),
    ("string", "a\0b", "a zero byte inside"),
    ("string", "\ud800", "surrogates"),
    ("strings", ["a", "x" * 40], "at most 39"),
    ("strings", ["a"] * 9, "9 elements, and the PV holds at most 8"),
    ("text", "x" * 100, "101 bytes with the closing zero, more than the PV holds"),
    ("text", b"x" * 101, "101 elements, and the PV holds at most 100"),
    ("chars", [1, 256], "out of range, CHAR"),
    ("longs", [1, 2**31], "out of range, LONG"),
    ("longs", np.array([1, np.nan]), "finite"),
    ("longs", np.arange(9), "9 elements, and the PV holds at most 8"),
    ("longs", np.zeros((3, 3)), "9 elements"),
    ("longs", ["1", "one"], "not a number"),
    ("longs", b"\x01\x02", "not a number"),
    ("floats", [1e39, 0], "out of range, FLOAT"),
    ("doubles", [], "Channel Access cannot write an array without elements"),
    ("doubles", [[1, 2], [3]], "uneven"),
    ("doubles", np.ma.array([1, 2], mask=[True, False]), "masked"),
    ("doubles", (number for number in (1, 2)), "make a list of it"),
    ("doubles", [1, None], "the element None"),
    *(
        (ending, value, "neither a number, nor text")
        for ending in ("free", "count", "enum", "string", "doubles", "strings", "text")
        for value in (None, {"a": 1}, {1}, 1j, object(), np.datetime64("2020-01-01"), np.zeros(1, "M8[s]"))
    ),
)


def assert_names(error: Exception, name: str, value: str, type_name: str) -> None:
    """An error of a put names the value, the PV and its type."""
    assert isinstance(error, ChannelAccessException)
    assert isinstance(error, ValueError)
    assert str(error).startswith(f"cannot put {value}")
    assert f" to {name} ({type_name}" in str(error)
    assert (error.pvname, error.operation) == (name, "put")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.pvname) == (str(error), name)


@pytest.mark.parametrize(("ending", "value", "words"), REFUSED, ids=lambda each: str(each)[:20])
def test_what_is_refused_is_not_sent(ca: ModuleType, records: Records, ending: str, value: Any, words: str):
    name = records(ending)
    chid = connected(name)
    before = ca.get_with_metadata(chid, ca.field_type(chid) + 14)
    for options in ({}, {"wait": True}, {"callback": lambda **given: pytest.fail("called for nothing")}):
        with pytest.raises(ConversionError) as refused:
            ca.put(chid, value, **options)
        assert words in str(refused.value)
        assert_names(refused.value, name, "", dbr.Name(ca.field_type(chid)).replace("INT", "SHORT"))
    assert repr(ca.get_with_metadata(chid, ca.field_type(chid) + 14)) == repr(before)
    assert nothing_under_way(chid)


def test_types_that_are_not_written(ca: ModuleType, records: Records):
    chid = connected(records("free"))
    for ftype in (-1, 7, 20, 34, 37, 38, 39, 255):
        with pytest.raises(ConversionError, match=f"cannot put 1 to .*free as DBR type {ftype}: only the plain types"):
            ca.put(chid, 1, ftype=ftype)
    with pytest.raises(ConversionError, match=r"out of range, SHORT"):
        ca.put(chid, 40_000, ftype=dbr.SHORT)
    with pytest.raises(ConversionError, match=r"not a number"):
        ca.put(connected(records("enum")), "Run", ftype=dbr.ENUM)


def test_the_server_refuses(ca: ModuleType, own_records: Records, caplog):
    """A record with DISP; text that no state has, said to be wanted as it is. Who does not wait is told otherwise."""
    told: list[dict[str, Any]] = []
    ca.initialize_libca()
    ca.add_exception_event(lambda **given: told.append(given))
    for ending, value, options, type_name in (
        ("disabled", 8, {}, "DOUBLE"),
        ("enum", "Nothing", {"ftype": dbr.STRING}, "ENUM"),
    ):
        name = own_records(ending)
        chid = connected(name)
        before = ca.get(chid)
        with pytest.raises(ChannelAccessException) as refused:
            ca.put(chid, value, wait=True, **options)
        assert isinstance(refused.value, RuntimeError)
        words = f"cannot put {value!r} to {name} ({type_name}): its server answered: {ca.message(dbr.ECA_PUTFAIL)}"
        assert str(refused.value) == words
        assert (refused.value.pvname, refused.value.eca) == (name, dbr.ECA_PUTFAIL)
        assert not told
        assert ca.put(chid, value, **options) == 1
        (given,) = eventually(lambda: told, "the failure is told")
        assert (given["op"], given["pvname"], given["chid"]) == ("put", name, int(chid))
        assert given["status"] == dbr.ECA_PUTFAIL
        assert name in caplog.text
        told.clear()
        assert ca.get(chid) == before
        assert nothing_under_way(chid)
