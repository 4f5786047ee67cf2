"""The link to a shard in a worker process: takes its stream, and holds out when the worker does not.

How requests are made is in `asking`. Whether the worker lives is decided in `supervisor`, which tells the link; what
to do about it is decided here.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.broker.client import BrokerClient
from daqca.broker.messages import Message, MessageKind
from daqca.broker.positions import Follower, Gap, Position
from daqca.ca.eca import ECA, message_number
from daqca.errors import TransportError
from daqca.events import EVENT, Batch, Kind, Reason, Records
from daqca.link import Deliver, Slots
from daqca.workers.asking import NO_WORKER, READS, Asking, State
from daqca.workers.channels import lost_event
from daqca.workers.requests import Code
from daqca.workers.routes import is_answer

log = logging.getLogger("daqca.workers")

ANSWER_LOST = message_number(ECA.TIMEOUT)
_SMALL = 4
_NOBODY = b""
_IS_MONITORED = np.zeros(256, np.bool_)
"""By kind: whether it is an event of a subscription."""
_IS_MONITORED[[Kind.UPDATE, Kind.REFUSED, Kind.PROPERTY]] = True


class WorkerLink(Asking):
    """One shard in a worker process; see `daqca.link.Link`.

    Parameters
    ----------
    number
        Of the worker in its pool.
    client
        What carries requests and messages.
    deliver
        Called with every batch, in the order of the stream, under `lock`, mostly on the client's receive thread.

    Attributes
    ----------
    is_up
        Set once a worker has answered for the first time.
    heard
        When the worker was last heard, by ``time.monotonic``.
    """

    def __init__(self, number: int, client: BrokerClient, deliver: Deliver):
        super().__init__(number, client, deliver)
        self.is_up = threading.Event()
        self.heard = time.monotonic()
        self._events = self._messages = self._bytes = 0
        self._gaps = self._lost = self._late = self._workers = 0
        self._last = self._former = _NOBODY
        self._stale: Slots = np.zeros(0, np.uint32)
        self._wants_resync = False
        self._shard = Follower(Position())
        self._private = Follower(Position())

    def _counters(self) -> dict[str, Any]:
        """Since the start. ``late``: events of a worker that came when it was taken for dead (and told as lost)."""
        return {
            "received_events": self._events,
            "received_messages": self._messages,
            "received_bytes": self._bytes,
            "gaps": self._gaps,
            "lost": self._lost,
            "late": self._late,
            "restarts": max(self._workers - 1, 0),
        }

    def quit(self) -> None:
        """Ask the worker to end."""
        self._send(Code.QUIT, [], [])

    def forked(self) -> None:
        """In the child of a fork: the worker is the parent's, and so is the lock, whoever held it."""
        self.lock = threading.RLock()
        self.state = State.CLOSED

    # --- the life of the worker, told by its supervisor -----------------------------------------

    def expect(self, address: bytes) -> None:
        """A worker with this address is about to be started."""
        with self.lock:
            self._client.detach(self._former)
            self._former, self._address = self._last, address
            self._last = address
            self._workers += 1
            self.heard = time.monotonic()
            self._client.attach(address, self)

    def fell_silent(self) -> None:
        """The worker has not been heard for too long: its channels count as lost, what was asked of it has failed."""
        with self.lock:
            if self.state == State.UP:
                self.state = State.SILENT
                self._stale, records = self._channels.disconnect(Reason.WORKER_LOST)
                self._fail_all(records)

    def died(self) -> None:
        """The worker is dead; another one may be expected."""
        with self.lock:
            if self.state == State.UP:
                _, records = self._channels.disconnect(Reason.WORKER_LOST)
                self._fail_all(records)
            if self.state != State.CLOSED:
                self.state = State.DOWN
            self._address = _NOBODY
            self._stale = np.zeros(0, np.uint32)
            self._held = [one for one in self._held if one[0] in READS]
            self._channels.forget_worker()

    def _fail_all(self, disconnections: Records) -> None:
        self._held.clear()
        self._hand_on(np.concatenate([disconnections, self._pending.fail_all(NO_WORKER)]))
        self._answer_nothing()

    def _welcomed(self, message: Message) -> None:
        """The worker is there: tell it what it is to do."""
        self._shard = Follower(_position(message.body))
        self._private = Follower(Position(message.number + 1, message.before))
        self._wants_resync = False
        self.state = State.UP
        self.is_up.set()
        held, self._held = self._held, []
        if len(self._channels):
            self._tell(Code.ADD, [0, self._channels.names])
        for mask, column in self._masks.items():
            slots = np.flatnonzero(column).astype(np.uint32)
            if len(slots):
                self._tell(Code.SUBSCRIBE, [mask], [slots.tobytes()])
        self._held += held
        self._flush_held()

    def _speaks_again(self) -> None:
        """It was only silent. Its stream goes on where it was, with nothing missing, but late."""
        log.warning("worker %d speaks again", self.number)
        self.state = State.UP
        self._hand_on(self._channels.reconnect(self._stale))
        self._stale = np.zeros(0, np.uint32)
        self._sync += 1
        self._tell(Code.RESYNC, [self._sync, 0])
        self._flush_held()

    # --- the stream -----------------------------------------------------------------------------

    def received(self, message: Message) -> None:
        """Take a message of the stream; called on the client's receive thread."""
        with self.lock:
            if message.stream != self._address or self.state == State.CLOSED:
                self._too_late(message)
                return
            self.heard = time.monotonic()
            self._messages += 1
            self._bytes += message.size
            if self.state == State.DOWN:
                self._meet(message)
                return
            if self.state == State.SILENT:
                self._speaks_again()
            gap = (self._private if message.is_private else self._shard).follow(message)
            if gap is not None:
                self._missed(gap)
            if message.kind == MessageKind.BATCH:
                self._take_batch(message)
            else:
                self._take_control(message)

    def _too_late(self, message: Message) -> None:
        """The worker was taken for dead when this came: its channels are stale already, so it counts as lost."""
        if message.kind == MessageKind.BATCH and self.state != State.CLOSED:
            self._late += message.events
            self._hand_on(lost_event(message.events))

    def _meet(self, message: Message) -> None:
        if message.kind == MessageKind.HEARTBEAT:
            self._send(Code.HELLO, [], [])
        elif message.kind == MessageKind.WELCOME and message.is_private:
            self._welcomed(message)

    def _reach(self, topic: Follower, position: Any) -> None:
        """The worker says how far a topic has come: what is missing before that, was lost."""
        gap = topic.reach(_position(position))
        if gap is not None:
            self._missed(gap)

    def _missed(self, gap: Gap) -> None:
        """Something was dropped on the way: tell how much, and ask how things stand."""
        log.warning("worker %d: %d messages with %d events were lost on the way", self.number, *gap)
        self._gaps += 1
        self._lost += gap.events
        if gap.events:
            self._hand_on(lost_event(gap.events))
        if not self._wants_resync:
            self._wants_resync = True
            self._resync()

    def _resync(self) -> None:
        self._sync += 1
        self._tell(Code.RESYNC, [self._sync, 1])

    def _take_control(self, message: Message) -> None:
        if message.kind == MessageKind.HEARTBEAT:
            mine = message.body.get(self._client.id) if isinstance(message.body, dict) else None
            if self._wants_resync:
                self._resync()  # nothing came of the last one, or more was lost meanwhile
            if mine is not None:
                self._reach(self._private, mine)
            self._flush_held()
        elif message.kind == MessageKind.CHANNELS:
            self._locate(message)
        elif message.kind == MessageKind.STATE:
            self._take_state(message)
        elif message.kind == MessageKind.ANSWER:
            self._take_answer(message)
        elif message.kind == MessageKind.REFUSED:
            self._hand_on(self._pending.fail(*_position(message.body)))

    def _locate(self, message: Message) -> None:
        body = message.body
        if not isinstance(body, list) or len(body) != 3 or not all(type(number) is int for number in body[:2]):
            raise TransportError("a message does not tell where channels are; it is dropped")
        first, n, start = body
        if start is not None:
            slots = np.arange(start, start + n, dtype=np.uint32)
        elif len(message.block) == 4 * n:
            slots = np.frombuffer(message.block, np.uint32)
        else:
            raise TransportError(f"a message tells the places of {n} channels in {len(message.block)} bytes")
        self._channels.locate(first, slots)

    def _take_state(self, message: Message) -> None:
        """The answer to a RESYNC: what was asked and is not known to the worker any more was answered, and lost."""
        body = message.body
        if not isinstance(body, list) or len(body) != 2 or type(body[0]) is not int or len(message.block) % 8:
            raise TransportError("a message does not tell the state of requests; it is dropped")
        if body[0] != self._sync:  # more was lost since it was asked
            return
        self._wants_resync = False
        self._reach(self._shard, body[1])
        kept = np.frombuffer(message.block, np.uint32).reshape(-1, 2)
        self._hand_on(self._pending.compare(kept, body[0], ANSWER_LOST))

    def _take_answer(self, message: Message) -> None:
        body = message.body
        if not isinstance(body, list) or len(body) != 3 or type(body[0]) is not int:
            raise TransportError("a message answers no question; it is dropped")
        self._reach(self._shard, body[2])
        answer = self._questions.get(body[0])
        if answer is not None:
            answer.result = body[1]
            answer.complete()

    def _take_batch(self, message: Message) -> None:
        records: Records = np.frombuffer(message.records, EVENT)
        self._events += len(records)
        body = message.body
        if isinstance(body, list):
            records = records[self._owned(body, len(records))]
        records = self._channels.ours(records, body is not False)
        if body is not False and not message.is_private:
            records = self._wanted(records)
        if not len(records):
            return
        records = self._channels.take_states(records)
        answers = is_answer(records)
        if answers.any():
            self._pending.answered(records["token"][answers])
            if len(records) <= _SMALL and answers.all():
                batch = Batch(records, message.block)
                self._deliver(self, Batch(None, message.block, list(batch)))
                return
        if len(records):
            self._deliver(self, Batch(records, message.block))

    def _owned(self, body: list[Any], n: int) -> npt.NDArray[np.bool_]:
        """Which events are for everybody or for us, of a message with answers to several clients."""
        if len(body) != 2 or not isinstance(body[0], list) or not isinstance(body[1], bytes) or len(body[1]) != n:
            raise TransportError("a message does not tell whose answers it has; it is dropped")
        owners = np.frombuffer(body[1], np.uint8)
        mine = body[0].index(self._client.id) if self._client.id in body[0] else 255
        chosen: npt.NDArray[np.bool_] = (owners == 255) | (owners == mine)
        return chosen

    def _wanted(self, records: Records) -> Records:
        """The events, less the updates of subscriptions that only other clients have."""
        wanted = ~_IS_MONITORED[records["kind"]]
        for mask, column in self._masks.items():
            slots = records["slot"]
            inside = slots < len(column)
            wanted |= (records["token"] == mask) & inside & column[np.where(inside, slots, 0)]
        return records if wanted.all() else records[wanted]


def _position(body: Any) -> Position:
    if not isinstance(body, list) or len(body) != 2 or not all(type(number) is int for number in body):
        raise TransportError("a message does not tell how far its stream has come; it is dropped")
    return Position(*body)
