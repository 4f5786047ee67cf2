"""What waits for ``daqca monitor`` to print it: bounded, in order, and every update that is dropped is told."""

from __future__ import annotations

import threading
import time

from daqca.cli.inbox import Inbox
from daqca.events import ALL_SLOTS, Batch, Event, Kind


def row(slot: int, kind: Kind, value: float | tuple[int, int] = 0.0, count: int = 1) -> Event:
    return Event(slot, int(kind), 6, 0, 0, 1_700_000_000_000_000_000, value, count, 0)


def updates(*values: float) -> Batch:
    return Batch(rows=[row(0, Kind.UPDATE, value) for value in values])


def taken(inbox: Inbox) -> list[tuple[int, float]]:
    """Kind, and value (of a loss: the count), of all that waits."""
    found = []
    while (batch := inbox.next(deadline=time.monotonic() - 1)) is not None:
        found += [(event.kind, event.count if event.kind == Kind.LOST else event.value) for event in batch]
    return found


U, L = int(Kind.UPDATE), int(Kind.LOST)


def test_what_fits_comes_out_as_it_came():
    inbox = Inbox(limit=4)
    inbox.deliver(updates(1, 2))
    inbox.deliver(updates(3, 4))
    assert taken(inbox) == [(U, 1), (U, 2), (U, 3), (U, 4)]
    assert inbox.dropped == 0


def test_what_does_not_fit_is_told_in_its_place():
    inbox = Inbox(limit=3)
    inbox.deliver(updates(1, 2))
    inbox.deliver(updates(3, 4))
    inbox.deliver(updates(5, 6, 7))
    assert [event.value for event in inbox.next(None) or ()] == [1, 2]
    # There is room again: first it is told what is missing before this one.
    inbox.deliver(updates(8))
    inbox.deliver(updates(9, 10, 11))
    assert taken(inbox) == [(L, 5), (U, 8), (L, 3)]
    assert inbox.dropped == 8


def test_what_is_dropped_last_is_told_though_nothing_follows():
    inbox = Inbox(limit=1)
    for value in range(5):
        inbox.deliver(updates(value))
    assert taken(inbox) == [(U, 0), (L, 4)]


def test_bytes_are_bounded_and_one_batch_always_fits():
    inbox = Inbox(limit_bytes=100)
    image = Batch(None, bytes(1000), [row(0, Kind.UPDATE, (0, 1000), 125)])
    inbox.deliver(image)
    inbox.deliver(image)
    first = inbox.next(None)
    assert first is not None
    assert bytes(first.data(0, 1000)) == bytes(1000)
    inbox.deliver(image)
    assert taken(inbox) == [(L, 1), (U, (0, 1000))]


def test_connections_are_kept_and_earlier_losses_passed_on():
    inbox = Inbox(limit=1)
    inbox.deliver(updates(1))
    rows = [row(0, Kind.UPDATE, 2.0), row(0, Kind.DISCONNECTED), row(ALL_SLOTS, Kind.LOST, count=40)]
    inbox.deliver(Batch(rows=rows))
    inbox.deliver(updates(3))
    assert taken(inbox) == [(U, 1), (L, 41), (int(Kind.DISCONNECTED), 0.0), (L, 1)]
    assert inbox.dropped == 2


def test_more_than_one_event_can_tell_is_told_by_two():
    inbox = Inbox(limit=1)
    inbox.deliver(updates(1))
    for _ in range(2):
        inbox.deliver(Batch(rows=[row(ALL_SLOTS, Kind.LOST, count=0xFFFFFFFF)]))
    assert taken(inbox) == [(U, 1), (L, 0xFFFFFFFF), (L, 0xFFFFFFFF)]


def test_nothing_is_taken_after_the_deadline_so_that_it_ends():
    inbox = Inbox()
    inbox.deliver(updates(1))
    inbox.deliver(updates(2))
    late = time.monotonic() - 1
    assert inbox.next(late) is not None
    inbox.deliver(updates(3))
    assert taken(inbox) == [(U, 2)]


def test_who_waits_is_woken():
    inbox, found = Inbox(), []
    thread = threading.Thread(target=lambda: found.append(inbox.next(time.monotonic() + 30)))
    thread.start()
    inbox.deliver(updates(1))
    thread.join(10)
    assert [event.value for event in found[0]] == [1]
