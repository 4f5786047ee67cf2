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

STEP = 0.1
"""Seconds between two looks while somebody wants to hear of the progress."""


class ConnectWait(Waiter):
    """Done when every one of these slots is connected."""

    __slots__ = ("_slots", "_table")

    def __init__(self, slots: npt.NDArray[np.uint32], table: Table):
        super().__init__()
        self._slots = slots
        self._table = table

    def missing(self) -> int:
        """How many are not connected."""
        return int((self._table.state[self._slots] != ChannelState.CONNECTED).sum())

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
        Called when there are more answers than at the last call.
    """
    deadline = time.monotonic() + timeout
    told = 0
    stepwise = progress is not None or more is not None
    for waiter in waits:
        while not waiter.done:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            waiter.wait(min(left, STEP) if stepwise else left)
            if stepwise:
                now = done()
                if now != told:
                    told = now
                    if progress is not None:
                        progress(now, total)
                    if more is not None and not waiter.done:
                        more()
    if progress is not None:
        progress(done(), total)
