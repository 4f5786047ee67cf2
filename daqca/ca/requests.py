"""The outstanding gets and puts of one CA client, in a ring of columns.

Nothing is sent here; which channels and subscriptions there are is in `channels`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from daqca.ca.channels import NO_CIRCUIT, U1, SlotIndex, Slots, Table
from daqca.ca.protocol import U4
from daqca.errors import DaqcaError
from daqca.link import AUTO

MAX_STEPS = 8
"""So often new requests step over old ones before the ring grows."""


class RequestKind(IntEnum):
    """What an outstanding request is."""

    FREE = 0
    READ = 1
    WRITE = 2


class Requests(Table):
    """Outstanding gets and puts, in a ring: request `id` is at row ``id & (capacity - 1)``.

    Ids count up and wrap at 2**32. A row is found without a search, for one id or a column of them.
    """

    id: U4
    slot: U4
    circuit: npt.NDArray[np.uint16]
    kind: U1
    dbr_type: U1
    count: U4

    COLUMNS: ClassVar = {
        "id": (np.uint32, 0),
        "slot": (np.uint32, 0),
        "circuit": (np.uint16, NO_CIRCUIT),  # NO_CIRCUIT: waits for its channel to connect
        "kind": (np.uint8, RequestKind.FREE),
        "dbr_type": (np.uint8, AUTO),
        "count": (np.uint32, 0),
    }

    def __init__(self) -> None:
        super().__init__(capacity=1024)
        self._next = 1
        self.waiting = SlotIndex()
        """Requests that wait for their channel, by slot."""

    def add_one(self, slot: int, kind: int, circuit: int, dbr_type: int = AUTO, count: int = 0) -> int:
        """One request; returns its id. The fast path of a single get or put."""
        id_ = self._next
        row = id_ & (self.capacity - 1)
        if self.kind[row]:
            id_ = self._make_room(1)
        self._next = id_ + 1 if id_ < 0xFFFFFFFF else 1
        self._fill(id_, slot, kind, circuit, dbr_type, count)
        return id_

    def take_id(self) -> int:
        """An id for a request that is in no row, unless it is to be adopted later."""
        id_ = self._next
        if self.kind[id_ & (self.capacity - 1)]:
            id_ = self._make_room(1)
        self._next = id_ + 1 if id_ < 0xFFFFFFFF else 1
        return id_

    def adopt(self, id_: int, slot: int, kind: int, circuit: int, dbr_type: int, count: int) -> None:
        """A request that was made with `take_id` is outstanding after all."""
        while self.kind[id_ & (self.capacity - 1)]:
            self._double(1)
        self._fill(id_, slot, kind, circuit, dbr_type, count)

    def _fill(self, id_: int, slot: int, kind: int, circuit: int, dbr_type: int, count: int) -> None:
        row = id_ & (self.capacity - 1)
        self.id[row] = id_
        self.slot[row] = slot
        self.circuit[row] = circuit
        self.kind[row] = kind
        self.dbr_type[row] = dbr_type
        self.count[row] = count

    def add(self, slots: Slots, kind: int, dbr_type: int = AUTO, count: int = 0) -> U4:
        """One request for each slot, none on a circuit yet; returns their ids, consecutive."""
        n = len(slots)
        first = self._make_room(n)
        self._next = first + n
        ids = np.arange(first, first + n, dtype=np.uint32)
        begin = first & (self.capacity - 1)
        wraps = begin + n > self.capacity
        rows = ids & np.uint32(self.capacity - 1) if wraps else slice(begin, begin + n)
        self.id[rows] = ids
        self.slot[rows] = slots
        self.circuit[rows] = NO_CIRCUIT
        self.kind[rows] = kind
        self.dbr_type[rows] = dbr_type
        self.count[rows] = count
        return ids

    def row(self, id_: int) -> int:
        """The row of an outstanding request, or -1."""
        row = id_ & (self.capacity - 1)
        return row if self.kind[row] and self.id[row] == id_ else -1

    def rows(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The rows of the ids that are outstanding; the others are left out."""
        rows = ids.astype(np.int64) & (self.capacity - 1)
        outstanding: npt.NDArray[np.int64] = rows[(self.kind[rows] != 0) & (self.id[rows] == ids)]
        return outstanding

    def release(self, rows: npt.NDArray[np.integer] | int) -> None:
        """These requests were answered, failed or given up."""
        self.kind[rows] = RequestKind.FREE

    def on_circuit(self, circuit: int) -> npt.NDArray[np.int64]:
        """Rows of the requests that were sent on this circuit and are not answered."""
        return np.flatnonzero((self.kind != 0) & (self.circuit == circuit))

    def _make_room(self, n: int) -> int:
        """The first of `n` ids whose rows are free: ids in use are stepped over, or the ring grows."""
        steps = 0
        while True:
            if self._next + n > 0xFFFFFFFF:
                self._next = 1
            begin = self._next & (self.capacity - 1)
            if n <= self.capacity:
                window, wrapped = self.kind[begin : begin + n], self.kind[: max(begin + n - self.capacity, 0)]
                if not window.any() and not wrapped.any():
                    return self._next
                # A few old requests, that wait for what is never found, must not make the ring grow for ever.
                if steps < MAX_STEPS and np.count_nonzero(self.kind) <= self.capacity // 8:
                    steps += 1
                    self._next += int(np.flatnonzero(np.concatenate((window, wrapped)))[-1]) + 1
                    continue
            if self.capacity >= 1 << 28:
                raise DaqcaError(f"{self.capacity} requests are outstanding: the servers do not answer")
            self._double(n)

    def _double(self, n: int) -> None:
        old = {name: getattr(self, name) for name in self.COLUMNS}
        used = np.flatnonzero(old["kind"])
        capacity = self.capacity
        while capacity < max(n, 2 * self.capacity):
            capacity *= 2
        self.capacity = capacity
        rows = old["id"][used] & np.uint32(capacity - 1)
        for name, (dtype, fill) in self.COLUMNS.items():
            column = np.full(capacity, fill, dtype)
            column[rows] = old[name][used]
            setattr(self, name, column)
