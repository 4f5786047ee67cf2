"""Writing one PV or many: which values go together, which alone, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daqca.ca.conversion import encode_value, fits
from daqca.engine.info import PutResult
from daqca.engine.reads import NO_WRITE_ACCESS, Collect, Collected, One, read_outcome
from daqca.engine.table import ChannelState
from daqca.engine.waits import wait_all
from daqca.errors import ConversionError
from daqca.events import Access, Kind
from daqca.outcome import Outcome

if TYPE_CHECKING:
    from daqca.engine.engine import Engine

_CHAR = 4
_STRING = 0


def put_one(engine: Engine, name: str, slot: int, value: Any, wait: bool, timeout: float) -> None:
    """See `Engine.put`."""
    deadline = time.monotonic() + timeout
    table, delivery = engine._table, engine._delivery
    if table.state[slot] != ChannelState.CONNECTED:
        engine._connect(np.array([slot], np.uint32), timeout)
    if table.state[slot] != ChannelState.CONNECTED:
        raise delivery.error(name, slot, "put")
    dbr_type, count, payload = encode_value(value, int(table.native_type[slot]), int(table.native_count[slot]), name)
    if not table.access[slot] & Access.WRITE:
        raise delivery.error(name, slot, "put", (slot, Kind.FAILED, 0, NO_WRITE_ACCESS))
    link = engine._links[engine._shard_of[slot]]
    operation = One() if wait else None
    link.write_one(int(engine._local[slot]), int(dbr_type), count, payload, operation, deadline - time.monotonic())
    if operation is None:
        return
    if not operation.done:
        link.cancel(operation)
    if operation.row is None or operation.row[1] != Kind.WRITTEN:
        raise delivery.error(name, slot, "put", operation.row)


def put_many(
    engine: Engine,
    names: Sequence[str],
    slots: npt.NDArray[np.uint32],
    values: Sequence[Any] | npt.NDArray[Any],
    wait: bool,
    timeout: float,
) -> PutResult:
    """See `Engine.put_many`."""
    deadline = time.monotonic() + timeout
    engine._connect(slots, timeout)
    table, n = engine._table, len(slots)
    states = np.array([Outcome.NEVER_FOUND, Outcome.PENDING, Outcome.DISCONNECTED], np.uint8)
    outcome = states[table.state[slots]]
    ready = outcome == Outcome.PENDING
    outcome[ready & ((table.access[slots] & Access.WRITE) == 0)] = Outcome.NO_WRITE_ACCESS
    ready = outcome == Outcome.PENDING
    errors: dict[str, str] = {}
    collected = Collected(n)
    numbers, together = _numbers(values, table.native_type[slots], table.native_count[slots])
    together &= ready
    operations = []
    for shard, part, local in engine._by_shard(slots[together]):
        positions = np.flatnonzero(together)[part]
        operation = Collect(collected, positions) if wait else None
        shard.link.write_doubles(local, numbers[positions], operation)
        operations.append((shard.link, operation))
    for position in np.flatnonzero(ready & ~together).tolist():
        slot = int(slots[position])
        native, count = int(table.native_type[slot]), int(table.native_count[slot])
        try:
            encoded = encode_value(values[position], native, count, names[position])
        except ConversionError as error:
            outcome[position] = Outcome.BAD_VALUE
            errors[names[position]] = str(error)
            continue
        operation = Collect(collected, np.array([position])) if wait else None
        link = engine._links[engine._shard_of[slot]]
        link.write_one(int(engine._local[slot]), int(encoded[0]), encoded[1], encoded[2], operation)
        operations.append((link, operation))
    sent = outcome == Outcome.PENDING
    eca = np.zeros(n, np.uint8)
    if not wait:
        outcome[sent] = Outcome.SENT
        return PutResult(names, outcome, eca, errors)
    waits = [(link, operation) for link, operation in operations if operation is not None]
    wait_all([operation for _, operation in waits], deadline - time.monotonic(), lambda: 0, n)
    for link, operation in waits:
        if not operation.done:
            link.cancel(operation)
    _judge(collected, sent, outcome, eca)
    return PutResult(names, outcome, eca, errors)


def _judge(
    collected: Collected,
    sent: npt.NDArray[np.bool_],
    outcome: npt.NDArray[np.uint8],
    eca: npt.NDArray[np.uint8],
) -> None:
    kinds = collected.records["kind"]
    failures = read_outcome(collected.records, np.full(len(kinds), ChannelState.CONNECTED, np.uint8))
    failures[kinds == Kind.WRITTEN] = Outcome.OK
    outcome[sent] = failures[sent]
    failed = sent & (kinds == Kind.FAILED)
    eca[failed] = collected.records["status"][failed]


def _numbers(
    values: Sequence[Any] | npt.NDArray[Any], native: npt.NDArray[np.uint8], counts: npt.NDArray[np.uint32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The values as numbers, and which of them can go together: scalar numbers that fit scalar numeric PVs."""
    n = len(values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        numbers = values.astype(np.float64)
        scalar = np.ones(n, np.bool_)
    else:
        scalar = np.fromiter((isinstance(v, (int, float, np.number, np.bool_)) for v in values), np.bool_, n)
        numbers = np.zeros(n, np.float64)
        for i in np.flatnonzero(scalar).tolist():
            try:
                numbers[i] = values[i]
            except OverflowError:
                scalar[i] = False
    # A server may cast a double above 127 to eight bits as it likes, so CHAR goes as CHAR, alone.
    together = scalar & (counts == 1) & (native != _STRING) & (native != _CHAR)
    together[together] &= fits(numbers[together], native[together])
    return numbers, together
