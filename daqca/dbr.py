"""`daqca.dbr`: the constants, the ctypes structures and the names of DBR types, as programs for PyEpics expect them.

The tables behind them are in `daqca.ca.dbr` and `daqca.ca.eca`. Nothing here sends, receives or loads libca.
Source: PyEpics manual, chapter 4; names and fields in db_access.h, caeventmask.h and cadef.h of EPICS base.
"""

from __future__ import annotations

import ctypes
import operator
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Literal, SupportsIndex, TypeVar, cast, overload

import numpy as np

from daqca.ca.dbr import DTYPES, MAX_ENUM_STATES, DBRType, Mask, plain
from daqca.ca.dbr import MAX_ENUM_STRING_SIZE as MAX_ENUM_STRING_SIZE
from daqca.ca.dbr import MAX_STRING_SIZE as MAX_STRING_SIZE
from daqca.ca.dbr import MAX_UNITS_SIZE as MAX_UNITS_SIZE
from daqca.ca.dbr import AlarmSeverity as _AlarmSeverity
from daqca.ca.dbr import AlarmStatus as _AlarmStatus
from daqca.ca.dbr import value_offset as _value_offset
from daqca.ca.eca import ECA

HAS_NUMPY = True
"""Whether values can be NumPy arrays: always."""
PY64_WINDOWS = sys.platform == "win32" and sys.maxsize > 2**32

# Types: DBR_TIME_DOUBLE of C is TIME_DOUBLE here. All are plain ints, which print as PyEpics' do.

STRING, SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE = range(7)
STS_STRING, STS_SHORT, STS_FLOAT, STS_ENUM, STS_CHAR, STS_LONG, STS_DOUBLE = range(7, 14)
TIME_STRING, TIME_SHORT, TIME_FLOAT, TIME_ENUM, TIME_CHAR, TIME_LONG, TIME_DOUBLE = range(14, 21)
GR_STRING, GR_SHORT, GR_FLOAT, GR_ENUM, GR_CHAR, GR_LONG, GR_DOUBLE = range(21, 28)
CTRL_STRING, CTRL_SHORT, CTRL_FLOAT, CTRL_ENUM, CTRL_CHAR, CTRL_LONG, CTRL_DOUBLE = range(28, 35)
PUT_ACKT, PUT_ACKS, STSACK_STRING, CLASS_NAME = range(35, 39)
INT, STS_INT, TIME_INT, GR_INT, CTRL_INT = SHORT, STS_SHORT, TIME_SHORT, GR_SHORT, CTRL_SHORT

MAX_ENUMS = MAX_ENUM_STATES

EPICS2UNIX_EPOCH = 631152000.0
"""1990-01-01 UTC, the epoch of EPICS, in seconds since the Unix epoch."""

# What a subscription asks for.

DBE_VALUE = int(Mask.VALUE)
DBE_LOG = int(Mask.LOG)
DBE_ARCHIVE = int(Mask.ARCHIVE)
DBE_ALARM = int(Mask.ALARM)
DBE_PROPERTY = int(Mask.PROPERTY)

# Status codes: all of `ECA`, made below. Those that PyEpics has are declared, for type checkers and readers.

ECA_NORMAL: int
ECA_TIMEOUT: int
ECA_IODONE: int
ECA_ISATTACHED: int
ECA_BADCHID: int

# A name cannot begin with a digit in the enum, but it can behind ECA_.
globals().update({f"ECA_{status.name.replace('K16', '16K')}": int(status) for status in ECA})

# States of a channel and what a connection callback tells (cadef.h); CS_NEVER_SEARCH is PyEpics' own.

CS_NEVER_CONN, CS_PREV_CONN, CS_CONN, CS_CLOSED, CS_NEVER_SEARCH = range(5)
OP_CONN_UP, OP_CONN_DOWN = 6, 7

# C types

short_t = ctypes.c_short
ushort_t = ctypes.c_ushort
int_t = ctypes.c_int
uint_t = ctypes.c_uint
long_t = ctypes.c_long
ulong_t = ctypes.c_ulong
float_t = ctypes.c_float
double_t = ctypes.c_double
byte_t = ctypes.c_byte
ubyte_t = ctypes.c_ubyte
string_t = ctypes.c_char * MAX_STRING_SIZE
char_t = ctypes.c_char
char_p = ctypes.c_char_p
void_p = ctypes.c_void_p
py_obj = ctypes.py_object


