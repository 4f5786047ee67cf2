"""What watches over the soak: what went wrong, whether anything hangs, and what the process needs while it runs."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import statistics
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

HANG_S = 20.0
"""Seconds beyond its own limit after which a call counts as one that hangs."""
PERIOD_S = 0.5
MAX_PROBLEMS = 50
RSS_GROWTH = 6 << 20
TRACED_GROWTH = 1 << 20
"""Bytes that the last third of a run may need more than the second one."""
DESCRIPTORS_GROWTH = 3
THREADS_GROWTH = 2


class Problems:
    """Sentences about what should not be, from any thread."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, sentence: str) -> None:
        with self._lock:
            self.count += 1
            if len(self.found) < MAX_PROBLEMS:
                self.found.append(sentence)


class Log(logging.Handler):
    """Counts what daqca logs; an error is a problem, for none is expected."""

    def __init__(self, problem: Callable[[str], None]):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._problem = problem

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[f"{record.name} {record.levelname.lower()}"] += 1
        if record.levelno >= logging.ERROR:
            self._problem(f"logged: {self.format(record)}")


class Doing:
    """What one thread does now, and until when it should be done with it."""

    def __init__(self, name: str):
        self.name = name
        self._now: tuple[str, float, float] | None = None

    @contextlib.contextmanager
    def step(self, what: str, limit: float) -> Iterator[None]:
        """Do something that takes at most so many seconds."""
        begin = time.monotonic()
        self._now = (what, begin, begin + limit + HANG_S)
        try:
            yield
        finally:
            self._now = None

    def hangs(self, now: float) -> str | None:
        """What hangs, if anything does."""
        doing = self._now
        if doing is None or now < doing[2]:
            return None
        return f"{self.name} hangs in {doing[0]} since {now - doing[1]:.1f} s"


class Sample(NamedTuple):
    """What the process needs at one moment."""

    rss: int
    traced: int
    threads: int
    descriptors: int


def sample() -> Sample:
    """Look at this process."""
    with open("/proc/self/statm") as file:
        rss = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Sample(rss, tracemalloc.get_traced_memory()[0], *(len(os.listdir(f"/proc/self/{of}")) for of in ("task", "fd")))


def growth(samples: list[Sample], problem: Callable[[str], None]) -> list[dict[str, float]]:
    """What the thirds of a run needed, in MB and numbers; that it grew is a problem."""
    size = max(len(samples) // 3, 1)
    parts = [samples[i * size : (i + 1) * size] or samples for i in range(3)]
    found = [
        Sample(
            int(statistics.median(each.rss for each in part)),
            int(statistics.median(each.traced for each in part)),
            max(each.threads for each in part),
            max(each.descriptors for each in part),
        )
        for part in parts
    ]
    first, second, last = found
    for name, more, allowed in (
        ("resident memory", last.rss - second.rss, RSS_GROWTH),
        ("Python's memory", last.traced - second.traced, TRACED_GROWTH),
        ("threads", last.threads - first.threads, THREADS_GROWTH),
        ("file descriptors", last.descriptors - first.descriptors, DESCRIPTORS_GROWTH),
    ):
        if more > allowed:
            problem(f"the {name} grew by {more}: {found}")
    mega = float(1 << 20)
    return [
        {"rss_mb": round(one.rss / mega, 2), "traced_mb": round(one.traced / mega, 2)}
        | {"threads": one.threads, "descriptors": one.descriptors}
        for one in found
    ]


class Watchdog(threading.Thread):
    """Looks after all threads, and takes samples while `sampling`.

    Parameters
    ----------
    on_hang
        Called with a sentence when something hangs, after the stacks of all threads were written to standard error.
    """

    def __init__(self, on_hang: Callable[[str], Any]):
        super().__init__(name="watchdog", daemon=True)
        self.doings: list[Doing] = []
        self.samples: list[Sample] = []
        self.sampling = False
        self._on_hang = on_hang
        self._end = threading.Event()

    def doing(self, name: str) -> Doing:
        """A new thread to look after."""
        doing = Doing(name)
        self.doings.append(doing)
        return doing

    def run(self) -> None:
        while not self._end.wait(PERIOD_S):
            now = time.monotonic()
            hanging = [sentence for doing in list(self.doings) if (sentence := doing.hangs(now))]
            if hanging:
                faulthandler.dump_traceback(sys.stderr)
                self._on_hang("; ".join(hanging))
                return
            if self.sampling:
                self.samples.append(sample())

    def end(self) -> None:
        self._end.set()
        self.join()
