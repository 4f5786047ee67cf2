"""How a put ends with the low-level interface: waits, time limits and callbacks, and what breaks it off."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from support import ca_records
from support.background import Background
from support.ca_records import SLOW_S, Records, connected, is_read_by_who_waits, nothing_under_way
from support.recording import eventually

from daqca import dbr
from daqca.errors import ChannelAccessException

ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records


class Calls:
    """A callback that remembers how it was called, and on which thread."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []
        self.threads: list[str] = []

    def __call__(self, **given: Any) -> None:
        self.threads.append(threading.current_thread().name)
        self.given.append(given)

    def once(self, **wanted: Any) -> None:
        """It is called once, with these keywords, and not again."""
        eventually(lambda: self.given, "the callback is called")
        assert self.given == [wanted]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def slow(ca: ModuleType, records: Records) -> Any:
    """The channel of a record that takes `SLOW_S` to process, and does nothing now."""
    chid = connected(records("slow"))
    eventually(lambda: ca.get(chid) == 0, "the record is idle")
    return chid


# --- waiting


def test_waiting_for_the_end(ca: ModuleType, slow: Any):
    begin = time.monotonic()
    assert ca.put(slow, 1, wait=True) == 1
    assert SLOW_S * 0.9 < time.monotonic() - begin < SLOW_S + 5
    assert ca.get(slow) == 0
    assert nothing_under_way(slow)


def test_not_waiting(ca: ModuleType, slow: Any):
    begin = time.monotonic()
    assert ca.put(slow, 1) == 1
    assert ca.get(slow) == 1
    assert time.monotonic() - begin < SLOW_S
    assert nothing_under_way(slow)


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_waiting_too_short(ca: ModuleType, slow: Any, timeout: float):
    begin = time.monotonic()
    assert ca.put(slow, 1, wait=True, timeout=timeout) == -1
    assert timeout <= time.monotonic() - begin < SLOW_S
    assert ca.get(slow) == 1
    eventually(lambda: nothing_under_way(slow), "the put has ended after all")
    assert ca.get(slow) == 0


def test_time_limits(ca: ModuleType, slow: Any):
    assert ca.put(slow, 1, True, 10) == 1
    assert ca.put(slow, 1, wait=True, timeout=None) == 1
    assert ca.put(slow, 1, wait=True, timeout=1e9) == 1


# --- callbacks


@pytest.mark.parametrize(
    "data", [None, 5, 0, "text", [1, 2], {}, {"one": 1}], ids=lambda data: f"{type(data).__name__} {data}"
)
@pytest.mark.parametrize("value", [2.5, [2.5]], ids=repr)
def test_the_keywords_of_a_callback(ca: ModuleType, records: Records, calls: Calls, value: Any, data: Any):
    chid = connected(records("free"))
    assert ca.put(chid, value, callback=calls, callback_data=data) == 1
    calls.once(pvname=records("free"), data=data, **(data if isinstance(data, dict) else {}))
    assert calls.threads == ["daqca-dispatcher"]
    eventually(lambda: nothing_under_way(chid), "nothing is left")


def test_no_data_are_none(ca: ModuleType, records: Records, calls: Calls):
    ca.put(connected(records("free")), 1, callback=calls)
    calls.once(pvname=records("free"), data=None)


def test_a_dictionary_is_given_by_its_names_as_in_pyepics(ca: ModuleType, records: Records):
    """Each function gets of it what it takes."""
    chid, name = connected(records("free")), records("free")
    data = {"one": 1, "two": 2, "pvname": "rubbish", "data": "its own", "callback": 3, "self": 4, 5: "no name"}
    found: list[Any] = []
    functions: list[tuple[Callable[..., Any], Any]] = [
        (lambda pvname, data: found.append((pvname, data)), (name, "its own")),
        (lambda pvname, one, two: found.append((pvname, one, two)), (name, 1, 2)),
        (lambda pvname, data, two=0: found.append((pvname, data, two)), (name, "its own", 2)),
        (
            lambda pvname, one, **more: found.append((pvname, one, sorted(more))),
            (name, 1, ["callback", "data", "self", "two"]),
        ),
    ]
    for function, wanted in functions:
        ca.put(chid, 1, wait=True, callback=function, callback_data=data)
        assert found.pop() == wanted


