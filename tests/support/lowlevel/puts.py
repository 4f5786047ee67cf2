"""Calls that write: every value to every record, and what tells that a put is complete."""

from __future__ import annotations

import array
import ctypes
import enum
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from .database import SLOW_S, WRITTEN
from .describe import Text
from .lab import Broken, Call, Lab


class _Number(enum.IntEnum):
    TWO = 2


_NUMBERS = (0, 1, -1, 2, 3, 15, 16, 100, 127, 128, 200, 256, 40_000, 70_000, 2**31, -(2**31), 2**40)
_FLOATS = (1.0, 1.5, -2.75, 1e10, 1e300, float("nan"), float("inf"))
_SCALARS = (
    *(np.float32(1.5), np.float64(2.5), np.int8(-3), np.uint8(200), np.int64(7), np.uint64(2**40)),
    *(np.bool_(True), np.str_("5"), np.bytes_(b"5"), _Number.TWO, Decimal("1.5"), Fraction(3, 2), 1 + 2j),
)
_NUMERIC_TEXTS = ("5", "0x1F", "0b11", "0o17", " 7 ", "-3", "1e3", "1.5", "1_000", "nan")
_TEXTS = ("", " ", "text", "On", "state TW", "No such state", "Passive", "Grüße", "µ", "a\0b", "two\nlines")
_BYTES = (b"5", b"0x1F", b"On", b"bytes", b"", b"\xff\xfe", b"x" * 40)
_LISTS = (
    *([1, 2, 3], (4, 5), [], (), [7], [1.5, 2.5], [True, False], ["a", "b"], ["1", "2"], [b"a", b"b"]),
    *([None], [1, None], [300], [-1, 200], [[1, 2], [3, 4]], ["x" * 40], ["Grüße", ""], [1, "a"], {}, {1: 2}),
)
_DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64")
VALUES: dict[str, Any] = {
    **{repr(value): value for value in (*_NUMBERS, *_FLOATS, True, False, None)},
    **{f"{type(value).__name__} {value}": value for value in _SCALARS},
    **{repr(value): value for value in (*_NUMERIC_TEXTS, *_TEXTS, *_BYTES, *_LISTS)},
    **{f"{dtype} array": np.array([1, 2, 3]).astype(dtype) for dtype in _DTYPES},
    "10**400": 10**400,
    "text of 39": "x" * 39,
    "text of 40": "x" * 40,
    "text of 300": "x" * 300,
    "39 bytes in 38 letters": "x" * 37 + "é",
    "41 bytes in 39 letters": "x" * 37 + "éé",
    "8 numbers": list(range(8)),
    "9 numbers": list(range(9)),
    "200 numbers": list(range(200)),
    "9 texts": [f"text {index}" for index in range(9)],
    "a range": range(3),
    "a set": {5},
    "a bytearray": bytearray(b"ab"),
    "a memoryview": memoryview(b"ab"),
    "an array.array": array.array("d", [1.5, 2.5]),
    "an object": object(),
    "float array": np.array([1.5, -2.5]),
    "large float array": np.array([1e300, -1e300]),
    "nan array": np.array([np.nan, 1.0]),
    "int64 array, large": np.array([2**40, -1]),
    "complex array": np.array([1 + 2j]),
    "text array": np.array(["a", "bcd"]),
    "bytes array": np.array([b"a", b"bcd"]),
    "object array": np.array([1, "a"], object),
    "array of 0 dimensions": np.array(5.0),
    "array of 2 dimensions": np.arange(4).reshape(2, 2),
    "strided array": np.arange(6)[::2],
    "empty array": np.array([]),
    "array of 9": np.arange(9.0),
    "array of 1": np.array([6]),
    "ctypes array": (ctypes.c_double * 2)(1.5, 2.5),
    "c_double": ctypes.c_double(1.5),
}
_STARTS: dict[str, Any] = {"mbbo": 3, "bo": 1, "lso.VAL$": "before", "text": "before", "stringout": "before"}


def values(lab: Lab) -> Iterator[Call]:
    """Every value to every record, and what is read then."""
    for ending in WRITTEN:
        for name, value in VALUES.items():
            yield f"put/{ending}/{name}", partial(_put_and_get, lab, ending, value)


