"""Snapshots made by hand, with every kind of value and of absence."""

import numpy as np

from daqca.reading import Metadata
from daqca.snapshot import MetadataColumns, Snapshot

STAMP = 1_700_000_000_123_456_789


def every_kind(text=b"a text\0with rubbish after it", **changes):
    """One PV of each type, an array of each kind, and one PV for each way of being missing."""
    rows = [
        # name, number, outcome, native type, native count, datum
        ("T:string", np.nan, 1, 0, 1, (0, 1, text)),
        ("T:short", -5.0, 1, 1, 1, None),
        ("T:float", 0.25, 1, 2, 1, None),
        ("T:enum", 2.0, 1, 3, 1, None),
        ("T:char", 200.0, 1, 4, 1, None),
        ("T:long", -2147483648.0, 1, 5, 1, None),
        ("T:double", 1e-300, 1, 6, 1, None),
        ("T:nan", np.nan, 1, 6, 1, None),
        ("T:wave", np.nan, 1, 6, 5, (6, 3, np.array([1.5, -2.5, np.inf], ">f8").tobytes())),
        ("T:one", 7.0, 1, 5, 9, None),
        ("T:none", np.nan, 1, 1, 9, (1, 0, b"")),
        ("T:strings", np.nan, 1, 0, 3, (0, 2, b"one".ljust(40, b"\0") + b"\xb5m".ljust(40, b"\0"))),
        ("T:long_string", np.nan, 1, 4, 100, (4, 6, b"hello\0")),
        ("T:stale", 3.0, 3, 6, 1, None),
        ("T:missing", np.nan, 4, 255, 0, None),
        ("T:locked", np.nan, 6, 6, 1, None),
    ]
    names, number, outcome, native_type, native_count, data = zip(*rows, strict=True)
    size = len(rows)
    columns = {
        "status": np.arange(size) % 3,
        "severity": np.arange(size) % 4,
        "timestamps": np.where(np.isin(outcome, (1, 3)), STAMP + np.arange(size), 0),
        "outcome": outcome,
        "native_type": native_type,
        "native_count": native_count,
        "data": {i: datum for i, datum in enumerate(data) if datum is not None},
        "started": STAMP,
        "elapsed": 0.25,
    }
    return Snapshot(names, number, **{**columns, **changes})


def with_metadata():
    snapshot = every_kind()
    metadata = MetadataColumns.empty(len(snapshot))
    metadata.set(3, Metadata(enum_strings=("Off", "On", "Übrig")))
    metadata.set(6, Metadata("µm", 3, (), *range(8)))
    metadata.set(7, Metadata("°C", 0, (), np.inf))
    return every_kind(metadata=metadata)


def same_value(one, other):
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return (
            type(one) is type(other)
            and one.dtype == other.dtype
            and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        )
    return type(one) is type(other) and (one == other or (one != one and other != other))