def test_a_callback_comes_at_the_end(ca: ModuleType, slow: Any, calls: Calls):
    begin = time.monotonic()
    assert ca.put(slow, 1, callback=calls, callback_data=5) == 1
    assert not calls.given
    assert ca.get(slow) == 1
    calls.once(pvname=ca.name(slow), data=5)
    assert time.monotonic() - begin > SLOW_S * 0.9
    assert ca.get(slow) == 0
    assert nothing_under_way(slow)


def test_waiting_with_a_callback(ca: ModuleType, slow: Any, calls: Calls):
    """It has been called when put returns, by the thread that waited."""
    assert ca.put(slow, 1, wait=True, callback=calls, callback_data=5) == 1
    assert calls.given == [{"pvname": ca.name(slow), "data": 5}]
    assert calls.threads == [threading.current_thread().name]
    assert nothing_under_way(slow)


def test_waiting_too_short_with_a_callback(ca: ModuleType, slow: Any, calls: Calls):
    assert ca.put(slow, 1, wait=True, timeout=0.05, callback=calls) == -1
    assert not calls.given
    calls.once(pvname=ca.name(slow), data=None)
    assert calls.threads == ["daqca-dispatcher"]
    assert nothing_under_way(slow)


def test_callbacks_come_in_the_order_of_the_puts(ca: ModuleType, records: Records):
    found: list[int] = []
    chid = connected(records("free"))
    for number in range(100):
        ca.put(chid, number, callback=lambda data, **given: found.append(data), callback_data=number)
    eventually(lambda: len(found) == 100, "all have been called")
    assert found == list(range(100))
    assert ca.get(chid) == 99


def test_a_callback_that_fails(ca: ModuleType, records: Records, calls: Calls, caplog):
    def fail(**given: Any) -> None:
        raise ValueError("on purpose")

    chid = connected(records("free"))
    assert ca.put(chid, 1, wait=True, callback=fail) == 1
    ca.put(chid, 2, callback=fail)
    ca.put(chid, 3, callback=calls)
    calls.once(pvname=records("free"), data=None)
    assert caplog.text.count("ValueError: on purpose") == 2
    assert ca.get(chid) == 3


def test_a_callback_that_gets_and_puts(ca: ModuleType, records: Records):
    """The manual's warning against it does not hold here."""
    found: list[Any] = []
    chid, other = connected(records("free")), connected(records("count"))

    def callback(**given: Any) -> None:
        found.extend((ca.get(chid), ca.put(other, 7, wait=True), ca.get(other)))
        ca.put(other, 8, wait=True, callback=lambda **inner: found.append("inner"))
        found.append(ca.get(other))

    ca.put(chid, 1.5, callback=callback)
    eventually(lambda: len(found) == 5, "the callback comes to its end")
    assert found == [1.5, 1, 7, "inner", 8]


def test_what_is_no_callback(ca: ModuleType, records: Records):
    chid = connected(records("free"))
    ca.put(chid, 1, wait=True)
    with pytest.raises(TypeError, match=r"free takes a function as callback, and got 'rubbish'"):
        ca.put(chid, 2, callback="rubbish")
    assert ca.get(chid) == 1


# --- what fails, or breaks off


@pytest.mark.parametrize("wait", [False, True], ids=["callback", "wait"])
def test_a_put_that_is_refused(ca: ModuleType, records: Records, calls: Calls, wait: bool):
    chid = connected(records("disabled"))
    if wait:
        with pytest.raises(RuntimeError, match="its server answered"):
            ca.put(chid, 8, wait=True, callback=calls, callback_data=5)
    else:
        assert ca.put(chid, 8, callback=calls, callback_data=5) == 1
    calls.once(pvname=records("disabled"), data=5, status=dbr.ECA_PUTFAIL)
    assert ca.get(chid) == 7
    assert nothing_under_way(chid)


