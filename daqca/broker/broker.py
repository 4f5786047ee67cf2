"""The broker: carries stream messages from workers to clients, and requests from clients to workers.

It looks at the code of a request, to see whether the client may make it, and at nothing else. What messages mean is
decided in `daqca.workers`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

import zmq

from daqca.broker.endpoints import Endpoints
from daqca.broker.messages import Buffer, Right, request_code, right_for
from daqca.errors import TransportError

log = logging.getLogger("daqca.broker")

LOCAL_DATA = "inproc://data"
PIPE_MESSAGES = 16
"""High-water mark of every pipe on the way of a local client, whose backlog is kept, in bytes, by the workers."""
CLIENT_MESSAGES = 1000
"""High-water mark for a client in another process: what it has not read beyond that is dropped, and it knows."""
REQUEST_MESSAGES = 512
"""Requests that may wait for a worker, in each of two pipes."""
REQUEST_PATIENCE = 1.0
"""Seconds that a request waits for room before it is given up."""


_send_frame = zmq.backend.Socket.send


def send_whole(socket: zmq.Socket[bytes], frames: Sequence[Buffer], flags: int = 0) -> None:
    """Send all frames of a message, even if a Ctrl-C comes in between.

    Half a message would stay behind, to which the next one is added. The loop of ``send_multipart`` is one in Python,
    which a Ctrl-C can leave at any step; this one is in C, and is left only when a frame was handed over.
    """
    send, sent = partial(_send_frame, socket), list[object]()
    all_flags = [flags | zmq.SNDMORE] * (len(frames) - 1) + [flags]
    try:
        sent.extend(map(send, frames, all_flags))
    except KeyboardInterrupt:
        rest = len(sent) + 1
        with contextlib.suppress(zmq.ZMQError):
            sent.extend(map(send, frames[rest:], all_flags[rest:]))
        raise


def check_descriptors(needed: int = 24) -> None:
    """Look whether there are file descriptors enough: libzmq ends the whole process when it gets none.

    Raises
    ------
    TransportError
        There are not.
    """
    with contextlib.ExitStack() as stack:
        try:
            for _ in range(needed):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise TransportError(
                f"the sockets of the workers need about {needed} file descriptors: {error.strerror}; "
                "close some files, or allow more with `ulimit -n`"
            ) from error


class RequestRefused(TransportError):
    """A request was not taken: its worker is not there, or does not read, or the client lacks the right."""


class Broker:
    """A broker, running in threads of this process.

    Data goes through ``zmq.proxy``, a loop in C that never holds the interpreter's lock. A client in this process
    makes its requests by `forward`, and hears on an ``inproc`` endpoint: what it has to wait for is one hop.

    Parameters
    ----------
    remote
        Whether clients in other processes are served too. Then nobody waits for anybody: what a client has not read
        beyond its high-water mark is dropped. Without them the workers keep what is not read yet, in bytes.
    rights
        Of clients in other processes, by id; the others are readers.
    client_messages
        The high-water mark with `remote`.

    Attributes
    ----------
    refused
        How many requests were not taken, by reason.
    malformed
        How many requests were none.

    Raises
    ------
    TransportError
        No directory for the sockets could be made, or no sockets.
    """

    def __init__(
        self,
        remote: bool = False,
        rights: dict[bytes, Right] | None = None,
        client_messages: int = CLIENT_MESSAGES,
    ):
        check_descriptors()
        self.endpoints = Endpoints.create()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.refused: Counter[str] = Counter()
        self.malformed = 0
        self.is_closed = False
        self._rights = dict(rights or {})
        self._pid = os.getpid()
        self._sending = threading.Lock()
        self._stuck: dict[bytes, float] = {}
        self._threads: list[threading.Thread] = []
        try:
            self._open(remote, client_messages if remote else PIPE_MESSAGES)
        except zmq.ZMQError as error:
            self.context.destroy(linger=0)
            self.endpoints.remove()
            raise TransportError(
                f"the sockets of the workers cannot be opened in {self.endpoints.directory}: {error.strerror}"
            ) from error
        for thread in self._threads:
            thread.start()

    def _open(self, remote: bool, hwm: int) -> None:
        self._xsub = self._socket(zmq.XSUB, hwm)
        # Upstream go subscriptions, two for each client. One beyond the mark would be dropped, and nobody would know.
        self._xsub.sndhwm = 0
        self._xsub.bind(self.endpoints.data)
        self._xpub = self._socket(zmq.XPUB, hwm)
        self._xpub.rcvhwm = 0
        self._xpub.setsockopt(zmq.XPUB_NODROP, int(not remote))
        self._xpub.bind(LOCAL_DATA)
        self._workers = self._socket(zmq.ROUTER, REQUEST_MESSAGES)
        self._workers.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._workers.bind(self.endpoints.requests)
        self._threads.append(threading.Thread(target=self._carry, name="daqca-broker-data", daemon=True))
        if remote:
            self._xpub.bind(self.endpoints.client_data)
            self._clients = self._socket(zmq.ROUTER, REQUEST_MESSAGES)
            self._clients.bind(self.endpoints.client_requests)
            requests = threading.Thread(target=self._take_requests, name="daqca-broker-requests", daemon=True)
            self._threads.append(requests)

    def _socket(self, kind: int, hwm: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.linger = 0
        socket.set_hwm(hwm)
        return socket

    def _carry(self) -> None:
        try:
            zmq.proxy(self._xsub, self._xpub)
        except zmq.ContextTerminated:
            pass
        except zmq.ZMQError:
            if not self.is_closed:
                log.exception("the broker carries no data any more")
        self._xsub.close()
        self._xpub.close()

    # --- requests -------------------------------------------------------------------------------

    def forward(self, client: bytes, worker: bytes, frames: Sequence[Buffer]) -> None:
        """Hand a request to a worker. Any thread may call it.

        Parameters
        ----------
        client
            Who makes the request; the answers come with its topic.
        worker
            The address of the worker.
        frames
            See `daqca.broker.messages.encode_request`.

        Raises
        ------
        RequestRefused
            The worker is not connected, or has not read for some time.
        """
        # Backpressure: wait for room, but once for a worker that does not read, not once for each request.
        deadline = self._stuck.get(worker, time.monotonic() + REQUEST_PATIENCE)
        while not self._send([worker, client, *frames], worker):
            if time.monotonic() > deadline:
                self._stuck[worker] = deadline
                self.refused["busy"] += 1
                raise RequestRefused(f"worker {worker.hex()} reads no requests; this one is given up")
            time.sleep(0.001)
        self._stuck.pop(worker, None)

    def _send(self, frames: list[Buffer], worker: bytes) -> bool:
        """Send to a worker; returns whether there was room."""
        with self._sending:
            if self.is_closed:
                raise RequestRefused("the broker is closed; nothing can be asked any more")
            try:
                send_whole(self._workers, frames, zmq.DONTWAIT)
            except zmq.Again:
                return False
            except zmq.ZMQError as error:
                self.refused["unreachable"] += 1
                raise RequestRefused(f"worker {worker.hex()} is not connected ({error.strerror})") from None
            return True

    def _take_requests(self) -> None:
        """The thread that takes the requests of clients in other processes."""
        while not self.is_closed:
            try:
                frames = self._clients.recv_multipart()
                self._take(frames)
            except zmq.ContextTerminated:
                break
            except TransportError as error:
                count = self.malformed + self.refused.total()
                if count & (count - 1) == 0:  # the 1st, 2nd, 4th, 8th: a flood stays readable
                    log.warning("%s (%d so far)", error, count)
        self._clients.close()

    def _take(self, frames: list[bytes]) -> None:
        try:
            if len(frames) < 3:
                raise TransportError(f"a request has at least three frames on its way, not {len(frames)}")
            needed = right_for(request_code(frames[2]))
        except TransportError:
            self.malformed += 1
            raise
        client = frames[0]
        if self._rights.get(client, Right.READER) < needed:
            self.refused["forbidden"] += 1
            what = f"client {client.hex()} asks for what only a {needed.name.lower()} may do; it is not done"
            raise RequestRefused(what)
        self.forward(client, frames[1], frames[2:])

    # --- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """End the broker, and every client of it in this process; their threads end too."""
        with self._sending:
            if self.is_closed or os.getpid() != self._pid:
                return
            self.is_closed = True
            self._workers.close()
        # Every call that blocks on a socket of this context returns with an error, and its thread closes the socket.
        self.context.term()
        for thread in self._threads:
            thread.join()
        self.endpoints.remove()
