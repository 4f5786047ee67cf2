"""After a put was confirmed, no value from before it is taken for the newest.

A server answers puts and gets on one way and sends the updates of monitors on another. So when a put is confirmed, the
update it made may be still to come, and older ones before it. Until a get has asked for the value, what monitors
told is in doubt; and what they tell after that is passed over, if its timestamp is from before.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from daqca.events import Records, pick

GUARD = 10.0
"""Seconds for which late updates are looked for: longer than any is under way."""


class Doubts:
    """Which PVs' last values are in doubt, and what is known of them since. Under the engine's lock, but for `serial`.

    Attributes
    ----------
    guards
        By slot: the timestamp in ns of the value that was asked for, and until when (``time.monotonic``) it counts.
    slots
        Those in doubt, each with the number of its doubt.
    """

    def __init__(self) -> None:
        self.guards: dict[int, tuple[int, float]] = {}
        self.slots: dict[int, int] = {}
        self._count = 0

    def serial(self, slot: int) -> int | None:
        """Which doubt there is about the last value of a PV; None: there is none."""
        return self.slots.get(slot)

    def __bool__(self) -> bool:
        return bool(self.slots)

    def doubt(self, slot: int) -> None:
        """A put was confirmed."""
        self._count += 1
        self.slots[slot] = self._count

    def doubted(self, slots: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which of these are in doubt, shape (n,)."""
        return np.isin(slots, np.fromiter(self.slots, np.uint32, len(self.slots)))

    def settle(self, slot: int, timestamp: int, serial: int | None) -> None:
        """A value was asked for, when the doubt was `serial`, and it is of this time in ns."""
        if self.slots.get(slot) == serial:
            self.slots.pop(slot, None)
        self.guards[slot] = (timestamp, time.monotonic() + GUARD)

    def forget(self, slots: npt.NDArray[np.uint32]) -> None:
        """These have connected anew: nothing is under way of them."""
        if self.slots or self.guards:
            for slot in slots.tolist():
                self.slots.pop(slot, None)
                self.guards.pop(slot, None)

    def sift(self, records: Records) -> Records:
        """Updates, less those that are older than what was asked for."""
        guards, now = self.guards, time.monotonic()
        for slot in [slot for slot, (_, end) in guards.items() if end < now]:
            del guards[slot]
        slots = records["slot"]
        guarded = np.isin(slots, np.fromiter(guards, np.uint32, len(guards)))
        late = np.zeros(len(records), np.bool_)
        timestamps = records["timestamp"]
        for row in np.flatnonzero(guarded).tolist():
            slot, timestamp = slots.item(row), timestamps.item(row)
            newest = guards[slot][0]
            if timestamp <= newest:
                # Late; or by a clock that was set back, or is too coarse, or of a record that was not processed: only
                # the server knows.
                late[row] = timestamp < newest
                self.doubt(slot)
        return pick(records, ~late) if late.any() else records
