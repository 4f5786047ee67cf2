"""What an engine does with one slot at a time: what `Engine.get`, `Engine.put` and PV objects are made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.engine.deliver import Delivery, Shard
from daqca.engine.reads import give_up
from daqca.engine.table import ChannelState, Table
from daqca.engine.waits import ConnectWait, Progress, wait_all
from daqca.errors import ChannelError, EngineClosedError
from daqca.events import Kind
from daqca.link import AUTO, Link
from daqca.operations import One, Operation
from daqca.reading import Reading

Slots = npt.NDArray[np.uint32]


class Slotwise:
    """The part of an `Engine` that knows slots and no names.

    Attributes
    ----------
    table
        What is known of every channel. Its columns may be read without a lock; see `daqca.engine.table.Table`.
    lock
        Held while anything in the table changes; taken inside the lock of a link, never around it.
    is_closed
        Whether it was closed.
    """

    table: Table
    lock: AbstractContextManager[Any]
    is_closed: bool
    _is_forked: bool
    _delivery: Delivery
    _links: list[Link]
    _shards: list[Shard]
    _shard_of: npt.NDArray[np.uint8]
    _local: Slots
    _names: list[str]
    _slots: dict[str, int]

    def check_open(self) -> None:
        """Raise an `EngineClosedError` if it is closed, or is of the parent of a fork."""
        if self._is_forked:
            raise EngineClosedError(
                "this engine belongs to the process that made it, and is closed in this child of a fork; make a new one"
            )
        if self.is_closed:
            raise EngineClosedError("this engine is closed; make a new one")

    def wait_connected(
        self,
        slots: Slots,
        timeout: float,
        progress: Progress | None = None,
        more: Callable[[], None] | None = None,
    ) -> None:
        """Wait until these slots are connected, at most `timeout` seconds; see `connect`."""
        if (self.table.state[slots] == ChannelState.CONNECTED).all():
            if progress is not None:
                progress(len(slots), len(slots))
            return
        wait = ConnectWait(slots, self.table)
        with self._delivery.waiting(wait):
            wait_all([wait], timeout, lambda: len(slots) - wait.missing(), len(slots), progress, more)
        self.check_open()

    def _by_shard(self, slots: Slots) -> list[tuple[Shard, npt.NDArray[np.int64], Slots]]:
        """For each shard that has some of these slots: the shard, their positions, their slots there."""
        if len(self._shards) == 1:
            return [(self._shards[0], np.arange(len(slots)), self._local[slots])] if len(slots) else []
        numbers = self._shard_of[slots]
        parts = []
        for number, shard in enumerate(self._shards):
            positions = np.flatnonzero(numbers == number)
            if len(positions):
                parts.append((shard, positions, self._local[slots[positions]]))
        return parts

    def begin_reads(
        self,
        slots: Slots,
        operation: Callable[[npt.NDArray[np.int64]], Operation],
        dbr_type: int = AUTO,
        count: int = 0,
    ) -> None:
        """Read slots, each once it is connected; `dbr_type` and `count` as of `ask`.

        Parameters
        ----------
        operation
            Called for each shard with the positions of its slots; gives who is told.
        """
        self.check_open()
        for shard, positions, local in self._by_shard(slots):
            shard.link.read(local, operation(positions), dbr_type, count)

    def begin_ask(self, slot: int, operation: One, dbr_type: int = AUTO, count: int = 0) -> None:
        """Read one slot, once it is connected, and have the operation told; `dbr_type` and `count` as of `ask`."""
        self.check_open()
        self._links[self._shard_of[slot]].read(self._local[slot : slot + 1], operation, dbr_type, count)

    def ask(self, slot: int, timeout: float, dbr_type: int = AUTO, count: int = 0) -> One:
        """Read one slot from its server, waiting at most `timeout` seconds; returns what came, if it did.

        Parameters
        ----------
        dbr_type, count
            What to ask for: `daqca.link.AUTO` or `daqca.link.CTRL`, and how many elements (0: all there are).
        """
        self.check_open()
        link = self._links[self._shard_of[slot]]
        operation = One()
        try:
            if dbr_type == AUTO and not count:
                link.read_one(int(self._local[slot]), operation, timeout)
            else:
                link.read(self._local[slot : slot + 1], operation, dbr_type, count)
                operation.wait(timeout)
        finally:  # a Ctrl-C too gives it up
            if not operation.done:
                give_up(link, operation)
        if operation.row is None:
            self.check_open()
        return operation

    def last(self, slot: int) -> tuple[Any, ...] | None:
        """What is known of a slot from its monitors: a row in the order of `daqca.events.Event`, with the value as its
        user gets it; None if nothing is.
        """
        return self._delivery.last(slot)

    def reading(self, name: str, slot: int, operation: One) -> Reading:
        """What `ask` brought; raises what it means if it did not, as `get` does."""
        return self._delivery.reading(name, slot, operation)

    def refresh(self, operation: One, serial: int | None) -> None:
        """What `ask` brought is the last value of a PV that is monitored: see `daqca.engine.table.Table.refresh`."""
        if operation.row is not None and operation.batch is not None:
            with self.lock:
                self.table.refresh(operation.row, operation.batch, serial)

    def forget_reads(self, slots: Slots) -> None:
        """What was read of these ahead of their monitors, which do not come after all, is not the last value."""
        with self.lock:
            self.table.forget(slots[self.table.kinds[slots] == Kind.READ])

    def error(self, name: str, slot: int, operation: str, row: tuple[object, ...] | None = None) -> ChannelError:
        """What it means that a get or put of one slot was answered with a failure (its row), or not at all."""
        return self._delivery.error(name, slot, operation, row)

    def write(self, slot: int, encoded: tuple[int, int, bytes], operation: One | None, timeout: float = 0.0) -> None:
        """Write one slot; with an operation the server confirms it, and this waits at most `timeout` seconds for it.

        Parameters
        ----------
        encoded
            DBR type, count and bytes: see `daqca.ca.conversion.encode_value`.
        """
        self.check_open()
        self._links[self._shard_of[slot]].write_one(int(self._local[slot]), *encoded, operation, timeout)

    def give_up(self, slot: int, operation: One) -> None:
        """What was asked of a slot, or written to it, is waited for no more."""
        give_up(self._links[self._shard_of[slot]], operation)

    def confirmed(self, slot: int) -> None:
        """A put was confirmed: see `daqca.engine.doubts`. ``X`` and ``X.VAL`` are one field."""
        name = self._names[slot]
        twin = self._slots.get(name[:-4] if name.endswith(".VAL") else f"{name}.VAL")
        with self.lock:  # though there is no value yet: the first that a monitor tells may be from before the put
            self.table.doubts.doubt(slot)
            if twin is not None:
                self.table.doubts.doubt(twin)

    def waiting(self, wait: ConnectWait) -> AbstractContextManager[None]:
        """Have `wait` looked at whenever channels connect, in a ``with`` block."""
        return self._delivery.waiting(wait)
