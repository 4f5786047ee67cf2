"""Bytes that are read ahead of decoding: in order, bounded, and ended by the end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from daqca.ca import ahead as ahead_module
from daqca.ca.ahead import Ahead


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def taken(ahead: Ahead, n: int) -> bytes:
    buffer = bytearray(n)
    return bytes(buffer[: ahead.take(memoryview(buffer))])


@pytest.mark.parametrize("chunk", [1000, 1 << 20], ids=["many chunks", "one chunk"])
@pytest.mark.parametrize("piece", [1, 999, 1000, 1001, 5000])
def test_bytes_come_out_in_order(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, chunk: int, piece: int
):
    monkeypatch.setattr(ahead_module, "CHUNK", chunk)
    ours, theirs = pair
    data = os.urandom(4096)
    theirs.sendall(data)
    ahead = Ahead()
    ahead.read(ours)
    assert ahead.size == 4096
    found = b""
    while ahead.chunks:
        part = taken(ahead, piece)
        assert 0 < len(part) <= piece
        found += part
        assert ahead.size == 4096 - len(found)
    assert found == data


def test_no_more_than_so_much_is_read(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ahead_module, "CHUNK", 1000)
    monkeypatch.setattr(ahead_module, "MOST", 3000)
    ours, theirs = pair
    theirs.sendall(bytes(range(200)) * 25)
    ahead = Ahead()
    ahead.read(ours)
    assert ahead.size == 3000
    ahead.read(ours)
    assert ahead.size == 3000, "there is no room"
    assert len(taken(ahead, 500)) == 500
    ahead.read(ours)
    assert ahead.size == 3500, "there is room for another chunk"
    assert taken(ahead, 4000) == (bytes(range(200)) * 25)[500:4000]


def test_nothing_to_read_is_no_end(pair: tuple[socket.socket, socket.socket]):
    ahead = Ahead()
    ahead.read(pair[0])
    assert not ahead.chunks


@pytest.mark.parametrize("is_reset", [False, True])
def test_the_end_comes_last_and_once(is_reset: bool):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours:
        theirs.sendall(b"abc")
        ahead = Ahead()
        ahead.read(ours)
        if is_reset:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        ours.setblocking(True)
        ahead.read(ours)
        ahead.read(ours)
        assert [bytes(chunk) for chunk in ahead.chunks] == [b"abc", b""]
        assert taken(ahead, 10) == b"abc"
        assert taken(ahead, 10) == b""
        assert ahead.chunks, "the end stays"
