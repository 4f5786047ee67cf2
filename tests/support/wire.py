"""The messages of a Channel Access server as bytes, and a reader of a client's messages; `struct` only.

Written from caProto.h and db_access.h, independently of daqca's own code, which it tests.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

VERSION, EVENT_ADD, EVENT_CANCEL, WRITE, SEARCH = 0, 1, 2, 4, 6
EVENTS_OFF, EVENTS_ON, READ_SYNC, ERROR, CLEAR_CHANNEL, BEACON, NOT_FOUND = 8, 9, 10, 11, 12, 13, 14
READ_NOTIFY, REPEATER_CONFIRM, CREATE_CHAN, WRITE_NOTIFY, CLIENT_NAME, HOST_NAME = 15, 17, 18, 19, 20, 21
ACCESS_RIGHTS, ECHO, REPEATER_REGISTER, CREATE_CH_FAIL, SERVER_DISCONN = 22, 23, 24, 26, 27

STRING, SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE = range(7)
STS, TIME, GR, CTRL = 7, 14, 21, 28

NORMAL = 1
# caerr.h: (message number << 3) | severity
BADTYPE, GETFAIL, PUTFAIL, DISCONN = 114, 152, 160, 192
NORDACCESS, NOWTACCESS = 368, 376

UNIX_1990 = 631_152_000
CODES = ["40s", "h", "f", "H", "B", "i", "d"]
# Bytes before the first value of the types 0 to 38, and their size with one value (db_access.h).
OFFSETS = [*([0] * 7), 4, 4, 4, 4, 5, 4, 8, 12, 14, 12, 14, 15, 12, 16]
OFFSETS += [4, 24, 40, 422, 19, 36, 64, 4, 28, 48, 422, 21, 44, 80, 0, 0, 8, 0]


def plain(data_type: int) -> int:
    """The plain type of the values of a type."""
    return {35: ENUM, 36: ENUM, 37: STRING, 38: STRING}.get(data_type, data_type % 7)


def message(
    command: int,
    payload: bytes = b"",
    data_type: int = 0,
    count: int = 0,
    p1: int = 0,
    p2: int = 0,
    large: bool | None = None,
) -> bytes:
    """One message; `large` demands the large or the small header, by default the one that the size asks for."""
    payload += bytes(-len(payload) % 8)
    if large is None:
        large = len(payload) > 16_368 or count > 0xFFFF
    if large:
        return struct.pack(">HHHHIIII", command, 0xFFFF, data_type, 0, p1, p2, len(payload), count) + payload
    return struct.pack(">HHHHII", command, len(payload), data_type, count, p1, p2) + payload


def head(data_type: int, status: int, severity: int, seconds: int, nanoseconds: int) -> bytes:
    """What precedes the values of a type; metadata is filled with a pattern that can be recognised."""
    size = OFFSETS[data_type]
    if not size:
        return b""
    data = struct.pack(">HH", status, severity)
    if TIME <= data_type < GR:
        data += struct.pack(">II", seconds, nanoseconds)
        return data.ljust(size, b"\0")
    if data_type < TIME:
        return data.ljust(size, b"\0")
    return data + bytes(i % 251 for i in range(size - len(data)))


def values(data_type: int, items: list | tuple) -> bytes:
    """The elements of a value, big-endian; texts as bytes of at most 40."""
    code = CODES[plain(data_type)]
    return b"".join(struct.pack(">" + code, item) for item in items)


def payload(
    data_type: int, items: list | tuple, status: int = 0, severity: int = 0, seconds: int = 0, nanoseconds: int = 0
) -> bytes:
    """A whole DBR structure."""
    return head(data_type, status, severity, seconds, nanoseconds) + values(data_type, items)


def value(command: int, data_type: int, items: list | tuple, p2: int, p1: int = NORMAL, **alarm: int) -> bytes:
    """An answer to a read (READ_NOTIFY) or an update (EVENT_ADD)."""
    return message(command, payload(data_type, items, **alarm), data_type, len(items), p1, p2)


def update(subscription: int, number: float, data_type: int = TIME + DOUBLE, **alarm: int) -> bytes:
    """An update of one element."""
    return value(EVENT_ADD, data_type, [number], subscription, **alarm)


def read_reply(ioid: int, number: float, data_type: int = TIME + DOUBLE, **alarm: int) -> bytes:
    """An answer to a read of one element."""
    return value(READ_NOTIFY, data_type, [number], ioid, **alarm)


def version(minor: int = 13) -> bytes:
    """A server's first word on a circuit."""
    return message(VERSION, count=minor)


