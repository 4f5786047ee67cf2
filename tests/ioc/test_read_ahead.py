"""What a server sends faster than it is worked off is read all the same: a server merges what nobody reads."""

from __future__ import annotations

import select
import socket
import threading

import numpy as np
import pytest
from support import exchange, wire
from support.background import Background
from support.exchange import NAME, TIME_DOUBLE, Server, context_of, link_of, read_reply
from support.recording import eventually

from daqca import Engine
from daqca.ca import ahead as ahead_module
from daqca.ca import stream
from daqca.errors import PVTimeoutError
from daqca.events import Batch, Kind

server, client, ways = exchange.server, exchange.client, exchange.ways
pytestmark = pytest.mark.usefixtures("repeater")  # else a client that lives long enough starts one

UPDATES = 500_000
"""20 MB of them."""


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than any host's receive buffer."""
    monkeypatch.setattr(stream, "BUFFER_SIZE", 48 * 1024)


class Slow:
    """A sink that takes its time: it lets a batch of updates go for each `let`, until it is `free`."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.kinds: list[int] = []
        self._steps = threading.Semaphore(0)
        self._entered = threading.Semaphore(0)
        self._is_free = False

    def deliver(self, batch: Batch) -> None:
        records = batch.records
        is_update = records["kind"] == Kind.UPDATE
        if is_update.any():
            self._entered.release()
            if not self._is_free:
                assert self._steps.acquire(timeout=30), "nobody let it go"
        self.values += records["value"][is_update].tolist()
        self.kinds += records["kind"].tolist()

    def wait(self) -> None:
        """Until it has been handed a batch that it does not let go."""
        assert self._entered.acquire(timeout=30), "no batch came"

    def let(self) -> None:
        self._steps.release()

    def let_two(self) -> None:
        """Let what it holds go, and a whole buffer after it."""
        for _ in range(2):
            self.let()
            self.wait()

    def free(self) -> None:
        self._is_free = True
        self._steps.release()


def updates(server: Server, n: int = UPDATES) -> memoryview:
    """The updates 1 to `n`."""
    rows = np.frombuffer(server.update(0.0) * n, np.uint8).reshape(n, -1).copy()
    rows[:, -8:] = np.arange(1, n + 1).astype(">f8").view(np.uint8).reshape(n, 8)
    return memoryview(rows.reshape(-1))


def fill(connection: socket.socket, data: memoryview) -> int:
    """Send until nothing is taken any more; returns how many bytes were."""
    sent = 0
    while sent < len(data) and select.select([], [connection], [], 0.2)[1]:
        sent += connection.send(data[sent : sent + 65536], socket.MSG_DONTWAIT)
    return sent


def test_it_is_read_before_it_is_decoded(server: Server, client: Engine):
    slow = Slow()
    with client.subscribe([NAME], slow):
        slow.wait()  # the first update: the I/O thread does nothing else now
        data = updates(server)
        first = fill(server.connection, data)
        assert first < len(data)
        slow.let_two()
        second = fill(server.connection, data[first:])
        assert second > first / 2, "all that was in the kernel has made room"
        rest = Background(server.connection.sendall, data[first + second :])
        slow.free()
        rest.join()
        client.get(NAME)
    assert slow.values == np.arange(UPDATES + 1).tolist()
    assert client.stats()["shards"][0]["bytes_behind"] == 0


def test_a_get_meanwhile_is_answered_after_what_came_before(server: Server, client: Engine, ways: list[str]):
    """Nobody reads the circuit for itself then."""
    server.answer = lambda asked: None
    slow = Slow()
    with client.subscribe([NAME], slow):
        slow.wait()
        data = updates(server)
        sent = fill(server.connection, data)
        slow.let_two()
        get = Background(client.get, NAME)
        while not server.asked:  # it asks when the I/O thread has let go of the lock
            slow.let()
            slow.wait()
        assert link_of(client).ahead.size > 0
        slow.free()
        server.connection.sendall(data[sent:])
        (asked,) = server.asked
        asked.send(read_reply(asked, -1.0))
        assert get.join().result.value == -1.0
        assert slow.values == np.arange(UPDATES + 1).tolist()
        server.answer = exchange.usual
        exchange.nobody_reads(client)
        assert client.get(NAME).value == 1.5
    assert ways == ["asked", "short"], "in the end it is as it was"


def test_nobody_overtakes_what_was_read_ahead(server: Server, client: Engine, ways: list[str]):
    """As long as there is any, who waits for an answer leaves reading to the I/O thread."""
    context, link, slow = context_of(client), link_of(client), Slow()
    slow.free()
    with client.subscribe([NAME], slow):
        slow.wait()
        exchange.nobody_reads(client)
        context._serve = lambda link, mask: None  # type: ignore[method-assign]
        link.ahead.chunks.append(memoryview(server.update(5.0)))
        with pytest.raises(PVTimeoutError):
            client.get(NAME, timeout=0.3)
        assert ways == ["asked"]
        assert len(server.asked) == 1
        del context._serve  # type: ignore[method-assign]
        context._behind.add(link)
        context.wake()
        slow.wait()
        assert slow.values == [0.0, 5.0]
        assert client.get(NAME).value == 1.5


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_server_that_ends_meanwhile(server: Server, client: Engine, is_reset: bool):
    """What it had sent before is told first."""
    slow = Slow()
    with client.subscribe([NAME], slow):
        slow.wait()
        data = updates(server)
        fill(server.connection, data)
        slow.let_two()
        behind = link_of(client).ahead.size
        assert behind > 0
        if is_reset:
            server.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server.connection.shutdown(socket.SHUT_RDWR)
        slow.free()
        eventually(lambda: Kind.DISCONNECTED in slow.kinds, "the end")
    n = slow.kinds[: slow.kinds.index(Kind.DISCONNECTED)].count(Kind.UPDATE)
    assert n > behind / 40
    assert slow.values[:n] == list(map(float, range(n)))


def test_no_more_is_kept_than_there_is_room_for(server: Server, client: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ahead_module, "MOST", 2 << 20)
    monkeypatch.setattr(ahead_module, "CHUNK", 1 << 16)
    slow = Slow()
    most = 0
    with client.subscribe([NAME], slow):
        slow.wait()
        sending = Background(server.connection.sendall, updates(server))
        for _ in range(100):
            slow.let()
            slow.wait()
            most = max(most, link_of(client).ahead.size)
        slow.free()
        sending.join()
        assert client.get(NAME).value == 1.5
    assert 0 < most < 3 << 20
    assert slow.values == np.arange(UPDATES + 1).tolist()


def test_large_values_are_not_copied(server: Server, client: Engine):
    """They go from the kernel straight to where they stay, though more waits there than is read at a time."""
    images = [np.full(20_000, i, ">f8") for i in range(40)]
    seen: list[bytes] = []
    behind: list[int] = []

    class Images(Slow):
        def deliver(self, batch: Batch) -> None:
            super().deliver(batch)
            behind.append(link_of(client).ahead.size)
            seen.extend(bytes(batch.data(*event.value)) for event in batch if event.count == 20_000)

    slow = Images()
    with client.subscribe([NAME], slow):
        slow.wait()
        slow.free()
        for image in images:
            payload = wire.head(TIME_DOUBLE, 0, 0, 0, 0) + image.tobytes()
            message = wire.message(wire.EVENT_ADD, payload, TIME_DOUBLE, len(image), wire.NORMAL, server.subscription)
            server.connection.sendall(message)
        client.get(NAME)
    assert [np.frombuffer(each, image.dtype).tolist() for each, image in zip(seen, images, strict=True)] == [
        image.tolist() for image in images
    ]
    assert not any(behind)