class chid_t(ctypes.c_long):
    """The number of a channel: a C long, as the manual has it, that is also an index (``int(chid)``, ``hex(chid)``)."""

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value})"


# Structures, in the byte order and alignment of this machine


class TimeStamp(ctypes.Structure):
    """Seconds and nanoseconds since 1990-01-01 UTC."""

    _fields_ = (("secs", uint_t), ("nsec", uint_t))


_PLAIN: dict[int, Any] = {
    STRING: string_t,
    SHORT: short_t,
    FLOAT: float_t,
    ENUM: ushort_t,
    CHAR: ubyte_t,
    LONG: int_t,
    DOUBLE: double_t,
}
_PLAIN_OF_DTYPE = {DTYPES[DBRType(ftype)]: ctype for ftype, ctype in _PLAIN.items()}


def _ctype(dtype: np.dtype[Any]) -> Any:
    """The ctypes type of one member of a layout."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return _ctype(base) * shape[0]
    return char_t * dtype.itemsize if dtype.kind == "S" else _PLAIN_OF_DTYPE[dtype]


def _structure(ftype: DBRType) -> type[ctypes.Structure]:
    """The structure of a type, from its layout on the network: in C its members have the same offsets."""
    members: list[tuple[str, Any]] = []
    end = 0
    for member, (dtype, offset, *_) in (DTYPES[ftype].fields or {}).items():
        if member == "nanoseconds":
            continue  # the second half of the stamp
        if offset > end:
            members.append(("RISC_pad", ubyte_t * (offset - end)))
        members.append(("stamp", TimeStamp) if member == "seconds" else (member, _ctype(dtype)))
        end = offset + ctypes.sizeof(members[-1][1])

    class Layout(ctypes.Structure):
        _fields_ = members

    Layout.__name__ = Layout.__qualname__ = ftype.name.lower()
    Layout.__doc__ = f"``struct dbr_{Layout.__name__}`` of db_access.h."
    return Layout


_STRUCTURES = {int(ftype): _structure(ftype) for ftype, layout in DTYPES.items() if layout.fields is not None}
# db_access.h has no structure for GR and CTRL of a string: a server sends that of STS.
_STRUCTURES[GR_STRING] = _STRUCTURES[CTRL_STRING] = _STRUCTURES[STS_STRING]

sts_string, sts_short, sts_float, sts_enum, sts_char, sts_long, sts_double = (
    _STRUCTURES[ftype] for ftype in range(STS_STRING, STS_DOUBLE + 1)
)
time_string, time_short, time_float, time_enum, time_char, time_long, time_double = (
    _STRUCTURES[ftype] for ftype in range(TIME_STRING, TIME_DOUBLE + 1)
)
gr_short, gr_float, gr_enum, gr_char, gr_long, gr_double = (
    _STRUCTURES[ftype] for ftype in range(GR_SHORT, GR_DOUBLE + 1)
)
ctrl_short, ctrl_float, ctrl_enum, ctrl_char, ctrl_long, ctrl_double = (
    _STRUCTURES[ftype] for ftype in range(CTRL_SHORT, CTRL_DOUBLE + 1)
)
stsack_string = _STRUCTURES[STSACK_STRING]

ctrl_limits = tuple(name for name in DTYPES[DBRType.CTRL_DOUBLE].names or () if name.endswith("_limit"))
"""The names of the eight limits, in the order of the CTRL structures."""

# Tables by the number of a type

Map: dict[int, Any] = {
    **_PLAIN,
    **_STRUCTURES,
    PUT_ACKT: ushort_t,
    PUT_ACKS: ushort_t,
    CLASS_NAME: string_t,
}
"""The ctypes type of each DBR type, for a count of one."""

NP_Map = {ftype: DTYPES[DBRType(ftype)].type for ftype in range(SHORT, DOUBLE + 1)}
"""The NumPy type of each plain type but STRING, in native byte order."""

value_offset = (len(DBRType) * short_t)(*map(_value_offset, DBRType))
"""The number of bytes before the first value of each type."""

_NAMES = {int(ftype): ftype.name for ftype in DBRType} | {INT: "INT"}
_NUMBERS = {name: int(ftype) for name, ftype in DBRType.__members__.items()} | {
    "STS_INT": STS_INT,
    "TIME_INT": TIME_INT,
    "GR_INT": GR_INT,
    "CTRL_INT": CTRL_INT,
}


def native_type(ftype: int) -> int:
    """The plain type of the values of a type: ``native_type(TIME_DOUBLE)`` is DOUBLE.

    A number that is no type, such as the -1 of a channel that is not connected, is returned as it is.
    """
    return int(plain(ftype)) if ftype in Map else ftype


@overload
def Name(ftype: int, reverse: Literal[False] = False) -> str: ...
@overload
def Name(ftype: str, reverse: Literal[True]) -> int | Literal["unknown"]: ...
def Name(ftype: int | str, reverse: bool = False) -> int | str:
    """The name of a type, or the type of a name.

    Parameters
    ----------
    ftype
        The number of a type or, with `reverse`, a name in capitals or not.
    reverse
        Whether to find the number.

    Returns
    -------
    ``"INT"`` for 1, ``"TIME_SHORT"`` for 15 (both spellings are known with `reverse`); ``"unknown"`` for what is
    no type.
    """
    if reverse:
        return _NUMBERS.get(cast("str", ftype).upper(), "unknown")
    return _NAMES.get(cast("int", ftype), "unknown")


def make_unixtime(stamp: Any) -> float:
    """The seconds since the Unix epoch of a `TimeStamp`, cut to microseconds."""
    seconds: float = EPICS2UNIX_EPOCH + stamp.secs + stamp.nsec // 1000 * 1e-6
    return seconds


# Callbacks of the C library: only for programs that bring libca themselves


class event_handler_args(ctypes.Structure):
    """What libca gives to a callback of a get, a put or a subscription (cadef.h)."""

    _fields_ = (
        ("usr", py_obj),
        ("chid", long_t),
        ("type", long_t),
        ("count", long_t),
        ("raw_dbr", void_p),
        ("status", int_t),
    )


class connection_args(ctypes.Structure):
    """What libca gives to a connection callback (cadef.h); ``op`` is OP_CONN_UP or OP_CONN_DOWN."""

    _fields_ = (("chid", long_t), ("op", long_t))


class access_rights_handler_args(ctypes.Structure):
    """What libca gives to a callback of access rights (cadef.h); ``access`` has bit 0 for read, bit 1 for write."""

    _fields_ = (("chid", long_t), ("access", ubyte_t))


def make_callback(func: Callable[[Any], None], args: type[ctypes.Structure]) -> Any:
    """A C function that calls `func` with one of the structures above; keep it as long as C may call it."""
    return ctypes.CFUNCTYPE(None, args)(func)


def cast_args(args: Any) -> list[Any]:
    """The structure and the array of values in the memory that an `event_handler_args` leads to, without a copy.

    The structure is None for a type without one; both are None for a number that is no type.
    """
    ctype = Map.get(args.type)
    if ctype is None:
        return [None, None]
    values = (Map[native_type(args.type)] * args.count).from_address(args.raw_dbr + value_offset[args.type])
    return [ctype.from_address(args.raw_dbr) if args.type in _STRUCTURES else None, values]


# Alarms


class DefaultIntEnum(IntEnum):
    """An enum that takes any number: one without a name becomes a member ``UNKNOWN`` of that value."""

    @classmethod
    def _missing_(cls, value: object) -> DefaultIntEnum | None:
        if not isinstance(value, SupportsIndex):
            return None
        number = operator.index(value)
        unknown = int.__new__(cls, number)
        unknown._name_, unknown._value_ = "UNKNOWN", number
        return unknown

    def __repr__(self) -> str:
        return self.name


_Words = TypeVar("_Words", bound=IntEnum)


def _any_number(words: type[_Words], renamed: dict[str, str]) -> type[_Words]:
    """The members of `words` as a `DefaultIntEnum`, some under another name, their old one an alias."""
    members = [(renamed.get(word.name, word.name), int(word)) for word in words]
    members += [(name, int(words[name])) for name in renamed]
    create: Any = DefaultIntEnum
    made: type[_Words] = create(words.__name__, members, module=__name__)
    made.__doc__ = words.__doc__
    return made


AlarmStatus = _any_number(_AlarmStatus, {"HWLIMIT": "HW_LIMIT"})
AlarmSeverity = _any_number(_AlarmSeverity, {})
