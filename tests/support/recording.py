"""Batches for the tests of the recorder, made without a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daqca.events import ALL_SLOTS, ELEMENT, EVENT, Access, Batch, BatchBuilder, Kind, Reason
from daqca.recording import Recorder, RecordingStats

T0 = 1_700_000_000_000_000_000
"""A timestamp: 2023-11-14T22:13:20Z."""

STRING, SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE = range(7)


class Feed:
    """Makes batches: each method adds events, `batch` hands them over."""

    def __init__(self) -> None:
        self._builder = BatchBuilder()

    def connected(self, slot: int, native_type: int = DOUBLE, count: int = 1) -> Feed:
        row = (slot, Kind.CONNECTED, native_type, int(Access.READ | Access.WRITE), 0, T0, 0.0, count, 0)
        self._builder.rows.append(row)
        return self

    def disconnected(self, slot: int, reason: Reason = Reason.CLOSED) -> Feed:
        self._builder.rows.append((slot, Kind.DISCONNECTED, 0, int(reason), 0, T0 + 1, 0.0, 0, 0))
        return self

    def lost(self, count: int, slot: int = ALL_SLOTS) -> Feed:
        self._builder.rows.append((slot, Kind.LOST, 0, 0, 0, T0 + 2, 0.0, count, 0))
        return self

    def other(self, kind: Kind, slot: int = 0, dbr_type: int = 0, data: bytes = b"") -> Feed:
        value: Any = self._builder.store(data) if data else 0.0
        self._builder.rows.append((slot, kind, dbr_type, 0, 0, T0, value, 1, 0))
        return self

    def number(self, slot: int, value: float, when: int = T0, status: int = 0, severity: int = 0) -> Feed:
        self._builder.rows.append((slot, Kind.UPDATE, DOUBLE, status, severity, when, float(value), 1, 0))
        return self

    def text(self, slot: int, value: str | bytes, when: int = T0) -> Feed:
        data = (value.encode() if isinstance(value, str) else value).ljust(40, b"\0")
        self._builder.rows.append((slot, Kind.UPDATE, STRING, 0, 0, when, self._builder.store(data), 1, 0))
        return self

    def array(self, slot: int, values: Any, dbr_type: int = DOUBLE, when: int = T0, severity: int = 0) -> Feed:
        """An array as the client makes it: one number goes into the record."""
        data = np.asarray(values).astype(ELEMENT[dbr_type])
        value: Any = self._builder.store(data.tobytes()) if data.size else (0, 0)
        if data.size == 1 and dbr_type:
            value = float(data.reshape(-1)[0])
        self._builder.rows.append((slot, Kind.UPDATE, dbr_type, 0, severity, when, value, data.size, 0))
        return self

    def batch(self) -> Batch:
        return self._builder.build()


def numbers(slots: Sequence[int] | np.ndarray[Any, Any], values: Any, times: Any = T0) -> Batch:
    """A batch of numeric updates in columns."""
    records = np.zeros(len(slots), EVENT)
    records["slot"], records["value"], records["timestamp"] = slots, values, times
    records["kind"], records["dbr_type"], records["count"] = Kind.UPDATE, DOUBLE, 1
    return Batch(records)


def record(path: Path, names: list[str], *batches: Batch, **options: Any) -> RecordingStats:
    """Record batches to a file; returns the numbers of the recorder."""
    with Recorder(path, names, **options) as recorder:
        for batch in batches:
            recorder.deliver(batch)
    return recorder.stats


def eventually(condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
    """Wait until `condition` is true, and return what it returned."""
    end = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.005)
    return result


def drained(recorder: Recorder) -> None:
    """Wait until the writer has taken in everything that was delivered."""
    eventually(lambda: recorder.stats.queue_bytes == 0, "the queue is empty")


def flushed(recorder: Recorder) -> None:
    """Wait until what was delivered before is surely in the file."""
    drained(recorder)
    before = recorder.stats.flushes
    eventually(lambda: recorder.stats.flushes >= before + 2, "the file was flushed")
