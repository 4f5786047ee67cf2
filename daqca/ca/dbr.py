"""The DBR structures of Channel Access: their types, layouts and alarm words, and the metadata in GR and CTRL.

What a put sends is made in `conversion`; messages and their headers are in `protocol`. Source: db_access.h,
alarm.h and caeventmask.h of EPICS base; a C program that includes them checks every size and offset.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np

from daqca.errors import ProtocolError
from daqca.events import ELEMENT

MAX_STRING_SIZE = 40
MAX_UNITS_SIZE = 8
MAX_ENUM_STRING_SIZE = 26
MAX_ENUM_STATES = 16


class DBRType(IntEnum):
    """Data types of requests and replies, under their EPICS names without ``DBR_``."""

    STRING = 0
    SHORT = 1
    INT = 1
    FLOAT = 2
    ENUM = 3
    CHAR = 4
    LONG = 5
    DOUBLE = 6
    STS_STRING = 7
    STS_SHORT = 8
    STS_FLOAT = 9
    STS_ENUM = 10
    STS_CHAR = 11
    STS_LONG = 12
    STS_DOUBLE = 13
    TIME_STRING = 14
    TIME_SHORT = 15
    TIME_FLOAT = 16
    TIME_ENUM = 17
    TIME_CHAR = 18
    TIME_LONG = 19
    TIME_DOUBLE = 20
    GR_STRING = 21
    GR_SHORT = 22
    GR_FLOAT = 23
    GR_ENUM = 24
    GR_CHAR = 25
    GR_LONG = 26
    GR_DOUBLE = 27
    CTRL_STRING = 28
    CTRL_SHORT = 29
    CTRL_FLOAT = 30
    CTRL_ENUM = 31
    CTRL_CHAR = 32
    CTRL_LONG = 33
    CTRL_DOUBLE = 34
    PUT_ACKT = 35
    PUT_ACKS = 36
    STSACK_STRING = 37
    CLASS_NAME = 38


class AlarmStatus(IntEnum):
    """What is wrong with a value (alarm.h), under the names that EPICS prints."""

    NO_ALARM = 0
    READ = 1
    WRITE = 2
    HIHI = 3
    HIGH = 4
    LOLO = 5
    LOW = 6
    STATE = 7
    COS = 8
    COMM = 9
    TIMEOUT = 10
    HWLIMIT = 11
    CALC = 12
    SCAN = 13
    LINK = 14
    SOFT = 15
    BAD_SUB = 16
    UDF = 17
    DISABLE = 18
    SIMM = 19
    READ_ACCESS = 20
    WRITE_ACCESS = 21


class AlarmSeverity(IntEnum):
    """How bad it is (alarm.h)."""

    NO_ALARM = 0
    MINOR = 1
    MAJOR = 2
    INVALID = 3


class Mask(IntFlag):
    """Which changes a subscription asks for (caeventmask.h)."""

    VALUE = 1
    LOG = 2
    ARCHIVE = 2
    ALARM = 4
    PROPERTY = 8


PLAIN_TYPES = 7
"""Number of plain types: adding it to a plain type gives STS, then TIME, GR and CTRL."""

_LIMITS = (
    "upper_disp_limit",
    "lower_disp_limit",
    "upper_alarm_limit",
    "upper_warning_limit",
    "lower_warning_limit",
    "lower_alarm_limit",
)
_CTRL_LIMITS = (*_LIMITS, "upper_ctrl_limit", "lower_ctrl_limit")


def _structure(*fields: tuple[Any, ...], pad: int = 0, value: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype of packed fields, `pad` bytes and the value."""
    head = np.dtype([("status", ">i2"), ("severity", ">i2"), *fields])
    offsets = [place[1] for place in (head.fields or {}).values()]
    return np.dtype(
        {
            "names": [*(head.names or ()), "value"],
            "formats": [*(head[name] for name in head.names or ()), value],
            "offsets": [*offsets, head.itemsize + pad],
            "itemsize": head.itemsize + pad + value.itemsize,
        }
    )


def _with_limits(plain_type: int, names: tuple[str, ...]) -> np.dtype[Any]:
    """The GR or CTRL structure of a plain type."""
    element = ELEMENT[plain_type]
    if plain_type == DBRType.STRING:
        return _structure(value=element)
    if plain_type == DBRType.ENUM:
        strings = ("strs", f"S{MAX_ENUM_STRING_SIZE}", (MAX_ENUM_STATES,))
        return _structure(("no_str", ">i2"), strings, value=element)
    fields: list[tuple[Any, ...]] = [("units", f"S{MAX_UNITS_SIZE}"), *((name, element) for name in names)]
    if element.kind == "f":
        # The pad after the precision is a member of its own in C; a dtype needs it to keep its place.
        fields[:0] = [("precision", ">i2"), ("RISC_pad0", ">i2")]
    return _structure(*fields, pad=1 if plain_type == DBRType.CHAR else 0, value=element)


