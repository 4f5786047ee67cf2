"""The client's end of a broker: one thread that receives everything, and a way to make requests."""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import zmq

from daqca.broker.broker import (
    CLIENT_MESSAGES,
    LOCAL_DATA,
    PIPE_MESSAGES,
    REQUEST_MESSAGES,
    Broker,
    RequestRefused,
    send_whole,
)
from daqca.broker.endpoints import Endpoints
from daqca.broker.messages import ID_SIZE, Message, client_topic, decode_message, encode_request
from daqca.errors import TransportError

log = logging.getLogger("daqca.broker")

_SEND_PATIENCE_MS = 1000


class Receiver(Protocol):
    """Who takes the messages of one stream."""

    def received(self, message: Message) -> None:
        """Take a message; called on the client's receive thread, in the order of the stream."""


class BrokerClient:
    """A client of a broker. It hears everything that shards tell, and what is told to it alone.

    Parameters
    ----------
    broker
        A broker in this process, or the endpoints of one elsewhere.
    client_id
        8 bytes; random by default.
    messages
        The high-water mark of what is received and not yet taken, for a broker elsewhere.

    Attributes
    ----------
    received, malformed
        Messages since the start; those that were malformed were dropped.
    is_idle
        Whether the receive thread waits for messages.

    Raises
    ------
    TransportError
        No sockets can be opened.
    """

    def __init__(self, broker: Broker | Endpoints, client_id: bytes | None = None, messages: int = CLIENT_MESSAGES):
        self.id = client_id if client_id is not None else b"\1" + secrets.token_bytes(ID_SIZE - 1)
        self.received = 0
        self.malformed = 0
        self.is_idle = False
        self.is_closed = False
        self._pid = os.getpid()
        self._receivers: dict[bytes, Receiver] = {}
        self._sending = threading.Lock()
        self._broker = broker if isinstance(broker, Broker) else None
        self._context: zmq.Context[zmq.Socket[bytes]] = broker.context if isinstance(broker, Broker) else zmq.Context()
        self._dealer: zmq.Socket[bytes] | None = None
        try:
            self._open(broker, messages)
        except zmq.ZMQError as error:
            if self._broker is None:
                self._context.destroy(linger=0)
            raise TransportError(f"the sockets of a client cannot be opened: {error.strerror}") from error
        self._thread = threading.Thread(target=self._run, name="daqca-receive", daemon=True)
        self._thread.start()

    def _open(self, broker: Broker | Endpoints, messages: int) -> None:
        self._sub = self._context.socket(zmq.SUB)
        self._sub.linger = 0
        self._sub.rcvhwm = PIPE_MESSAGES if self._broker else messages
        self._sub.sndhwm = 0  # for subscriptions: see Broker
        if isinstance(broker, Broker):
            self._sub.connect(LOCAL_DATA)
        else:
            self._sub.connect(broker.client_data)
            self._dealer = self._context.socket(zmq.DEALER)
            self._dealer.linger = 0
            self._dealer.set_hwm(REQUEST_MESSAGES)
            self._dealer.sndtimeo = _SEND_PATIENCE_MS
            self._dealer.setsockopt(zmq.ROUTING_ID, self.id)
            self._dealer.connect(broker.client_requests)
        self._sub.subscribe(b"S")
        self._sub.subscribe(client_topic(self.id))

    def attach(self, stream: bytes, receiver: Receiver) -> None:
        """Give the messages of a stream to `receiver` from now on."""
        self._receivers[stream] = receiver

    def detach(self, stream: bytes) -> None:
        """Drop the messages of a stream from now on."""
        self._receivers.pop(stream, None)

    def request(self, worker: bytes, code: int, arguments: Sequence[Any] = (), frames: Sequence[Any] = ()) -> None:
        """Send a request to a worker. Any thread may call it; requests of one thread arrive in order.

        Raises
        ------
        RequestRefused
            It cannot be sent. (By a broker elsewhere it may be refused later, and is then not answered.)
        """
        request = encode_request(code, arguments, frames)
        if self._broker is not None:
            self._broker.forward(self.id, worker, request)
            return
        with self._sending:
            if self.is_closed or self._dealer is None:
                raise RequestRefused("this client is closed; nothing can be asked any more")
            try:
                send_whole(self._dealer, [worker, *request])
            except zmq.Again:
                raise RequestRefused("the broker takes no requests; is it stopped?") from None

    # --- the receive thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._receive()
            except zmq.ContextTerminated:
                break
            except TransportError as error:
                self.malformed += 1
                if self.malformed & (self.malformed - 1) == 0:  # the 1st, 2nd, 4th, 8th: a flood stays readable
                    log.warning("%s (%d so far)", error, self.malformed)
            except Exception:
                log.exception("a message could not be handled, and the next one is taken")
        self._sub.close()

    def _receive(self) -> None:
        sub = self._sub
        self.is_idle = True
        frames: list[Any] = [sub.recv()]
        self.is_idle = False
        while sub.rcvmore:
            # A second frame is a large one: used where ZeroMQ has put it; the buffer keeps it alive.
            frames.append(sub.recv(copy=False).buffer)
        self.received += 1
        message = decode_message(frames)
        receiver = self._receivers.get(message.stream)
        if receiver is not None:
            receiver.received(message)

    # --- the end --------------------------------------------------------------------------------

    def close(self) -> None:
        """End the client. With a broker in this process the receive thread ends when that is closed."""
        with self._sending:
            if self.is_closed or os.getpid() != self._pid:
                return
            self.is_closed = True
            if self._dealer is not None:
                self._dealer.close()
        if self._broker is None:
            self._context.term()
            self.join()

    def join(self) -> None:
        """Wait for the end of the receive thread."""
        self._thread.join()
