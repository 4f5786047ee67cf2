"""What `RecordingFile` gives of one PV: its numbers, its arrays, what happened to it.

Plain data, but for `Frames`, which reads each array from the open file when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import h5py
import numpy as np
import numpy.typing as npt

from daqca.events import Kind
from daqca.recording import layout


class Series(NamedTuple):
    """The updates of one scalar PV, in the order they came; all arrays of shape (n,)."""

    times: npt.NDArray[np.int64]
    """IOC timestamps, ns since the Unix epoch."""
    values: npt.NDArray[Any]
    status: npt.NDArray[np.uint8]
    severity: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A connection change, access change or loss."""

    name: str
    """The PV; empty if it concerns all."""
    time: int
    """ns since the Unix epoch."""
    kind: Kind
    code: int
    """CONNECTED, ACCESS: `Access`; DISCONNECTED: `Reason`; REFUSED: ECA message number."""
    dbr_type: int
    """CONNECTED: the native type."""
    count: int
    """CONNECTED: the native count; LOST: how many events."""
    origin: layout.Origin
    """LOST: where."""


class Frames(Sequence[npt.NDArray[Any]]):
    """The updates of one array PV, in the order they came; each is read when it is asked for.

    ``frames[i]`` is the array of update `i`, in native byte order: of shape (length,), or the recorded
    shape if it fills its row. Slices give lists. ``times``, ``status``, ``severity``, ``lengths`` are arrays (n,).
    """

    def __init__(self, columns: dict[str, npt.NDArray[Any]], segments: Sequence[h5py.Dataset], missing: int = 0):
        self.times: npt.NDArray[np.int64] = columns["time"]
        self.status: npt.NDArray[np.uint8] = columns["status"]
        self.severity: npt.NDArray[np.uint8] = columns["severity"]
        self.lengths: npt.NDArray[np.uint32] = columns["length"]
        self._segment, self._row = columns["segment"], columns["row"]
        self._segments = segments
        self.missing = missing
        """Updates whose arrays are not in the file (its writer was killed, or has only just flushed)."""

    def __len__(self) -> int:
        return len(self.times)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[npt.NDArray[Any]]: ...
    def __getitem__(self, index: int | slice) -> npt.NDArray[Any] | list[npt.NDArray[Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, length = int(self._segment[index]), int(self.lengths[index])
        if number == layout.NO_SEGMENT:
            return np.zeros(0)
        data = self._segments[number]
        row = _native(data[int(self._row[index])])
        return row if length == row.size else row.reshape(-1)[:length]

    def stack(self) -> npt.NDArray[Any]:
        """All arrays as one, of shape (n, length) or (n, *shape).

        Raises
        ------
        ValueError
            They differ in length or type.
        """
        numbers = np.unique(self._segment)
        if not len(self):
            return np.zeros((0, 0))
        if len(numbers) != 1 or len(np.unique(self.lengths)) != 1:
            raise ValueError("the arrays differ in length or type: read them one by one")
        if numbers[0] == layout.NO_SEGMENT:
            return np.zeros((len(self), 0))
        data = self._segments[int(numbers[0])]
        first, last = int(self._row.min()), int(self._row.max())
        rows = _native(data[first : last + 1])
        if last - first + 1 != len(self):
            rows = rows[self._row.astype(np.int64) - first]
        length = int(self.lengths[0])
        return rows if length == rows[0].size else rows.reshape(len(rows), -1)[:, :length]


def _native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(array.dtype.newbyteorder("="), copy=False)
