"""Where every batch lands: the table first, then who waits, then sinks, of whichever transport it comes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

import daqca.ca as ca
from daqca.ca import eca
from daqca.engine.reads import DISCONNECTED, NO_READ_ACCESS, NO_WRITE_ACCESS
from daqca.engine.sinks import Feed, Feeds, Subscription
from daqca.engine.table import ChannelState, Table
from daqca.engine.waits import ConnectWait
from daqca.errors import (
    AccessRightsError,
    ChannelError,
    PVDisconnectedError,
    PVNotFoundError,
    PVTimeoutError,
    RefusedError,
)
from daqca.events import (
    ALL_SLOTS,
    EVENT,
    EVENT_BLOCK,
    Batch,
    BatchBuilder,
    Kind,
    Records,
    has_block,
    is_number,
    pick,
)
from daqca.link import METADATA, Link
from daqca.operations import One
from daqca.reading import Reading, Value, array_of, data_value, number_value

log = logging.getLogger("daqca.engine")

Slots = npt.NDArray[np.uint32]
Row = tuple[Any, ...]
_UNMAPPED = 0xFFFFFFFF
_SHOWN = 200
"""So much of a name is in an error."""
FEW = 16
"""So many updates are quicker one by one than in columns."""
# Plain numbers: looking a member up in an enum costs more than the rest of a small batch, and where NumPy does it, a
# Ctrl-C that comes meanwhile is dropped.
_READ, _UPDATE, _FAILED = int(Kind.READ), int(Kind.UPDATE), int(Kind.FAILED)
_CONNECTED, _LOST, _PROPERTY = int(Kind.CONNECTED), int(Kind.LOST), int(Kind.PROPERTY)
_ANSWERS = frozenset((_READ, int(Kind.WRITTEN), _FAILED))
_IS_ANSWER, _IS_CHANGE = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
"""By kind."""
_IS_ANSWER[list(_ANSWERS)] = True
_IS_CHANGE[[Kind.CONNECTED, Kind.DISCONNECTED, Kind.ACCESS]] = True


class Shard:
    """One link, with the way from its slots to the engine's."""

    def __init__(self, link: Link, identity: bool):
        self.link = link
        self.identity = identity
        """The link's slots are the engine's: there is one link, and both count the same way."""
        self._map: npt.NDArray[np.uint32] = np.full(64, _UNMAPPED, np.uint32)
        self._early: list[Batch] = []
        self._adding = False
        self._delivery: Delivery | None = None

    def add(self, names: Sequence[str], slots: Slots) -> Slots:
        """Add channels under these engine slots; returns their slots on the link."""
        if self.identity:
            # One lock around both, so that no event comes before the engine knows the slot.
            with self.link.lock:
                local = self.link.add(names)
                if (local == slots).all():
                    return local
                # A call that was broken off has left channels behind: from now on the slots differ.
                self.identity = False
                self._assign(np.arange(int(slots[0]), dtype=np.uint32), np.arange(int(slots[0]), dtype=np.uint32))
                self._assign(local, slots)
                return local
        self._adding = True
        local = self.link.add(names)
        with self.link.lock:
            self._assign(local, slots)
            self._adding = False
            early, self._early = self._early, []
            for batch in early:
                assert self._delivery is not None
                self._delivery.deliver(self.link, batch)
        return local

    def _assign(self, local: Slots, slots: Slots) -> None:
        needed = int(local.max(initial=0)) + 1
        if needed > len(self._map):
            grown = np.full(max(needed, 2 * len(self._map)), _UNMAPPED, np.uint32)
            grown[: len(self._map)] = self._map
            self._map = grown
        self._map[local] = slots

    def engine_slots(self, batch: Batch) -> Batch:
        """The batch with the engine's slots. What is early (nobody knows its slot yet) is kept for later."""
        records = batch.records
        local = records["slot"].astype(np.int64)
        everyone = local == ALL_SLOTS
        known = local < len(self._map)
        slots = np.where(known, self._map[np.where(known, local, 0)], _UNMAPPED)
        early = (slots == _UNMAPPED) & ~everyone
        if early.any():
            if self._adding:
                self._early.append(batch.select(early))
            records, slots = pick(records, ~early), slots[~early]
        mapped = pick(records, np.ones(len(records), np.bool_))
        mapped["slot"] = slots
        return Batch(mapped, batch.block)


