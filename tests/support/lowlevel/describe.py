"""What came of a call, as JSON: the value with its types, or the exception.

Equal descriptions are equal outcomes; texts, so that a table of differences can be read.
"""

from __future__ import annotations

import builtins
import ctypes
import hashlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

_LONGEST = 100

Outcome = Any
"""A text for a value, a dictionary of outcomes for a dictionary, ``{"raises": [names]}`` for an exception."""


class Text(str):
    """A description made by a call itself, which is not described again."""


class Known:
    """The outcome of a call within a call, which is not described again."""

    def __init__(self, found: Outcome):
        self.outcome = found


def outcome(call: Callable[[], Any], ca: ModuleType) -> Outcome:
    """Run a call and describe what it returns, or raises; and the kinds of warnings, if there were any.

    After the name of an exception come those by which a program can catch it: its
    class and the bases of it, as far as ``ca`` or Python itself offers them.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = describe(call())
        except Exception as error:
            found = {"raises": [type(error).__name__, *names_of(type(error), ca)]}
    warned = sorted({warning.category.__name__ for warning in caught} - {"ResourceWarning"})
    if not warned:
        return found
    return {**(found if isinstance(found, dict) else {"": found}), "warns": " ".join(warned)}


def names_of(error: type[BaseException], ca: ModuleType) -> list[str]:
    """Return the names by which a program that knows ``ca`` and Python can catch an exception."""
    known = (getattr(ca, kind.__name__, getattr(builtins, kind.__name__, None)) is kind for kind in error.__mro__)
    names = [kind.__name__ for kind, is_known in zip(error.__mro__, known, strict=True) if is_known]
    return names[: names.index("BaseException")] if "Exception" in names else names


def describe(value: Any) -> Outcome:
    """Return a description of a value and of its types."""
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Known):
        return value.outcome
    return value if type(value) is Text else _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "None"
    if type(value) is Text:
        return str(value)
    if isinstance(value, (bool, int, float, str, bytes)) and not isinstance(value, np.generic):
        return f"{type(value).__name__} {_plain(value)!r}"
    if isinstance(value, np.generic):
        return f"numpy {value.dtype} {value.item()!r}"
    if isinstance(value, np.ndarray):
        flags = "" if value.flags.writeable else " read-only"
        return f"ndarray {value.dtype} {value.shape}{flags} {_items(value.tolist())}"
    if isinstance(value, ctypes.Array):
        return f"ctypes {type(value)._type_.__name__}[{len(value)}] {_items(list(value))}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} ({', '.join(_text(item) for item in value)})"
    return kind(value)


def kind(value: Any) -> Text:
    """Return the name of a value's type; of a number of C, and of what is one and more, that of the number."""
    names = (base.__name__ for base in type(value).__mro__ if base.__module__ in ("ctypes", "builtins"))
    return Text(next(names) if isinstance(value, ctypes._SimpleCData) else type(value).__name__)


def _plain(value: Any) -> Any:
    # The value alone: an enumeration shows as the number or text that it is.
    for kind in (bool, int, float, str, bytes):
        if isinstance(value, kind):
            return kind(value)
    return value


def _items(items: list[Any]) -> str:
    texts = [repr(item) if isinstance(item, (int, float, str, bytes)) else _text(item) for item in items]
    if len(texts) > _LONGEST:
        return f"{', '.join(texts[:3])}, ..., sha1 {hashlib.sha1(' '.join(texts).encode()).hexdigest()[:12]}"
    return f"[{', '.join(texts)}]"
