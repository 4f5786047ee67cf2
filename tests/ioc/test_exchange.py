"""The short way of one get or put: its answer alone comes next. And whatever else may come instead.

The server is a script here, so that what comes, and in which pieces, is certain; `ioc` is real.
"""

from __future__ import annotations

import math
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pytest
from support import wire
from support.background import Background
from support.engines import Seen
from support.fakes import FakeServer, messages, until_create
from support.ioc import Servers
from support.recording import eventually

from daqca import Engine
from daqca.ca import sockets
from daqca.ca.channels import State
from daqca.ca.circuit import Circuit
from daqca.ca.context import Context
from daqca.ca.dbr import Mask
from daqca.ca.sockets import Link
from daqca.errors import (
    AccessRightsError,
    ChannelError,
    EngineClosedError,
    PVDisconnectedError,
    PVTimeoutError,
    RefusedError,
)
from daqca.events import Batch, Kind
from daqca.sim import Ports, SimIOC

pytestmark = pytest.mark.usefixtures("repeater")  # else a client that lives long enough starts one

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
        connection.sendall(wire.version() + wire.created(self.cid, SID, self.native_type, self.count))
        data = b""
        while more := connection.recv(65536):
            data += more
            for message in messages(data):
                data = data[16 + len(message[-1]) :]
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


# --- the short way ------------------------------------------------------------------------------


@pytest.mark.parametrize("native_type", range(wire.SHORT, wire.DOUBLE + 1))
@pytest.mark.usefixtures("unhurried")
def test_a_get_by_the_short_way_leaves_no_trace(server: Server, ways: list[str], native_type: int):
    server.native_type = native_type
    with Engine() as engine:
        connect(engine)
        context = context_of(engine)
        batches, events, received = context.batches, context.events, context.stats()["bytes_received"]
        for number in range(1, 101):
            server.answer = lambda asked, number=number: asked.send(read_reply(asked, number, seconds=5))
            reading = engine.get(NAME)
            assert (reading.value, reading.native_type) == (number, native_type)
            assert type(reading.value) is (float if native_type in (wire.FLOAT, wire.DOUBLE) else int)
            nothing_left(engine)
        assert ways == ["short"] * 100
        assert (context.batches, context.events) == (batches, events)
        assert context.stats()["bytes_received"] == received + 100 * 40
        assert {asked[1:5] for asked in server.asked} == {(wire.READ_NOTIFY, TIME_DOUBLE, 1, SID)}
        assert len({asked.id for asked in server.asked}) == 100


@pytest.mark.usefixtures("unhurried")
def test_a_put_by_the_short_way_leaves_no_trace(server: Server, client: Engine, ways: list[str]):
    context = context_of(client)
    batches = context.batches
    for number in range(100):
        client.put(NAME, number, timeout=LONG)
        nothing_left(client)
    assert ways == ["short"] * 100
    assert context.batches == batches
    assert {asked[1:5] for asked in server.asked} == {(wire.WRITE_NOTIFY, wire.DOUBLE, 1, SID)}
    assert [struct.unpack(">d", asked.payload) for asked in server.asked] == [(number,) for number in range(100)]


@pytest.mark.usefixtures("unhurried")
def test_a_real_server_answers_the_same_by_the_short_way(ioc: SimIOC, ways: list[str]):
    records = [record for record in ioc.database.records if record.native_type and not record.changing]
    names = [record.name for record in records]
    with Engine() as engine:
        connect(engine, *names)
        snap = engine.snapshot(names, timeout=20)
        readings = [engine.get(name, timeout=20) for name in names]
        nothing_left(engine)
    assert [reading.value for reading in readings] == [record.value for record in records]
    assert [reading.native_type for reading in readings] == [record.native_type for record in records]
    assert [reading.timestamp for reading in readings] == snap.timestamps.tolist()
    assert [(reading.status, reading.severity) for reading in readings] == list(
        zip(snap.status.tolist(), snap.severity.tolist(), strict=True)
    )
    # An echo that a beacon has asked for may send one or the other the usual way.
    assert ways.count("short") >= len(names) - 10


