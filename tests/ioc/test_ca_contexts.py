"""Contexts and threads of the low-level interface. Manual, chapters 4.3, 4.7 and 10.4."""

from __future__ import annotations

import itertools
import threading
from types import ModuleType
from typing import Any

import pytest
from support import ca_records
from support.background import Background
from support.ca_contexts import Watch, contexts, in_thread, io_threads
from support.ca_records import Records, connected
from support.recording import eventually

from daqca.ca.eca import ECA
from daqca.ca.lowlevel.session import session
from daqca.errors import CASeverityException, ChannelAccessException

ca, records = ca_records.ca, ca_records.records
record_server = ca_records.record_server

ALARMED = 95.0
"""What the record ``alarmed`` has; nobody writes it."""
NORMAL, ISATTACHED, NOTTHREADED, NOCACTX = int(ECA.NORMAL), int(ECA.ISATTACHED), int(ECA.NOTTHREADED), int(ECA.NOCACTX)


# --- statuses -----------------------------------------------------------------------------------


def test_the_initial_context(ca: ModuleType):
    assert ca.initial_context is None
    library = ca.initialize_libca()
    number = ca.current_context()
    assert isinstance(number, int)
    assert number == ca.initial_context
    assert library is ca.libca
    assert contexts(ca) == [number]
    # Again and again it is the same.
    assert (ca.create_context(), ca.context_create(), ca.context_create(0), ca.context_create(1)) == (None, 1, 1, 1)
    assert ca.initialize_libca() is library
    assert ca.use_initial_context() == NORMAL
    assert (ca.current_context(), contexts(ca)) == (number, [number])


