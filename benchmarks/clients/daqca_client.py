"""daqca: the engine in process, or through running workers (``workers=N``); values in columns or as Python numbers."""
# ruff: noqa: D102 - the methods are those of Adapter

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _common import Adapter, Tally, play, say

from daqca import Engine
from daqca.events import Batch, Kind
from daqca.snapshot import Snapshot


class Daqca(Adapter):
    """``values=list`` asks for Python numbers too; workers run before anything is measured, an own client does not."""

    engine: Engine | None = None

    def start(self) -> None:
        workers = int(self.options.get("workers", "0"))
        if workers:
            self.engine = Engine(workers=workers)

    def opened(self) -> Engine:
        if self.engine is None:
            self.engine = Engine()
        return self.engine

    def read(self) -> Sequence[float]:
        self.snapshot = self.opened().snapshot(self.names, timeout=60.0)
        if self.options.get("values") == "list":
            values: Sequence[float] = self.snapshot.values
            return values
        return self.snapshot.number

    def stamps(self) -> Sequence[float]:
        return self.snapshot.timestamps / 1e9

    def getter(self) -> Callable[[], float]:
        name, get = self.names[0], self.opened().get
        self.opened().connect([name])
        return lambda: get(name).value

    def putter(self) -> Callable[[float], object]:
        name, put = self.names[0], self.opened().put
        self.opened().connect([name])
        return lambda value: put(name, value)

    def tally(self, n: int) -> Tally:
        return Columns(n)

    def monitor(self, tally: Tally) -> None:
        assert isinstance(tally, Columns)
        self.columns = tally
        self.subscription = self.opened().subscribe(self.names, tally)

    def dropped(self) -> int:
        return self.columns.lost

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


class Columns(Tally):
    """Tallies whole batches, as a program that takes columns does: it is the sink of the subscription."""

    def __init__(self, n: int):
        super().__init__(n)
        self.lost = 0
        self.firsts = np.full(n, np.nan)
        self.lasts = np.zeros(n)

    def deliver(self, batch: Batch) -> None:
        records = batch.records
        kind = records["kind"]
        updates = records[kind == Kind.UPDATE]
        if len(updates) < len(records):
            self.lost += int(records["count"][kind == Kind.LOST].sum())
        slots, values = updates["slot"], updates["value"]
        self.events += len(updates)
        if self.begun < len(self.firsts):
            new = np.isnan(self.firsts[slots])
            self.firsts[slots[new][::-1]] = values[new][::-1]  # the first of a slot is written last
            self.begun = int(np.count_nonzero(~np.isnan(self.firsts)))
        self.lasts[slots] = values

    def summary(self) -> dict[str, Any]:
        self.first, self.last = [float(np.nansum(self.firsts))], [float(self.lasts.sum())]
        return super().summary()


def record(adapter: Daqca, expected: Sequence[float]) -> None:
    """Record every update of all names to the file of option ``path``, until the driver says stop."""
    engine = adapter.opened()
    engine.connect(adapter.names, timeout=30.0)
    with engine.record(adapter.options["path"], adapter.names) as recording:
        say(ready=True)
        input()
        start = time.perf_counter()
    say(drain=time.perf_counter() - start, stats=str(recording.stats))


def missing(adapter: Daqca, expected: Sequence[float]) -> None:
    """Read all names, and as many that nobody has as option ``absent`` says, in a client that knows nothing yet.

    Seconds until every value that there is was at hand, and until the call returned.
    """
    n, absent = len(adapter.names), int(adapter.options.get("absent", "0"))
    names = adapter.names + [f"{adapter.names[i * n // absent]}:absent" for i in range(absent)]
    engine = adapter.opened()
    at_hand = []

    def more(snapshot: Snapshot) -> None:
        if np.count_nonzero(snapshot.ok) == n:
            at_hand.append(time.perf_counter() - start)

    start = time.perf_counter()
    snapshot = engine.snapshot(names, timeout=2.0, partial=more)
    took = time.perf_counter() - start
    say(at_hand=min(at_hand, default=took), took=took, right=int((snapshot.number[:n] == expected).sum()), n=n)


if __name__ == "__main__":
    play(Daqca, record, missing)
