"""The PV table: the last event, the state and the native type of every channel of an engine, in columns."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.engine.doubts import Doubts
from daqca.events import EVENT, EVENT_BLOCK, Batch, Kind, Records, different, grown, has_block, pick, place
from daqca.reading import UNKNOWN_TYPE

U1 = npt.NDArray[np.uint8]


class ChannelState(IntEnum):
    """What the engine knows of a channel's connection."""

    NEVER = 0
    """Not connected, and never was."""
    CONNECTED = 1
    LOST = 2
    """Was connected; values from before are stale."""


_CONNECTED, _ACCESS, _UPDATE = int(Kind.CONNECTED), int(Kind.ACCESS), int(Kind.UPDATE)
_IS_CONNECTED, _IS_LOST = int(ChannelState.CONNECTED), int(ChannelState.LOST)

Datum = tuple[int, int, bytes | memoryview]


class Table:
    """Columns by engine slot. `last` holds, for each PV, the newest event that carried its value.

    Attributes
    ----------
    last
        `EVENT`, shape (capacity,); ``kind`` 0 where there was no value yet.
    data
        The bytes of arrays: slot to (DBR type, count, bytes). See `datum`.
    text
        S40, the single strings, as long as there are any. Each that is a value is here, and not in `data`.
    metadata
        The DBR_CTRL structures of those that are asked for: slot to (DBR type, bytes).
    kinds, dbr_types, numbers, timestamps, counts
        Columns of `last`, for who wants one item of one PV. The kind is UPDATE, or READ where the value was read ahead
        of a monitor.
    doubts
        See `daqca.engine.doubts`.
    """

    def __init__(self) -> None:
        self.capacity = 64
        self.last: Records = np.zeros(64, EVENT)
        self.state: U1 = np.zeros(64, np.uint8)
        self.native_type: U1 = np.full(64, UNKNOWN_TYPE, np.uint8)
        self.native_count: npt.NDArray[np.uint32] = np.zeros(64, np.uint32)
        self.access: U1 = np.zeros(64, np.uint8)
        self.data: dict[int, Datum] = {}
        self.text: npt.NDArray[np.bytes_] = np.zeros(0, "S40")
        self.metadata: dict[int, tuple[int, bytes]] = {}
        self.doubts = Doubts()
        self._make_columns()

    def _make_columns(self) -> None:
        last = self.last
        self.kinds, self.dbr_types = last["kind"], last["dbr_type"]
        self.numbers, self.timestamps, self.counts = last["value"], last["timestamp"], last["count"]

    def grow(self, needed: int) -> None:
        """Make room for `needed` rows. Arrays are replaced."""
        if needed <= self.capacity:
            return
        capacity = max(needed, 2 * self.capacity)
        for name, fill in (
            ("last", 0),
            ("state", 0),
            ("native_type", UNKNOWN_TYPE),
            ("native_count", 0),
            ("access", 0),
        ):
            old = getattr(self, name)
            column = np.zeros(capacity, old.dtype) if not fill else np.full(capacity, fill, old.dtype)
            column[: self.capacity] = old
            setattr(self, name, column)
        self.capacity = capacity
        self._make_columns()

    def values(self, records: Records, batch: Batch) -> None:
        """Take in UPDATE events, oldest first, or what was read ahead of them."""
        self._take(self.doubts.sift(records) if self.doubts.guards else records, batch)

    def _take(self, records: Records, batch: Batch) -> None:
        blocked = has_block(records)
        if blocked.any():  # first: who looks without the lock finds what belongs to the record
            self._take_blocks(records if blocked.all() else pick(records, blocked), batch)
        # Where a slot occurs twice, the later record wins: NumPy assigns in order.
        place(self.last, records["slot"], records)

    def _take_blocks(self, part: Records, batch: Batch) -> None:
        strings = (part["dbr_type"] == 0) & (part["count"] == 1)
        # Some servers do not send all 40 bytes: then one by one, as they came.
        if strings.any() and (part.view(EVENT_BLOCK)["length"][strings] == self.text.itemsize).all():
            self._texts(part if strings.all() else pick(part, strings), batch)
            part = pick(part, ~strings)
        if len(part):
            places = part.view(EVENT_BLOCK)
            for slot, dbr_type, count, offset, length in zip(
                part["slot"].tolist(),
                part["dbr_type"].tolist(),
                part["count"].tolist(),
                places["offset"].tolist(),
                places["length"].tolist(),
                strict=True,
            ):
                data = batch.data(offset, length)
                if dbr_type == 0 and count == 1:
                    self._make_text()
                    self.text[slot] = bytes(data)
                else:
                    self._keep(slot, dbr_type, count, data, len(batch.block))

    def _texts(self, part: Records, batch: Batch) -> None:
        """Take in single strings, together."""
        size = self.text.itemsize
        self._make_text()
        offsets = part.view(EVENT_BLOCK)["offset"].astype(np.int64)
        block = np.frombuffer(batch.block, np.uint8)
        self.text[part["slot"]] = block[offsets[:, None] + np.arange(size)].view(self.text.dtype)[:, 0]

    def _make_text(self) -> None:
        self.text = grown(self.text, self.capacity, b"")

    def refresh(self, row: tuple[Any, ...], batch: Batch, serial: int | None) -> None:
        """Take in the answer to a get as the last value of a monitored PV.

        What monitors tell late, of the time before it, does not count from now on.

        Parameters
        ----------
        row
            A READ event.
        serial
            What `Doubts.serial` was before the get.
        """
        slot, timestamp = row[0], row[5]
        if self.kinds.item(slot) and self.timestamps.item(slot) > timestamp:
            return  # a monitor was faster
        if type(row[6]) is tuple:
            self._take(Batch(rows=[(slot, _UPDATE, *row[2:8], 0)]).records, batch)
        else:
            self.last[slot] = (slot, _UPDATE, *row[2:8], 0)
        self.doubts.settle(slot, timestamp, serial)

    def properties(self, records: Records, batch: Batch) -> None:
        """Take in PROPERTY events, oldest first."""
        places = records.view(EVENT_BLOCK)
        for slot, dbr_type, offset, length in zip(
            records["slot"].tolist(),
            records["dbr_type"].tolist(),
            places["offset"].tolist(),
            places["length"].tolist(),
            strict=True,
        ):
            self.metadata[slot] = (dbr_type, bytes(batch.data(offset, length)))

    def forget_metadata(self, slots: npt.NDArray[np.integer]) -> None:
        """The metadata of these PVs are not kept up to date any more, or not yet."""
        if self.metadata:
            for slot in slots.tolist():
                self.metadata.pop(slot, None)

    def datum(self, slot: int) -> Datum:
        """DBR type, count and bytes of the last value of a PV, which is a string or an array."""
        last = self.last[slot]
        if int(last["dbr_type"]) == 0 and int(last["count"]) == 1:
            return 0, 1, bytes(self.text[slot]).ljust(self.text.itemsize, b"\0")
        return self.data[slot]

    def forget(self, slots: npt.NDArray[np.integer]) -> None:
        """The last values of these PVs are not kept up to date any more, or not yet again."""
        self.last["kind"][slots] = 0
        if self.data:
            for slot in slots.tolist():
                self.data.pop(slot, None)

    def _keep(self, slot: int, dbr_type: int, count: int, data: memoryview, block_size: int) -> None:
        # A small part of a large block is copied, so that it does not keep the whole block in memory.
        self.data[slot] = (dbr_type, count, data if 2 * len(data) > block_size else bytes(data))

    def disconnect(self) -> None:
        """Every channel is lost: the engine was closed."""
        self.state[self.state == _IS_CONNECTED] = _IS_LOST

    def connections(self, records: Records) -> None:
        """Take in CONNECTED, DISCONNECTED and ACCESS events, oldest first.

        The last value of a channel that was lost stays, stale; when it connects again, there is none until
        its server sends one.
        """
        for kind in different(records["kind"]).tolist() if len(records) > 1 else [int(records["kind"][0])]:
            part = pick(records, records["kind"] == kind)
            slots = part["slot"]
            if kind == _CONNECTED:
                self.forget(slots)
                self.forget_metadata(slots)
                self.doubts.forget(slots)
                self.native_type[slots] = part["dbr_type"]
                self.native_count[slots] = part["count"]
                self.access[slots] = part["status"]
            elif kind == _ACCESS:
                self.access[slots] = part["status"]
        # Of several changes of one channel the last one counts.
        changes = pick(records, records["kind"] != _ACCESS)
        state = np.where(changes["kind"] == _CONNECTED, _IS_CONNECTED, _IS_LOST)
        self.state[changes["slot"]] = state