def test_the_first_question_for_the_context_makes_one(ca: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """As in PyEpics. After an end it makes none."""
    monkeypatch.setattr(session, "was_begun", False)
    number = ca.current_context()
    assert number == ca.initial_context is not None
    ca.finalize_libca()
    assert ca.current_context() is None
    assert contexts(ca) == []


def test_attaching_and_detaching(ca: ModuleType):
    """The statuses are those of libca."""
    ca.initialize_libca()
    initial = ca.initial_context
    assert ca.attach_context(initial) == ISATTACHED

    def thread() -> None:
        assert ca.current_context() is None
        assert ca.attach_context(initial) == NORMAL
        assert ca.current_context() == initial
        assert ca.attach_context(initial) == ISATTACHED
        assert ca.use_initial_context() == NORMAL
        ca.detach_context()
        ca.detach_context()
        assert ca.current_context() is None
        assert ca.create_context() is None
        own = ca.current_context()
        assert own not in (None, initial)
        assert ca.attach_context(initial) == ISATTACHED
        with pytest.raises(CASeverityException, match=r"^use_initial_context returned 'Thread is already attached"):
            ca.use_initial_context()
        assert ca.context_create(0) == NORMAL  # there is one, and it has what is asked for
        assert ca.destroy_context() == NORMAL
        assert ca.current_context() is None
        assert ca.attach_context(own) == NOCACTX
        for rubbish in (None, 0, 12345):
            assert ca.attach_context(rubbish) == NOCACTX
        assert ca.destroy_context() == NORMAL  # there is none
        assert ca.use_initial_context() == NORMAL

    in_thread(thread)
    ca.detach_context()
    assert ca.current_context() is None
    assert ca.attach_context(initial) == NORMAL
    assert contexts(ca) == [initial]


def test_a_context_without_preemption_belongs_to_its_thread(ca: ModuleType):
    ca.initialize_libca()
    initial = ca.initial_context

    def thread() -> int:
        ca.create_context(0)
        own: int = ca.current_context()
        assert ca.context_create(0) == NORMAL
        with pytest.raises(CASeverityException, match=r"^context_create returned '"):
            ca.context_create(1)
        ca.detach_context()
        assert ca.attach_context(own) == NOTTHREADED  # as in C, not even its own thread gets back
        assert ca.use_initial_context() == NORMAL
        return own

    own = in_thread(thread)
    ca.detach_context()
    assert ca.attach_context(own) == NOTTHREADED
    assert ca.attach_context(initial) == NORMAL


@pytest.mark.parametrize("preemptive", [True, False])
def test_the_kind_of_context(ca: ModuleType, preemptive: bool):
    before = io_threads()
    ca.PREEMPTIVE_CALLBACK = preemptive
    ca.initialize_libca()
    ca.PREEMPTIVE_CALLBACK = not preemptive  # too late, for this one
    assert (io_threads() > before) is preemptive
    assert session.contexts[ca.current_context()].preemptive is preemptive
    in_thread(ca.create_context)
    assert session.contexts[contexts(ca)[1]].preemptive is not preemptive
    for kind in (0, 1):
        in_thread(lambda kind=kind: ca.create_context(kind))  # type: ignore[misc]
        assert session.contexts[contexts(ca)[2 + kind]].preemptive == bool(kind)


def test_numbers_are_never_used_twice(ca: ModuleType):
    seen = set()
    for _ in range(5):
        ca.initialize_libca()
        in_thread(ca.create_context)
        assert seen.isdisjoint(contexts(ca))
        seen |= set(contexts(ca))
        ca.finalize_libca()
    assert len(seen) == 10


# --- threads ------------------------------------------------------------------------------------


def test_a_thread_without_a_context_is_attached_to_the_initial_one(ca: ModuleType, records: Records):
    chid = connected(records("alarmed"))

    def thread() -> None:
        assert ca.current_context() is None
        assert ca.create_channel(records("alarmed")) is chid
        assert ca.current_context() == ca.initial_context

    in_thread(thread)

    def tidy() -> None:
        """Asking for nothing that needs a context does not attach to one."""
        assert ca.get(chid) == ALARMED
        assert ca.name(int(chid)) == records("alarmed")
        assert ca.current_context() is None

    in_thread(tidy)


def test_ca_thread(ca: ModuleType, records: Records):
    """Also where it is the first to use Channel Access."""
    seen: list[Any] = []

    def target(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs, threading.current_thread().name, ca.current_context() == ca.initial_context))

    for _ in range(2):
        thread = ca.CAThread(target=target, name="a name", args=(1,), kwargs={"two": 2}, daemon=False)
        assert isinstance(thread, threading.Thread)
        thread.start()
        thread.join()
        assert seen.pop() == ((1,), {"two": 2}, "a name", True)

    class Own(ca.CAThread):  # type: ignore[name-defined,misc]
        def run(self) -> None:
            super().run()
            seen.append(ca.get(connected(records("alarmed"))))

    own = Own()
    own.start()
    own.join()
    assert seen == [ALARMED]


def test_with_initial_context(ca: ModuleType, records: Records):
    @ca.withInitialContext  # type: ignore[untyped-decorator]
    def function(argument: int, *, other: int) -> Any:
        """Says what it is for."""
        return ca.current_context(), argument, other

    assert (function.__name__, function.__doc__) == ("function", "Says what it is for.")
    assert in_thread(lambda: function(1, other=2)) == (ca.initial_context, 1, 2)
    assert function(3, other=4)[1:] == (3, 4)

    def attached_elsewhere() -> None:
        ca.create_context()
        with pytest.raises(CASeverityException):
            function(1, other=2)
        ca.destroy_context()

    in_thread(attached_elsewhere)


def test_threads_make_one_channel_of_one_name(ca: ModuleType, records: Records):
    ca.initialize_libca()
    for ending in ("double", "long", "enum", "string", "text"):
        start = threading.Barrier(8)

        def create(ending: str = ending, start: threading.Barrier = start) -> Any:
            start.wait()
            return ca.create_channel(records(ending))

        found = [each.join().result for each in [Background(create) for _ in range(8)]]
        assert len({id(each) for each in found}) == 1
    assert len(ca._cache[ca.current_context()]) == 5


