"""What came of a get or an update, and what it is to a Python program: values, strings, arrays, dictionaries.

Pure functions over bytes; the layouts are those of `daqca.ca.dbr`.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

import daqca.ca as surface
from daqca import dbr
from daqca.ca.dbr import (
    DTYPES,
    MAX_ENUM_STRING_SIZE,
    MAX_STRING_SIZE,
    MAX_UNITS_SIZE,
    Metadata,
    decode_metadata,
    element,
    plain,
    value_offset,
)

_STRING, _ENUM, _CHAR = 0, 3, 4
_FLOATS = (2, 6)
_CUT = ("unexpected end of data", "incomplete multibyte sequence")
"""What codecs say of a character whose last bytes are missing."""
_FIRST_STS, _FIRST_TIME, _FIRST_GR, _LAST_CTRL = 7, 14, 21, 34
_STSACK, _CLASS_NAME = 37, 38
_UNITS_AT = {int(t): form.fields["units"][1] for t, form in DTYPES.items() if form.fields and "units" in form.fields}
_STATES_AT = 6
"""Where in a GR or CTRL structure the units and the names of states begin."""
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
    """A string of Channel Access in the encoding ``ca.IOENCODING``; what is not in it is taken for Latin-1.

    Parameters
    ----------
    field
        All bytes of it: what is behind a zero does not count. A character that the end of a full field has cut is
        left off.
    """
    data = bytes(field)
    used = data.split(b"\0", 1)[0]
    try:
        return used.decode(surface.IOENCODING)
    except UnicodeDecodeError as error:
        # EPICS puts a zero into the last byte, or does not.
        if error.end == len(used) >= len(data) - 1 and error.reason in _CUT:
            return used[: error.start].decode(surface.IOENCODING)
        return used.decode("latin-1")


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
        if raw.ftype == _CLASS_NAME:  # one, whatever the server says
            return decode_string(data[:MAX_STRING_SIZE])
        texts = [decode_string(data[i : i + MAX_STRING_SIZE]) for i in range(0, n * MAX_STRING_SIZE, MAX_STRING_SIZE)]
        return texts[0] if n == 1 and not is_array else texts
    if n == 1 and not (kind == _CHAR and is_array):
        return np.frombuffer(data, element(kind), 1)[0].item()
    return _array(data, kind, n, as_numpy)


def _array(data: bytes | memoryview, kind: int, n: int, as_numpy: bool) -> Any:
    array = np.frombuffer(data, element(kind), n).astype(element(kind).newbyteorder("="))
    if as_numpy and surface.HAS_NUMPY:
        return array
    return (dbr.Map[kind] * n).from_buffer_copy(array.tobytes())


def text_of(value: Any, ftype: int, states: tuple[str, ...] | None = None, count: int | None = None) -> str:
    """The string form of a value, as ``as_string`` gives it (manual, `get`, note 2).

    Parameters
    ----------
    states
        The names of the states of an enum.
    count
        How many elements there can be; None: as many as there are.
    """
    is_array = isinstance(value, (np.ndarray, ctypes.Array, list))
    most = count if count is not None else len(value) if is_array else 1
    kind = plain(ftype)
    if is_array and kind == _CHAR and most < surface.AUTOMONITOR_MAXLENGTH:
        return decode_string(bytes(value)).strip()
    if is_array and most == len(value) == 1:
        value = value[0]
    elif is_array or (most > 1 and ftype != _CLASS_NAME):
        return f"<array count={most}, type={ftype}>"
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
        known = decode_metadata(ftype, raw.data)
        found: dict[str, Any] = {name: limit for name in CTRL_LIMITS if (limit := getattr(known, name)) is not None}
        if known.precision is not None:
            found["precision"] = known.precision
        if plain(ftype) not in (_STRING, _ENUM):
            at = _UNITS_AT[ftype]
            found["units"] = decode_string(raw.data[at : at + MAX_UNITS_SIZE])
        found["status"], found["severity"] = known.status, known.severity
        if known.enum_strings:
            size, n = MAX_ENUM_STRING_SIZE, len(known.enum_strings)
            places = range(_STATES_AT, _STATES_AT + n * size, size)
            found["enum_strs"] = tuple(decode_string(raw.data[at : at + size]) for at in places)
        return found
    if ftype == _STSACK:
        status, severity, ackt, acks = np.frombuffer(raw.data, ">u2", 4).tolist()
        return {"status": status, "severity": severity, "ackt": ackt, "acks": acks}
    if _FIRST_TIME <= ftype < _FIRST_GR:
        return {"status": raw.status, "severity": raw.severity, **time_fields(raw.timestamp)}
    if _FIRST_STS <= ftype < _FIRST_TIME:
        return {"status": raw.status, "severity": raw.severity}
    return {}
