"""The names, columns and types of a recording: what is where in the file, for writer and reader alike.

Opens no file and moves no data. See docs/recording.md, and docs/decisions/0004-recording-layout.md for the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntEnum

import h5py
import numpy as np

LAYOUT_VERSION = 2
"""Stored as the file's attribute ``daqca_layout``; a reader refuses a newer one. Layout 1 counts no
interruptions."""

LIBVER = ("v110", "v110")
"""The file format: the oldest with SWMR, so that every HDF5 since 1.10 (2016) reads our files."""

ENTRY = "entry"
ARRAYS = "entry/arrays"
SEGMENTS = "entry/segments"
OVERVIEW = "entry/overview"
USER = "entry/user"
PVS = "entry/pvs"
STATE = "entry/state"

ITSELF = "itself"
"""A group of arrays that is only found by reference has a link to itself, of this name, so that it counts as in use."""

MAX_SEGMENTS = 8192
"""Length of `SEGMENTS`, the references to the groups of arrays."""

NO_SEGMENT = 0xFFFFFFFF
"""The ``segment`` of an array that had no elements: there is nothing to store."""

UNKNOWN_TYPE = 255
"""The ``native_type`` of a PV that never connected."""


class Origin(IntEnum):
    """Where the events of a LOST row were lost (column ``origin`` of the events table)."""

    UPSTREAM = 0
    """Before the recorder: the network, a worker or the broker said so."""
    QUEUE = 1
    """In the recorder: its queue was full."""
    MALFORMED = 2
    """In the recorder: the event did not say where its data is."""


@dataclass(frozen=True)
class TableSpec:
    """One wide table: a group of columns of equal length."""

    name: str
    title: str
    columns: tuple[tuple[str, str], ...]
    chunk: int
    """Rows that are compressed and written as one piece."""

    @property
    def path(self) -> str:
        """The group in the file."""
        return f"{ENTRY}/{self.name}"


SCALARS = TableSpec(
    "scalars",
    "updates of numeric scalar PVs",
    (("slot", "<u4"), ("time", "<i8"), ("value", "<f8"), ("status", "u1"), ("severity", "u1")),
    16384,
)
STRINGS = TableSpec(
    "strings",
    "updates of string PVs",
    (("slot", "<u4"), ("time", "<i8"), ("value", "S40"), ("status", "u1"), ("severity", "u1")),
    2048,
)
FRAMES = TableSpec(
    "frames",
    "updates of array PVs: where each array is",
    (
        ("slot", "<u4"),
        ("time", "<i8"),
        ("status", "u1"),
        ("severity", "u1"),
        ("length", "<u4"),
        ("segment", "<u4"),
        ("row", "<u8"),
    ),
    4096,
)
EVENTS = TableSpec(
    "events",
    "connections, access rights and losses",
    (
        ("slot", "<u4"),
        ("time", "<i8"),
        ("kind", "u1"),
        ("code", "u1"),
        ("dbr_type", "u1"),
        ("count", "<u4"),
        ("origin", "u1"),
    ),
    2048,
)
TABLES = (SCALARS, STRINGS, FRAMES, EVENTS)

PV_COLUMNS = (
    ("native_type", "u1"),
    ("native_count", "<u4"),
    ("units", "S8"),
    ("received", "<u8"),
    ("written", "<u8"),
    ("dropped", "<u8"),
    ("missed", "<u8"),
    ("interruptions", "<u8"),
    ("first_time", "<i8"),
    ("last_time", "<i8"),
)
"""The PV index, one row for each PV, beside the names. They are overwritten in place at each flush."""

TOTALS = ("delivered", "received", "written", "dropped", "missed", "control", "ignored", "late", "interruptions")
"""What `STATE` counts over all PVs, in this order."""

STATE_FIELDS = (("rows", "<u8", len(TABLES)), ("times", "<i8", 2), ("totals", "<u8", len(TOTALS)), ("error", "S256", 1))
"""What is overwritten in place at each flush: the rows of each table that are surely in the file,
the time of the flush and of the stop (ns), the totals, and the error that ended the recording."""

DESCRIPTIONS = {
    "slot": "index into entry/pvs; 4294967295: all PVs",
    "time": "timestamp of the IOC, nanoseconds since 1970-01-01 UTC",
    "value": "the value",
    "status": "EPICS alarm status",
    "severity": "EPICS alarm severity: 0 none, 1 minor, 2 major, 3 invalid",
    "length": "number of elements in this update",
    "segment": "the array is in the group that entry/segments[segment] refers to; 4294967295: no elements",
    "segments": "references to the groups of arrays, by segment number",
    "row": "row of that dataset",
    "kind": "5 connected, 6 disconnected, 7 access rights changed, 9 events lost, 10 subscription refused",
    "code": "connected, access: 1 read + 2 write; disconnected: the reason; refused: the ECA message number",
    "dbr_type": "connected: the native type, 0 to 6: STRING SHORT FLOAT ENUM CHAR LONG DOUBLE",
    "count": "connected: the native count; lost: how many events were lost",
    "origin": "lost: 0 before the recorder, 1 its queue was full, 2 malformed",
    "native_type": "0 to 6: STRING SHORT FLOAT ENUM CHAR LONG DOUBLE; 255 never connected",
    "native_count": "maximum number of elements",
    "units": "engineering units, as the IOC told them last; empty: none, or not known",
    "received": "updates that reached the recorder",
    "written": "updates that are in this file",
    "dropped": "updates that reached the recorder and are not in this file",
    "missed": "updates lost before the recorder, as far as we were told",
    "interruptions": "how often the worker of this PV was lost: what it had not handed on is missing, and not counted",
    "first_time": "timestamp of the first update, nanoseconds since 1970-01-01 UTC; 0: none",
    "last_time": "timestamp of the last update, nanoseconds since 1970-01-01 UTC; 0: none",
    "rows": "rows surely in the file: " + ", ".join(table.name for table in TABLES),
    "times": "last flush and stop, nanoseconds since 1970-01-01 UTC; 0: not yet",
    "totals": ", ".join(TOTALS),
    "error": "what ended the recording early",
}
"""The attribute ``description`` of each column: a file should explain itself."""


def named_totals(counts: Sequence[int]) -> dict[str, int]:
    """The totals of a file by name; what its layout did not have is 0."""
    return dict.fromkeys(TOTALS, 0) | dict(zip(TOTALS, counts, strict=False))


def iso_time(ns: int) -> str:
    """A time in ns since the Unix epoch as ISO 8601 text, UTC, to the microsecond."""
    return (
        datetime.fromtimestamp(ns // 1_000_000_000, timezone.utc)
        .replace(microsecond=ns // 1000 % 1_000_000)
        .isoformat()
    )


def link_name(pvname: str, taken: set[str]) -> str:
    """A PV's name as the name of an HDF5 group that is not `taken` yet; adds it there.

    A slash, which HDF5 keeps for itself, becomes a vertical bar; a PV that has had a group already
    (because its type or size changed) gets ``~2``, ``~3`` and so on behind its name.
    """
    base = pvname.replace("/", "|")
    if base in (".", ""):
        base = "|" + base
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}~{number}"
    taken.add(name)
    return name


def text(value: str | bytes) -> bytes:
    """Text cut to fit the file's fixed field for errors."""
    data = value.encode() if isinstance(value, str) else value
    return data[:255]


def write_text(group: h5py.Group, name: str, value: str) -> h5py.Dataset:
    """A scalar UTF-8 string of fixed length: variable ones cannot be overwritten in place."""
    data = value.encode() or b"\0"
    return group.create_dataset(name, data=np.array(data, dtype=h5py.string_dtype("utf-8", len(data))))