def test_channels_are_used_by_threads_that_did_not_create_them(ca: ModuleType, records: Records):
    """Each of eight threads does everything with channels of the main one, two threads with each."""
    endings = ("double", "long", "free", "count")
    chids = {ending: connected(records(ending)) for ending in endings}

    def work(ending: str, first: int) -> None:
        chid, seen = chids[ending], []
        event_id = ca.create_subscription(chid, callback=lambda value, **known: seen.append(value))[2]
        for number in range(first, first + 20):
            assert ca.put(chid, number, wait=True) == 1
            assert ca.get(chid) in range(40)
            assert ca.get(chid, as_string=True) is not None
            ca.get(chid, wait=False)
            ca.get_complete(chid)
            assert ca.isConnected(int(chid))
        eventually(lambda: seen[-1:] == [ca.get(chid)], "the last value")
        ca.clear_subscription(event_id)

    calls = [Background(work, ending, first) for ending in endings for first in (0, 20)]
    for call in calls:
        call.join()
        assert call.error is None, call.error
    in_thread(lambda: ca.clear_channel(chids["double"]))
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.get(chids["double"])


def test_a_channel_of_another_context_is_used_in_its_own(ca: ModuleType, records: Records):
    """Whatever context the thread is attached to, which stays so."""
    chid = connected(records("count"))

    def thread() -> None:
        ca.create_context()
        own = ca.current_context()
        seen: list[Any] = []
        watch = ca.create_subscription(chid, callback=lambda value, **known: seen.append((value, ca.current_context())))
        assert ca.put(chid, 17, wait=True) == 1
        assert ca.get(chid) == 17
        eventually(lambda: (17, ca.initial_context) in seen, "the update, in the channel's context")
        assert ca.connect_channel(chid)
        ca.clear_subscription(watch[2])
        assert ca.current_context() == own
        assert ca._cache[own] == {}
        ca.destroy_context()
        assert ca.get(chid) == 17

    in_thread(thread)


# --- several contexts ---------------------------------------------------------------------------


def test_one_pv_in_two_contexts(ca: ModuleType, records: Records):
    """Two channels, with callbacks that know nothing of each other; the end of one leaves the other."""
    first = Watch(ca, records("free"))
    initial = ca.current_context()

    def other() -> tuple[Watch, int]:
        ca.create_context()
        return Watch(ca, records("free")), ca.current_context()

    second, number = in_thread(other)
    assert int(first.chid) != int(second.chid)
    assert ca._cache == {initial: {records("free"): first.chid}, number: {records("free"): second.chid}}
    ca.put(first.chid, 5.5, wait=True)
    first.sees(5.5)
    second.sees(5.5)
    # In their callbacks, both are in their own contexts.
    assert (first.contexts, second.contexts) == ({initial}, {number})
    ca.clear_subscription(first.event_id)
    told = len(first.values)
    ca.put(second.chid, 6.5, wait=True)
    second.sees(6.5)
    assert len(first.values) == told

    def destroy() -> None:
        assert ca.attach_context(number) == NORMAL
        ca.destroy_context()

    in_thread(destroy)
    assert contexts(ca) == [initial]
    assert list(session.channels.values()) == [first.chid]
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.get(second.chid)
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.get(int(second.chid))
    told = len(second.values)
    assert ca.get(first.chid) == 6.5
    first.event_id = ca.create_subscription(first.chid, callback=first._update)[2]
    ca.put(first.chid, 7.5, wait=True)
    first.sees(7.5)
    assert len(second.values) == told
    assert first.connections == second.connections == [True]


def test_contexts_of_many_threads(ca: ModuleType, records: Records):
    """Six threads, each with its own context and its own PV, all at once; then they destroy them all at once."""
    ca.initialize_libca()
    before, middle = threading.Barrier(6), threading.Barrier(6)
    endings = ("double", "long", "free", "count", "one:short", "one:double")

    def work(ending: str) -> int:
        before.wait()
        ca.create_context()
        number: int = ca.current_context()
        watch = Watch(ca, records(ending))
        for value in range(10):
            ca.put(watch.chid, value, wait=True)
            watch.sees(value)
        middle.wait()
        ca.destroy_context()
        assert ca.current_context() is None
        assert watch.contexts == {number}
        return number

    calls = [Background(work, ending) for ending in endings]
    for call in calls:
        call.join()
        assert call.error is None, call.error
    assert len({call.result for call in calls}) == 6
    assert contexts(ca) == [ca.initial_context]


