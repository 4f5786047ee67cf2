"""What waits to be printed: bounded, and what does not fit is counted and told. The printing is in `monitor`."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np

from daqca.events import ALL_SLOTS, EVENT, Batch, Kind, pick

MAX_EVENTS = 500_000
"""Events that may wait for a slow terminal or pipe; updates that come beyond are dropped and counted."""
MAX_BYTES = 64 << 20
"""The same for the bytes of their strings and arrays."""

# Plain numbers: beside an enum's member NumPy looks for attributes, slowly.
_UPDATE, _LOST = int(Kind.UPDATE), int(Kind.LOST)
_MOST = 0xFFFFFFFF  # what one event can tell; at a terminal that was stopped for days, the next one tells the rest


class Inbox:
    """A sink that keeps batches until the printing thread has time for them.

    Updates that do not fit are dropped: a LOST event in their place says how many. What is told of connections, access
    and refusals is rare, and always kept.

    Parameters
    ----------
    limit, limit_bytes
        How many events, and bytes of their data, may wait; one batch always may. MAX_EVENTS and MAX_BYTES when None.
    """

    def __init__(self, limit: int | None = None, limit_bytes: int | None = None):
        self.dropped = 0
        """Updates dropped here."""
        self._limit = MAX_EVENTS if limit is None else limit
        self._limit_bytes = MAX_BYTES if limit_bytes is None else limit_bytes
        self._queue: deque[Batch] = deque()
        self._waiting = self._bytes = 0
        self._lost = 0
        """Of those dropped, how many are not told yet."""
        self._is_over = False
        self._changed = threading.Condition()

    def deliver(self, batch: Batch) -> None:
        """Take a batch, or count it; called on the thread that reads the network."""
        with self._changed:
            if self._is_over:
                return
            if self._waiting and (
                self._waiting + len(batch) > self._limit or self._bytes + len(batch.block) > self._limit_bytes
            ):
                batch = self._drop_updates(batch)
            if len(batch):
                if self._lost:
                    self._append(self._told_lost())
                self._append(batch)
            self._changed.notify()

    def _drop_updates(self, batch: Batch) -> Batch:
        """Count the updates of a batch; returns what else is in it, none of which has data in the block."""
        records = batch.records
        kinds = records["kind"]
        is_update, is_lost = kinds == _UPDATE, kinds == _LOST
        dropped = int(is_update.sum())
        self.dropped += dropped
        # What was lost before it came here is told with the rest.
        self._lost += dropped + int(records["count"][is_lost].sum())
        return Batch(pick(records, ~is_update & ~is_lost))

    def _append(self, batch: Batch) -> None:
        self._queue.append(batch)
        self._waiting += len(batch)
        self._bytes += len(batch.block)

    def _told_lost(self) -> Batch:
        records = np.zeros(1, EVENT)
        count = min(self._lost, _MOST)
        records["slot"], records["kind"], records["count"] = ALL_SLOTS, _LOST, count
        self._lost -= count
        return Batch(records)

    def next(self, deadline: float | None) -> Batch | None:
        """The next batch; None when the deadline has passed, and all that came before it was taken.

        Parameters
        ----------
        deadline
            By ``time.monotonic()``; None waits for ever.
        """
        with self._changed:
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    # Else one who prints more slowly than updates come would never end.
                    self._is_over = True
                if self._queue:
                    batch = self._queue.popleft()
                    self._waiting -= len(batch)
                    self._bytes -= len(batch.block)
                    return batch
                if self._lost:
                    # Perhaps nothing comes after what was dropped: it is told all the same.
                    return self._told_lost()
                if self._is_over:
                    return None
                self._changed.wait(left)
