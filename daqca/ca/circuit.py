"""One circuit, without its socket: its bytes, its clock and its life.

What the server's messages mean is in `replies`. It owns neither a socket nor a clock nor a thread.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from daqca.ca import protocol
from daqca.ca.channels import Channels, Slots, State, Subscriptions
from daqca.ca.protocol import Command
from daqca.ca.replies import ECA_DISCONN, Replies, event_records
from daqca.ca.requests import Requests
from daqca.ca.stream import Stream
from daqca.events import BatchBuilder, Kind, Reason

ECHO_TIMEOUT = 5.0
"""Seconds to wait for an echo before the server counts as unresponsive."""


class CircuitState(IntEnum):
    """The life of a circuit."""

    CONNECTING = 0
    UP = 1
    UNRESPONSIVE = 2
    CLOSED = 3


class Circuit(Replies):
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
    conn_tmo
        Seconds of silence after which the server is asked for an echo.
    payload_limit
        The largest value in bytes that is taken in; None: any.

    Attributes
    ----------
    received
        Bytes received.
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
        payload_limit: int | None = None,
    ):
        super().__init__(index, address, channels, subscriptions, requests)
        self.state = CircuitState.CONNECTING
        self.is_name_server = False
        self.conn_tmo = conn_tmo
        self.last_heard = 0.0
        self.echo_sent: float | None = None
        self.received = 0
        self._stream = Stream(self.name, protocol.MAX_PAYLOAD if payload_limit is None else payload_limit)
        self.get_buffer = self._stream.get_buffer
        self.is_between_messages = self._stream.is_between_messages
        self.is_in_large_value = self._stream.is_in_large_value
        self._is_unresponsive = False
        if greeting:
            self.queue(greeting)

    def received_bytes(self, n: int, builder: BatchBuilder, now: float) -> None:
        """`n` bytes were put into what `get_buffer` gave: decode what is complete.

        Raises
        ------
        ProtocolError
            The bytes are not Channel Access. The circuit is then to be closed; events that were
            decoded before are in `builder`.
        """
        self.heard(n, now)
        if self._is_unresponsive:
            self._responsive(builder)
        self._stream.received(n, self, builder)

    def heard(self, n: int, now: float) -> None:
        """`n` bytes came that the receiver decoded itself."""
        self.received += n
        self.last_heard = now
        self.echo_sent = None

    # --- the connection -------------------------------------------------------------------------

    def slots(self) -> Slots:
        """The channels of this circuit."""
        return np.flatnonzero(self._channels.circuit == self.index).astype(np.uint32)

    def opened(self, now: float) -> None:
        """The TCP connection is there."""
        self.state = CircuitState.UP
        self.last_heard = now

    def close(self, reason: Reason, builder: BatchBuilder) -> Slots:
        """The TCP connection is gone; returns the channels that are to be searched again."""
        self.state = CircuitState.CLOSED
        unsent = self.unsent_writes()
        if len(unsent):
            # Nobody waits for them, but that they were lost is told and counted.
            builder.extend(event_records(unsent, Kind.FAILED, ECA_DISCONN))
        self.out.clear()
        slots = self.slots()
        self.disconnect(slots, reason, builder)
        self._channels.let_go(self.index)
        self._subscriptions.let_go(self.index)
        return slots

    def check(self, now: float, builder: BatchBuilder) -> float:
        """Look at the clock: send an echo, or call the server unresponsive; returns when to look again."""
        if self.state != CircuitState.UP:
            return now + self.conn_tmo
        if self.echo_sent is None:
            due = self.last_heard + self.conn_tmo
            if now < due:
                return due
            self._send_echo(now)
        due = (now if self.echo_sent is None else self.echo_sent) + ECHO_TIMEOUT
        if now < due:
            return due
        self._unresponsive(builder)
        return now + self.conn_tmo

    def _send_echo(self, now: float) -> None:
        self.echo_sent = now
        # A server of version 4.2 or older knows no echo, but answers READ_SYNC.
        self.queue(protocol.message(Command.ECHO if self.minor_version >= 3 else Command.READ_SYNC))

    def ask_for_echo(self, now: float) -> None:
        """Ask the server for a word, at once: until it comes, its beacons do not count."""
        if self.state == CircuitState.UP and self.echo_sent is None:
            self._send_echo(now)

    def heard_beacon(self, now: float) -> None:
        """A beacon of this server counts as a word from it, unless we are waiting for its echo."""
        if self.echo_sent is None:
            self.last_heard = now

    def _unresponsive(self, builder: BatchBuilder) -> None:
        self.state = CircuitState.UNRESPONSIVE
        self._is_unresponsive = True
        slots = self.slots()
        slots = slots[self._channels.state[slots] == State.CONNECTED]
        self._channels.state[slots] = State.UNRESPONSIVE
        if len(slots):
            builder.extend(event_records(slots, Kind.DISCONNECTED, Reason.UNRESPONSIVE))

    def _responsive(self, builder: BatchBuilder) -> None:
        self.state = CircuitState.UP
        self._is_unresponsive = False
        slots = self.slots()
        slots = slots[self._channels.state[slots] == State.UNRESPONSIVE]
        # Cancel and subscribe again: the server then sends what there is now.
        self.cancel_subscriptions(self._subscriptions.by_slot.of(slots))
        self._connected(slots, builder)


def greeting(user: str, host: str, priority: int = 0) -> bytes:
    """The messages that a client opens a circuit with."""
    return b"".join(
        (
            protocol.message(Command.VERSION, data_type=priority, count=protocol.MINOR_VERSION),
            protocol.text_message(Command.HOST_NAME, host),
            protocol.text_message(Command.CLIENT_NAME, user),
        )
    )
