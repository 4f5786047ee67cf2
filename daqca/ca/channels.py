"""What one CA client holds, in columns: its channels and its subscriptions. Its requests are in `requests`.

Plain tables and their indices. No messages are parsed and nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from daqca.ca.protocol import U4, NameMessages, runs
from daqca.events import different
from daqca.link import AUTO

U1 = npt.NDArray[np.uint8]
Slots = npt.NDArray[np.uint32]

NO_CIRCUIT = 0xFFFF
UNKNOWN_TYPE = 255


def distinct(values: npt.NDArray[Any]) -> list[int]:
    """The different values of a column that is usually all one."""
    if not len(values):
        return []
    if (values == values[0]).all():
        return [int(values[0])]
    found: list[int] = different(values).tolist()
    return found


def all_different(ids: npt.NDArray[Any]) -> bool:
    """Whether no id is there twice; quick if they ascend, as they do unless a server is strange."""
    if len(ids) < 2 or bool((ids[1:] > ids[:-1]).all()):
        return True
    return len(different(ids)) == len(ids)


def is_first(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of the ids were not there before, shape (n,)."""
    found = np.zeros(len(ids), np.bool_)
    found[np.unique(ids, return_index=True)[1]] = True
    return found


class State(IntEnum):
    """Where a channel is on its way."""

    FREE = 0
    SEARCHING = 1
    CREATING = 2
    CONNECTED = 3
    UNRESPONSIVE = 4


class Table:
    """Columns of equal length that grow by doubling.

    Subclasses name their columns in `COLUMNS`; each becomes an attribute, an array of `capacity` rows.
    """

    COLUMNS: ClassVar[dict[str, tuple[Any, Any]]] = {}
    """Name of a column: its dtype and the value of an unused row."""

    def __init__(self, capacity: int = 64):
        self.capacity = capacity
        for name, (dtype, fill) in self.COLUMNS.items():
            setattr(self, name, np.full(capacity, fill, dtype))

    def grow(self, needed: int) -> None:
        """Make room for at least `needed` rows. Arrays are replaced: hold no reference across this."""
        if needed <= self.capacity:
            return
        capacity = max(needed, 2 * self.capacity)
        for name, (dtype, fill) in self.COLUMNS.items():
            column = np.full(capacity, fill, dtype)
            column[: self.capacity] = getattr(self, name)
            setattr(self, name, column)
        self.capacity = capacity


class SlotIndex:
    """From a slot to the ids that belong to it: a column for the first, a dictionary for more."""

    def __init__(self, capacity: int = 64):
        self._first = np.zeros(capacity, np.int64)  # id + 1; 0 is none
        self._more: dict[int, list[int]] = {}

    def add(self, slots: Slots, ids: npt.NDArray[np.integer]) -> None:
        """Remember `ids[i]` under `slots[i]`."""
        if not len(slots):
            return
        needed = int(slots.max()) + 1
        if needed > len(self._first):
            grown = np.zeros(max(needed, 2 * len(self._first)), np.int64)
            grown[: len(self._first)] = self._first
            self._first = grown
        first = self._first
        if not first[slots].any():
            first[slots] = ids.astype(np.int64) + 1
            if len(slots) == 1 or (first[slots] == ids.astype(np.int64) + 1).all():
                return
            first[slots] = 0  # a slot is named twice: add one by one
        for slot, id_ in zip(slots.tolist(), ids.tolist(), strict=True):
            if first[slot]:
                self._more.setdefault(slot, []).append(id_)
            else:
                first[slot] = id_ + 1

    def of(self, slots: Slots) -> npt.NDArray[np.int64]:
        """All ids of these slots."""
        if not len(slots) or int(slots.max()) >= len(self._first):
            slots = slots[slots < len(self._first)]
        found = self._first[slots]
        ids = found[found > 0] - 1
        if self._more:
            more = [id_ for slot in slots.tolist() for id_ in self._more.get(slot, ())]
            if more:
                ids = np.concatenate((ids, np.array(more, np.int64)))
        return ids

    def take(self, slots: Slots) -> npt.NDArray[np.int64]:
        """All ids of these slots, which are then forgotten."""
        ids = self.of(slots)
        self._first[slots[slots < len(self._first)]] = 0
        if self._more:
            for slot in slots.tolist():
                self._more.pop(slot, None)
        return ids

    def discard(self, slot: int, id_: int) -> None:
        """Forget one id of one slot."""
        more = self._more.get(slot)
        if slot < len(self._first) and self._first[slot] == id_ + 1:
            self._first[slot] = more.pop(0) + 1 if more else 0
        elif more and id_ in more:
            more.remove(id_)
        if more is not None and not more:
            self._more.pop(slot, None)


