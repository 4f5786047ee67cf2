"""Segments: the datasets that arrays and frames go to, and which array goes to which.

An array's dataset is made when its size is first seen, since an areaDetector's maximum (NELM) says little about
its frames. No HDF5 file is opened here; see `daqca.recording.store`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from h5py import h5s

from daqca.events import ELEMENT
from daqca.recording import layout
from daqca.recording.columns import Chunks

CHUNK_BYTES = 1 << 16
"""Small arrays share a chunk of about this size; an array of more than half of it has a chunk for itself."""

FULL_SIZE = 4096
"""Arrays whose maximum is within this many bytes have rows of that maximum, whatever their length is now."""

EXACT_SIZES = 16
"""How many different sizes of one PV's frames get a dataset with rows of exactly that size."""

OWN_SEGMENTS = 256
"""With so many datasets, PVs with small arrays that come later share one for each type and size:
HDF5 needs 4 ms to flush 256 datasets, 23 ms for 1,000 and 600 ms for 4,000."""

EXACT_SEGMENTS = 1024
"""With so many datasets, no frame gets one of its exact size any more."""

FEW_LEFT = layout.MAX_SEGMENTS - 512
"""With so many datasets, every new size is rounded up to a power of two and shared by all PVs: there
are not more than 512 of those."""

SHARED = -1

PENDING_BYTES = 8 << 20
"""Frames of so many bytes together are written at once."""

Buffer = bytes | memoryview


class FrameChunks(Chunks):
    """Chunks of one row each, written from where they lie, as they are."""

    __slots__ = ()

    def write_rows(self, base: int, rows: Sequence[Buffer]) -> tuple[int, OSError | None]:
        """Write rows from row `base` on; returns how many were written, and why no more were."""
        self._dataset.set_extent((base + len(rows), *self.tail))
        for done, row in enumerate(rows):
            try:
                self._dataset.write_direct_chunk((base + done, *self._offset), row)
            except OSError as error:
                return done, error
        return len(rows), None


class PipelineChunks(Chunks):
    """Chunks of one row each that HDF5 compresses itself, by a filter of hdf5plugin.

    Several rows are copied together and handed over in one call: HDF5 lets go of the GIL for it, and a busy
    program gives that back only after 5 ms.
    """

    __slots__ = ("_dtype",)

    def __init__(self, dtype: np.dtype[Any], tail: tuple[int, ...]):
        super().__init__(1, dtype, tail, False)
        self._dtype = dtype

    def write_rows(self, base: int, rows: Sequence[Buffer]) -> tuple[int, OSError | None]:
        """As `FrameChunks.write_rows`, but all rows or none."""
        data = rows[0] if len(rows) == 1 else b"".join(rows)
        array = np.frombuffer(data, self._dtype).reshape(len(rows), *self.tail)
        self._dataset.set_extent((base + len(rows), *self.tail))
        target = self._dataset.get_space()
        target.select_hyperslab((base, *self._offset), array.shape)
        self._dataset.write(h5s.create_simple(array.shape), target, array)
        return len(rows), None


