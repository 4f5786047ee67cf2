"""The worker's end: one socket that takes requests, one that publishes."""

from __future__ import annotations

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
        self.publisher = Publisher(self._data, address, backlog)

    def receive(self, timeout: float) -> list[bytes] | None:
        """The frames of the next request; None if none comes within `timeout` seconds."""
        if self._requests.poll(max(int(timeout * 1000), 0)):
            return self._requests.recv_multipart()
        return None

    def close(self) -> None:
        """Close the sockets; what was not sent yet is not sent."""
        self._data.close()
        self._requests.close()
        self._context.term()
