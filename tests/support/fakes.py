"""Servers that misbehave: they answer searches like any other, and then do on their circuits what a test wants.

They run on threads of the test; nothing in them knows daqca's client.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from daqca.sim.ports import LOOPBACK, Ports

HEADER = struct.Struct(">HHHHII")
VERSION, EVENT_ADD, SEARCH, CREATE_CHAN = 0, 1, 6, 18

Talk = Callable[[socket.socket], None]


def messages(data: bytes) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """Command, data type, count, both parameters and payload of each message that is complete."""
    pos = 0
    while len(data) - pos >= HEADER.size:
        command, size, data_type, count, p1, p2 = HEADER.unpack_from(data, pos)
        payload = data[pos + HEADER.size : pos + HEADER.size + size]
        if len(payload) < size:
            return
        yield command, data_type, count, p1, p2, payload
        pos += HEADER.size + size


def requests(connection: socket.socket) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """The messages of a circuit as they come, until the client closes it; see `messages`."""
    data = b""
    while more := connection.recv(65536):
        data += more
        for message in messages(data):
            data = data[HEADER.size + len(message[-1]) :]
            yield message


class FakeServer:
    """Says that it has a PV, and has ``talk(connection)`` called for each client that connects to it.

    Parameters
    ----------
    name
        The PV it says it has.
    talk
        What happens on a circuit, which is closed when it returns. None: it refuses connections.
    """

    def __init__(self, name: str, talk: Talk | None, ports: Ports):
        self.name = name
        self.ports = ports
        self.searches = 0
        """Searches answered."""
        self.accepted = 0
        """Connections accepted."""
        self._talk = talk
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((LOOPBACK, ports.server))
        self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._answer_searches)]
        if talk is not None:
            self._tcp.bind((LOOPBACK, ports.server))
            self._tcp.listen()
            self._threads.append(threading.Thread(target=self._accept))

    def __enter__(self) -> FakeServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._udp, self._tcp, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        # A datagram to itself wakes the thread that a shutdown of an unconnected socket does not.
        with contextlib.suppress(OSError):
            self._udp.sendto(b"", self._udp.getsockname())
        for thread in self._threads:
            thread.join(10)
        for sock in (self._udp, self._tcp, *self._connections):
            sock.close()

    def _answer_searches(self) -> None:
        while True:
            try:
                data, client = self._udp.recvfrom(65536)
            except OSError:
                return
            if not data:
                return
            reply = b""
            for command, data_type, count, p1, _, payload in messages(data):
                if command == VERSION:
                    reply = HEADER.pack(VERSION, 0, data_type, count, p1, 0)
                elif command == SEARCH and payload.rstrip(b"\0").decode() == self.name:
                    self.searches += 1
                    reply += HEADER.pack(SEARCH, 8, self.ports.server, 0, 0xFFFFFFFF, p1) + b"\0\x0d" + bytes(6)
            with contextlib.suppress(OSError):
                self._udp.sendto(reply, client)

    def _accept(self) -> None:
        assert self._talk is not None
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            self.accepted += 1
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        assert self._talk is not None
        with contextlib.suppress(OSError):
            self._talk(connection)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def until_create(connection: socket.socket) -> int:
    """Read until the client creates a channel; returns its client id."""
    data = b""
    while True:
        more = connection.recv(65536)
        if not more:
            raise OSError("the client closed the circuit")
        data += more
        for command, _, _, p1, _, _ in messages(data):
            if command == CREATE_CHAN:
                return p1


def created(cid: int, data_type: int = 6, count: int = 1, sid: int = 1) -> bytes:
    """What a server says to that: all access, and the channel."""
    return HEADER.pack(22, 0, 0, 0, cid, 3) + HEADER.pack(CREATE_CHAN, 0, data_type, count, cid, sid)


def silence(connection: socket.socket) -> None:
    """Read on, and say nothing."""
    while connection.recv(65536):
        pass
