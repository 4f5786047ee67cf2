"""The bounded queue between the thread that reads the network and the one that writes the file.

Putting never blocks on the disk and never raises: what does not fit is counted and let go.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.events import Batch, Kind, pick

OVERHEAD = 256
"""Bytes counted for a batch beside its records and its block."""

WAKE_BYTES = 16 << 20

RESERVE = 1 << 20
"""Room kept for connection changes and losses when updates do not fit any more."""


class Inbox:
    """Batches on their way to the writer.

    Parameters
    ----------
    size
        Number of PVs: slots below it are counted one by one.
    limit
        Bytes that may wait (records, blocks and an allowance for each batch), those the writer is
        working on included.
    """

    def __init__(self, size: int, limit: int):
        self._size = size
        self._limit = limit
        self.wake_bytes = min(WAKE_BYTES, limit // 4)
        """With so much waiting, the writer is woken before its pause is over."""
        self._lock = threading.Lock()
        self._queue: deque[tuple[Batch, int]] = deque()
        self._wake = threading.Event()
        self._open = True
        self.queued = 0
        """Bytes waiting or in work."""
        self.high_water = 0
        self.delivered = 0
        """Events handed to `put` while open, dropped ones included."""
        self.late = 0
        """Events handed to `put` after `close`."""
        self.dropped = np.zeros(size, np.uint64)
        """Updates that did not fit, by slot."""
        self.dropped_other = 0
        """Events that did not fit and are not an update of one of our slots."""
        self.dropped_bytes = 0
        self.bytes = 0
        """Bytes taken in."""

    def put(self, batch: Batch) -> None:
        """Queue a batch, or count it as dropped. Called by the thread that reads the network."""
        events = len(batch)
        size = events * 32 + len(batch.block) + OVERHEAD
        with self._lock:
            if not self._open:
                self.late += events
                return
            self.delivered += events
            if self.queued + size <= self._limit:
                self._append(batch, size)
                return
        self._overflow(batch, size)

    def _append(self, batch: Batch, size: int) -> None:
        self._queue.append((batch, size))
        self.bytes += size
        self.queued += size
        if self.queued > self.high_water:
            self.high_water = self.queued
        if self.queued >= self.wake_bytes:
            self._wake.set()

    def _overflow(self, batch: Batch, size: int) -> None:
        records = batch.records
        update = records["kind"] <= Kind.READ
        slots = records["slot"][update]
        slots = slots[slots < self._size]
        control = pick(records, ~update & (records["kind"] != Kind.PROPERTY))
        other = len(records) - len(slots)
        with self._lock:
            np.add.at(self.dropped, slots, np.uint64(1))
            self.dropped_bytes += size
            room = self._limit + RESERVE - self.queued
            if len(control) and control.nbytes + OVERHEAD <= room:
                self._append(Batch(control), control.nbytes + OVERHEAD)
                other -= len(control)
            self.dropped_other += other

    def take(self, limit: int) -> tuple[list[Batch], int]:
        """The oldest batches, of about `limit` bytes together, and their bytes, to `release` later."""
        batches: list[Batch] = []
        size = 0
        with self._lock:
            while self._queue and (not batches or size + self._queue[0][1] <= limit):
                batch, bytes_ = self._queue.popleft()
                batches.append(batch)
                size += bytes_
        return batches, size

    def release(self, size: int) -> None:
        """The writer is done with so many bytes."""
        with self._lock:
            self.queued -= size
            if self.queued < self.wake_bytes:
                self._wake.clear()

    def wait(self, timeout: float) -> None:
        """Wait for a good amount of work, `wake`, or the timeout in seconds."""
        self._wake.wait(timeout)

    def wake(self) -> None:
        """Let `wait` return at once."""
        self._wake.set()

    def close(self) -> None:
        """Take nothing more: what comes is counted as late."""
        with self._lock:
            self._open = False
        self._wake.set()

    def drops(self) -> tuple[npt.NDArray[Any], int]:
        """What was dropped so far: updates by slot (a copy), and other events."""
        with self._lock:
            return self.dropped.copy(), self.dropped_other

    def __len__(self) -> int:
        return len(self._queue)