def test_a_callback_is_given_a_status_only_if_it_takes_one(ca: ModuleType, records: Records):
    found: list[Any] = []
    chid = connected(records("disabled"))
    ca.put(chid, 8, callback=lambda pvname, data: found.append((pvname, data)))
    ca.put(chid, 8, callback=lambda pvname, data, status=1: found.append(status))
    ca.put(chid, 8, callback=lambda pvname, **given: found.append(given))
    eventually(lambda: len(found) == 3, "all are called")
    assert found == [
        (records("disabled"), None), dbr.ECA_PUTFAIL, {"data": None, "status": dbr.ECA_PUTFAIL},
    ]  # fmt: skip


def under_way(ca: ModuleType, chid: Any, calls: Calls) -> list[Background]:
    """Three puts whose end is waited for: by a callback, by a thread with a callback, and by a thread."""
    operations = chid.client.operations
    ca.put(chid, 1, callback=calls, callback_data="callback")
    threads = [
        Background(ca.put, chid, 1, wait=True, callback=calls, callback_data="both"),
        Background(ca.put, chid, 1, wait=True),
    ]
    eventually(lambda: len(operations) == 3, "three puts are under way")
    return threads


def check_broken_off(chid: Any, calls: Calls, threads: list[Background], status: int) -> None:
    for thread in threads:
        thread.join()
        assert isinstance(thread.error, ConnectionError)
        assert isinstance(thread.error, ChannelAccessException)
        assert f"cannot put 1 to {chid.pvname} (ENUM): " in str(thread.error)
        assert "whether it was written is not known" in str(thread.error)
        assert thread.error.eca == status
    eventually(lambda: len(calls.given) == 2, "the callbacks are called")
    for data in ("callback", "both"):
        assert calls.given.count({"pvname": chid.pvname, "data": data, "status": status}) == 1
    assert nothing_under_way(chid)


def test_losing_the_server(ca: ModuleType, own_records: Records, calls: Calls):
    chid = connected(own_records("slow"))
    threads = under_way(ca, chid, calls)
    own_records.ioc.kill()
    check_broken_off(chid, calls, threads, dbr.ECA_DISCONN)
    own_records.ioc.start()
    assert ca.connect_channel(chid, timeout=30)
    assert ca.put(chid, 0, wait=True) == 1
    assert len(calls.given) == 2


def test_losing_a_server_that_says_nothing(ca: ModuleType, own_records: Records, calls: Calls):
    chid = connected(own_records("free"))
    assert ca.get(chid) == 0
    own_records.ioc.suspend()
    alone = Background(ca.put, chid, 1, wait=True, callback=calls)
    eventually(lambda: is_read_by_who_waits(chid), "it reads the circuit itself")
    own_records.ioc.kill()
    alone.join()
    assert isinstance(alone.error, ConnectionError)
    calls.once(pvname=own_records("free"), data=None, status=dbr.ECA_DISCONN)
    assert nothing_under_way(chid)


@pytest.mark.parametrize("is_silent", [False, True], ids=["", "of a silent server"])
def test_clearing_the_channel(ca: ModuleType, own_records: Records, calls: Calls, is_silent: bool):
    chid, other = connected(own_records("slow")), connected(own_records("long"))
    if is_silent:
        own_records.ioc.suspend()
    threads = under_way(ca, chid, calls)
    assert ca.clear_channel(chid) == dbr.ECA_NORMAL
    assert not len(chid.client.operations)
    check_broken_off(chid, calls, threads, dbr.ECA_CHANDESTROY)
    if is_silent:
        own_records.ioc.resume()
    assert ca.get(other, timeout=20) == 7
    assert len(calls.given) == 2
    assert other.client.context.stats()["channels"] == 1


def test_clearing_the_channel_of_a_thread_that_waits_alone(ca: ModuleType, own_records: Records, calls: Calls):
    """It reads the circuit itself, and hears that the channel is cleared from the server."""
    chid, other = connected(own_records("slow")), connected(own_records("long"))
    for _ in range(3):
        assert ca.get(other) == 7
    waiting = Background(ca.put, chid, 1, wait=True, callback=calls)
    eventually(lambda: ca.get(other) == 7 and (chid.puts or is_read_by_who_waits(chid)), "the put is under way")
    ca.clear_channel(chid)
    waiting.join()
    assert isinstance(waiting.error, ConnectionError)
    assert waiting.took < 10
    calls.once(pvname=own_records("slow"), data=None, status=dbr.ECA_CHANDESTROY)
    assert nothing_under_way(chid)


