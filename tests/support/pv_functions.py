"""What tests of the functions of PVs share: what the records hold, and a few ways to call the functions."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from daqca import caput

VALUES: dict[str, Any] = {
    "double": 1.5,
    "long": 7,
    "enum": 2,
    "string": "a string",
    "doubles": np.array([1.5, -2.5, 1e300]),
    "floats": np.array([1.5, -2.5, 0.25], np.float32),
    "longs": np.array([-2147483648, 0, 2147483647], np.int32),
    "shorts": np.array([-32768, 0, 32767], np.int16),
    "chars": np.array([0, 127, 255], np.uint8),
    "enums": np.array([0, 1, 65535], np.uint16),
    "strings": np.array(["one", "", " three "]),
    "one:double": 4.5,
    "one:short": -3,
    "one:char": 200,
    "one:string": "only",
    "no:doubles": np.zeros(0),
    "no:chars": np.zeros(0, np.uint8),
    "full": np.array([1.0, 2.0, 3.0]),
}

TEXTS = {
    "double": "1.500",
    "long": "7",
    "enum": "Wait for ever",
    "string": "a string",
    "doubles": "<array size=3, type=time_double>",
    "longs": "<array size=3, type=time_long>",
    "strings": "<array size=3, type=time_string>",
    "chars": "",
    "one:double": "4",  # with no decimals, as its record says
    "one:short": "-3",
    "no:doubles": "<array size=0, type=time_double>",
    "no:chars": "",
}


def same(value: Any, expected: Any) -> None:
    """Assert that a value is as expected, its type too."""
    assert type(value) is type(expected)
    if isinstance(expected, np.ndarray):
        assert value.dtype.kind == expected.dtype.kind
        assert expected.dtype.kind == "U" or value.dtype == expected.dtype
        assert value.tolist() == expected.tolist()
    else:
        assert value == expected


def spent(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """What a function returns, and how long it took."""
    begin = time.monotonic()
    return function(*args, **kwargs), time.monotonic() - begin


def changes(name: str, *values: Any) -> None:
    """Write values, each processed before the next."""
    for value in values:
        assert caput(name, value, wait=True) == 1
