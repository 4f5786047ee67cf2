"""Values as the commands print them, and values from the words of a command line."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np

from daqca.errors import ConversionError
from daqca.reading import FLOAT_TYPES, Reading, decode_text, severity_name, status_name

STRING, ENUM, CHAR = 0, 3, 4
DEFAULT_ELEMENTS = 100


def value_text(reading: Reading, elements: int = DEFAULT_ELEMENTS, as_number: bool = False) -> str:
    """A value on one line: an enum by its state's name, a CHAR array as text, an array in its first elements.

    Parameters
    ----------
    reading
        The reading.
    elements
        How many elements of an array to show; 0 shows all.
    as_number
        Show an enum's number, and the numbers of a CHAR array.
    """
    value = reading.value
    if isinstance(value, np.ndarray):
        if reading.native_type == CHAR and not as_number and _is_text(value):
            return json.dumps(reading.as_text(), ensure_ascii=False)
        shown = value if not elements else value[:elements]
        text = "[" + ", ".join(_item(item) for item in shown.tolist())
        return f"{text}]" if len(shown) == len(value) else f"{text}, ... {len(value):,} elements]"
    if as_number and isinstance(value, int):
        return str(value)
    return reading.as_text()


def _item(item: Any) -> str:
    return json.dumps(item, ensure_ascii=False) if isinstance(item, str) else str(item)


def _is_text(value: np.ndarray[Any, Any]) -> bool:
    """Whether the bytes of a CHAR array read as text, so that they may be a long string rather than an image."""
    raw = value.astype("u1").tobytes()
    if len(raw) > 4096:
        return False
    text = decode_text(raw)
    return bool(text) and text.isprintable()


def alarm_text(reading: Reading) -> str:
    """Severity and status; ``""`` for no alarm."""
    return f"{severity_name(reading.severity)} {status_name(reading.status)}" if reading.severity else ""


def local_time(timestamp: int) -> str:
    """A timestamp in ns in the local time zone, to microseconds; ``""`` for 0."""
    if not timestamp:
        return ""
    seconds, ns = divmod(timestamp, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}.{ns // 1000:06d}"


def parse_value(words: tuple[str, ...], pvname: str, native_type: int, native_count: int) -> Any:
    """The value that the words of a command line mean for a PV of this type.

    Numbers may be written as in Python (``0x1F``, ``1e-3``); an enum takes a number or a state's name; a CHAR
    array takes numbers, or one word that is no number as its text.

    Raises
    ------
    ConversionError
        If a word is no value of this type.
    """
    if native_type == CHAR and native_count > 1 and len(words) == 1 and not _is_integer(words[0]):
        return words[0]
    if native_count > 1 or len(words) > 1:
        return [_parse(word, pvname, native_type) for word in words]
    return _parse(words[0], pvname, native_type)


def _is_integer(word: str) -> bool:
    try:
        int(word, 0)
    except ValueError:
        return False
    return True


def _parse(word: str, pvname: str, native_type: int) -> Any:
    if native_type == STRING or (native_type == ENUM and not _is_integer(word)):
        return word
    try:
        return float(word) if native_type in FLOAT_TYPES else int(word, 0)
    except ValueError:
        kind = "a number" if native_type in FLOAT_TYPES else "a whole number"
        raise ConversionError(f"{pvname} takes {kind}, and {word!r} is none", pvname=pvname, operation="put") from None
