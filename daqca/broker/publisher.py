"""The sending end of a stream: numbers messages, keeps what the network does not take yet, and bounds it in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from daqca.broker.messages import Buffer, MessageKind, encode_message
from daqca.broker.positions import Position

BACKLOG_BYTES = 512 << 20
"""What waits for a receiver that does not read, at most: 2.6 s of 1 MB frames at 200 Hz, 40 s of 400,000 numbers/s."""
COPIED = 1 << 17
"""Blocks of fewer bytes are copied: that is cheaper than to be told that ZeroMQ needs them no more."""
_MERGED_BYTES = 1 << 20
_RESERVE = 1 << 20
_OVERHEAD = 256


class _Waiting:
    """A message that the network did not take yet."""

    __slots__ = ("before", "block", "body", "kind", "number", "records", "size", "topic")

    def __init__(self, topic: bytes, kind: int, position: Position, body: Any, records: Buffer | None, block: Buffer):
        self.topic = topic
        self.kind = kind
        self.number, self.before = position
        self.body = body
        self.records = records
        self.block = block
        self.size = _OVERHEAD + (len(records) if records is not None else 0) + len(block)

    def can_join(self, other: _Waiting) -> bool:
        """Whether the events of `other` may be put behind ours."""
        return (
            self.kind == other.kind == MessageKind.BATCH
            and self.topic == other.topic
            and self.body == other.body
            and not len(self.block)
            and not len(other.block)
            and self.number + 1 == other.number
        )


class Publisher:
    """Publishes the messages of one stream on one socket, in order.

    A receiver that reads slowly makes the backlog grow, where small batches are joined; when it is full, batches are
    dropped. They keep their numbers, so that the receiver knows how many messages and events it has lost.

    Parameters
    ----------
    socket
        A PUB socket that refuses what it cannot take (``XPUB_NODROP``).
    stream
        The id of the stream, 8 bytes.
    limit
        Of the backlog, in bytes. Messages that are not batches may go 1 MB beyond.
    waits
        Called when a backlog begins: from then on `flush` is to be called now and then.

    Attributes
    ----------
    events, dropped_events, dropped_messages
        Since the start; those that were dropped are among the events.
    messages, bytes
        That were sent.

    Notes
    -----
    Not safe against threads: whoever calls holds one lock.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        stream: bytes,
        limit: int = BACKLOG_BYTES,
        waits: Callable[[], None] = lambda: None,
    ):
        self.stream = stream
        self.events = 0
        self.messages = 0
        self.bytes = 0
        self.dropped_events = 0
        self.dropped_messages = 0
        self.backlog_bytes = 0
        self._socket = socket
        self._limit = limit
        self._waits = waits
        self._positions: dict[bytes, Position] = {}
        self._backlog: deque[_Waiting] = deque()

    @property
    def is_waiting(self) -> bool:
        """Whether there is a backlog."""
        return bool(self._backlog)

    def position(self, topic: bytes) -> Position:
        """How far a topic has come."""
        return self._positions.get(topic, Position())

    def forget(self, topic: bytes) -> None:
        """A topic is not used any more."""
        self._positions.pop(topic, None)

    def publish(
        self,
        topic: bytes,
        kind: int,
        body: Any = None,
        records: Buffer | None = None,
        events: int = 0,
        block: Buffer = b"",
    ) -> None:
        """Send a message, or keep it until it can be sent.

        Parameters
        ----------
        records
            The bytes of `events` events. They and the block are not copied while they wait: do not change them.
        """
        position = self._positions.get(topic, Position())
        self._positions[topic] = Position(position.messages + 1, position.events + events)
        self.events += events
        if self._backlog:
            self.flush()
        if not self._backlog:
            pieces = () if records is None else (records,)
            frames = encode_message(topic, self.stream, kind, position[0], 1, position[1], body, pieces, block)
            if self._send(frames):
                return
        message = _Waiting(topic, kind, position, body, records, block)
        limit = self._limit if kind == MessageKind.BATCH else self._limit + _RESERVE
        if self.backlog_bytes + message.size > limit:
            self.dropped_messages += 1
            self.dropped_events += events
            return
        self._backlog.append(message)
        self.backlog_bytes += message.size
        if len(self._backlog) == 1:
            self._waits()

    def flush(self) -> None:
        """Send of the backlog what can be sent."""
        while self._backlog:
            joined = self._join()
            head, span = joined[0], len(joined)
            records = [message.records for message in joined if message.records is not None]
            number, before = head.number, head.before
            frames = encode_message(
                head.topic, self.stream, head.kind, number, span, before, head.body, records, head.block
            )
            if not self._send(frames):
                return
            for message in joined:
                self.backlog_bytes -= message.size
                self._backlog.popleft()

    def _join(self) -> list[_Waiting]:
        """The first messages of the backlog that can travel as one."""
        joined: list[_Waiting] = []
        size = 0
        for message in self._backlog:
            size += message.size
            if joined and (size > _MERGED_BYTES or not joined[-1].can_join(message)):
                break
            joined.append(message)
        return joined

    def _send(self, frames: list[Buffer]) -> bool:
        socket = self._socket
        try:
            if len(frames) == 1:
                socket.send(frames[0], zmq.DONTWAIT)
            else:
                socket.send(frames[0], zmq.DONTWAIT | zmq.SNDMORE)
                socket.send(frames[1], zmq.DONTWAIT, copy=len(frames[1]) < COPIED)
        except zmq.Again:
            return False
        self.messages += 1
        self.bytes += sum(map(len, frames))
        return True
