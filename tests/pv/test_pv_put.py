"""`PV.put`: what can be put, and who is told when it is done. Manual, chapters 3.1 and 3.6."""

from __future__ import annotations

import ctypes
import decimal
import fractions
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.access import AccessIOC
from support.ca_records import SLOW_S, STATES, TEXT, Records
from support.engines import MakeEngine
from support.pvs import made
from support.recording import eventually

from daqca import Engine
from daqca.errors import (
    AccessRightsError,
    CASeverityException,
    ChannelAccessException,
    ConversionError,
    RefusedError,
)
from daqca.pv_proxy import PV


@pytest.fixture
def as_before(engine: Engine, records: Records) -> Iterator[None]:
    """The records of this module's IOC have their values again after the test."""
    yield
    for record, value in (("double", 1.5), ("long", 7), ("enum", 2), ("string", "a string"), ("double.DESC", "")):
        engine.put(records(record), value)


# --- what can be put ----------------------------------------------------------------------------

NUMBERS = (
    *(2, -3, 2.5, True, False, fractions.Fraction(5, 2), decimal.Decimal("2.5"), "4.5", " 6 ", b"7", "0x1F"),
    *(np.int8(-3), np.uint8(200), np.int16(-300), np.uint16(40), np.int32(11), np.uint32(12), np.int64(13)),
    *(np.uint64(14), np.float16(2.5), np.float32(0.25), np.float64(3.5), np.bool_(True), np.array(4.5)),
    *([5], (6.5,), np.array([7.5]), np.array([[8]]), ctypes.c_int(9), ctypes.c_double(9.5)),
)


def number_of(value: Any) -> float:
    if isinstance(value, (str, bytes)):
        text = value.decode() if isinstance(value, bytes) else value
        return int(text, 0) if "x" in text else float(text)
    if isinstance(value, ctypes._SimpleCData):
        return float(value.value)
    return float(np.asarray(value, object).reshape(-1)[0])


def test_numbers(engine: Engine, records: Records, as_before: None):
    real, whole, text = made(records("free")), made(records("count")), made(records("string"))
    for value in NUMBERS:
        number = number_of(value)
        assert real.put(value, wait=True) == 1, repr(value)
        assert real.get() == number, repr(value)
        assert (whole.put(value, wait=True), whole.get()) == (1, int(number)), repr(value)
        if not isinstance(value, (str, bytes, fractions.Fraction)):
            text.put(value, wait=True)
            assert float(text.get()) == number, repr(value)


def test_texts(engine: Engine, records: Records, as_before: None):
    pv = made(records("string"))
    for value in ("a", "", "39 characters: the most that there can be", "täxt", " spaces "):
        value = value[:39]
        assert (pv.put(value, wait=True), pv.get(), pv.char_value) == (1, value, value)
    for value, expected in ((b"bytes", "bytes"), (np.str_("np"), "np"), (np.array("0-d"), "0-d"), (["one"], "one")):
        assert (pv.put(value, wait=True), pv.get()) == (1, expected)
    pv.value = "by the attribute"
    eventually(lambda: pv.value == "by the attribute", "the update")


