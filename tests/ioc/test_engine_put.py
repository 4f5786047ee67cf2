"""Writing through an engine, and what another client then reads."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from support import pyepics
from support.background import Background
from support.engines import MakeEngine, Seen
from support.ioc import IOCFactory

from daqca import Engine
from daqca.errors import AccessRightsError, ConversionError, PVNotFoundError, RefusedError
from daqca.events import Kind
from daqca.outcome import Outcome
from daqca.sim import SoftIOC

RECORDS = """
record(ao, "P:double") { field(DRVH, "1e9") field(DRVL, "-1e9") field(PREC, "3") }
record(ao, "P:plain") { }
record(ao, "P:limited") { field(DRVH, "10") field(DRVL, "-10") }
record(longout, "P:long") { }
record(bo, "P:bool") { field(ZNAM, "Off") field(ONAM, "On") }
record(mbbo, "P:enum") { field(ZRST, "Idle") field(ONST, "Run") field(TWST, "Wait for ever") field(TWVL, "2") }
record(stringout, "P:string") { }
record(lso, "P:lso") { field(SIZV, "300") }
record(waveform, "P:short") { field(FTVL, "SHORT") field(NELM, "1") }
record(waveform, "P:float") { field(FTVL, "FLOAT") field(NELM, "1") }
record(waveform, "P:uchar") { field(FTVL, "UCHAR") field(NELM, "1") }
record(waveform, "P:char") { field(FTVL, "CHAR") field(NELM, "1") }
record(waveform, "P:text") { field(FTVL, "CHAR") field(NELM, "200") }
record(waveform, "P:bytes") { field(FTVL, "UCHAR") field(NELM, "1048576") }
record(waveform, "P:shorts") { field(FTVL, "SHORT") field(NELM, "10") }
record(waveform, "P:longs") { field(FTVL, "LONG") field(NELM, "10") }
record(waveform, "P:floats") { field(FTVL, "FLOAT") field(NELM, "10") }
record(waveform, "P:doubles") { field(FTVL, "DOUBLE") field(NELM, "200000") }
record(waveform, "P:strings") { field(FTVL, "STRING") field(NELM, "5") }
record(waveform, "P:enums") { field(FTVL, "ENUM") field(NELM, "5") }
record(ao, "P:disabled") { field(DISP, "1") }
"""
"""Every type that can be put to, as a scalar and as an array."""


@pytest.fixture(scope="module")
def target(servers: Any, repeater: Any) -> Any:
    """An IOC with these records, for this module."""
    factory = IOCFactory(servers)
    yield factory(RECORDS)
    factory.stop()


@pytest.fixture
def putter(target: SoftIOC, point_at: Any, make_engine: MakeEngine) -> Engine:
    """An engine that reaches these records, and all of them as they were at the start of the IOC or later."""
    point_at(target)
    return make_engine()


PUTS: list[tuple[str, Any, Any]] = [
    ("double", 1.5, 1.5),
    ("double", -7, -7.0),
    ("double", "0x1F", 31.0),
    ("plain", float("inf"), float("inf")),
    ("double", np.float32(0.25), 0.25),
    ("double", True, 1.0),
    ("limited", 50, 10.0),
    ("long", 2**31 - 1, 2**31 - 1),
    ("long", -(2**31), -(2**31)),
    ("long", 3.99, 3),
    ("long", "12", 12),
    ("bool", "On", 1),
    ("bool", 0, 0),
    ("enum", "Wait for ever", 2),
    ("enum", 1, 1),
    ("enum", b"Idle", 0),
    ("string", "a text", "a text"),
    ("string", "é" * 19, "é" * 19),
    ("string", 2.5, "2.5"),
    ("string", "", ""),
    ("short", -32768, -32768),
    ("float", 0.1, float(np.float32(0.1))),
    ("uchar", 200, 200),
    ("uchar", 255, 255),
    ("char", -1, 255),
    ("char", 127, 127),
    ("shorts", [1, -2, 3], np.array([1, -2, 3], np.int16)),
    ("longs", np.arange(10), np.arange(10, dtype=np.int32)),
    ("longs", [7], np.array([7], np.int32)),
    ("floats", (0.5, 1.5), np.array([0.5, 1.5], np.float32)),
    ("doubles", np.linspace(0, 1, 131_072), np.linspace(0, 1, 131_072)),
    ("doubles", [float("nan"), 1.0, float("-inf")], np.array([np.nan, 1.0, -np.inf])),
    ("doubles", 4.25, np.array([4.25])),
    ("bytes", np.arange(2**20).astype(np.uint8), np.arange(2**20).astype(np.uint8)),
    ("bytes", b"\x00\xff\x80", np.array([0, 255, 128], np.uint8)),
    ("text", "x" * 199, np.array([ord("x")] * 199 + [0], np.uint8)),
    ("strings", ["one", "", "39 characters are the longest of these."], None),
    ("enums", [0, 1, 65535], np.array([0, 1, 65535], np.uint16)),
]


def same(actual: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        kind = actual.dtype.kind == expected.dtype.kind
        return kind and np.array_equal(actual, expected, equal_nan=expected.dtype.kind == "f")
    return type(actual) is type(expected) and actual == expected


def test_what_is_put_is_read_back(putter: Engine):
    for ending, value, expected in PUTS:
        name = f"P:{ending}"
        if expected is None:
            expected = np.array(value)
        putter.put(name, value, timeout=20)
        reading = putter.get(name)
        assert same(reading.value, expected), (name, value, reading.value)
        assert same(putter.snapshot([name])[name].value, expected), (name, value)


def test_chars_above_127_in_one_and_in_many_answers(putter: Engine):
    """An IOC makes a negative double of some, which is put right in answers decoded one by one and in columns."""
    for ending, value in (("char", -1), ("char", 200), ("uchar", 200), ("uchar", 255)):
        putter.put(f"P:{ending}", value, timeout=20)
        expected = value % 256
        assert putter.get(f"P:{ending}").value == expected
        assert putter.snapshot([f"P:{ending}"] * 50).values == [expected] * 50
        seen = Seen()
        with putter.subscribe([f"P:{ending}"], seen):
            assert seen.wait_kind(Kind.UPDATE)[0].value == expected


def test_what_is_put_is_what_pyepics_reads(putter: Engine):
    last = {f"P:{ending}": expected for ending, value, expected in PUTS if ending != "bytes" and len(str(value)) < 1000}
    for ending, value, _ in PUTS:
        if f"P:{ending}" in last:
            putter.put(f"P:{ending}", value, timeout=20)
    for name, theirs in pyepics.read(list(last)).items():
        expected = last[name] if last[name] is not None else ["one", "", "39 characters are the longest of these."]
        plain = expected.tolist() if isinstance(expected, np.ndarray) else expected
        assert theirs["value"] == plain, name


def test_nan_goes_to_a_double_and_to_no_integer(putter: Engine):
    putter.put("P:double", float("nan"), timeout=20)
    assert np.isnan(putter.get("P:double").value)
    assert np.isnan(putter.snapshot(["P:double"]).number[0])
    with pytest.raises(ConversionError, match=r"P:long.*finite"):
        putter.put("P:long", float("nan"))


def test_a_long_string_field(putter: Engine):
    putter.put("P:lso.VAL$", "Grüße " * 30, timeout=20)
    assert putter.get("P:lso.VAL$").as_text() == "Grüße " * 30
    putter.put("P:text", "short", timeout=20)
    assert putter.get("P:text").as_text() == "short"


UNFIT = [
    ("double", "not a number", "not a number"),
    ("double", None, "NoneType"),
    ("long", 2**31, "out of range"),
    ("string", "x" * 40, "40 bytes"),
    ("shorts", list(range(11)), "11 elements"),
    ("shorts", [], "without elements"),
    ("shorts", [1, 40_000], "out of range"),
    ("enum", 70_000, "out of range"),
    ("text", "x" * 200, "201 bytes"),
]


def test_a_value_that_does_not_fit_is_not_sent(putter: Engine):
    for ending, value, why in UNFIT:
        name = f"P:{ending}"
        before = putter.get(name, timeout=20)
        with pytest.raises(ConversionError, match=why) as caught:
            putter.put(name, value)
        assert caught.value.pvname == name
        after = putter.get(name)
        assert after.timestamp == before.timestamp, "the record was processed"


def test_what_the_server_refuses_is_an_error(putter: Engine):
    with pytest.raises(RefusedError, match="P:enum") as caught:
        putter.put("P:enum", "No such state", timeout=20)
    assert caught.value.eca is not None
    with pytest.raises((RefusedError, AccessRightsError), match="P:disabled"):
        putter.put("P:disabled", 1, timeout=20)
    with pytest.raises(PVNotFoundError, match="cannot write NO:SUCH:PV"):
        putter.put("NO:SUCH:PV", 1, timeout=0.2)


def test_a_put_without_completion_that_is_refused_is_counted(putter: Engine):
    before = putter.stats()["puts_refused"]
    putter.put("P:enum", "No such state", wait=False, timeout=20)
    putter.put("P:long", 5, wait=True)  # the answer to what went before on the same circuit comes first
    assert putter.stats()["puts_refused"] == before + 1


def test_puts_without_completion_arrive_in_order(putter: Engine):
    for value in range(200):
        putter.put("P:long", value, wait=False, timeout=20)
        assert putter.get("P:long").value == value


def test_put_waits_for_the_record_to_process(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
    ioc = make_ioc()  # one of its own, because the record is still busy at the end
    point_at(ioc)
    engine = make_engine()
    name = ioc.prefix + "slow"
    engine.connect([name], timeout=20)
    begin = time.monotonic()
    engine.put(name, 1)
    assert time.monotonic() - begin > 0.45  # the record takes half a second
    assert engine.get(name).value == 0
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="did not confirm it in time"):
        engine.put(name, 1, timeout=0.1)
    assert 0.1 <= time.monotonic() - begin < 0.4
    engine.put(name, 0, wait=False)
    begin = time.monotonic()
    assert engine.put_many([name, name], [1, 1], wait=True, timeout=0.1).failed == {name: Outcome.TIMEOUT}
    assert time.monotonic() - begin < 0.4


# --- many -----------------------------------------------------------------------------------

NAMES = ["P:double", "P:long", "P:enum", "P:string", "NO:SUCH:PV", "P:shorts", "P:uchar", "P:bool", "P:float"]


def test_put_many_of_good_and_bad_values(putter: Engine):
    values = [1.25, 2**40, "Run", "ok", 1, [1, 2], 254, "Nowhere", 0.5]
    expected = [
        *(Outcome.OK, Outcome.BAD_VALUE, Outcome.OK, Outcome.OK, Outcome.NEVER_FOUND),
        *(Outcome.OK, Outcome.OK, Outcome.REFUSED, Outcome.OK),
    ]
    putter.put("P:long", 99, timeout=20)
    result = putter.put_many(NAMES, values, wait=True, timeout=1)
    assert result.outcome.tolist() == expected
    assert not result.ok
    assert result.failed == {
        "P:long": Outcome.BAD_VALUE,
        "NO:SUCH:PV": Outcome.NEVER_FOUND,
        "P:bool": Outcome.REFUSED,
    }
    assert "out of range" in result.errors["P:long"]
    assert [name for name, eca in zip(NAMES, result.eca.tolist(), strict=True) if eca] == ["P:bool"]
    read = putter.snapshot([name for name in NAMES if name != "NO:SUCH:PV"], timeout=20)
    assert read["P:shorts"].value.tolist() == [1, 2]
    assert [read[name].value for name in ("P:double", "P:long", "P:enum", "P:string", "P:uchar", "P:float")] == [
        *(1.25, 99, 1, "ok", 254, 0.5),
    ]


def test_a_missing_pv_keeps_no_other_from_being_put(putter: Engine, make_engine: MakeEngine):
    """Cold: the others are written while the missing one is still searched."""
    names = ["P:double", "NO:SUCH:PV", "P:long"]
    seen = Seen()
    unique = time.time_ns() % 1_000_000 + 0.5
    with putter.subscribe(["P:double", "P:long"], seen):
        seen.wait(lambda: len({event.slot for event in seen.events(Kind.UPDATE)}) == 2, "first values")
        cold = make_engine()
        begin = time.monotonic()
        call = Background(cold.put_many, names, [unique, 1, int(unique)], wait=True, timeout=2)
        seen.wait(lambda: seen.values(0)[-1] == unique and seen.values(1)[-1] == int(unique), "the values put")
        assert time.monotonic() - begin < 1.5
        assert call.join().result.outcome.tolist() == [Outcome.OK, Outcome.NEVER_FOUND, Outcome.OK]
        assert 2 <= call.took < 3
    result = cold.put_many(names, [1, 1, 2], wait=False, timeout=0.3)
    assert result.outcome.tolist() == [Outcome.SENT, Outcome.NEVER_FOUND, Outcome.SENT]


def test_put_many_without_completion_says_sent(putter: Engine):
    result = putter.put_many(["P:double", "P:string"], np.array([3.5, 4.5]), timeout=20)
    assert result.outcome.tolist() == [Outcome.SENT, Outcome.SENT]
    assert result.ok
    snap = putter.snapshot(["P:double", "P:string"], timeout=20)
    assert snap.values == [3.5, "4.5"]


def test_put_many_of_the_same_pv_keeps_the_order(putter: Engine):
    for _ in range(5):
        result = putter.put_many(["P:double", "P:double", "P:double"], ["1", 2.0, "3"], wait=True, timeout=20)
        assert result.outcome.tolist() == [1, 1, 1]
        assert putter.get("P:double").value == 3.0
        for values in ([5.0, "4"], ["5", 4.0]):
            putter.put_many(["P:double", "P:double"], values, timeout=20)
            assert putter.get("P:double").value == 4.0


def test_put_many_of_nothing_and_of_uneven_lists(putter: Engine):
    assert putter.put_many([], []).ok
    with pytest.raises(ValueError, match="2 names, but 1 values"):
        putter.put_many(["P:long", "P:double"], [1])
    with pytest.raises(TypeError, match="list of names"):
        putter.put_many("P", [1])


def test_put_many_to_thousands(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
    ioc = make_ioc("\n".join(f'record(ao, "M:{i}") {{ }} record(stringout, "M:s{i}") {{ }}' for i in range(2000)))
    point_at(ioc)
    engine = make_engine()
    names = [f"M:{i}" for i in range(2000)] + [f"M:s{i}" for i in range(2000)]
    values = [i / 4 for i in range(2000)] + [f"text {i}" for i in range(2000)]
    result = engine.put_many(names, values, wait=True, timeout=30)
    assert result.ok, result.failed
    assert (result.outcome == Outcome.OK).all()
    assert engine.snapshot(names, timeout=20).values == values
