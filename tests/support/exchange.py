"""A server that answers as a test says, an engine that asks it, and by which way each get and put went."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import pytest

from daqca import Engine
from daqca.ca import sockets
from daqca.ca.circuit import Circuit
from daqca.ca.context import Context
from daqca.ca.sockets import Link
from daqca.sim import Ports

from . import wire
from .fakes import FakeServer, requests, until_create
from .ioc import Servers
from .recording import eventually

NAME, SID = "FAKE:number", 77
TIME_DOUBLE = wire.TIME + wire.DOUBLE
SOON = 10.0
"""Seconds within which something comes that does not wait for a timeout of `LONG`."""
LONG = 25.0


class Asked(NamedTuple):
    """A get or a put that came to the server, on which connection."""

    connection: socket.socket
    command: int
    data_type: int
    count: int
    sid: int
    id: int
    payload: bytes

    def send(self, *answers: bytes) -> None:
        """Send all of it at once."""
        self.connection.sendall(b"".join(answers))


def read_reply(asked: Asked, number: float, **alarm: int) -> bytes:
    return wire.read_reply(asked.id, number, **alarm)


def usual(asked: Asked) -> None:
    """What any server would answer."""
    asked.send(read_reply(asked, 1.5) if asked.command == wire.READ_NOTIFY else wire.written(asked.id))


class Server:
    """A server of one PV; ``answer(asked)`` is called for every get and put, and may be replaced at any time.

    A subscription gets 0.0 at once.
    """

    def __init__(self, ports: Ports):
        self.native_type, self.count = wire.DOUBLE, 1
        self.answer: Callable[[Asked], None] = usual
        self.asked: list[Asked] = []
        self.subscription = self.cid = 0
        self.connection: socket.socket
        self.fake = FakeServer(NAME, self._talk, ports)

    def __enter__(self) -> Server:
        self.fake.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fake.__exit__(kind, error, trace)

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.cid = until_create(connection)
        self.connection = connection
        connection.sendall(wire.version() + wire.created(self.cid, SID, self.native_type, self.count))
        for message in requests(connection):
            asked = Asked(connection, *message)
            if asked.command == wire.EVENT_ADD:
                self.subscription = asked.id
                asked.send(self.update(0.0))
            elif asked.command in (wire.READ_NOTIFY, wire.WRITE_NOTIFY):
                self.asked.append(asked)
                self.answer(asked)

    def update(self, number: float) -> bytes:
        return wire.update(self.subscription, number)

    def wait_asked(self, n: int) -> list[Asked]:
        """Wait until `n` gets and puts came; returns them."""
        eventually(lambda: len(self.asked) >= n, f"{n} requests")
        return self.asked


@pytest.fixture
def server(servers: Servers, point_at: Callable[..., Any]) -> Iterator[Server]:
    """The environment leads to it."""
    with Server(servers.ports()) as server:
        point_at(server.fake)
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Engine]:
    """An engine whose channel to the server is connected, and whose next request may take the short way."""
    with Engine() as engine:
        connect(engine)
        yield engine


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """For each get and put that ended the way it took: ``"short"``; ``"registered"`` after it was sent; ``"asked"``."""
    taken: list[str] = []
    exchange = Context.exchange

    def watched(context: Context, *args: Any) -> Any:
        answer = exchange(context, *args)
        taken.append("asked" if answer is None else "short" if type(answer) is tuple else "registered")
        return answer

    monkeypatch.setattr(Context, "exchange", watched)
    return taken


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Circuits on which an answer may take long and is nevertheless what comes next: a busy host changes no way."""
    monkeypatch.setattr(sockets, "_TICK", 0.9)


def context_of(engine: Engine) -> Context:
    (link,) = engine._links
    context: Context = link._context  # type: ignore[attr-defined]
    return context


def link_of(engine: Engine) -> Link:
    (link,) = context_of(engine)._links.values()
    return link


def circuit_of(engine: Engine) -> Circuit:
    return link_of(engine).circuit


def connect(engine: Engine, *names: str) -> None:
    """Connect, and wait until the I/O thread reads no more: who asks next is the reader."""
    assert [info.connected for info in engine.connect(list(names or (NAME,)), timeout=20)] == [True] * (len(names) or 1)
    nobody_reads(engine)


def nobody_reads(engine: Engine) -> None:
    for link in list(context_of(engine)._links.values()):
        with link.reader:
            pass


def nothing_left(engine: Engine) -> None:
    """No request is registered and no operation waits."""
    (link,) = engine._links
    assert not context_of(engine).shard.requests.kind.any()
    assert len(link.operations) == 0


def stray(engine: Engine) -> int:
    number: int = context_of(engine).stats()["stray_messages"]
    return number
