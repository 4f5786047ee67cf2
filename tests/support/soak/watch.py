"""What watches over the soak: what went wrong, whether anything hangs, and what the process needs while it runs."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import sys
import threading
import time
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import daqca

HANG_S = 20.0
"""Seconds beyond its own limit after which a call counts as one that hangs."""
PERIOD_S = 0.5
MAX_PROBLEMS, MAX_LENGTH = 20, 2000
MEMORY_PERIOD_S = 4.0
GROWTH = {"resident_mb": 8.0, "python_mb": 1.5, "kiloblocks": 15.0, "malloced_mb": 4.0, "threads": 3, "descriptors": 4}
"""What the last third of a run may need more than the second; of what is counted, more than ever before, which may be
one context and the pipes of one server."""
_MEDIANS = ("resident_mb", "python_mb", "kiloblocks", "malloced_mb")


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
                self.found.append(sentence[:MAX_LENGTH])


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


def starved() -> float:
    """Seconds since the machine was started in which somebody waited for a processor; 0 where that is not told."""
    try:
        with open("/proc/pressure/cpu") as file:
            return int(file.readline().rpartition("=")[2]) * 1e-6
    except (OSError, ValueError):
        return 0.0


class Census(NamedTuple):
    """How many threads and file descriptors this process has."""

    threads: int
    descriptors: int


def census() -> Census:
    """Count them."""
    return Census(*(len(os.listdir(f"/proc/self/{of}")) for of in ("task", "fd")))


class Memory(NamedTuple):
    """What this process needs: bytes of memory, those of Python's objects where they are traced, their number, and the
    bytes that the C library has handed out (as NumPy's arrays are).

    What is resident and handed out to nobody is what allocators cannot give back, because something lives beside it.
    """

    resident: int
    traced: int
    blocks: int
    malloced: int


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _NAMES]


_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
_malloc_info = getattr(ctypes.CDLL(None), "mallinfo2", None)
if _malloc_info is not None:
    _malloc_info.restype = _MallocInfo


def memory() -> Memory:
    """Look at it, once what is in reference cycles is gone, and what the C library keeps of what was freed.

    That would come and go, and hide what stays.
    """
    gc.collect()
    if _trim is not None:
        _trim(0)
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    info = _MallocInfo() if _malloc_info is None else _malloc_info()
    malloced = info.uordblks + info.hblkhd
    return Memory(resident, tracemalloc.get_traced_memory()[0], sys.getallocatedblocks(), malloced)


class Needs:
    """What the process needs while the soak runs. The first third of a run warms up; then nothing should grow."""

    def __init__(self) -> None:
        # Plain numbers, one after the other: what is kept here is not to count in what is measured.
        self._counted, self._measured = array("q"), array("q")
        self._due = 0.0
        self._early: dict[str, int] = {}
        self._late: dict[str, int] = {}

    def look(self) -> None:
        """Take a sample; to be called now and then."""
        self._counted.extend(census())
        now = time.monotonic()
        if now >= self._due:
            self._due = now + MEMORY_PERIOD_S
            self._measured.extend(memory())

    def __bool__(self) -> bool:
        return len(self._counted) > 0

    def keep(self, at_the_end: bool) -> None:
        """Keep how many bytes each line of daqca holds: early, and at the end. (The snapshot itself is megabytes.)"""
        if not tracemalloc.is_tracing():
            return
        of_daqca = tracemalloc.Filter(True, f"{Path(daqca.__file__).parent}/*")
        of_servers = tracemalloc.Filter(False, f"{Path(daqca.__file__).parent}/sim/*")
        snapshot = tracemalloc.take_snapshot().filter_traces([of_daqca, of_servers])
        sizes = {str(line.traceback[0]): line.size for line in snapshot.statistics("lineno")}
        if at_the_end:
            self._late = sizes
        else:
            self._early = sizes

    def grown(self) -> list[str]:
        """The lines of code whose memory has grown most between the two."""
        grown = {line: size - self._early.get(line, 0) for line, size in self._late.items()}
        found = sorted(grown.items(), key=lambda item: -item[1])
        total = sum(self._late.values()) - sum(self._early.values())
        return [f"all lines: {total:+,} bytes", *(f"{line}: {size:+,}" for line, size in found[:8] if size > 10_000)]

    def report(self, problem: Callable[[str], None]) -> list[dict[str, float]]:
        """What the thirds of the run needed; that it grew is a problem."""
        thirds = [
            (*np.median(measured, axis=0).tolist(), *counted.max(axis=0).tolist())
            for measured, counted in zip(_thirds(self._measured, Memory), _thirds(self._counted, Census), strict=True)
        ]
        mega = float(1 << 20)
        found: list[dict[str, float]] = [
            {"resident_mb": round(resident / mega, 2), "python_mb": round(traced / mega, 2)}
            | {"kiloblocks": round(blocks / 1000, 1), "malloced_mb": round(malloced / mega, 2)}
            | {"threads": threads, "descriptors": descriptors}
            for resident, traced, blocks, malloced, threads, descriptors in thirds
        ]
        for what, allowed in GROWTH.items():
            early = found[1][what] if what in _MEDIANS else max(found[0][what], found[1][what])
            if found[2][what] > early + allowed:
                problem(f"{what} grew from {early} to {found[2][what]}")
        return found


def _thirds(samples: array[int], kind: type[tuple[int, ...]]) -> list[npt.NDArray[np.int64]]:
    """Samples of the three parts of a run, shape (n, fields) each."""
    table = np.array(samples, np.int64).reshape(-1, len(kind._fields))  # type: ignore[attr-defined]
    size = max(len(table) // 3, 1)
    return [table[i * size : (i + 1) * size] if len(table) > i * size else table[-1:] for i in range(3)]


class Watchdog(threading.Thread):
    """Looks after all threads, and at what the process needs while `looking`.

    Parameters
    ----------
    on_hang
        Called with a sentence when something hangs, after the stacks of all threads were written to standard error.
    """

    def __init__(self, on_hang: Callable[[str], Any]):
        super().__init__(name="watchdog", daemon=True)
        self.doings: list[Doing] = []
        self.needs = Needs()
        self.looking = False
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
            if self.looking:
                self.needs.look()

    def end(self) -> None:
        self._end.set()
        self.join()
