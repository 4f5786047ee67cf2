"""The broker and both ends of it, over real sockets: nothing lost, or the loss counted exactly; nobody harmed."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import zmq
import zmq.utils.garbage
from support.pools import PATIENCE, wait_until

from daqca.broker.broker import LOCAL_DATA, PIPE_MESSAGES, Broker, RequestRefused
from daqca.broker.client import BrokerClient
from daqca.broker.endpoints import PATH_LIMIT, Endpoints
from daqca.broker.messages import (
    INLINE,
    MessageKind,
    Right,
    client_topic,
    decode_request,
    encode_message,
    encode_request,
    shard_topic,
)
from daqca.broker.port import WorkerPort
from daqca.broker.positions import Follower, Position
from daqca.errors import TransportError

WORKER = b"worker-A"
TOPIC = shard_topic(WORKER)
READER, WRITER, OWNER = b"reader-1", b"writer-1", b"owner--1"


class Collector:
    """Receives a stream: what came, what is missing; it can be held up."""

    def __init__(self):
        self.messages = 0
        self.events = 0
        self.lost = 0
        self.gaps = 0
        self.beats = []
        self.largest = 0
        self.blocks = []
        self.order = []
        self.go = threading.Event()
        self.go.set()
        self._followers = {}

    def received(self, message):
        self.go.wait(PATIENCE)
        start = Follower(Position(message.number, message.before))
        gap = self._followers.setdefault(message.topic, start).follow(message)
        if gap is not None:
            self.gaps += 1
            self.lost += gap.events
        self.messages += 1
        self.events += message.events
        self.largest = max(self.largest, message.events)
        self.order += [int(record["token"]) for record in message.batch().records]
        if len(message.block):
            self.blocks.append(message.block)
        if message.kind == MessageKind.HEARTBEAT:
            self.beats.append(message.body)


def events(*tokens):
    """The bytes of events with these tokens."""
    return b"".join(bytes(28) + token.to_bytes(4, "little") for token in tokens)


@contextmanager
def running(clients=1, backlog=1 << 30, **options):
    """A broker, a worker's port, and collectors at clients of it: in this process without `remote`, else apart."""
    with ExitStack() as stack:
        broker = Broker(**options)
        stack.callback(broker.close)
        remote = options.get("remote", False)
        port = stack.enter_context(closing(WorkerPort(broker.endpoints, WORKER, backlog)))
        made = []
        for _ in range(clients):
            messages = options.get("client_messages", 1000)
            client = BrokerClient(broker.endpoints if remote else broker, messages=messages)
            stack.callback(client.close)
            made.append((client, Collector()))
            client.attach(WORKER, made[-1][1])
        wait_until(lambda: all(meet(port, collector) for _, collector in made), "the streams to begin")
        try:
            yield broker, port, made
        finally:
            for _, collector in made:
                collector.go.set()


def meet(port, collector):
    """Publish until it arrives: a subscription takes a moment to reach the publisher."""
    port.publisher.publish(TOPIC, MessageKind.HEARTBEAT, "meet")
    time.sleep(0.01)
    return collector.messages > 0


def finish(port, collectors):
    """Tell how far the stream has come, and wait until all have heard it."""
    wait_until(lambda: not (port.publisher.flush() or port.publisher.is_waiting), "the backlog to go")
    port.publisher.publish(TOPIC, MessageKind.HEARTBEAT, "end")
    for collector in collectors:

        def ended(collector=collector):
            if "end" in collector.beats:
                return True
            port.publisher.flush()
            return False

        wait_until(ended, "the end of the stream")


# --- nothing lost -----------------------------------------------------------------------------------


def test_a_client_here_gets_everything_in_order_however_slow_it_is():
    with running() as (_, port, [(_, collector)]):
        collector.go.clear()
        for number in range(5000):
            port.publisher.publish(TOPIC, MessageKind.BATCH, None, events(2 * number, 2 * number + 1), 2)
        assert port.publisher.backlog_bytes > 0
        collector.go.set()
        finish(port, [collector])
        assert collector.order == list(range(10_000))
        assert (collector.lost, collector.gaps, port.publisher.dropped_events) == (0, 0, 0)
        # What had to wait travelled together.
        assert collector.messages < 500
        assert collector.largest > 2
        assert port.publisher.backlog_bytes == 0