NUMBERS: list[tuple[int, float, dict[str, int]]] = [
    (wire.DOUBLE, -1.25e300, {"status": 3, "severity": 2, "seconds": 1_000_000_000, "nanoseconds": 123_456_789}),
    (wire.DOUBLE, math.inf, {"status": 17, "severity": 3}),
    (wire.DOUBLE, math.nan, {"seconds": 0xFFFFFFFF, "nanoseconds": 999_999_999}),
    (wire.FLOAT, 0.1, {"status": 0x1FF, "severity": 0x102}),
    (wire.LONG, -(2.0**31), {"seconds": 1}),
    (wire.SHORT, -56.0, {"nanoseconds": 1}),
    (wire.ENUM, 65_535.0, {"status": 7, "severity": 1}),
    (wire.CHAR, -56.0, {"seconds": 7}),
    (wire.CHAR, 200.0, {"seconds": 7}),
    (wire.LONG, math.nan, {}),
]
PARTS = ("name", "value", "status", "severity", "timestamp", "native_type")


@pytest.mark.parametrize(("native_type", "number", "alarm"), NUMBERS)
@pytest.mark.usefixtures("unhurried")
def test_the_reading_is_the_same_by_either_way(
    server: Server, ways: list[str], native_type: int, number: float, alarm: dict[str, int]
):
    server.native_type = native_type
    with Engine() as engine:
        connect(engine)
        server.answer = lambda asked: asked.send(read_reply(asked, number, **alarm))
        short = engine.get(NAME, timeout=LONG)
        # Behind something else in the same read it is an answer as all others.
        server.answer = lambda asked: asked.send(wire.message(wire.ECHO), read_reply(asked, number, **alarm))
        other = engine.get(NAME, timeout=LONG)
    assert ways == ["short", "registered"]
    np.testing.assert_equal([getattr(short, name) for name in PARTS], [getattr(other, name) for name in PARTS])
    assert type(short.value) is type(other.value)
    assert short.timestamp == (wire.UNIX_1990 + alarm.get("seconds", 0)) * 10**9 + alarm.get("nanoseconds", 0)


@pytest.mark.parametrize(("sent", "value"), [(-128.0, 128), (-56.0, 200), (-1.0, 255), (0.0, 0), (127.0, 127)])
@pytest.mark.usefixtures("unhurried")
def test_a_char_above_127_comes_right(server: Server, ways: list[str], sent: float, value: int):
    """A server may cast its eight bits to a double with a sign."""
    server.native_type = wire.CHAR
    server.answer = lambda asked: asked.send(read_reply(asked, sent))
    with Engine() as engine:
        connect(engine)
        assert engine.get(NAME, timeout=LONG).value == value
    assert ways == ["short"]


# --- something else comes first, or in pieces ---------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"), [([1], []), ([1, 2, 3], []), ([], [4]), ([1, 2], [3, 4]), ([1] * 40, [2])]
)
@pytest.mark.usefixtures("unhurried")
def test_updates_in_the_same_read_are_delivered_in_order(
    server: Server, client: Engine, ways: list[str], before: list[float], after: list[float]
):
    def answer(asked: Asked) -> None:
        asked.send(*map(server.update, before), read_reply(asked, 9.5), *map(server.update, after))

    seen = Seen()
    with client.subscribe([NAME], seen):
        seen.wait_kind(Kind.UPDATE)
        nobody_reads(client)
        server.answer = answer
        assert client.get(NAME, timeout=LONG).value == 9.5
        # Who waited has read them, and handed them on before.
        assert seen.values() == [0.0, *before, *after]
        assert ways == ["registered"]
        nothing_left(client)
        assert stray(client) == 0
        server.answer = usual
        assert client.get(NAME).value == 1.5
        assert ways[1:] == ["short"]