def _layouts() -> dict[DBRType, np.dtype[Any]]:
    stamp = (("seconds", ">u4"), ("nanoseconds", ">u4"))
    layouts = {}
    for i, value in enumerate(ELEMENT):
        layouts[DBRType(i)] = value
        layouts[DBRType(i + 7)] = _structure(pad=(0, 0, 0, 0, 1, 0, 4)[i], value=value)
        layouts[DBRType(i + 14)] = _structure(*stamp, pad=(0, 2, 0, 2, 3, 0, 4)[i], value=value)
        layouts[DBRType(i + 21)] = _with_limits(i, _LIMITS)
        layouts[DBRType(i + 28)] = _with_limits(i, _CTRL_LIMITS)
    layouts[DBRType.PUT_ACKT] = layouts[DBRType.PUT_ACKS] = np.dtype(">u2")
    layouts[DBRType.STSACK_STRING] = np.dtype(
        [("status", ">u2"), ("severity", ">u2"), ("ackt", ">u2"), ("acks", ">u2"), ("value", "S40")]
    )
    layouts[DBRType.CLASS_NAME] = np.dtype("S40")
    return layouts


DTYPES: dict[DBRType, np.dtype[Any]] = _layouts()
"""The layout of each type, big-endian, for a count of one. Plain types, PUT_ACKT, PUT_ACKS and
CLASS_NAME are their element; the others are structures with the C names of db_access.h (``stamp``
is ``seconds`` and ``nanoseconds`` since 1990-01-01 UTC) that end with ``value``."""

_ELEMENT = tuple(
    dtype.fields["value"][0] if dtype.fields is not None else dtype for dtype in (DTYPES[t] for t in DBRType)
)
_VALUE_OFFSET = tuple(DTYPES[t].itemsize - _ELEMENT[t].itemsize for t in DBRType)
_PLAIN = tuple(
    DBRType.ENUM if t in (35, 36) else DBRType.STRING if t > 36 else DBRType(t % PLAIN_TYPES) for t in DBRType
)


def element(dbr_type: int) -> np.dtype[Any]:
    """The dtype of one value of the type, big-endian."""
    return _ELEMENT[dbr_type]


def value_offset(dbr_type: int) -> int:
    """The number of bytes before the first value."""
    return _VALUE_OFFSET[dbr_type]


def padding(dbr_type: int) -> tuple[int, ...]:
    """Which of the bytes before the first value mean nothing; servers may send there what their memory held."""
    fields = (DTYPES[DBRType(dbr_type)].fields or {}).items()
    used = [range(place[1], place[1] + place[0].itemsize) for name, place in fields if name != "RISC_pad0"]
    return tuple(at for at in range(value_offset(dbr_type)) if not any(at in field for field in used))


def payload_size(dbr_type: int, count: int) -> int:
    """The size in bytes of `count` values of the type, before padding to the 8 bytes of a message."""
    return _VALUE_OFFSET[dbr_type] + count * _ELEMENT[dbr_type].itemsize


def plain(dbr_type: int) -> DBRType:
    """The plain type of the values of a type (ENUM for PUT_ACKT and PUT_ACKS, the other unsigned 16 bits)."""
    return _PLAIN[dbr_type]


def time_type(native: int) -> DBRType:
    """The TIME type of a plain type (or of any type of its row)."""
    return DBRType(_PLAIN[native] + 2 * PLAIN_TYPES)


def ctrl_type(native: int) -> DBRType:
    """The CTRL type of a plain type (or of any type of its row)."""
    return DBRType(_PLAIN[native] + 4 * PLAIN_TYPES)


