"""The short way of one get or put: its answer alone comes next, or something else comes first.

The server is a script here, so that what comes, and in which pieces, is certain; `ioc` is real.
"""

from __future__ import annotations

import math
import struct
import threading

import numpy as np
import pytest
from support import exchange, wire
from support.background import Background
from support.engines import Seen
from support.exchange import (
    LONG,
    NAME,
    SID,
    TIME_DOUBLE,
    Asked,
    Server,
    circuit_of,
    connect,
    context_of,
    nobody_reads,
    nothing_left,
    read_reply,
    stray,
    usual,
)
from support.recording import eventually

from daqca import Engine
from daqca.ca.dbr import Mask
from daqca.events import Batch, Kind
from daqca.sim import SimIOC

server, client = exchange.server, exchange.client
ways, unhurried = exchange.ways, exchange.unhurried
pytestmark = pytest.mark.usefixtures("repeater")  # else a client that lives long enough starts one


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