def assign_shards(names: Sequence[str], shards: int) -> npt.NDArray[np.uint8]:
    """Which shard has each name: all fields of a record go to the same one."""
    if shards == 1:
        return np.zeros(len(names), np.uint8)
    crc32 = zlib.crc32
    hashes = np.fromiter((crc32(name.partition(".")[0].encode()) for name in names), np.uint32, len(names))
    numbers: npt.NDArray[np.uint8] = (hashes % np.uint32(shards)).astype(np.uint8)
    return numbers


class Delivery:
    """Lands batches. `lock` is the engine's, taken inside that of the link, never around it."""

    def __init__(self, lock: AbstractContextManager[Any], table: Table):
        self.events = 0
        self.batches = 0
        self.lost = 0
        self.puts_refused = 0
        """Puts without completion that a server refused."""
        self.sink_errors = 0
        """Batches that a sink did not take, because it raised."""
        self._lock = lock
        self._table = table
        self._shards: dict[int, Shard] = {}
        self._feeds = Feeds()
        self._connecting: list[ConnectWait] = []
        self._closed = False

    def renew_lock(self) -> AbstractContextManager[Any]:
        """In the child of a fork: a lock that nobody holds, for the engine too."""
        self._lock = threading.RLock()
        self._closed = True
        return self._lock

    def add_link(self, link: Link, identity: bool) -> Shard:
        """Take batches of this link."""
        shard = Shard(link, identity)
        shard._delivery = self
        self._shards[id(link)] = shard
        return shard

    # --- a batch lands --------------------------------------------------------------------------

    def deliver(self, link: Link, batch: Batch) -> None:
        """A batch came from a link, which holds its lock."""
        shard = self._shards.get(id(link))
        if shard is None:  # a worker speaks before the engine is made
            return
        if not shard.identity:
            batch = shard.engine_slots(batch)
            if not len(batch):
                return
        with self._lock:
            self.batches += 1
            self.events += len(batch)
            if batch.is_small and _all_answers(batch.rows()):
                self._answer_rows(link, batch)
            elif batch.is_small and not self._table.doubts.guards and _all_numbers(batch.rows()):
                self._update_rows(batch.rows(), batch)
            else:
                self._columns(link, batch)

    def _answer_rows(self, link: Link, batch: Batch) -> None:
        for row in batch.rows():
            if row[8]:
                link.operations.answer_row(row, batch)
            elif row[1] == _FAILED:
                self.puts_refused += 1

    def _update_rows(self, rows: Sequence[Row], batch: Batch) -> None:
        """A few updates of numbers: NumPy would take longer for each step than for all of this."""
        last = self._table.last
        for row in rows:
            last[row[0]] = row
        for subscription in self._feeds.concerned_rows(rows):
            if isinstance(subscription, Feed):
                subscription.offer_rows(rows, batch)
            else:
                self._offer(subscription, batch.records, batch)

    def _columns(self, link: Link, batch: Batch) -> None:
        records = batch.records
        kinds = records["kind"]
        first = kinds[0]
        if (kinds == first).all() and first in (_UPDATE, _READ):
            if first == _READ:
                link.operations.answer(records, batch)
                return
            self._table.values(records, batch)
        else:
            self._mixed(link, records, kinds, batch)
        for subscription in self._feeds.concerned(records):
            self._offer(subscription, records, batch)

    def _offer(self, subscription: Subscription | Feed, records: Records, batch: Batch) -> None:
        try:
            subscription.offer(records, batch)
        except Exception:
            self.sink_errors += 1
            log.exception("a sink of %s raised; it stays, and the others have their events", subscription)

    def _mixed(self, link: Link, records: Records, kinds: npt.NDArray[np.uint8], batch: Batch) -> None:
        updates = kinds == _UPDATE
        connected = np.flatnonzero(kinds == _CONNECTED)
        if len(connected) and updates.any():
            # What came before a channel connected again is no value of the channel that it is now.
            since = np.full(self._table.capacity, -1, np.int64)
            since[records["slot"][connected]] = connected
            places = np.flatnonzero(updates)
            updates[places] = places > since[records["slot"][places]]
        changes = _IS_CHANGE[kinds]
        if changes.any():
            self._table.connections(pick(records, changes))
        if updates.any():
            self._table.values(pick(records, updates), batch)
        if changes.any():
            for wait in self._connecting:
                wait.look()
        properties = kinds == _PROPERTY
        if properties.any():
            self._table.properties(pick(records, properties), batch)
        answers = _IS_ANSWER[kinds]
        if answers.any():
            mine = pick(records, answers & (records["token"] != 0))
            self.puts_refused += int(answers.sum()) - len(mine)
            link.operations.answer(mine, batch)
        lost = kinds == _LOST
        if lost.any():
            self.lost += int(records["count"][lost].sum())

    # --- who waits, who watches -----------------------------------------------------------------

    @contextlib.contextmanager
    def waiting(self, wait: ConnectWait) -> Iterator[None]:
        """Have `wait` looked at whenever channels connect."""
        try:  # around all of it: a Ctrl-C may come anywhere
            with self._lock:
                self._connecting.append(wait)
                if self._closed:
                    wait.complete()
                wait.look()
            yield
        finally:
            with self._lock:
                self._connecting = [other for other in self._connecting if other is not wait]

    def attach(
        self,
        target: Subscription | Feed,
        slots: Slots,
        mask: int,
        known: npt.NDArray[np.bool_],
        described: npt.NDArray[np.bool_],
    ) -> None:
        """Begin to feed a subscription, first with what is known of its channels.

        Parameters
        ----------
        known
            Which of its slots are monitored with its mask already, so that no server will send their
            first value again; they get the last value of the table.
        described
            The same for their metadata.
        """
        with self._lock:
            self._feeds.add(target)
            table = self._table
            connected = slots[table.state[slots] == ChannelState.CONNECTED]
            builder = BatchBuilder()
            records = np.zeros(len(connected), EVENT)
            records["slot"] = connected
            records["kind"] = Kind.CONNECTED
            records["timestamp"] = time.time_ns()
            records["dbr_type"] = table.native_type[connected]
            records["count"] = table.native_count[connected]
            records["status"] = table.access[connected]
            builder.extend(records)
            self._last_values(builder, slots[known], mask)
            self._last_metadata(builder, slots[described])
            batch = builder.build()
            if len(batch):
                self._offer(target, batch.records, batch)

    def catch_up(self, feed: Feed, slots: Slots, mask: int) -> None:
        """Tell a feed the last values of channels that were monitored with this mask before."""
        builder = BatchBuilder()
        self._last_values(builder, slots, mask)
        batch = builder.build()
        if len(batch):
            self._offer(feed, batch.records, batch)

    def _last_values(self, builder: BatchBuilder, slots: Slots, mask: int) -> None:
        table = self._table
        have = slots[(table.kinds[slots] == _UPDATE) & (table.state[slots] == ChannelState.CONNECTED)]
        if not len(have) or mask == METADATA:  # who wants metadata looks for them in the table
            return
        last = table.last[have]
        last["token"] = mask
        places = last.view(EVENT_BLOCK)
        for i in np.flatnonzero(has_block(last)).tolist():
            places["offset"][i], places["length"][i] = builder.store(table.datum(int(have[i]))[2])
        builder.extend(last)

    def _last_metadata(self, builder: BatchBuilder, slots: Slots) -> None:
        table, now = self._table, time.time_ns()
        for slot in slots[table.state[slots] == ChannelState.CONNECTED].tolist():
            if slot in table.metadata:
                dbr_type, data = table.metadata[slot]
                builder.rows.append((slot, _PROPERTY, dbr_type, 0, 0, now, builder.store(data), 1, METADATA))

    def detach(self, target: Subscription | Feed) -> None:
        """Feed a subscription no more."""
        with self._lock:
            self._feeds.remove(target)

    def close(self) -> None:
        """No batch comes any more: wake who still waits."""
        for shard in self._shards.values():
            with shard.link.lock:
                for operation in shard.link.operations:
                    operation.complete()
        with self._lock:
            self._closed = True
            for wait in self._connecting:
                wait.complete()

    # --- one answer -----------------------------------------------------------------------------

    def reading(self, name: str, slot: int, operation: One) -> Reading:
        """The reading of one answered get; raises what its failure means."""
        row, batch = operation.row, operation.batch
        if row is None or row[1] != _READ or batch is None:
            raise self.error(name, slot, "get", row)
        native = self._table.native_type.item(slot)
        value = _value(row, batch, native, self._table.native_count.item(slot))
        return Reading(name, value, row[3], row[4], row[5], native_type=native)

    def last(self, slot: int) -> Row | None:
        """The last value of a slot as a row (value instead of the place of data) and None if there is none."""
        table = self._table
        with self._lock:
            if not table.kinds.item(slot):
                return None
            row: Row = table.last[slot].item()
            native, native_count = table.native_type.item(slot), table.native_count.item(slot)
            value: Value
            if is_number(row[1], row[2], row[7]):
                value = array_of(row[6], row[7], native) if native_count > 1 else number_value(row[6], native)
            else:
                dbr_type, count, data = table.datum(slot)
                value = data_value(data, dbr_type, count, native_count > 1, ca.IOENCODING)
        return (*row[:6], value, *row[7:])

    def error(self, name: str, slot: int, operation: str, row: tuple[object, ...] | None = None) -> ChannelError:
        """The error of a request that was answered with a failure, or not at all."""
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        verb = {"get": "read", "put": "write"}.get(operation, operation)
        if row is not None:
            number = int(row[3])  # type: ignore[call-overload]
            if number in (NO_READ_ACCESS, NO_WRITE_ACCESS):
                return AccessRightsError(
                    f"cannot {verb} {shown}: its server does not give this client the access; ask who configures the "
                    "access security of that IOC",
                    pvname=name,
                    operation=operation,
                    eca=eca.from_number(number),
                )
            if number != DISCONNECTED:
                status = eca.from_number(number)
                return RefusedError(
                    f"cannot {verb} {shown}: its server answered: {eca.message(status)}",
                    pvname=name,
                    operation=operation,
                    eca=status,
                )
        state = ChannelState(int(self._table.state[slot])) if row is None else ChannelState.LOST
        if state == ChannelState.NEVER:
            return PVNotFoundError(
                f"cannot {verb} {shown}: no server answered for this name, or none that did could be connected to; is "
                "it spelled right, does its IOC run, does EPICS_CA_ADDR_LIST reach it? `daqca doctor` looks into it",
                pvname=name,
                operation=operation,
            )
        if state == ChannelState.LOST:
            unknown = "; whether the value was written is not known" if operation == "put" and row is not None else ""
            return PVDisconnectedError(
                f"cannot {verb} {shown}: its channel was connected, and is not now{unknown}; is its IOC running?",
                pvname=name,
                operation=operation,
            )
        if operation == "put":
            return PVTimeoutError(
                f"the value was sent to {shown}, but its server did not confirm it in time; the record may still be "
                "processing it: read its state, or give the put a longer timeout",
                pvname=name,
                operation=operation,
            )
        return PVTimeoutError(
            f"cannot {verb} {shown}: its server is connected but did not answer in time",
            pvname=name,
            operation=operation,
        )


def _all_numbers(rows: Sequence[tuple[Any, ...]]) -> bool:
    """Whether these are few, and updates of numbers only."""
    if len(rows) > FEW:
        return False
    for row in rows:  # noqa: SIM110 - a generator costs more
        if row[1] != _UPDATE or type(row[6]) is tuple:
            return False
    return True


def _all_answers(rows: Sequence[tuple[Any, ...]]) -> bool:
    for row in rows:  # noqa: SIM110 - a generator costs more than one answer
        if row[1] not in _ANSWERS:
            return False
    return True


def _value(row: tuple[Any, ...], batch: Batch, native: int, native_count: int) -> Value:
    value, dbr_type, count = row[6], row[2], row[7]
    if isinstance(value, tuple):
        return data_value(batch.data(*value), dbr_type, count, native_count > 1, ca.IOENCODING)
    return array_of(value, count, native) if native_count > 1 else number_value(value, native)
