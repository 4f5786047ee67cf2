"""The recorder: a sink that streams batches to an HDF5 file and counts what it does.

The work is done by the writer thread; here are the options, the queueing, the stop and the numbers.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from daqca.errors import RecordingError
from daqca.events import Batch
from daqca.recording.inbox import Inbox
from daqca.recording.options import Options, unique_names
from daqca.recording.stats import PVCounts, RecordingStats
from daqca.recording.writer import Writer

Progress = Callable[[int, int], None]
"""Called with (done, total) on the thread that stops the recording."""

GRACE = 5.0
"""Seconds beyond the timeout of a stop in which the writer may still close the file."""


class Recorder:
    """Streams the updates of PVs to an HDF5 file (see docs/recording.md for what is in it).

    It is a sink: `deliver` takes batches whose slots are indices into `names`. The file can be read
    while it grows, with `RecordingFile` or by opening it with ``swmr=True``.

    Parameters
    ----------
    path
        The file to make.
    names
        The PVs to record; duplicates count once.
    overwrite
        Replace a file that exists.
    compression
        ``"deflate"``: compress tables and small arrays, with filters that every HDF5 has; or None.
    frame_compression
        For arrays above 32 KiB: None (the default: nothing is copied or changed), ``"deflate"``, or
        ``"bslz4"`` (fast; readers need hdf5plugin).
    flush_interval
        Seconds after which what came is surely in the file, also if the process is killed.
    max_queue_bytes
        How much may wait in memory for the disk. What does not fit is dropped and counted.
    metadata
        Anything worth keeping with the data: stored under ``entry/user``.
    shapes
        For array PVs whose shape is known: ``{"SIM:image1:ArrayData": (1024, 1024)}`` stores frames as
        images. An array of another length is stored flat.

    Raises
    ------
    ConfigurationError, NameListError
        An option or a name makes no sense.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: Sequence[str],
        *,
        overwrite: bool = False,
        compression: str | None = "deflate",
        frame_compression: str | None = None,
        flush_interval: float = 1.0,
        max_queue_bytes: int = 512 << 20,
        metadata: Mapping[str, Any] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ):
        self.path = os.path.abspath(os.fspath(path))
        self.names = unique_names(names)
        self.options = Options(
            overwrite=overwrite,
            compression=compression,
            frame_compression=frame_compression,
            flush_interval=flush_interval,
            max_queue_bytes=max_queue_bytes,
            metadata=dict(metadata or {}),
            shapes=dict(shapes or {}),
        )
        self._inbox = Inbox(len(self.names), max_queue_bytes)
        self._writer = Writer(self.path, self.names, self.options, self._inbox)
        self._pid = os.getpid()
        self._started = 0.0
        self._seconds = 0.0
        self._stopped = False

    def start(self) -> Recorder:
        """Make the file and start writing.

        Raises
        ------
        RecordingError
            The file exists or cannot be made; nothing is left behind.
        """
        if self._started:
            raise RecordingError(f"cannot start the recording to {self.path} twice: make a new Recorder")
        self._started = time.monotonic()
        self._writer.start()
        self._writer.ready.wait()
        if self._writer.start_error is not None:
            self._stopped = True
            self._inbox.close()
            raise self._writer.start_error
        atexit.register(self._at_exit)
        return self

    def deliver(self, batch: Batch) -> None:
        """Queue a batch; never blocks on the disk and never raises. For one thread at a time."""
        self._inbox.put(batch)

    def stop(self, timeout: float = 60.0, progress: Progress | None = None) -> RecordingStats:
        """Write what is queued, close the file, read it back and compare the counts.

        Parameters
        ----------
        timeout
            Seconds for all of that. What could not be written in time is counted as lost.
        progress
            Called every quarter of a second with (done, total) on this thread.

        Raises
        ------
        RecordingError
            Something could not be written (the message says what, e.g. ENOSPC), or the counts differ.
            The file is closed, and what was written before is in it; see `stats`.
        """
        if self._stopped or not self._started:
            self._inbox.close()
            self._stopped = True
            return self.stats
        self._stopped = True
        self._inbox.close()
        self._seconds = time.monotonic() - self._started
        self._writer.finish_by(timeout)
        self._wait(timeout + GRACE, progress)
        atexit.unregister(self._at_exit)
        if self._writer.is_alive():
            raise RecordingError(
                f"the recording to {self.path} does not end: the disk has not answered for {timeout + GRACE:.0f} s;"
                " the file holds what was flushed before"
            )
        stats = self.stats
        if stats.error:
            raise RecordingError(f"{stats.error} ({stats.written} updates written, {stats.lost} lost)")
        return stats

    def _wait(self, timeout: float, progress: Progress | None) -> None:
        end = time.monotonic() + timeout
        queued = self._inbox.queued
        while self._writer.is_alive() and time.monotonic() < end:
            self._writer.join(0.25)
            if progress is not None:
                # Half of the work is writing the queue, half reading the rows back.
                rows = max(1, self._rows())
                written = 1 - self._inbox.queued / queued if queued else 1.0
                done = rows * written + min(self._writer.work_done, rows)
                progress(int(done) if self._writer.is_alive() else 2 * rows, 2 * rows)

    def _rows(self) -> int:
        store = self._writer.store
        return sum(table.rows for table in (store.scalars, store.strings, store.frames)) if store else 0

    @property
    def stats(self) -> RecordingStats:
        """The numbers as they stand. Any thread."""
        writer, inbox, store = self._writer, self._inbox, self._writer.store
        totals = writer.totals()
        del totals["delivered"]
        if self._started and not self._stopped:
            self._seconds = time.monotonic() - self._started
        return RecordingStats(
            path=self.path,
            pvs=len(self.names),
            seconds=self._seconds,
            **totals,
            scalars=store.scalars.committed if store else 0,
            strings=store.strings.committed if store else 0,
            frames=store.frames.committed if store else 0,
            bytes_in=inbox.bytes,
            bytes_written=store.bytes_written if store else 0,
            queue_bytes=inbox.queued,
            queue_high_water=inbox.high_water,
            queue_limit=self.options.max_queue_bytes,
            flushes=store.flushes if store else 0,
            reopened=store.reopened if store else 0,
            cpu_seconds=writer.cpu_seconds,
            complete=writer.complete,
            error=writer.error,
        )

    def counts(self) -> PVCounts:
        """The counts of each PV as they stand. Any thread."""
        ledger = self._writer.ledger
        dropped = self._inbox.drops()[0]
        processed, unstored = ledger.processed.copy(), ledger.dropped.copy()
        return PVCounts(
            list(self.names),
            processed + dropped,
            processed - unstored,
            dropped + unstored,
            ledger.missed.copy(),
            ledger.interruptions.copy(),
        )

    def _at_exit(self) -> None:
        # A program that ends without stopping: the file is ended well all the same. Not in a child of a fork.
        if os.getpid() == self._pid and not self._stopped:
            with contextlib.suppress(RecordingError):  # the writer has logged it
                self.stop()

    def __enter__(self) -> Recorder:
        return self if self._started else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except RecordingError:
            if error is None:
                raise
