"""The messages between daqca's processes: how they are written, and what makes one malformed.

Frames are bytes here; who sends them, and in which order, is in `publisher` and `client`. Nothing is ever unpickled.

A stream message (worker to clients) has one frame, and a second one if its block is large::

    topic, 9 bytes | version, 1 | 2 zeros | length of the header, 4 | number of records, 4 | stream, 8 | 4 zeros |
    header: a msgpack list [kind, number, span, before, body] | zeros up to a multiple of 8 | records | small block

A request (client to worker) is a msgpack list [code, ...] and as many raw frames as it needs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import msgpack
import numpy as np

from daqca.errors import TransportError
from daqca.events import EVENT, Batch

VERSION: Final = 1
ID_SIZE: Final = 8
TOPIC_SIZE: Final = 1 + ID_SIZE
INLINE: Final = 1 << 16
"""Blocks of fewer bytes travel in the first frame: one frame is one system call and one wait for the interpreter."""

_PREFIX = struct.Struct("<9sBxxII8s4x")
_RECORD = EVENT.itemsize
_MAX_COUNTER = (1 << 64) - 1

Buffer = bytes | bytearray | memoryview


class MessageKind(IntEnum):
    """What a stream message carries."""

    BATCH = 0
    """Records and their block."""
    HEARTBEAT = 1
    """The worker lives; the body tells how far each client's topic has come."""
    WELCOME = 2
    """The answer to HELLO: how far the shard's topic has come."""
    CHANNELS = 3
    """The slots of channels that a client has added."""
    STATE = 4
    """The answer to RESYNC: which requests the worker still works at. The state of the channels follows."""
    ANSWER = 5
    """The answer to a question: its number, and the result."""
    REFUSED = 6
    """A request could not be made: its first token, and why."""


class Right(IntEnum):
    """What a client may do; each includes those before it."""

    READER = 0
    WRITER = 1
    OWNER = 2


def right_for(code: int) -> Right:
    """The right that a request needs, by its code: 0 to 63 reader, 64 to 127 writer, from 128 owner."""
    return Right(min(code >> 6, Right.OWNER))


def shard_topic(stream: bytes) -> bytes:
    """The topic of what a shard tells everybody."""
    return b"S" + stream


def client_topic(client: bytes) -> bytes:
    """The topic of what is told to one client."""
    return b"C" + client


@dataclass(frozen=True, slots=True)
class Message:
    """A stream message, taken apart.

    Parameters
    ----------
    topic
        See `shard_topic` and `client_topic`.
    stream
        Which worker sent it, 8 bytes: everything of one stream arrives in the order in which it was sent.
    kind
        A `MessageKind`, as a plain number; numbers that are not known yet are not malformed.
    number, span
        Messages of the topic are counted from 0; this one stands for `span` of them, the first being `number`.
    before
        How many events were sent with this topic earlier.
    body
        What msgpack made of it.
    records
        The bytes of the events (`daqca.events.EVENT`).
    block
        The bytes their offsets point into.
    """

    topic: bytes
    stream: bytes
    kind: int
    number: int
    span: int
    before: int
    body: Any
    records: memoryview
    block: Buffer

    @property
    def events(self) -> int:
        """Number of records."""
        return len(self.records) // _RECORD

    @property
    def size(self) -> int:
        """Bytes of data."""
        return len(self.records) + len(self.block)

    @property
    def is_private(self) -> bool:
        """Whether it is for one client alone."""
        return self.topic[:1] == b"C"

    def batch(self) -> Batch:
        """The records and their block, without copying; the records are read-only."""
        return Batch(np.frombuffer(self.records, EVENT), self.block)


def encode_message(
    topic: bytes,
    stream: bytes,
    kind: int,
    number: int,
    span: int,
    before: int,
    body: Any = None,
    records: Sequence[Buffer] = (),
    block: Buffer = b"",
) -> list[Buffer]:
    """Make the frames of a stream message; see `Message`. `records` are pieces that are put together."""
    header: bytes = msgpack.packb([int(kind), number, span, before, body])
    length = sum(map(len, records))
    inline = block if len(block) < INLINE else b""
    first = b"".join(
        (
            _PREFIX.pack(topic, VERSION, len(header), length // _RECORD, stream),
            header,
            bytes(-len(header) & 7),
            *records,
            inline,
        )
    )
    return [first] if inline is block or not len(block) else [first, block]


def decode_message(frames: Sequence[Buffer]) -> Message:
    """Take the frames of a stream message apart, without copying.

    Raises
    ------
    TransportError
        The frames are not such a message.
    """
    if not 1 <= len(frames) <= 2:
        raise TransportError(f"a stream message has one or two frames, not {len(frames)}; it is dropped")
    view = memoryview(frames[0])
    if len(view) < _PREFIX.size:
        raise TransportError(f"a stream message of {len(view)} bytes is too short; it is dropped")
    topic, version, header_size, n, stream = _PREFIX.unpack_from(view)
    if version != VERSION or topic[:1] not in (b"S", b"C"):
        raise TransportError(f"a stream message begins with {bytes(view[:10])!r}, which is not daqca's; it is dropped")
    start = _PREFIX.size + header_size + (-header_size & 7)
    end = start + n * _RECORD
    if end > len(view):
        raise TransportError(f"a stream message of {len(view)} bytes should have {end}; it is dropped")
    header = _unpack(view[_PREFIX.size : _PREFIX.size + header_size])
    if not isinstance(header, list) or len(header) != 5 or not all(map(_is_counter, header[:4])) or header[2] < 1:
        raise TransportError("a stream message has a header that is none; it is dropped")
    block: Buffer = view[end:]
    if len(frames) == 2:
        if len(block):
            raise TransportError("a stream message has two blocks; it is dropped")
        block = frames[1]
    kind, number, span, before, body = header
    return Message(topic, stream, kind, number, span, before, body, view[start:end], block)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the worker gets it: from whom, what, and the raw frames that belong to it."""

    client: bytes
    code: int
    arguments: list[Any]
    frames: Sequence[Buffer]


def encode_request(code: int, arguments: Sequence[Any] = (), frames: Sequence[Buffer] = ()) -> list[Buffer]:
    """Make the frames of a request."""
    return [msgpack.packb([int(code), *arguments]), *frames]


def request_code(header: Buffer) -> int:
    """The code of a request, from its first frame.

    Raises
    ------
    TransportError
        The frame is not the head of a request.
    """
    return int(_request_header(header)[0])


def decode_request(frames: Sequence[Buffer]) -> Request:
    """Take the frames ``[client, header, ...]`` of a request apart.

    Raises
    ------
    TransportError
        The frames are not a request.
    """
    if len(frames) < 2:
        raise TransportError(f"a request has at least two frames, not {len(frames)}; it is dropped")
    client = bytes(frames[0])
    if len(client) != ID_SIZE:
        raise TransportError(f"a request comes from {client!r}, which is no client; it is dropped")
    header = _request_header(frames[1])
    return Request(client, header[0], header[1:], frames[2:])


def _request_header(frame: Buffer) -> list[Any]:
    header = _unpack(frame)
    if not isinstance(header, list) or not header or not _is_counter(header[0]) or header[0] > 255:
        raise TransportError("a request has a header that is none; it is dropped")
    return header


def _unpack(data: Buffer) -> Any:
    try:
        return msgpack.unpackb(data)
    # msgpack raises ValueErrors, and TypeErrors for keys that cannot be keys.
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise TransportError(f"a message has a header that msgpack cannot read ({error}); it is dropped") from error


def _is_counter(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNTER
