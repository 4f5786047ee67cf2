"""Several clients of one worker: everything is opened once, each gets what is its own, and all of it."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest
from support.pools import PATIENCE, Answers, Heard, busy, read, wait_until

from daqca.broker.client import BrokerClient
from daqca.ca.dbr import Mask
from daqca.events import Access, Kind
from daqca.workers import WorkerLink, WorkerPool
from daqca.workers.requests import Code

VALUE = int(Mask.VALUE | Mask.ALARM)
LOG = int(Mask.LOG)
DOUBLE = 6
NAMES = "abcde"


@pytest.fixture
def few(make_ioc, point_at):
    """Names of a few records that hold 0, 1, 2, ..."""
    prefix = f"S{os.urandom(3).hex().upper()}:"
    records = [f'record(ao, "{prefix}{x}") {{ field(VAL, "{i}") field(PINI, "YES") }}' for i, x in enumerate(NAMES)]
    point_at(make_ioc("\n".join(records)))
    return [prefix + letter for letter in NAMES]


@contextlib.contextmanager
def two_clients():
    """A pool of one worker, and a second client of the same worker."""
    heard, heard_too = Heard(), Heard()
    with WorkerPool(1, heard) as pool:
        client = BrokerClient(pool._broker)
        link = WorkerLink(0, client, heard_too)
        link.expect(pool.links[0]._address)
        try:
            assert link.is_up.wait(PATIENCE)
            yield (pool.links[0], heard), (link, heard_too)
        finally:
            link.close()
            client.close()


def put(link, slot, value):
    written = Answers()
    link.write_one(slot, DOUBLE, 1, np.array([value], ">f8").tobytes(), written, PATIENCE)
    assert written.kinds() == [Kind.WRITTEN]


def values(heard, link, n):
    """The values of the first `n` updates; a server may confirm a put before it sends the update that comes of it."""
    heard.wait(lambda: len(heard.of(link, Kind.UPDATE)) >= n, f"{n} updates")
    link.hosts(np.zeros(1, np.uint32))  # and of those that should not be there
    return heard.of(link, Kind.UPDATE)["value"].tolist()


def test_names_are_opened_once_and_known_ones_are_told(few):
    with two_clients() as ((one, heard_one), (two, heard_two)):
        assert one.add(few[:3]).tolist() == [0, 1, 2]
        heard_one.wait_connected(one, 3)
        # The second client counts its own slots, in its own order, and has one name more.
        slots = two.add([few[4], few[2], few[0]])
        assert slots.tolist() == [0, 1, 2]
        heard_two.wait_connected(two, 3)
        told = heard_two.of(two, Kind.CONNECTED)
        assert sorted(told["slot"].tolist()) == [0, 1, 2]
        assert set(told["dbr_type"].tolist()) == {DOUBLE}
        assert set(told["status"].tolist()) == {Access.READ | Access.WRITE}
        assert read(two, slots).numbers() == [4.0, 2.0, 0.0]
        assert read(one, np.arange(3)).numbers() == [0.0, 1.0, 2.0]
        assert len(set(two.hosts(slots))) == 1
        stats = two.stats()
        assert (stats["clients"], stats["connected"], stats["circuits"]) == (2, 4, 1)
        assert one.hosts(np.arange(3)) == two.hosts(slots)
        assert len(heard_one.of(one, Kind.CONNECTED)) == 3  # it has no channel `e`, and hears nothing of it


def test_answers_go_to_who_asked(few):
    with two_clients() as ((one, heard_one), (two, heard_two)):
        mine, theirs = one.add(few), two.add(few[::-1])
        heard_one.wait_connected(one, 5)
        heard_two.wait_connected(two, 5)
        one.subscribe(mine, VALUE)
        two.subscribe(theirs, VALUE)
        with busy(one, mine), busy(two, theirs[1:4]):
            for _ in range(60):
                assert read(one, mine[:1]).numbers() == [0.0]
                assert read(two, theirs[:1]).numbers() == [4.0]
        assert len(one.operations) == len(two.operations) == 0

        def agree(slot):
            """The same updates for both, in order (the second may have come later), under the slots of each."""
            ours = heard_one.of(one, Kind.UPDATE, slot=slot)["value"].tolist()
            others = heard_two.of(two, Kind.UPDATE, slot=4 - slot)["value"].tolist()
            return len(others) > 0 and ours[len(ours) - len(others) + 1 :] == others[1:]

        for slot in range(5):
            wait_until(lambda s=slot: agree(s), f"the updates of slot {slot} to agree")
        assert one.stats()["gaps"] == two.stats()["gaps"] == 0


def test_a_subscription_is_made_once_and_ends_with_the_last(few):
    with two_clients() as ((one, heard_one), (two, heard_two)):
        mine, theirs = one.add(few), two.add(few[:2])
        heard_one.wait_connected(one, 5)
        one.subscribe(mine, VALUE)
        heard_one.wait(lambda: len(heard_one.of(one, Kind.UPDATE)) == 5, "first values")
        put(one, 1, 100.0)
        assert values(heard_one, one, 6)[5:] == [100.0]
        two.hosts(theirs)  # by then that update has passed the second client, too
        two.subscribe(theirs, VALUE)
        # The value there is now, as an update, for the second client alone.
        heard_two.wait(lambda: len(heard_two.of(two, Kind.UPDATE)) == 2, "values there are")
        got = heard_two.of(two, Kind.UPDATE)
        assert got["value"].tolist() == [0.0, 100.0]
        assert set(got["token"].tolist()) == {VALUE}
        assert two.stats()["subscriptions"] == 5
        put(two, 0, 7.0)
        put(one, 2, 8.0)
        assert values(heard_one, one, 8) == [0.0, 1.0, 2.0, 3.0, 4.0, 100.0, 7.0, 8.0]
        assert values(heard_two, two, 3) == [0.0, 100.0, 7.0]
        # One leaves: the other still hears.
        one.unsubscribe(mine[:2], VALUE)
        put(one, 0, 9.0)
        assert values(heard_two, two, 4) == [0.0, 100.0, 7.0, 9.0]
        assert len(heard_one.of(one, Kind.UPDATE)) == 8
        assert two.stats()["subscriptions"] == 5
        two.unsubscribe(theirs, VALUE)
        assert two.stats()["subscriptions"] == 3


def test_each_hears_its_own_masks(few):
    with two_clients() as ((one, heard_one), (two, heard_two)):
        mine, theirs = one.add(few[:1]), two.add(few[:1])
        heard_one.wait_connected(one, 1)
        heard_two.wait_connected(two, 1)
        one.subscribe(mine, VALUE)
        two.subscribe(theirs, LOG)
        heard_one.wait(lambda: len(heard_one.of(one, Kind.UPDATE)) == 1, "the first value")
        heard_two.wait(lambda: len(heard_two.of(two, Kind.UPDATE)) == 1, "the first value")
        put(one, 0, 5.0)
        values(heard_one, one, 2)
        values(heard_two, two, 2)
        assert heard_one.of(one, Kind.UPDATE)[["value", "token"]].tolist() == [(0.0, VALUE), (5.0, VALUE)]
        assert heard_two.of(two, Kind.UPDATE)[["value", "token"]].tolist() == [(0.0, LOG), (5.0, LOG)]


def test_who_goes_leaves_nothing_open(few):
    with two_clients() as ((one, heard_one), (two, heard_two)):
        mine, theirs = one.add(few[:3]), two.add(few[2:])
        heard_one.wait_connected(one, 3)
        heard_two.wait_connected(two, 3)
        one.subscribe(mine, VALUE)
        two.subscribe(theirs, VALUE)
        waits = Answers()
        two.read(two.add(["no:such:pv"]), waits)
        wait_until(lambda: one.stats()["requests_pending"] == 1, "the read that waits")
        two._send(Code.BYE, [], [])
        wait_until(lambda: one.stats()["clients"] == 1, "the client to be gone")
        stats = one.stats()
        assert (stats["connected"], stats["subscriptions"], stats["requests_pending"]) == (3, 3, 0)
        assert (stats["searching"], stats["channels"]) == (0, 3)
        assert read(one, mine).numbers() == [0.0, 1.0, 2.0]


def test_malformed_requests_are_counted_and_the_worker_goes_on(few):
    with two_clients() as ((one, heard_one), (two, _)):
        slots = one.add(few)
        heard_one.wait_connected(one, 5)
        stranger = BrokerClient(two._client._broker)
        try:
            rubbish = [
                (one._client, 99, [], []),
                (one._client, Code.READ, [1, 255, 0], [b"12345"]),
                (one._client, Code.READ, [1, 255, 0], [np.array([77], np.uint32).tobytes()]),
                (one._client, Code.READ_ONE, [1, 77], []),
                (one._client, Code.WRITE_DOUBLES, [1], [slots.tobytes(), bytes(8)]),
                (one._client, Code.ADD, [99, ["x"]], []),
                (one._client, Code.HOSTS, ["x"], [b""]),
                (two._client, Code.READ_ONE, [1, 0], []),  # it has no channels
                (stranger, Code.READ_ONE, [1, 0], []),  # it has not said hello
            ]
            for client, code, arguments, frames in rubbish:
                client.request(one._address, code, arguments, frames)
            stats = one.stats()
            assert stats["requests_malformed"] == len(rubbish)
            assert stats["requests_pending"] == 0
            assert read(one, slots).numbers() == [0.0, 1.0, 2.0, 3.0, 4.0]
        finally:
            stranger.close()