@pytest.mark.usefixtures("unhurried")
def test_an_update_that_comes_alone_is_not_the_answer(server: Server, client: Engine, ways: list[str]):
    """It is as long as the answer, and its subscription has the number of the request."""
    seen = Seen()

    def answer(asked: Asked) -> None:
        asked.send(server.update(5.0))
        seen.wait_kind(Kind.UPDATE, 2)
        asked.send(read_reply(asked, 6.0))

    # The first subscription of all has the number 0, which no request has.
    with client.subscribe([NAME], Seen(), Mask.LOG), client.subscribe([NAME], seen, Mask.VALUE):
        seen.wait_kind(Kind.UPDATE)
        nobody_reads(client)
        context_of(client).shard.requests._next = server.subscription
        server.answer = answer
        assert client.get(NAME, timeout=LONG).value == 6.0
        assert server.asked[0].id == server.subscription > 0
        assert seen.values() == [0.0, 5.0]
        assert ways == ["registered"]
        nothing_left(client)


@pytest.mark.usefixtures("unhurried")
def test_an_answer_of_another_type_is_taken_for_what_it_is(server: Server, client: Engine, ways: list[str]):
    """A server without times, that pads its values until they are as long."""

    def answer(asked: Asked) -> None:
        payload = wire.payload(wire.DOUBLE, [2.5]) + bytes(16)
        asked.send(wire.message(wire.READ_NOTIFY, payload, wire.DOUBLE, 1, wire.NORMAL, asked.id))

    server.answer = answer
    assert client.get(NAME, timeout=LONG).value == 2.5
    assert ways == ["registered"]


@pytest.mark.parametrize("command", [wire.READ_NOTIFY, wire.WRITE_NOTIFY])
@pytest.mark.parametrize("cut", [1, 15, -1])
@pytest.mark.usefixtures("unhurried")
def test_an_answer_in_two_pieces(server: Server, client: Engine, ways: list[str], command: int, cut: int):
    circuit = circuit_of(client)

    def answer(asked: Asked) -> None:
        data = read_reply(asked, 2.5) if asked.command == wire.READ_NOTIFY else wire.written(asked.id)
        asked.send(data[:cut])
        eventually(lambda: not circuit.is_between_messages(), "the first piece was read")
        asked.send(data[cut:])

    server.answer = answer
    for _ in range(3):
        if command == wire.READ_NOTIFY:
            assert client.get(NAME, timeout=LONG).value == 2.5
        else:
            client.put(NAME, 1, timeout=LONG)
        nothing_left(client)
    assert ways == ["registered"] * 3
    server.answer = usual
    assert client.get(NAME).value == 1.5
    assert ways[3:] == ["short"]
    assert stray(client) == 0


def test_a_get_while_the_rest_of_a_message_is_to_come(server: Server, client: Engine, ways: list[str]):
    """Nobody waited for the beginning; the answer follows the rest."""
    seen = Seen()
    circuit = circuit_of(client)
    with client.subscribe([NAME], seen):
        seen.wait_kind(Kind.UPDATE)
        connection = server.fake._connections[0]
        update = server.update(3.0)
        connection.sendall(update[:30])
        eventually(lambda: not circuit.is_between_messages(), "the first piece was read")
        nobody_reads(client)
        server.answer = lambda asked: asked.send(update[30:], read_reply(asked, 4.0))
        assert client.get(NAME, timeout=LONG).value == 4.0
        assert seen.values() == [0.0, 3.0]
    assert ways == ["asked"]


