"""Threads and contexts without preemptive callbacks: each context belongs to the thread that made it."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

import pytest
from support import ca_records
from support.background import Background
from support.ca_polling import client_of, has_message, watched
from support.ca_records import Records, connected
from support.recording import eventually

from daqca.ca.eca import ECA
from daqca.errors import CASeverityException, ChannelAccessException
from daqca.sim import SimIOC

any_ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records


@pytest.fixture
def ca(any_ca: ModuleType) -> ModuleType:
    """The low-level interface without preemption."""
    any_ca.PREEMPTIVE_CALLBACK = False
    return any_ca


def test_other_threads_cannot_attach(ca: ModuleType, records: Records):
    ca.initialize_libca()
    context, done = ca.current_context(), []

    def thread() -> None:
        assert ca.attach_context(context) == int(ECA.NOTTHREADED)
        assert ca.current_context() is None
        with pytest.raises(
            CASeverityException, match=r"^use_initial_context returned 'Preemptive callback not enabled"
        ):
            ca.use_initial_context()
        with pytest.raises(CASeverityException):
            ca.withInitialContext(lambda: None)()
        done.append(1)

    call = Background(thread).join()
    assert (call.error, done) == (None, [1])


def test_a_thread_gets_a_context_of_its_own(ca: ModuleType, ioc: SimIOC, point_at: Any):
    """As in C. Its polling does nothing for the others' contexts."""
    point_at(ioc)
    chid, calls, _ = watched(ca, ioc.prefix + "calc00005")
    initial = ca.current_context()
    told = len(calls.values)

    def thread() -> int:
        ca.pend_event(0.1)
        assert ca.current_context() is None
        mine, own, _ = watched(ca, ioc.prefix + "calc00005")
        assert mine is not chid
        context: int = ca.current_context()
        assert context not in (None, initial)
        while len(own.values) < 5:
            with own.inside("poll"):
                ca.poll()
        assert own.wrong == []
        ca.destroy_context()
        return context

    call = Background(thread).join()
    assert call.error is None, call.error
    assert (len(calls.values), calls.wrong) == (told, [])
    assert list(ca._cache) == [initial]


def test_a_detached_thread_gets_its_context_back(ca: ModuleType, records: Records):
    """By what needs one; attaching is refused, as in C."""
    ca.initialize_libca()
    initial = ca.current_context()
    ca.detach_context()
    assert ca.attach_context(initial) == int(ECA.NOTTHREADED)
    ca.poll()
    assert ca.current_context() == initial


def test_another_thread_reads_and_writes(ca: ModuleType, ioc: SimIOC, point_at: Any):
    """Channels of a context that its thread does not poll just now: without a callback in the wrong thread."""
    point_at(ioc)
    output, missing = connected(ioc.prefix + "ao00002"), ca.create_channel(ioc.prefix + "no:such:record")
    _, calls, _ = watched(ca, ioc.prefix + "calc00006")
    told = len(calls.values)

    def thread() -> None:
        for number in range(20):
            assert ca.put(output, float(number), wait=True) == 1
            assert ca.get(output) == number
            ca.get(output, wait=False)
            assert ca.get_complete(output, timeout=20) == number
            ca.connect_channel(missing, timeout=0.02)
        assert ca.current_context() is None

    call = Background(thread).join()
    assert call.error is None, call.error
    assert (len(calls.values), calls.wrong) == (told, [])
    assert client_of(ca).dispatcher.waiting > 3
    # All that has come meanwhile is told now.
    with calls.inside("poll"):
        ca.poll()
    assert len(calls.values) > told + 3
    assert calls.wrong == []


def test_another_thread_reads_while_this_one_polls(ca: ModuleType, ioc: SimIOC, point_at: Any):
    """Neither keeps the other waiting."""
    point_at(ioc)
    output = connected(ioc.prefix + "ao00003")
    _, calls, _ = watched(ca, ioc.prefix + "calc00007")
    missing = ca.create_channel(ioc.prefix + "no:such:record")

    def thread() -> float:
        begin = time.monotonic()
        for number in range(50):
            assert ca.put(output, float(number), wait=True, timeout=20) == 1
            assert ca.get(output, timeout=20) == number
        return time.monotonic() - begin

    call = Background(thread)
    with calls.inside("pend_event"):
        while call.took == 0.0:
            ca.pend_event(0.5)
    assert call.join().error is None, call.error
    assert call.result < 10
    # And the other way round: a poll is quick while another thread waits for what does not come.
    waiting = Background(ca.connect_channel, missing, timeout=2)
    took = []
    end = time.monotonic() + 1
    while time.monotonic() < end:
        begin = time.monotonic()
        with calls.inside("poll"):
            ca.poll()
        took.append(time.monotonic() - begin)
    assert sorted(took)[len(took) // 2] < 0.02
    told = len(calls.values)
    with calls.inside("pend_event"):
        ca.pend_event(0.3)
    assert len(calls.values) > told + 2
    assert calls.wrong == []
    assert waiting.join().result is False


@pytest.mark.parametrize("end", ["finalize_libca", "destroy_context"])
def test_the_end_while_other_threads_wait(ca: ModuleType, own_records: Records, end: str):
    """One of them reads just then. They give up, and are told so in the one way."""
    for _ in range(15):
        chid, missing = connected(own_records("double")), ca.create_channel(own_records("no:such:record"))
        client = chid.client
        own_records.ioc.suspend()
        try:
            calls = [
                Background(ca.connect_channel, missing, timeout=60),
                Background(ca.put, chid, 1, wait=True, timeout=60),
            ]
            eventually(lambda client=client: client._waits and len(client.operations), "both wait")  # type: ignore[misc]
            begin = time.monotonic()
            getattr(ca, end)()
            for call in calls:
                call.join(10)
            assert time.monotonic() - begin < 5
        finally:
            own_records.ioc.resume()
        assert (calls[0].error, calls[0].result) == (None, False)
        assert isinstance(calls[1].error, ChannelAccessException), calls[1].error


def test_a_preemptive_context_beside_one_without(any_ca: ModuleType, ioc: SimIOC, point_at: Any):
    """Each is of its own kind."""
    ca = any_ca
    point_at(ioc)
    seen: list[Any] = []
    ca.create_subscription(connected(ioc.prefix + "calc00008"), callback=lambda value, **known: seen.append(value))

    def thread() -> None:
        ca.create_context(0)
        _, calls, _ = watched(ca, ioc.prefix + "calc00008")
        told, others = len(calls.values), len(seen)
        eventually(lambda: len(seen) > others + 3 and has_message(ca), "updates of the initial context")
        assert (len(calls.values), calls.wrong) == (told, [])
        with calls.inside("poll"):
            ca.poll()
        assert len(calls.values) > told
        assert calls.wrong == []
        ca.destroy_context()

    call = Background(thread).join()
    assert call.error is None, call.error