@pytest.mark.parametrize("end", ["finalize_libca", "destroy_context", "clear_cache"])
def test_ending_everything(ca: ModuleType, own_records: Records, calls: Calls, end: str):
    chid = connected(own_records("slow"))
    threads = under_way(ca, chid, calls)
    getattr(ca, end)()
    check_broken_off(chid, calls, threads, dbr.ECA_CHANDESTROY)


def test_puts_to_a_channel_that_another_thread_clears(ca: ModuleType, records: Records):
    """Whoever comes late is told; nobody writes another channel, and nothing is left."""
    ca.initialize_libca()
    other = connected(records("count"))
    ca.put(other, 17, wait=True)
    found: list[Any] = []
    for _ in range(50):
        chid = connected(records("free"))

        def work(chid: Any = chid) -> None:
            ca.use_initial_context()
            try:
                while True:
                    ca.put(chid, 5, wait=True, timeout=20)
                    ca.put(chid, 6)
                    ca.get(chid, timeout=20)
            except ChannelAccessException as error:
                found.append(error)

        threads = [Background(work), Background(work)]
        ca.get(chid)
        ca.clear_channel(chid)
        for thread in threads:
            assert thread.join().error is None
        assert nothing_under_way(chid)
    assert len(found) == 100
    assert ca.get(other) == 17


def test_ending_everything_while_threads_work(ca: ModuleType, records: Records):
    """Whoever waits is told that the channel is gone, by the error for that."""
    for _ in range(20):
        ca.initialize_libca()
        chid = connected(records("free"))

        def work(chid: Any = chid) -> None:
            while True:
                ca.put(chid, 5, wait=True, timeout=20)
                ca.put(chid, 6)
                ca.get(chid, timeout=20)
                ca.get(chid, dbr.STRING, wait=False)
                ca.get_complete(chid, dbr.STRING)

        threads = [Background(work), Background(work)]
        time.sleep(0.005)  # now this, now that is broken off
        ca.finalize_libca()
        for thread in threads:
            assert isinstance(thread.join().error, ChannelAccessException)
        assert nothing_under_way(chid)


@pytest.mark.parametrize("delay", [0.02, 0.3], ids=["before it is registered", "after"])
def test_a_keyboard_interrupt(ca: ModuleType, own_records: Records, calls: Calls, delay: float):
    """The callback of a put that is broken off is called once; what is asked for later works."""
    chid = connected(own_records("slow"))
    assert [ca.get(chid) for _ in range(3)] == [0, 0, 0]
    main = threading.main_thread().ident
    timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ca.put(chid, 1, wait=True, callback=calls)
    timer.join()
    eventually(lambda: calls.given, "the callback is called")
    assert ca.connect_channel(chid, timeout=20)
    assert ca.put(chid, 0, wait=True) == 1
    assert ca.get(chid) == 0
    eventually(lambda: nothing_under_way(chid), "nothing is left")
    assert len(calls.given) == 1


# --- without threads


def test_without_preemption(ca: ModuleType, records: Records, calls: Calls):
    ca.PREEMPTIVE_CALLBACK = False
    chid = connected(records("slow"))
    assert ca.put(chid, 0, wait=True, callback=calls) == 1
    assert len(calls.given) == 1
    ca.put(chid, 1, callback=calls)
    time.sleep(2 * SLOW_S)
    assert len(calls.given) == 1
    while len(calls.given) < 2:
        ca.poll()
    assert set(calls.threads) == {threading.current_thread().name}
    assert ca.put(chid, 1, wait=True, timeout=0.05, callback=calls) == -1
    ca.clear_channel(chid)
    ca.poll()
    assert calls.given[2:] == [{"pvname": records("slow"), "data": None, "status": dbr.ECA_CHANDESTROY}]
    assert nothing_under_way(chid)