@pytest.fixture
def frames_given_back():
    """A publisher has a thread that hears which frames ZeroMQ needs no more; it is the process's, and stays."""
    yield
    zmq.utils.garbage.gc.stop()


@pytest.mark.usefixtures("frames_given_back")
def test_large_blocks_arrive_as_they_were_and_stay():
    with running() as (_, port, [(_, collector)]):
        sent = []
        for number in range(40):
            size = (INLINE - 1, INLINE, 1 << 20)[number % 3]
            block = bytes([number]) * size
            sent.append(block)
            port.publisher.publish(TOPIC, MessageKind.BATCH, None, events(number), 1, memoryview(block))
        finish(port, [collector])
        assert [bytes(block) for block in collector.blocks] == sent
        assert collector.order == list(range(40))
        assert (collector.lost, port.publisher.dropped_events) == (0, 0)


def test_a_stream_of_two_topics_is_one_stream():
    with running() as (_, port, [(client, collector)]):
        mine, publisher = client_topic(client.id), port.publisher
        # The numbers of one topic follow those of the other, as if they were of one.
        while publisher.position(mine).messages + 1 < publisher.position(TOPIC).messages:
            publisher.publish(mine, MessageKind.BATCH)
        start = publisher.position(mine).messages
        collector.go.clear()
        for number in range(2000):
            publisher.publish(TOPIC if number % 2 else mine, MessageKind.BATCH, None, events(number), 1)
            if number % 10 == 0:
                publisher.publish(client_topic(b"somebody"), MessageKind.BATCH, None, events(0), 1)
        collector.go.set()
        finish(port, [collector])
        assert collector.order == list(range(2000))
        assert (collector.gaps, collector.lost) == (0, 0)
        assert publisher.position(mine) == Position(start + 1000, 1000)
        assert publisher.position(client_topic(b"somebody")) == Position(200, 200)


# --- or counted -------------------------------------------------------------------------------------


def test_a_full_backlog_drops_and_the_loss_is_counted_exactly():
    limit = 300_000
    with running(backlog=limit) as (_, port, [(_, collector)]):
        publisher = port.publisher
        collector.go.clear()
        sent = 0
        for number in range(3000):
            block = bytes(100_000) if number % 5 == 0 else b""
            sent += number % 7
            publisher.publish(TOPIC, MessageKind.BATCH, None, events(*range(number % 7)), number % 7, block)
            assert publisher.backlog_bytes <= limit
        assert publisher.dropped_events > 1000
        collector.go.set()
        finish(port, [collector])
        assert collector.events + collector.lost == sent
        assert collector.lost == publisher.dropped_events
        assert collector.gaps >= 1


def test_who_waits_for_requests_hears_that_a_backlog_begins():
    """Else its last messages would wait for the next request, or the next heartbeat."""
    with running() as (_, port, [(_, collector)]):
        collector.go.clear()
        got = []
        waiting = threading.Thread(target=lambda: got.append(port.receive(PATIENCE)))
        waiting.start()
        start = time.monotonic()
        while not port.publisher.is_waiting:
            port.publisher.publish(TOPIC, MessageKind.BATCH, None, events(1), 1)
        waiting.join()
        assert got == [None]
        assert time.monotonic() - start < PATIENCE / 2
        assert port.receive(0.01) is None
        collector.go.set()
        finish(port, [collector])


def test_heartbeats_get_through_a_full_backlog():
    with running(backlog=10_000) as (_, port, [(_, collector)]):
        collector.go.clear()
        while not port.publisher.dropped_events:
            port.publisher.publish(TOPIC, MessageKind.BATCH, None, events(*range(100)), 100)
        for number in range(10):
            port.publisher.publish(TOPIC, MessageKind.HEARTBEAT, number)
        collector.go.set()
        finish(port, [collector])
        assert collector.beats[-11:-1] == list(range(10))
        assert collector.lost == port.publisher.dropped_events


