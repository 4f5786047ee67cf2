"""What a client asks of one server, as bytes: the requests of a circuit, in columns and one by one.

Everything is put into a queue; the context sends it. Replies are in `circuit`.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from daqca.ca import protocol
from daqca.ca.channels import NO_CIRCUIT, Channels, Slots, State, Subscriptions
from daqca.ca.decode import METADATA
from daqca.ca.protocol import HEADER_SIZE, Command
from daqca.ca.requests import Requests
from daqca.events import different
from daqca.link import AUTO, CTRL, NATIVE, NATIVE_CTRL

_TIME_STRING, _CTRL_STRING = 14, 28
Buffer = bytes | memoryview | npt.NDArray[np.void]


class Requester:
    """The outgoing side of one circuit.

    Attributes
    ----------
    out
        What is to be sent, in order.
    sent
        Bytes that were sent (see `was_sent`).
    minor_version
        Of the server; older ones do not know every request.
    """

    def __init__(self, index: int, channels: Channels, subscriptions: Subscriptions, requests: Requests):
        self.index = index
        self.minor_version = protocol.MINOR_VERSION
        self.events_off = False
        self.out: deque[memoryview] = deque()
        self.sent = 0
        self._queued = 0
        self._unsent: deque[tuple[int, Slots]] = deque()
        """Of values without completion: how much had been queued with them, and their channels."""
        self._channels = channels
        self._subscriptions = subscriptions
        self._requests = requests

    def queue(self, data: Buffer) -> None:
        """Put bytes into the queue of what is to be sent."""
        view = memoryview(data.data).cast("B") if isinstance(data, np.ndarray) else memoryview(data)
        if len(view):
            self.out.append(view)
            self._queued += len(view)

    def queue_header(self, header: bytes) -> None:
        """`queue` for a message that is a header alone."""
        self.out.append(memoryview(header))
        self._queued += protocol.HEADER_SIZE

    def was_sent(self, n: int) -> None:
        """`n` bytes of the queue were sent."""
        self.sent += n
        out = self.out
        if len(out) == 1 and n == len(out[0]):  # as it nearly always is
            out.clear()
            return
        while out and n >= len(out[0]):
            n -= len(out.popleft())
        if n:
            out[0] = out[0][n:]

    def _note_write(self, slots: Slots) -> None:
        """Values were queued that no server will confirm: while they are here, they can be lost with the circuit."""
        while self._unsent and self._unsent[0][0] <= self.sent:
            self._unsent.popleft()
        self._unsent.append((self._queued, slots))

    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return self._queued - self.sent

    def unsent_writes(self) -> Slots:
        """The channels of values without completion that were not, or not wholly, sent; one slot for each value."""
        unsent = [slots for end, slots in self._unsent if end > self.sent]
        return np.concatenate(unsent) if unsent else np.empty(0, np.uint32)

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
        sid = int(self._channels.sid[slot])
        if count > 0xFFFF:
            self.queue(protocol.message(Command.READ_NOTIFY, b"", data_type, count, sid, id_))
            return
        self.queue_header(protocol.pack_header(Command.READ_NOTIFY, 0, data_type, count, sid, id_))

    def send_subscriptions(self, ids: npt.NDArray[np.integer]) -> None:
        """Send these subscriptions, whose channels are connected on this circuit."""
        subscriptions = self._subscriptions
        ids = ids[subscriptions.sent_on[ids] == NO_CIRCUIT] if len(ids) else ids
        if not len(ids):
            return
        slots = subscriptions.slot[ids]
        types, counts = self._types(slots, subscriptions.dbr_type[ids], subscriptions.count[ids])
        subscriptions.sent_on[ids] = self.index
        subscriptions.sent_type[ids] = types
        subscriptions.sent_count[ids] = counts
        sids = self._channels.sid[slots]
        # Metadata first: who is told of a value is to know its units already.
        for data_type, count, part in sorted(_groups(types, counts), key=lambda group: group[0] not in METADATA):
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
        ids = ids[subscriptions.sent_on[ids] == self.index] if len(ids) else ids
        if not len(ids):
            return
        subscriptions.cancel(ids, self.index)
        sids = self._channels.sid[subscriptions.slot[ids]]
        for data_type, count, part in _groups(subscriptions.sent_type[ids], subscriptions.sent_count[ids]):
            wanted = min(count, 0xFFFF)
            part_ids = ids[part].astype(np.uint32)
            self.queue(protocol.headers(Command.EVENT_CANCEL, data_type, wanted, sids[part], part_ids))

    def write(self, slot: int, id_: int, dbr_type: int, count: int, payload: bytes, notify: bool) -> None:
        """Write one value in the form of `dbr_type`."""
        command = Command.WRITE_NOTIFY if notify else Command.WRITE
        self.queue(protocol.message(command, payload, dbr_type, count, int(self._channels.sid[slot]), id_))
        if not notify:
            self._note_write(np.array([slot], np.uint32))

    def write_doubles(
        self, slots: Slots, ids: npt.NDArray[np.uint32], values: npt.NDArray[np.float64], notify: bool
    ) -> None:
        """Write one number to each of these channels; the server converts it to the channel's type."""
        command = Command.WRITE_NOTIFY if notify else Command.WRITE
        self.queue(protocol.write_double_requests(command, self._channels.sid[slots], ids, values))
        if not notify:
            self._note_write(slots)

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
        native = (types >= NATIVE) & (types <= NATIVE_CTRL)
        if native.any():
            chosen = self._channels.native_type[slots] + np.uint8(14) * (types - np.uint8(NATIVE))
            types = np.where(native, np.where(chosen == _CTRL_STRING, _TIME_STRING, chosen), types).astype(np.uint8)
        auto = types == AUTO
        if auto.any():
            chosen, chosen_counts = self._channels.time_types(slots)
            types = np.where(auto, chosen, types)
            counts = np.where(auto & (counts == 0), chosen_counts, counts)
        if self.minor_version < 13:
            counts = np.where(counts == 0, self._channels.native_count[slots], counts)
        return types, counts


def _groups(
    types: npt.NDArray[np.uint8], counts: npt.NDArray[np.uint32]
) -> list[tuple[int, int, npt.NDArray[np.int64] | slice]]:
    """The different (type, count) pairs, each with where it stands."""
    keys = (types.astype(np.int64) << 32) | counts
    if (keys == keys[0]).all():
        return [(int(types[0]), int(counts[0]), slice(None))]
    return [(int(key) >> 32, int(key) & 0xFFFFFFFF, np.flatnonzero(keys == key)) for key in different(keys)]
