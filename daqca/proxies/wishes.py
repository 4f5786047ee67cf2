"""Which slots the PVs of one engine want monitored, with which masks; and so which monitors begin and end.

Who made the PVs and who is told of updates is in `watch`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import daqca.ca as ca
from daqca.events import Kind, Records, different
from daqca.link import METADATA
from daqca.proxies.first import STEP, FirstValues, Repeats
from daqca.proxies.users import Users
from daqca.reading import UNKNOWN_TYPE

if TYPE_CHECKING:
    from daqca.proxies.calling import CallingProxy
    from daqca.proxies.watch import Watch

Slots = npt.NDArray[np.uint32]


class Wishes:
    """What the PVs of a watch want monitored.

    Attributes
    ----------
    first
        The values that are read ahead of monitors.
    repeats
        The updates that would say them again; used under the engine's lock.
    users
        By mask: who wants what.
    """

    def __init__(self, watch: Watch):
        self._watch = watch
        self._engine = watch.engine
        self.first = FirstValues(watch.engine, self._answered)
        self.repeats = Repeats()
        self.users: dict[int, Users] = {}
        self._is_beginning = False

    def grow(self, capacity: int) -> None:
        """Make room. The caller holds the engine's lock."""
        self.first.grow(capacity)
        for users in self.users.values():
            users.grow(capacity)

    def add(self, pvs: Sequence[CallingProxy], slots: Slots, wants_values: npt.NDArray[np.bool_]) -> None:
        """New PVs want what they want.

        Parameters
        ----------
        wants_values
            Whose slots have callbacks that want every value, shape (n,).
        """
        masks = np.array([pv._mask for pv in pvs], np.uint16)
        read = self.first.ask(different(slots[(masks != 0) & ~wants_values]))
        try:
            self._count(pvs, slots, masks)
        except BaseException:
            self.first.forget(read)
            raise

    def _count(self, pvs: Sequence[CallingProxy], slots: Slots, masks: npt.NDArray[np.uint16]) -> None:
        if_short = np.array([pv._if_short for pv in pvs])
        has_metadata = np.array([pv._has_metadata for pv in pvs])
        wishes = [(slots[has_metadata], METADATA, False)]  # first: callbacks need them
        for mask in different(masks[masks != 0]).tolist():
            wishes += [(slots[(masks == mask) & (if_short == short)], mask, short) for short in (True, False)]
        done: list[tuple[Slots, int, bool]] = []
        try:
            for wish in wishes:
                if len(wish[0]):
                    self.want(*wish, 1)
                    done.append(wish)
        except BaseException:
            for wish in done:
                self.want(*wish, -1)
            raise

    def want(self, slots: Slots, mask: int, if_short: bool, change: int) -> None:
        """One more (or less) wants these slots monitored; a slot may occur more than once."""
        with self._watch.beginning:
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
        for mask, users in self.users.items():
            inside = slots[slots < len(users.if_short)]
            asked = different(inside[(users.if_short[inside] > 0) | (users.always[inside] > 0)])
            if len(asked):
                self._settle(mask, users, asked)

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

    # --- what is read first ---------------------------------------------------------------------

    def connected(self, records: Records) -> Slots:
        """Channels are connected; returns those whose monitors begin now. The caller holds the engine's lock."""
        slots = records["slot"]
        self.first.forget(slots[records["count"] != 1])  # one element is no array
        return self.first.but(slots)

    def await_first(self, slot: int, timeout: float) -> None:
        """Wait for a value that is read first, at most `timeout` seconds; there may be none on its way."""
        if self.first.is_coming(slot):
            self._watch.wait_for(lambda: not self.first.is_coming(slot), timeout)

    def _answered(self, slots: Slots) -> None:
        """First values have come; called under the engine's lock."""
        if not self._is_beginning:
            self._is_beginning = True
            self._watch.later(self._begin_monitors)
        self._watch.were_read(slots)

    def _begin_monitors(self) -> None:
        """The monitors that were put off begin."""
        if not self.first.has_paused():
            time.sleep(STEP)
            self._watch.later(self._begin_monitors)  # what else there is to do comes first
            return
        with self._watch.beginning:
            self._is_beginning = False
            slots = self.first.answered()
            masks = [mask for mask in self.users if mask != METADATA]
            with self._engine.lock:
                table = self._engine.table
                self.repeats.expect(table.last[slots[table.kinds[slots] == Kind.READ]], masks, table.capacity)
            self.settle(slots)
            self.first.forget(slots)
            # What is not monitored after all, nobody will keep up to date.
            is_on = [self.users[mask].is_on[slots] for mask in masks]
            self._engine.forget_reads(slots[~np.logical_or.reduce(is_on)])
            with self._engine.lock:
                for mask, on in zip(masks, is_on, strict=True):
                    self.repeats.forget(slots[~on], mask)