def test_a_slow_client_elsewhere_loses_counted_and_harms_nobody():
    # A mark that the quick one cannot reach: libzmq looks only each millisecond or so at what clients have read since,
    # and then is told only after each half of the mark.
    with running(clients=2, remote=True, client_messages=200) as (_, port, [(_, slow), (_, quick)]):
        slow.go.clear()
        sent = 0
        for number in range(1000):
            n = 1 + number % 5
            sent += n
            port.publisher.publish(TOPIC, MessageKind.BATCH, None, events(*range(n)), n, bytes(100_000))
            wait_until(lambda sent=sent: quick.events + quick.lost == sent, "the quick one to have it")
        assert (quick.events, quick.lost, quick.gaps) == (sent, 0, 0)
        assert slow.events == 0
        assert port.publisher.dropped_events == 0  # the worker noticed nothing
        slow.go.set()
        deadline = time.monotonic() + PATIENCE
        while "end" not in slow.beats and time.monotonic() < deadline:
            port.publisher.publish(TOPIC, MessageKind.HEARTBEAT, "end")
            time.sleep(0.01)
        assert slow.lost > 0
        assert slow.events + slow.lost == sent
        assert 1 <= slow.gaps <= 3


def test_subscriptions_are_not_dropped_with_the_rest():
    """Sixteen clients at once, at a mark of one message."""
    with running(clients=16, remote=True, client_messages=1) as (_, port, made):
        for client, collector in made:
            before = collector.events
            port.publisher.publish(client_topic(client.id), MessageKind.BATCH, None, events(1), 1)
            wait_until(lambda c=collector, b=before: c.events == b + 1, "what is for this client alone")
        assert sum(collector.events for _, collector in made) == 16


# --- requests and rights ----------------------------------------------------------------------------


def asked(port, timeout=PATIENCE):
    frames = port.receive(timeout)
    assert frames is not None, "no request came"
    return decode_request(frames)


def test_requests_arrive_in_order_with_their_sender():
    with running() as (broker, port, [(client, _)]):
        for number in range(500):
            client.request(WORKER, number % 200, [number, "x"], [b"frame", bytes(number)])
        for number in range(500):
            request = asked(port)
            assert (request.client, request.code, request.arguments) == (client.id, number % 200, [number, "x"])
            assert request.frames == [b"frame", bytes(number)]
        with pytest.raises(RequestRefused, match="not connected"):
            client.request(b"nobody--", 1)
        assert broker.refused == {"unreachable": 1}


def test_a_worker_that_reads_no_requests_does_not_make_others_wait():
    with running() as (broker, port, [(client, _)]), closing(WorkerPort(broker.endpoints, b"worker-B")) as other:
        fill = itertools.repeat([bytes(1000)], 20_000)
        with pytest.raises(RequestRefused, match="reads no requests"):
            deque((client.request(WORKER, 64, [], frames) for frames in fill), 0)
        start = time.monotonic()
        for _ in range(100):
            with pytest.raises(RequestRefused, match="reads no requests"):
                client.request(WORKER, 64, [], [bytes(1000)])
            client.request(b"worker-B", 1, [7])
            assert asked(other).arguments == [7]
        assert time.monotonic() - start < 5.0
        assert broker.refused["busy"] == 101
        assert asked(port).code == 64


def test_clients_elsewhere_do_what_they_may():
    with ExitStack() as stack:
        broker = Broker(remote=True, rights={WRITER: Right.WRITER, OWNER: Right.OWNER})
        stack.callback(broker.close)
        port = stack.enter_context(closing(WorkerPort(broker.endpoints, WORKER)))
        clients = {}
        for id_ in (READER, WRITER, OWNER):
            clients[id_] = stack.enter_context(closing(BrokerClient(broker.endpoints, id_)))

        def reach():
            clients[READER].request(WORKER, 1, ["hello"])
            return port.receive(0.05)

        wait_until(reach, "the worker to be connected")
        while port.receive(0.1):
            pass
        broker.refused.clear()
        for id_ in clients:
            for code in (63, 64, 127, 128):
                clients[id_].request(WORKER, code, [code])
        wait_until(lambda: broker.refused["forbidden"] == 4, "the refusals")
        got = sorted((request.client, request.code) for request in (asked(port) for _ in range(8)))
        expected = [(READER, 63), *((WRITER, code) for code in (63, 64, 127))]
        expected += [(OWNER, code) for code in (63, 64, 127, 128)]
        assert got == sorted(expected)
        assert port.receive(0.05) is None


