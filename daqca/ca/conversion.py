"""From a Python value to what a put sends: the DBR type, the count and the bytes, or an error that says why not.

Sends nothing, and does not read: the way back is in `decode`. The layouts are those of `dbr`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from daqca.ca.dbr import MAX_STRING_SIZE, DBRType, element
from daqca.errors import ConversionError

Encoded = tuple[DBRType, int, bytes]
"""DBR type, count, and payload without padding."""

ENCODING = "utf-8"
"""Of text that is written, unless another one is asked for."""
FLOAT_MAX = float(np.finfo(np.float32).max)
RANGES: dict[int, tuple[float, float]] = {
    DBRType.SHORT: (-(2**15), 2**15 - 1),
    DBRType.FLOAT: (-FLOAT_MAX, FLOAT_MAX),
    DBRType.ENUM: (0, 2**16 - 1),
    # A CHAR may be a signed or an unsigned field behind it: only its eight bits are known.
    DBRType.CHAR: (-(2**7), 2**8 - 1),
    DBRType.LONG: (-(2**31), 2**31 - 1),
    DBRType.DOUBLE: (-math.inf, math.inf),
}
"""The smallest and largest number that each numeric type takes."""

_pack_double = struct.Struct(">d").pack
_INTEGERS = (DBRType.SHORT, DBRType.ENUM, DBRType.CHAR, DBRType.LONG)


def attempt(value: Any, native_type: int, max_count: int, pvname: str) -> str:
    """The beginning of every error about a put: the value, the PV, and its type."""
    shown = f"an array {value.shape} of {value.dtype}" if isinstance(value, np.ndarray) else repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    name = DBRType(native_type).name if 0 <= native_type <= DBRType.DOUBLE else "of unknown type"
    size = "" if max_count == 1 else f"[{max_count}]"
    return f"cannot put {shown} to {pvname} ({name}{size})"


class _Target:
    """The PV that is put to: its type and size, and the words of an error about it."""

    __slots__ = ("encoding", "max_count", "pvname", "type")

    def __init__(self, native_type: int, max_count: int, pvname: str, encoding: str = ENCODING):
        self.type = DBRType(native_type)
        self.max_count = max_count
        self.pvname = pvname
        self.encoding = encoding

    def refuse(self, value: Any, why: str) -> NoReturn:
        """Raise ConversionError: what was put, where, and why it does not fit."""
        what = attempt(value, self.type, self.max_count, self.pvname)
        raise ConversionError(f"{what}: {why}", pvname=self.pvname, operation="put")

    def check_count(self, value: Any, count: int) -> None:
        if count > self.max_count:
            self.refuse(value, f"{count} elements, and the PV holds at most {self.max_count}")
        if count == 0:
            self.refuse(value, "Channel Access cannot write an array without elements")

    def out_of_range(self, value: Any) -> NoReturn:
        low, high = RANGES[self.type]
        self.refuse(value, f"out of range, {self.type.name} takes {low} to {high}")


def encode_value(value: Any, native_type: int, max_count: int, pvname: str, encoding: str = ENCODING) -> Encoded:
    """What to send to put a value to a PV.

    Numbers become DOUBLE when there is one of them (exact for every numeric type of CA; CHAR stays
    CHAR, because a server may cast a double above 127 to eight bits as it likes) and the PV's own type
    when there are many. Fractions are cut off for integer types, as CA servers do.
    Text goes to a STRING or ENUM as STRING (the server knows the states), to an array of CHAR as a long
    string with a closing zero, and to any other numeric PV as the number it says (``0x1F`` too).
    bytes go to an array of CHAR as they are. Numbers go to a STRING as text. An array of more
    than one dimension is sent in C order, for CA knows one only.

    Parameters
    ----------
    value
        A Python or NumPy scalar, str, bytes, or a sequence or array of them.
    native_type
        The PV's plain DBR type, 0 to 6.
    max_count
        The PV's number of elements.
    pvname
        For errors.
    encoding
        Of text: Channel Access does not say which one it is.

    Returns
    -------
    DBR type, count, and the payload, big-endian, without padding.

    Raises
    ------
    ConversionError
        If the value is of no kind that the PV takes, out of its range, NaN for an integer, a string of more
        than 39 bytes, longer than the PV, empty, ragged or masked.
    """
    return _encode(value, _Target(native_type, max_count, pvname, encoding))


def encode_as(value: Any, dbr_type: int, max_count: int, pvname: str, encoding: str = ENCODING) -> Encoded:
    """`encode_value`, for one who says which type to send: a plain one (0 to 6), PUT_ACKT or PUT_ACKS.

    Text as ENUM is the number of a state.

    Raises
    ------
    ConversionError
        Also if it is another type.
    """
    is_ack = dbr_type in (DBRType.PUT_ACKT, DBRType.PUT_ACKS)
    if not is_ack and not 0 <= dbr_type <= DBRType.DOUBLE:
        raise ConversionError(
            f"cannot put {value!r} to {pvname} as DBR type {dbr_type}: only the plain types (0 to 6), PUT_ACKT and "
            "PUT_ACKS can be written",
            pvname=pvname,
            operation="put",
        )
    target = _Target(DBRType.ENUM if is_ack else dbr_type, 1 if is_ack else max_count, pvname, encoding)
    found, count, payload = _encode(value, target)
    if found == DBRType.STRING and target.type == DBRType.ENUM:
        payload = _numbers_said(value, np.asarray(_bare(value), object).ravel().tolist(), target)
    elif found != target.type:  # one number, as DOUBLE
        payload = _numbers(value, np.frombuffer(payload, ">f8").astype(float), target)
    return DBRType(dbr_type), count, payload


def _bare(value: Any) -> Any:
    """A value without what is only its wrapping."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return value[()]
    if isinstance(value, bytearray) or (isinstance(value, memoryview) and value.format in ("B", "c")):
        return bytes(value)
    return value


