"""The writer thread of a recording: takes batches from the inbox, writes, flushes, ends.

The only thread that touches HDF5. Whatever goes wrong here is kept as the recording's error, and everything
that comes afterwards is counted as lost.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence

import h5py
import numpy as np

from daqca.errors import RecordingError
from daqca.events import ALL_SLOTS, Batch
from daqca.recording import finish, layout, superblock
from daqca.recording.inbox import Inbox
from daqca.recording.ledger import Ledger
from daqca.recording.options import Options
from daqca.recording.sorter import Sorter
from daqca.recording.stats import Counts
from daqca.recording.store import Store, open_for_writing, reason

PAUSE = 0.05
"""Seconds the writer sleeps when there is little to do: many events at once cost less each."""

PASS_BYTES = 64 << 20
"""Bytes sorted at a time."""

SETTLE = 0.25
"""Seconds after the first data until the file is shared with readers: datasets are made the plain way before."""

HEARTBEAT = 2.0
"""The file says at least so often (s) that it is still being written."""

BUSY = 0.25
"""With the queue this full, chunks are written without compressing them."""

REST = 4
"""After the file was opened anew for new datasets, so many times as long passes before the next time,
unless the queue fills: PVs that connect one by one then share one opening."""

_log = logging.getLogger(__name__)


class Writer(threading.Thread):
    """Writes one recording. Started and joined by the recorder.

    Parameters
    ----------
    path, names, options
        As `Store` wants them.
    inbox
        Where the batches come from.
    """

    def __init__(self, path: str, names: Sequence[str], options: Options, inbox: Inbox):
        super().__init__(name=f"daqca-recorder {path}", daemon=True)
        self.path = path
        self.names = names
        self.options = options
        self.inbox = inbox
        self.ledger = Ledger(len(names))
        self.store: Store | None = None
        self.ready = threading.Event()
        """Set when the file is open, or could not be made."""
        self.start_error: RecordingError | None = None
        self.error = ""
        self.complete = False
        self.end_time = 0
        self.cpu_seconds = 0.0
        self.work_done = 0
        """Rows read back at the stop."""
        self._stopping = False
        self._drain_until = float("inf")
        self._reported = np.zeros(len(names), np.uint64)
        self._reported_other = 0
        self._rest_until = 0.0

    def finish_by(self, seconds: float) -> None:
        """Ask the thread to write what is queued, and to end within about so many seconds."""
        self._drain_until = time.monotonic() + seconds
        self._stopping = True
        self.inbox.wake()

    def run(self) -> None:
        """The thread: see the module."""
        try:
            self.store = Store(self.path, self.names, self.options)
        except Exception as error:
            self.start_error = error if isinstance(error, RecordingError) else RecordingError(reason(error))
            return
        finally:
            self.ready.set()
        self._sorter = Sorter(self.store, self.ledger)
        try:
            self._loop(self.store)
        except Exception as error:
            self._fail(error)
            self._only_count()
        try:
            self._end(self.store)
        except Exception as error:
            self._fail(error)
        finally:
            self.store.abandon()
            self.cpu_seconds = time.thread_time()

    # While recording

    def _loop(self, store: Store) -> None:
        next_flush = next_beat = time.monotonic()
        settle = min(SETTLE, self.options.flush_interval)
        while True:
            stopping = self._stopping
            batches, size = self.inbox.take(PASS_BYTES)
            if batches:
                self._take_in(store, batches, size)
                batches.clear()
                self.inbox.release(size)
            now = time.monotonic()
            share_at = float("inf") if store.is_shared or self.error else store.began + settle
            if now >= share_at:
                store.share()
            if now >= next_flush:
                self._flush(store)
                next_flush = now + self.options.flush_interval
            if now >= next_beat:
                store.touch()
                self.cpu_seconds = time.thread_time()
                next_beat = now + HEARTBEAT
            if stopping and (not len(self.inbox) or now > self._drain_until):
                return
            if not stopping and self.inbox.queued < self.inbox.wake_bytes:
                pause = max(PAUSE, self._rest_until - now)
                self.inbox.wait(max(0.001, min(pause, next_flush - now, next_beat - now, share_at - now)))

    def _take_in(self, store: Store, batches: list[Batch], size: int) -> None:
        if self.error or (self._stopping and time.monotonic() > self._drain_until):
            self._sorter.count_only(batches)
            return
        busy = self.inbox.queued > BUSY * self.options.max_queue_bytes
        store.hurry(busy)
        reopened, before = store.reopened, time.monotonic()
        try:
            store.require_space(size)
            store.begin()
        except Exception as error:
            self._fail(error)
            self._sorter.count_only(batches)
            return
        try:
            self._sorter.sort(batches)
        except Exception as error:
            self._fail(error)
        if store.reopened != reopened:
            now = time.monotonic()
            self._rest_until = now + REST * (now - before)

    def _only_count(self) -> None:
        """After an error that nobody expected: count what comes, until the stop."""
        while not self._stopping:
            batches, size = self.inbox.take(PASS_BYTES)
            self._sorter.count_only(batches)
            self.inbox.release(size)
            self.inbox.wait(PAUSE)

    def _flush(self, store: Store, final: bool = False) -> None:
        dropped, other = self.inbox.drops()
        if not self.error:
            try:
                self._report_drops(dropped, other)
                store.flush(final)
            except Exception as error:
                self._fail(error)
        store.put_index(self.ledger, dropped)
        store.put_fixed("totals", self._totals_row())
        self.cpu_seconds = time.thread_time()

    def _report_drops(self, dropped: Counts, other: int) -> None:
        """Record what the inbox dropped since the last flush, as data."""
        new = dropped - self._reported
        slots = np.flatnonzero(new)
        if len(slots):
            self._sorter.losses(slots, new[slots], layout.Origin.QUEUE)
            self._reported = dropped
        if other > self._reported_other:
            self._sorter.losses(np.array([ALL_SLOTS]), np.array([other - self._reported_other]), layout.Origin.QUEUE)
            self._reported_other = other

    def totals(self) -> dict[str, int]:
        """What `layout.TOTALS` names, as it stands."""
        ledger, inbox = self.ledger, self.inbox
        processed, in_queue = int(ledger.processed.sum()), int(inbox.dropped.sum())
        unstored = int(ledger.dropped.sum())
        return {
            "delivered": inbox.delivered,
            "received": processed + in_queue,
            "written": processed - unstored,
            "dropped": in_queue + unstored,
            "missed": int(ledger.missed.sum()) + ledger.missed_any,
            "control": ledger.control,
            "ignored": ledger.ignored,
            "late": inbox.late,
            "interruptions": int(ledger.interruptions.sum()),
        }

    def _totals_row(self) -> Counts:
        totals = self.totals()
        return np.array([totals[name] for name in layout.TOTALS], np.uint64)

    # Trouble and the end

    def _fail(self, error: Exception) -> None:
        """Keep the first error, save what can be saved; nothing more is written."""
        if self.error or self.store is None:
            _log.warning("a further error with %s: %s", self.path, reason(error), exc_info=error)
            return
        self.error = f"writing to {self.path} failed: {reason(error)}"
        _log.error("%s; everything from here on is counted as lost", self.error, exc_info=error)
        self.store.salvage()
        with contextlib.suppress(OSError):
            self.store.put_fixed("error", np.array([layout.text(self.error)]))

    def _end(self, store: Store) -> None:
        batches, size = self.inbox.take(PASS_BYTES)
        unwritten = bool(batches)
        while batches:  # the time was up before they could be written
            self._sorter.count_only(batches)
            self.inbox.release(size)
            batches, size = self.inbox.take(PASS_BYTES)
        self._flush(store, final=True)
        if unwritten and not self.error:
            self.error = f"{self.path}: there was no time to write all that was queued"
        self.end_time = time.time_ns()
        store.touch(stopped=self.end_time)
        try:
            store.close()
        except Exception as error:
            self._fail(error)
        path = store.handle_path
        if superblock.mend(path):
            _log.warning("HDF5 could not close %s; its beginning was mended", self.path)
        try:
            with h5py.File(path, "r", locking=False) as file:
                self._verify(file)
        except finish.DeadlineError:
            self.error = self.error or f"{self.path} was written, but there was no time to read it back"
        store.put_index(self.ledger, self.inbox.drops()[0])
        store.put_fixed("totals", self._totals_row())
        store.put_fixed("error", np.array([layout.text(self.error)]))
        if not self.error:
            frames = self._found.rows[layout.FRAMES.name]
            with open_for_writing(path) as file:
                try:
                    store.require_space(finish.beauty_bytes(frames))
                    finish.beautify(file, self._found)
                except OSError as error:
                    _log.warning("%s has no overview: %s", self.path, reason(error))
                file.flush()
                finish.set_end(file, self.end_time, self.totals(), complete=True)
            self.complete = True

    def _verify(self, file: h5py.File) -> None:
        """Count what is in the file, and correct our own counts if they say more."""

        def step(rows: int) -> None:
            self.work_done += rows

        seconds = max(1.0, self._drain_until - time.monotonic())
        self._found = found = finish.tally(file, len(self.names), finish.deadline(seconds, step))
        ledger = self.ledger
        wrong = np.flatnonzero(found.written != ledger.processed - ledger.dropped)
        ledger.dropped = np.maximum(ledger.processed, found.written) - found.written
        totals = self.totals()
        accounted = totals["received"] + totals["control"] + totals["ignored"] + self.inbox.dropped_other
        problems = []
        if len(wrong):
            problems.append(f"the counts of {len(wrong)} PVs differ, first {self.names[wrong[0]]}")
        if found.broken or found.strangers:
            problems.append(f"{found.broken} arrays and {found.strangers} PVs that rows refer to do not exist")
        if found.rows[layout.EVENTS.name] != ledger.control + self._sorter.own_rows:
            problems.append("rows of the events table are missing")
        if accounted != totals["delivered"]:
            problems.append(f"{totals['delivered']} events were delivered and {accounted} accounted for")
        if problems and not self.error:
            self.error = f"{self.path} does not hold what was counted: {'; '.join(problems)}"
            _log.error(self.error)
