"""The batch: the one format of events, in process, between processes and (in columns) on disk.

Knows nothing of Channel Access messages, sockets or files. See docs/decisions/0002-event-record.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[np.void]
"""A one-dimensional array of `EVENT`."""


class Kind(IntEnum):
    """What an event tells."""

    UPDATE = 1
    """A monitor's update. ``token`` is the subscription."""
    READ = 2
    """The answer to a get. ``token`` is the request."""
    WRITTEN = 3
    """The end of a put with completion. ``status`` is the ECA message number (0: normal)."""
    FAILED = 4
    """A get or a put that the server refused. ``status`` is the ECA message number."""
    CONNECTED = 5
    """``dbr_type`` and ``count`` are the channel's native ones, ``status`` its `Access`."""
    DISCONNECTED = 6
    """``status`` is a `Reason`. Values received earlier are stale from here on."""
    ACCESS = 7
    """Access rights changed: ``status`` is the new `Access`."""
    PROPERTY = 8
    """Metadata changed: the block holds the DBR_CTRL structure of ``dbr_type``."""
    LOST = 9
    """``count`` events of this slot (or of its whole shard: slot `ALL_SLOTS`) were dropped here."""
    REFUSED = 10
    """A subscription that the server refused. ``status`` is the ECA message number."""


class Access(IntFlag):
    """Access rights, as CA's ACCESS_RIGHTS message encodes them."""

    NONE = 0
    READ = 1
    WRITE = 2


class Reason(IntEnum):
    """Why a channel is not connected (``status`` of a DISCONNECTED event)."""

    CLOSED = 1
    """The circuit was closed: the server went away."""
    UNRESPONSIVE = 2
    """The server does not answer; the circuit is still open."""
    DELETED = 3
    """The server deleted the channel."""
    PROTOCOL_ERROR = 4
    """The server sent bytes that are not Channel Access."""
    WORKER_LOST = 5
    """The worker that held the channel died."""
    CLEARED = 6
    """We closed the channel ourselves."""


ALL_SLOTS = 0xFFFFFFFF
"""The slot of an event that concerns every channel of its shard."""

EPICS_EPOCH_NS = 631_152_000 * 1_000_000_000
"""1990-01-01 UTC, the epoch of EPICS, in nanoseconds since the Unix epoch."""

EVENT = np.dtype(
    [
        ("slot", "<u4"),
        ("kind", "u1"),
        ("dbr_type", "u1"),
        ("status", "u1"),
        ("severity", "u1"),
        ("timestamp", "<i8"),
        ("value", "<f8"),
        ("count", "<u4"),
        ("token", "<u4"),
    ]
)
"""One event, 32 bytes.

``slot``: the channel, by its place in the list of names the receiver knows. ``kind``: a `Kind`.
``dbr_type``: the DBR type of the data as transferred (0 to 6 for values; 28 to 34 for metadata).
``status``, ``severity``: the alarm (for other kinds see `Kind`). ``timestamp``: nanoseconds since
the Unix epoch, by the IOC's clock for values, by ours for the rest. ``value``: the number, if
``count`` is 1 and ``dbr_type`` numeric; all else is in the block (see `EVENT_BLOCK`).
``count``: number of elements. ``token``: the request or subscription.
"""

EVENT_BLOCK = np.dtype(
    {
        "names": ["slot", "kind", "dbr_type", "status", "severity", "timestamp", "offset", "length", "count", "token"],
        "formats": ["<u4", "u1", "u1", "u1", "u1", "<i8", "<u4", "<u4", "<u4", "<u4"],
        "offsets": [0, 4, 5, 6, 7, 8, 16, 20, 24, 28],
        "itemsize": 32,
    }
)
"""`EVENT` with ``value`` read as the place of the data in the block: byte ``offset`` and ``length``."""

_RAW = np.dtype("V32")
"""An event as 32 bytes without fields, which NumPy moves some thirty times faster than with them."""

ELEMENT = tuple(np.dtype(code) for code in ("S40", ">i2", ">f4", ">u2", "u1", ">i4", ">f8"))
"""Element dtypes of the plain DBR types 0 to 6 (STRING SHORT FLOAT ENUM CHAR LONG DOUBLE), in the
byte order of the network, which is that of the block."""