def _put_and_get(lab: Lab, ending: str, value: Any, **options: Any) -> Any:
    chid = lab.written(ending)
    _reset(lab, ending)
    given: dict[str, Any] = {"wait": True, "timeout": 5, **options}
    try:
        status = lab.ca.put(chid, value, **given)
    except Exception as error:
        # Raised again with what the record has then, if that is not what it had before.
        if _same(_start(ending), lab.ca.get(chid)):
            raise
        return {"status": Text(type(error).__name__), "get": lab.ca.get(chid)}
    return {"status": status, "get": lab.ca.get(chid)}


def _start(ending: str) -> Any:
    """Return what a record has before each put."""
    if ending in _STARTS:
        return _STARTS[ending]
    if ending.endswith("string") or ending == "ao.DESC":
        return ["before"] if ending.startswith("wf:") else "before"
    if ending in ("ao.SCAN", "ao.PROC"):
        return 0
    return [9, 8, 7, 6] if ending.startswith("wf:") else 9


def _reset(lab: Lab, ending: str) -> None:
    status = lab.ca.put(lab.written(ending), _start(ending), wait=True, timeout=5)
    if status != 1:
        raise Broken(f"{ending} cannot be put back: {status}")


def _same(start: Any, value: Any) -> bool:
    if isinstance(start, str) and isinstance(value, np.ndarray):
        return bytes(value).rstrip(b"\0").decode() == start
    return bool(np.array_equal(np.asarray(start), np.asarray(value)))


def forms(lab: Lab) -> Iterator[Call]:
    """The options of ``put``."""
    ca, dbr = lab.ca, lab.dbr
    types = ("STRING", "INT", "FLOAT", "ENUM", "CHAR", "LONG", "DOUBLE")
    for ending in (
        "ao",
        "longout",
        "mbbo",
        "bo",
        "stringout",
        "text",
        "wf:short",
        "wf:double",
        "wf:string",
        "one:char",
    ):
        for ftype in types:
            for value in (2, "2", "state TW", [1, 2], b"7"):
                yield (
                    f"put/{ending}/ftype {ftype}/{value!r}",
                    partial(_put_and_get, lab, ending, value, ftype=getattr(dbr, ftype)),
                )
    for ftype in (-1, 14, 20, 34, 99, "6", 6.0):
        yield f"put/ftype {ftype!r}", partial(_put_and_get, lab, "ao", 1, ftype=ftype)
    for ending, value in (("ao", 4.5), ("mbbo", 2), ("stringout", "now"), ("wf:long", [3, 2]), ("text", "now")):
        yield f"put/{ending}/no wait", partial(_put_without_wait, lab, ending, value)
    yield "put/positional", lambda: [ca.put(lab.written("ao"), 5.5, True, 5, None, None), ca.get(lab.written("ao"))]
    yield "put/by number", partial(_put_and_get, lab, "ao", 6.5)
    yield "put/refused by the server", lambda: _refused(lab, wait=True)
    yield "put/refused by the server/no wait", lambda: _refused(lab, wait=False)
    yield "put/refused by the server/callback", lambda: _refused_callback(lab)
    yield "put/many", lambda: _many(lab)
    yield "put/array and scalar warn", lambda: lab.printed(lambda: ca.put(lab.written("wf:long"), [1], wait=True)) == ""


def _put_without_wait(lab: Lab, ending: str, value: Any) -> Any:
    chid = lab.written(ending)
    _reset(lab, ending)
    return {"status": lab.ca.put(chid, value), "get": lab.ca.get(chid)}


def _refused(lab: Lab, wait: bool) -> Any:
    chid = lab.written("mbbo")
    _reset(lab, "mbbo")
    status = lab.ca.put(chid, "No such state", wait=wait, timeout=2, ftype=lab.dbr.STRING)
    return {"status": status, "get": lab.ca.get(chid)}


def _refused_callback(lab: Lab) -> Any:
    seen: list[Any] = []
    chid = lab.written("mbbo")
    status = lab.ca.put(chid, "No such state", callback=lambda **given: seen.append(given), ftype=lab.dbr.STRING)
    called = lab.wait(lambda: seen)
    return {"status": status, "called": called}


def _many(lab: Lab) -> Any:
    """Puts that do not wait arrive in their order."""
    chid = lab.written("longout")
    statuses = {lab.ca.put(chid, number) for number in range(100)}
    return [sorted(statuses), lab.ca.get(chid)]


