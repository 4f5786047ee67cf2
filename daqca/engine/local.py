"""A shard in this process: the link that the engine uses when it has no workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.ca.context import Context
from daqca.ca.settings import Settings
from daqca.events import grown
from daqca.link import AUTO, Deliver, Slots, asked
from daqca.operations import Operation, Operations

_NONE = 0xFFFFFFFF
_PATIENCE = 2.0
"""Seconds that what was put has to leave this host when all is closed: a server may take nothing any more."""


class LocalLink:
    """See `daqca.link.Link`."""

    def __init__(self, deliver: Deliver, settings: Settings | None = None):
        self.operations = Operations()
        self._context = Context(lambda batch: deliver(self, batch), settings)
        self._ids: dict[int, npt.NDArray[np.uint32]] = {}
        """By mask: the id of each slot's subscription."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The context's lock, which the child of a fork has anew."""
        return self._context.lock

    def add(self, names: Sequence[str]) -> Slots:
        """See `daqca.link.Link.add`."""
        return self._context.add(names)

    def _register(self, operation: Operation) -> Callable[[int], None]:
        return lambda first: self.operations.add(first, operation)

    def read(self, slots: Slots, operation: Operation, dbr_type: int = AUTO, count: int = 0) -> None:
        """See `daqca.link.Link.read`."""
        self._context.read(slots, self._register(operation), dbr_type, count)

    def read_one(self, slot: int, operation: Operation, timeout: float) -> None:
        """See `daqca.link.Link.read_one`; the waiting thread reads the circuit itself if nobody else does."""

        def register(id_: int) -> Operation:
            self.operations.add(id_, operation)
            return operation

        answer = self._context.read_now(slot, register, timeout)
        if type(answer) is tuple:
            operation.answer(answer)
        elif answer is None:
            self._context.ask(slot, lambda: self._context.read_one(slot, register), operation, timeout)

    def write_one(
        self, slot: int, dbr_type: int, count: int, payload: bytes, operation: Operation | None, timeout: float = 0.0
    ) -> None:
        """See `daqca.link.Link.write_one`."""
        context = self._context
        if operation is None:
            context.write_one(slot, dbr_type, count, payload, None)
            return
        wanted = operation

        def register(id_: int) -> Operation:
            self.operations.add(id_, wanted)
            return wanted

        if timeout <= 0:
            context.write_one(slot, dbr_type, count, payload, register)
            return
        answer = context.write_now(slot, dbr_type, count, payload, register, timeout)
        if type(answer) is tuple:
            wanted.answer(answer)
        elif answer is None:
            context.ask(slot, lambda: context.write_one(slot, dbr_type, count, payload, register), wanted, timeout)

    def write_doubles(self, slots: Slots, values: npt.NDArray[np.float64], operation: Operation | None) -> None:
        """See `daqca.link.Link.write_doubles`."""
        register = self._register(operation) if operation is not None else None
        self._context.write_doubles(slots, values, register)

    def cancel(self, operation: Operation) -> None:
        """See `daqca.link.Link.cancel`."""
        with self.lock:
            self.operations.discard(operation)
            self._context.cancel(operation.first, operation.n)

    def subscribe(self, slots: Slots, mask: int) -> None:
        """See `daqca.link.Link.subscribe`."""
        with self.lock:
            ids = grown(self._ids.get(mask, np.zeros(0, np.uint32)), int(slots.max(initial=0)) + 1, _NONE)
            self._ids[mask] = ids
            ids[slots] = self._context.subscribe(slots, *asked(mask), label=mask)

    def unsubscribe(self, slots: Slots, mask: int) -> None:
        """See `daqca.link.Link.unsubscribe`."""
        with self.lock:
            known = self._ids.get(mask, np.zeros(0, np.uint32))
            slots = slots[slots < len(known)]  # a call that was broken off may not have subscribed them
            ids = known[slots]
            known[slots] = _NONE
            self._context.unsubscribe(ids[ids != _NONE])

    def hosts(self, slots: Slots) -> list[str]:
        """See `daqca.link.Link.hosts`."""
        return self._context.hosts(slots)

    def stats(self) -> dict[str, Any]:
        """See `daqca.link.Link.stats`."""
        return self._context.stats()

    def close(self) -> None:
        """See `daqca.link.Link.close`. What was put goes out before."""
        self._context.drain(_PATIENCE)
        self._context.close()
