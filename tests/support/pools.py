"""What tests of workers share: operations that remember their answers, and a receiver that remembers all batches."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from daqca.events import EVENT, Batch, Event, Kind
from daqca.link import AUTO, Link
from daqca.operations import Operation
from daqca.workers import Supervision, WorkerPool

PATIENCE = 40.0


class Answers(Operation):
    """An operation that keeps what comes: an event and its bytes for each request."""

    def __init__(self, n: int = 1):
        super().__init__(n)
        self.events: list[Event | None] = [None] * n
        self.blocks: list[bytes] = [b""] * n
        self.batches = 0

    def accept(self, places: Any, records: Any, batch: Batch) -> None:
        self.batches += 1
        for place, event in zip(places.tolist(), Batch(records, batch.block), strict=True):
            self.accept_row(place, event, batch)

    def accept_row(self, place: int, row: tuple[Any, ...], batch: Batch) -> None:
        assert self.events[place] is None, f"request {place} was answered twice"
        event = Event._make(row)
        self.events[place] = event
        if isinstance(event.value, tuple):
            self.blocks[place] = bytes(batch.data(*event.value))

    def kinds(self) -> list[int]:
        return [event.kind if event is not None else 0 for event in self.events]

    def numbers(self) -> list[Any]:
        return [event.value if event is not None else None for event in self.events]

    def statuses(self) -> list[Any]:
        return [event.status if event is not None else None for event in self.events]


class Heard:
    """The `deliver` of a pool: answers operations, and keeps everything else, by link."""

    def __init__(self) -> None:
        self.records: dict[int, list[Any]] = {}
        self.blocks: dict[int, list[Any]] = {}
        self.changed = threading.Condition()
        self.hold: threading.Event | None = None

    def __call__(self, link: Link, batch: Batch) -> None:
        if self.hold is not None:
            self.hold.wait(PATIENCE)
        records = batch.records
        answers = (records["kind"] >= Kind.READ) & (records["kind"] <= Kind.FAILED) & (records["token"] != 0)
        if batch.is_small:
            for row in batch.rows():
                link.operations.answer_row(row, batch)
        elif answers.any():
            link.operations.answer(records[answers], batch)
        with self.changed:
            self.records.setdefault(id(link), []).append(records)
            self.blocks.setdefault(id(link), []).append(batch.block)
            self.changed.notify_all()

    def of(self, link: Link, *kinds: int, slot: int | None = None) -> Any:
        """The events of these kinds (all, without) that came from a link, in order, as an array of `EVENT`."""
        with self.changed:
            parts = list(self.records.get(id(link), ()))
        records = np.concatenate(parts) if parts else np.zeros(0, EVENT)
        if kinds:
            records = records[np.isin(records["kind"], kinds)]
        return records if slot is None else records[records["slot"] == slot]

    def data(self, link: Link, kind: int, slot: int) -> list[bytes]:
        """The bytes of every event of a kind and slot."""
        with self.changed:
            pairs = list(zip(self.records.get(id(link), ()), self.blocks.get(id(link), ()), strict=True))
        return [
            bytes(Batch(records, block).data(*event.value))
            for records, block in pairs
            for event in Batch(records, block)
            if event.kind == kind and event.slot == slot and isinstance(event.value, tuple)
        ]

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
        """Wait until `condition` is true after some batch."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), f"not within {timeout} s: {what}"

    def wait_connected(self, link: Link, n: int) -> None:
        self.wait(
            lambda: len(np.unique(self.of(link, Kind.CONNECTED)["slot"])) >= n, f"{n} channels connected on {link}"
        )


@contextlib.contextmanager
def pool_of(n: int = 1, deliver: Any = None, **patience: Any) -> Iterator[tuple[WorkerPool, Heard]]:
    """A pool of workers in the environment as it is, and what it delivers."""
    heard = deliver if deliver is not None else Heard()
    with WorkerPool(n, heard, patience=Supervision(**patience)) as pool:
        yield pool, heard


def read(link: Link, slots: Any, dbr_type: int = AUTO, count: int = 0, timeout: float = PATIENCE) -> Answers:
    """Read, and wait for all answers."""
    answers = Answers(len(slots))
    link.read(np.asarray(slots, np.uint32), answers, dbr_type, count)
    assert answers.wait(timeout), f"{answers.kinds().count(0)} of {len(slots)} reads were not answered"
    return answers


def connected(pool: WorkerPool, heard: Heard, names: Sequence[str], number: int = 0) -> Any:
    """The slots of names on one link, all of them connected."""
    link = pool.links[number]
    slots = link.add(list(names))
    heard.wait_connected(link, len(slots))
    return slots


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not run meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def busy(link: Link, slots: Any) -> Iterator[None]:
    """Threads that read and write other channels (those after the first) all the time."""
    stops = threading.Event()

    def load() -> None:
        while not stops.is_set():
            noise = Answers(2)
            link.write_doubles(slots[1:3], np.array([time.time(), 5.0]), noise)
            read(link, slots)
            noise.wait(PATIENCE)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stops.set()
        for thread in threads:
            thread.join()
