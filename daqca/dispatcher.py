"""The thread that runs users' callbacks, in order. A slow callback delays others, never what reads the network."""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from daqca.events import ALL_SLOTS, EVENT, Batch, Kind

log = logging.getLogger("daqca.callbacks")

MAX_WAITING = 2_000_000
"""Events that may wait for slow callbacks; what comes beyond is dropped and counted."""
MAX_BYTES = 256 << 20
"""The same for the bytes of their strings and arrays."""


_NOTHING = Batch()


class _Item(NamedTuple):
    """A call to be made, and what it counts for among what waits."""

    function: Callable[[Batch], Any]
    batch: Batch
    events: int
    bytes: int


class Dispatcher:
    """Runs ``function(batch)`` for batches, on one thread of its own, in the order they came.

    What is dropped because callbacks are slow is told to the function with a LOST event in its place.

    Parameters
    ----------
    limit, limit_bytes
        How many events, and bytes of their data, may wait.
    threaded
        Whether there is a thread; else callbacks run in `run_waiting`.
    name
        Of the thread.
    """

    def __init__(
        self,
        limit: int = MAX_WAITING,
        limit_bytes: int = MAX_BYTES,
        threaded: bool = True,
        name: str = "daqca-dispatcher",
    ):
        self.threaded = threaded
        self.name = name
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.errors = 0
        """Callbacks that raised."""
        self.dropped = 0
        """Events dropped because callbacks were too slow."""
        self._queue: deque[_Item] = deque()
        self._waiting = 0
        self._waiting_bytes = 0
        self._lost: dict[Callable[[Batch], Any], int] = {}
        self._lock = threading.RLock()
        self._is_idle = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        """Wakes the thread, which is idle, in half the time of a condition, whose lock would change hands twice."""
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Events that wait for their callback."""
        return self._waiting

    def put(self, function: Callable[[Batch], Any], batch: Batch) -> None:
        """Have `function` called with `batch`. Never blocks."""
        with self._lock:
            if self._closed:
                return
            # One batch may always wait, however large.
            if self._waiting and (
                self._waiting + len(batch) > self.limit or self._waiting_bytes + len(batch.block) > self.limit_bytes
            ):
                self.dropped += len(batch)
                self._lost[function] = self._lost.get(function, 0) + len(batch)
                return
            lost = self._lost.pop(function, 0)
            if lost:
                self._queue.append(_Item(function, _lost_batch(lost), 0, 0))
            self._append(_Item(function, batch, len(batch), len(batch.block)))

    def call(self, function: Callable[[], Any]) -> None:
        """Have `function` called, in its turn. It is never dropped: for what ends something that somebody waits for."""
        with self._lock:
            if not self._closed:
                self._append(_Item(lambda _: function(), _NOTHING, 0, 0))

    def _append(self, item: _Item) -> None:
        self._queue.append(item)
        self._waiting += item.events
        self._waiting_bytes += item.bytes
        if self._thread is None and self.threaded:
            thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            thread.start()
            self._thread = thread
        self._rouse()

    def _rouse(self) -> None:
        """Wake the thread, if it is idle. The caller holds the lock."""
        if self._is_idle:
            self._wake.put(None)  # first: a Ctrl-C in between has it woken once too often, and not never
            self._is_idle = False

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is the one that runs callbacks."""
        return threading.current_thread() is self._thread

    def run_waiting(self) -> None:
        """Run what waits now, on the calling thread: of a dispatcher without a thread."""
        for _ in range(len(self._queue)):
            with self._lock:
                item = self._queue.popleft() if self._queue else None
            if item is not None:
                self._run_item(item)

    def _run(self) -> None:
        while (item := self._next()) is not None:
            self._run_item(item)
            del item  # while nothing comes it would keep alive what was called

    def _run_item(self, item: _Item) -> None:
        try:
            item.function(item.batch)
        except BaseException as error:
            if not isinstance(error, Exception) and not self.is_mine:
                raise  # sys.exit and Ctrl-C end what the polling thread does
            self.raised("a callback raised; it stays installed")
        finally:
            with self._lock:
                self._waiting -= item.events
                self._waiting_bytes -= item.bytes

    def raised(self, text: str) -> None:
        """Count and log the exception that is being handled: a callback has raised it.

        As in every thread but the main one, `sys.exit` ends nothing but the call that it is made in.
        """
        self.errors += 1
        if isinstance(sys.exc_info()[1], SystemExit):
            log.info("%s (sys.exit ends a program in its main thread only)", text)
        else:
            log.exception("%s", text)

    def _next(self) -> _Item | None:
        """Wait for what is to be called next; None at the end."""
        while True:
            with self._lock:
                if self._queue:
                    return self._queue.popleft()
                if self._lost:
                    # Perhaps nothing comes after what was dropped: it is told all the same.
                    function, lost = self._lost.popitem()
                    return _Item(function, _lost_batch(lost), 0, 0)
                if self._closed:
                    return None
                self._is_idle = True
            self._wake.get()

    def forked(self) -> None:
        """In the child of a fork: there is no thread any more, and nothing to run."""
        self._lock = threading.RLock()
        self._closed = True
        self._queue.clear()
        self._thread = None

    def close(self, timeout: float = 5.0, quietly: bool = False) -> None:
        """Run what waits, then end the thread; what is not done after `timeout` seconds is left, and logged."""
        with self._lock:
            self._closed = True
            self._rouse()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
            if self._thread.is_alive():
                with self._lock:
                    self._queue.clear()
                if not quietly:
                    log.warning("a callback did not return within %.3g s of closing; it is left behind", timeout)


def _lost_batch(count: int) -> Batch:
    records = np.zeros(1, EVENT)
    records["slot"] = ALL_SLOTS
    records["kind"] = Kind.LOST
    records["count"] = count
    return Batch(records)
