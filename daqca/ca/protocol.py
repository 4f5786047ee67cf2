"""The messages of Channel Access: numbers, headers, and how to write them one by one or in columns.

No state, no sockets; what the messages mean to a client is in `circuit` and `search`. Source: caProto.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from daqca.errors import ConfigurationError, ProtocolError

MINOR_VERSION = 13
"""The version we speak, 4.13, is that of EPICS 7."""

HEADER_SIZE = 16
LARGE_HEADER_SIZE = 24
MAX_SMALL_PAYLOAD = 16_368
MAX_DATAGRAM = 1024
MAX_PAYLOAD = 1 << 30
"""A payload said to be larger than this is garbage: no record holds a gigabyte."""

SENDER_ADDRESS = 0xFFFFFFFF
"""As a server's address in a search reply: the address the reply came from."""
TELLS_ADDRESS = 8
"""Minor version since which a search reply tells the server's address; before, something else is in its place."""

HEADER = np.dtype(
    [("command", ">u2"), ("size", ">u2"), ("data_type", ">u2"), ("count", ">u2"), ("p1", ">u4"), ("p2", ">u4")]
)
SEARCH_REPLY = np.dtype([*HEADER.descr, ("minor_version", ">u2"), ("pad", "V6")])
EVENT_ADD_REQUEST = np.dtype([*HEADER.descr, ("limits", ">f4", 3), ("mask", ">u2"), ("pad", ">u2")])
WRITE_DOUBLE_REQUEST = np.dtype([*HEADER.descr, ("value", ">f8")])

U4 = npt.NDArray[np.uint32]

unpack_header = struct.Struct(">HHHHII").unpack_from
pack_header = struct.Struct(">HHHHII").pack
_pack_large = struct.Struct(">HHHHIIII").pack
unpack_large = struct.Struct(">II").unpack_from


class Command(IntEnum):
    """Commands, in requests and replies alike."""

    VERSION = 0
    EVENT_ADD = 1
    EVENT_CANCEL = 2
    WRITE = 4
    SEARCH = 6
    EVENTS_OFF = 8
    EVENTS_ON = 9
    READ_SYNC = 10
    ERROR = 11
    CLEAR_CHANNEL = 12
    RSRV_IS_UP = 13
    NOT_FOUND = 14
    READ_NOTIFY = 15
    REPEATER_CONFIRM = 17
    CREATE_CHAN = 18
    WRITE_NOTIFY = 19
    CLIENT_NAME = 20
    HOST_NAME = 21
    ACCESS_RIGHTS = 22
    ECHO = 23
    REPEATER_REGISTER = 24
    CREATE_CH_FAIL = 26
    SERVER_DISCONN = 27


class SearchReply(IntEnum):
    """What a SEARCH asks of a server that does not have the name."""

    DONT_REPLY = 5
    DO_REPLY = 10


def server_address(ip: int, port: int, sender: str, minor_version: int = MINOR_VERSION) -> tuple[str, int]:
    """Where the circuits of a server go that has answered a search.

    Parameters
    ----------
    ip, port
        Parameter 1 and data type of the reply. An `ip` of 0 means the sender too: with some servers, and in beacons.
    sender
        The IPv4 address that the reply came from.
    minor_version
        What the reply says by UDP (see `TELLS_ADDRESS`), 0 if nothing; who answers by TCP is of 4.12 or newer.
    """
    if minor_version < TELLS_ADDRESS or ip in (0, SENDER_ADDRESS):
        return sender, port
    return ".".join(map(str, ip.to_bytes(4, "big"))), port


def padded(size: int) -> int:
    """The size of a payload rounded up to the 8 bytes that messages are aligned to."""
    return (size + 7) & ~7


def message(
    command: int, payload: bytes | memoryview = b"", data_type: int = 0, count: int = 0, p1: int = 0, p2: int = 0
) -> bytes:
    """One message, in the large form if the payload or the count needs it."""
    size = padded(len(payload))
    fill = b"\0" * (size - len(payload))
    if size > MAX_SMALL_PAYLOAD or count > 0xFFFF:
        return b"".join((_pack_large(command, 0xFFFF, data_type, 0, p1, p2, size, count), payload, fill))
    return b"".join((pack_header(command, size, data_type, count, p1, p2), payload, fill))


def text_message(command: int, text: str, p1: int = 0, p2: int = 0, data_type: int = 0, count: int = 0) -> bytes:
    """A message whose payload is a zero-terminated name."""
    return message(command, text.encode() + b"\0", data_type, count, p1, p2)


def headers(command: int, data_type: int, count: int, p1: U4, p2: U4) -> npt.NDArray[np.void]:
    """Messages without payload in a column, shape (n,): one for each pair of `p1` and `p2`."""
    out = np.empty(len(p1), HEADER)
    out["command"] = command
    out["size"] = 0
    out["data_type"] = data_type
    out["count"] = count
    out["p1"] = p1
    out["p2"] = p2
    return out


def event_add_requests(
    data_type: int, count: int, sids: U4, subscriptions: U4, masks: npt.NDArray[np.uint16]
) -> npt.NDArray[np.void]:
    """Requests for subscriptions in a column, shape (n,)."""
    out = np.zeros(len(sids), EVENT_ADD_REQUEST)
    out["command"] = Command.EVENT_ADD
    out["size"] = 16
    out["data_type"] = data_type
    out["count"] = count
    out["p1"] = sids
    out["p2"] = subscriptions
    out["mask"] = masks
    return out