def completion(lab: Lab) -> Iterator[Call]:
    """What tells that a put is complete, on a fast record and on a slow one."""
    data: dict[str, Any] = {
        "nothing": None,
        "a number": 5,
        "a text": "text",
        "a list": [1, 2],
        "a dict": {"one": 1, "two": 2},
        "an empty dict": {},
        "a dict with data": {"data": 7},
        "False": False,
    }
    for name, value in data.items():
        yield f"put/callback/{name}", partial(_callback, lab, "ao", callback_data=value)
    yield "put/callback/wait", partial(_callback, lab, "ao", wait=True)
    yield "put/callback/array", partial(_callback, lab, "wf:double", value=[1.0, 2.0])
    yield "put/callback/string", partial(_callback, lab, "stringout", value="callback")
    yield "put/callback/slow", lambda: _slow_callback(lab)
    yield "put/callback/slow, in order", lambda: _callbacks_in_order(lab)
    yield "put/callback/that fails", lambda: _failing_callback(lab)
    yield "put/callback/that puts", lambda: _putting_callback(lab)
    yield "put/callback/not callable", partial(_put_and_get, lab, "ao", 1.5, wait=False, callback="rubbish")
    yield "put/callback/not callable, wait", partial(_put_and_get, lab, "ao", 2.5, callback="rubbish")
    yield "put/slow/wait", lambda: _slow(lab, 5.0)
    yield "put/slow/short timeout", lambda: _slow(lab, 0.1)
    yield "put/slow/no timeout", lambda: _slow(lab, 0)
    yield "put/slow/no wait", lambda: _slow(lab, None)


def _callback(lab: Lab, ending: str, value: Any = 3.5, **options: Any) -> Any:
    seen: list[dict[str, Any]] = []
    chid = lab.written(ending)
    status = lab.ca.put(chid, value, timeout=5, callback=lambda **given: seen.append(given), **options)
    at_return = len(seen) if options.get("wait") else None
    lab.wait(lambda: seen)
    return {"status": status, "at return": at_return, "calls": len(seen), "given": lab.kwargs(chid, seen[0])}


def _slow(lab: Lab, timeout: float | None) -> Any:
    chid = lab.written("slow")
    begin = time.monotonic()
    options = {} if timeout is None else {"wait": True, "timeout": timeout}
    status = lab.ca.put(chid, 1, **options)
    took = time.monotonic() - begin
    value = lab.ca.get(chid)
    done = lab.wait(lambda: lab.ca.get(chid) == 0)
    waited = Text(
        "to the end" if SLOW_S * 0.9 < took < SLOW_S + 0.5 else "less" if took < SLOW_S * 0.9 else f"{took} s"
    )
    return {"status": status, "waited": waited, "get": value, "done": done}


def _slow_callback(lab: Lab) -> Any:
    seen: list[float] = []
    chid = lab.written("slow")
    begin = time.monotonic()
    status = lab.ca.put(chid, 1, callback=lambda **_given: seen.append(time.monotonic() - begin))
    found = {"status": status, "at return": len(seen), "get": lab.ca.get(chid)}
    lab.wait(lambda: seen)
    return {**found, "after the delay": seen[0] > SLOW_S * 0.9, "then": lab.ca.get(chid)}


def _callbacks_in_order(lab: Lab) -> Any:
    seen: list[Any] = []
    chid = lab.written("ao")
    for number in range(20):
        lab.ca.put(chid, number, callback=lambda data, **_given: seen.append(data), callback_data=number)
    lab.wait(lambda: len(seen) == 20)
    return seen


def _failing_callback(lab: Lab) -> Any:
    def fail(**_given: Any) -> None:
        raise ValueError("on purpose")

    chid = lab.written("ao")
    status = lab.ca.put(chid, 1.25, wait=True, callback=fail)
    return {"status": status, "get": lab.ca.get(chid)}


def _putting_callback(lab: Lab) -> Any:
    """A callback that puts without waiting, against the advice of the manual."""
    seen: list[Any] = []
    chid, other = lab.written("ao"), lab.written("longout")
    lab.ca.put(chid, 1.5, callback=lambda **_given: seen.append(lab.ca.put(other, 77)))
    lab.wait(lambda: seen)
    return [seen, lab.ca.get(other)]


SECTIONS = (values, forms)
ALONE = (completion,)
