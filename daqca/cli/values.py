"""Values as the commands print them, and the value that the words of a command line mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from daqca.reading import Reading, decode_text, severity_name, status_name

CHAR = 4
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


def parse_value(words: Sequence[str]) -> str | list[str] | list[float]:
    """The value that the words of a command line mean: one is itself, several are an array, of numbers if all are.

    What fits which PV, and that ``0x1F`` is a number too, is known where values are sent.
    """
    if len(words) == 1:
        return words[0]
    try:
        return [float(word) for word in words]
    except ValueError:
        return list(words)