def test_a_slow_answer_is_waited_for_in_the_usual_way(server: Server, client: Engine, ways: list[str]):
    requests = context_of(client).shard.requests
    readers: list[threading.Thread] = []

    class Sink:
        def deliver(self, batch: Batch) -> None:
            readers.append(threading.current_thread())

    def answer(asked: Asked) -> None:
        eventually(lambda: requests.row(asked.id) >= 0, "the request is registered")
        asked.send(server.update(1.0))
        usual(asked)

    with client.subscribe([NAME], Sink()):
        eventually(lambda: len(readers) == 2, "the connection and the first value")
        nobody_reads(client)
        server.answer = answer
        assert client.get(NAME, timeout=LONG).value == 1.5
        client.put(NAME, 1, timeout=LONG)
        # Who waits goes on reading, and hands on what comes.
        assert readers[2:] == [threading.current_thread()] * 2
    assert ways == ["registered"] * 2
    nothing_left(client)


@pytest.mark.usefixtures("unhurried")
def test_the_answer_to_another_comes_first(server: Server, client: Engine, ways: list[str]):
    """Two wait on one circuit, and the server answers the later one first: each answer comes alone."""
    server.answer = lambda asked: None
    first = Background(client.get, NAME, timeout=LONG)
    server.wait_asked(1)
    second = Background(client.get, NAME, timeout=LONG)
    early, late = server.wait_asked(2)
    late.send(read_reply(late, 2.0))
    assert second.join().result.value == 2.0
    early.send(read_reply(early, 1.0))
    assert first.join().result.value == 1.0
    assert sorted(ways) == ["asked", "registered"]
    nothing_left(client)
    assert stray(client) == 0


def test_two_threads_on_one_circuit_have_their_own_values(ioc: SimIOC, ways: list[str]):
    rounds = 500
    names = [ioc.prefix + "longin00003", ioc.prefix + "longin00004"]
    together = threading.Barrier(2, timeout=20)

    def ask(name: str) -> list[object]:
        values = []
        for _ in range(rounds):
            together.wait()
            values.append(engine.get(name, timeout=20).value)
        return values

    with Engine() as engine:
        connect(engine, *names)
        calls = [Background(ask, name) for name in names]
        for value, call in zip((21, 28), calls, strict=True):
            assert call.join(50).error is None
            assert set(call.result) == {value}
        nothing_left(engine)
        assert stray(engine) == 0
    assert len(ways) == 2 * rounds
    assert {"short", "asked"} <= set(ways)


# --- no answer, or a bad one --------------------------------------------------------------------


def with_value(asked: Asked, eca: int) -> bytes:
    """As long as a good answer, as EPICS base does it."""
    if asked.command == wire.READ_NOTIFY:
        return wire.value(wire.READ_NOTIFY, TIME_DOUBLE, [0.0], asked.id, eca)
    return wire.written(asked.id, eca)


def without_value(asked: Asked, eca: int) -> bytes:
    return wire.message(asked.command, b"", asked.data_type, asked.count, eca, asked.id)


def as_error(asked: Asked, eca: int) -> bytes:
    return wire.error(wire.message(asked.command, asked.payload, asked.data_type, asked.count, SID, asked.id), eca)


@pytest.mark.parametrize("form", [with_value, without_value, as_error])
@pytest.mark.parametrize(("eca", "error"), [(wire.GETFAIL, RefusedError), (wire.NORDACCESS, AccessRightsError)])
@pytest.mark.usefixtures("unhurried")
def test_a_get_that_is_refused(
    server: Server,
    client: Engine,
    ways: list[str],
    form: Callable[[Asked, int], bytes],
    eca: int,
    error: type[ChannelError],
):
    server.answer = lambda asked: asked.send(form(asked, eca))
    with pytest.raises(error, match=NAME) as caught:
        client.get(NAME, timeout=LONG)
    assert (caught.value.eca, caught.value.operation) == (eca, "get")
    assert ways == ["registered"]
    nothing_left(client)
    server.answer = usual
    assert client.get(NAME).value == 1.5
    assert ways[1:] == ["short"]


