"""The first values of many new PVs, read ahead of their monitors.

A server takes several times as long to begin a subscription as to answer a get, and does one after the other. So where
many PVs are made together, what they are to monitor is read first, as soon as each is connected, and the monitors begin
when the answers pause. PVs whose callbacks want every value are not read: their monitors tell the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daqca.events import Batch, Kind, Records, grown, has_block, pick
from daqca.link import AUTO
from daqca.operations import Operation

if TYPE_CHECKING:
    from daqca.engine import Engine

Slots = npt.NDArray[np.uint32]

_READ = int(Kind.READ)
MANY = 100
"""So many PVs at least are read first; for fewer it is not worth a request more."""
PAUSE, STEP, LONGEST = 0.02, 0.002, 0.5
"""Seconds without an answer after which monitors begin though some are missing, between two looks, and that monitors
wait at most while answers pour in."""
GUARD = 10.0
"""Seconds for which repetitions are looked for: longer than any is under way."""


class FirstValues:
    """The first values of the PVs of one engine.

    Parameters
    ----------
    engine
        The engine.
    on_answer
        Called with slots that were answered, under the engine's lock.

    Attributes
    ----------
    is_awaited
        Which slots are read first, and not monitored yet.
    """

    def __init__(self, engine: Engine, on_answer: Callable[[Slots], None]):
        self._engine = engine
        self._on_answer = on_answer
        self.is_awaited: npt.NDArray[np.bool_] = np.zeros(engine.table.capacity, np.bool_)
        self._left = 0
        # How much was left when it was last looked, and until when is waited for more, and for all.
        self._seen, self._quiet, self._end = -1, 0.0, 0.0
        self._answered: list[Slots] = []

    def grow(self, capacity: int) -> None:
        """Make room. The caller holds the engine's lock."""
        self.is_awaited = grown(self.is_awaited, capacity)

    def ask(self, slots: Slots) -> Slots:
        """Read these slots, once they are connected, if they are many.

        Returns
        -------
        Those that are read: not those that have a value, or are read already.
        """
        slots = self.but(slots[self._engine.table.kinds[slots] == 0])
        if len(slots) < MANY:
            return slots[:0]

        def reads(part: npt.NDArray[np.int64]) -> _Reads:
            with self._engine.lock:
                self._left += len(part)
            return _Reads(self, slots[part])

        self.is_awaited[slots] = True
        try:
            # One element of an array is not its value, and is not used.
            self._engine.begin_reads(slots, reads, AUTO, 1)
        except BaseException:
            self.forget(slots)
            raise
        return slots

    def forget(self, slots: Slots) -> None:
        """These slots are not waited for any more."""
        self.is_awaited[slots] = False

    def but(self, slots: Slots) -> Slots:
        """Those of these slots that are not awaited: their monitors may begin and end."""
        return slots[~self.is_awaited[slots]]

    def is_coming(self, slot: int) -> bool:
        """Whether the value of a slot is still to come."""
        return self.is_awaited.item(slot) and not self._engine.table.kinds.item(slot)

    def take(self, slots: Slots, records: Records, batch: Batch) -> None:
        """Answers came: keep the values. The caller holds the engine's lock."""
        table = self._engine.table
        self._left -= len(slots)
        is_value = self.is_awaited[slots] & (records["kind"] == _READ) & (table.kinds[slots] == 0)
        is_value &= table.native_count[slots] == 1
        if is_value.any():
            table.values(pick(records, is_value), batch)
        self.forget(slots[~is_value])  # who asks for these is to hear it from the server
        self._answered.append(slots)
        self._on_answer(slots)

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

    def answered(self) -> Slots:
        """What was answered since the last time: when its monitors have begun, it is to be forgotten here."""
        with self._engine.lock:
            answered, self._answered = self._answered, []
        return np.concatenate(answered) if answered else np.zeros(0, np.uint32)


class Repeats:
    """Which updates would say again what was read first: the first of each monitor, unless the value has changed.

    Used under the engine's lock.
    """

    def __init__(self) -> None:
        self._columns: dict[int, npt.NDArray[np.bool_]] = {}
        """By mask: whose first update is to come."""
        self._left = 0
        self._until = 0.0
        self._stamps: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._values: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)

    def __bool__(self) -> bool:
        return self._left > 0

    def expect(self, records: Records, masks: list[int], capacity: int) -> None:
        """Monitors are about to begin with these masks, of slots of which these records were read."""
        slots = records["slot"]
        self._until = time.monotonic() + GUARD
        self._stamps, self._values = grown(self._stamps, capacity), grown(self._values, capacity)
        self._stamps[slots], self._values[slots] = records["timestamp"], records["value"].view(np.uint64)
        for mask in masks:
            column = self._columns[mask] = grown(self._columns.get(mask, np.zeros(0, np.bool_)), capacity)
            self._left += len(slots) - int(np.count_nonzero(column[slots]))
            column[slots] = True

    def forget(self, slots: Slots, mask: int | None = None) -> None:
        """Whatever comes of these is news (with one mask, or with any)."""
        for own, column in self._columns.items():
            if mask in (None, own):
                inside = slots[slots < len(column)]
                self._left -= int(np.count_nonzero(column[inside]))
                column[inside] = False

    def found(self, records: Records) -> npt.NDArray[np.bool_]:
        """Which of these UPDATE events are repetitions, shape (n,)."""
        repeated = np.zeros(len(records), np.bool_)
        if time.monotonic() > self._until:  # a monitor that tells nothing: perhaps it may not be read any more
            self._columns.clear()
            self._left = 0
            return repeated
        slots, tokens, is_number = records["slot"], records["token"], ~has_block(records)
        for mask, column in self._columns.items():
            mine = (tokens == mask) & (slots < len(column))
            places = np.where(mine, slots, 0)
            mine &= column[places]
            if mine.any():
                same = records["timestamp"] == self._stamps[places]
                same &= ~is_number | (records["value"].view(np.uint64) == self._values[places])
                repeated |= mine & same
                self.forget(slots[mine], mask)
        return repeated


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

    def accept_row(self, place: int, row: tuple[Any, ...], batch: Batch) -> None:
        """See `Operation.accept_row`."""
        self._first.take(self._slots[place : place + 1], Batch(rows=[row]).records, batch)
