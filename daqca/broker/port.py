"""The worker's end: one socket that takes requests, one that publishes."""

from __future__ import annotations

import contextlib
import math
import os

import zmq

from daqca.broker.broker import PIPE_MESSAGES, REQUEST_MESSAGES
from daqca.broker.endpoints import Endpoints
from daqca.broker.publisher import BACKLOG_BYTES, Publisher


class WorkerPort:
    """The sockets of one worker.

    Parameters
    ----------
    endpoints
        Of its broker.
    address
        The worker's, 8 bytes; also the id of its stream.
    backlog
        The most bytes that may wait for a receiver that does not read.

    Notes
    -----
    `receive` belongs to one thread. `publisher` is used under one lock, by any thread.
    """

    def __init__(self, endpoints: Endpoints, address: bytes, backlog: int = BACKLOG_BYTES):
        self.address = address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._data = self._context.socket(zmq.PUB)
        self._data.linger = 0
        self._data.sndhwm = PIPE_MESSAGES
        self._data.rcvhwm = 0  # for subscriptions: see Broker
        self._data.setsockopt(zmq.XPUB_NODROP, 1)
        self._data.connect(endpoints.data)
        self._requests = self._context.socket(zmq.DEALER)
        self._requests.linger = 0
        self._requests.set_hwm(REQUEST_MESSAGES)
        self._requests.setsockopt(zmq.ROUTING_ID, address)
        self._requests.connect(endpoints.requests)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poller = zmq.Poller()
        self._poller.register(self._requests, zmq.POLLIN)
        self._poller.register(self._wake_read, zmq.POLLIN)
        self.publisher = Publisher(self._data, address, backlog, self._wake)

    def receive(self, timeout: float) -> list[bytes] | None:
        """The frames of the next request; None if none comes within `timeout` seconds, or a backlog begins."""
        ready = dict(self._poller.poll(math.ceil(1000 * max(timeout, 0.0))))
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        return self._requests.recv_multipart() if self._requests in ready else None

    def _wake(self) -> None:
        """Have the thread in `receive` look after the backlog that another thread has begun."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"!")

    def close(self) -> None:
        """Close the sockets; what was not sent yet is not sent."""
        self._data.close()
        self._requests.close()
        self._context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)
