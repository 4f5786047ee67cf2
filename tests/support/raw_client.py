"""An independent client of Channel Access on one blocking socket: what a server really sends, message by message.

For tests of servers; it knows nothing of daqca's client.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from daqca.sim.ports import LOOPBACK

EVENT_ADD, WRITE, READ_NOTIFY, CREATE_CHAN, WRITE_NOTIFY, ACCESS_RIGHTS = 1, 4, 15, 18, 19, 22
VERSION, CREATE_CH_FAIL = 0, 26
_HEADER = struct.Struct(">HHHHII")
_LARGE = struct.Struct(">II")
_VALUE, _ALARM = 1, 4


@dataclass(frozen=True, slots=True)
class Message:
    command: int
    data_type: int
    count: int
    p1: int
    p2: int
    payload: bytes


class RawClient:
    """A circuit to a server; channels and subscriptions are named by the numbers they get, from 1."""

    def __init__(self, tcp_port: int, timeout: float = 10.0):
        self._socket = socket.create_connection((LOOPBACK, tcp_port), timeout)
        self._stream = self._socket.makefile("rb", buffering=1 << 20)
        self._channels: dict[str, tuple[int, int, int]] = {}
        self.rights: dict[str, int] = {}
        self._send(VERSION, 0, 13, 0, 0)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def connect(self, pvname: str) -> tuple[int, int]:
        """Create a channel; return its native type and count."""
        cid = len(self._channels) + 1
        self._send(CREATE_CHAN, 0, 0, cid, 13, pvname.encode() + b"\0")
        for message in self.messages():
            if message.command == ACCESS_RIGHTS:
                self.rights[pvname] = message.p2
            elif message.command == CREATE_CH_FAIL:
                raise LookupError(pvname)
            elif message.command == CREATE_CHAN:
                self._channels[pvname] = (message.p2, message.data_type, message.count)
                return message.data_type, message.count
        raise ConnectionError("the server closed the circuit")

    def get(self, pvname: str, data_type: int | None = None, count: int = 0) -> Message:
        sid, native_type, _ = self._channels[pvname]
        self._send(READ_NOTIFY, native_type if data_type is None else data_type, count, sid, 77)
        return next(message for message in self.messages() if message.command == READ_NOTIFY)

    def put(self, pvname: str, payload: bytes, data_type: int, count: int = 1, *, wait: bool = True) -> Message | None:
        sid, _, _ = self._channels[pvname]
        self._send(WRITE_NOTIFY if wait else WRITE, data_type, count, sid, 78, payload)
        if not wait:
            return None
        return next(message for message in self.messages() if message.command == WRITE_NOTIFY)

    def put_number(self, pvname: str, value: float, *, wait: bool = True) -> Message | None:
        return self.put(pvname, struct.pack(">d", value), 6, wait=wait)

    def subscribe(self, pvname: str, subscription: int, data_type: int | None = None, count: int = 0) -> None:
        sid, native_type, _ = self._channels[pvname]
        payload = struct.pack(">fffHH", 0, 0, 0, _VALUE | _ALARM, 0)
        self._send(EVENT_ADD, native_type if data_type is None else data_type, count, sid, subscription, payload)

    def messages(self) -> Iterator[Message]:
        """Yield what the server sends, until it closes the circuit."""
        while len(header := self._stream.read(_HEADER.size)) == _HEADER.size:
            command, size, data_type, count, p1, p2 = _HEADER.unpack(header)
            if size == 0xFFFF:
                size, count = _LARGE.unpack(self._stream.read(_LARGE.size))
            yield Message(command, data_type, count, p1, p2, self._stream.read(size))

    def _send(self, command: int, data_type: int, count: int, p1: int, p2: int, payload: bytes = b"") -> None:
        payload += bytes(-len(payload) % 8)
        self._socket.sendall(_HEADER.pack(command, len(payload), data_type, count, p1, p2) + payload)
