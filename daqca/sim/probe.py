"""A minimal Channel Access client on plain sockets: can this server be found, and does it answer?

Only what readiness needs; it shares nothing with daqca's client, so each can testify about the other.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from .ports import LOOPBACK

_HEADER = struct.Struct(">HHHHII")
_MINOR_VERSION = 13
_VERSION, _SEARCH, _READ_NOTIFY, _CREATE_CHAN, _CREATE_CH_FAIL = 0, 6, 15, 18, 26
_ECA_NORMAL = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said of a PV.

    Parameters
    ----------
    tcp_port
        The port of the circuit.
    native_type
        0 STRING, 1 SHORT, 2 FLOAT, 3 ENUM, 4 CHAR, 5 LONG, 6 DOUBLE.
    native_count
        The maximum number of elements.
    payload
        The value in its native type, big-endian, ``native_count`` elements at most.
    """

    tcp_port: int
    native_type: int
    native_count: int
    payload: bytes


def ask(pvname: str, port: int, timeout: float = 1.0) -> Answer | None:
    """Find a PV by UDP, connect to it by TCP and read it once.

    Parameters
    ----------
    pvname
        The PV.
    port
        The UDP port of its server, on the loopback address.
    timeout
        Seconds to wait for each of the answers.

    Returns
    -------
    Answer | None
        None when any step failed: nothing there yet, another server, or no value.
    """
    try:
        tcp_port = _search(pvname, port, timeout)
        return None if tcp_port is None else _read(pvname, tcp_port, timeout)
    except OSError:
        return None


def _message(command: int, data_type: int, count: int, p1: int, p2: int, payload: bytes = b"") -> bytes:
    payload += bytes(-len(payload) % 8)
    return _HEADER.pack(command, len(payload), data_type, count, p1, p2) + payload


def _search(pvname: str, port: int, timeout: float) -> int | None:
    request = _message(_VERSION, 0, _MINOR_VERSION, 0, 0)
    request += _message(_SEARCH, 5, _MINOR_VERSION, 1, 1, pvname.encode() + b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        # Connected, so that a port nobody listens on refuses at once.
        sock.connect((LOOPBACK, port))
        sock.send(request)
        while True:
            datagram = sock.recv(2048)
            while len(datagram) >= _HEADER.size:
                command, size, data_type, _, _, cid = _HEADER.unpack_from(datagram)
                if command == _SEARCH and cid == 1:
                    return int(data_type)
                datagram = datagram[_HEADER.size + size :]


def _read(pvname: str, tcp_port: int, timeout: float) -> Answer | None:
    with socket.create_connection((LOOPBACK, tcp_port), timeout) as sock, sock.makefile("rb") as stream:
        sock.sendall(
            _message(_VERSION, 0, _MINOR_VERSION, 0, 0)
            + _message(_CREATE_CHAN, 0, 0, 1, _MINOR_VERSION, pvname.encode() + b"\0")
        )
        native_type = native_count = -1
        while True:
            header = stream.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return None
            command, size, data_type, count, p1, p2 = _HEADER.unpack(header)
            if size == 0xFFFF:
                size, count = struct.unpack(">II", stream.read(8))
            payload = stream.read(size)
            if command == _CREATE_CH_FAIL:
                return None
            if command == _CREATE_CHAN:
                native_type, native_count = data_type, count
                sock.sendall(_message(_READ_NOTIFY, data_type, native_count if native_count < 0xFFFF else 1, p2, 2))
            elif command == _READ_NOTIFY:
                return Answer(tcp_port, native_type, native_count, payload) if p1 == _ECA_NORMAL else None
