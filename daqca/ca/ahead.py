"""What was read from a circuit's socket while there was no time to decode it.

To read costs a tenth of what it takes to decode. What the kernel has no room for stays in the server, which merges
updates then. So where more comes than is worked off, it is read at once, and decoded later. For the I/O thread alone.
"""

from __future__ import annotations

import errno
import socket
from collections import deque

AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)
CHUNK = 1 << 20
MOST = 64 << 20
"""Bytes that are read ahead of one circuit, about."""


class Ahead:
    """The bytes of one circuit that wait to be decoded.

    Attributes
    ----------
    chunks
        As they were read; an empty one is the end: the server has closed.
    size
        Bytes in all of them.
    """

    __slots__ = ("chunks", "size")

    def __init__(self) -> None:
        self.chunks: deque[memoryview] = deque()
        self.size = 0

    def read(self, sock: socket.socket) -> None:
        """Take what the kernel has, as far as there is room."""
        chunks = self.chunks
        while self.size < MOST and not (chunks and not chunks[-1]):
            try:
                chunk = sock.recv(CHUNK, socket.MSG_DONTWAIT)
            except OSError as error:
                if error.errno in AGAIN:
                    return
                chunk = b""
            chunks.append(memoryview(chunk))
            self.size += len(chunk)
            if len(chunk) < CHUNK:
                return

    def take(self, buffer: memoryview) -> int:
        """Move the oldest bytes into `buffer`; returns how many, 0 at the end. There must be something."""
        chunks, n = self.chunks, 0
        while chunks and chunks[0] and n < len(buffer):
            part = chunks[0][: len(buffer) - n]
            buffer[n : n + len(part)] = part
            n += len(part)
            if len(part) == len(chunks[0]):
                chunks.popleft()
            else:
                chunks[0] = chunks[0][len(part) :]
        self.size -= n
        return n