class Channels(Table):
    """The channels of one context. A channel's slot is its row here and its CID on the wire."""

    state: U1
    circuit: npt.NDArray[np.uint16]
    sid: U4
    native_type: U1
    native_count: U4
    access: U1
    seen: npt.NDArray[np.bool_]
    chunk: npt.NDArray[np.int32]
    place: U4
    size: npt.NDArray[np.uint16]
    search: U4

    COLUMNS: ClassVar = {
        "state": (np.uint8, State.FREE),
        "circuit": (np.uint16, NO_CIRCUIT),
        "sid": (np.uint32, 0),
        "native_type": (np.uint8, UNKNOWN_TYPE),
        "native_count": (np.uint32, 0),
        "access": (np.uint8, 0),
        "seen": (np.bool_, False),  # was connected at least once
        "chunk": (np.int32, -1),  # which NameMessages holds the name's messages, and where
        "place": (np.uint32, 0),
        "size": (np.uint16, 0),  # bytes of one SEARCH or CREATE_CHAN message
        "search": (np.uint32, 0),  # which of the searches for it is the latest; earlier ones end
    }

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self._free: list[int] = []
        self._resting: dict[int, int] = {}
        """Slots of channels that were removed, and the circuits that may still say something of them."""
        self._chunks: dict[int, NameMessages] = {}
        self._chunk_users: dict[int, int] = {}
        self._search_blocks: dict[int, bytes] = {}
        self._next_chunk = 0

    def __len__(self) -> int:
        return len(self.names) - len(self._free) - len(self._resting)

    def add(self, names: Sequence[str]) -> Slots:
        """New channels, in state SEARCHING; returns their slots, shape (len(names),)."""
        n = len(names)
        # A freed slot rests behind a thousand others, so that a late reply to its old owner meets nobody.
        reuse = self._free[:n] if len(self._free) - n > 1000 else []
        slots = np.empty(n, np.uint32)
        slots[: len(reuse)] = reuse
        end = len(self.names) + n - len(reuse)
        slots[len(reuse) :] = np.arange(len(self.names), end)
        messages = NameMessages(names, slots)
        del self._free[: len(reuse)]
        for slot, name in zip(reuse, names, strict=False):
            self.names[slot] = name
        self.names.extend(names[len(reuse) :])
        self.grow(end)
        chunk = self._next_chunk
        self._next_chunk += 1
        self._chunks[chunk] = messages
        self._chunk_users[chunk] = n
        self.state[slots] = State.SEARCHING
        self.chunk[slots] = chunk
        self.place[slots] = np.arange(n)
        self.size[slots] = np.diff(messages.starts)
        return slots

    def remove(self, slots: Slots) -> None:
        """Forget channels; their slots may be used again, though not soon, and not before a server let go of them."""
        for chunk, users in zip(*np.unique(self.chunk[slots], return_counts=True), strict=True):
            self._chunk_users[int(chunk)] -= int(users)
            if not self._chunk_users[int(chunk)]:
                del self._chunk_users[int(chunk)], self._chunks[int(chunk)]
                self._search_blocks.pop(int(chunk), None)
        is_created = self.circuit[slots] != NO_CIRCUIT
        self._resting.update(zip(slots[is_created].tolist(), self.circuit[slots[is_created]].tolist(), strict=True))
        self._free.extend(slots[~is_created].tolist())
        for name, (_, fill) in self.COLUMNS.items():
            getattr(self, name)[slots] = fill
        for slot in slots.tolist():
            self.names[slot] = ""

    def let_go(self, circuit: int, slots: Slots | None = None) -> None:
        """A circuit has nothing more to say of these slots (default: of any), if they were removed."""
        if self._resting:
            candidates = list(self._resting) if slots is None else slots.tolist()
            ended = [slot for slot in candidates if self._resting.get(slot) == circuit]
            for slot in ended:
                del self._resting[slot]
            self._free.extend(ended)

    def create_messages(self, slots: Slots) -> bytes:
        """CREATE_CHAN for these channels, one after the other."""
        return self._messages(slots, search=False)[1]

    def search_messages(self, slots: Slots) -> tuple[Slots, bytes]:
        """SEARCH (without negative reply) for these channels, one after the other, and in which order."""
        return self._messages(slots, search=True)

    def forget_search_messages(self) -> None:
        """Free what `search_messages` keeps between calls; to be called when nothing is searched."""
        self._search_blocks.clear()

    def _messages(self, slots: Slots, search: bool) -> tuple[Slots, bytes]:
        chunks, places = self.chunk[slots], self.place[slots]
        if (chunks == chunks[0]).all() and (np.diff(places) == 1).all():
            block, starts = self._block(int(chunks[0]), search)
            return slots, block[starts[places[0]] : starts[places[-1] + 1]]
        order = np.lexsort((places, chunks))
        slots, chunks, places = slots[order], chunks[order], places[order]
        parts: list[bytes] = []
        for chunk in distinct(chunks):
            block, starts = self._block(chunk, search)
            parts.extend(block[starts[first] : starts[end]] for first, end in runs(places[chunks == chunk]))
        return slots, b"".join(parts)

    def _block(self, chunk: int, search: bool) -> tuple[bytes, npt.NDArray[np.int64]]:
        messages = self._chunks[chunk]
        return self._search_block(chunk) if search else messages.block, messages.starts

    def _search_block(self, chunk: int) -> bytes:
        block = self._search_blocks.get(chunk)
        if block is None:
            block = self._search_blocks[chunk] = self._chunks[chunk].searches()
        return block

    def ctrl_types(self, slots: Slots) -> tuple[U1, U4]:
        """How to ask for the metadata of these connected channels: DBR types and counts, shape (n,)."""
        return (self.native_type[slots] + np.uint8(28)), np.ones(len(slots), np.uint32)

    def time_types(self, slots: Slots) -> tuple[U1, U4]:
        """How to ask for these connected channels with time and alarm: DBR types and counts, shape (n,).

        Scalar numbers are asked for as DBR_TIME_DOUBLE whatever their type, so that every reply has
        one form; arrays as what they are, with count 0 ("what there is now").
        """
        native = self.native_type[slots]
        scalar = self.native_count[slots] == 1
        types = np.where(scalar & (native != 0), 20, native + 14).astype(np.uint8)
        return types, np.where(scalar, 1, 0).astype(np.uint32)