def _encode(value: Any, target: _Target) -> Encoded:
    value = _bare(value)
    if isinstance(value, (str, bytes)):
        return _encode_text(value, target)
    if _is_number(value):
        return _encode_number(value, target)
    return _encode_array(value, target)


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, Decimal, np.bool_)) and not isinstance(value, np.timedelta64)


def _encode_number(value: Any, target: _Target) -> Encoded:
    if target.type == DBRType.STRING:
        return _encode_text(_number_text(value), target)
    try:
        number = float(value)
    except (OverflowError, ValueError):
        target.out_of_range(value)
    if math.isinf(number) and number != value:
        target.out_of_range(value)
    if target.type in _INTEGERS and not math.isfinite(number):
        target.refuse(value, "not a finite number")
    low, high = RANGES[target.type]
    if math.isfinite(number) and not low <= (math.trunc(number) if target.type in _INTEGERS else number) <= high:
        target.out_of_range(value)
    if target.type == DBRType.CHAR:
        return DBRType.CHAR, 1, bytes((math.trunc(number) & 0xFF,))
    return DBRType.DOUBLE, 1, _pack_double(number)


def _number_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, (bool, np.bool_)) else str(value)


def _encode_text(value: str | bytes, target: _Target) -> Encoded:
    is_long = target.type == DBRType.CHAR and target.max_count > 1
    if is_long and isinstance(value, bytes):
        target.check_count(value, len(value))
        return DBRType.CHAR, len(value), value
    if is_long:
        data = _bytes(value, target) + b"\0"
        if len(data) > target.max_count:
            target.refuse(value, f"{len(data)} bytes with the closing zero, more than the PV holds")
        return DBRType.CHAR, len(data), data
    if target.type in (DBRType.STRING, DBRType.ENUM):
        return DBRType.STRING, 1, _string(value, target) + b"\0"
    return _encode_number(_parse(value, target), target)


def _bytes(value: str | bytes, target: _Target) -> bytes:
    if isinstance(value, str):
        try:
            value = value.encode(target.encoding)
        except UnicodeEncodeError as error:
            why = f"{value[error.start]!r} cannot be written in the encoding {target.encoding} ({error.reason})"
            target.refuse(value, why)
        except LookupError:
            target.refuse(value, f"there is no encoding {target.encoding!r}")
    return value


def _string(value: str | bytes, target: _Target) -> bytes:
    """The bytes of a string of at most 39 bytes without a zero."""
    data = _bytes(value, target).rstrip(b"\0")
    if len(data) >= MAX_STRING_SIZE:
        target.refuse(value, f"{len(data)} bytes, and a string holds at most {MAX_STRING_SIZE - 1}")
    if b"\0" in data:
        target.refuse(value, "a zero byte inside would cut the string short")
    return data


def _parse(value: str | bytes, target: _Target) -> float:
    """The number that a text says."""
    said = value.decode("latin-1") if isinstance(value, bytes) else value
    try:
        return int(said, 0)
    except ValueError:
        pass
    try:
        number = float(said)
    except ValueError:
        target.refuse(value, "not a number")
    if math.isinf(number) and "inf" not in said.lower():
        target.out_of_range(value)
    return number


