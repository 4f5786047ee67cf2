"""One CA context by itself: the leader that reads for itself, channels that go away, and what the counters say."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.background import Background
from support.engines import Seen
from support.fakes import FakeServer
from support.ioc import Servers
from support.recording import eventually

from daqca import Engine
from daqca.ca.context import Context
from daqca.ca.dbr import Mask
from daqca.errors import EngineClosedError, PVNotFoundError
from daqca.events import Batch, Kind
from daqca.operations import Waiter
from daqca.sim import SimIOC


class Told(Seen):
    """A context's batches, and the answers that somebody waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[int, Waiter] = {}

    def deliver(self, batch: Batch) -> None:
        super().deliver(batch)
        for event in batch:
            if event.kind in (Kind.READ, Kind.WRITTEN, Kind.FAILED) and event.token in self.answers:
                self.answers[event.token].complete()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def context(ioc: SimIOC, told: Told) -> Iterator[Context]:
    with Context(told.deliver) as context:
        yield context


def test_a_leader_reads_what_is_for_others_too(context: Context, told: Told, ioc: SimIOC):
    """While a thread waits on a circuit for an answer that does not come, it hands on all the rest."""
    slow, counter = context.add([ioc.prefix + "slow", ioc.prefix + "calc00001"]).tolist()
    told.wait_kind(Kind.CONNECTED, 2)
    context.subscribe(np.array([counter], np.uint32), Mask.VALUE)
    told.wait_kind(Kind.UPDATE, 2, slot=counter)
    waiter = Waiter()
    # Nobody registers it, so no answer completes it: the whole second is spent as the leader.
    leader = Background(context.ask, slow, lambda: context.read_one(slow, lambda id_: None), waiter, 1.0)
    before = len(told.values(counter))
    assert leader.join().result is False
    assert 1.0 <= leader.took < 2.0
    told.wait(lambda: len(told.values(counter)) >= before + 10, "updates")
    values = told.values(counter)
    assert values == list(range(int(values[0]), int(values[0]) + len(values)))
    assert len(told.events(Kind.READ, slot=slow)) == 1


def test_the_lead_goes_from_thread_to_thread(context: Context, told: Told, ioc: SimIOC):
    """Many threads ask at once, over and over: each has its answer, whoever reads it."""
    (slot,) = context.add([ioc.prefix + "longin00004"]).tolist()
    told.wait_kind(Kind.CONNECTED)
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(200):
            waiter = Waiter()

            def register(id_: int, waiter: Waiter = waiter) -> None:
                told.answers[id_] = waiter

            if not context.ask(slot, lambda register=register: context.read_one(slot, register), waiter, 20):
                wrong.append(waiter)

    for call in [Background(ask) for _ in range(6)]:
        assert call.join(50).error is None
    assert wrong == []
    assert len(told.events(Kind.READ)) == 1200
    assert {event.value for event in told.events(Kind.READ)} == {28.0}
    assert context.stats()["stray_messages"] == 0


def test_nobody_spins_while_a_circuit_connects(servers: Servers, point_at: Callable[..., Any]):
    """A host that takes no connections and refuses none: those who wait for it cost nothing."""
    ports = servers.ports()
    with (
        FakeServer("BLACK:HOLE", None, ports) as fake,
        socket.create_server(("127.0.0.1", ports.server), backlog=0) as listener,
    ):
        fillers = []
        # Connections that nobody accepts fill the queue; what comes then is not answered.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        point_at(fake)
        try:
            with Engine() as engine:
                engine.channels(["BLACK:HOLE"])
                eventually(lambda: engine.stats()["shards"][0]["circuits"] == 1, "the circuit")
                before = time.process_time()
                with pytest.raises(PVNotFoundError):
                    engine.get("BLACK:HOLE", timeout=1)
                assert time.process_time() - before < 0.3
                assert engine.stats()["shards"][0]["circuits"] == 1
        finally:
            for filler in fillers:
                filler.close()


def test_removed_channels_are_gone_at_the_server(context: Context, told: Told, ioc: SimIOC):
    names = [ioc.prefix + "calc00001", ioc.prefix + "calc00002"]
    for _ in range(20):
        known = len(told.events(Kind.CONNECTED))
        slots = context.add(names)
        told.wait_kind(Kind.CONNECTED, known + 2)
        context.subscribe(slots, Mask.VALUE)
        told.wait_kind(Kind.UPDATE, 1, slot=int(slots[0]))
        context.remove(slots)
    assert context.stats()["channels"] == 0
    assert context.stats()["subscriptions"] == 0
    (slot,) = context.add([ioc.prefix + "ai00001"]).tolist()
    told.wait_kind(Kind.CONNECTED, 1, slot=slot)
    # Nothing of the removed ones is told any more.
    rows = len(told.rows)
    waiter = Waiter()

    def register(id_: int) -> None:
        told.answers[id_] = waiter

    for _ in range(3):
        waiter = Waiter()
        assert context.ask(slot, lambda: context.read_one(slot, register), waiter, 20)
    assert {event.slot for event, _ in told.rows[rows:]} == {slot}


def test_a_context_closes_from_any_thread_even_its_own(ioc: SimIOC):
    done = threading.Event()

    def deliver(batch: Batch) -> None:
        if any(event.kind == Kind.CONNECTED for event in batch):
            context.close()
            done.set()

    context = Context(deliver)
    context.add([ioc.names[0]])
    assert done.wait(20)
    with pytest.raises(EngineClosedError):
        context.add(["another"])
    eventually(lambda: not context._thread.is_alive(), "the end of its thread")


def test_counters_tell_what_was_received(context: Context, told: Told, ioc: SimIOC):
    names = ioc.names[:100]
    context.add(names)
    told.wait_kind(Kind.CONNECTED, 100)
    stats = context.stats()
    assert (stats["channels"], stats["connected"], stats["searching"], stats["circuits"]) == (100, 100, 0, 1)
    # VERSION, and for each channel its access rights and its creation.
    assert stats["bytes_received"] == 16 + 100 * 32
    assert stats["events"] == len(told.rows) == 100
    assert stats["searches_sent"] >= stats["searches_answered"] >= 1
    assert context.hosts(np.arange(100, dtype=np.uint32)) == [f"127.0.0.1:{ioc.server_port}"] * 100
