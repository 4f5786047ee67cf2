"""The texts of a PV: its value as a person reads it, and the paragraph that describes it. Manual, chapters 3.1 and 3.2.

Functions of plain values, and of the encoding ``ca.IOENCODING``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import log10
from typing import Any

import numpy as np

import daqca.ca as ca
from daqca.reading import decode_text

_STRING, _FLOAT, _ENUM, _CHAR, _DOUBLE = 0, 2, 3, 4, 6
_SHOWN = 5
_LIMITS = tuple(f"{side}_{what}_limit" for what in ("ctrl", "disp", "alarm", "warning") for side in ("upper", "lower"))
_FIELDS = (
    "char_value", "count", "nelm", "type", "units", "precision", "host", "access", "monitor_delta",
    "status", "char_status", "severity", "char_severity", "timestamp", "posixseconds", "nanoseconds", *_LIMITS,
)  # fmt: skip


def float_text(value: float, precision: int) -> str:
    """A number with so many decimals; if it is very large or small, with so many digits (manual, chapter 3.2)."""
    try:
        form = "g" if abs(int(log10(abs(value + 1e-9)))) > 4 else "f"
        return f"{value:.{precision}{form}}"
    except (ValueError, ArithmeticError):
        return str(value)


def long_string(value: Any) -> str:
    """The text in an array of characters: up to the first zero, without blanks at its end."""
    data = bytes(value) if isinstance(value, (bytes, np.ndarray)) else bytes(np.atleast_1d(np.asarray(value, np.uint8)))
    return decode_text(data, ca.IOENCODING).rstrip()


def value_text(
    value: Any, native_type: int, type_name: str, is_array: bool, is_text: bool, known: Mapping[str, Any]
) -> str:
    """The string representation of a value (manual, chapter 3.2, table of string representations).

    Parameters
    ----------
    type_name
        Of the PV, for arrays.
    is_text
        Whether an array of characters is a text.
    known
        What is known of ``precision`` and ``enum_strs``.
    """
    if value is None:
        return "None"
    if native_type == _CHAR and is_array and is_text:
        return long_string(value)
    if is_array and len(value) == 1 and native_type != _CHAR:  # count is 1, whatever there is room for
        value = value.item() if isinstance(value, np.ndarray) else value[0]
    elif is_array:
        return f"<array size={len(value)}, type={type_name}>"
    precision, states = known.get("precision"), known.get("enum_strs")
    if native_type in (_FLOAT, _DOUBLE) and precision is not None:
        return float_text(value, precision)
    if native_type == _ENUM and states and 0 <= value < len(states):
        return str(states[value])
    return str(value)


def number_text(native_type: int, precision: int | None, states: Sequence[str] | None) -> Callable[[float], str] | None:
    """A function that does what `value_text` does, for numbers of one PV; None: there are none of its type."""
    if native_type == _STRING:
        return None
    if native_type == _ENUM and states:
        names = tuple(map(str, states))
        return lambda value: names[int(value)] if 0 <= value < len(names) else str(value)
    if native_type not in (_FLOAT, _DOUBLE) or precision is None:
        return str
    if precision < 0:
        return lambda value: float_text(value, precision)
    fixed = f"%.{precision}f"

    def text(value: float) -> str:
        # Well inside of what is shown so: whatever else there is, is decided there.
        return fixed % value if 1.1e-5 < abs(value) < 9e4 else float_text(value, precision)

    return text


def time_text(timestamp: float | None = None) -> str:
    """A time in seconds since the Unix epoch (None: now), of this place, to 10 microseconds."""
    seconds, part = divmod(round(1e5 * (time.time() if timestamp is None else timestamp)), 100_000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{part:05d}"


def describe(pv: Any) -> str:
    """The paragraph that `PV.info` is."""
    type_name = pv.typefull
    form, _, plain = type_name.rpartition("_")
    lines = [f"== {pv.pvname}  ({form or 'native'}_{plain}) =="]
    value = pv.value
    shown: dict[str, Any] = {"value": _value_line(value, plain)}
    for name in _FIELDS:
        item = getattr(pv, name)
        if item is None:
            continue
        if name == "timestamp":
            item = f"{item:.3f} ({time_text(item)})"
        shown[name] = f"'{item}'" if name == "char_value" else item
    lines += [f"   {name:{20 if len(name) > 14 else 15}s} = {item}" for name, item in shown.items()]
    if plain == "enum":
        lines.append("   enum strings: ")
        lines += [f"       {number} = {state}" for number, state in enumerate(pv.enum_strs or ())]
    if pv.auto_monitor_mask is None:
        lines.append("   PV is NOT internally monitored")
    else:
        callbacks = [pv.callbacks[index][0] for index in sorted(pv.callbacks, key=str)]
        lines.append(f"   PV is internally monitored, with {len(callbacks)} user-defined callbacks")
        lines += [_callback_line(callback) for callback in callbacks]
    lines.append("=============================")
    return "\n".join(lines)


def _value_line(value: Any, plain: str) -> str:
    form: Callable[[Any], str] = (lambda item: f"{item:g}") if plain in ("float", "double") else str
    if not isinstance(value, (np.ndarray, Sequence)) or isinstance(value, str):
        return form(value)
    more = ",...." if len(value) > _SHOWN else ""
    return f" array  [{','.join(form(item) for item in value[:_SHOWN])}{more}]"


def _callback_line(callback: Any) -> str:
    code = getattr(callback, "__code__", None)
    name = getattr(callback, "__name__", repr(callback))
    return f"      {name} in file '{getattr(code, 'co_filename', '?')}'"