def test_arrays(engine: Engine, records: Records):
    kinds = {
        "doubles": (np.float64, [1.5, -2.5, 1e300]),
        "floats": (np.float32, [1.5, -2.5, 0.25]),
        "longs": (np.int32, [-(2**31), 0, 2**31 - 1]),
        "shorts": (np.int16, [-(2**15), 0, 2**15 - 1]),
        "chars": (np.uint8, [0, 127, 255]),
        "enums": (np.uint16, [0, 1, 65535]),
    }
    types = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64)
    for record, (dtype, before) in kinds.items():
        pv = made(records(record))
        given: list[Any] = [np.array([1, 2, 3], kind) for kind in types]
        given += [np.array([1, 2, 3], ">i4"), np.array([[1, 2, 3]]), np.arange(8)[1:4], np.arange(8)[1:6:2]]
        given += [[1, 2, 3], (1, 2.0, 3), range(1, 4), ["1", 2, "0x3"], np.array([1, 2, 3], object)]
        given += [(ctypes.c_int * 3)(1, 2, 3), [np.float32(1), True, np.int8(3)]]
        for value in given:
            expected = [int(str(item), 0) if isinstance(item, str) else int(item) for item in np.ravel(value)]
            assert pv.put(value, wait=True) == 1, repr(value)
            found = pv.get()
            assert (found.dtype, found.tolist()) == (dtype, expected), repr(value)
        assert (pv.put(4, wait=True), pv.get().tolist()) == (1, [4])
        assert (pv.put(before, wait=True), pv.get().tolist()) == (1, before)
    strings = made(records("strings"))
    for value, texts in (
        (["a", "", " c "], ["a", "", " c "]),
        (np.array(["x", "yy"]), ["x", "yy"]),
        ("single", ["single"]),
        ([1, "2"], ["1", "2"]),
        ([b"b"], ["b"]),
        (["one", "", " three "], ["one", "", " three "]),
    ):
        assert (strings.put(value, wait=True), strings.get().tolist()) == (1, texts)
    chars = made(records("text"))
    for value, data in ((TEXT, TEXT.encode() + b"\0"), (b"as it is", b"as it is"), ([65, 66], b"AB"), ("", b"\0")):
        assert (chars.put(value, wait=True), bytes(chars.get())) == (1, data)


def test_states(engine: Engine, records: Records, as_before: None):
    """By name, by number, and by a text that says the number."""
    pv = made(records("enum"))
    for value, number in (("Idle", 0), ("Run", 1), (STATES[2], 2), (0, 0), (1.0, 1), (np.int8(2), 2), ("1", 1)):
        assert (pv.put(value, wait=True), pv.get(), pv.char_value) == (1, number, STATES[number])
    assert made(records("enum")).put(b"Idle", wait=True) == 1
    assert pv.get() == 0
    other = PV(records("enum"))
    assert other.put("Run", wait=True) == 1  # before anything else was known
    assert other.get() == 1


def test_what_does_not_fit(engine: Engine, records: Records):
    """The error says what and why; nothing is sent."""
    for record, value, why in (
        ("enum", "nonsense", "'nonsense' is none of its states, which are 'Idle', 'Run', 'Wait for ever'"),
        ("enum", "", "none of its states"),
        ("enum", 65536, "out of range"),
        ("string", TEXT, "63 bytes, and a string holds at most 39"),
        ("string", "ä" * 20, "40 bytes"),
        ("long", 2**31, "out of range"),
        ("long", float("nan"), "not a finite number"),
        ("double", "text", "not a number"),
        ("double", None, "NoneType"),
        ("double", [1, 2], "2 elements, and the PV holds at most 1"),
        ("double", {}, "dict"),
        ("double", 1j, "complex"),
        ("doubles", np.arange(9), "9 elements, and the PV holds at most 8"),
        ("doubles", [], "without elements"),
        ("doubles", [[1], [2, 3]], "uneven"),
        ("shorts", [1, 40000], "out of range"),
        ("chars", [256], "out of range"),
        ("strings", ["x" * 40], "40 bytes"),
        ("text", "x" * 100, "101 bytes"),
    ):
        pv = made(records(record))
        before = pv.get()
        for how in ({}, {"wait": True}, {"use_complete": True}):
            with pytest.raises(ConversionError, match=why) as raised:
                pv.put(value, **how)  # type: ignore[arg-type]
            assert isinstance(raised.value, ChannelAccessException)
            assert records(record) in str(raised.value)
            assert pv.put_complete is None
        assert np.array_equal(pv.get(use_monitor=False), before)
    with pytest.raises(TypeError, match="takes a function as callback"):
        made(records("double")).put(1, callback=1)  # type: ignore[arg-type]


