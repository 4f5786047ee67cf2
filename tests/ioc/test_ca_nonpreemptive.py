"""Without preemptive callbacks nothing is read and no callback runs but in ``pend_event``, ``pend_io`` and ``poll``.

And in the functions that wait for something of the network, which let things happen until then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from support import ca_records
from support.ca_polling import Calls, client_of, has_message, lost, unread, watched
from support.ca_records import Records, connected
from support.ioc import IOCFactory
from support.recording import eventually

from daqca.ca.eca import ECA
from daqca.ca.protocol import Command
from daqca.errors import ChannelAccessException
from daqca.sim import SimIOC

any_ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records

TIMEOUT = int(ECA.TIMEOUT)


@pytest.fixture
def ca(any_ca: ModuleType) -> ModuleType:
    """The low-level interface without preemption."""
    any_ca.PREEMPTIVE_CALLBACK = False
    return any_ca


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
    output = connected(ioc.prefix + "ao00001")
    chid, calls, _ = watched(ca, ioc.prefix + "calc00002")
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
    eventually(lambda: lost(ca), "the server has closed the circuit")
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


def test_the_end_tells_of_puts(ca: ModuleType, records: Records):
    """In the thread that ends it."""
    ended: list[Any] = []
    chid = connected(records("slow"))
    ca.put(chid, 1, callback=lambda status=None, **known: ended.append((status, threading.current_thread().name)))
    ca.finalize_libca()
    assert ended == [(int(ECA.CHANDESTROY), threading.current_thread().name)]
