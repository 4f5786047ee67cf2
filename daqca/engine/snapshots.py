"""Taking one snapshot: what is asked of which shard, what the table already has, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from daqca.engine.reads import Collect, Collected, give_up, make_metadata, make_snapshot, read_outcome
from daqca.engine.table import ChannelState
from daqca.engine.waits import Progress, wait_all
from daqca.events import Access, Kind
from daqca.link import AUTO, CTRL, Link
from daqca.outcome import Outcome
from daqca.snapshot import Snapshot

if TYPE_CHECKING:
    from daqca.engine.engine import Engine

Partial = Callable[[Snapshot], None]
_UPDATE, _CONNECTED = int(Kind.UPDATE), int(ChannelState.CONNECTED)
_ANSWERED = (int(Kind.READ), _UPDATE, int(Kind.FAILED))
_OK, _STALE, _PENDING = int(Outcome.OK), int(Outcome.STALE), int(Outcome.PENDING)


class Taking:
    """One call of `Engine.snapshot`, which explains the parameters."""

    def __init__(self, engine: Engine, names: Sequence[str], form: str, fresh: bool):
        self._started, self._begin = time.time_ns(), time.monotonic()
        self._engine = engine
        self._names = names
        self._fresh = fresh
        self._slots = slots = engine.slots(names)
        self._collected = Collected(len(slots))
        self._details = Collected(len(slots)) if form == "ctrl" else None
        self._operations: list[tuple[Link, Collect]] = []

    def _ask_all(self) -> None:
        everything = np.arange(len(self._slots))
        self._ask(everything if self._fresh else np.flatnonzero(~self._take_monitored()), self._collected, AUTO)
        if self._details is not None:
            self._ask(everything, self._details, CTRL)

    def _ask(self, positions: npt.NDArray[np.int64], collected: Collected, dbr_type: int) -> None:
        for shard, part, local in self._engine._by_shard(self._slots[positions]):
            operation = Collect(collected, positions[part])
            self._operations.append((shard.link, operation))
            shard.link.read(local, operation, dbr_type)

    def _take_monitored(self) -> npt.NDArray[np.bool_]:
        """Put what the table has of monitored PVs into the answers; returns which those are."""
        engine, slots = self._engine, self._slots
        with engine.lock:
            table = engine.table
            readable = (table.access[slots] & Access.READ) != 0
            readable |= table.state[slots] != _CONNECTED
            last = table.last[slots]
            taken: npt.NDArray[np.bool_] = engine._monitors.has(slots) & readable & (last["kind"] == _UPDATE)
            if table.doubts:
                taken &= ~table.doubts.doubted(slots)
            self._collected.take(np.flatnonzero(taken), last[taken], slots[taken], table)
            return taken

    def run(self, timeout: float, progress: Progress | None, partial: Partial | None) -> Snapshot:
        """Ask, and wait for the answers, or until the time is over."""

        def more() -> None:
            if partial is not None:
                partial(self._result(at_end=False))

        try:
            self._ask_all()
            waits = [operation for _, operation in self._operations]
            wait_all(waits, timeout, self._done, len(self._slots), progress, more if partial else None)
        finally:
            for link, operation in self._operations:
                give_up(link, operation)
        if any(operation.left for operation in waits):
            self._engine.check_open()
        return self._result()

    def _done(self) -> int:
        left = sum(operation.left for _, operation in self._operations if operation.collected is self._collected)
        return len(self._slots) - left

    def _result(self, at_end: bool = True) -> Snapshot:
        """The snapshot of what there is; what is not answered is PENDING unless this is the end."""
        kinds = self._collected.records["kind"]
        with self._engine.lock:
            table = self._engine.table
            state = table.state[self._slots]
            outcome = read_outcome(self._collected.records, state)
            taken = kinds == _UPDATE
            outcome[taken] = np.where(state[taken] == _CONNECTED, _OK, _STALE)
            if self._details is not None:
                # What was asked for is value and metadata: without one of them it was not read as asked.
                known = read_outcome(self._details.records, state)
                outcome = np.where((outcome == _OK) & (known != _OK), known, outcome)
            if not at_end:
                outcome[~np.isin(kinds, _ANSWERED)] = _PENDING
            metadata = make_metadata(self._details) if self._details is not None else None
            elapsed = time.monotonic() - self._begin
            names, slots, collected = self._names, self._slots, self._collected
            return make_snapshot(names, slots, collected, outcome, table, metadata, self._started, elapsed)