def pick(records: Records, which: Any) -> Records:
    """``records[which]`` for a mask or for indices, as a new array; much faster."""
    picked: Records = records.view(_RAW)[which].view(EVENT)
    return picked


def place(target: Records, slots: npt.NDArray[Any], records: Records) -> None:
    """``target[slots] = records``, much faster; of equal slots the last record stays."""
    target.view(_RAW)[slots] = records.view(_RAW)


def different(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The different values, ascending: `numpy.unique`, which at its first use loads masked arrays, for 7 ms."""
    if len(values) < 2:
        return values
    ordered = np.sort(values)
    is_new = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return ordered[is_new]


def grown(column: npt.NDArray[Any], needed: int, fill: int | bytes = 0) -> npt.NDArray[Any]:
    """`column` with room for at least `needed` rows; the new ones hold `fill`."""
    if needed <= len(column):
        return column
    larger = np.full(max(needed, 2 * len(column)), fill, column.dtype)
    larger[: len(column)] = column
    return larger


def join(parts: Sequence[Records]) -> Records:
    """The records of all parts, one after the other; much faster than concatenating them with their fields."""
    if len(parts) == 1:
        return parts[0]
    joined: Records = np.concatenate([part.view(_RAW) for part in parts]).view(EVENT)
    return joined


class Event(NamedTuple):
    """One event as a tuple, in the order of `EVENT`.

    ``value`` is (offset, length) if the event keeps data in the block (see `has_block`), else a number: 0.0 where
    the kind has none.
    """

    slot: int
    kind: int
    dbr_type: int
    status: int
    severity: int
    timestamp: int
    value: float | tuple[int, int]
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks of an event
    token: int


class Batch:
    """The events decoded from one read: records, and one block of bytes for arrays and strings.

    Small batches are made from rows (tuples) and large ones from records; each form is converted to
    the other when asked for, so that one answer costs no array and a thousand cost no loop.

    Parameters
    ----------
    records
        Array of `EVENT`, shape (n,).
    block
        The bytes that the records' offsets point into, big-endian as Channel Access sends them.
    rows
        Instead of `records`: `Event` tuples.
    """

    __slots__ = ("_records", "_rows", "block")

    def __init__(
        self,
        records: Records | None = None,
        block: bytes | bytearray | memoryview = b"",
        rows: Sequence[tuple[Any, ...]] | None = None,
    ):
        self._records = records
        self._rows = rows
        self.block = block

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        return 0 if self._records is None else len(self._records)

    @property
    def records(self) -> Records:
        """The events as an array of `EVENT`, shape (n,)."""
        if self._records is None:
            self._records = records_from_rows(self._rows or ())
        return self._records

    @property
    def is_small(self) -> bool:
        """Whether the rows are at hand without a conversion."""
        return self._rows is not None

    def rows(self) -> Sequence[tuple[Any, ...]]:
        """The events as tuples in the order of `Event`."""
        if self._rows is None:
            self._rows = list(self)
        return self._rows

    def __iter__(self) -> Iterator[Event]:
        if self._rows is not None:
            yield from map(Event._make, self._rows)
            return
        records = self.records
        placed = has_block(records).tolist()
        places = records.view(EVENT_BLOCK)
        offsets, lengths = places["offset"].tolist(), places["length"].tolist()
        for i, row in enumerate(records.tolist()):
            yield Event._make((*row[:6], (offsets[i], lengths[i]), *row[7:]) if placed[i] else row)

    def plain_rows(self) -> Sequence[tuple[Any, ...]]:
        """As `rows`, in tuples without names where they are made here: for loops in which nanoseconds count."""
        if self._rows is not None:
            return self._rows
        records = self.records
        rows: list[tuple[Any, ...]] = records.tolist()
        placed = has_block(records)
        if placed.any():
            places = records.view(EVENT_BLOCK)
            for i in np.flatnonzero(placed).tolist():
                rows[i] = (*rows[i][:6], (places["offset"].item(i), places["length"].item(i)), *rows[i][7:])
        return rows

    def data(self, offset: int, length: int) -> memoryview:
        """The bytes of one event in the block."""
        return memoryview(self.block)[offset : offset + length]

    def select(self, mask: npt.NDArray[Any]) -> Batch:
        """The events where `mask` is true (or at these indices), sharing this batch's block."""
        return Batch(pick(self.records, mask), self.block)


VALUE_KINDS = (Kind.UPDATE, Kind.READ)


def is_number(kind: int, dbr_type: int, count: int) -> bool:
    """Whether an event keeps a number in ``value`` (else its data is in the block, or it has none)."""
    return (kind == 1 or kind == 2) and count == 1 and 0 < dbr_type < 7


# Plain numbers: beside an enum's member NumPy looks for attributes, slowly.
_UPDATE, _PROPERTY, _SPAN = np.uint8(Kind.UPDATE), int(Kind.PROPERTY), int(Kind.READ - Kind.UPDATE)


def _is_value(records: Records) -> npt.NDArray[np.bool_]:
    # One comparison for `kind in VALUE_KINDS`: kind 0, which is no kind, wraps round to 255.
    found: npt.NDArray[np.bool_] = (records["kind"] - _UPDATE) <= _SPAN
    return found


def has_number(records: Records) -> npt.NDArray[np.bool_]:
    """`is_number` for an array of `EVENT`, shape (n,)."""
    dbr_type: npt.NDArray[np.uint8] = records["dbr_type"]
    scalar: npt.NDArray[np.bool_] = records["count"] == 1
    return _is_value(records) & scalar & (dbr_type > 0) & (dbr_type < 7)


def has_block(records: Records) -> npt.NDArray[np.bool_]:
    """Which events of an array of `EVENT` keep data in the block, shape (n,)."""
    metadata: npt.NDArray[np.bool_] = records["kind"] == _PROPERTY
    return (_is_value(records) & ~has_number(records)) | metadata


def records_from_rows(rows: Sequence[tuple[Any, ...]]) -> Records:
    """Make an array of `EVENT` from `Event` tuples."""
    records = np.zeros(len(rows), EVENT)
    places = records.view(EVENT_BLOCK)
    for i, row in enumerate(rows):
        value = row[6]
        if isinstance(value, tuple):
            records[i] = (*row[:6], 0.0, *row[7:])
            places["offset"][i], places["length"][i] = value
        else:
            records[i] = row
    return records


def decode(data: bytes | memoryview, dbr_type: int, count: int) -> npt.NDArray[Any]:
    """The elements of an array event as a native-endian array.

    Parameters
    ----------
    data
        The event's bytes in the block.
    dbr_type
        Plain DBR type, 0 to 6. STRING gives dtype ``S40``.
    count
        Number of elements.

    Returns
    -------
    Array of shape (count,), a copy in native byte order (bytes are not copied for CHAR and STRING).
    """
    dtype = ELEMENT[dbr_type]
    if dbr_type == 0 and len(data) < count * 40:
        data = bytes(data).ljust(count * 40, b"\0")
    return np.frombuffer(data, dtype, count).astype(dtype.newbyteorder("="), copy=False)


class BatchBuilder:
    """Collects events in order, from rows and from arrays, and makes the batch of them."""

    __slots__ = ("_block", "_pieces", "_size", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self._pieces: list[Records] = []
        self._block: list[bytes | memoryview] = []
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self._pieces)

    def store(self, data: bytes | memoryview) -> tuple[int, int]:
        """Put bytes into the block; returns their (offset, length) for a row's value."""
        offset = self._size
        self._block.append(data)
        self._size += len(data)
        return offset, len(data)

    def extend(self, records: Records) -> None:
        """Add an array of `EVENT` whose offsets already point into the block (see `store`)."""
        if self.rows:
            self._pieces.append(records_from_rows(self.rows))
            self.rows = []
        self._pieces.append(records)

    def build(self) -> Batch:
        """The batch of all that was collected; the builder is empty again."""
        rows, pieces = self.rows, self._pieces
        block: bytes | memoryview = b""
        if self._block:
            block = self._block[0] if len(self._block) == 1 else b"".join(self._block)
            self._block = []
            self._size = 0
        self.rows = []
        if not pieces:
            return Batch(None, block, rows)
        self._pieces = []
        if rows:
            pieces.append(records_from_rows(rows))
        return Batch(join(pieces), block)
