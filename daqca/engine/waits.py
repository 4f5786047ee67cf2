"""Waiting for many answers at once, with progress on the calling thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from daqca.engine.table import ChannelState, Table
from daqca.operations import Waiter

Progress = Callable[[int, int], None]
"""Told ``(done, total)``."""

_CONNECTED = int(ChannelState.CONNECTED)
LULL = 0.005
"""Seconds without an answer after which somebody who wants to hear of the progress is told."""
STEP = 0.1
"""The longest time in seconds without a look, and the shortest between two calls while answers pour in."""


class ConnectWait(Waiter):
    """Done when every one of these slots is connected."""

    __slots__ = ("_slots", "_table")

    def __init__(self, slots: npt.NDArray[np.uint32], table: Table):
        super().__init__()
        self._slots = slots
        self._table = table

    def missing(self) -> int:
        """How many are not connected."""
        return int((self._table.state[self._slots] != _CONNECTED).sum())

    def look(self) -> None:
        """Channels changed: see if all are connected. The caller holds the engine's lock."""
        if not self.missing():
            self.complete()


def wait_all(
    waits: Sequence[Waiter],
    timeout: float,
    done: Callable[[], int],
    total: int,
    progress: Progress | None = None,
    more: Callable[[], None] | None = None,
) -> None:
    """Wait for operations, or until `timeout` seconds are over.

    Parameters
    ----------
    waits
        What to wait for.
    done, total
        How many answers there are, and are to be.
    progress
        Called with them now and then, and at the end.
    more
        Called when there are more answers than at the last call, but not at the end.
    """
    deadline = time.monotonic() + timeout
    teller = None if progress is None and more is None else _Teller(done, total, progress, more)
    for waiter in waits:
        while not waiter.done:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            waiter.wait(left if teller is None else min(left, teller.step))
            if teller is not None and not waiter.done:
                teller.look()
    if progress is not None:
        progress(done(), total)


class _Teller:
    """Tells of new answers when they pause, and every `STEP` while they do not."""

    def __init__(self, done: Callable[[], int], total: int, progress: Progress | None, more: Callable[[], None] | None):
        self.step = LULL
        self._done, self._total, self._progress, self._more = done, total, progress, more
        self._seen = self._told = 0
        self._when = time.monotonic()

    def look(self) -> None:
        """See what is new, and decide when to look again."""
        now, seen = time.monotonic(), self._done()
        paused = seen == self._seen
        self._seen = seen
        if seen != self._told and (paused or now - self._when >= STEP):
            self._told, self._when = seen, now
            if self._progress is not None:
                self._progress(seen, self._total)
            if self._more is not None:
                self._more()
        self.step = min(2 * self.step, STEP) if paused else LULL
