"""Writing one PV or many: which values go together, which alone, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import daqca.ca as ca
from daqca.ca.conversion import encode_value, fits
from daqca.engine.info import PutResult
from daqca.engine.reads import NO_WRITE_ACCESS, UNANSWERED, Collect, Collected, give_up, read_outcome
from daqca.engine.table import ChannelState
from daqca.engine.waits import wait_all
from daqca.errors import ConversionError
from daqca.events import Access, Kind
from daqca.operations import One
from daqca.outcome import Outcome

if TYPE_CHECKING:
    from daqca.engine.engine import Engine
    from daqca.link import Link

# Plain numbers: beside an enum's member NumPy looks for attributes, slowly, and drops a Ctrl-C that comes meanwhile.
_CONNECTED, _WRITTEN, _FAILED = int(ChannelState.CONNECTED), int(Kind.WRITTEN), int(Kind.FAILED)
_PENDING, _OK, _SENT = int(Outcome.PENDING), int(Outcome.OK), int(Outcome.SENT)
_NO_WRITE_ACCESS, _BAD_VALUE = int(Outcome.NO_WRITE_ACCESS), int(Outcome.BAD_VALUE)
_CHAR = 4
_STRING = 0


def put_one(engine: Engine, name: str, slot: int, value: Any, wait: bool, timeout: float) -> None:
    """See `Engine.put`."""
    deadline = time.monotonic() + timeout
    table, delivery = engine.table, engine._delivery
    if table.state[slot] != _CONNECTED:
        engine.wait_connected(np.array([slot], np.uint32), timeout)
    if table.state[slot] != _CONNECTED:
        raise delivery.error(name, slot, "put")
    native, most = int(table.native_type[slot]), int(table.native_count[slot])
    dbr_type, count, payload = encode_value(value, native, most, name, ca.IOENCODING)
    if not int(table.access[slot]) & Access.WRITE:
        raise delivery.error(name, slot, "put", (slot, Kind.FAILED, 0, NO_WRITE_ACCESS))
    operation = One() if wait else None
    try:
        engine.write(slot, (int(dbr_type), count, payload), operation, deadline - time.monotonic())
    finally:
        if operation is not None:
            engine.give_up(slot, operation)
    if operation is None:
        return
    if operation.row is None:
        engine.check_open()
    if operation.row is None or operation.row[1] != Kind.WRITTEN:
        raise delivery.error(name, slot, "put", operation.row)
    engine.confirmed(slot)


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
    puts = _Puts(engine, names, slots, values, wait)
    try:
        puts.send()
        if puts.left.any():
            # What connects is written then, so that a PV that does not exist keeps no other waiting.
            engine.wait_connected(slots, timeout, more=puts.send)
            puts.send()
        wait_all([operation for _, operation in puts.waits], deadline - time.monotonic(), lambda: 0, len(slots))
    finally:
        for link, operation in puts.waits:
            give_up(link, operation)
    if any(operation.left for _, operation in puts.waits):
        engine.check_open()
    return puts.result()


class _Puts:
    """Many puts: each is sent when its channel is connected.

    Attributes
    ----------
    left
        Which were not sent yet, and not refused either; shape (n,).
    waits
        What is to be confirmed.
    """

    def __init__(
        self,
        engine: Engine,
        names: Sequence[str],
        slots: npt.NDArray[np.uint32],
        values: Sequence[Any] | npt.NDArray[Any],
        wait: bool,
    ):
        n = len(slots)
        self.left = np.ones(n, np.bool_)
        self.waits: list[tuple[Link, Collect]] = []
        self._engine, self._names, self._slots, self._values, self._wait = engine, names, slots, values, wait
        self._outcome = np.full(n, _PENDING, np.uint8)
        self._errors: dict[str, str] = {}
        self._collected = Collected(n)
        self._numbers, self._scalar = _numbers(values)
        _, first, counts = np.unique(slots, return_inverse=True, return_counts=True)
        # Several values for one PV are written one after the other, in their order.
        self._once = counts[first.reshape(-1)] == 1

    def send(self) -> None:
        """Send what is connected now."""
        slots, table = self._slots, self._engine.table
        ready = self.left & (table.state[slots] == _CONNECTED)
        if not ready.any():
            return
        self.left &= ~ready
        refused = ready & ((table.access[slots] & Access.WRITE) == 0)
        self._outcome[refused] = _NO_WRITE_ACCESS
        ready &= ~refused
        native = table.native_type[slots]
        # A server may cast a double above 127 to eight bits as it likes, so CHAR goes as CHAR, alone.
        together = ready & self._scalar & self._once & (table.native_count[slots] == 1)
        together &= (native != _STRING) & (native != _CHAR)
        together[together] &= fits(self._numbers[together], native[together])
        # In the order they were given: a record may act on what was written to another just before.
        positions = np.flatnonzero(ready)
        changes = np.flatnonzero(np.diff(together[positions])) + 1
        for run in np.split(positions, changes) if len(positions) else []:
            if together[run[0]]:
                self._send_run(run)
            else:
                for position in run.tolist():
                    self._send_one(position)

    def _send_run(self, positions: npt.NDArray[np.int64]) -> None:
        """Numbers that follow each other, in columns."""
        for shard, part, local in self._engine._by_shard(self._slots[positions]):
            mine = positions[part]
            shard.link.write_doubles(local, self._numbers[mine], self._operation(shard.link, mine))

    def _send_one(self, position: int) -> None:
        engine, slot, name = self._engine, int(self._slots[position]), self._names[position]
        native, count = int(engine.table.native_type[slot]), int(engine.table.native_count[slot])
        try:
            dbr_type, n, payload = encode_value(self._values[position], native, count, name, ca.IOENCODING)
        except ConversionError as error:
            self._outcome[position] = _BAD_VALUE
            self._errors[name] = str(error)
            return
        link = engine._links[engine._shard_of[slot]]
        operation = self._operation(link, np.array([position]))
        link.write_one(int(engine._local[slot]), int(dbr_type), n, payload, operation)

    def _operation(self, link: Link, positions: npt.NDArray[np.int64]) -> Collect | None:
        if not self._wait:
            return None
        operation = Collect(self._collected, positions)
        self.waits.append((link, operation))
        return operation

    def result(self) -> PutResult:
        """What became of each."""
        n, outcome = len(self._slots), self._outcome
        outcome[self.left] = UNANSWERED[self._engine.table.state[self._slots[self.left]]]
        sent = outcome == _PENDING
        eca = np.zeros(n, np.uint8)
        if self._wait:
            _judge(self._collected, sent, outcome, eca)
            for slot in self._slots[outcome == _OK].tolist():
                self._engine.confirmed(slot)
        else:
            outcome[sent] = _SENT
        return PutResult(self._names, outcome, eca, self._errors)


def _judge(
    collected: Collected,
    sent: npt.NDArray[np.bool_],
    outcome: npt.NDArray[np.uint8],
    eca: npt.NDArray[np.uint8],
) -> None:
    kinds = collected.records["kind"]
    failures = read_outcome(collected.records, np.full(len(kinds), _CONNECTED, np.uint8))
    failures[kinds == _WRITTEN] = _OK
    outcome[sent] = failures[sent]
    failed = sent & (kinds == _FAILED)
    eca[failed] = collected.records["status"][failed]


def _numbers(values: Sequence[Any] | npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The values as numbers, and which of them are scalar numbers."""
    n = len(values)
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iufb":
        return values.astype(np.float64), np.ones(n, np.bool_)
    scalar = np.fromiter((isinstance(v, (int, float, np.number, np.bool_)) for v in values), np.bool_, n)
    numbers = np.zeros(n, np.float64)
    for i in np.flatnonzero(scalar).tolist():
        try:
            numbers[i] = values[i]
        except (OverflowError, TypeError):
            scalar[i] = False
    return numbers, scalar
