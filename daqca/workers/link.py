"""The link to a shard in a worker process: what `daqca.link.Link` asks for, made of requests and one stream.

Whether the worker lives is decided in `supervisor`, which tells the link; what to do about it is decided here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.broker.broker import RequestRefused
from daqca.broker.client import BrokerClient
from daqca.broker.messages import Message, MessageKind
from daqca.broker.positions import Follower, Gap, Position
from daqca.errors import ConfigurationError, EngineClosedError, TransportError, WorkerError
from daqca.events import EVENT, Batch, Kind, Reason, Records
from daqca.link import AUTO, Deliver, Slots
from daqca.operations import Operation, Operations, Waiter
from daqca.workers.pending import Pending
from daqca.workers.requests import Code
from daqca.workers.routes import is_answer
from daqca.workers.sharing import grown
from daqca.workers.slotmap import LinkChannels, lost_event

log = logging.getLogger("daqca.workers")

ECA_TIMEOUT, ECA_DISCONN = 10, 24
"""Message numbers of ECA_TIMEOUT (the answer was lost on its way) and ECA_DISCONN (there is no worker to ask)."""
ANSWER_TIMEOUT = 5.0
MAX_NAME = 16_000
_SMALL = 4
_NOBODY = b""


class State(Enum):
    """How it stands with the worker."""

    DOWN = "down"
    """There is none, or it has not answered yet. When it has, it is told of all channels and subscriptions."""
    UP = "up"
    SILENT = "silent"
    """It lives, and has said nothing for too long."""
    CLOSED = "closed"


class _Answer(Waiter):
    """The answer to a question, or None."""

    __slots__ = ("result",)

    def __init__(self) -> None:
        super().__init__()
        self.result: Any = None


_Request = tuple[Code, list[Any], list[Any]]


class WorkerLink:
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
    state
        See `State`.
    heard
        When the worker was last heard, by ``time.monotonic``.
    events, gaps, lost, late
        Since the start: events received; gaps in the stream; events lost in them; events of a worker that came when
        it was taken for dead already (told as lost, too).
    """

    def __init__(self, number: int, client: BrokerClient, deliver: Deliver):
        self.lock = threading.RLock()
        self.operations = Operations()
        self.state = State.DOWN
        self.heard = time.monotonic()
        self.events = self.gaps = self.lost = self.late = self.messages = self.bytes = 0
        self.is_up = threading.Event()
        """Set once a worker has answered for the first time."""
        self._number = number
        self._client = client
        self._deliver = deliver
        self._address = _NOBODY
        self._channels = LinkChannels()
        self._masks: dict[int, npt.NDArray[np.bool_]] = {}
        self._pending = Pending()
        self._next_token = 1
        self._held: list[_Request] = []
        self._stale: Slots = np.zeros(0, np.uint32)
        self._questions: dict[int, _Answer] = {}
        self._question = 0
        self._sync = 0
        self._wants_resync = False
        self._shard = Follower(Position())
        self._private = Follower(Position())

    # --- what an engine asks for ----------------------------------------------------------------

    def add(self, names: Sequence[str]) -> Slots:
        """See `daqca.link.Link.add`."""
        names = list(names)
        for name in names:
            if not name or (len(name) > MAX_NAME // 4 and len(name.encode()) > MAX_NAME):
                raise ConfigurationError(f"{name[:40]!r} cannot be the name of a PV: it is empty or too long")
        with self.lock:
            self._check_open()
            slots = self._channels.add(names)
            if len(slots):
                self._tell(Code.ADD, [int(slots[0]), names])
            return slots

    def read(self, slots: Slots, operation: Operation, dbr_type: int = AUTO, count: int = 0) -> None:
        """See `daqca.link.Link.read`."""
        with self.lock:
            token = self._register(operation, slots)
            if len(slots):
                self._ask(Code.READ, [token, dbr_type, count], [slots.astype(np.uint32, copy=False).tobytes()])

    def read_one(self, slot: int, operation: Operation, timeout: float) -> None:
        """See `daqca.link.Link.read_one`."""
        with self.lock:
            token = self._register(operation, np.array([slot], np.uint32))
            self._ask(Code.READ_ONE, [token, slot], [])
        operation.wait(timeout)

    def write_one(
        self, slot: int, dbr_type: int, count: int, payload: bytes, operation: Operation | None, timeout: float = 0.0
    ) -> None:
        """See `daqca.link.Link.write_one`."""
        self._write(np.array([slot], np.uint32), operation, Code.WRITE_ONE, [slot, dbr_type, count], [payload])
        if operation is not None and timeout > 0:
            operation.wait(timeout)

    def write_doubles(self, slots: Slots, values: npt.NDArray[np.float64], operation: Operation | None) -> None:
        """See `daqca.link.Link.write_doubles`."""
        slots = slots.astype(np.uint32, copy=False)
        numbers = np.ascontiguousarray(values, np.float64)
        self._write(slots, operation, Code.WRITE_DOUBLES, [], [slots.tobytes(), numbers.tobytes()])

    def cancel(self, operation: Operation) -> None:
        """See `daqca.link.Link.cancel`."""
        with self.lock:
            self.operations.discard(operation)
            self._pending.discard(operation.first)
            held = len(self._held)
            self._held = [one for one in self._held if _token(one) != operation.first]
            if len(self._held) == held and self.state == State.UP:
                self._tell(Code.CANCEL, [operation.first])

    def subscribe(self, slots: Slots, mask: int) -> None:
        """See `daqca.link.Link.subscribe`."""
        self._subscription(Code.SUBSCRIBE, slots, mask, True)

    def unsubscribe(self, slots: Slots, mask: int) -> None:
        """See `daqca.link.Link.unsubscribe`. What is on its way already still comes."""
        self._subscription(Code.UNSUBSCRIBE, slots, mask, False)

    def hosts(self, slots: Slots) -> list[str]:
        """See `daqca.link.Link.hosts`.

        Everything that the worker has published before it answers, is delivered before this returns.

        Raises
        ------
        WorkerError
            The worker does not answer.
        """
        answer = self._question_worker(Code.HOSTS, [slots.astype(np.uint32, copy=False).tobytes()])
        if isinstance(answer, list) and len(answer) == len(slots):
            return answer
        if self.state != State.UP:
            return [""] * len(slots)
        raise WorkerError(f"worker {self._number} does not tell the servers of its channels; is it overloaded?")

    def stats(self) -> dict[str, Any]:
        """See `daqca.link.Link.stats`: those of the worker, if it answers, and of this end."""
        answer = self._question_worker(Code.STATS, [])
        of_worker = answer if isinstance(answer, dict) else {}
        return {
            **of_worker,
            "worker": self._number,
            "state": self.state.value,
            "channels": len(self._channels),
            "received_events": self.events,
            "received_messages": self.messages,
            "received_bytes": self.bytes,
            "gaps": self.gaps,
            "lost": self.lost,
            "late": self.late,
            "malformed": self._client.malformed,
        }

    def close(self) -> None:
        """See `daqca.link.Link.close`. The worker is ended by its pool."""
        with self.lock:
            self.state = State.CLOSED
            self._answer_nothing()

    def quit(self) -> None:
        """Ask the worker to end."""
        self._send(Code.QUIT, [], [])

    def forked(self) -> None:
        """In the child of a fork: the worker is the parent's, and so is the lock, whoever held it."""
        self.lock = threading.RLock()
        self.state = State.CLOSED

    def _check_open(self) -> None:
        if self.state == State.CLOSED:
            raise EngineClosedError("this engine is closed; make a new one")

    # --- requests -------------------------------------------------------------------------------

    def _register(self, operation: Operation, slots: Slots) -> int:
        """Give an operation its tokens, before its requests are sent; returns the first."""
        self._check_open()
        if self._next_token + operation.n > 0xFFFFFFFF:
            self._next_token = 1
        token = self._next_token
        self._next_token += operation.n
        self.operations.add(token, operation)
        if operation.n:
            self._pending.add(token, slots, self._sync)
        return token

    def _send(self, code: Code, arguments: list[Any], frames: list[Any]) -> bool:
        try:
            self._client.request(self._address, code, arguments, frames)
        except RequestRefused as error:
            log.debug("%s", error)
            return False
        return True

    def _ask(self, code: Code, arguments: list[Any], frames: list[Any]) -> None:
        """Send a request, now or when the worker is there."""
        if self.state != State.UP or self._held or not self._send(code, arguments, frames):
            self._held.append((code, arguments, frames))

    def _tell(self, code: Code, arguments: list[Any], frames: list[Any] | None = None) -> None:
        """Send what a new worker is told anyway."""
        if self.state != State.DOWN:
            self._ask(code, arguments, frames or [])

    def _write(
        self, slots: Slots, operation: Operation | None, code: Code, arguments: list[Any], frames: list[Any]
    ) -> None:
        with self.lock:
            self._check_open()
            token = self._register(operation, slots) if operation is not None else 0
            # Late is worse than never: what cannot be written now fails now.
            if not len(slots) or (self.state == State.UP and self._send(code, [token, *arguments], frames)):
                return
            records = np.zeros(len(slots), EVENT)
            records["slot"] = slots
            records["kind"] = Kind.FAILED
            records["status"] = ECA_DISCONN
            records["timestamp"] = time.time_ns()
            if token:
                records["token"] = np.arange(token, token + len(slots), dtype=np.uint32)
                self._pending.discard(token)
            self._hand_on(records)

    def _subscription(self, code: Code, slots: Slots, mask: int, on: bool) -> None:
        with self.lock:
            self._check_open()
            column = grown(self._masks.get(mask, np.zeros(0, np.bool_)), len(self._channels), False)
            column[slots] = on
            self._masks[mask] = column
            if len(slots):
                self._tell(code, [mask], [slots.astype(np.uint32, copy=False).tobytes()])

    def _question_worker(self, code: Code, frames: list[Any]) -> Any:
        """Ask the worker something and wait; None if there is no answer."""
        with self.lock:
            if self.state != State.UP or self._held:
                return None
            self._question += 1
            number, answer = self._question, _Answer()
            self._questions[number] = answer
            self._send(code, [number], frames)
        answer.wait(ANSWER_TIMEOUT)
        with self.lock:
            self._questions.pop(number, None)
        return answer.result

    def _flush_held(self) -> None:
        """Send what waits, in order, as far as it goes."""
        while self._held:
            code, arguments, frames = self._held[0]
            if code in (Code.READ, Code.READ_ONE):
                self._pending.asked_after(arguments[0], self._sync)
            if not self._send(code, arguments, frames):
                return
            del self._held[0]

    # --- the life of the worker, told by its supervisor -----------------------------------------

    def expect(self, address: bytes) -> None:
        """A worker with this address is about to be started."""
        with self.lock:
            self._address = address
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
            self._held = [one for one in self._held if one[0] in (Code.READ, Code.READ_ONE)]
            self._channels.forget_worker()

    def _fail_all(self, disconnections: Records) -> None:
        self._held.clear()
        self._hand_on(np.concatenate([disconnections, self._pending.fail_all(ECA_DISCONN)]))
        self._answer_nothing()

    def _answer_nothing(self) -> None:
        for answer in self._questions.values():
            answer.complete()

    def _welcomed(self, message: Message) -> None:
        """The worker is there: tell it what it is to do."""
        self._shard = Follower(_position(message.body))
        self._private = Follower(Position(message.number + 1, message.before))
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
        log.warning("worker %d speaks again", self._number)
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
            self.messages += 1
            self.bytes += message.size
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
            self.late += message.events
            self._hand_on(lost_event(message.events))

    def _meet(self, message: Message) -> None:
        if message.kind == MessageKind.HEARTBEAT:
            self._send(Code.HELLO, [], [])
        elif message.kind == MessageKind.WELCOME and message.is_private:
            self._welcomed(message)

    def _missed(self, gap: Gap) -> None:
        """Something was dropped on the way: tell how much, and ask how things stand."""
        log.warning("worker %d: %d messages with %d events were lost on the way", self._number, *gap)
        self.gaps += 1
        self.lost += gap.events
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
            gap = self._private.reach(_position(mine)) if mine is not None else None
            if gap is not None:
                self._missed(gap)
            elif self._wants_resync:
                self._resync()  # nothing came of the last one, or more was lost meanwhile
            self._flush_held()
        elif message.kind == MessageKind.CHANNELS:
            self._locate(message)
        elif message.kind == MessageKind.STATE:
            self._take_state(message)
        elif message.kind == MessageKind.ANSWER:
            self._take_answer(message)

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
        if type(message.body) is not int or len(message.block) % 8:
            raise TransportError("a message does not tell the state of requests; it is dropped")
        if message.body != self._sync:  # more was lost since it was asked
            return
        self._wants_resync = False
        kept = np.frombuffer(message.block, np.uint32).reshape(-1, 2)
        self._hand_on(self._pending.compare(kept, message.body, ECA_TIMEOUT))

    def _take_answer(self, message: Message) -> None:
        body = message.body
        if not isinstance(body, list) or len(body) != 2:
            raise TransportError("a message answers no question; it is dropped")
        answer = self._questions.get(body[0]) if type(body[0]) is int else None
        if answer is not None:
            answer.result = body[1]
            answer.complete()

    def _take_batch(self, message: Message) -> None:
        records: Records = np.frombuffer(message.records, EVENT)
        self.events += len(records)
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
        wanted = (records["kind"] != Kind.UPDATE) & (records["kind"] != Kind.REFUSED)
        for mask, column in self._masks.items():
            slots = records["slot"]
            inside = slots < len(column)
            wanted |= (records["token"] == mask) & inside & column[np.where(inside, slots, 0)]
        return records if wanted.all() else records[wanted]

    def _hand_on(self, records: Records) -> None:
        """Deliver events of our own making."""
        if len(records):
            self._deliver(self, Batch(records))


def _token(request: _Request) -> int:
    """The first token of a read; 0 of other requests."""
    return int(request[1][0]) if request[0] in (Code.READ, Code.READ_ONE) else 0


def _position(body: Any) -> Position:
    if not isinstance(body, list) or len(body) != 2 or not all(type(number) is int for number in body):
        raise TransportError("a message does not tell how far its stream has come; it is dropped")
    return Position(*body)
