"""What is known and counted of each PV of a recording, in columns.

Only the writer thread changes it. It stores nothing; `daqca.recording.store` writes it out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.recording.layout import UNKNOWN_TYPE

Slots = npt.NDArray[Any]


class Ledger:
    """The PV index in memory: one row for each PV.

    Parameters
    ----------
    size
        Number of PVs.
    """

    def __init__(self, size: int):
        self.size = size
        self.native_type = np.full(size, UNKNOWN_TYPE, np.uint8)
        self.native_count = np.zeros(size, np.uint32)
        self.units = np.zeros(size, "S8")
        self.processed = np.zeros(size, np.uint64)
        """Updates that reached the writer thread."""
        self.dropped = np.zeros(size, np.uint64)
        """Of these, the ones that could not be stored."""
        self.missed = np.zeros(size, np.uint64)
        self.interruptions = np.zeros(size, np.uint64)
        """Losses of the worker, after which nobody knows how much is missing."""
        self.first_time = np.zeros(size, np.int64)
        self.last_time = np.zeros(size, np.int64)
        self.is_array = np.zeros(size, np.bool_)
        """PVs whose updates go to arrays, also when one has a single element."""
        self.any_array = False
        self.missed_any = 0
        """Losses upstream that were not told for one PV."""
        self.control = 0
        """Events of the events table that were delivered."""
        self.ignored = 0
        """Delivered events that make no row: metadata, and what says nothing to a recording."""

    def count(self, slots: Slots, times: npt.NDArray[np.int64]) -> None:
        """Count updates: slots and timestamps of each, both of shape (k,)."""
        self.processed += np.bincount(slots, minlength=self.size).astype(np.uint64)
        self.last_time[slots] = times  # of several for one slot, the last is kept
        unseen = self.first_time[slots] == 0
        if unseen.any():
            self.first_time[slots[unseen][::-1]] = times[unseen][::-1]

    def connected(self, slot: int, native_type: int, native_count: int) -> None:
        """Note the type and count of a channel."""
        self.native_type[slot] = native_type
        self.native_count[slot] = native_count
        self.is_array[slot] = native_count > 1
        self.any_array = self.any_array or native_count > 1

    def interrupted(self, slots: Slots) -> None:
        """Count losses of the workers of these PVs."""
        np.add.at(self.interruptions, slots[slots < self.size], np.uint64(1))

    def lost(self, slots: Slots, counts: npt.NDArray[Any]) -> None:
        """Count losses upstream, per PV where the slot is one of ours."""
        known = slots < self.size
        np.add.at(self.missed, slots[known], counts[known].astype(np.uint64))
        self.missed_any += int(counts[~known].sum())
