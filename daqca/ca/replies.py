"""What a server's messages mean to the channels, subscriptions and requests of a client.

Bytes are cut into messages in `stream`, values decoded in `decode`, requests written in `requester`.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from daqca.ca import protocol
from daqca.ca.channels import NO_CIRCUIT, Channels, Slots, State, Subscriptions, all_different, is_first
from daqca.ca.decode import ECA_NORMAL, METADATA, Layout, data_records, data_row, failed_rows, layout, unsigned_chars
from daqca.ca.protocol import HEADER_SIZE, Command
from daqca.ca.requester import Requester
from daqca.ca.requests import RequestKind, Requests
from daqca.ca.stream import Payload, Positions
from daqca.errors import ProtocolError
from daqca.events import EVENT, BatchBuilder, Kind, Reason, Records, join, pick
from daqca.link import AUTO

ECA_DISCONN = 24
"""Message number of ECA_DISCONN: virtual circuit disconnect."""

ECA_TOLARGE = 9
"""Message number of ECA_TOLARGE: larger than EPICS_CA_MAX_ARRAY_BYTES allows."""

_CHAR = 4
_DOUBLES = (6, 13, 20)
# Plain numbers: looking a member up in an enum takes longer than decoding an event.
_READ_NOTIFY, _EVENT_ADD, _WRITE_NOTIFY = int(Command.READ_NOTIFY), int(Command.EVENT_ADD), int(Command.WRITE_NOTIFY)
_VALUES = frozenset((_READ_NOTIFY, _EVENT_ADD))
_READ, _WRITE, _FREE = int(RequestKind.READ), int(RequestKind.WRITE), int(RequestKind.FREE)
_KIND_READ, _KIND_FAILED, _KIND_WRITTEN = int(Kind.READ), int(Kind.FAILED), int(Kind.WRITTEN)
_KIND_REFUSED, _KIND_PROPERTY = int(Kind.REFUSED), int(Kind.PROPERTY)
_ACCESS_RIGHTS, _CREATE_CHAN = int(Command.ACCESS_RIGHTS), int(Command.CREATE_CHAN)


_WITHOUT_CONSEQUENCE = frozenset(map(int, (Command.ECHO, Command.READ_SYNC, Command.NOT_FOUND, Command.EVENT_CANCEL)))


class Replies(Requester):
    """The incoming side of one circuit: see `daqca.ca.stream.Receiver`.

    Parameters
    ----------
    index, address, channels, subscriptions, requests
        See `Circuit`.

    Attributes
    ----------
    stray
        Messages for channels, requests or subscriptions that are no longer ours.
    orphans
        Channels that this circuit has lost while staying open; the shard searches them again.
    found
        Answers of a name server: (cid, server, minor version).
    """

    def __init__(
        self,
        index: int,
        address: tuple[str, int],
        channels: Channels,
        subscriptions: Subscriptions,
        requests: Requests,
    ):
        super().__init__(index, channels, subscriptions, requests)
        self.address = address
        self.name = f"{address[0]}:{address[1]}"
        self.stray = 0
        self.orphans: list[Slots] = []
        self.found: list[tuple[int, tuple[str, int], int]] = []

    # --- messages that carry values, in columns -------------------------------------------------

    def values(self, parts: list[tuple[int, npt.NDArray[np.void], Layout, Positions]], builder: BatchBuilder) -> None:
        """See `Receiver.values`."""
        if len(parts) == 1:
            records, _ = self._value_records(*parts[0], builder)
            if len(records):
                builder.extend(records)
            return
        decoded = [self._value_records(*part, builder) for part in parts]
        # Several forms, one order: that of the messages.
        order = np.argsort(np.concatenate([at for _, at in decoded]), kind="stable")
        builder.extend(pick(join([records for records, _ in decoded]), order))

    def _value_records(
        self, command: int, messages: npt.NDArray[np.void], form: Layout, at: Positions, builder: BatchBuilder
    ) -> tuple[Records, Positions]:
        """Records of value messages of one form, and which of the positions `at` they came from."""
        p2 = messages["p2"]
        kinds: int | npt.NDArray[np.uint8]
        if command == _EVENT_ADD:
            subscriptions = self._subscriptions
            known = p2 < subscriptions.capacity
            ids = p2 if known.all() else np.where(known, p2, 0)
            known &= subscriptions.sent_on[ids] == self.index
            if form.dbr_type not in METADATA:
                known &= (subscriptions.kind[ids] != _KIND_PROPERTY) | (messages["p1"] != ECA_NORMAL)
            slots, kinds, tokens = subscriptions.slot[ids], subscriptions.kind[ids], subscriptions.label[ids]
            asked = subscriptions.dbr_type[ids]
            failed = _KIND_REFUSED
        else:
            requests = self._requests
            rows = p2.astype(np.int64) & (requests.capacity - 1)
            known = (requests.kind[rows] == _READ) & (requests.id[rows] == p2) & (requests.circuit[rows] == self.index)
            if not all_different(p2):  # a second answer to one request is nobody's
                known &= is_first(p2)
            slots, kinds, tokens = requests.slot[rows], _KIND_READ, p2
            asked = requests.dbr_type[rows]
            failed = _KIND_FAILED
            requests.release(rows[known])
        if not known.all():
            self.stray += int(len(known) - known.sum())
            messages, slots, tokens, at, asked = messages[known], slots[known], tokens[known], at[known], asked[known]
            kinds = kinds if isinstance(kinds, int) else kinds[known]
        records = data_records(messages, form, slots, kinds, tokens, builder)
        failed_rows(records, messages["p1"], failed)
        if form.inline and form.dbr_type == 6:
            unsigned_chars(records, (self._channels.native_type[slots] == _CHAR) & (asked == AUTO))
        return records, at

    # --- single messages ------------------------------------------------------------------------

    def single(
        self,
        command: int,
        data_type: int,
        count: int,
        p1: int,
        p2: int,
        payload: Payload,
        start: int,
        size: int,
        builder: BatchBuilder,
        keep: bool = False,
    ) -> None:
        """See `Receiver.single`."""
        if command == _READ_NOTIFY:
            self._read_reply(data_type, count, p1, p2, payload, start, size, builder, keep)
        elif command == _EVENT_ADD:
            self._update(data_type, count, p1, p2, payload, start, size, builder, keep)
        elif command == _WRITE_NOTIFY:
            self._written(p1, p2, builder)
        elif command == Command.ERROR:
            self._error(p1, p2, payload, start, size, builder)
        elif command == Command.SEARCH:
            self._found(data_type, count, p1, p2)
        elif size == 0 or command in (Command.VERSION, Command.ECHO):
            record = np.zeros(1, protocol.HEADER)
            record[0] = (command, 0, data_type, min(count, 0xFFFF), p1, p2)
            self.controls(record, builder, count)
        else:
            raise ProtocolError(f"the server {self.name} sent message {command} with a payload of {size} bytes")

    def _read_reply(
        self,
        data_type: int,
        count: int,
        p1: int,
        p2: int,
        payload: Payload,
        start: int,
        size: int,
        builder: BatchBuilder,
        keep: bool,
    ) -> None:
        requests = self._requests
        row = p2 & (requests.capacity - 1)
        if requests.id[row] != p2 or requests.kind[row] != _READ or requests.circuit[row] != self.index:
            self.stray += 1
            return
        # Before the request is taken for answered: if this is no Channel Access, it has yet to fail.
        form = layout(data_type, count, size) if p1 == ECA_NORMAL else None
        requests.kind[row] = _FREE
        slot, is_ours = int(requests.slot[row]), requests.dbr_type[row] == AUTO
        if form is None:
            builder.rows.append((slot, _KIND_FAILED, 0, min(p1 >> 3, 255), 0, time.time_ns(), 0.0, 0, p2))
            return
        data_row(payload, start, form, slot, _KIND_READ, p2, builder, keep)
        if is_ours:
            self._mend_char(slot, data_type, builder)

    def _update(
        self,
        data_type: int,
        count: int,
        p1: int,
        p2: int,
        payload: Payload,
        start: int,
        size: int,
        builder: BatchBuilder,
        keep: bool,
    ) -> None:
        subscriptions = self._subscriptions
        if size == 0 and subscriptions.confirm(p2, self.index):  # then p1 is the channel and no status
            return
        if p2 >= subscriptions.capacity or subscriptions.sent_on[p2] != self.index:
            self.stray += size > 0
            return
        slot, label = int(subscriptions.slot[p2]), int(subscriptions.label[p2])
        if p1 != ECA_NORMAL:
            builder.rows.append((slot, _KIND_REFUSED, 0, min(p1 >> 3, 255), 0, time.time_ns(), 0.0, 0, label))
            return
        kind = int(subscriptions.kind[p2])
        if kind == _KIND_PROPERTY and data_type not in METADATA:
            self.stray += 1
            return
        data_row(payload, start, layout(data_type, count, size), slot, kind, label, builder, keep)
        if subscriptions.dbr_type[p2] == AUTO:
            self._mend_char(slot, data_type, builder)

    # Where it was our choice to ask for a double, a CHAR above 127 is made what it is again; who asked for a double
    # himself gets what the server makes of it.

    def _mend_char(self, slot: int, data_type: int, builder: BatchBuilder) -> None:
        if data_type in _DOUBLES and self._channels.native_type[slot] == _CHAR:
            row = builder.rows[-1]
            if isinstance(row[6], float) and row[6] < 0:
                builder.rows[-1] = (*row[:6], row[6] + 256.0, *row[7:])

    def too_large(self, command: int, p2: int, size: int, builder: BatchBuilder) -> None:
        """See `Receiver.too_large`: the get fails, or the update is told to be refused."""
        now = time.time_ns()
        if command == _READ_NOTIFY:
            row = self._requests.row(p2)
            if row >= 0 and self._requests.circuit[row] == self.index:
                self._requests.release(row)
                slot = int(self._requests.slot[row])
                builder.rows.append((slot, _KIND_FAILED, 0, ECA_TOLARGE, 0, now, 0.0, 0, p2))
                return
        elif p2 < self._subscriptions.capacity and self._subscriptions.sent_on[p2] == self.index:
            slot, label = int(self._subscriptions.slot[p2]), int(self._subscriptions.label[p2])
            builder.rows.append((slot, _KIND_REFUSED, 0, ECA_TOLARGE, 0, now, 0.0, 0, label))
            return
        self.stray += 1

    def _written(self, p1: int, p2: int, builder: BatchBuilder) -> None:
        requests = self._requests
        row = p2 & (requests.capacity - 1)
        if requests.id[row] != p2 or requests.kind[row] != _WRITE or requests.circuit[row] != self.index:
            self.stray += 1
            return
        requests.kind[row] = _FREE
        kind = _KIND_WRITTEN if p1 == ECA_NORMAL else _KIND_FAILED
        builder.rows.append((int(requests.slot[row]), kind, 0, min(p1 >> 3, 255), 0, time.time_ns(), 0.0, 0, p2))

    def _error(self, p1: int, p2: int, payload: Payload, start: int, size: int, builder: BatchBuilder) -> None:
        """The server refused a request; its header is in the payload."""
        if size < HEADER_SIZE:
            raise ProtocolError(f"the server {self.name} sent an error of {size} bytes")
        command, _, _, _, _, id_ = protocol.unpack_header(payload, start)
        requests, subscriptions = self._requests, self._subscriptions
        number, now = min(p2 >> 3, 255), time.time_ns()
        if command in (Command.READ_NOTIFY, Command.WRITE, Command.WRITE_NOTIFY):
            row = requests.row(id_)
            if row >= 0 and requests.circuit[row] == self.index:
                requests.release(row)
                slot = int(requests.slot[row])
                builder.rows.append((slot, _KIND_FAILED, 0, number, 0, now, 0.0, 0, id_))
            elif command == Command.WRITE and self._mine(np.array([p1], np.uint32))[0]:
                # A put without completion: nobody waits, but its failure is told and counted.
                builder.rows.append((p1, _KIND_FAILED, 0, number, 0, now, 0.0, 0, 0))
        elif command == _EVENT_ADD and id_ < subscriptions.capacity and subscriptions.sent_on[id_] == self.index:
            slot, label = int(subscriptions.slot[id_]), int(subscriptions.label[id_])
            builder.rows.append((slot, _KIND_REFUSED, 0, number, 0, now, 0.0, 0, label))

    # --- messages without payload, in columns ---------------------------------------------------

    def controls(self, messages: npt.NDArray[np.void], builder: BatchBuilder, count: int | None = None) -> None:
        """See `Receiver.controls`."""
        if len(messages) == 1:
            self._control(int(messages["command"][0]), messages, builder, count)
            return
        commands = messages["command"]
        # Access rights come ahead of the creation they belong to: such pairs count as one command.
        kinds = np.where(commands == _ACCESS_RIGHTS, np.uint16(_CREATE_CHAN), commands)
        places = np.concatenate(([0], np.flatnonzero(np.diff(kinds)) + 1, [len(messages)])).tolist()
        for first, end in pairwise(places):
            part, command = messages[first:end], int(kinds[first])
            if command == _CREATE_CHAN:
                self._creations(part, builder)
            elif all_different(part["p2" if command == _WRITE_NOTIFY else "p1"]):
                self._control(command, part, builder, None)
            else:
                self._one_by_one(part, builder)

    def _creations(self, messages: npt.NDArray[np.void], builder: BatchBuilder) -> None:
        """Access rights and creations, mixed."""
        is_access = messages["command"] == _ACCESS_RIGHTS
        access, created = messages[is_access], messages[~is_access]
        if all_different(created["p1"]) and all_different(access["p1"]):
            self._access_rights(access, builder)
            self._created(created, builder, None)
        else:
            self._one_by_one(messages, builder)

    def _one_by_one(self, messages: npt.NDArray[np.void], builder: BatchBuilder) -> None:
        for i, command in enumerate(messages["command"].tolist()):
            self._control(command, messages[i : i + 1], builder, None)

    def _control(self, command: int, messages: npt.NDArray[np.void], builder: BatchBuilder, count: int | None) -> None:
        """Messages with one command, which all concern different channels or requests."""
        if command == _ACCESS_RIGHTS:
            self._access_rights(messages, builder)
        elif command == _CREATE_CHAN:
            self._created(messages, builder, count)
        elif command == _WRITE_NOTIFY:
            self._written_many(messages, builder)
        elif command in _VALUES:
            answer = self._update if command == _EVENT_ADD else self._read_reply
            for _, _, data_type, n, p1, p2 in messages.tolist():
                answer(data_type, n, p1, p2, bytearray(), 0, 0, builder, False)
        elif command == Command.CREATE_CH_FAIL or command == Command.SERVER_DISCONN:
            self._lost(messages["p1"], Reason.DELETED, builder)
        elif command == Command.VERSION:
            self.minor_version = int(messages["count"][-1])
        elif command == Command.SEARCH:
            for _, _, port, version, ip, cid in messages.tolist():
                self._found(port, version, ip, cid)
        elif command == Command.CLEAR_CHANNEL:
            self._channels.let_go(self.index, messages["p2"])
        elif command not in _WITHOUT_CONSEQUENCE:
            raise ProtocolError(f"the server {self.name} sent message {command}, which no server sends")

    def _found(self, port: int, version: int, ip: int, cid: int) -> None:
        """A name server knows a channel's server."""
        self.found.append((cid, protocol.server_address(ip, port, self.address[0]), version))

    def _mine(self, cids: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which client ids are channels on this circuit."""
        known = cids < len(self._channels.names)
        if not known.all():
            cids = np.where(known, cids, 0)
            if not len(self._channels.names):
                return known
        mine: npt.NDArray[np.bool_] = known & (self._channels.circuit[cids] == self.index)
        return mine

    def _access_rights(self, messages: npt.NDArray[np.void], builder: BatchBuilder) -> None:
        slots = messages["p1"].astype(np.uint32)
        mine = self._mine(slots)
        slots, access = slots[mine], (messages["p2"][mine] & 3).astype(np.uint8)
        channels = self._channels
        changed = (channels.state[slots] == State.CONNECTED) & (channels.access[slots] != access)
        channels.access[slots] = access
        if changed.any():
            builder.extend(event_records(slots[changed], Kind.ACCESS, access[changed]))

    def _created(self, messages: npt.NDArray[np.void], builder: BatchBuilder, count: int | None) -> None:
        channels = self._channels
        slots = messages["p1"].astype(np.uint32)
        mine = self._mine(slots)
        mine[mine] &= channels.state[slots[mine]] == State.CREATING
        if not mine.all():
            # Cleared while it was being created: give the server its channel back.
            self.stray += int(len(mine) - mine.sum())
            late = messages[~mine]
            self.queue(protocol.headers(Command.CLEAR_CHANNEL, 0, 0, late["p2"], late["p1"]))
            messages, slots = messages[mine], slots[mine]
        native = messages["data_type"]
        if (native > 6).any():
            raise ProtocolError(f"the server {self.name} created a channel of type {int(native.max())}")
        channels.sid[slots] = messages["p2"]
        channels.native_type[slots] = native
        channels.native_count[slots] = messages["count"] if count is None else count
        channels.seen[slots] = True
        self._connected(slots, builder)

    def _connected(self, slots: Slots, builder: BatchBuilder) -> None:
        channels = self._channels
        channels.state[slots] = State.CONNECTED
        records = event_records(slots, Kind.CONNECTED, channels.access[slots])
        records["dbr_type"] = channels.native_type[slots]
        records["count"] = channels.native_count[slots]
        builder.extend(records)
        self.send_subscriptions(self._subscriptions.by_slot.of(slots))
        self.send_reads(self._requests.rows(self._requests.waiting.take(slots)))

    def _written_many(self, messages: npt.NDArray[np.void], builder: BatchBuilder) -> None:
        if len(messages) == 1:
            self._written(int(messages["p1"][0]), int(messages["p2"][0]), builder)
            return
        requests = self._requests
        rows = messages["p2"].astype(np.int64) & (requests.capacity - 1)
        known = (requests.kind[rows] == _WRITE) & (requests.id[rows] == messages["p2"])
        known &= requests.circuit[rows] == self.index
        self.stray += int(len(known) - known.sum())
        messages, rows = messages[known], rows[known]
        requests.release(rows)
        records = event_records(requests.slot[rows], Kind.WRITTEN, 0)
        records["token"] = messages["p2"]
        failed_rows(records, messages["p1"], Kind.FAILED)
        builder.extend(records)

    def _lost(self, cids: npt.NDArray[np.uint32], reason: Reason, builder: BatchBuilder) -> None:
        mine = self._mine(cids)
        self._channels.let_go(self.index, cids[~mine])
        slots = cids[mine].astype(np.uint32)
        self.disconnect(slots, reason, builder)
        self.orphans.append(slots)

    def disconnect(self, slots: Slots, reason: Reason, builder: BatchBuilder) -> None:
        """These channels are lost: tell it, fail what was asked of them, and free them for a new search."""
        channels, requests = self._channels, self._requests
        known = slots[channels.seen[slots] & (channels.state[slots] == State.CONNECTED)]
        if len(known):
            builder.extend(event_records(known, Kind.DISCONNECTED, int(reason)))
        rows = requests.on_circuit(self.index)
        rows = rows[np.isin(requests.slot[rows], slots)] if len(rows) else rows
        if len(rows):
            records = event_records(requests.slot[rows], Kind.FAILED, ECA_DISCONN)
            records["token"] = requests.id[rows]
            builder.extend(records)
            requests.release(rows)
        channels.state[slots] = State.SEARCHING
        channels.circuit[slots] = NO_CIRCUIT
        ids = self._subscriptions.by_slot.of(slots)
        self._subscriptions.sent_on[ids] = NO_CIRCUIT


def event_records(slots: Slots, kind: int, status: int | npt.NDArray[np.uint8]) -> Records:
    """Events without a value that happen now, one for each slot."""
    records = np.zeros(len(slots), EVENT)
    records["slot"] = slots
    records["kind"] = kind
    records["status"] = status
    records["timestamp"] = time.time_ns()
    return records
