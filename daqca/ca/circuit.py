"""One circuit, without its socket: bytes from one server become events, and requests become bytes.

It works on the columns of its context (`channels`), and owns neither a socket nor a clock nor a thread.
Decoding data in columns is in `decode`; who the servers are is found in `search`.
"""

from __future__ import annotations

import time
from collections import deque
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from daqca.ca import protocol
from daqca.ca.channels import NO_CIRCUIT, Channels, RequestKind, Requests, Slots, State, Subscriptions
from daqca.ca.decode import ECA_NORMAL, data_records, data_row, failed_rows, layout, unsigned_chars
from daqca.ca.protocol import HEADER_SIZE, Command
from daqca.errors import ProtocolError
from daqca.events import EVENT, BatchBuilder, Kind, Reason, Records
from daqca.link import AUTO, CTRL

BUFFER_SIZE = 256 * 1024
LARGE = 32 * 1024
"""A payload above this gets a buffer of its own, into which the network reads directly."""
MIN_RUN = 4
"""From so many messages of one form on, decoding in columns pays."""
ECHO_TIMEOUT = 5.0
ECA_DISCONN = 24
"""Message number of ECA_DISCONN: virtual circuit disconnect."""

_CHAR = 4
Buffer = bytes | memoryview | npt.NDArray[np.void]


class CircuitState(IntEnum):
    """The life of a circuit."""

    CONNECTING = 0
    UP = 1
    UNRESPONSIVE = 2
    CLOSED = 3