def access(cid: int, rights: int = 3) -> bytes:
    """ACCESS_RIGHTS."""
    return message(ACCESS_RIGHTS, p1=cid, p2=rights)


def created(cid: int, sid: int, native_type: int = DOUBLE, count: int = 1, rights: int | None = 3) -> bytes:
    """A channel's creation, with its access rights ahead of it."""
    ahead = b"" if rights is None else access(cid, rights)
    return ahead + message(CREATE_CHAN, b"", native_type, count, cid, sid)


def written(ioid: int, eca: int = NORMAL, data_type: int = DOUBLE, count: int = 1) -> bytes:
    """The end of a write with completion."""
    return message(WRITE_NOTIFY, b"", data_type, count, eca, ioid)


def cancelled(subscription: int, sid: int, data_type: int = TIME + DOUBLE, count: int = 1) -> bytes:
    """The confirmation of EVENT_CANCEL: an EVENT_ADD without payload, with the channel where a status would be."""
    return message(EVENT_ADD, b"", data_type, count, sid, subscription)


def cleared(cid: int, sid: int) -> bytes:
    """The confirmation of CLEAR_CHANNEL."""
    return message(CLEAR_CHANNEL, p1=sid, p2=cid)


def error(request: bytes, eca: int, cid: int = 0xFFFFFFFF, text: str = "refused") -> bytes:
    """ERROR: the header of the request that failed, then a text."""
    header = request[: 24 if request[2:4] == b"\xff\xff" else 16]
    return message(ERROR, header + text.encode() + b"\0", 0, 0, cid, eca)


def search_reply(cid: int, port: int, ip: int = 0xFFFFFFFF, minor: int = 13) -> bytes:
    """The answer to one SEARCH by UDP."""
    return message(SEARCH, struct.pack(">H6x", minor), port, 0, ip, cid)


def tcp_search_reply(cid: int, port: int, ip: int = 0xFFFFFFFF, minor: int = 13) -> bytes:
    """The answer to one SEARCH by TCP, which has no payload."""
    return message(SEARCH, b"", port, minor, ip, cid)


def replies(sequence: int | None, *answers: bytes) -> bytes:
    """A datagram of search replies, which begins with the sequence number of the datagram that it answers."""
    ahead = b"" if sequence is None else message(VERSION, b"", 1, 13, sequence, 0)
    return ahead + b"".join(answers)


def beacon(port: int, counter: int, ip: int = 0x7F000001, minor: int = 13) -> bytes:
    """RSRV_IS_UP."""
    return message(BEACON, b"", minor, port, counter, ip)


class Message(NamedTuple):
    """A message, taken apart."""

    command: int
    data_type: int
    count: int
    p1: int
    p2: int
    payload: bytes
    start: int
    is_large: bool

    @property
    def text(self) -> str:
        """The payload as a name."""
        return self.payload.split(b"\0", 1)[0].decode()


def parse(data: bytes) -> list[Message]:
    """Take messages apart; AssertionError if `data` does not end with the last of them, or one is not aligned."""
    found, at = [], 0
    while at < len(data):
        start = at
        command, size, data_type, count, p1, p2 = struct.unpack_from(">HHHHII", data, at)
        at += 16
        is_large = size == 0xFFFF
        if is_large:
            assert count == 0
            size, count = struct.unpack_from(">II", data, at)
            at += 8
        assert size % 8 == 0
        assert at + size <= len(data)
        found.append(Message(command, data_type, count, p1, p2, data[at : at + size], start, is_large))
        at += size
    return found