def test_a_pv_that_may_not_be_written(make_engine: MakeEngine, access_ioc: AccessIOC, point_at: Any):
    point_at(access_ioc)
    engine = make_engine()
    for ending in ("nowrite", "noread", "sometimes"):
        pv = engine.pv(access_ioc.name(ending))
        assert pv.wait_for_connection(20)
        for how in ({}, {"wait": True}, {"use_complete": True}):
            with pytest.raises(CASeverityException) as raised:
                pv.put(1, **how)
            assert isinstance(raised.value, AccessRightsError)
            assert isinstance(raised.value, PermissionError)
            assert access_ioc.name(ending) in str(raised.value)
            assert pv.put_complete is None
    engine.put(access_ioc.name("switch"), 1)
    eventually(lambda: pv.write_access, "the right to write")
    assert (pv.put(8, wait=True), pv.get()) == (1, 8)


def test_a_put_that_the_server_refuses(engine: Engine, records: Records):
    pv = made(records("disabled"))
    with pytest.raises(RefusedError, match="disabled"):
        pv.put(8, wait=True)
    calls: list[dict[str, Any]] = []
    pv.put(8, use_complete=True, callback=lambda **kw: calls.append(kw))
    eventually(lambda: pv.put_complete, "the end of it")
    eventually(lambda: calls, "the call")
    assert calls[0]["pvname"] == records("disabled")
    assert calls[0]["status"] != 1
    assert pv.get(use_monitor=False) == 7


