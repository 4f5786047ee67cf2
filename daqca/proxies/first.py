"""The first values of many new PVs, read ahead of their monitors.

A server takes several times as long to begin a subscription as to answer a get, and does one after the other. So where
many PVs are made together, what they are to monitor is read first, as soon as each is connected, and the monitors begin
when the answers pause. It is no more than a short cut: a PV that has callbacks, or of which anything else is wanted
meanwhile, is monitored at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from daqca.engine.table import ChannelState
from daqca.events import Batch, Kind, Records, grown, pick
from daqca.link import AUTO
from daqca.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from daqca.engine import Engine

Slots = npt.NDArray[np.uint32]

_READ, _STRING = int(Kind.READ), 0
_CONNECTED = int(ChannelState.CONNECTED)
MANY = 100
"""So many PVs at least are read first; for fewer it is not worth a request more."""
PAUSE, STEP, LONGEST = 0.02, 0.002, 0.5
"""Seconds without an answer after which monitors begin though some are missing, between two looks, and that monitors
wait at most while answers pour in."""
HOLD = 10.0
"""Seconds that what was read counts after its monitor was asked for, which should tell it much sooner."""


class FirstValues:
    """The first values of the PVs of one engine.

    Parameters
    ----------
    engine
        The engine.
    on_answer
        Called with slots whose values have come, under the engine's lock.

    Attributes
    ----------
    is_awaited
        Which slots are read first, and not monitored yet.
    """

    def __init__(self, engine: Engine, on_answer: Callable[[Slots], None]):
        self._engine = engine
        self._on_answer = on_answer
        self.is_awaited: npt.NDArray[np.bool_] = np.zeros(engine.table.capacity, np.bool_)
        self._holds_until = 0.0
        self._left = 0
        # How much was left when it was last looked, and until when is waited for more, and for all.
        self._seen, self._quiet, self._end = -1, 0.0, 0.0

    def grow(self, capacity: int) -> None:
        """Make room. The caller holds the engine's lock."""
        self.is_awaited = grown(self.is_awaited, capacity)

    def ask(self, slots: Slots) -> None:
        """Read these slots, which nobody monitors, once they are connected, if they are many that have no value yet."""
        slots = slots[self._engine.table.kinds[slots] == 0]
        if len(slots) < MANY:
            return

        def reads(part: npt.NDArray[np.int64]) -> _Reads:
            with self._engine.lock:
                self._left += len(part)
            return _Reads(self, slots[part])

        with self._engine.lock:
            self.is_awaited[slots] = True
        self._engine.begin_reads(slots, reads, AUTO, 1)  # one element of an array is not its value, and is not used

    def but(self, slots: Slots) -> Slots:
        """Those of these slots that are not awaited: their monitors may begin and end."""
        return slots[~self.is_awaited[slots]]

    def stop(self, slots: Slots) -> Slots:
        """Await these slots no more; returns those that were awaited, whose monitors are to begin."""
        with self._engine.lock:
            stopped = slots[self.is_awaited[slots]]
            self.is_awaited[stopped] = False
        return stopped

    def is_coming(self, slot: int) -> bool:
        """Whether the value of a slot is still to come."""
        return self.is_awaited.item(slot) and not self._engine.table.kinds.item(slot)

    def holds(self, slot: int) -> bool:
        """Whether what was read of a slot counts, though no monitor has told it."""
        return self.is_awaited.item(slot) or time.monotonic() < self._holds_until

    def take(self, slots: Slots, records: Records, batch: Batch) -> None:
        """Answers came: keep the values. The caller holds the engine's lock."""
        table = self._engine.table
        self._left -= len(slots)
        is_value = self.is_awaited[slots] & (records["kind"] == _READ) & (table.kinds[slots] == 0)
        is_value &= (table.native_count[slots] == 1) & (table.state[slots] == _CONNECTED)
        is_value &= (table.native_type[slots] == _STRING) == (records["dbr_type"] == _STRING)
        if is_value.any():
            table.values(pick(records, is_value), batch)
            self._on_answer(slots[is_value])

    def has_paused(self) -> bool:
        """Whether all is answered that was asked, or nothing was for a moment; to be asked now and then."""
        now = time.monotonic()
        if self._left != self._seen:
            self._seen, self._quiet = self._left, now + PAUSE
            self._end = self._end or now + LONGEST
        if self._left and now < min(self._quiet, self._end):
            return False
        self._seen, self._end = -1, 0.0
        return True

    def ready(self) -> Slots:
        """Those that are connected, answered or not: their monitors are to begin now."""
        self._holds_until = time.monotonic() + HOLD
        connected = self._engine.table.state[: len(self.is_awaited)] == _CONNECTED
        return np.flatnonzero(self.is_awaited & connected).astype(np.uint32)


class _Reads(Operation):
    """The reads of one shard."""

    __slots__ = ("_first", "_slots")

    def __init__(self, first: FirstValues, slots: Slots):
        super().__init__(len(slots))
        self._first = first
        self._slots = slots

    def accept(self, places: npt.NDArray[np.int64], records: Records, batch: Batch) -> None:
        """See `Operation.accept`."""
        self._first.take(self._slots[places], records, batch)
