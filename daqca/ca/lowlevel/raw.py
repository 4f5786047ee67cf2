"""What came of a get or an update, and what it is to a Python program: values, strings, arrays, dictionaries.

Pure functions over bytes; the layouts are those of `daqca.ca.dbr`.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

import daqca.ca as surface
from daqca import dbr
from daqca.ca.dbr import Metadata, decode_metadata, element, plain, value_offset

_STRING, _ENUM, _CHAR = 0, 3, 4
_FLOATS = (2, 6)
_FIRST_STS, _FIRST_TIME, _FIRST_GR, _LAST_CTRL = 7, 14, 21, 34
_STSACK = 37
CTRL_LIMITS = tuple(name for name in Metadata.__slots__ if name.endswith("_limit"))


class Raw(NamedTuple):
    """An answer or an update as it came: what `sg_get` gives, for `_unpack`.

    ``data`` holds ``count`` elements of the plain type ``ftype % 7`` as Channel Access sends them, and before them
    all that a GR or CTRL type (or STSACK_STRING) has; ``number`` is the value instead, if it is a single number.
    """

    ftype: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks of it
    number: float | None
    data: bytes | memoryview
    status: int
    severity: int
    timestamp: int
    """Nanoseconds since the Unix epoch; 0 if the type has none."""


def raw_of(ftype: int, row: tuple[Any, ...], data: bytes | memoryview) -> Raw:
    """What came, from an event's row (see `daqca.events.Event`) and its bytes."""
    number = None if isinstance(row[6], tuple) else row[6]
    return Raw(ftype, row[7], number, data, row[3], row[4], row[5])


def decode_string(field: bytes | memoryview) -> str:
    """A string of Channel Access in the encoding ``ca.IOENCODING``; what is not in it is taken for Latin-1."""
    data = bytes(field).split(b"\0", 1)[0]
    try:
        return data.decode(surface.IOENCODING)
    except UnicodeDecodeError:
        return data.decode("latin-1")


def number_of(number: float, ftype: int) -> int | float:
    """A single number as the type that was asked for has it."""
    return number if plain(ftype) in _FLOATS else int(number)


def value_of(raw: Raw, count: int | None = None, is_array: bool = False, as_numpy: bool = True) -> Any:
    """The value as the manual's `get` gives it.

    Parameters
    ----------
    count
        At most so many elements; None or 0: all that came.
    is_array
        Whether the channel can have several elements: a list of strings or an array of characters is one then, even
        if only one came.
    as_numpy
        Whether arrays are NumPy arrays; else they are ctypes arrays.
    """
    kind = plain(raw.ftype)
    if raw.number is not None:
        if kind == _CHAR and is_array:
            return _array(bytes([int(raw.number) & 0xFF]), kind, 1, as_numpy)
        return number_of(raw.number, raw.ftype)
    n = raw.count if not count else min(count, raw.count)
    data = memoryview(raw.data)[value_offset(raw.ftype) :] if raw.ftype >= _FIRST_GR else memoryview(raw.data)
    if kind == _STRING:
        texts = [decode_string(data[40 * i : 40 * i + 40]) for i in range(n)]
        return texts[0] if n == 1 and not is_array else texts
    if n == 1 and not (kind == _CHAR and is_array):
        return np.frombuffer(data, element(kind), 1)[0].item()
    return _array(data, kind, n, as_numpy)


def _array(data: bytes | memoryview, kind: int, n: int, as_numpy: bool) -> Any:
    array = np.frombuffer(data, element(kind), n).astype(element(kind).newbyteorder("="))
    if as_numpy and surface.HAS_NUMPY:
        return array
    return (dbr.Map[kind] * n).from_buffer_copy(array.tobytes())


def text_of(value: Any, ftype: int, states: tuple[str, ...] | None = None) -> str:
    """The string form of a value, as ``as_string`` gives it (manual, `get`, note 2).

    Parameters
    ----------
    states
        The names of the states of an enum.
    """
    kind = plain(ftype)
    if isinstance(value, (np.ndarray, ctypes.Array, list)):
        if kind == _CHAR and len(value) < surface.AUTOMONITOR_MAXLENGTH:
            return decode_string(bytes(value)).strip()
        return f"<array count={len(value)}, type={ftype}>"
    if kind == _ENUM and states and 0 <= value < len(states):
        return states[int(value)]
    return str(value)


def time_fields(timestamp: int) -> dict[str, float]:
    """``timestamp`` (to the microsecond, as the manual's `get_timevars`), ``posixseconds`` and ``nanoseconds``."""
    seconds, nanoseconds = divmod(timestamp, 1_000_000_000)
    return {
        "timestamp": seconds + 1e-6 * (nanoseconds // 1000),
        "posixseconds": float(seconds),
        "nanoseconds": nanoseconds,
    }


def metadata_of(raw: Raw) -> dict[str, Any]:
    """What came beside the value: by the type, alarm, time, limits, units, precision, names of states."""
    ftype = raw.ftype
    if _FIRST_GR <= ftype <= _LAST_CTRL:
        known = decode_metadata(ftype, bytes(raw.data))
        found: dict[str, Any] = {name: limit for name in CTRL_LIMITS if (limit := getattr(known, name)) is not None}
        if known.precision is not None:
            found["precision"] = known.precision
        if plain(ftype) not in (_STRING, _ENUM):
            found["units"] = known.units
        found["status"], found["severity"] = known.status, known.severity
        if known.enum_strings:
            found["enum_strs"] = known.enum_strings
        return found
    if ftype == _STSACK:
        status, severity, ackt, acks = np.frombuffer(raw.data, ">u2", 4).tolist()
        return {"status": status, "severity": severity, "ackt": ackt, "acks": acks}
    if _FIRST_TIME <= ftype < _FIRST_GR:
        return {"status": raw.status, "severity": raw.severity, **time_fields(raw.timestamp)}
    if _FIRST_STS <= ftype < _FIRST_TIME:
        return {"status": raw.status, "severity": raw.severity}
    return {}
