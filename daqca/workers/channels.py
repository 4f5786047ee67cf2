"""What a link knows of its channels: their slots at the worker, what they are, and which are connected."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from daqca.events import ALL_SLOTS, EVENT, Kind, Reason, Records, grown
from daqca.workers.sharing import NONE, Slots

_FIRST_STATE, _LAST_STATE = int(Kind.CONNECTED), int(Kind.ACCESS)


class LinkChannels:
    """The channels of one link, in columns by the link's slots, which count from 0 and are never used again.

    Attributes
    ----------
    names
        By slot.
    connected
        Which are connected, as told by the worker.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.connected: npt.NDArray[np.bool_] = np.zeros(64, np.bool_)
        self._native_type: npt.NDArray[np.uint8] = np.zeros(64, np.uint8)
        self._native_count: npt.NDArray[np.uint32] = np.zeros(64, np.uint32)
        self._access: npt.NDArray[np.uint8] = np.zeros(64, np.uint8)
        self._from_worker: Slots = np.full(64, NONE, np.uint32)
        self._is_identity = True
        self._located = 0

    def __len__(self) -> int:
        return len(self.names)

    def add(self, names: Sequence[str]) -> Slots:
        """New channels; returns their slots, shape (n,)."""
        slots = np.arange(len(self.names), len(self.names) + len(names), dtype=np.uint32)
        self.names.extend(names)
        end = len(self.names)
        self.connected = grown(self.connected, end, False)
        self._native_type = grown(self._native_type, end, 0)
        self._native_count = grown(self._native_count, end, 0)
        self._access = grown(self._access, end, 0)
        return slots

    # --- the worker's slots ---------------------------------------------------------------------

    def forget_worker(self) -> None:
        """Another worker comes, which counts anew."""
        self._from_worker[:] = NONE
        self._is_identity = True
        self._located = 0

    def locate(self, first: int, worker_slots: Slots) -> None:
        """The worker keeps our channels from `first` on in these slots of its own."""
        worker_slots = worker_slots[: max(len(self.names) - first, 0)]
        ours = np.arange(first, first + len(worker_slots), dtype=np.uint32)
        self._is_identity &= first <= self._located and bool((ours == worker_slots).all())
        self._located = max(self._located, first + len(ours))
        self._from_worker = grown(self._from_worker, int(worker_slots.max(initial=0)) + 1, NONE)
        self._from_worker[worker_slots] = ours

    def ours(self, records: Records, is_shared: bool) -> Records:
        """The events with our slots, less those of channels that are not ours."""
        slots = records["slot"]
        if self._is_identity and not is_shared and (not len(slots) or int(slots.max()) < self._located):
            return records
        known = slots < len(self._from_worker)
        mapped = np.where(known, self._from_worker[np.where(known, slots, 0)], NONE)
        mine = mapped != NONE
        records = records[mine] if not mine.all() else records.copy()
        records["slot"] = mapped[mine]
        return records

    # --- their state ----------------------------------------------------------------------------

    def take_states(self, records: Records) -> Records:
        """Take note of connections, disconnections and access rights, oldest first.

        Returns
        -------
        The events, less the disconnections of channels that were not connected.
        """
        kinds = records["kind"]
        states = (kinds >= _FIRST_STATE) & (kinds <= _LAST_STATE)
        if not states.any():
            return records
        rows = np.flatnonzero(states)
        slots, kinds = records["slot"][rows], kinds[rows]
        connects, ends = kinds == Kind.CONNECTED, kinds == Kind.DISCONNECTED
        empty = ends & ~self.connected[slots]
        if empty.any():
            empty &= ~np.isin(slots, slots[connects])
        # Where a slot occurs twice, the later event wins: NumPy assigns in order.
        told = records[rows[connects]]
        self._native_type[slots[connects]] = told["dbr_type"]
        self._native_count[slots[connects]] = told["count"]
        self._access[slots[~ends]] = records["status"][rows[~ends]]
        changes = connects | ends
        self.connected[slots[changes]] = connects[changes]
        return np.delete(records, rows[empty]) if empty.any() else records

    def disconnect(self, reason: Reason) -> tuple[Slots, Records]:
        """Every connected channel is lost; returns their slots, and the events that tell it."""
        slots = np.flatnonzero(self.connected[: len(self.names)]).astype(np.uint32)
        self.connected[:] = False
        records = _events(slots, Kind.DISCONNECTED)
        records["status"] = reason
        return slots, records

    def reconnect(self, slots: Slots) -> Records:
        """Channels that were lost are back as they were; returns the events that tell it."""
        self.connected[slots] = True
        records = _events(slots, Kind.CONNECTED)
        records["dbr_type"] = self._native_type[slots]
        records["count"] = self._native_count[slots]
        records["status"] = self._access[slots]
        return records


def lost_event(events: int) -> Records:
    """The event that tells that events of a shard were lost."""
    records = np.zeros(1, EVENT)
    records["slot"] = ALL_SLOTS
    records["kind"] = Kind.LOST
    records["count"] = min(events, 0xFFFFFFFF)
    records["timestamp"] = time.time_ns()
    return records


def _events(slots: Slots, kind: int) -> Records:
    records = np.zeros(len(slots), EVENT)
    records["slot"] = slots
    records["kind"] = kind
    records["timestamp"] = time.time_ns()
    return records
