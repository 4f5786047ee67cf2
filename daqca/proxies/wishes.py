"""Which slots the PVs of one engine want monitored, with which masks; and so which monitors begin and end.

Who made the PVs and who is told of updates is in `watch`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import daqca.ca as ca
from daqca.events import Kind, different
from daqca.link import METADATA
from daqca.proxies.first import STEP, FirstValues
from daqca.proxies.users import Users
from daqca.reading import UNKNOWN_TYPE

if TYPE_CHECKING:
    from daqca.proxies.calling import CallingProxy
    from daqca.proxies.watch import Watch

Slots = npt.NDArray[np.uint32]
_UPDATE = int(Kind.UPDATE)
Wish = tuple[Slots, int, bool]
"""Slots, one for each PV, the mask, and whether only if they have few elements."""


class Wishes:
    """What the PVs of a watch want monitored.

    Attributes
    ----------
    first
        The values that are read ahead of monitors.
    users
        By mask: who wants what.
    """

    def __init__(self, watch: Watch):
        self._watch = watch
        self._engine = watch.engine
        self.first = FirstValues(watch.engine, watch.were_read)
        self.users: dict[int, Users] = {}
        self._is_beginning = False

    def grow(self, capacity: int) -> None:
        """Make room. The caller holds the engine's lock."""
        self.first.grow(capacity)
        for users in self.users.values():
            users.grow(capacity)

    def add(self, pvs: Sequence[CallingProxy], slots: Slots, is_quiet: npt.NDArray[np.bool_]) -> None:
        """New PVs want what they want.

        Parameters
        ----------
        is_quiet
            Whose slots nobody has wanted or listened to before, shape (n,).
        """
        masks = np.array([pv._mask for pv in pvs], np.uint16)
        self.hurry(different(slots))
        done: list[Wish] = []
        try:
            self.first.ask(different(slots[(masks != 0) & is_quiet]))
            for wish in _wishes(pvs, slots, masks):
                self._want(*wish, 1)
                done.append(wish)
        except BaseException:
            self.first.stop(slots)
            for wish in done:
                self._want(*wish, -1)
            raise

    def want(self, slots: Slots, mask: int, if_short: bool, change: int) -> None:
        """One more (or less) wants these slots monitored; a slot may occur more than once."""
        with self._watch.beginning:
            if mask != METADATA:
                self.hurry(slots)
            self._want(slots, mask, if_short, change)

    def hurry(self, slots: Slots) -> None:
        """Read these slots first no more, but monitor them as soon as may be. Any lock may be held but a link's."""
        stopped = self.first.stop(slots)
        if len(stopped):
            self._watch.later(partial(self.connected, stopped))

    def _want(self, slots: Slots, mask: int, if_short: bool, change: int) -> None:
        users = self.users.get(mask)
        if users is None:
            users = self.users[mask] = Users(self._engine.table.capacity)
        counts = users.if_short if if_short else users.always
        np.add.at(counts, slots, change)
        try:
            self._settle(mask, users, different(slots if mask == METADATA else self.first.but(slots)))
        except BaseException:
            np.subtract.at(counts, slots, change)
            raise

    def settle(self, slots: Slots) -> None:
        """Begin and end all monitors of these slots as they are wanted now."""
        if not len(slots):
            return
        slots = different(slots)
        is_on = np.zeros(len(slots), np.bool_)
        for mask, users in self.users.items():
            self._settle(mask, users, slots)
            if mask != METADATA:
                is_on |= users.is_on[slots]
        # What was read first and is not monitored after all, nobody will keep up to date.
        self._engine.forget_reads(slots[~is_on])

    def _settle(self, mask: int, users: Users, slots: Slots) -> None:
        table, feed = self._engine.table, self._watch.feed
        short = table.native_count[slots] < ca.AUTOMONITOR_MAXLENGTH
        short &= table.native_type[slots] != UNKNOWN_TYPE
        wanted = (users.always[slots] > 0) | ((users.if_short[slots] > 0) & short)
        begins, ends = wanted & ~users.is_on[slots], ~wanted & users.is_on[slots]
        if begins.any():
            feed.monitor(slots[begins], mask)
            users.is_on[slots[begins]] = True
        if ends.any():
            users.is_on[slots[ends]] = False
            feed.end(slots[ends], mask)

    def is_on(self, slot: int, mask: int) -> bool:
        """Whether a slot is monitored with this mask, or read first and then monitored with what is wanted."""
        users = self.users.get(mask)
        if users is None or slot >= len(users.is_on):
            return False
        return users.is_on.item(slot) or self.first.is_awaited.item(slot)

    def value(self, slot: int, timeout: float) -> tuple[Any, ...] | None:
        """What the monitor of a slot has told last, or was read just ahead of it: a row, see `Slotwise.last`.

        What is read just now is waited for, at most `timeout` seconds.
        """
        row = self._engine.last(slot)
        if row is None and self.first.is_coming(slot):
            self._watch.wait_for(lambda: not self.first.is_coming(slot), timeout)
            row = self._engine.last(slot)
        return row if row is None or row[1] == _UPDATE or self.first.holds(slot) else None

    def was_told(self, slot: int) -> bool:
        """Whether the monitor of a slot has told a value."""
        row = self._engine.last(slot)
        return row is not None and row[1] == _UPDATE

    # --- connections, and what is read first ----------------------------------------------------

    def connected(self, slots: Slots) -> None:
        """Channels are connected, and so one knows how long they are; on the watch's own thread."""
        with self._watch.beginning:
            now = self.first.but(slots)
            self.settle(now)
            if len(now) < len(slots) and not self._is_beginning:
                self._is_beginning = True
                self._watch.later(self._begin_monitors)

    def _begin_monitors(self) -> None:
        """The monitors that were put off begin."""
        if not self.first.has_paused():
            time.sleep(STEP)
            self._watch.later(self._begin_monitors)  # what else there is to do comes first
            return
        with self._watch.beginning:
            self._is_beginning = False
            slots = self.first.ready()
            try:
                self.settle(slots)
            finally:
                self.first.stop(slots)
        self._watch.wake()


def _wishes(pvs: Sequence[CallingProxy], slots: Slots, masks: npt.NDArray[np.uint16]) -> list[Wish]:
    """What these PVs want."""
    if_short = np.array([pv._if_short for pv in pvs], np.bool_)
    has_metadata = np.array([pv._has_metadata for pv in pvs], np.bool_)
    wishes = [(slots[has_metadata], METADATA, False)]  # first: callbacks need them
    for mask in different(masks[masks != 0]).tolist():
        wishes += [(slots[(masks == mask) & (if_short == short)], mask, short) for short in (True, False)]
    return [wish for wish in wishes if len(wish[0])]
