"""What ends a get or put by the short way other than its answer: errors, lost servers, time, the end of the engine."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import exchange, wire
from support.background import Background
from support.exchange import (
    LONG,
    NAME,
    SID,
    SOON,
    TIME_DOUBLE,
    Asked,
    Server,
    circuit_of,
    connect,
    context_of,
    link_of,
    nobody_reads,
    nothing_left,
    read_reply,
    stray,
    usual,
)
from support.fakes import FakeServer, until_create
from support.ioc import Servers
from support.recording import eventually

from daqca import Engine
from daqca.ca.channels import State
from daqca.ca.circuit import Circuit
from daqca.ca.context import Context
from daqca.ca.sockets import Link
from daqca.errors import (
    AccessRightsError,
    ChannelError,
    EngineClosedError,
    PVDisconnectedError,
    PVTimeoutError,
    RefusedError,
)

server, client = exchange.server, exchange.client
ways, unhurried = exchange.ways, exchange.unhurried
pytestmark = pytest.mark.usefixtures("repeater")  # else a client that lives long enough starts one


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