def text(field: bytes | memoryview) -> str:
    """The text of a string field: cut at its first zero, decoded as UTF-8, or else as Latin-1.

    EPICS does not say which encoding its strings have. UTF-8 contains ASCII and is what recent
    clients write; what is not UTF-8 is taken for Latin-1, which decodes anything. A character that
    the end of a full field cut in two is left off.

    Parameters
    ----------
    field
        The bytes of the field, all of them (40 of a string, 8 of units, 26 of an enum state).
    """
    data = bytes(field)
    used = data.split(b"\0", 1)[0]
    try:
        return used.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and len(used) >= len(data) - 1:
            return used[: error.start].decode()
        return used.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a GR or CTRL structure says of a PV besides its value.

    Limits are int for SHORT, CHAR and LONG, float for FLOAT and DOUBLE, and None where the type has
    none (STRING, ENUM; the control limits of a GR type). ``precision`` is the number of decimal
    places, None unless the type is FLOAT or DOUBLE. ``enum_strings`` are the states of an ENUM.
    """

    dbr_type: DBRType
    status: int = 0
    severity: int = 0
    units: str = ""
    precision: int | None = None
    upper_disp_limit: float | None = None
    lower_disp_limit: float | None = None
    upper_alarm_limit: float | None = None
    upper_warning_limit: float | None = None
    lower_warning_limit: float | None = None
    lower_alarm_limit: float | None = None
    upper_ctrl_limit: float | None = None
    lower_ctrl_limit: float | None = None
    enum_strings: tuple[str, ...] = ()


_ALARM = struct.Struct(">hh").unpack_from
_ENUM_HEAD = struct.Struct(">hhh")
_LIMIT_CODE = {DBRType.SHORT: "h", DBRType.FLOAT: "f", DBRType.CHAR: "B", DBRType.LONG: "i", DBRType.DOUBLE: "d"}
_READ_LIMITS = {
    DBRType(row * PLAIN_TYPES + t): struct.Struct(f">hh{'h2x' if code in 'fd' else ''}8s{count}{code}").unpack_from
    for row, count in ((3, 6), (4, 8))
    for t, code in _LIMIT_CODE.items()
}


def _char_limits(limits: tuple[int, ...]) -> tuple[int, ...]:
    """The limits of a CHAR with their sign.

    A field of eight bits comes as CHAR whether it is signed (DBF_CHAR) or not (DBF_UCHAR), and its
    limits -128 and 127 look like 128 and 127. So where an upper limit is below its lower one, the
    field is taken to be signed; else the limits are unsigned, as CHAR values are.
    """
    upper = (limits[0], *limits[2:4], *limits[6:7])
    lower = (limits[1], limits[5], limits[4], *limits[7:8])
    if all(u >= low for u, low in zip(upper, lower, strict=True)):
        return limits
    return tuple(limit - 256 if limit > 127 else limit for limit in limits)


def decode_metadata(dbr_type: int, payload: bytes | memoryview) -> Metadata:
    """The metadata in the payload of a GR or CTRL reply.

    Parameters
    ----------
    dbr_type
        One of the GR and CTRL types, 21 to 34.
    payload
        The payload; what follows the structure's head (the values) is not looked at.

    Raises
    ------
    ProtocolError
        If the type has no metadata, or the payload is shorter than its structure.
    """
    if not DBRType.GR_STRING <= dbr_type <= DBRType.CTRL_DOUBLE:
        raise ProtocolError(f"DBR type {dbr_type} carries no metadata; ask for a GR or CTRL type (21 to 34)")
    kind = DBRType(dbr_type)
    if len(payload) < _VALUE_OFFSET[kind]:
        raise ProtocolError(f"{kind.name} of {len(payload)} bytes is too short: it has {_VALUE_OFFSET[kind]} at least")
    base = _PLAIN[kind]
    if base == DBRType.STRING:
        return Metadata(kind, *_ALARM(payload))
    if base == DBRType.ENUM:
        status, severity, number = _ENUM_HEAD.unpack_from(payload)
        states = (
            text(payload[at : at + MAX_ENUM_STRING_SIZE])
            for at in range(
                _ENUM_HEAD.size,
                _ENUM_HEAD.size + min(max(number, 0), MAX_ENUM_STATES) * MAX_ENUM_STRING_SIZE,
                MAX_ENUM_STRING_SIZE,
            )
        )
        return Metadata(kind, status, severity, enum_strings=tuple(states))
    if base in (DBRType.FLOAT, DBRType.DOUBLE):
        status, severity, precision, units, *limits = _READ_LIMITS[kind](payload)
        return Metadata(kind, status, severity, text(units), precision, *limits)
    status, severity, units, *limits = _READ_LIMITS[kind](payload)
    if base == DBRType.CHAR:
        limits = list(_char_limits(tuple(limits)))
    return Metadata(kind, status, severity, text(units), None, *limits)


def __getattr__(name: str) -> Any:
    # Programs say ca.dbr.DBE_VALUE, too: the names of the compatible interface are those of daqca.dbr.
    from daqca import dbr as compatible

    return getattr(compatible, name)