class Segment:
    """One dataset of arrays: a PV's, or that of all PVs with small arrays of one type and size.

    Parameters
    ----------
    number
        Its number in the file, which the frames table refers to.
    slot
        The PV, or `SHARED`.
    dbr_type
        Plain DBR type of the elements; they are stored big-endian, as they came.
    capacity
        Elements of one row.
    shape
        Shape of one row.
    packed
        Whether chunks are compressed with shuffle and deflate.
    pipeline
        Whether HDF5 compresses them instead.
    """

    def __init__(
        self, number: int, slot: int, dbr_type: int, capacity: int, shape: Sequence[int], packed: bool, pipeline: bool
    ):
        self.number = number
        self.slot = slot
        self.dbr_type = dbr_type
        self.capacity = capacity
        self.dtype = ELEMENT[dbr_type]
        self.row_bytes = capacity * self.dtype.itemsize
        self.reference: Any = None
        """HDF5's reference to its group; set when that is made."""
        per_chunk = max(1, CHUNK_BYTES // self.row_bytes)
        tail = tuple(int(n) for n in shape)
        self.chunks: Chunks
        if per_chunk > 1 or (packed and not pipeline):
            self.chunks = Chunks(per_chunk, self.dtype, tail, packed)
        elif pipeline:
            self.chunks = PipelineChunks(self.dtype, tail)
        else:
            self.chunks = FrameChunks(1, self.dtype, tail, False)
        self.rows = 0
        """Rows taken in, and not lost since."""
        self.committed = 0
        """Rows handed to HDF5 or to the system."""
        self.bytes = 0
        self._pending: list[Buffer] = []
        self._buffer: bytearray | None = None
        self._fill = 0

    def put(self, data: memoryview) -> int:
        """Store one array; the rest of its row is zero. Returns its row.

        An array with a chunk for itself is written from where it lies, at the next `write_pending`
        at the latest.

        Raises
        ------
        OSError
            It, or others before it, could not be written.
        """
        row = self.rows
        if self.chunks.rows == 1:
            self._pending.append(data if data.nbytes == self.row_bytes else bytes(data).ljust(self.row_bytes, b"\0"))
            self.rows = row + 1
            if len(self._pending) * self.row_bytes >= PENDING_BYTES:
                self.write_pending()
            return row
        if self._buffer is None:
            self._buffer = bytearray(self.row_bytes * self.chunks.rows)
        start = self._fill * self.row_bytes
        self._buffer[start : start + data.nbytes] = data
        if data.nbytes < self.row_bytes:
            self._buffer[start + data.nbytes : start + self.row_bytes] = bytes(self.row_bytes - data.nbytes)
        self._fill += 1
        self.rows = row + 1
        if self._fill == self.chunks.rows:
            self._write(True)
            self._fill = 0
        return row

    def write_pending(self) -> None:
        """Write the arrays that still lie where they were received.

        Raises
        ------
        OSError
            Not all of them could be written; `rows` then says how many there are.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        try:
            while pending:
                if isinstance(self.chunks, (FrameChunks, PipelineChunks)):
                    done, error = self.chunks.write_rows(self.committed, pending)
                    self.bytes += done * self.row_bytes
                else:
                    self.bytes += self.chunks.write(self.committed, pending[0], 1, True)
                    done, error = 1, None
                self.committed += done
                if error is not None:
                    raise error
                del pending[:done]
        finally:
            self.rows = self.committed

    def flush(self, final: bool = False) -> None:
        """Write the rows that are only in memory; `final` if no more will come."""
        if self._pending:
            self.write_pending()
        elif self._fill and self.committed < self.rows:
            self._write(final)

    def _write(self, final: bool) -> None:
        self.bytes += self.chunks.write(self.rows - self._fill, self._buffer, self._fill, final)
        self.committed = self.rows


class Planner:
    """Decides which segment an array goes to, and which segments must be made.

    Parameters
    ----------
    names
        The PVs, by slot.
    shapes
        Shapes of rows that the user asked for, by name.
    packed
        Whether small arrays are compressed.
    frame_compression
        None, ``"deflate"`` or ``"bslz4"``, for arrays with a chunk for themselves.
    """

    def __init__(
        self, names: Sequence[str], shapes: Mapping[str, Sequence[int]], packed: bool, frame_compression: str | None
    ):
        self._names = names
        self._shapes = shapes
        self._packed = packed
        self._frame_compression = frame_compression
        self._by_size: dict[tuple[int, int, int], Segment] = {}
        self._exact: dict[int, int] = {}
        self.segments: list[Segment] = []

    def plan(self, slot: int, dbr_type: int, count: int, native_count: int) -> tuple[Segment, bool]:
        """The segment for arrays of `count` elements of this PV, and whether it is new."""
        owner, capacity = self._place(slot, dbr_type, count, max(count, native_count))
        segment = self._by_size.get((owner, dbr_type, capacity))
        if segment is not None:
            return segment, False
        shape = self._shapes.get(self._names[slot], ()) if owner == slot else ()
        if prod(shape) != capacity or not shape:
            shape = (capacity,)
        big = capacity * ELEMENT[dbr_type].itemsize > CHUNK_BYTES // 2
        packed = self._frame_compression == "deflate" if big else self._packed
        segment = Segment(
            len(self.segments), owner, dbr_type, capacity, shape, packed, self._frame_compression == "bslz4"
        )
        self.segments.append(segment)
        self._by_size[owner, dbr_type, capacity] = segment
        return segment, True

    def _place(self, slot: int, dbr_type: int, count: int, limit: int) -> tuple[int, int]:
        item = ELEMENT[dbr_type].itemsize
        if (slot, dbr_type, count) in self._by_size or prod(self._shapes.get(self._names[slot], (0,))) == count:
            return slot, count
        rounded = limit if limit * item <= FULL_SIZE else min(limit, 1 << (count - 1).bit_length())
        if (slot, dbr_type, rounded) in self._by_size:
            return slot, rounded
        made = len(self.segments)
        if made >= FEW_LEFT:
            return SHARED, 1 << (count - 1).bit_length()
        if count * item > CHUNK_BYTES // 2:
            if self._exact.get(slot, 0) < EXACT_SIZES and made < EXACT_SEGMENTS:
                self._exact[slot] = self._exact.get(slot, 0) + 1
                return slot, count
            return slot, rounded
        if made >= OWN_SEGMENTS:
            # Rounded whatever the limit, so that there are few sizes.
            return SHARED, 1 << (count - 1).bit_length()
        return slot, rounded
