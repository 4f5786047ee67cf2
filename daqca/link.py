"""What an engine asks of a shard, wherever the shard is: the contract of its two transports.

Implemented in process by `daqca.engine.local` and through worker processes by `daqca.workers.link`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from daqca.events import Batch, Kind
from daqca.operations import Operation, Operations

Slots = npt.NDArray[np.uint32]

AUTO = 255
"""As a DBR type: with time and alarm, scalar numbers as DOUBLE, all else as what it is."""
CTRL = 254
"""As a DBR type: the DBR_CTRL structure of the channel's native type, with one element."""
NATIVE, NATIVE_TIME, NATIVE_CTRL = 251, 252, 253
"""As a DBR type of a subscription: that of the channel, plain, with time and alarm, or as DBR_CTRL structure (of a
STRING, which has none, with time and alarm). It follows the channel, if its type is another after a reconnection."""


METADATA = 0x100
"""As a mask: the DBR_CTRL structure of one element, now and whenever the server says that units, limits or the names
of states have changed (DBE_PROPERTY). The events are PROPERTY then, and no UPDATE."""
_DBE_PROPERTY = 8


def asked(mask: int) -> tuple[int, int, int]:
    """What a subscription asks a server for: the mask, the DBR type, and the kind of its events."""
    return (_DBE_PROPERTY, CTRL, Kind.PROPERTY) if mask == METADATA else (mask, AUTO, Kind.UPDATE)


class Link(Protocol):
    """One shard, as the engine uses it. Slots are the shard's own, counted from 0.

    The link calls ``deliver(link, batch)`` (given to its constructor) with every batch, in order, holding
    `lock`. Answers to requests come as READ, WRITTEN and FAILED events whose tokens are those of the
    operation. CONNECTED, DISCONNECTED and ACCESS events come for every channel that was added;
    an UPDATE event's token is the mask that was subscribed with.
    """

    operations: Operations

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """A lock, re-entrant, that is held while batches are delivered."""

    def add(self, names: Sequence[str]) -> Slots:
        """Add channels (new names only) and begin to connect them; returns their slots, shape (n,)."""

    def read(self, slots: Slots, operation: Operation, dbr_type: int = AUTO, count: int = 0) -> None:
        """Read; channels that are not connected are read when they are. Registers the operation first."""

    def read_one(self, slot: int, operation: Operation, timeout: float) -> None:
        """Read one slot and wait for the answer, at most `timeout` seconds: the quick way."""

    def write_one(
        self, slot: int, dbr_type: int, count: int, payload: bytes, operation: Operation | None, timeout: float = 0.0
    ) -> None:
        """Write one value; with an operation, the server confirms it, and this waits at most `timeout` seconds."""

    def write_doubles(self, slots: Slots, values: npt.NDArray[np.float64], operation: Operation | None) -> None:
        """Write one number to each channel; one that is not connected fails its request."""

    def cancel(self, operation: Operation) -> None:
        """Give up what the operation still waits for. No answer to it is delivered after this."""

    def subscribe(self, slots: Slots, mask: int) -> None:
        """Subscribe with a mask (or with `METADATA`); a slot and mask are subscribed once at most."""

    def unsubscribe(self, slots: Slots, mask: int) -> None:
        """End subscriptions."""

    def hosts(self, slots: Slots) -> list[str]:
        """``host:port`` of the server of each channel, ``""`` where it is not connected."""

    def stats(self) -> dict[str, Any]:
        """Counters, plain numbers and texts."""

    def close(self) -> None:
        """End the shard. Operations under way stay incomplete."""


Deliver = Callable[[Link, Batch], None]
