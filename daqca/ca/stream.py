"""Cutting the bytes of one circuit into messages: in columns where many of one form follow each other.

What the messages mean is the receiver's matter (`circuit`); how values are laid out is in `decode`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from daqca.ca import protocol
from daqca.ca.decode import Layout, layout
from daqca.ca.protocol import HEADER_SIZE, Command
from daqca.errors import ProtocolError
from daqca.events import BatchBuilder

BUFFER_SIZE = 256 * 1024
LARGE = 32 * 1024
"""A payload above this gets a buffer of its own, into which the network reads directly."""
MIN_RUN = 4
"""From so many messages of one form on, decoding in columns pays."""
MIN_MIXED = 16
"""After so many single messages, what follows is sorted by form and then decoded in columns."""

_VALUES = frozenset((int(Command.READ_NOTIFY), int(Command.EVENT_ADD)))
_COMMANDS = frozenset(map(int, Command))

Payload = bytearray | memoryview


class Receiver(Protocol):
    """Whoever is given the messages, in the order they came."""

    def single(
        self,
        command: int,
        data_type: int,
        count: int,
        p1: int,
        p2: int,
        payload: Payload,
        start: int,
        size: int,
        builder: BatchBuilder,
        keep: bool = False,
    ) -> None:
        """One message; its payload is at ``payload[start : start + size]`` (for good, if `keep`)."""

    def too_large(self, command: int, p2: int, size: int, builder: BatchBuilder) -> None:
        """A value of `size` bytes, which is more than is taken in; it is passed over."""

    def controls(self, messages: npt.NDArray[np.void], builder: BatchBuilder, count: int | None = None) -> None:
        """Messages without payload, array of `HEADER`; `count` if that of the only one is above 65,535."""

    def values(self, parts: list[tuple[int, npt.NDArray[np.void], Layout, Positions]], builder: BatchBuilder) -> None:
        """Messages that carry values: (command, messages, their layout, their positions in the stream)."""


Positions = npt.NDArray[np.int64]


class Stream:
    """The incoming bytes of one circuit.

    Parameters
    ----------
    name
        Of the server, for errors.
    limit
        The largest payload in bytes that is taken in; larger ones are told to the receiver and passed over.
    """

    __slots__ = (
        "_buffer",
        "_end",
        "_large",
        "_large_filled",
        "_large_header",
        "_limit",
        "_name",
        "_skip",
        "_view",
    )

    def __init__(self, name: str, limit: int = protocol.MAX_PAYLOAD):
        self._name = name
        self._buffer = bytearray(BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._large: memoryview | None = None
        self._large_filled = 0
        self._limit = limit
        self._skip = 0
        self._large_header = (0, 0, 0, 0, 0)

    def is_between_messages(self) -> bool:
        """Whether nothing of a message was received whose rest is to come."""
        return not self._end and self._large is None and not self._skip

    def is_in_large_value(self) -> bool:
        """Whether what comes next goes into a buffer of its own."""
        return self._large is not None

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the network are to be put."""
        if self._large is not None:
            return self._large[self._large_filled :]
        return self._view[self._end :] if self._end else self._view

    def received(self, n: int, receiver: Receiver, builder: BatchBuilder) -> None:
        """`n` bytes were put into the buffer: hand on the messages that are complete.

        Parameters
        ----------
        receiver
            Is given them. The stream does not keep it: who owns the stream goes with its buffers when it is let go.

        Raises
        ------
        ProtocolError
            The bytes are not Channel Access. Events decoded before are in `builder`.
        """
        if self._skip:
            passed = min(n, self._skip)
            self._skip -= passed
            n -= passed
            self._buffer[:n] = self._buffer[passed : passed + n]
        if self._large is None:
            self._end += n
            self._decode(receiver, builder)
            return
        self._large_filled += n
        if self._large_filled == len(self._large):
            payload, self._large = self._large, None
            receiver.single(*self._large_header, payload, 0, len(payload), builder, keep=True)

    def _decode(self, receiver: Receiver, builder: BatchBuilder) -> None:
        buffer, end, pos, singles = self._buffer, self._end, 0, 0
        single, unpack = receiver.single, protocol.unpack_header
        try:
            while end - pos >= HEADER_SIZE:
                command, size, data_type, count, p1, p2 = unpack(buffer, pos)
                start = pos + HEADER_SIZE
                if size == 0xFFFF and count == 0:
                    if end - start < 8:
                        break
                    size, count = protocol.unpack_large(buffer, start)
                    start += 8
                    protocol.check_size(size, f"message {command} of the server {self._name}")
                following = start + size
                if size > self._limit and command in _VALUES:
                    receiver.too_large(command, p2, size, builder)
                    self._skip = max(following - end, 0)
                    pos = min(following, end)
                    continue
                if following > end:
                    if command not in _COMMANDS:
                        # Said at once: who waits for the rest of garbage may wait for ever.
                        raise ProtocolError(f"the server {self._name} sent message {command}, which does not exist")
                    if size > LARGE:
                        self._begin_large(start, end, size, (command, data_type, count, p1, p2))
                        pos = end
                    break
                if end - pos >= MIN_RUN * (following - pos):
                    n = self._run_length(pos, start, following, end)
                    if n >= MIN_RUN:
                        self._run(pos, n, (command, size, data_type, count), receiver, builder)
                        pos += n * (following - pos)
                        singles = 0
                        continue
                    singles += 1
                    if singles > MIN_MIXED and size:
                        singles = 0
                        begin, pos = pos, self._mixed(pos, end, receiver, builder)
                        if pos > begin:
                            continue
                single(command, data_type, count, p1, p2, buffer, start, size, builder)
                pos = following
        finally:
            # What is left is the beginning of a message; it moves to the front.
            left = end - pos
            if pos and left:
                buffer[:left] = buffer[pos:end]
            self._end = left

    def _begin_large(self, start: int, end: int, size: int, header: tuple[int, int, int, int, int]) -> None:
        if header[0] not in _VALUES:
            raise ProtocolError(f"the server {self._name} sent message {header[0]} with a payload of {size} bytes")
        self._large = memoryview(np.empty(size, np.uint8).data)
        self._large[: end - start] = self._view[start:end]
        self._large_filled = end - start
        self._large_header = header

    def _run_length(self, pos: int, start: int, following: int, end: int) -> int:
        """How many messages from `pos` on have the same header, or (if it has no payload) none."""
        if start - pos != HEADER_SIZE:
            return 1
        buffer, stride = self._buffer, following - pos
        if stride == HEADER_SIZE:
            # As below: the first ones tell whether it pays to look at all.
            if buffer[pos + 18 : pos + 20] != b"\0\0":
                return 1
            sizes = np.ndarray(((end - pos) >> 4,), "<u2", buffer, pos + 2, (16,))
            if len(sizes) > 64 and sizes[:64].any():
                sizes = sizes[:64]
            n = int((sizes != 0).argmax())
            return n or (len(sizes) if not sizes[0] else 0)
        if buffer[pos : pos + 8] != buffer[following : following + 8]:
            return 1
        heads = np.ndarray(((end - pos) // stride,), "<u8", buffer, pos, (stride,))
        key = heads[0]
        # Runs are either long or short: the first ones tell whether it pays to look at all.
        if len(heads) > 64 and (heads[:64] != key).any():
            heads = heads[:64]
        other = heads != key
        n = int(other.argmax())
        return n if other[n] else len(heads)

    def _run(
        self, pos: int, n: int, head: tuple[int, int, int, int], receiver: Receiver, builder: BatchBuilder
    ) -> None:
        buffer = self._buffer
        command, size, data_type, count = head
        form = _layout(data_type, count, size) if size and command in _VALUES else None
        if size == 0:
            receiver.controls(np.frombuffer(buffer, protocol.HEADER, n, pos).copy(), builder)
        elif form is not None:
            messages = np.frombuffer(buffer, form.dtype, n, pos)
            receiver.values([(command, messages, form, np.arange(n))], builder)
        else:
            stride = HEADER_SIZE + size
            for at in range(pos, pos + n * stride, stride):
                _, _, _, _, p1, p2 = protocol.unpack_header(buffer, at)
                receiver.single(command, data_type, count, p1, p2, buffer, at + HEADER_SIZE, size, builder)

    def _mixed(self, pos: int, end: int, receiver: Receiver, builder: BatchBuilder) -> int:
        """Hand on values of mixed forms, sorted by form; returns where other messages begin."""
        buffer, unpack = self._buffer, protocol.unpack_header
        groups: dict[tuple[int, int, int, int], list[int]] = {}
        while end - pos >= HEADER_SIZE:
            command, size, data_type, count, _, _ = unpack(buffer, pos)
            following = pos + HEADER_SIZE + size
            if command not in _VALUES or not 0 < size < LARGE or following > end:
                break
            key = (command, data_type, count, size)
            if key not in groups:
                if _layout(data_type, count, size) is None:
                    break
                groups[key] = []
            groups[key].append(pos)
            pos = following
        whole = np.frombuffer(buffer, np.uint8)
        parts = []
        for (command, data_type, count, size), starts in groups.items():
            form = layout(data_type, count, size)
            positions = np.array(starts, np.int64)
            matrix = whole[positions[:, None] + np.arange(form.dtype.itemsize)]
            parts.append((command, matrix.view(form.dtype)[:, 0], form, positions))
        if parts:
            receiver.values(parts, builder)
        return pos


def _layout(data_type: int, count: int, size: int) -> Layout | None:
    """The layout, or None if there is none: then the messages are errors one by one, or not Channel Access."""
    try:
        return layout(data_type, count, size)
    except ProtocolError:
        return None
