"""Without preemptive callbacks nothing is read and no callback runs but in ``pend_event``, ``pend_io`` and ``poll``.

And in the functions that wait for something of the network, which let things happen until then.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from support import ca_records
from support.background import Background
from support.ca_records import Records, connected
from support.ioc import IOCFactory
from support.recording import eventually

from daqca.ca.eca import ECA
from daqca.ca.lowlevel.client import Client
from daqca.ca.lowlevel.session import session
from daqca.ca.protocol import Command
from daqca.errors import CASeverityException, ChannelAccessException
from daqca.sim import SimIOC

any_ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records

TIMEOUT = int(ECA.TIMEOUT)


@pytest.fixture
def ca(any_ca: ModuleType) -> ModuleType:
    """The low-level interface without preemption."""
    any_ca.PREEMPTIVE_CALLBACK = False
    return any_ca


def client_of(ca: ModuleType) -> Client:
    return session.contexts[ca.current_context()]


def unread(ca: ModuleType, datagrams: bool = False) -> int:
    """Bytes that the kernel keeps for the circuits of the current context, or of its next datagram."""
    context = client_of(ca).context
    descriptors = [context._udp.fileno()] if datagrams else list(context._by_fd)
    return sum(struct.unpack("i", fcntl.ioctl(each, termios.FIONREAD, bytes(4)))[0] for each in descriptors)


def has_message(ca: ModuleType, command: Command = Command.EVENT_ADD) -> bool:
    """Whether an update (or another message) lies there; answers to echos may, at any time."""
    for link in client_of(ca).context._links.values():
        try:
            data = link.sock.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        while len(data) >= 16:
            found, size = struct.unpack_from(">HH", data)
            if found == command:
                return True
            data = data[16 + size :]
    return False


class Calls:
    """Callbacks, and whether each was called in the right thread inside the right function."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.wrong: list[str] = []
        self._inside: str | None = None
        self._thread = threading.current_thread()

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Callbacks may come in here."""
        self._inside = name
        try:
            yield
        finally:
            self._inside = None

    def __call__(self, **known: Any) -> None:
        self.values.append(known.get("value", known))
        if self._inside is None or threading.current_thread() is not self._thread:
            self.wrong.append(f"{threading.current_thread()} in {self._inside}: {known}")


def watched(ca: ModuleType, name: str) -> tuple[Any, Calls, Any]:
    """A channel with all kinds of callbacks, the first of which have been called."""
    calls = Calls()
    with calls.inside("connect_channel"):
        chid = ca.create_channel(name, callback=calls)
        assert ca.connect_channel(chid, timeout=20)
    event_id = ca.create_subscription(chid, callback=calls)[2]
    while len(calls.values) < 2:
        with calls.inside("poll"):
            ca.poll()
    assert calls.wrong == []
    return chid, calls, event_id


# --- nothing is read ----------------------------------------------------------------------------


def test_there_are_no_threads(ca: ModuleType, records: Records):
    before = threading.active_count()
    watched(ca, records("free"))
    assert threading.active_count() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("daqca")]


def test_nothing_connects_without_polling(ca: ModuleType, records: Records):
    """The server has answered the search, and the answer lies there."""
    calls = Calls()
    chid = ca.create_channel(records("double"), callback=calls)
    ca.replace_access_rights_event(chid, lambda read, write: calls(read=read))
    ca.flush_io()
    eventually(lambda: unread(ca, datagrams=True) > 0, "the server has answered")
    waiting = unread(ca, datagrams=True)
    for call in idle_calls(ca, records, chid):
        call()
        assert unread(ca, datagrams=True) == waiting, call
        assert not ca.isConnected(chid)
    assert (ca.state(chid), ca.element_count(chid), ca.field_type(chid)) == (0, 0, -1)
    assert calls.values == []
    while not ca.isConnected(chid):
        with calls.inside("poll"):
            ca.poll()
    assert (len(calls.values), calls.wrong) == (2, [])


def idle_calls(ca: ModuleType, records: Records, chid: Any) -> list[Callable[[], Any]]:
    """What may be called as often as one likes without anything being read."""
    return [
        ca.flush_io,
        ca.test_io,
        ca.version,
        ca.current_context,
        ca.use_initial_context,
        ca.initialize_libca,
        lambda: ca.name(chid),
        lambda: ca.state(chid),
        lambda: ca.isConnected(chid),
        lambda: ca.element_count(chid),
        lambda: ca.field_type(chid),
        lambda: ca.access(chid),
        lambda: ca.host_name(chid),
        lambda: ca.promote_type(chid),
        lambda: ca.create_channel(records("new")),
        lambda: ca.create_channel(ca.name(chid)),
        lambda: ca.clear_channel(ca.create_channel(records("new"))),
        lambda: ca.show_cache(print_out=False),
        lambda: ca.get_cache(ca.name(chid)),
        lambda: ca.sg_delete(ca.sg_create()),
        lambda: time.sleep(0.02),
    ]


def busy_calls(ca: ModuleType, chid: Any, output: Any) -> list[Callable[[], Any]]:
    """The same with a connected channel: requests go out, and answers come, but they lie there."""
    return [
        lambda: ca.get(chid, wait=False),
        lambda: ca.get(chid, ftype=ca.promote_type(chid, use_time=True), wait=False),
        lambda: ca.put(output, 1.0),
        lambda: ca.put(output, 1.0, callback=lambda **known: None),
        lambda: ca.connect_channel(chid),
        lambda: ca.create_subscription(chid, callback=lambda **known: None),
        lambda: ca.clear_subscription(ca.create_subscription(chid)[2]),
    ]


def test_updates_lie_there(ca: ModuleType, ioc: SimIOC, records: Records, point_at: Any):
    """However long: those of a record that changes by itself."""
    point_at(ioc)
    output = connected(ioc.prefix + "ao00004")
    chid, calls, _ = watched(ca, ioc.prefix + "calc00001")
    told, waiting = len(calls.values), 0
    for call in [*idle_calls(ca, records, chid), *busy_calls(ca, chid, output)]:
        before = waiting
        call()
        waiting = unread(ca)
        assert waiting >= before, "something was read"
    eventually(lambda: unread(ca) > 500, "many have come")
    assert (len(calls.values), calls.wrong) == (told, [])
    with calls.inside("pend_event"):
        assert ca.pend_event(1e-5) == TIMEOUT
    assert len(calls.values) > told + 2
    assert calls.values[1:] == sorted(calls.values[1:])
    assert calls.wrong == []


@pytest.mark.parametrize(
    "name", ["pend_event", "pend_io", "poll", "get", "put", "connect_channel", "get_complete", "sg_block"]
)
def test_where_callbacks_run(ca: ModuleType, ioc: SimIOC, point_at: Any, name: str):
    """In the calling thread, and nowhere but there."""
    point_at(ioc)
    chid, calls, _ = watched(ca, ioc.prefix + "calc00002")
    output = connected(ioc.prefix + "ao00001")
    group = ca.sg_create()
    others = iter(range(3, 6))

    def call() -> Any:
        if name == "get":
            assert ca.get(chid) is not None
        elif name == "put":
            assert ca.put(output, 1.0, wait=True) == 1
        elif name == "connect_channel":
            other = ca.create_channel(f"{ioc.prefix}ai{next(others):05d}")
            assert ca.connect_channel(other, timeout=20)
        elif name == "get_complete":
            assert ca.get(chid, wait=False) is None
            assert ca.get_complete(chid, timeout=20) is not None
        elif name == "sg_block":
            ca.sg_get(group, chid)
            assert ca.sg_block(group, 20) == 1
        else:
            assert getattr(ca, name)() in (1, TIMEOUT)

    for _ in range(3):
        told = len(calls.values)
        eventually(lambda: has_message(ca), "an update has come")
        assert len(calls.values) == told
        with calls.inside(name):
            call()
        assert len(calls.values) > told
    assert calls.wrong == []


def test_a_put_is_told_of_in_poll(ca: ModuleType, records: Records):
    calls = Calls()
    chid = connected(records("free"))
    ca.put(chid, 3.5, callback=calls, callback_data="mine")
    eventually(lambda: has_message(ca, Command.WRITE_NOTIFY), "the server has answered")
    assert calls.values == []
    with calls.inside("pend_event"):
        ca.pend_event()
    assert calls.values == [{"pvname": records("free"), "data": "mine"}]
    assert calls.wrong == []


def test_a_loss_is_told_of_in_poll(ca: ModuleType, own_records: Records):
    chid, calls, _ = watched(ca, own_records("double"))
    own_records.ioc.kill()
    time.sleep(0.05)
    assert ca.isConnected(chid)
    assert calls.wrong == []
    while ca.isConnected(chid):
        with calls.inside("poll"):
            ca.poll()
    assert calls.values[-1]["conn"] is False
    own_records.ioc.start()
    while not ca.isConnected(chid):
        with calls.inside("pend_event"):
            ca.pend_event(0.01)
    assert calls.wrong == []


# --- how long -----------------------------------------------------------------------------------


def test_how_long_polling_takes(ca: ModuleType, records: Records):
    connected(records("double"))
    for call, least, most in (
        (lambda: ca.pend_event(0.2), 0.2, 2.0),
        (lambda: ca.pend_event(0.0), 0.0, 0.15),
        (lambda: ca.pend_event(), 0.0, 0.15),
        (lambda: ca.poll(), 0.0, 0.15),
        (lambda: ca.poll(evt=0.2, iot=60), 0.2, 2.0),
        (lambda: ca.pend_io(60.0), 0.0, 0.15),
        (lambda: ca.pend_event(-1.0), 0.0, 0.15),
    ):
        took = []
        for _ in range(3):
            begin = time.monotonic()
            assert call() in (1, TIMEOUT)
            took.append(time.monotonic() - begin)
        assert least <= min(took) < most, took


def test_pend_event_sleeps_while_nothing_happens(ca: ModuleType, records: Records):
    connected(records("double"))
    ca.pend_event(0.05)
    before = time.process_time()
    ca.pend_event(0.5)
    assert time.process_time() - before < 0.2


def test_many_channels_connect_by_polling(ca: ModuleType, make_ioc: IOCFactory, point_at: Any):
    ioc = make_ioc(scalars=300, changing=0)
    point_at(ioc)
    chids = [ca.create_channel(name) for name in ioc.names]
    end = time.monotonic() + 20
    while not all(ca.isConnected(chid) for chid in chids):
        assert time.monotonic() < end
        ca.poll(1e-3)
    for chid in chids:
        ca.get(chid, wait=False)
    ca.poll()
    values = [ca.get_complete(chid, timeout=5) for chid in chids]
    assert values == [record.value for record in ioc.database.records]


# --- callbacks that do something ----------------------------------------------------------------


def test_a_callback_may_call_anything(ca: ModuleType, records: Records):
    """It waits in it, and no other callback runs meanwhile."""
    depth, deepest, found = [0], [0], []
    output, other = connected(records("count")), connected(records("long"))

    def callback(value: Any, **known: Any) -> None:
        depth[0] += 1
        deepest[0] = max(deepest[0], depth[0])
        if value < 5:
            assert ca.put(output, value + 1, wait=True) == 1
            found.append(ca.get(output))
            ca.poll()
            ca.pend_event(0.01)
            assert ca.connect_channel(ca.create_channel(records("text")), timeout=20)
            ca.put(other, 1, callback=lambda **known: found.append("put"))
        depth[0] -= 1

    ca.put(output, 0, wait=True)
    ca.create_subscription(output, callback=callback)
    end = time.monotonic() + 20
    while found.count("put") < 5:
        assert time.monotonic() < end, found
        ca.poll()
    assert [each for each in found if each != "put"] == [1, 2, 3, 4, 5]
    assert deepest == [1]
    assert client_of(ca).dispatcher.errors == 0


@pytest.mark.parametrize("end", ["destroy_context", "finalize_libca"])
@pytest.mark.parametrize("wait", ["pend_event", "get", "connect_channel"])
def test_a_callback_may_end_all(ca: ModuleType, ioc: SimIOC, point_at: Any, end: str, wait: str):
    """What waits meanwhile gives up at once, and everything can begin anew."""
    point_at(ioc)
    ended: list[Any] = []
    late: list[Any] = []

    def callback(**known: Any) -> None:
        (late if ended else ended).append(getattr(ca, end)())

    missing = ca.create_channel(ioc.prefix + "no:such:record")
    chid = connected(ioc.prefix + "calc00003")
    ca.create_subscription(chid, callback=callback)
    begin = time.monotonic()
    while not ended:
        if wait == "pend_event":
            ca.pend_event(30)
        elif wait == "connect_channel":
            assert not ca.connect_channel(missing, timeout=30)
        else:
            ca.get(chid)
    assert time.monotonic() - begin < 20
    assert ca.current_context() is None
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.get(chid)
    ca.PREEMPTIVE_CALLBACK = end == "finalize_libca"
    assert ca.get(connected(ioc.prefix + "ai00001")) == 0.125
    assert late == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_callback_that_raises(ca: ModuleType, ioc: SimIOC, point_at: Any, error: type[BaseException]):
    """An ordinary error is logged; Ctrl-C and sys.exit are the polling program's. Polling works on after both."""
    point_at(ioc)
    raised: list[int] = []
    seen: list[float] = []

    def callback(value: float, **known: Any) -> None:
        seen.append(value)
        if len(raised) < 3:
            raised.append(1)
            raise error

    ca.create_subscription(connected(ioc.prefix + "calc00004"), callback=callback)
    for _ in range(3):
        if error is ValueError:
            while len(raised) < 3:
                ca.poll()
        else:
            with pytest.raises(error):
                ca.pend_event(20)
    assert client_of(ca).dispatcher.waiting == 0 or error is ValueError
    told = len(seen)
    end = time.monotonic() + 20
    while len(seen) < told + 3:
        assert time.monotonic() < end
        ca.poll()
    assert client_of(ca).dispatcher.errors == (3 if error is ValueError else 0)


# --- threads ------------------------------------------------------------------------------------


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
    _, calls, _ = watched(ca, ioc.prefix + "calc00006")
    output, missing = connected(ioc.prefix + "ao00002"), ca.create_channel(ioc.prefix + "no:such:record")
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
    _, calls, _ = watched(ca, ioc.prefix + "calc00007")
    output = connected(ioc.prefix + "ao00003")
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


def test_the_end_sends_what_waits_and_tells_of_puts(ca: ModuleType, records: Records):
    ended: list[Any] = []
    chid = connected(records("slow"))
    ca.put(chid, 1, callback=lambda status=None, **known: ended.append((status, threading.current_thread().name)))
    ca.finalize_libca()
    assert ended == [(int(ECA.CHANDESTROY), threading.current_thread().name)]
    assert "daqca.ca" in sys.modules