@pytest.mark.parametrize("form", [with_value, as_error])
@pytest.mark.parametrize(("eca", "error"), [(wire.PUTFAIL, RefusedError), (wire.NOWTACCESS, AccessRightsError)])
@pytest.mark.usefixtures("unhurried")
def test_a_put_that_is_refused(
    server: Server,
    client: Engine,
    ways: list[str],
    form: Callable[[Asked, int], bytes],
    eca: int,
    error: type[ChannelError],
):
    server.answer = lambda asked: asked.send(form(asked, eca))
    with pytest.raises(error, match=NAME) as caught:
        client.put(NAME, 3, timeout=LONG)
    assert (caught.value.eca, caught.value.operation) == (eca, "put")
    assert ways == ["registered"]
    nothing_left(client)
    server.answer = usual
    client.put(NAME, 3, timeout=LONG)
    assert ways[1:] == ["short"]


def hang_up(server: Server, asked: Asked) -> None:
    asked.connection.shutdown(socket.SHUT_RDWR)


def reset(server: Server, asked: Asked) -> None:
    asked.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    asked.connection.close()


def answer_partly(server: Server, asked: Asked) -> None:
    asked.send(read_reply(asked, 1.0)[:20])
    asked.connection.shutdown(socket.SHUT_RDWR)


def send_garbage(server: Server, asked: Asked) -> None:
    asked.send(b"\x7f" * 40)


def delete(server: Server, asked: Asked) -> None:
    asked.send(wire.message(wire.SERVER_DISCONN, p1=server.cid))


@pytest.mark.parametrize("fail", [hang_up, reset, answer_partly, send_garbage, delete])
@pytest.mark.parametrize("operation", ["get", "put"])
def test_a_server_that_ends_it_instead_of_answering(
    server: Server, client: Engine, ways: list[str], fail: Callable[[Server, Asked], None], operation: str
):
    server.answer = lambda asked: fail(server, asked)
    ask = (client.get, NAME) if operation == "get" else (client.put, NAME, 1)
    call = Background(*ask, timeout=LONG).join(50)
    assert isinstance(call.error, PVDisconnectedError)
    assert call.error.operation == operation
    assert call.took < SOON
    assert ways == ["registered"]
    nothing_left(client)
    if fail in (hang_up, reset, answer_partly):
        server.answer = usual
        assert client.get(NAME, timeout=20).value == 1.5
        assert server.fake.accepted == 2


def test_a_circuit_that_turns_out_to_be_dead(server: Server, client: Engine, ways: list[str]):
    """The request does not even leave: nobody can know of it but who sent it."""
    link = link_of(client)
    events = select.poll()
    events.register(link.fd, 0)
    # Who holds the reader learns of it first: here, in sending.
    with link.reader:
        connection = server.fake._connections[0]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # its thread reads no more, and closing is at once
        connection.close()
        assert events.poll(20_000)
        call = time.monotonic()
        with pytest.raises(PVDisconnectedError):
            client.get(NAME, timeout=LONG)
        assert time.monotonic() - call < SOON
    assert ways == ["registered"]
    nothing_left(client)
    assert client.get(NAME, timeout=20).value == 1.5


