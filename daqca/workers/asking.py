"""What is asked of a shard in a worker process: requests, and what is known of those that are under way.

What the worker says, and what becomes of requests when it dies, is in `link`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daqca.broker.broker import RequestRefused
from daqca.broker.client import BrokerClient
from daqca.ca.eca import ECA, message_number
from daqca.ca.protocol import NameMessages
from daqca.errors import EngineClosedError, WorkerError
from daqca.events import EVENT, Batch, Kind, Records, grown
from daqca.link import AUTO, Deliver, Slots
from daqca.operations import Operation, Operations, Waiter
from daqca.workers.channels import LinkChannels
from daqca.workers.pending import Pending
from daqca.workers.requests import Code

if TYPE_CHECKING:
    pass

log = logging.getLogger("daqca.workers")

NO_WORKER = message_number(ECA.DISCONN)
ANSWER_TIMEOUT = 5.0
MAX_PLAIN = 1000
READS = (Code.READ, Code.READ_ONE)


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


Request = tuple[Code, list[Any], list[Any]]
"""Code, arguments and frames."""


class Asking:
    """The asking half of a `WorkerLink`: everything that `daqca.link.Link` demands.

    Attributes
    ----------
    state
        See `State`.
    """

    def __init__(self, number: int, client: BrokerClient, deliver: Deliver):
        self.lock = threading.RLock()
        self.operations = Operations()
        self.state = State.DOWN
        self.number = number
        self._client = client
        self._deliver = deliver
        self._address = b""
        self._channels = LinkChannels()
        self._masks: dict[int, npt.NDArray[np.bool_]] = {}
        self._pending = Pending()
        self._next_token = 1
        self._held: list[Request] = []
        self._questions: dict[int, _Answer] = {}
        self._question = 0
        self._sync = 0

    # --- what an engine asks for ----------------------------------------------------------------

    def add(self, names: Sequence[str]) -> Slots:
        """See `daqca.link.Link.add`.

        Raises
        ------
        ConfigurationError
            One of the names cannot be one.
        """
        names = list(names)
        _check_names(names)
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
        raise WorkerError(f"worker {self.number} does not tell the servers of its channels; is it overloaded?")

    def stats(self) -> dict[str, Any]:
        """See `daqca.link.Link.stats`: those of the worker, if it answers, and of this end."""
        answer = self._question_worker(Code.STATS, [])
        of_worker = answer if isinstance(answer, dict) else {}
        return {
            **of_worker,
            "worker": self.number,
            "state": self.state.value,
            "channels": len(self._channels),
            "malformed": self._client.malformed,
            **self._counters(),
        }

    def _counters(self) -> dict[str, Any]:
        raise NotImplementedError

    def close(self) -> None:
        """See `daqca.link.Link.close`. The worker is ended by its pool."""
        with self.lock:
            self.state = State.CLOSED
            self._answer_nothing()

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
            records["status"] = NO_WORKER
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
            if code in READS:
                self._pending.asked_after(arguments[0], self._sync)
            if not self._send(code, arguments, frames):
                return
            del self._held[0]

    def _answer_nothing(self) -> None:
        for answer in self._questions.values():
            answer.complete()

    def _hand_on(self, records: Records) -> None:
        """Deliver events of our own making."""
        if len(records):
            self._deliver(self, Batch(records))


def _check_names(names: list[str]) -> None:
    """Refuse what no server could find, here and now: the worker would find it out too late to tell who asked.

    Raises
    ------
    ConfigurationError
        One of the names cannot be one.
    """
    joined = "\0".join(names)
    plain = joined.isascii() and joined.count("\0") < max(len(names), 1) and all(names)
    if not plain or max(map(len, names), default=0) > MAX_PLAIN:
        NameMessages(names, np.zeros(len(names), np.uint32))


def _token(request: Request) -> int:
    """The first token of a read; 0 of other requests."""
    return int(request[1][0]) if request[0] in READS else 0
