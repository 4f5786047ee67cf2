"""The thread that runs users' callbacks, in order. A slow callback delays others, never the table or the recorder."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from daqca.events import ALL_SLOTS, EVENT, Batch, Kind

log = logging.getLogger("daqca.engine")

MAX_WAITING = 2_000_000
"""Events that may wait for slow callbacks; what comes beyond is dropped and counted."""


class Dispatcher:
    """Runs ``function(batch)`` for batches, on one thread of its own, in the order they came."""

    def __init__(self, limit: int = MAX_WAITING):
        self.limit = limit
        self.errors = 0
        """Callbacks that raised."""
        self.dropped = 0
        """Events dropped because callbacks were too slow."""
        self._queue: deque[tuple[Callable[[Batch], Any], Batch]] = deque()
        self._waiting = 0
        self._lost: dict[Callable[[Batch], Any], int] = {}
        self._ready = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Events that wait for their callback."""
        return self._waiting

    def put(self, function: Callable[[Batch], Any], batch: Batch) -> None:
        """Have `function` called with `batch`. Never blocks."""
        with self._ready:
            if self._closed:
                return
            if self._waiting + len(batch) > self.limit and self._queue:
                self.dropped += len(batch)
                self._lost[function] = self._lost.get(function, 0) + len(batch)
                return
            lost = self._lost.pop(function, 0)
            if lost:
                self._queue.append((function, _lost_batch(lost)))
            self._queue.append((function, batch))
            self._waiting += len(batch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="daqca-dispatcher", daemon=True)
                self._thread.start()
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._queue:
                    if self._closed:
                        return
                    self._ready.wait()
                function, batch = self._queue.popleft()
            try:
                function(batch)
            except Exception:
                self.errors += 1
                log.exception("a callback raised; it stays installed")
            with self._ready:
                self._waiting -= len(batch) if not _is_notice(batch) else 0

    def close(self, timeout: float = 5.0) -> None:
        """Run what waits, then end the thread; what is not done after `timeout` seconds is left."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
            if self._thread.is_alive():
                with self._ready:
                    self._queue.clear()
                log.warning("a callback did not return within %.0f s of closing; it is left behind", timeout)


def _lost_batch(count: int) -> Batch:
    records = np.zeros(1, EVENT)
    records["slot"] = ALL_SLOTS
    records["kind"] = Kind.LOST
    records["count"] = count
    return Batch(records)


def _is_notice(batch: Batch) -> bool:
    return len(batch) == 1 and bool(batch.records["kind"][0] == Kind.LOST)