class Subscriptions(Table):
    """Subscriptions by id. They outlive the connection: a reconnecting channel gets them again."""

    slot: U4
    mask: npt.NDArray[np.uint16]
    dbr_type: U1
    count: U4
    kind: U1
    label: U4
    sent_on: npt.NDArray[np.uint16]
    sent_type: U1
    sent_count: U4
    cancels: npt.NDArray[np.uint16]
    cancelled_on: npt.NDArray[np.uint16]

    COLUMNS: ClassVar = {
        "slot": (np.uint32, 0xFFFFFFFF),  # 0xFFFFFFFF: the id is free
        "mask": (np.uint16, 0),
        "dbr_type": (np.uint8, AUTO),
        "count": (np.uint32, 0),
        "kind": (np.uint8, 0),
        "label": (np.uint32, 0),  # the token of its events
        "sent_on": (np.uint16, NO_CIRCUIT),  # the circuit whose server has it
        "sent_type": (np.uint8, 0),
        "sent_count": (np.uint32, 0),
        "cancels": (np.uint16, 0),  # so many times cancelled without a confirmation yet
        "cancelled_on": (np.uint16, NO_CIRCUIT),
    }
    FREE = 0xFFFFFFFF

    def __init__(self) -> None:
        super().__init__()
        self.by_slot = SlotIndex()
        self._free: list[int] = []
        self._resting = 0
        self._end = 0

    def __len__(self) -> int:
        return self._end - len(self._free) - self._resting

    def add(self, slots: Slots, mask: int, dbr_type: int, kind: int, label: int | None = None, count: int = 0) -> U4:
        """One subscription for each slot; returns their ids, shape (n,)."""
        n = len(slots)
        reuse = self._free[:n] if len(self._free) - n > 1000 else []
        del self._free[: len(reuse)]
        end = self._end + n - len(reuse)
        ids = np.empty(n, np.uint32)
        ids[: len(reuse)] = reuse
        ids[len(reuse) :] = np.arange(self._end, end)
        self._end = end
        self.grow(end)
        self.slot[ids] = slots
        self.mask[ids] = mask
        self.dbr_type[ids] = dbr_type
        self.count[ids] = count
        self.kind[ids] = kind
        self.label[ids] = ids if label is None else label
        self.sent_on[ids] = NO_CIRCUIT
        self.by_slot.add(slots, ids)
        return ids

    def remove(self, ids: U4) -> None:
        """Forget subscriptions. Their ids rest until no update of them can be on its way."""
        for id_, slot in zip(ids.tolist(), self.slot[ids].tolist(), strict=True):
            self.by_slot.discard(slot, id_)
        self.slot[ids] = self.FREE
        self.sent_on[ids] = NO_CIRCUIT
        free = ids[self.cancels[ids] == 0]
        self._resting += len(ids) - len(free)
        self._free.extend(free.tolist())

    def cancel(self, ids: npt.NDArray[np.integer], circuit: int) -> None:
        """These subscriptions were cancelled at their server."""
        self.sent_on[ids] = NO_CIRCUIT
        self.cancels[ids] += 1
        self.cancelled_on[ids] = circuit

    def confirm(self, id_: int, circuit: int) -> bool:
        """The server confirmed that a subscription was cancelled: no update of it is on its way.

        Returns
        -------
        Whether that was awaited. Else what seems to confirm it is an update without a byte: of an array of a plain type
        that has no elements, or that may not be read.
        """
        if id_ >= self.capacity or not self.cancels[id_] or self.cancelled_on[id_] != circuit:
            return False
        self.cancels[id_] -= 1
        if not self.cancels[id_] and self.slot[id_] == self.FREE:
            self._resting -= 1
            self._free.append(id_)
        return True

    def let_go(self, circuit: int) -> None:
        """A circuit is gone, and with it what was on its way."""
        ids = np.flatnonzero((self.cancelled_on == circuit) & (self.cancels > 0))
        self.cancels[ids] = 0
        ids = ids[self.slot[ids] == self.FREE]
        self._resting -= len(ids)
        self._free.extend(ids.tolist())