def test_the_context_of_a_thread_that_has_ended_lives_on(ca: ModuleType, records: Records):
    """Until somebody destroys it: its subscriptions go on."""

    def other() -> tuple[Watch, int]:
        ca.create_context()
        return Watch(ca, records("free")), ca.current_context()

    ca.initialize_libca()
    watch, number = in_thread(other)
    ca.put(watch.chid, 8.5, wait=True)
    watch.sees(8.5)

    def destroy() -> None:
        ca.attach_context(number)
        ca.destroy_context()

    in_thread(destroy)
    assert number not in contexts(ca)


def test_a_context_that_was_destroyed_under_its_threads(ca: ModuleType, records: Records):
    """They are attached to none then, and to the initial one when they need one."""
    ca.initialize_libca()
    steps = [threading.Event() for _ in range(3)]
    numbers = []

    def first() -> None:
        ca.create_context()
        numbers.append(ca.current_context())
        chid = connected(records("alarmed"))
        steps[0].set()
        assert steps[1].wait(20)
        assert ca.current_context() is None
        assert ca.pend_event(0.0) == int(ECA.TIMEOUT)
        with pytest.raises(ChannelAccessException, match="was cleared"):
            ca.get(chid)
        assert ca.get(connected(records("alarmed"))) == ALARMED
        assert ca.current_context() == ca.initial_context

    call = Background(first)
    assert steps[0].wait(20)

    def second() -> None:
        assert ca.attach_context(numbers[0]) == NORMAL
        ca.destroy_context()

    in_thread(second)
    steps[1].set()
    call.join()
    assert call.error is None, call.error


def test_the_initial_context_destroyed(ca: ModuleType, records: Records):
    """The next that is made is the initial one; others stay."""
    chid = connected(records("alarmed"))
    first = ca.current_context()
    in_thread(ca.create_context)
    other = contexts(ca)[1]
    assert ca.destroy_context() == NORMAL
    assert (ca.current_context(), ca.initial_context, contexts(ca)) == (None, None, [other])
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.put(chid, 1)
    assert ca.create_context() is None
    assert ca.current_context() == ca.initial_context not in (first, other, None)
    assert ca.get(connected(records("alarmed"))) == ALARMED


# --- everything at once -------------------------------------------------------------------------


def test_threads_that_attach_detach_create_and_destroy(ca: ModuleType, records: Records):
    """In every order of five steps, on three threads, with a get after each; the statuses are right throughout."""
    chid = connected(records("alarmed"))
    initial = ca.initial_context

    def work(order: tuple[str, ...]) -> None:
        attached: int | None = None
        for step in order:
            if step == "attach":
                assert ca.attach_context(initial) == (NORMAL if attached is None else ISATTACHED)
                attached = attached or initial
            elif step == "create":
                ca.create_context()
                attached = attached or ca.current_context()
            elif step == "destroy" and attached != initial:
                assert ca.destroy_context() == NORMAL
                attached = None
            elif step == "detach":
                if attached not in (None, initial):
                    ca.destroy_context()
                ca.detach_context()
                attached = None
            elif step == "channel":
                ca.create_channel(records("alarmed"))
                attached = attached or initial
            assert ca.current_context() == attached
            assert ca.get(chid) == ALARMED
        if attached not in (None, initial):
            ca.destroy_context()

    orders = list(itertools.permutations(("attach", "create", "destroy", "detach", "channel")))

    def several(start: int) -> None:
        for order in orders[start::3]:
            in_thread(lambda order=order: work(order))  # type: ignore[misc]

    calls = [Background(several, start) for start in range(3)]
    for call in calls:
        call.join(50)
        assert call.error is None, call.error
    assert contexts(ca) == [initial]
