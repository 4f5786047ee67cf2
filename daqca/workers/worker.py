"""What a worker does: makes the requests of its clients on its context, and publishes what comes of them.

Two threads meet here, the one that takes requests and the context's I/O thread; each holds the context's lock while
it publishes. So all that a worker says is one stream, in the order in which it happened.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from daqca.broker.messages import Buffer, MessageKind, Request, client_topic, decode_request, shard_topic
from daqca.broker.port import WorkerPort
from daqca.ca.channels import State
from daqca.ca.context import Context
from daqca.ca.eca import ECA, message_number
from daqca.ca.settings import Settings
from daqca.errors import TransportError
from daqca.events import EVENT, Batch, Kind, Reason, Records, different
from daqca.link import asked
from daqca.workers.requests import Code, check, doubles_of, slots_of
from daqca.workers.routes import EVERYBODY, Route, Routes, is_answer
from daqca.workers.sharing import NONE, Client, SharedNames, SharedSubscriptions, Slots

log = logging.getLogger("daqca.workers")

_ANSWERED = (Code.READ, Code.READ_ONE, Code.WRITE_ONE, Code.WRITE_DOUBLES)
MAX_CLIENTS = 254
"""The owners of records are bytes, of which one means everybody."""
_PATIENCE = 1.0
"""Seconds that what was put has to leave this host at the end; less than who ends us waits."""


class Worker:
    """A context that works for clients.

    Parameters
    ----------
    port
        Where requests come from, and where everything is published.
    settings
        Of the context.

    Attributes
    ----------
    is_welcome
        Whether a client has said hello.
    quits
        Whether the owner wants the worker to end.
    """

    def __init__(self, port: WorkerPort, settings: Settings):
        self.is_welcome = False
        self.quits = False
        self.malformed = 0
        self.requests = 0
        self._publisher = port.publisher
        self._shard = shard_topic(port.address)
        self._clients: dict[bytes, Client] = {}
        self._names = SharedNames()
        self._subscriptions: dict[int, SharedSubscriptions] = {}
        self._routes = Routes()
        self._handlers: dict[Code, Callable[[Client, Request], None]] = {
            Code.ADD: self._add,
            Code.READ: self._read,
            Code.READ_ONE: self._read_one,
            Code.CANCEL: self._cancel,
            Code.SUBSCRIBE: self._subscribe,
            Code.UNSUBSCRIBE: self._unsubscribe,
            Code.HOSTS: self._hosts,
            Code.STATS: self._stats,
            Code.RESYNC: self._resync,
            Code.WRITE_ONE: self._write_one,
            Code.WRITE_DOUBLES: self._write_doubles,
        }
        self.context = Context(self._deliver, settings)
        self._lock = self.context.lock

    # --- from the context to the clients --------------------------------------------------------

    def _deliver(self, batch: Batch) -> None:
        """Publish a batch of the context, whose lock is held."""
        records = batch.records
        answers = is_answer(records)
        if not answers.any():
            self._publish(self._shard, records, batch.block)
            return
        records, owners, clients = self._routes.resolve(records, answers)
        if not len(records):
            return
        if len(clients) == 1 and len(records) == int((owners != EVERYBODY).sum()):
            self._publish(client_topic(clients[0]), records, batch.block)
        elif len(self._clients) == 1 or not clients:
            # Updates and answers, all for the only client there is: one message keeps their order.
            self._publish(self._shard, records, batch.block)
        else:
            self._publish(self._shard, records, batch.block, [clients, owners.tobytes()])

    def _publish(self, topic: bytes, records: Records, block: Buffer, owners: list[Any] | None = None) -> None:
        body: Any = owners if owners is not None else len(self._clients) > 1
        self._publisher.publish(topic, MessageKind.BATCH, body, records.tobytes(), len(records), block)

    def heartbeat(self) -> None:
        """Say that the worker lives, and how far it has come."""
        with self._lock:
            topics = {id_: list(self._publisher.position(client_topic(id_))) for id_ in self._clients}
            self._publisher.publish(self._shard, MessageKind.HEARTBEAT, topics)

    def flush(self) -> bool:
        """Try to send what the network did not take yet; returns whether some is left."""
        if not self._publisher.is_waiting:
            return False
        with self._lock:
            self._publisher.flush()
            return self._publisher.is_waiting

    # --- from the clients to the context --------------------------------------------------------

    def handle(self, frames: list[bytes]) -> None:
        """Do what a request asks; one that is malformed is counted and dropped."""
        self.requests += 1
        try:
            request = decode_request(frames)
            code = check(request)
        except TransportError as error:
            self._count_malformed(error)
            return
        with self._lock:
            try:
                self._do(code, request)
            except TransportError as error:
                self._count_malformed(error)
                self._fail(code, request)
            except Exception:
                log.exception("a request %s cannot be done", code.name)
                self._fail(code, request)

    def _count_malformed(self, error: TransportError) -> None:
        self.malformed += 1
        if self.malformed & (self.malformed - 1) == 0:  # the 1st, 2nd, 4th, 8th: a flood stays readable
            log.warning("%s (%d so far)", error, self.malformed)

    def _fail(self, code: Code, request: Request) -> None:
        """Answer a get or a put that could not even be asked, so that nobody waits for it."""
        client = self._clients.get(request.client)
        token = request.arguments[0] if code in _ANSWERED else 0
        if client is not None and token:
            self._routes.cancel(client.id, token)
            self._tell(client, MessageKind.REFUSED, [token, message_number(ECA.INTERNAL)])

    def _do(self, code: Code, request: Request) -> None:
        if code == Code.QUIT:
            self.quits = True
        elif code == Code.HELLO:
            self._hello(request.client)
        elif code == Code.BYE:
            self._bye(request.client)
        else:
            client = self._clients.get(request.client)
            if client is None:
                raise TransportError(f"client {request.client.hex()} asks for {code.name} and has not said hello")
            self._handlers[code](client, request)

    def _tell(self, client: Client, kind: MessageKind, body: Any, block: Buffer = b"") -> None:
        self._publisher.publish(client_topic(client.id), kind, body, block=block)

    def _answer(self, client: Client, request: Request, result: Any) -> None:
        self._tell(client, MessageKind.ANSWER, [request.arguments[0], result, self._told()])

    def _told(self) -> list[int]:
        """How far the shard's topic has come, for clients that would see a gap at its end only later."""
        return list(self._publisher.position(self._shard))

    def _hello(self, id_: bytes) -> None:
        if id_ not in self._clients and len(self._clients) >= MAX_CLIENTS:
            raise TransportError(f"client {id_.hex()} would be one too many for this worker")
        client = self._clients.setdefault(id_, Client(id_))
        self.is_welcome = True
        self._tell(client, MessageKind.WELCOME, self._told())

    def _bye(self, id_: bytes) -> None:
        client = self._clients.pop(id_, None)
        if client is None:
            return
        for route in self._routes.forget(id_):
            self.context.cancel(route.first, route.n)
        for mask in list(client.masks):
            self._release(mask, client.subscribed(mask))
        slots = client.known()
        unused = self._names.release(slots, self.context.shard.channels.names)
        if len(unused):
            self.context.remove(unused)
        self._publisher.forget(client_topic(id_))

    # --- channels -------------------------------------------------------------------------------

    def _add(self, client: Client, request: Request) -> None:
        first, names = request.arguments
        if first > client.end:
            raise TransportError(f"a client adds channels from {first} on, and has {client.end}")
        missing = self._names.missing(names)
        if missing:
            self._names.opened(missing, self.context.add(missing))
        slots = self._names.use(names)
        client.add(first, slots)
        self._tell_channels(client, first, slots)
        if len(missing) != len(names):
            self._tell_states(client, slots, connected_only=True)

    def _tell_channels(self, client: Client, first: int, slots: Slots) -> None:
        ascending = not len(slots) or bool((slots == np.arange(slots[0], slots[0] + len(slots))).all())
        start = int(slots[0]) if len(slots) else 0
        body = [first, len(slots), start if ascending else None]
        self._tell(client, MessageKind.CHANNELS, body, b"" if ascending else slots.tobytes())

    def _tell_states(self, client: Client, slots: Slots, connected_only: bool) -> None:
        """Tell a client whether channels are connected now."""
        channels = self.context.shard.channels
        connected = channels.state[slots] == State.CONNECTED
        if connected_only:
            slots, connected = slots[connected], connected[connected]
        records = np.zeros(len(slots), EVENT)
        records["slot"] = slots
        records["timestamp"] = time.time_ns()
        records["kind"] = np.where(connected, Kind.CONNECTED, Kind.DISCONNECTED)
        records["dbr_type"] = np.where(connected, channels.native_type[slots], 0)
        records["count"] = np.where(connected, channels.native_count[slots], 0)
        # Why those that are not connected are so, was told in an event that this client has lost.
        reasons = np.where(channels.state[slots] == State.UNRESPONSIVE, Reason.UNRESPONSIVE, Reason.CLOSED)
        records["status"] = np.where(connected, channels.access[slots], reasons)
        if len(records):
            self._publish(client_topic(client.id), records, b"")

    def _resync(self, client: Client, request: Request) -> None:
        question, whole = request.arguments
        if whole:
            self._tell_channels(client, 0, client.slots[: client.end])
            pending = self._routes.pending(client.id)
            self._tell(client, MessageKind.STATE, [question, self._told()], pending.tobytes())
            self._tell_states(client, client.known(), connected_only=False)
        for mask in list(client.masks):
            self._read_as_updates(client, client.subscribed(mask), mask)

    def _hosts(self, client: Client, request: Request) -> None:
        slots = self._slots(client, request)
        self._answer(client, request, self.context.hosts(slots))

    def _slots(self, client: Client, request: Request) -> Slots:
        """The worker's slots of those in the request's first frame."""
        return self._mine(client, slots_of(request.frames[0], client.end))

    def _slot(self, client: Client, number: int) -> int:
        """The worker's slot of one channel of a client."""
        slot = int(client.slots[number]) if number < client.end else NONE
        if slot == NONE:
            raise TransportError(f"a request names slot {number}, which is none; it is dropped")
        return slot

    def _mine(self, client: Client, numbers: Slots) -> Slots:
        slots = client.slots[numbers]
        if len(slots) and int(slots.max()) == NONE:
            raise TransportError("a request names a slot that is none; it is dropped")
        return slots

    # --- gets and puts --------------------------------------------------------------------------

    def _route(self, n: int, client: Client, token: int, mask: int = 0) -> Callable[[int], None]:
        return lambda first: self._routes.add(Route(first, n, client.id, token, mask))

    def _read(self, client: Client, request: Request) -> None:
        token, dbr_type, count = request.arguments
        slots = self._slots(client, request)
        if len(slots):
            self.context.read(slots, self._route(len(slots), client, token), dbr_type, count)

    def _read_one(self, client: Client, request: Request) -> None:
        token, number = request.arguments
        self.context.read_one(self._slot(client, number), self._route(1, client, token))

    def _read_as_updates(self, client: Client, slots: Slots, mask: int) -> None:
        connected = self.context.shard.channels.state[slots] == State.CONNECTED
        slots = slots[connected]  # the others get their subscription's first update when they connect
        if len(slots):
            self.context.read(slots, self._route(len(slots), client, 0, mask), asked(mask)[1])

    def _cancel(self, client: Client, request: Request) -> None:
        route = self._routes.cancel(client.id, request.arguments[0])
        if route is not None:
            self.context.cancel(route.first, route.n)

    def _write_one(self, client: Client, request: Request) -> None:
        token, number, dbr_type, count = request.arguments
        register = self._route(1, client, token) if token else None
        payload = bytes(request.frames[0])
        self.context.write_one(self._slot(client, number), dbr_type, count, payload, register)

    def _write_doubles(self, client: Client, request: Request) -> None:
        (token,) = request.arguments
        slots = self._slots(client, request)
        values = doubles_of(request.frames[1], len(slots))
        if len(slots):
            register = self._route(len(slots), client, token) if token else None
            self.context.write_doubles(slots, values, register)

    # --- subscriptions --------------------------------------------------------------------------

    def _subscribe(self, client: Client, request: Request) -> None:
        (mask,) = request.arguments
        numbers = different(slots_of(request.frames[0], client.end))
        column = client.is_subscribed(mask)
        numbers = numbers[~column[numbers]]
        slots = self._mine(client, numbers)
        column[numbers] = True
        shared = self._subscriptions.setdefault(mask, SharedSubscriptions())
        new, there = shared.use(slots)
        if len(new):
            shared.opened(new, self.context.subscribe(new, *asked(mask), label=mask))
        self._read_as_updates(client, there, mask)

    def _unsubscribe(self, client: Client, request: Request) -> None:
        (mask,) = request.arguments
        numbers = different(slots_of(request.frames[0], client.end))
        column = client.is_subscribed(mask)
        numbers = numbers[column[numbers]]
        column[numbers] = False
        self._release(mask, self._mine(client, numbers))

    def _release(self, mask: int, slots: Slots) -> None:
        ids = self._subscriptions[mask].release(slots) if mask in self._subscriptions else np.zeros(0, np.uint32)
        if len(ids):
            self.context.unsubscribe(ids)

    # --- what it costs --------------------------------------------------------------------------

    def _stats(self, client: Client, request: Request) -> None:
        publisher = self._publisher
        stats = {
            **self.context.stats(),
            "pid": os.getpid(),
            "cpu_s": time.process_time(),
            "rss": _resident_bytes(),
            "clients": len(self._clients),
            "requests": self.requests,
            "requests_pending": len(self._routes),
            "requests_malformed": self.malformed,
            "answers_stray": self._routes.strays,
            "published_events": publisher.events,
            "messages": publisher.messages,
            "bytes": publisher.bytes,
            "backlog_bytes": publisher.backlog_bytes,
            "dropped_messages": publisher.dropped_messages,
            "dropped_events": publisher.dropped_events,
        }
        self._answer(client, request, stats)

    def close(self) -> None:
        """End the context. What was put goes out before."""
        self.context.drain(_PATIENCE)
        self.context.close()


def _resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
