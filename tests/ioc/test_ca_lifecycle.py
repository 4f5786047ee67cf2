"""The life cycle of the low-level interface: begun, used, ended, again and again, at any moment. Manual, 4.2."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import ca_records
from support.background import Background
from support.ca_records import Records, connected
from support.ca_scripts import descriptors
from support.recording import eventually
from support.soak.watch import memory

from daqca import dbr
from daqca.ca.eca import ECA
from daqca.ca.lowlevel import lifecycle
from daqca.ca.lowlevel.session import session
from daqca.errors import ChannelAccessException

ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records

BOTH = pytest.mark.parametrize("preemptive", [True, False], ids=["preemptive", "polling"])
ALARMED = 95.0
"""What the record ``alarmed`` has; nobody writes it."""


@pytest.fixture
def preemptive(request: pytest.FixtureRequest, ca: ModuleType) -> bool:
    ca.PREEMPTIVE_CALLBACK = request.param
    return bool(request.param)


def poll_until(ca: ModuleType, condition: Callable[[], Any], what: str) -> None:
    eventually(lambda: (ca.poll(), condition())[1], what)


def use(ca: ModuleType, records: Records) -> None:
    """Something of everything, in the context of the thread, and nothing of it is ended."""
    seen: list[Any] = []
    for ending in ("double", "enum", "string", "doubles", "text", "count"):
        chid = ca.create_channel(records(ending), callback=lambda **known: seen.append(known))
        assert ca.connect_channel(chid, timeout=20)
        ca.create_subscription(chid, callback=lambda **known: seen.append(known), use_time=True)
        assert ca.get(chid) is not None
        assert ca.get_ctrlvars(chid)
        ca.get(chid, wait=False)
    count = connected(records("count"))
    assert ca.put(count, 7, wait=True) == 1
    ca.put(count, 8, callback=lambda **known: seen.append(known))
    ca.put(count, 9)
    group = ca.sg_create()
    data = ca.sg_get(group, count)
    assert ca.sg_block(group) == 1
    assert ca._unpack(data, chid=count) == 9
    ca.sg_delete(group)
    ca.create_channel(records("no:such:record"))
    poll_until(ca, lambda: len(seen) > 12, "callbacks are called")


# --- nothing left -------------------------------------------------------------------------------


@pytest.mark.timeout(120)
@BOTH
def test_cycles_leave_nothing(preemptive: bool, ca: ModuleType, records: Records):
    """Thirty times, each with a context of another thread: no thread, no descriptor, no memory."""

    def cycle() -> None:
        ca.initialize_libca()
        use(ca, records)

        def other() -> None:
            ca.create_context()
            use(ca, records)

        done = Background(other).join()
        assert done.error is None, done.error
        ca.finalize_libca()

    for _ in range(3):
        cycle()
    gc.collect()
    files, threads = descriptors(), set(threading.enumerate())
    objects, before = len(gc.get_objects()), memory()
    for _ in range(30):
        cycle()
        assert set(threading.enumerate()) == threads
        assert descriptors() == files
        assert (ca._cache, session.channels, session.contexts, ca.current_context()) == ({}, {}, {}, None)
    after = memory()
    assert len(gc.get_objects()) - objects < 300  # ten for each cycle
    assert after.blocks - before.blocks < 1_000
    assert after.malloced - before.malloced < 150_000


def test_a_context_that_is_used_does_not_grow(ca: ModuleType, records: Records):
    """Channels and subscriptions that come and go, with requests that nobody completes, in one context."""
    chid = connected(records("double"))
    client = chid.client

    def round_() -> None:
        for ending in ("double", "enum", "text"):
            new = ca.create_channel(records(ending))
            ca.get(new, wait=False)
            ca.put(new, 1 if ending != "text" else "text", callback=lambda **known: None)
            watch = ca.create_subscription(new, callback=lambda **known: None)
            if ending == "enum":
                ca.clear_subscription(watch[2])
            ca.clear_channel(new)

    for _ in range(50):
        round_()
    eventually(lambda: not client.context.shard.requests.kind.any(), "the server has answered")
    gc.collect()
    objects = len(gc.get_objects())
    for _ in range(200):
        round_()
    gc.collect()
    assert (len(client.channels), len(client._subscriptions), len(client.operations)) == (0, 0, 0)
    assert len(gc.get_objects()) - objects < 1500


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def test_large_arrays_are_let_go(ca: ModuleType, records: Records):
    """Forty times 1.6 MB read, watched and written, and all forgotten with its context."""
    sizes = []
    for _ in range(8):
        large = connected(records("large"))
        value = [float(i % 7) for i in range(200_000)]
        seen: list[int] = []
        ca.create_subscription(large, callback=lambda count, seen=seen, **known: seen.append(count))
        for _ in range(5):
            assert ca.put(large, value, wait=True) == 1
            assert len(ca.get(large, timeout=20)) == 200_000
        ca.get(large, wait=False)
        eventually(lambda seen=seen: seen[-1:] == [200_000], "an update")  # type: ignore[misc]
        ca.finalize_libca()
        gc.collect()
        sizes.append(resident_kb())
    assert sizes[-1] - sizes[2] < 20_000, sizes


# --- beginning and ending -----------------------------------------------------------------------


@BOTH
def test_begun_ended_and_begun(preemptive: bool, ca: ModuleType, records: Records):
    assert (ca.libca, ca.initial_context, ca._cache) == (None, None, {})
    ca.finalize_libca()  # of nothing
    library = ca.initialize_libca()
    assert library is ca.libca
    assert library.ca_current_context() == ca.initial_context
    chid = connected(records("alarmed"))
    assert ca.get(chid) == ALARMED
    watch = ca.create_subscription(chid, callback=lambda **known: None)[2]
    ca.finalize_libca()
    ca.finalize_libca()
    assert (ca.libca, ca.initial_context, ca._cache) == (None, None, {})
    for function in (ca.name, ca.get, ca.state, ca.clear_channel, ca.create_subscription, ca.connect_channel):
        for dead in (chid, int(chid)):
            with pytest.raises(ChannelAccessException, match="cleared"):
                function(dead)
    assert ca.clear_subscription(watch) == 1
    # What needs no context does not make one,
    assert (ca.poll(), ca.flush_io(), ca.pend_io(), ca.pend_event(0.0)) == (1, 1, 1, int(ECA.TIMEOUT))
    assert (ca.destroy_context(), ca.detach_context(), ca.test_io()) == (1, None, True)
    assert ca._cache == {}
    # and the next that does begins anew.
    new = connected(records("alarmed"))
    assert int(new) != int(chid)
    assert ca.get(new) == ALARMED
    assert ca.initial_context == ca.current_context() is not None


def test_the_environment_is_read_by_each_beginning(
    ca: ModuleType, records: Records, own_records: Records, point_at: Any
):
    point_at(records.ioc)
    assert ca.get(connected(records("alarmed"))) == ALARMED
    ca.finalize_libca()
    point_at(own_records.ioc)
    assert not ca.connect_channel(ca.create_channel(records("alarmed")), timeout=0.3)
    assert ca.get(connected(own_records("alarmed"))) == ALARMED


def test_the_end_is_quick(ca: ModuleType, records: Records):
    """With hundreds of channels and subscriptions, and others that nobody serves."""
    took = []
    for _ in range(3):
        for ending in ("double", "long", "enum", "text", "count", "free"):
            chid = connected(records(ending))
            for _ in range(50):
                ca.create_subscription(chid, callback=lambda **known: None)
        for number in range(500):
            ca.create_channel(records(f"no:{number}"))
        begin = time.monotonic()
        ca.finalize_libca()
        took.append(time.monotonic() - begin)
    assert min(took) < 0.5, took


def test_the_end_does_not_wait_for_ever(ca: ModuleType, records: Records, caplog: pytest.LogCaptureFixture):
    """A callback that does not return is left after `maxtime`, and that is said."""
    entered, go = threading.Event(), threading.Event()
    ca.create_channel(records("double"), callback=lambda **known: (entered.set(), go.wait(30)))
    assert entered.wait(20)
    begin = time.monotonic()
    ca.finalize_libca(maxtime=0.3)
    took = time.monotonic() - begin
    go.set()
    assert 0.3 <= took < 5
    assert [record.message for record in caplog.records if "did not return" in record.message]
    assert ca._cache == {}


def test_the_end_waits_for_callbacks(ca: ModuleType, records: Records):
    """And callbacks of puts that end by it are called, with their status."""
    entered, go = threading.Event(), threading.Event()
    ended: list[Any] = []

    def callback(**known: Any) -> None:
        entered.set()
        assert go.wait(20)
        ended.append("callback")

    slow = ca.create_channel(records("slow"), callback=callback)
    assert entered.wait(20)
    for chid in (slow, connected(records("count"))):
        ca.put(chid, 1, callback=lambda status=1, **known: ended.append(status))
    end = Background(ca.finalize_libca)
    go.set()
    assert end.join().error is None, end.error
    assert ended[0] == "callback"
    assert ended[1:] in ([int(ECA.CHANDESTROY)] * 2, [1, int(ECA.CHANDESTROY)])
    ended.clear()


def test_the_end_wakes_who_waits(ca: ModuleType, own_records: Records):
    """Also of a server that does not answer: at once, with an error or with nothing."""
    chids = {ending: connected(own_records(ending)) for ending in ("double", "text", "count", "slow")}
    missing = ca.create_channel(own_records("no:such:record"))
    group = ca.sg_create()
    ca.sg_get(group, chids["text"])
    own_records.ioc.suspend()
    try:
        ca.get(chids["count"], wait=False)
        calls = [
            Background(ca.get, chids["double"], timeout=60),
            Background(ca.get, chids["text"], timeout=60),
            Background(ca.get_complete, chids["count"], timeout=60),
            Background(ca.put, chids["slow"], 1, wait=True, timeout=60),
            Background(ca.put, chids["text"], "text", wait=True, timeout=60),
            Background(ca.connect_channel, missing, timeout=60),
            Background(ca.sg_block, group, timeout=60),
        ]
        client = chids["double"].client
        eventually(lambda: len(client.operations) >= 5 and client._waits, "all are under way")
        begin = time.monotonic()
        ca.finalize_libca()
        for call in calls:
            call.join(10)
        assert time.monotonic() - begin < 5
    finally:
        own_records.ioc.resume()
    for call in calls[:6]:
        assert call.error is None or isinstance(call.error, ChannelAccessException), call.error
        assert call.result in (None, False)


@pytest.mark.timeout(120)
def test_the_end_at_any_moment(ca: ModuleType, records: Records):
    """Of ten threads that do everything: each goes on with the next context, and all errors are of one kind."""
    names = [records(ending) for ending in ("double", "text", "count", "free", "enum")]
    stop = threading.Event()
    done = [0] * 10

    def forever(i: int) -> None:
        name = names[i % 5]
        while not stop.is_set():
            try:
                chid = ca.create_channel(name)
                if i < 5:
                    ca.connect_channel(chid, timeout=5)
                    ca.get(chid)
                    ca.put(chid, 1 if "text" not in name else "text", wait=i % 2 == 0, timeout=5)
                    ca.get(chid, wait=False)
                    ca.get_complete(chid)
                else:
                    watch = ca.create_subscription(chid, callback=lambda **known: ca.name(known["chid"]))
                    ca.poll()
                    ca.get_timevars(chid)
                    ca.isConnected(chid), ca.host_name(chid), ca.flush_io()
                    ca.clear_subscription(watch[2])
                done[i] += 1
            except ChannelAccessException:
                continue

    calls = [Background(forever, i) for i in range(10)]
    try:
        for round_ in range(12):
            enough = sum(done) + round_
            eventually(lambda enough=enough: sum(done) > enough, "they work")  # type: ignore[misc]
            (ca.finalize_libca, ca.clear_cache)[round_ % 2]()
        before = list(done)
        eventually(lambda: all(now > then for now, then in zip(done, before, strict=True)), "all work on")
    finally:
        stop.set()
        for call in calls:
            call.join()
    assert [call.error for call in calls] == [None] * 10


def test_polling_threads_do_not_notice_the_end(ca: ModuleType, records: Records):
    """They let things happen where there is something, and never begin anew."""
    stop = threading.Event()

    def forever() -> None:
        while not stop.is_set():
            assert (ca.poll(), ca.flush_io(), ca.pend_io(), ca.pend_event(1e-4)) == (1, 1, 1, int(ECA.TIMEOUT))

    calls = [Background(forever) for _ in range(4)]
    for _ in range(100):
        ca.initialize_libca()
        ca.create_channel(records("alarmed"))
        ca.finalize_libca()
        assert ca._cache == {}
    stop.set()
    assert [call.join().error for call in calls] == [None] * 4


def test_what_comes_too_late_writes_into_nobodys_file(ca: ModuleType, records: Records):
    """The descriptors of a context that was closed belong to others."""
    chid = connected(records("alarmed"))
    context = chid.client.context
    ca.finalize_libca()
    pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(10)]
    try:
        assert context._wake_write in itertools.chain(*pipes)
        context.wake()
        chid.client._send_soon()
        with pytest.raises(ChannelAccessException, match="closed"):
            chid.client.channel(records("text"))
        for reader, _ in pipes:
            with pytest.raises(BlockingIOError):
                os.read(reader, 1)
    finally:
        for end in itertools.chain(*pipes):
            os.close(end)


@pytest.mark.parametrize("end", ["finalize_libca", "destroy_context", "clear_cache"])
@BOTH
def test_what_was_put_last_arrives(preemptive: bool, ca: ModuleType, own_records: Records, end: str):
    """Also if the server is busy then, and it is more than the network takes."""
    large, count = connected(own_records("large")), connected(own_records("count"))
    context = ca.current_context()

    def resume() -> None:
        try:
            eventually(lambda: context not in session.contexts, "the end has begun")
        finally:
            own_records.ioc.resume()

    own_records.ioc.suspend()
    resuming = Background(resume)
    for number in range(10):
        ca.put(large, [float(number)] * 200_000)
        ca.put(count, number)
    getattr(ca, end)()
    assert resuming.join().error is None, resuming.error
    assert ca.get(connected(own_records("count"))) == 9
    assert set(ca.get(connected(own_records("large")), timeout=20)) == {9.0}


# --- clear_cache --------------------------------------------------------------------------------


@BOTH
def test_clear_cache(preemptive: bool, ca: ModuleType, records: Records, monkeypatch: pytest.MonkeyPatch):
    """Who has registered is told before channels are cleared, and after it one begins anew."""
    monkeypatch.setattr(lifecycle, "_clear_cache_callbacks", {})
    chid = connected(records("alarmed"))
    first = ca.current_context()
    told: list[Any] = []

    def callback() -> None:
        told.append(ca.get(chid))

    ca.register_clear_cache(callback)
    ca.register_clear_cache(callback)
    ca.register_clear_cache(None)
    with pytest.raises(TypeError, match="register_clear_cache takes a function, and got 5"):
        ca.register_clear_cache(5)
    ca.clear_cache()
    assert told == [ALARMED]
    assert ca.current_context() == ca.initial_context not in (first, None)
    assert ca._cache == {ca.current_context(): {}}
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.get(chid)
    assert ca.get(connected(records("alarmed"))) == ALARMED


# --- options ------------------------------------------------------------------------------------


def test_the_connection_timeout(ca: ModuleType, records: Records):
    """`DEFAULT_CONNECTION_TIMEOUT` is looked at by every call; a timeout that is given comes first."""
    assert ca.DEFAULT_CONNECTION_TIMEOUT == 2.0
    missing = ca.create_channel(records("no:such:record"))
    quiet = [
        lambda: ca.connect_channel(missing),
        lambda: ca.isConnected(ca.create_channel(records("no:such:record"), connect=True)),
        lambda: ca.get(missing),
        lambda: ca.withMaybeConnectedCHID(lambda chid: None)(missing),
    ]
    loud = [
        lambda: ca.put(missing, 1),
        lambda: ca.create_subscription(missing),
        lambda: ca.sg_get(ca.sg_create(), missing),
        lambda: ca.withConnectedCHID(lambda chid: None)(missing),
    ]
    for seconds in (0.1, 0.4):
        ca.DEFAULT_CONNECTION_TIMEOUT = seconds
        for call in (*quiet, *loud):
            begin = time.monotonic()
            if call in loud:
                with pytest.raises(ChannelAccessException, match="no:such:record"):
                    call()
            else:
                assert not call()
            assert seconds <= time.monotonic() - begin < seconds + 3
    begin = time.monotonic()
    assert not ca.connect_channel(missing, timeout=0.05)
    assert time.monotonic() - begin < 0.35


def test_the_length_of_arrays_that_have_a_string_form(ca: ModuleType, records: Records):
    assert ca.AUTOMONITOR_MAXLENGTH == 65536
    text = connected(records("text"))
    ca.put(text, "a text", wait=True)
    count = ca.element_count(text)
    for limit, form in ((count + 1, "a text"), (count, f"<array count={count}, type={dbr.CHAR}>"), (65536, "a text")):
        ca.AUTOMONITOR_MAXLENGTH = limit
        assert ca.get(text, as_string=True) == form


def test_the_kind_of_callbacks_is_looked_at_when_a_context_is_made(ca: ModuleType, records: Records):
    for kind in (False, True, 0, 1):
        ca.PREEMPTIVE_CALLBACK = kind
        ca.initialize_libca()
        ca.PREEMPTIVE_CALLBACK = not kind
        assert session.contexts[ca.current_context()].preemptive is bool(kind)
        assert ca.get(connected(records("alarmed"))) == ALARMED
        ca.finalize_libca()