class Circuit:
    """The Channel Access side of one TCP connection.

    Parameters
    ----------
    index
        This circuit's number in the `circuit` columns.
    address
        (IPv4 address, port) of the server.
    channels, subscriptions, requests
        The columns of the context, shared by its circuits.
    greeting
        The messages that open the circuit (see `greeting`).
    """

    def __init__(
        self,
        index: int,
        address: tuple[str, int],
        channels: Channels,
        subscriptions: Subscriptions,
        requests: Requests,
        greeting: bytes = b"",
        conn_tmo: float = 30.0,
    ):
        self.index = index
        self.address = address
        self.state = CircuitState.CONNECTING
        self.minor_version = protocol.MINOR_VERSION
        self.is_name_server = False
        self.events_off = False
        self.conn_tmo = conn_tmo
        self.last_heard = 0.0
        self.echo_sent: float | None = None
        self.received = 0
        """Bytes received."""
        self.stray = 0
        """Messages for channels, requests or subscriptions that are no longer ours."""
        self.out: deque[memoryview] = deque()
        """What is to be sent, in order."""
        self.orphans: list[Slots] = []
        """Channels that this circuit has lost while staying open; the context searches them again."""
        self.found: list[tuple[int, tuple[str, int], int]] = []
        """Answers of a name server: (cid, server, minor version)."""
        self._channels = channels
        self._subscriptions = subscriptions
        self._requests = requests
        self._buffer = bytearray(BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._large: memoryview | None = None
        self._large_filled = 0
        self._large_header = (0, 0, 0, 0, 0)
        if greeting:
            self.queue(greeting)

    # --- bytes in -------------------------------------------------------------------------------

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the network are to be put."""
        if self._large is not None:
            return self._large[self._large_filled :]
        return self._view[self._end :]

    def received_bytes(self, n: int, builder: BatchBuilder, now: float) -> None:
        """`n` bytes were put into the buffer: decode what is complete.

        Raises
        ------
        ProtocolError
            The bytes are not Channel Access. The circuit is then to be closed; events that were
            decoded before are in `builder`.
        """
        self.received += n
        self.last_heard = now
        self.echo_sent = None
        if self.state == CircuitState.UNRESPONSIVE:
            self._responsive(builder)
        if self._large is None:
            self._end += n
            self._decode(builder)
            return
        self._large_filled += n
        if self._large_filled == len(self._large):
            payload, self._large = self._large, None
            self._handle(*self._large_header, payload, 0, len(payload), builder, keep=True)

    def feed(self, data: bytes, builder: BatchBuilder, now: float = 0.0) -> None:
        """`get_buffer` and `received_bytes` for bytes that are at hand already."""
        view = memoryview(data)
        while len(view):
            buffer = self.get_buffer()
            n = min(len(buffer), len(view))
            buffer[:n] = view[:n]
            view = view[n:]
            self.received_bytes(n, builder, now)

    def _decode(self, builder: BatchBuilder) -> None:
        buffer, end, pos, singles = self._buffer, self._end, 0, 0
        unpack = protocol.unpack_header
        try:
            while end - pos >= HEADER_SIZE:
                command, size, data_type, count, p1, p2 = unpack(buffer, pos)
                start = pos + HEADER_SIZE
                if size == 0xFFFF and count == 0:
                    if end - start < 8:
                        break
                    size, count = protocol.unpack_large(buffer, start)
                    start += 8
                    protocol.check_size(size, f"a server's message {command}")
                following = start + size
                if following > end:
                    if size > LARGE:
                        self._begin_large(start, end, size, (command, data_type, count, p1, p2))
                        pos = end
                    break
                if end - pos >= MIN_RUN * (following - pos):
                    n = self._run_length(pos, following - pos, end, size, start)
                    if n >= MIN_RUN:
                        self._decode_run(pos, n, command, size, data_type, count, builder)
                        pos += n * (following - pos)
                        singles = 0
                        continue
                    singles += 1
                    if singles > 16 and size and end - pos > 4096:
                        singles = 0
                        begin, pos = pos, self._decode_mixed(pos, end, builder)
                        if pos > begin:
                            continue
                self._handle(command, data_type, count, p1, p2, buffer, start, size, builder)
                pos = following
        finally:
            # What is left is the beginning of a message; it moves to the front.
            left = end - pos
            if pos and left:
                buffer[:left] = buffer[pos:end]
            self._end = left

    def _begin_large(self, start: int, end: int, size: int, header: tuple[int, int, int, int, int]) -> None:
        if header[0] not in (Command.READ_NOTIFY, Command.EVENT_ADD):
            raise ProtocolError(f"the server {self.name} sent message {header[0]} with a payload of {size} bytes")
        self._large = memoryview(np.empty(size, np.uint8)).cast("B")
        self._large[: end - start] = self._view[start:end]
        self._large_filled = end - start
        self._large_header = header

    def _run_length(self, pos: int, stride: int, end: int, size: int, start: int) -> int:
        """How many messages from `pos` on have the same header, or (if it has no payload) none."""
        if start - pos != HEADER_SIZE:
            return 1
        buffer = self._buffer
        if size == 0:
            sizes = np.ndarray(((end - pos) >> 4,), "<u2", buffer, pos + 2, (16,))
            n = int((sizes != 0).argmax())
            return n or (len(sizes) if not sizes[0] else 0)
        if buffer[pos : pos + 8] != buffer[pos + stride : pos + stride + 8]:
            return 1
        possible = (end - pos) // stride
        heads = np.ndarray((possible,), "<u8", buffer, pos, (stride,))
        key = heads[0]
        if possible > 64 and (heads[:64] != key).any():
            heads = heads[:64]
        other = heads != key
        n = int(other.argmax())
        return n if other[n] else len(heads)

    def _decode_run(
        self, pos: int, n: int, command: int, size: int, data_type: int, count: int, builder: BatchBuilder
    ) -> None:
        if size == 0:
            self._control(np.frombuffer(self._buffer, protocol.HEADER, n, pos).copy(), builder)
        elif command == Command.EVENT_ADD or command == Command.READ_NOTIFY:
            form = layout(data_type, count, size)
            self._data(command, np.frombuffer(self._buffer, form.dtype, n, pos), form, builder)
        else:
            stride = HEADER_SIZE + size
            for at in range(pos, pos + n * stride, stride):
                _, _, _, _, p1, p2 = protocol.unpack_header(self._buffer, at)
                self._handle(command, data_type, count, p1, p2, self._buffer, at + HEADER_SIZE, size, builder)

    def _decode_mixed(self, pos: int, end: int, builder: BatchBuilder) -> int:
        """Decode values of mixed forms, grouped by form, keeping their order; returns where it stopped."""
        buffer, unpack = self._buffer, protocol.unpack_header
        groups: dict[tuple[int, int, int, int], list[int]] = {}
        while end - pos >= HEADER_SIZE:
            command, size, data_type, count, _, _ = unpack(buffer, pos)
            following = pos + HEADER_SIZE + size
            if command not in (Command.EVENT_ADD, Command.READ_NOTIFY) or not 0 < size < LARGE or following > end:
                break
            groups.setdefault((command, data_type, count, size), []).append(pos)
            pos = following
        whole = np.frombuffer(buffer, np.uint8)
        records, places = [], []
        for (command, data_type, count, size), starts in groups.items():
            form = layout(data_type, count, size)
            at = np.array(starts, np.int64)
            matrix = whole[at[:, None] + np.arange(form.dtype.itemsize)]
            part = self._data_records(command, matrix.view(form.dtype)[:, 0], form, builder, at)
            records.append(part[0])
            places.append(part[1])
        if records:
            merged = np.concatenate(records)
            builder.extend(merged[np.argsort(np.concatenate(places), kind="stable")])
        return pos

    # --- messages that carry values -------------------------------------------------------------

    def _data(self, command: int, messages: npt.NDArray[np.void], form: object, builder: BatchBuilder) -> None:
        at = np.arange(len(messages), dtype=np.int64)
        records, _ = self._data_records(command, messages, form, builder, at)
        if len(records):
            builder.extend(records)

    def _data_records(self, command, messages, form, builder, at):  # type: ignore[no-untyped-def]
        """Records of value messages of one form, and which of the positions `at` they came from."""
        p2 = messages["p2"]
        if command == Command.EVENT_ADD:
            subscriptions = self._subscriptions
            known = p2 < subscriptions.capacity
            ids = p2 if known.all() else np.where(known, p2, 0)
            slots = subscriptions.slot[ids]
            known &= (slots != subscriptions.FREE) & subscriptions.sent[ids]
            kinds = subscriptions.kind[ids]
            labels = subscriptions.label[ids]
            failed = Kind.REFUSED
        else:
            requests = self._requests
            rows = p2.astype(np.int64) & (requests.capacity - 1)
            known = (requests.kind[rows] == RequestKind.READ) & (requests.id[rows] == p2)
            slots = requests.slot[rows]
            kinds = Kind.READ
            failed = Kind.FAILED
            requests.release(rows[known])
        if not known.all():
            self.stray += int(len(known) - known.sum())
            messages, slots, at = messages[known], slots[known], at[known]
            if command == Command.EVENT_ADD:
                kinds, labels = kinds[known], labels[known]
        records = data_records(messages, form, slots, kinds, builder)
        if command == Command.EVENT_ADD:
            records["token"] = labels
        failed_rows(records, messages["p1"], failed)
        if form.inline and form.dbr_type == 6:
            unsigned_chars(records, self._channels.native_type[slots] == _CHAR)
        return records, at

    # --- single messages ------------------------------------------------------------------------

    def _handle(
        self,
        command: int,
        data_type: int,
        count: int,
        p1: int,
        p2: int,
        payload: bytearray | memoryview,
        start: int,
        size: int,
        builder: BatchBuilder,
        keep: bool = False,
    ) -> None:
        if command == Command.READ_NOTIFY:
            self._read_reply(data_type, count, p1, p2, payload, start, size, builder, keep)
        elif command == Command.EVENT_ADD:
            self._update(data_type, count, p1, p2, payload, start, size, builder, keep)
        elif command == Command.WRITE_NOTIFY:
            self._written(p1, p2, builder)
        elif command == Command.ERROR:
            self._error(p1, p2, payload, start, size, builder)
        elif command == Command.SEARCH:
            ip = self.address[0] if p1 == protocol.SENDER_ADDRESS else ".".join(map(str, p1.to_bytes(4, "big")))
            self.found.append((p2, (ip, data_type), count))
        elif size == 0 or command in (Command.VERSION, Command.ECHO):
            record = np.zeros(1, protocol.HEADER)
            record[0] = (command, 0, data_type, min(count, 0xFFFF), p1, p2)
            self._control(record, builder, count)
        else:
            raise ProtocolError(f"the server {self.name} sent message {command} with a payload of {size} bytes")

    def _read_reply(
        self,
        data_type: int,
        count: int,
        p1: int,
        p2: int,
        payload: bytearray | memoryview,
        start: int,
        size: int,
        builder: BatchBuilder,
        keep: bool,
    ) -> None:
        requests = self._requests
        row = p2 & (requests.capacity - 1)
        if requests.kind[row] != RequestKind.READ or requests.id[row] != p2:
            self.stray += 1
            return
        requests.kind[row] = RequestKind.FREE
        slot = int(requests.slot[row])
        if p1 != ECA_NORMAL:
            builder.rows.append((slot, Kind.FAILED, 0, min(p1 >> 3, 255), 0, time.time_ns(), 0.0, 0, p2))
            return
        data_row(payload, start, layout(data_type, count, size), slot, Kind.READ, p2, builder, keep)
        self._mend_char(slot, data_type, builder)

    def _update(
        self,
        data_type: int,
        count: int,
        p1: int,
        p2: int,
        payload: bytearray | memoryview,
        start: int,
        size: int,
        builder: BatchBuilder,
        keep: bool,
    ) -> None:
        subscriptions = self._subscriptions
        if p2 >= subscriptions.capacity or not subscriptions.sent[p2]:
            self.stray += size > 0  # without payload it confirms a cancel
            return
        slot, label = int(subscriptions.slot[p2]), int(subscriptions.label[p2])
        if p1 != ECA_NORMAL:
            builder.rows.append((slot, Kind.REFUSED, 0, min(p1 >> 3, 255), 0, time.time_ns(), 0.0, 0, label))
            return
        if size == 0:
            return
        kind = int(subscriptions.kind[p2])
        data_row(payload, start, layout(data_type, count, size), slot, kind, label, builder, keep)
        self._mend_char(slot, data_type, builder)

    def _mend_char(self, slot: int, data_type: int, builder: BatchBuilder) -> None:
        if data_type == 20 and self._channels.native_type[slot] == _CHAR:
            row = builder.rows[-1]
            if isinstance(row[6], float) and row[6] < 0:
                builder.rows[-1] = (*row[:6], row[6] + 256.0, *row[7:])

    def _written(self, p1: int, p2: int, builder: BatchBuilder) -> None:
        requests = self._requests
        row = p2 & (requests.capacity - 1)
        if requests.kind[row] != RequestKind.WRITE or requests.id[row] != p2:
            self.stray += 1
            return
        requests.kind[row] = RequestKind.FREE
        kind = Kind.WRITTEN if p1 == ECA_NORMAL else Kind.FAILED
        builder.rows.append((int(requests.slot[row]), kind, 0, min(p1 >> 3, 255), 0, time.time_ns(), 0.0, 0, p2))

    def _error(
        self, p1: int, p2: int, payload: bytearray | memoryview, start: int, size: int, builder: BatchBuilder
    ) -> None:
        """The server refused a request; its header is in the payload."""
        if size < HEADER_SIZE:
            raise ProtocolError(f"the server {self.name} sent an error of {size} bytes")
        command, _, _, _, _, id_ = protocol.unpack_header(payload, start)
        number = min(p2 >> 3, 255)
        now = time.time_ns()
        if command in (Command.READ_NOTIFY, Command.WRITE, Command.WRITE_NOTIFY):
            row = self._requests.row(id_)
            if row >= 0:
                self._requests.release(row)
                slot = int(self._requests.slot[row])
                builder.rows.append((slot, Kind.FAILED, 0, number, 0, now, 0.0, 0, id_))
            elif command == Command.WRITE and p1 < len(self._channels.names):
                # A put without completion: nobody waits, but its failure is told and counted.
                builder.rows.append((p1, Kind.FAILED, 0, number, 0, now, 0.0, 0, 0))
        elif command == Command.EVENT_ADD and id_ < self._subscriptions.capacity and self._subscriptions.sent[id_]:
            slot, label = int(self._subscriptions.slot[id_]), int(self._subscriptions.label[id_])
            builder.rows.append((slot, Kind.REFUSED, 0, number, 0, now, 0.0, 0, label))

    # --- messages without payload, in columns ---------------------------------------------------

    def _control(self, messages: npt.NDArray[np.void], builder: BatchBuilder, count: int | None = None) -> None:
        commands = messages["command"]
        kinds = [int(commands[0])] if len(messages) == 1 else np.unique(commands).tolist()
        if Command.ACCESS_RIGHTS in kinds:  # before the creations that follow them
            self._access_rights(messages[commands == Command.ACCESS_RIGHTS], builder)
        for command in kinds:
            part = messages if len(kinds) == 1 else messages[commands == command]
            if command == Command.CREATE_CHAN:
                self._created(part, builder, count)
            elif command == Command.WRITE_NOTIFY:
                self._written_many(part, builder)
            elif command == Command.EVENT_ADD or command == Command.READ_NOTIFY:
                for _, _, data_type, n, p1, p2 in part.tolist():
                    self._handle_empty(command, data_type, n, p1, p2, builder)
            elif command == Command.CREATE_CH_FAIL or command == Command.SERVER_DISCONN:
                self._lost(part["p1"], Reason.DELETED, builder)
            elif command == Command.VERSION:
                self.minor_version = int(part["count"][-1])
            elif command not in (
                *(Command.ACCESS_RIGHTS, Command.ECHO, Command.CLEAR_CHANNEL, Command.READ_SYNC),
                *(Command.NOT_FOUND, Command.EVENT_CANCEL),
            ):
                raise ProtocolError(f"the server {self.name} sent message {command}, which no server sends")

    def _handle_empty(self, command: int, data_type: int, n: int, p1: int, p2: int, builder: BatchBuilder) -> None:
        if command == Command.EVENT_ADD:
            self._update(data_type, n, p1, p2, b"", 0, 0, builder, False)  # type: ignore[arg-type]
        else:
            self._read_reply(data_type, n, p1, p2, b"", 0, 0, builder, False)  # type: ignore[arg-type]

    def _mine(self, cids: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Which client ids are channels on this circuit."""
        known = cids < len(self._channels.names)
        if not known.all():
            cids = np.where(known, cids, 0)
            if not len(self._channels.names):
                return known
        return known & (self._channels.circuit[cids] == self.index)

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
        known = (requests.kind[rows] == RequestKind.WRITE) & (requests.id[rows] == messages["p2"])
        self.stray += int(len(known) - known.sum())
        messages, rows = messages[known], rows[known]
        requests.release(rows)
        records = event_records(requests.slot[rows], Kind.WRITTEN, 0)
        records["token"] = messages["p2"]
        failed_rows(records, messages["p1"], Kind.FAILED)
        builder.extend(records)

    def _lost(self, cids: npt.NDArray[np.uint32], reason: Reason, builder: BatchBuilder) -> None:
        slots = cids[self._mine(cids)].astype(np.uint32)
        self.disconnect(slots, reason, builder)
        self.orphans.append(slots)

    # --- the connection -------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """``host:port`` of the server."""
        return f"{self.address[0]}:{self.address[1]}"

    def slots(self) -> Slots:
        """The channels of this circuit."""
        return np.flatnonzero(self._channels.circuit == self.index).astype(np.uint32)

    def opened(self, now: float) -> None:
        """The TCP connection is there."""
        self.state = CircuitState.UP
        self.last_heard = now

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
        self._subscriptions.sent[ids] = False

    def close(self, reason: Reason, builder: BatchBuilder) -> Slots:
        """The TCP connection is gone; returns the channels that are to be searched again."""
        self.state = CircuitState.CLOSED
        self.out.clear()
        slots = self.slots()
        self.disconnect(slots, reason, builder)
        return slots

    def check(self, now: float, builder: BatchBuilder) -> float:
        """Look at the clock: send an echo, or call the server unresponsive; returns when to look again."""
        if self.state != CircuitState.UP:
            return now + self.conn_tmo
        if self.echo_sent is None:
            due = self.last_heard + self.conn_tmo
            if now < due:
                return due
            self.echo_sent = now
            # A server of version 4.2 or older knows no echo, but answers READ_SYNC.
            command = Command.ECHO if self.minor_version >= 3 else Command.READ_SYNC
            self.queue(protocol.message(command))
        due = self.echo_sent + ECHO_TIMEOUT
        if now < due:
            return due
        self._unresponsive(builder)
        return now + self.conn_tmo

    def heard_beacon(self, now: float) -> None:
        """A beacon of this server counts as a word from it, unless we are waiting for its echo."""
        if self.echo_sent is None:
            self.last_heard = now

    def _unresponsive(self, builder: BatchBuilder) -> None:
        self.state = CircuitState.UNRESPONSIVE
        slots = self.slots()
        slots = slots[self._channels.state[slots] == State.CONNECTED]
        self._channels.state[slots] = State.UNRESPONSIVE
        if len(slots):
            builder.extend(event_records(slots, Kind.DISCONNECTED, Reason.UNRESPONSIVE))

    def _responsive(self, builder: BatchBuilder) -> None:
        self.state = CircuitState.UP
        slots = self.slots()
        slots = slots[self._channels.state[slots] == State.UNRESPONSIVE]
        # Cancel and subscribe again: the server then sends what there is now.
        self.cancel_subscriptions(self._subscriptions.by_slot.of(slots))
        self._connected(slots, builder)

    # --- requests -------------------------------------------------------------------------------

    def queue(self, data: Buffer) -> None:
        """Put bytes into the queue of what is to be sent."""
        view = memoryview(data).cast("B") if isinstance(data, np.ndarray) else memoryview(data)
        if len(view):
            self.out.append(view)

    def create(self, slots: Slots) -> None:
        """Create these channels, which the server says it has."""
        channels = self._channels
        channels.state[slots] = State.CREATING
        channels.circuit[slots] = self.index
        self.queue(channels.create_messages(slots))

    def clear(self, slots: Slots) -> None:
        """Clear these channels, which must be created."""
        self.queue(protocol.headers(Command.CLEAR_CHANNEL, 0, 0, self._channels.sid[slots], slots))

    def send_reads(self, rows: npt.NDArray[np.int64]) -> None:
        """Send the requests in these rows, whose channels are connected on this circuit."""
        if not len(rows):
            return
        requests = self._requests
        slots = requests.slot[rows]
        requests.circuit[rows] = self.index
        types, counts = self._types(slots, requests.dbr_type[rows], requests.count[rows])
        sids, ids = self._channels.sid[slots], requests.id[rows]
        for data_type, count, part in _groups(types, counts):
            if count > 0xFFFF:
                for sid, id_ in zip(sids[part].tolist(), ids[part].tolist(), strict=True):
                    self.queue(protocol.message(Command.READ_NOTIFY, b"", data_type, count, sid, id_))
            else:
                self.queue(protocol.headers(Command.READ_NOTIFY, data_type, count, sids[part], ids[part]))

    def send_read(self, slot: int, id_: int, data_type: int, count: int) -> None:
        """Send one read of a connected channel; the fast path of a single get."""
        self.out.append(
            memoryview(
                protocol.pack_header(Command.READ_NOTIFY, 0, data_type, count, int(self._channels.sid[slot]), id_)
            )
        )

    def send_subscriptions(self, ids: npt.NDArray[np.integer]) -> None:
        """Send these subscriptions, whose channels are connected on this circuit."""
        subscriptions = self._subscriptions
        ids = ids[~subscriptions.sent[ids]] if len(ids) else ids
        if not len(ids):
            return
        slots = subscriptions.slot[ids]
        types, counts = self._types(slots, subscriptions.dbr_type[ids], np.zeros(len(ids), np.uint32))
        subscriptions.sent[ids] = True
        subscriptions.sent_type[ids] = types
        subscriptions.sent_count[ids] = counts
        sids = self._channels.sid[slots]
        for data_type, count, part in _groups(types, counts):
            requests = protocol.event_add_requests(
                data_type, min(count, 0xFFFF), sids[part], ids[part].astype(np.uint32), subscriptions.mask[ids[part]]
            )
            if count <= 0xFFFF:
                self.queue(requests)
                continue
            for request in requests:
                body = request.tobytes()[HEADER_SIZE:]
                sid, id_ = int(request["p1"]), int(request["p2"])
                self.queue(protocol.message(Command.EVENT_ADD, body, data_type, count, sid, id_))

    def cancel_subscriptions(self, ids: npt.NDArray[np.integer]) -> None:
        """Cancel those of these subscriptions that are at the server."""
        subscriptions = self._subscriptions
        ids = ids[subscriptions.sent[ids]] if len(ids) else ids
        if not len(ids):
            return
        subscriptions.sent[ids] = False
        sids = self._channels.sid[subscriptions.slot[ids]]
        for data_type, count, part in _groups(subscriptions.sent_type[ids], subscriptions.sent_count[ids]):
            wanted = min(count, 0xFFFF)
            part_ids = ids[part].astype(np.uint32)
            self.queue(protocol.headers(Command.EVENT_CANCEL, data_type, wanted, sids[part], part_ids))

    def write(self, slot: int, id_: int, dbr_type: int, count: int, payload: bytes, notify: bool) -> None:
        """Write one value in the form of `dbr_type`."""
        command = Command.WRITE_NOTIFY if notify else Command.WRITE
        self.queue(protocol.message(command, payload, dbr_type, count, int(self._channels.sid[slot]), id_))

    def write_doubles(
        self, slots: Slots, ids: npt.NDArray[np.uint32], values: npt.NDArray[np.float64], notify: bool
    ) -> None:
        """Write one number to each of these channels; the server converts it to the channel's type."""
        command = Command.WRITE_NOTIFY if notify else Command.WRITE
        self.queue(protocol.write_double_requests(command, self._channels.sid[slots], ids, values))

    def set_events(self, on: bool) -> None:
        """Flow control: ask the server to hold back updates (it merges them), or to resume."""
        if self.events_off == on:
            self.events_off = not on
            self.queue(protocol.message(Command.EVENTS_ON if on else Command.EVENTS_OFF))

    def send_search(self, slots: Slots) -> None:
        """Ask a name server for these channels."""
        names = self._channels.names
        reply = protocol.SearchReply.DO_REPLY
        for slot in slots.tolist():
            self.queue(protocol.text_message(Command.SEARCH, names[slot], slot, slot, reply, protocol.MINOR_VERSION))

    def _types(
        self, slots: Slots, types: npt.NDArray[np.uint8], counts: npt.NDArray[np.uint32]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """Fill in what was left to us to choose, for this server's version."""
        ctrl = types == CTRL
        if ctrl.any():
            chosen, chosen_counts = self._channels.ctrl_types(slots)
            types = np.where(ctrl, chosen, types)
            counts = np.where(ctrl, chosen_counts, counts)
        auto = types == AUTO
        if auto.any():
            chosen, chosen_counts = self._channels.time_types(slots)
            types = np.where(auto, chosen, types)
            counts = np.where(auto & (counts == 0), chosen_counts, counts)
        if self.minor_version < 13:
            counts = np.where(counts == 0, self._channels.native_count[slots], counts)
        return types, counts


def greeting(user: str, host: str, priority: int = 0) -> bytes:
    """The messages that a client opens a circuit with."""
    return b"".join(
        (
            protocol.message(Command.VERSION, data_type=priority, count=protocol.MINOR_VERSION),
            protocol.text_message(Command.HOST_NAME, host),
            protocol.text_message(Command.CLIENT_NAME, user),
        )
    )


def event_records(slots: Slots, kind: int, status: int | npt.NDArray[np.uint8]) -> Records:
    """Events without a value that happen now, one for each slot."""
    records = np.zeros(len(slots), EVENT)
    records["slot"] = slots
    records["kind"] = kind
    records["status"] = status
    records["timestamp"] = time.time_ns()
    return records


def _groups(
    types: npt.NDArray[np.uint8], counts: npt.NDArray[np.uint32]
) -> list[tuple[int, int, npt.NDArray[np.int64] | slice]]:
    """The different (type, count) pairs, each with where it stands."""
    keys = (types.astype(np.int64) << 32) | counts
    if (keys == keys[0]).all():
        return [(int(types[0]), int(counts[0]), slice(None))]
    return [(int(key) >> 32, int(key) & 0xFFFFFFFF, np.flatnonzero(keys == key)) for key in np.unique(keys)]