def write_double_requests(command: int, sids: U4, ids: U4, values: npt.NDArray[np.float64]) -> npt.NDArray[np.void]:
    """Writes of one DBR_DOUBLE each in a column, shape (n,)."""
    out = np.empty(len(sids), WRITE_DOUBLE_REQUEST)
    out["command"] = command
    out["size"] = 8
    out["data_type"] = 6
    out["count"] = 1
    out["p1"] = sids
    out["p2"] = ids
    out["value"] = values
    return out


LONGEST_NAME = 16_000
"""Bytes of a name, at most, that a message can carry to a server."""


def check_name(name: str) -> None:
    """Raise what `name_bytes` raises, if no server can have this name; quicker for one."""
    if not (name.isascii() and 0 < len(name) <= LONGEST_NAME and "\0" not in name):
        name_bytes([name])


def name_bytes(names: Sequence[str]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """The names in UTF-8, joined by zeros, and the length of each in bytes, shape (n,).

    Raises
    ------
    ConfigurationError
        A name that no server can have: empty, too long, or with a zero in it.
    """
    joined = "\0".join(names)
    try:
        text = joined.encode()
    except UnicodeEncodeError as error:
        name = names[joined.count("\0", 0, error.start)]
        raise ConfigurationError(f"{name[:40]!r} cannot be the name of a PV: it has half a character") from None
    if text.count(b"\0") >= max(len(names), 1):
        name = next(name for name in names if "\0" in name)
        raise ConfigurationError(f"{name[:40]!r} cannot be the name of a PV: servers read up to the zero only")
    if len(text) == len(joined):
        lengths = np.fromiter(map(len, names), np.int64, len(names))
    else:
        lengths = np.fromiter((len(name.encode()) for name in names), np.int64, len(names))
    bad = np.flatnonzero((lengths == 0) | (lengths > LONGEST_NAME))
    if len(bad):
        name = names[bad[0]]
        raise ConfigurationError(f"{name[:40]!r} cannot be the name of a PV: it is empty or too long")
    return text, lengths


class NameMessages:
    """CREATE_CHAN messages of many names, made together and kept as one block of bytes.

    Parameters
    ----------
    names
        PV names; each at most 16,000 bytes in UTF-8, none empty or with a zero byte.
    cids
        Client ids, shape (n,).

    Attributes
    ----------
    block
        The messages, one after the other.
    starts
        Where each begins, and the end of the last; int64, shape (n + 1,).

    Raises
    ------
    ConfigurationError
        One of the names cannot be one.
    """

    __slots__ = ("block", "cids", "starts")

    def __init__(self, names: Sequence[str], cids: U4):
        text, lengths = name_bytes(names)
        sizes = (lengths + 8) & ~7
        starts = np.zeros(len(names) + 1, np.int64)
        np.cumsum(sizes + HEADER_SIZE, out=starts[1:])
        block = np.zeros(starts[-1], np.uint8)
        # Where each byte of the text goes: its own place, plus what headers and padding before it add.
        origin = np.cumsum(lengths + 1) - lengths - 1
        shift = np.repeat(starts[:-1] + HEADER_SIZE - origin, lengths + 1)
        source = np.frombuffer(text + b"\0", np.uint8)
        block[shift + np.arange(len(source))] = source
        self._write_headers(block, starts, Command.CREATE_CHAN, sizes, 0, cids, np.uint32(MINOR_VERSION))
        self.block = block.tobytes()
        self.starts = starts
        self.cids = cids

    @staticmethod
    def _write_headers(
        block: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        command: int,
        sizes: npt.NDArray[np.int64],
        type_and_count: int,
        p1: U4,
        p2: U4 | np.uint32,
    ) -> None:
        words = block.view(">u4")
        places = starts[:-1] >> 2
        words[places] = (command << 16) | sizes
        words[places + 1] = type_and_count
        words[places + 2] = p1
        words[places + 3] = p2

    def creates(self, first: int, last: int) -> bytes:
        """The CREATE_CHAN messages of the names `first` up to, not including, `last`."""
        return self.block[self.starts[first] : self.starts[last]]

    def searches(self, reply: int = SearchReply.DONT_REPLY) -> bytes:
        """The same block with SEARCH headers: message i is at the same place as in `block`."""
        block = np.frombuffer(bytearray(self.block), np.uint8)
        sizes = np.diff(self.starts) - HEADER_SIZE
        kind = (int(reply) << 16) | MINOR_VERSION
        self._write_headers(block, self.starts, Command.SEARCH, sizes, kind, self.cids, self.cids)
        return block.tobytes()


def runs(indices: npt.NDArray[np.integer]) -> list[tuple[int, int]]:
    """Consecutive runs of sorted integers, as (first, end) pairs: [3, 4, 5, 9] gives [(3, 6), (9, 10)]."""
    if not len(indices):
        return []
    breaks = np.flatnonzero(np.diff(indices.astype(np.int64)) != 1)
    firsts = indices[np.concatenate(([0], breaks + 1))].tolist()
    lasts = indices[np.concatenate((breaks, [len(indices) - 1]))].tolist()
    return [(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]


def check_size(size: int, what: str) -> None:
    """Raise ProtocolError if a payload is too large to be one."""
    if size > MAX_PAYLOAD:
        raise ProtocolError(f"{what} announces a payload of {size} bytes, more than any record holds")
