"""Sorts the events of batches into the tables and segments of a file, in columns.

Runs on the writer thread. Counts every event in the ledger: as an update, as control, or as ignored.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.events import (
    ALL_SLOTS,
    ELEMENT,
    EVENT,
    EVENT_BLOCK,
    Batch,
    Kind,
    Reason,
    Records,
    has_number,
    join,
    pick,
    records_from_rows,
)
from daqca.recording.arrays import Segment
from daqca.recording.layout import NO_SEGMENT, Origin
from daqca.recording.ledger import Ledger
from daqca.recording.store import Store

Mask = npt.NDArray[np.bool_]
Blocks = Sequence[tuple[int, int, memoryview]]
"""Where blocks belong: from record, to record, and the block of these."""

CONTROL = np.zeros(256, np.bool_)
CONTROL[[Kind.CONNECTED, Kind.DISCONNECTED, Kind.ACCESS, Kind.LOST, Kind.REFUSED]] = True

_UNITS_AT = {29: 4, 30: 8, 32: 4, 33: 4, 34: 8}
"""Where the units are in a DBR_CTRL structure (db_access.h), by its type."""


def gather(batches: Sequence[Batch]) -> tuple[Records, Blocks]:
    """All records of some batches in one array, and which block belongs to which of them."""
    pieces: list[Records] = []
    blocks: list[tuple[int, int, memoryview]] = []
    rows: list[tuple[Any, ...]] = []
    position = 0
    for batch in batches:
        size = len(batch)
        if batch.is_small and not batch.block:  # single events: convert many at once
            rows.extend(batch.rows())
            position += size
            continue
        if rows:
            pieces.append(_records(rows))
            rows = []
        pieces.append(batch.records)
        if batch.block:
            blocks.append((position, position + size, memoryview(batch.block).cast("B")))
        position += size
    if rows:
        pieces.append(_records(rows))
    return join(pieces) if pieces else np.zeros(0, EVENT), blocks


def _records(rows: Sequence[tuple[Any, ...]]) -> Records:
    try:
        return np.array(rows, EVENT)
    except (TypeError, ValueError):  # an empty array has a place in the block instead of a number
        return records_from_rows(rows)


class Sorter:
    """Puts events where they belong.

    If writing fails, what was counted and is not in the file is lost: see `daqca.recording.writer`.

    Parameters
    ----------
    store
        The file.
    ledger
        The PV index.
    """

    def __init__(self, store: Store, ledger: Ledger):
        self._store = store
        self._ledger = ledger
        self._segments: dict[tuple[int, int, int], Segment] = {}
        self.own_rows = 0
        """Rows of the events table that tell of losses in the recorder itself."""

    def sort(self, batches: Sequence[Batch]) -> None:
        """Take in batches, in their order.

        Raises
        ------
        OSError
            Something could not be written. Every event was counted all the same.
        """
        records, blocks = gather(batches)
        if not len(records):
            return
        slots = np.ascontiguousarray(records["slot"])
        ledger = self._ledger
        if int(slots.max()) < ledger.size and not ledger.any_array and bool(has_number(records).all()):
            times = np.ascontiguousarray(records["timestamp"])
            ledger.count(slots, times)
            self._scalars(slots, times, records)
            return
        self._count(records, slots)
        start = 0
        for stop in [*self._turns(records), len(records)]:
            self._part(records[start:stop], slots[start:stop], [(a - start, b - start, v) for a, b, v in blocks])
            start = stop

    def count_only(self, batches: Sequence[Batch]) -> None:
        """Count the events of batches that will not be stored."""
        records, _ = gather(batches)
        if len(records):
            self._count(records, np.ascontiguousarray(records["slot"]))

    def _count(self, records: Records, slots: npt.NDArray[Any]) -> None:
        """Count every event, before anything is written that could fail."""
        ledger = self._ledger
        kinds = records["kind"]
        update = (kinds <= Kind.READ) & (slots < ledger.size)
        control = CONTROL[kinds]
        ledger.count(slots[update], records["timestamp"][update])
        lost = pick(records, kinds == Kind.LOST)
        if len(lost):
            ledger.lost(lost["slot"], lost["count"])
        cut_off = pick(records, (kinds == Kind.DISCONNECTED) & (records["status"] == Reason.WORKER_LOST))
        if len(cut_off):
            ledger.interrupted(cut_off["slot"])
        ledger.control += int(np.count_nonzero(control))
        ledger.ignored += int(len(records) - np.count_nonzero(control) - np.count_nonzero(update))

    def _turns(self, records: Records) -> Iterator[int]:
        """Records at which a PV turns from scalar to array or back: what is before goes where it was."""
        rows = np.flatnonzero(records["kind"] == Kind.CONNECTED)
        seen: dict[int, bool] = {}
        ledger = self._ledger
        for row, slot, count in zip(
            rows.tolist(), records["slot"][rows].tolist(), records["count"][rows].tolist(), strict=True
        ):
            if slot >= ledger.size:
                continue
            known = seen.get(slot)
            if known is None and ledger.native_count[slot]:
                known = bool(ledger.is_array[slot])
            seen[slot] = count > 1
            if known is not None and known != seen[slot] and row:
                yield row

    def _part(self, records: Records, slots: npt.NDArray[Any], blocks: Blocks) -> None:
        ledger = self._ledger
        kinds = records["kind"]
        control = CONTROL[kinds]
        if control.any():
            self._control(pick(records, control))
        ours = slots < ledger.size
        update = (kinds <= Kind.READ) & ours
        number = has_number(records) & ours
        if ledger.any_array:
            number &= ~ledger.is_array[np.where(ours, slots, 0)]
        properties = (kinds == Kind.PROPERTY) & ours
        if properties.any():
            self._properties(records, properties, blocks)
        if number.any():
            chosen = pick(records, number)
            self._scalars(slots[number], chosen["timestamp"], chosen)
        rest = update & ~number
        if rest.any():
            self._others(records, rest, blocks)

    def _scalars(self, slots: npt.NDArray[Any], times: npt.NDArray[Any], records: Records) -> None:
        self._store.scalars.append((slots, times, records["value"], records["status"], records["severity"]))

    # Strings and arrays

    def _others(self, records: Records, rest: Mask, blocks: Blocks) -> None:
        is_array = self._ledger.is_array[np.where(rest, records["slot"], 0)]
        text = rest & (records["dbr_type"] == 0) & (records["count"] == 1) & ~is_array
        rows = np.flatnonzero(rest)
        chosen = pick(records, rows)
        data, sound = self._data(chosen, rows, blocks)
        bad = np.flatnonzero(~sound)
        if len(bad):
            self._malformed(pick(chosen, bad))
        strings = np.flatnonzero(text[rows] & sound)
        arrays = np.flatnonzero(~text[rows] & sound)
        if len(strings):
            table = pick(chosen, strings)
            # What is behind a string's end is whatever lay in the server's memory.
            values = np.array([bytes(data[i]).split(b"\0", 1)[0] for i in strings.tolist()], "S40")
            self._store.strings.append((table["slot"], table["timestamp"], values, table["status"], table["severity"]))
        if len(arrays):
            self._arrays(pick(chosen, arrays), [data[i] for i in arrays.tolist()])

    def _data(self, chosen: Records, rows: npt.NDArray[Any], blocks: Blocks) -> tuple[list[memoryview], Mask]:
        """The bytes of each of the chosen records, and which of them really are there."""
        places = chosen.view(EVENT_BLOCK)
        types, counts = chosen["dbr_type"].tolist(), chosen["count"].tolist()
        offsets, lengths = places["offset"].tolist(), places["length"].tolist()
        inline = has_number(chosen).tolist()
        values = chosen["value"]
        sound = np.ones(len(chosen), np.bool_)
        data = [memoryview(b"")] * len(chosen)
        covered = [-1] * len(chosen)
        for number, (start, stop, _) in enumerate(blocks):
            a, b = np.searchsorted(rows, (start, stop)).tolist()
            covered[a:b] = [number] * (b - a)
        for i, count in enumerate(counts):
            if types[i] > 6:
                sound[i] = False
            elif inline[i]:  # one element of an array, in the record itself
                data[i] = memoryview(values[i : i + 1].astype(ELEMENT[types[i]]).tobytes())
            elif count:
                end = offsets[i] + lengths[i]
                # Strings may come without the zeros behind the last one.
                need = count * ELEMENT[types[i]].itemsize if types[i] else min(lengths[i], count * 40)
                if covered[i] < 0 or end > len(blocks[covered[i]][2]) or lengths[i] < need:
                    sound[i] = False
                else:
                    data[i] = blocks[covered[i]][2][offsets[i] : offsets[i] + need]
        return data, sound

    def _arrays(self, chosen: Records, data: Sequence[memoryview]) -> None:
        keys = list(zip(chosen["slot"].tolist(), chosen["dbr_type"].tolist(), chosen["count"].tolist(), strict=True))
        self._plan(keys)
        used = [self._segments[key] if key[2] else None for key in keys]
        rows = [0] * len(keys)
        done = 0
        try:
            for segment, piece in zip(used, data, strict=True):
                if segment is not None:
                    if not segment.chunks.is_attached:
                        self._store.opened(segment)
                    rows[done] = segment.put(piece)
                done += 1
            for segment in set(used):
                if segment is not None:
                    segment.write_pending()
        finally:
            # After an error: what is in the file, or on its way there.
            kept = [i for i, s in enumerate(used[:done]) if s is None or rows[i] < s.rows]
            table = chosen if len(kept) == len(chosen) else pick(chosen, np.array(kept, np.int64))
            self._store.frames.append(
                (
                    table["slot"],
                    table["timestamp"],
                    table["status"],
                    table["severity"],
                    table["count"],
                    np.array([NO_SEGMENT if (s := used[i]) is None else s.number for i in kept], np.uint32),
                    np.array([rows[i] for i in kept], np.uint64),
                )
            )

    def _plan(self, keys: Sequence[tuple[int, int, int]]) -> None:
        new = []
        for key in dict.fromkeys(keys):
            if key[2] and key not in self._segments:
                slot, dbr_type, count = key
                segment, is_new = self._store.planner.plan(slot, dbr_type, count, int(self._ledger.native_count[slot]))
                self._segments[key] = segment
                if is_new:
                    new.append(segment)
        if new:
            self._store.add_segments(new)

    def _malformed(self, chosen: Records) -> None:
        counts = np.bincount(chosen["slot"], minlength=self._ledger.size)
        self._ledger.dropped += counts.astype(np.uint64)
        self.losses(np.flatnonzero(counts), counts[counts > 0], Origin.MALFORMED)

    # All the rest

    def losses(self, slots: npt.NDArray[Any], counts: npt.NDArray[Any], origin: Origin) -> None:
        """Record losses of our own as rows of the events table."""
        size = len(slots)
        self.own_rows += size
        self._store.events.append(
            (
                slots,
                np.full(size, time.time_ns(), np.int64),
                np.full(size, Kind.LOST, np.uint8),
                np.zeros(size, np.uint8),
                np.zeros(size, np.uint8),
                np.minimum(counts, 0xFFFFFFFF),
                np.full(size, origin, np.uint8),
            )
        )

    def _control(self, chosen: Records) -> None:
        ledger = self._ledger
        slots, kinds = chosen["slot"], chosen["kind"]
        connected = np.flatnonzero((kinds == Kind.CONNECTED) & (slots < ledger.size))
        for slot, native_type, count in zip(
            slots[connected].tolist(),
            chosen["dbr_type"][connected].tolist(),
            chosen["count"][connected].tolist(),
            strict=True,
        ):
            ledger.connected(slot, native_type, count)
        times = chosen["timestamp"].copy()
        times[times == 0] = time.time_ns()
        slots = np.where(slots < ledger.size, slots, np.uint32(ALL_SLOTS))
        self._store.events.append(
            (
                slots,
                times,
                kinds,
                chosen["status"],
                chosen["dbr_type"],
                chosen["count"],
                np.full(len(chosen), Origin.UPSTREAM, np.uint8),
            )
        )

    def _properties(self, records: Records, mask: Mask, blocks: Blocks) -> None:
        """Keep the units that metadata events tell."""
        places = records.view(EVENT_BLOCK)
        slots, types, offsets = records["slot"], records["dbr_type"], places["offset"]
        units = self._ledger.units
        for start, stop, block in blocks:
            first, last = max(start, 0), max(stop, 0)
            rows = first + np.flatnonzero(mask[first:last])
            for slot, dbr_type, offset in zip(
                slots[rows].tolist(), types[rows].tolist(), offsets[rows].tolist(), strict=True
            ):
                at = _UNITS_AT.get(dbr_type)
                # A text or an enum has none; it may have been a number before its IOC was restarted.
                units[slot] = b"" if at is None else bytes(block[offset + at : offset + at + 8]).split(b"\0", 1)[0]
