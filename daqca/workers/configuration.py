"""What a worker process is told at its start, by its parent, on its standard input."""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import IO, Any

import msgpack

from daqca.broker.publisher import BACKLOG_BYTES
from daqca.ca.settings import Settings
from daqca.errors import TransportError

HEARTBEAT = 0.5
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The start of a worker.

    Parameters
    ----------
    directory
        Of the broker's sockets.
    address
        The worker's, 8 bytes.
    settings
        Of its context.
    log_level
        Records below are not written to the standard error, from where the parent logs them.
    heartbeat
        Seconds between two signs of life.
    backlog
        The most bytes that may wait for a client that does not read.
    """

    directory: str
    address: bytes
    settings: Settings
    log_level: int = 30
    heartbeat: float = HEARTBEAT
    backlog: int = BACKLOG_BYTES

    def encode(self) -> bytes:
        """The bytes for the standard input."""
        data: bytes = msgpack.packb(asdict(self))
        return _LENGTH.pack(len(data)) + data

    @classmethod
    def read(cls, stream: IO[bytes]) -> Configuration | None:
        """Read what `encode` made; None if the parent is gone.

        Raises
        ------
        TransportError
            It is something else.
        """
        head = _read(stream, _LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        data = _read(stream, _LENGTH.unpack(head)[0])
        try:
            fields: dict[str, Any] = msgpack.unpackb(data)
            settings = {name: _tuples(value) for name, value in fields.pop("settings").items()}
            return cls(**fields, settings=Settings(**settings))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TransportError(f"this is not the start of a worker: {error}") from error


def _read(stream: IO[bytes], n: int) -> bytes:
    """`n` bytes, or fewer at the end of the stream; a pipe gives them as they come."""
    data = b""
    while len(data) < n and (more := stream.read(n - len(data))):
        data += more
    return data


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
