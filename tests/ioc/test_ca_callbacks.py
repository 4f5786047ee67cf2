"""What callbacks of subscriptions may do: raise, get, put, subscribe and clear, also themselves; and when they end."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.background import Background
from support.ioc import IOCFactory
from support.lowlevel.watching import Calls, Gate, connected, current, read, when_told

from daqca import ca
from daqca.ca.lowlevel import subscription as subscription_module
from daqca.ca.lowlevel.subscription import Subscription
from daqca.ca.lowlevel.updates import call_back_all
from daqca.errors import ChannelAccessException
from daqca.events import EVENT, Batch, Kind
from daqca.sim import SoftIOC

PVS = 8
RECORDS = "\n".join(f'record(ao, "B:{i}") {{ field(PINI, "YES") field(VAL, "{i}") }}' for i in range(PVS))


@pytest.fixture(scope="module")
def target(servers: Any, repeater: Any) -> Iterator[SoftIOC]:
    factory = IOCFactory(servers)
    yield factory(RECORDS)
    factory.stop()


@pytest.fixture(autouse=True)
def _library(target: SoftIOC, point_at: Any) -> Iterator[None]:
    point_at(target)
    yield
    ca.finalize_libca()


def channels(n: int = PVS) -> list[Any]:
    found = [connected(f"B:{i}") for i in range(n)]
    for i, chid in enumerate(found):
        ca.put(chid, i, wait=True)
    return found


def watch(chid: Any, then: Callable[..., Any] | None = None, **options: Any) -> Calls:
    calls = Calls(then)
    ca.create_subscription(chid, callback=calls, **options)
    return calls


# --- callbacks that raise -------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize("ftype", [None, 20, 34], ids=["one by one", "time", "ctrl"])
def test_a_callback_that_raises_is_logged_and_counted_and_stays(
    caplog: pytest.LogCaptureFixture, error: type[BaseException], ftype: int | None
):
    """Also one that wants to end the program."""

    def fail(**_: Any) -> None:
        raise error("on purpose")

    chid, other, *_ = channels()
    with caplog.at_level(logging.ERROR if error is ValueError else logging.INFO, "daqca"):
        failing, good = watch(chid, fail, ftype=ftype), watch(other)
        failing.wait()
        good.wait()
        for number in range(10, 14):
            ca.put(chid, number, wait=True)
            ca.put(other, number, wait=True)
        failing.wait_value(13)
        good.wait_value(13)
        when_told()
    assert failing.values == [0, 10, 11, 12, 13]
    assert good.values == [1, 10, 11, 12, 13]
    records = [record for record in caplog.records if record.name.startswith("daqca")]
    assert len(records) == len(failing)
    assert all("B:0 raised; it stays installed" in record.getMessage() for record in records)
    if error is ValueError:
        assert all(record.exc_info and record.exc_info[0] is error for record in records)
    assert ca.client_status()["callback_errors"] == len(failing)


# --- callbacks that call --------------------------------------------------------------------


def in_a_callback(call: Callable[..., Any], chid: Any) -> Any:
    """Call from within a callback of `chid`; what came of it."""
    results: list[Any] = []

    def once(**known: Any) -> None:
        if not results:
            results.append(call(**known))

    calls = watch(chid, once)
    calls.wait_for(lambda: results, "the first update")
    # A second update comes as if nothing had been.
    ca.put(chid, 99, wait=True)
    calls.wait_value(99)
    return results[0]


def test_a_callback_that_gets_and_puts():
    chid, other, *_ = channels()

    def call(chid: int, **_: Any) -> Any:
        found = [read(chid), read(other), ca.put(other, 41, wait=True), read(other)]
        return [*found, ca.get_ctrlvars(other)["units"], ca.get_timevars(chid)["severity"], ca.put(other, 42)]

    assert in_a_callback(call, chid) == [0, 1, 1, 41, "", 0, 1]
    assert read(other) == 42


def test_a_callback_that_gets_by_number_and_in_a_group():
    chid, other, *_ = channels()

    def call(chid: int, **_: Any) -> Any:
        group = ca.sg_create()
        data = [ca.sg_get(group, each) for each in (chid, other)]
        ca.sg_put(group, other, 12)
        ca.sg_block(group)
        return [ca._unpack(each) for each in data] + [read(other)]

    assert in_a_callback(call, chid) == [0, 1, 12]


def test_a_callback_that_creates_channels_and_subscriptions():
    chid, *_ = channels()
    inner = Calls()

    def call(**_: Any) -> Any:
        new = connected("B:5")
        ca.create_subscription(new, callback=inner)
        missing = ca.create_channel("B:none")
        return ca.isConnected(new), ca.connect_channel(missing, timeout=0.05)

    assert in_a_callback(call, chid) == (True, False)
    ca.put(ca.create_channel("B:5"), 55, wait=True)
    inner.wait_value(55)
    assert inner.values == [5, 55]


def test_a_callback_that_clears_its_own_subscription():
    chid, other, *_ = channels()
    ids: list[Any] = []

    def clear(value: float, **_: Any) -> None:
        if value == 20:
            ca.clear_subscription(ids[0])

    calls = Calls(clear)
    ids.append(ca.create_subscription(chid, callback=calls)[2])
    calls.wait()
    for number in (10, 20, 30, 40):
        ca.put(chid, number, wait=True)
    watch(other).wait()
    when_told()
    assert calls.values == [0, 10, 20]
    assert current().context.stats()["subscriptions"] == 1


def test_a_callback_that_clears_its_own_channel():
    chid, other, *_ = channels()
    gate = Gate()

    def clear(chid: Any, **_: Any) -> None:
        gate()
        ca.clear_channel(chid)

    calls = watch(chid, clear)
    gate.wait()
    sibling = watch(chid)
    gate.open()
    calls.wait()
    watch(other).wait()
    when_told()
    assert len(calls) == 1
    assert len(sibling) == 0, "what waits to be told of a cleared channel is not told"
    with pytest.raises(ChannelAccessException, match="was cleared"):
        read(chid)
    again = connected("B:0")
    assert watch(again).wait()[0]["value"] == 0


def test_a_callback_that_ends_everything():
    """Not wise, and no hang: what follows begins anew."""
    chid, *_ = channels()
    ended = Calls()

    def end(**_: Any) -> None:
        ca.finalize_libca()
        ended()

    watch(chid, end)
    ended.wait()
    assert watch(connected("B:1")).wait()[0]["value"] == 1


def test_a_callback_works_in_its_own_context():
    """What it creates, it creates in the context that calls it, whichever thread that is."""
    channels(1)
    initial = ca.current_context()
    found: list[Any] = []

    def look(**_: Any) -> None:
        found.append((ca.current_context(), ca.create_channel("B:3").context, ca.create_channel("B:0").context))

    def other_context() -> int:
        ca.create_context()
        chid = connected("B:2")
        assert ca.current_context() != initial
        watch(chid, look).wait_for(lambda: found, "the first update")
        context = ca.current_context()
        ca.destroy_context()
        return context

    context = Background(other_context).join().result
    assert found == [(context, context, context)]
    watch(connected("B:4"), look).wait_for(lambda: len(found) > 1, "the first update")
    assert found[1:] == [(initial, initial, initial)]


def test_updates_wait_for_a_slow_callback_in_their_order():
    chid, other, *_ = channels()
    gate, order = Gate(), Calls()
    ca.create_subscription(chid, callback=gate)
    gate.wait()
    ca.create_subscription(other, callback=order)
    for number in range(100, 160):
        ca.put(other, number, wait=True)
    assert not order.known
    assert read(chid) == 0  # what reads the network does not wait for it
    gate.open()
    order.wait_value(159)
    assert order.values == [1, *range(100, 160)]


# --- after the end nothing is called --------------------------------------------------------


def behind_a_gate(chid: Any, other: Any) -> tuple[Gate, Calls, Subscription]:
    """A subscription of `other`, with updates that wait behind the slow callback of `chid`."""
    gate, calls = Gate(), Calls()
    ca.create_subscription(chid, callback=gate)
    gate.wait()
    event_id = ca.create_subscription(other, callback=calls)[2]
    for number in range(100, 120):
        ca.put(other, number, wait=True)
    third = Background(read, connected("B:7"))  # its answer comes behind all those updates
    third.join()
    return gate, calls, event_id


@pytest.mark.parametrize("how", ["clear_subscription", "clear_channel", "finalize_libca"])
def test_nothing_that_waits_is_told_after_the_end(how: str):
    chid, other, *_ = channels()
    gate, calls, event_id = behind_a_gate(chid, other)
    assert current().dispatcher.waiting > 10
    if how == "clear_subscription":
        ca.clear_subscription(event_id)
    elif how == "clear_channel":
        ca.clear_channel(other)
    else:
        ending = Background(ca.finalize_libca)
        while not other.is_cleared:
            time.sleep(0.001)
    gate.open()
    if how == "finalize_libca":
        ending.join()
    else:
        when_told()
    assert not calls.known


@pytest.mark.parametrize("how", ["clear_subscription", "clear_channel"])
@pytest.mark.parametrize("ftype", [None, 34], ids=["number", "ctrl"])
def test_the_end_waits_for_the_call_that_is_under_way(how: str, ftype: int | None):
    chid, *_ = channels()
    gate = Gate()
    event_id = ca.create_subscription(chid, ftype=ftype, callback=gate)[2]
    gate.wait()
    ending = Background(*((ca.clear_channel, chid) if how == "clear_channel" else (ca.clear_subscription, event_id)))
    ending._thread.join(0.2)
    assert ending._thread.is_alive(), "it did not wait"
    gate.open()
    assert ending.join().result == 1


def test_the_end_waits_not_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """As if the callback wanted a lock that is held by who ends its subscription."""
    monkeypatch.setattr(subscription_module, "_PATIENCE", 0.1)
    chid, *_ = channels()
    lock, tries = threading.Lock(), Calls()

    def want(**_: Any) -> None:
        tries()
        with lock:
            pass

    with lock:
        event_id = ca.create_subscription(chid, callback=want)[2]
        tries.wait()
        assert ca.clear_subscription(event_id) == 1
    assert "B:0 did not return within 0 s of the end of its subscription" in caplog.text
    when_told()
    assert len(tries) == 1


def test_no_call_begins_while_the_subscription_ends():
    """The two threads meet at every moment of each other: after the end there is no call, and no half of one."""
    chid, *_ = channels()
    late: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for round_ in range(150):
            ended: list[bool] = []
            begun = threading.Event()

            def callback(ended: list[bool] = ended, begun: threading.Event = begun, **_: Any) -> None:
                begun.set()
                sum(range(50))
                late.extend(ended)

            event_id = ca.create_subscription(chid, use_time=True, callback=callback)[2]
            assert begun.wait(15)
            when_told()  # from here on one thread calls it, as ever: the one below
            begun.clear()
            records = np.zeros(3000, EVENT)
            records["kind"], records["count"], records["dbr_type"] = Kind.UPDATE, 1, 6
            records["token"] = event_id.number
            telling = Background(call_back_all, Batch(records), current()._subscriptions, lambda *_: late.append(9))
            assert begun.wait(15)
            time.sleep(round_ % 10 * 1e-4)
            ca.clear_subscription(event_id)
            ended.append(True)
            telling.join()
    finally:
        sys.setswitchinterval(interval)
    assert not late


# --- without preemption ---------------------------------------------------------------------


@pytest.fixture
def _polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ca, "PREEMPTIVE_CALLBACK", False)
    ca.finalize_libca()


def poll_until(condition: Callable[[], Any], timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        ca.poll(0.01)


@pytest.mark.usefixtures("_polled")
def test_without_preemption_callbacks_run_in_pend_event_only():
    chid, other, *_ = channels()
    threads: list[threading.Thread] = []
    calls = watch(chid, lambda **_: threads.append(threading.current_thread()))
    poll_until(lambda: calls.known)
    ca.put(chid, 10, wait=True)
    ca.put(chid, 11, wait=True)
    before = len(calls)
    assert read(other) == 1
    time.sleep(0.05)
    assert len(calls) <= before + 2
    quiet = len(calls)
    Background(time.sleep, 0.05).join()
    assert len(calls) == quiet
    poll_until(lambda: calls.values[-1:] == [11])
    assert calls.values == [0, 10, 11]
    assert set(threads) == {threading.current_thread()}


@pytest.mark.usefixtures("_polled")
def test_without_preemption_callbacks_may_call_anything_too():
    chid, other, *_ = channels()
    ids: list[Any] = []
    seen: list[Any] = []

    def call(value: float, **_: Any) -> None:
        seen.append((value, read(other), ca.put(other, value + 100, wait=True), read(other)))
        if value == 10:
            ca.clear_subscription(ids[0])

    calls = Calls(call)
    ids.append(ca.create_subscription(chid, callback=calls)[2])
    poll_until(lambda: seen)
    ca.put(chid, 10, wait=True)
    poll_until(lambda: len(seen) == 2)
    ca.put(chid, 11, wait=True)
    ca.pend_event(0.05)
    assert seen == [(0, 1, 1, 100), (10, 100, 1, 110)]


@pytest.mark.usefixtures("_polled")
def test_without_preemption_a_ctrl_c_in_a_callback_comes_through():
    chid, *_ = channels()

    def interrupt(value: float, **_: Any) -> None:
        if value == 10:
            raise KeyboardInterrupt

    calls = watch(chid, interrupt)
    poll_until(lambda: calls.known)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes in one of them
        ca.put(chid, 10, wait=True)
        poll_until(lambda: False)
    ca.put(chid, 11, wait=True)
    poll_until(lambda: calls.values[-1] == 11)
    assert ca.client_status()["callback_events_waiting"] == 0
