"""Callbacks and contexts of the low-level interface: in which they are called, and callbacks that end theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from support import ca_records
from support.ca_contexts import Watch, contexts, in_thread
from support.ca_records import Records, connected
from support.recording import eventually

from daqca.ca.eca import ECA
from daqca.errors import ChannelAccessException

ca, records = ca_records.ca, ca_records.records
record_server = ca_records.record_server

ALARMED = 95.0
"""What the record ``alarmed`` has; nobody writes it."""
NORMAL = int(ECA.NORMAL)


def test_every_callback_is_in_the_context_of_its_channel(ca: ModuleType, records: Records):
    """Of connections, access rights, updates, puts and exceptions; and what it creates is created there."""
    ca.initialize_libca()
    seen: dict[str, Any] = {}

    def note(what: str) -> Callable[..., None]:
        def callback(*args: Any, **known: Any) -> None:
            seen[what] = (ca.current_context(), ca.create_channel(records(f"new:{what}")).client.number)

        return callback

    def other() -> int:
        ca.create_context()
        ca.add_exception_event(note("exception"))
        chid = ca.create_channel(records("disabled"), callback=note("connection"))
        ca.replace_access_rights_event(chid, note("access"))
        assert ca.connect_channel(chid, timeout=20)
        ca.create_subscription(chid, callback=note("update"))
        ca.put(chid, 1, callback=note("put"))  # which fails
        number: int = ca.current_context()
        return number

    number = in_thread(other)
    assert number != ca.initial_context
    eventually(lambda: len(seen) == 5, "every callback is called")
    assert seen == dict.fromkeys(("connection", "access", "update", "put", "exception"), (number, number))


@pytest.mark.parametrize("what", ["destroy_context", "finalize_libca"])
@pytest.mark.parametrize("where", ["connection", "update", "put", "access"])
def test_a_callback_that_ends_its_context(ca: ModuleType, records: Records, what: str, where: str):
    """It returns, and no callback is called after it; of the others' contexts nothing is lost, if it is not all."""
    initial = Watch(ca, records("free"))
    done = threading.Event()
    late: list[Any] = []

    def end(*args: Any, **known: Any) -> None:
        if done.is_set():
            late.append(known)
            return
        assert getattr(ca, what)() in (None, NORMAL)
        assert ca.current_context() is None
        done.set()

    def other() -> int:
        ca.create_context()
        chid = ca.create_channel(records("count"), callback=end if where == "connection" else None)
        if where == "access":
            ca.replace_access_rights_event(chid, end)
        if where in ("update", "put"):
            assert ca.connect_channel(chid, timeout=20)
        number: int = ca.current_context()
        if where == "update":
            ca.create_subscription(chid, callback=end)
        if where == "put":
            ca.put(chid, 1, callback=end)
        return number

    number = in_thread(other)
    assert done.wait(20), "the callback hangs"
    eventually(lambda: number not in contexts(ca), "it is gone")
    if what == "destroy_context":
        ca.put(initial.chid, 9.5, wait=True)
        initial.sees(9.5)
    else:
        assert contexts(ca) == []
        assert ca.get(connected(records("alarmed"))) == ALARMED
    assert late == []


def test_a_callback_that_begins_anew(ca: ModuleType, records: Records):
    """After it has ended all, in the same call."""
    done = threading.Event()
    found: list[Any] = []

    def again(**known: Any) -> None:
        ca.finalize_libca()
        found.append(ca.get(connected(records("alarmed"))))
        found.append(ca.current_context() == ca.initial_context is not None)
        done.set()

    ca.create_channel(records("count"), callback=again)
    assert done.wait(20)
    assert found == [ALARMED, True]
    assert ca.get(connected(records("alarmed"))) == ALARMED
    assert len(contexts(ca)) == 1


def test_callbacks_of_two_contexts_that_end_all_at_once(ca: ModuleType, records: Records):
    """Each waits for the other's callback to return, and neither hangs."""
    ca.initialize_libca()
    for _ in range(5):
        together = threading.Barrier(2)
        done = [threading.Event(), threading.Event()]

        def end(i: int, together: threading.Barrier = together, done: list[threading.Event] = done) -> None:
            together.wait(20)
            ca.finalize_libca(maxtime=20)
            done[i].set()

        def other(i: int, end: Callable[[int], None] = end) -> None:
            ca.create_context()
            ca.create_channel(records("count"), callback=lambda **known: end(i))

        for i in range(2):
            in_thread(lambda i=i: other(i))  # type: ignore[misc]
        for event in done:
            assert event.wait(15), "a callback hangs"
        eventually(lambda: contexts(ca) == [], "all is ended")
        ca.initialize_libca()


def test_a_callback_whose_context_is_gone_has_none(ca: ModuleType, records: Records):
    """It does not begin anew behind the back of who ends all."""
    entered, go, found = threading.Event(), threading.Event(), []

    def callback(**known: Any) -> None:
        entered.set()
        assert go.wait(20)
        eventually(lambda: contexts(ca) == [], "the end has begun")
        with pytest.raises(ChannelAccessException, match="the context of this callback was closed"):
            ca.create_channel("anything")
        ca.poll()
        ca.flush_io()
        found.append(ca.current_context())

    ca.create_channel(records("count"), callback=callback)
    assert entered.wait(20)
    go.set()
    ca.finalize_libca()
    assert found == [None]
    assert contexts(ca) == []
