"""Growing datasets written a whole chunk at a time, past HDF5's chunk cache, and tables made of them.

Knows the rules of writing while others read (SWMR); knows nothing of files, threads or PVs.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.recording.layout import TableSpec

Column = npt.NDArray[Any]


TRIAL = 32
"""Every so many chunks of a dataset, it is tried out anew how to compress them best."""

WORTH = 0.9
"""A dataset whose chunks do not shrink below this part of their size is not compressed until the next trial."""


@lru_cache(maxsize=32)
def _packed_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


def _deflate(data: npt.NDArray[np.uint8], strategy: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, strategy)
    return packer.compress(data.data) + packer.flush()


class Packer:
    """Compresses the chunks of one dataset as HDF5's filters shuffle and deflate would, without holding the GIL.

    Deflate looks for runs only (``Z_RLE``: half the CPU time, good for times and noise), or for all
    repetitions (good for many PVs in turn, each with a steady value), or is left out (no use for
    noisy waveforms). What pays is tried out every `TRIAL` chunks.

    Parameters
    ----------
    item
        Bytes of one element. Elements of one byte are not shuffled.
    """

    __slots__ = ("_countdown", "_strategy", "item")

    def __init__(self, item: int):
        self.item = item
        self._countdown = 0
        self._strategy: int | None = None

    def pack(self, data: npt.NDArray[np.uint8]) -> bytes | None:
        """The chunk's bytes compressed, or None if they had better be written as they are."""
        if self.item > 1:
            data = np.ascontiguousarray(data.reshape(-1, self.item).T).reshape(-1)
        elif not data.any():  # alarm columns are zero nearly always
            return _packed_zeros(data.size)
        self._countdown -= 1
        if self._countdown < 0:
            return self._try_out(data)
        return None if self._strategy is None else _deflate(data, self._strategy)

    def _try_out(self, data: npt.NDArray[np.uint8]) -> bytes | None:
        self._countdown = TRIAL
        runs, all_ = _deflate(data, zlib.Z_RLE), _deflate(data, zlib.Z_DEFAULT_STRATEGY)
        cheap = len(runs) <= 1.05 * len(all_)
        best = runs if cheap else all_
        self._strategy = zlib.Z_RLE if cheap else zlib.Z_DEFAULT_STRATEGY
        if len(best) > WORTH * data.size:
            self._strategy = None
        return best if len(best) < data.size else None


class Chunks:
    """One dataset that grows along its first axis.

    A chunk that fills up between two flushes is compressed, and written once. One that is flushed
    half full is written raw, again and again at the same place until it is full: in a file that others
    read, HDF5 never uses freed space again, so that compressing it anew at each flush would
    make the file grow without end.

    Parameters
    ----------
    rows
        Rows of one chunk.
    dtype
        Of an element, as in the file.
    tail
        Shape of one row; ``()`` for a plain column.
    packed
        Whether the dataset has the filters shuffle (for elements of more than one byte) and deflate.
    """

    __slots__ = ("_dataset", "_offset", "_packer", "_raw_base", "_skip", "hurried", "item", "packed", "rows", "tail")

    def __init__(self, rows: int, dtype: np.dtype[Any], tail: tuple[int, ...], packed: bool):
        self.rows = rows
        self.item = dtype.itemsize
        self.tail = tail
        self.packed = packed
        self.hurried = False
        """Whether time is too short to compress."""
        # Bit n of the mask says that filter n was skipped for this chunk.
        self._skip = (0b11 if self.item > 1 else 0b1) if packed else 0
        self._packer = Packer(self.item)
        self._offset = (0,) * len(tail)
        self._raw_base = -1
        self._dataset: Any = None

    def attach(self, dataset_id: Any) -> None:
        """Use this open dataset (an h5py ``DatasetID``) from now on; None lets go of it."""
        self._dataset = dataset_id

    @property
    def is_attached(self) -> bool:
        """Whether the dataset is open."""
        return self._dataset is not None

    def write(self, base: int, data: Any, valid: int, final: bool) -> int:
        """Write the chunk that starts at row `base`.

        Parameters
        ----------
        base
            A multiple of ``rows``.
        data
            The bytes of the whole chunk: anything with a contiguous buffer; written without a copy
            if it is not compressed.
        valid
            How many of its rows count: the dataset ends after them.
        final
            Whether the chunk will not be written again, so that compressing it is worth while.

        Returns
        -------
        Number of bytes written.
        """
        self._dataset.set_extent((base + valid, *self.tail))
        if self.packed and final and not self.hurried and base != self._raw_base:
            packed = self._packer.pack(np.frombuffer(data, np.uint8))
            if packed is not None:
                self._dataset.write_direct_chunk((base, *self._offset), packed, 0)
                return len(packed)
        self._raw_base = base
        self._dataset.write_direct_chunk((base, *self._offset), data, self._skip)
        return memoryview(data).nbytes

    def truncate(self, rows: int) -> None:
        """Let the dataset end after `rows`."""
        self._dataset.set_extent((rows, *self.tail))


class Table:
    """Columns of equal length, filled in memory and written when a chunk is full or at a flush.

    Parameters
    ----------
    spec
        Its columns.
    packed
        Whether its datasets have filters.
    """

    def __init__(self, spec: TableSpec, packed: bool):
        self.spec = spec
        self.chunks = [Chunks(spec.chunk, np.dtype(code), (), packed) for _, code in spec.columns]
        self._buffers: list[Column] = [np.zeros(spec.chunk, code) for _, code in spec.columns]
        self._fill = 0
        self._unsaved = False
        self.rows = 0
        """Rows taken in."""
        self.committed = 0
        """Rows of which every column was handed to HDF5."""
        self.bytes = 0
        """Bytes written, rewritten ones included."""

    def append(self, columns: Sequence[Column]) -> None:
        """Add rows: one array for each column, all of the same length.

        Raises
        ------
        OSError
            A full chunk could not be written. Its rows count in `rows` and not in `committed`.
        """
        total, start = len(columns[0]), 0
        while start < total:
            take = min(total - start, self.spec.chunk - self._fill)
            fill = self._fill
            for buffer, column in zip(self._buffers, columns, strict=True):
                buffer[fill : fill + take] = column[start : start + take]
            start += take
            self._fill += take
            self.rows += take
            self._unsaved = True
            if self._fill == self.spec.chunk:
                self._write(final=True)
                self._fill = 0

    def flush(self, final: bool = False) -> None:
        """Write the rows that are only in memory; `final` if no more will come."""
        if self._unsaved and self._fill:
            self._write(final)

    def _write(self, final: bool) -> None:
        base = self.rows - self._fill
        for chunks, buffer in zip(self.chunks, self._buffers, strict=True):
            self.bytes += chunks.write(base, buffer, self._fill, final)
        self.committed = self.rows
        self._unsaved = False