@pytest.mark.parametrize("timeout", [0.0, 0.03, 0.3])
@pytest.mark.parametrize("operation", ["get", "put"])
def test_an_answer_that_comes_too_late(server: Server, client: Engine, ways: list[str], operation: str, timeout: float):
    server.answer = lambda asked: None
    ask = (client.get, NAME) if operation == "get" else (client.put, NAME, 1)
    call = Background(*ask, timeout=timeout).join()
    assert isinstance(call.error, PVTimeoutError)
    assert timeout <= call.took < timeout + 5
    nothing_left(client)
    assert client.channels([NAME])[0].connected
    server.wait_asked(1)
    assert stray(client) == 0
    usual(server.asked[0])
    eventually(lambda: stray(client) == 1, "the late answer")
    nobody_reads(client)
    server.answer = lambda asked: asked.send(read_reply(asked, 8.0))
    assert client.get(NAME, timeout=LONG).value == 8.0
    assert stray(client) == 1
    assert server.fake.accepted == 1


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.usefixtures("unhurried")
def test_an_answer_that_comes_too_late_and_meets_the_next(
    server: Server, client: Engine, ways: list[str], together: bool
):
    server.answer = lambda asked: None
    call = Background(client.get, NAME, timeout=0.01).join()
    assert isinstance(call.error, PVTimeoutError)
    assert call.took < 0.8  # less than a read takes that nothing ends
    (late,) = server.wait_asked(1)

    def answer(asked: Asked) -> None:
        if together:
            asked.send(read_reply(late, 1.0), read_reply(asked, 2.0))
        else:
            asked.send(read_reply(late, 1.0))
            eventually(lambda: stray(client) == 1, "the late answer")
            asked.send(read_reply(asked, 2.0))

    server.answer = answer
    assert client.get(NAME, timeout=LONG).value == 2.0
    assert ways == ["registered"] * 2
    assert stray(client) == 1
    nothing_left(client)


def test_a_put_that_the_socket_does_not_take_at_once(
    servers: Servers, point_at: Callable[..., Any], ways: list[str], monkeypatch: pytest.MonkeyPatch
):
    """What is left of it is sent by the I/O thread, while the caller waits for the answer."""
    size = 16 << 20
    goes_on = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(wire.created(until_create(connection), SID, wire.CHAR, size))
        assert goes_on.wait(20)
        data = bytearray()
        while len(data) < 24 + size and (more := connection.recv(1 << 20)):
            data += more
        (put,) = wire.parse(bytes(data))
        received.append(put.payload == value.tobytes())
        connection.sendall(wire.written(put.p2, data_type=put.data_type, count=0))
        connection.recv(1)

    received: list[bool] = []
    value = np.arange(size, dtype=np.uint32).astype(np.uint8)
    with FakeServer(NAME, talk, servers.ports()) as fake:
        point_at(fake)
        with Engine() as engine:
            connect(engine)
            link = link_of(engine)
            with monkeypatch.context() as patch:
                # Whatever else happens meanwhile does not send it by the way.
                patch.setattr(Context, "_pump", lambda context: None)
                call = Background(engine.put, NAME, value, timeout=LONG)
                eventually(lambda: link.circuit.out, "not all of it was taken")
                with context_of(engine).lock:
                    goes_out = link.mask & select.EPOLLOUT
            goes_on.set()
            assert call.join().error is None
            assert goes_out
            assert call.took < SOON
            nothing_left(engine)
    assert received == [True]
    assert len(ways) == 1
    assert ways[0] != "asked"


# --- closing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_registered", [False, True])
@pytest.mark.parametrize("operation", ["get", "put"])
def test_an_engine_that_closes_ends_the_wait(server: Server, client: Engine, operation: str, is_registered: bool):
    server.answer = lambda asked: None
    ask = (client.get, NAME) if operation == "get" else (client.put, NAME, 1)
    call = Background(*ask, timeout=LONG)
    server.wait_asked(1)
    if is_registered:
        eventually(lambda: context_of(client).shard.requests.kind.any(), "the request is registered")
    client.close()
    assert isinstance(call.join().error, EngineClosedError)
    assert call.took < SOON


@pytest.mark.parametrize("operation", ["get", "put"])
def test_an_engine_that_is_closed_before_the_wait_is_registered(server: Server, client: Engine, operation: str):
    """All of the closing comes between the end of the circuit and what the waiting thread makes of it."""
    server.answer = lambda asked: None
    ask = (client.get, NAME) if operation == "get" else (client.put, NAME, 1)
    # To register, or to ask in the usual way, it needs the lock.
    call = Background(*ask, timeout=LONG)
    server.wait_asked(1)
    with context_of(client).lock:
        client.close()
    assert isinstance(call.join().error, EngineClosedError)
    assert call.took < SOON


