"""What does not fit any more is dropped, counted exactly, told, and made good: values and states are told again."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from support.pools import PATIENCE, Answers, connected, pool_of, read, stopped, wait_until

from daqca.ca.context import Context
from daqca.ca.dbr import Mask
from daqca.events import ALL_SLOTS, Kind, Reason, decode

VALUE = int(Mask.VALUE | Mask.ALARM)
DOUBLE, ECA_TIMEOUT = 6, 10
SIZE = 8000
BACKLOG = 400_000


@pytest.fixture
def ioc_of_arrays(make_ioc, point_at):
    """An IOC with an array and a number; (IOC, names)."""
    prefix = f"L{os.urandom(3).hex().upper()}:"
    ioc = make_ioc(
        f'record(waveform, "{prefix}w") {{ field(FTVL, "DOUBLE") field(NELM, "{SIZE}") }}\n'
        f'record(ao, "{prefix}n") {{ field(VAL, "1") field(PINI, "YES") }}'
    )
    point_at(ioc)
    return ioc, [prefix + "w", prefix + "n"]


class Writer:
    """A client of its own that writes arrays, each filled with its number, and waits for each to be written."""

    def __init__(self, context, told):
        self._context = context
        self._told = told
        self.slots = None
        self.number = 0

    def write(self, times):
        for _ in range(times):
            self.number += 1
            payload = np.full(SIZE, self.number, ">f8").tobytes()
            answers = []
            self._context.write_one(0, DOUBLE, SIZE, payload, answers.append)
            wait_until(lambda a=answers: a[0] in self._told, "the array to be written")


@pytest.fixture
def writer(ioc_of_arrays):
    _, names = ioc_of_arrays
    told = set()
    connections = threading.Event()

    def deliver(batch):
        kinds = batch.records["kind"]
        if (kinds == Kind.CONNECTED).any():
            connections.set()
        told.update(batch.records["token"][kinds == Kind.WRITTEN].tolist())

    with Context(deliver) as context:
        context.add(names[:1])
        assert connections.wait(PATIENCE)
        yield Writer(context, told)


def test_a_client_that_does_not_read_loses_counted_and_catches_up(ioc_of_arrays, writer):
    _, names = ioc_of_arrays
    with pool_of(backlog=BACKLOG, silent_after=600.0) as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names)
        link.subscribe(slots, VALUE)
        heard.wait(lambda: len(heard.of(link, Kind.UPDATE)) == 2, "first values")
        heard.hold = holding = threading.Event()
        asked = Answers(2)
        link.read(slots, asked)
        writer.write(250)
        heard.hold = None
        holding.set()
        assert asked.wait(PATIENCE)
        # An answer also tells how far the stream has come: what was published before it, came or is known to be lost.
        for _ in range(10):
            told = link.stats()
            assert told["published_events"] <= told["received_events"] + told["lost"]
        wait_until(lambda: link.stats()["gaps"] > 0, "the gap is seen")
        wait_until(lambda: not link._wants_resync, "all is told again")
        wait_until(lambda: adds_up(link.stats()), "every event accounted for")
        after = link.stats()
        lost = heard.of(link, Kind.LOST)
        assert set(lost["slot"].tolist()) == {ALL_SLOTS}
        assert int(lost["count"].sum()) == after["lost"] == after["dropped_events"] > 50
        assert after["published_events"] > after["lost"] + 50
        # And the last value is here, as an update, though it was among those that were dropped.
        last = heard.data(link, Kind.UPDATE, 0)[-1]
        assert set(decode(last, DOUBLE, SIZE).tolist()) == {float(writer.number)}
        # In order: no value is told after a newer one.
        values = [decode(data, DOUBLE, SIZE)[0] for data in heard.data(link, Kind.UPDATE, 0)[1:]]
        assert values == sorted(values)
        assert len(set(values)) < writer.number
        # The channels are told to be connected, again, after the loss.
        everything = heard.of(link)
        first_loss = int(np.flatnonzero(everything["kind"] == Kind.LOST)[0])
        told = everything[first_loss:]
        assert set(told[told["kind"] == Kind.CONNECTED]["slot"].tolist()) == {0, 1}
        assert after["backlog_bytes"] == 0


def test_a_lost_disconnection_is_told_after_the_loss(ioc_of_arrays, writer):
    ioc, names = ioc_of_arrays
    with pool_of(backlog=BACKLOG, silent_after=600.0) as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names)
        link.subscribe(slots, VALUE)
        heard.wait(lambda: len(heard.of(link, Kind.UPDATE)) == 2, "first values")
        heard.hold = holding = threading.Event()
        writer.write(200)  # more than fits
        ioc.stop()
        # The worker has seen it when it searches; nobody else can tell us, for we do not read.
        heard.hold = None
        holding.set()
        heard.wait(lambda: len(heard.of(link, Kind.DISCONNECTED)) == 2, "the disconnections")
        told = heard.of(link)
        kinds = told["kind"].tolist()
        assert kinds.index(Kind.LOST) < kinds.index(Kind.DISCONNECTED)
        assert set(told[told["kind"] == Kind.DISCONNECTED]["status"].tolist()) == {Reason.CLOSED}
        assert link.hosts(slots) == ["", ""]
        ioc.start()
        heard.wait(lambda: heard.of(link, Kind.CONNECTED, Kind.DISCONNECTED)["kind"][-1] == Kind.CONNECTED, "again")
        assert read(link, slots[1:]).numbers() == [1.0]


def test_answers_that_were_dropped_fail_and_the_others_do_not(ioc_of_arrays, writer):
    """Reads of an array that nobody takes: some answers fit, some are dropped; each read ends, by name."""
    _, names = ioc_of_arrays
    writer.write(1)
    with pool_of(backlog=BACKLOG, silent_after=600.0) as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names)
        waits = Answers()
        link.read(link.add(["no:such:pv"]), waits)  # under way before and after
        asked = [Answers() for _ in range(200)]
        with stopped(pool.pids[0]):  # else who is held by the first answer keeps the rest from being asked
            for answers in asked:
                link.read(slots[:1], answers)
            many = Answers(20)
            link.read(np.repeat(slots[:1], 20), many)
            heard.hold = holding = threading.Event()
        writer.write(1)  # takes as long as the worker needs to answer, and longer
        wait_until(lambda: answered(pool.pids[0]), "the worker to have answered")
        heard.hold = None
        holding.set()
        for answers in (*asked, many):
            assert answers.wait(PATIENCE)
        kinds = [answers.kinds()[0] for answers in asked] + many.kinds()
        statuses = [answers.statuses()[0] for answers in asked] + many.statuses()
        failed = kinds.count(Kind.FAILED)
        assert kinds.count(Kind.READ) + failed == 220
        assert 0 < failed < 220
        assert {status for kind, status in zip(kinds, statuses, strict=True) if kind == Kind.FAILED} == {ECA_TIMEOUT}
        stats = link.stats()
        assert stats["lost"] == stats["dropped_events"] == failed
        assert not waits.done
        assert len(link.operations) == 1
        link.cancel(waits)
        assert read(link, slots[1:]).numbers() == [1.0]


def adds_up(stats):
    """Exactly: what was published is what came, and what is told to be lost."""
    return stats["published_events"] == stats["received_events"] + stats["lost"]


def answered(pid):
    """The worker cannot be asked, for the receive thread is held; it has answered when it uses no more CPU."""
    first = cpu_ticks(pid)
    time.sleep(0.3)
    return cpu_ticks(pid) <= first + 1


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