# --- rubbish ----------------------------------------------------------------------------------------


def test_malformed_messages_are_counted_and_dropped(caplog):
    with running() as (broker, port, [(client, collector)]), raw(zmq.PUB, broker.endpoints.data) as pub:
        before, had = client.malformed, collector.events
        (good,) = encode_message(TOPIC, WORKER, 0, 10**6, 1, 10**6, None, [events(1)])
        rubbish = [
            [b"S"],
            [b"S" + bytes(100)],
            [good[:-1]],
            [good[:32] + b"\xc1" * 8 + good[40:]],
            [good, b"block", b"more"],
            [good, b"", b""],
        ]

        def arrives():
            pub.send(b"S")
            return client.malformed > before

        wait_until(arrives, "the first of it")
        time.sleep(0.05)
        before = client.malformed
        for frames in rubbish:
            pub.send_multipart(frames)
        wait_until(lambda: client.malformed == before + len(rubbish), "the rubbish to be counted")
        port.publisher.publish(TOPIC, MessageKind.BATCH, None, events(5, 6), 2)
        finish(port, [collector])
        assert collector.events == had + 2
        assert collector.order[-2:] == [5, 6]
        assert "it is dropped" in caplog.text


def test_malformed_requests_go_no_further():
    with running(remote=True) as (broker, port, _), raw(zmq.DEALER, broker.endpoints.client_requests) as dealer:
        dealer.send(b"")
        dealer.send(WORKER)
        for header in (b"\xc1", b"", b"\x91\xff", b"\x91\xa1x"):
            dealer.send_multipart([WORKER, header])
        wait_until(lambda: broker.malformed == 6, "six malformed requests")
        dealer.send_multipart([WORKER, *encode_request(5, [1])])
        frames = port.receive(PATIENCE)
        assert frames is not None
        with pytest.raises(TransportError, match="no client"):  # the broker gave this socket an id of five bytes
            decode_request(frames)
        assert frames[1:] == encode_request(5, [1])


@contextmanager
def raw(kind, endpoint):
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.linger = 0
        socket.connect(endpoint)
        yield socket


# --- where it is ------------------------------------------------------------------------------------


def test_the_directory_is_the_owners_alone_and_goes(scratch):
    broker = Broker(remote=True)
    directory = Path(broker.endpoints.directory)
    assert directory.parent == scratch
    assert directory.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in directory.iterdir()) == ["client-data", "client-requests", "data", "requests"]
    broker.close()
    broker.close()
    assert not directory.exists()
    with pytest.raises(RequestRefused, match="closed"):
        broker.forward(READER, WORKER, encode_request(1))


def test_a_directory_that_somebody_else_uses_too_stays():
    endpoints = Endpoints.create()
    path = Path(endpoints.directory) / "notes"
    path.write_text("mine")
    endpoints.remove()
    assert path.read_text() == "mine"
    path.unlink()
    endpoints.remove()
    assert not path.parent.exists()


def test_paths_are_short_enough_or_the_reason_is_told(monkeypatch, tmp_path, scratch):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    endpoints = Endpoints.create()
    assert Path(endpoints.directory).parent == scratch
    for endpoint in (endpoints.client_requests, endpoints.client_data, endpoints.data, endpoints.requests):
        assert len(os.fsencode(endpoint.removeprefix("ipc://"))) <= PATH_LIMIT
    endpoints.remove()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(TransportError, match=r"too long for a socket.*, /tmp \(Permission denied\).*TMPDIR"):
        Endpoints.create()


def test_memory_in_the_pipes_is_bounded():
    """What a client here has not read waits in five short pipes at most, and then in the worker's backlog."""
    with running() as (broker, port, [(_, collector)]):
        collector.go.clear()
        for number in range(400):
            port.publisher.publish(TOPIC, MessageKind.BATCH, None, events(number), 1, bytes(INLINE))
        waiting = port.publisher.backlog_bytes // INLINE
        assert 400 - waiting <= 5 * PIPE_MESSAGES + 10  # and the little that the kernel keeps
        assert broker.endpoints.data != LOCAL_DATA
        collector.go.set()
        finish(port, [collector])
        assert collector.order == list(range(400))