def _encode_array(value: Any, target: _Target) -> Encoded:
    if value is None or isinstance(value, (complex, dict, set, frozenset, np.void)):
        target.refuse(value, f"{type(value).__name__} is neither a number, nor text, nor a sequence of them")
    try:
        array = np.asarray(value)
        if array.dtype.kind in "UST" and (array.dtype.kind == "T" or isinstance(value, (list, tuple))):
            array = np.array(value, object)  # each as it is: NumPy would write numbers among texts its own way
    except (ValueError, TypeError, OverflowError) as error:
        target.refuse(value, f"not an array, for the nesting is uneven or an element is unfit ({error})")
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        target.refuse(value, "some elements are masked; fill them first")
    if array.ndim == 0 and array.dtype.kind in "biuf" and not isinstance(value, np.ndarray):
        return _encode(array[()], target)  # a number of ctypes, say
    if array.ndim == 0 or array.dtype.kind not in "biufUSO":
        what = str(array.dtype) if array.ndim else type(value).__name__
        more = "; make a list of it" if isinstance(value, Iterable) and array.ndim == 0 else ""
        target.refuse(value, f"{what} is neither a number, nor text, nor a sequence of them{more}")
    target.check_count(value, array.size)
    array = array.ravel()
    if array.size == 1:
        item = array[0]
        if isinstance(item, (str, bytes)) or _is_number(item):
            return _encode(item, target)
    if array.dtype.kind in "USO" or target.type == DBRType.STRING:
        return _encode_items(value, array, target)
    return target.type, array.size, _numbers(value, array, target)


def _encode_items(value: Any, array: npt.NDArray[Any], target: _Target) -> Encoded:
    """Texts, or objects that NumPy has no type for, one by one."""
    items = array.tolist() if array.dtype.kind != "f" else list(array)
    for item in items:
        if not (isinstance(item, (str, bytes)) or _is_number(item)):
            target.refuse(value, f"the element {item!r} is neither a number nor text")
    has_text = any(isinstance(item, (str, bytes)) for item in items)
    if target.type == DBRType.STRING or (target.type == DBRType.ENUM and has_text):
        strings = (_string(item if isinstance(item, (str, bytes)) else _number_text(item), target) for item in items)
        return DBRType.STRING, len(items), b"".join(data.ljust(MAX_STRING_SIZE, b"\0") for data in strings)
    return target.type, len(items), _numbers_said(value, items, target)


def _numbers_said(value: Any, items: list[Any], target: _Target) -> bytes:
    """The numbers that texts say, and numbers, as the PV's type, big-endian."""
    numbers = [_parse(item, target) if isinstance(item, (str, bytes)) else item for item in items]
    try:
        array = np.array([float(number) for number in numbers])
    except (OverflowError, ValueError):
        target.out_of_range(value)
    return _numbers(value, array, target)


def _numbers(value: Any, array: npt.NDArray[Any], target: _Target) -> bytes:
    """An array of numbers as the PV's type, big-endian."""
    wanted = element(target.type)
    if target.type == DBRType.CHAR and array.dtype == np.int8:
        return array.tobytes()
    if np.can_cast(array.dtype, wanted, "safe"):
        return array.astype(wanted).tobytes()
    if target.type not in _INTEGERS:
        if array.dtype.kind == "f" and (np.isfinite(array) & (np.abs(array) > np.finfo(wanted).max)).any():
            target.out_of_range(value)
        return array.astype(wanted).tobytes()
    low, high = RANGES[target.type]
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            target.refuse(value, "not all of it are finite numbers")
        array = np.trunc(array)
    if array.min().item() < low or array.max().item() > high:
        target.out_of_range(value)
    return array.astype(np.int64).astype(wanted).tobytes()


_LOW = np.array([0.0, *(RANGES[t][0] for t in range(1, 7))])
_HIGH = np.array([0.0, *(RANGES[t][1] for t in range(1, 7))])
_LOW[DBRType.CHAR], _HIGH[DBRType.CHAR] = 0, 127
_IS_INTEGER = np.isin(np.arange(7), _INTEGERS)


def fits(values: npt.NDArray[np.float64], native_types: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which numbers may be put as DOUBLE to PVs of these types, by the rules of `encode_value`.

    Parameters
    ----------
    values
        One number for each PV, shape (n,).
    native_types
        Their plain DBR types, 0 to 6 (others, as of a PV that never connected, never fit), shape (n,).

    Returns
    -------
    Booleans, shape (n,). Never true for STRING, where a number goes as text, nor for a CHAR beyond
    0 to 127, where the server's cast from a double is its own affair: `encode_value` sends those.
    """
    types = np.where(native_types < len(_LOW), native_types, 0)
    integer = _IS_INTEGER[types]
    whole = np.where(integer, np.trunc(values), values)
    inside = (whole >= _LOW[types]) & (whole <= _HIGH[types])
    return np.asarray((types > 0) & (inside | (~np.isfinite(values) & ~integer)))