@pytest.mark.parametrize("operation", ["get", "put"])
def test_gets_and_puts_while_another_thread_closes(server: Server, ways: list[str], operation: str):
    def ask_on(engine: Engine, done: threading.Event) -> int:
        answered = 0
        while True:
            try:
                if operation == "get":
                    assert engine.get(NAME, timeout=LONG).value == 1.5
                else:
                    engine.put(NAME, 1, timeout=LONG)
            except EngineClosedError:
                return answered
            answered += 1
            if answered == 20:
                done.set()

    for _ in range(25):
        done = [threading.Event(), threading.Event()]
        with Engine() as engine:
            connect(engine)
            calls = [Background(ask_on, engine, each) for each in done]
            assert all(each.wait(20) for each in done)
        for call in calls:
            assert call.join().error is None
            assert call.result >= 20
    assert "short" in ways


# --- time and circuit ---------------------------------------------------------------------------


def silent(context: Context, circuit: Circuit) -> None:
    """The server has not said a word for so long that it counts as unresponsive."""
    with context.lock:
        circuit.echo_sent = 0.0
        circuit.check(time.monotonic(), context.shard.builder)
        context._pump()
    assert context.shard.channels.state[0] == State.UNRESPONSIVE


def test_no_time_left_is_no_time(server: Server, client: Engine):
    """Who computes a timeout from a deadline may ask with less than nothing."""
    server.answer = lambda asked: None
    call = Background(client.get, NAME, timeout=-1.0)
    server.wait_asked(1)
    try:
        eventually(lambda: call.error, "the end of the get", timeout=SOON)
        assert isinstance(call.error, PVTimeoutError)
    finally:
        client.close()
        call.join()


def test_an_unresponsive_server_is_not_asked(server: Server, client: Engine, ways: list[str]):
    context, circuit = context_of(client), circuit_of(client)
    silent(context, circuit)
    with pytest.raises(PVDisconnectedError):
        client.get(NAME, timeout=0.1)
    assert ways == ["asked"]
    assert server.asked == []
    nothing_left(client)


def test_an_answer_is_a_word_of_an_unresponsive_server(
    server: Server, client: Engine, ways: list[str], monkeypatch: pytest.MonkeyPatch
):
    """While the answer is looked for, the time for an echo is over: the answer ends that, as any byte does."""
    context, circuit = context_of(client), circuit_of(client)
    receive_within = Link.receive_within
    late_once: list[Asked] = []

    def late(link: Link, timeout: float) -> None:
        if not late_once:
            late_once.extend(server.wait_asked(1))
            silent(context, circuit)
            usual(late_once[0])
        receive_within(link, timeout)

    monkeypatch.setattr(Link, "receive_within", late)
    server.answer = lambda asked: None
    call = Background(client.get, NAME, timeout=LONG)
    assert call.join().error is None
    assert call.result.value == 1.5
    assert client.channels([NAME])[0].connected


@pytest.mark.usefixtures("unhurried")
def test_an_answer_whose_header_promises_more(server: Server, client: Engine):
    """The rest of a message comes after as many bytes as an answer has that is padded less."""
    circuit = circuit_of(client)

    def answer(asked: Asked) -> None:
        payload = wire.payload(TIME_DOUBLE, [2.5]) + bytes(8)
        data = wire.message(wire.READ_NOTIFY, payload, TIME_DOUBLE, 1, wire.NORMAL, asked.id)
        asked.send(data[:40])
        eventually(lambda: circuit.received > received, "the first piece was read")
        asked.send(data[40:])

    received = circuit.received
    server.answer = answer
    assert client.get(NAME, timeout=LONG).value == 2.5
    server.answer = usual
    assert [client.get(NAME, timeout=LONG).value for _ in range(3)] == [1.5] * 3
    assert server.fake.accepted == 1