def test_a_pv_that_is_not_connected(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    pv = PV(records("nowhere"), connection_timeout=0.1)
    calls: list[Any] = []
    with caplog.at_level(logging.WARNING, "daqca"):
        begin = time.monotonic()
        assert pv.put(1) is None
        assert pv.put(1, wait=True) is None
        assert pv.put(1, use_complete=True, callback=lambda **kw: calls.append(kw)) is None
        pv.value = 1
        assert time.monotonic() - begin < 5
    (record,) = caplog.records
    assert f"cannot write {records('nowhere')}" in record.getMessage()
    assert (calls, pv.put_complete) == ([], None)


# --- when it is done ----------------------------------------------------------------------------


def test_wait(engine: Engine, records: Records):
    pv = made(records("slow"))
    begin = time.monotonic()
    assert pv.put(1, wait=True) == 1
    assert SLOW_S * 0.9 < time.monotonic() - begin < SLOW_S + 5
    assert pv.get() == 0
    begin = time.monotonic()
    assert pv.put(1) == 1
    assert time.monotonic() - begin < SLOW_S / 2
    eventually(lambda: pv.get(use_monitor=False) == 1, "it is busy")
    eventually(lambda: pv.get(use_monitor=False) == 0, "it is done")


def test_timeout(engine: Engine, records: Records):
    """-1 when it took too long; the completion that comes later calls the callback, once."""
    pv = made(records("slow"))
    calls: list[dict[str, Any]] = []
    begin = time.monotonic()
    assert pv.put(1, wait=True, timeout=0.05, callback=lambda **kw: calls.append(kw)) == -1
    assert 0.04 < time.monotonic() - begin < SLOW_S
    assert (calls, pv.put_complete) == ([], None)
    eventually(lambda: calls, "the call")
    assert pv.put_complete is True
    assert pv.put(1, wait=True, timeout=None) == 1  # of the same record: by now a second call would have come
    assert calls == [{"pvname": records("slow"), "data": None}]
    assert pv.put(1, wait=True, timeout=0.05) == -1
    assert pv.put_complete is None
    eventually(lambda: pv.get(use_monitor=False) == 0, "it is done")


def test_a_late_put_complete(engine: Engine, records: Records):
    pv = made(records("slow"))
    assert pv.put(1, wait=True, timeout=0.05, use_complete=True) == -1
    assert pv.put_complete is False
    eventually(lambda: pv.put_complete, "the end")
    assert pv.get(use_monitor=False) == 0


def test_put_complete(engine: Engine, records: Records):
    """The examples of the manual, 3.6: one PV, and a group of them."""
    pv = made(records("slow"))
    assert pv.put_complete is None
    assert pv.put(1, use_complete=True) == 1
    assert pv.put_complete is False
    begin = time.monotonic()
    waiting = True
    while waiting:
        time.sleep(0.001)
        waiting = not pv.put_complete
    assert time.monotonic() - begin > SLOW_S / 2
    assert pv.get() == 0
    pv.put(0)
    assert pv.put_complete is None

    group = [made(records(record)) for record in ("free", "count", "slow")]
    values = (1.0, 2.0, 1.0)
    for pv, value in zip(group, values, strict=True):
        pv.put(value, use_complete=True)
    assert not all(pv.put_complete for pv in group)
    eventually(lambda: all(pv.put_complete for pv in group), "all puts are done")
    assert [pv.get() for pv in group] == [1.0, 2, 0]


def test_put_complete_is_of_the_last_put(engine: Engine, records: Records):
    """The end of a put before it is not the end of it."""
    pv = made(records("slow"))
    ends: list[int] = []
    pv.put(1, use_complete=True, callback=lambda **kw: ends.append(1))
    pv.put(1, use_complete=True, callback=lambda **kw: ends.append(2))
    while ends != [1, 2]:
        is_complete, before = pv.put_complete, list(ends)
        assert not is_complete or 2 in ends, before
        time.sleep(0.001)
    eventually(lambda: pv.put_complete, "the last one")


def test_callbacks(engine: Engine, records: Records):
    pv = made(records("free"))
    calls: list[tuple[str, Any]] = []
    name = records("free")

    def keywords(**kw: Any) -> None:
        calls.append((threading.current_thread().name, kw))

    here = threading.current_thread().name
    assert pv.put(1, wait=True, callback=keywords) == 1
    assert calls == [(here, {"pvname": name, "data": None})]  # before put returned
    calls.clear()
    assert pv.put(2, wait=True, callback=keywords, callback_data=5, use_complete=True) == 1
    assert calls == [(here, {"pvname": name, "data": 5})]
    assert pv.put_complete is True
    calls.clear()
    assert pv.put(3, callback=keywords, callback_data={"a": 1, "b": 2}) == 1
    eventually(lambda: calls, "the call")
    (thread, given), *others = calls
    assert (thread != here, others) == (True, [])
    assert {key: given[key] for key in ("pvname", "a", "b")} == {"pvname": name, "a": 1, "b": 2}

    def named(pvname: str | None = None, a: int = 0, **kws: Any) -> None:
        calls.append((str(pvname), (a, pv.get(), pv.put_complete)))

    calls.clear()
    pv.put(4, wait=True, callback=named, callback_data={"a": 1})
    assert calls == [(name, (1, 4, True))]  # it sees the new value, and that the put has ended
    only: list[str] = []

    def only_the_name(pvname: str) -> None:
        only.append(pvname)

    def raises(**kw: Any) -> None:
        raise ValueError("on purpose")

    for wait in (True, False):
        pv.put(5, wait=wait, callback=raises)
        pv.put(6, wait=wait, callback=only_the_name)
    eventually(lambda: only == [name, name], "the calls")


def test_a_callback_puts(engine: Engine, records: Records):
    """A chain: each put begins in the callback of the one before."""
    pv, other = made(records("free")), made(records("count"))
    found: list[Any] = []

    def follow(pvname: str, **kw: Any) -> None:
        found.append((other.put(11, wait=True), other.get(), pv.put(12, wait=True), pv.get()))

    pv.put(1, callback=follow)
    eventually(lambda: found, "the chain")
    assert found == [(1, 11, 1, 12)]


def test_callbacks_of_many_puts_come_once_each_and_in_order(engine: Engine, records: Records):
    pv = made(records("count"))
    calls: list[int] = []
    for number in range(500):
        pv.put(number, callback=lambda data, **kw: calls.append(data), callback_data=number)
    assert (pv.put(1000, wait=True), pv.get()) == (1, 1000)
    eventually(lambda: len(calls) >= 500, "all calls")
    assert calls == list(range(500))
