"""Which clients of a worker use which channels and subscriptions: everything is opened once and counted.

Only bookkeeping: the context is asked by whoever calls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from daqca.events import different, grown

Slots = npt.NDArray[np.uint32]

NONE = 0xFFFFFFFF
"""A slot, or the id of a subscription, that is none."""


class Client:
    """One client of a worker.

    Attributes
    ----------
    slots
        The worker's slots of its channels, by the client's own numbers; `NONE` for numbers that it has not used.
    end
        One more than the highest number it has used.
    masks
        What it is subscribed to: for each mask a column by the client's numbers.
    """

    def __init__(self, id_: bytes):
        self.id = id_
        self.end = 0
        self.slots: Slots = np.full(64, NONE, np.uint32)
        self.masks: dict[int, npt.NDArray[np.bool_]] = {}

    def add(self, first: int, slots: Slots) -> None:
        """It has added channels, numbered from `first` on."""
        end = first + len(slots)
        self.slots = grown(self.slots, end, NONE)
        self.slots[first:end] = slots
        self.end = max(self.end, end)

    def known(self) -> Slots:
        """The worker's slots of all its channels."""
        slots = self.slots[: self.end]
        used: Slots = slots[slots != NONE]
        return used

    def is_subscribed(self, mask: int) -> npt.NDArray[np.bool_]:
        """Which of its channels it is subscribed to with `mask`; may be changed in place."""
        column = grown(self.masks.get(mask, np.zeros(0, np.bool_)), max(self.end, 1), False)
        self.masks[mask] = column
        return column

    def subscribed(self, mask: int) -> Slots:
        """The worker's slots of what it is subscribed to with `mask`."""
        numbers = np.flatnonzero(self.is_subscribed(mask)[: self.end])
        return self.slots[numbers]


class SharedNames:
    """The names that are open, and how many clients use each."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._users: npt.NDArray[np.uint32] = np.zeros(64, np.uint32)

    def __len__(self) -> int:
        return len(self._slots)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of the names that are not open, each once."""
        known = self._slots
        return [name for name in dict.fromkeys(names) if name not in known]

    def opened(self, names: Sequence[str], slots: Slots) -> None:
        """These names are open now, under these slots."""
        self._slots.update(zip(names, slots.tolist(), strict=True))
        self._users = grown(self._users, int(slots.max(initial=0)) + 1, 0)

    def use(self, names: Sequence[str]) -> Slots:
        """One more client uses these names, which are open; returns their slots, shape (n,)."""
        slots = np.fromiter(map(self._slots.__getitem__, names), np.uint32, len(names))
        np.add.at(self._users, slots, 1)
        return slots

    def release(self, slots: Slots, names: Sequence[str]) -> Slots:
        """A client uses these slots no more; returns those that nobody uses now. They are forgotten.

        Parameters
        ----------
        names
            Of all slots, by slot.
        """
        np.subtract.at(self._users, slots, 1)
        unused: Slots = different(slots)
        unused = unused[self._users[unused] == 0]
        for slot in unused.tolist():
            del self._slots[names[slot]]
        return unused


class SharedSubscriptions:
    """The subscriptions of one mask: their ids in the context, and how many clients use each, by slot."""

    def __init__(self) -> None:
        self._ids: npt.NDArray[np.uint32] = np.full(64, NONE, np.uint32)
        self._users: npt.NDArray[np.uint32] = np.zeros(64, np.uint32)

    def use(self, slots: Slots) -> tuple[Slots, Slots]:
        """One more client wants these; returns those that are new, and those that are there already."""
        needed = int(slots.max(initial=0)) + 1
        self._ids = grown(self._ids, needed, NONE)
        self._users = grown(self._users, needed, 0)
        self._users[slots] += 1
        there = self._ids[slots] != NONE
        return slots[~there], slots[there]

    def opened(self, slots: Slots, ids: npt.NDArray[np.uint32]) -> None:
        """The context gave these ids to new subscriptions."""
        self._ids[slots] = ids

    def release(self, slots: Slots) -> npt.NDArray[np.uint32]:
        """A client wants these no more; returns the ids of those that nobody wants now. They are forgotten."""
        self._users[slots] -= 1
        unused = slots[self._users[slots] == 0]
        ids: npt.NDArray[np.uint32] = self._ids[unused]
        self._ids[unused] = NONE
        return ids
