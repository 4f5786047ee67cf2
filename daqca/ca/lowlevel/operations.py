"""Gets and puts of the low-level interface that are under way: who waits for them, and what came.

They are told of their end by the delivery of their context, under its lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from daqca.ca.eca import ECA, from_number
from daqca.events import Batch, Kind, Records
from daqca.operations import Operation, Waiter

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from daqca.ca.lowlevel.channel import Channel

log = logging.getLogger("daqca.ca")

_READ, _WRITTEN = int(Kind.READ), int(Kind.WRITTEN)


class Connected(Waiter):
    """Done when a channel is connected (or was cleared: then nobody need wait any longer)."""

    __slots__ = ("channel",)

    def __init__(self, channel: Channel):
        super().__init__()
        self.channel = channel

    def look(self) -> None:
        """Something has changed. The caller holds the context's lock."""
        if self.channel.is_connected or self.channel.is_cleared:
            self.complete()


class _Single(Operation):
    """One request of one channel.

    Attributes
    ----------
    status
        The ECA status it ended with; 0 as long as it has not.
    """

    __slots__ = ("channel", "status")

    def __init__(self, channel: Channel):
        super().__init__(1)
        self.channel = channel
        self.status = 0

    def accept(self, places: npt.NDArray[np.int64], records: Records, batch: Batch) -> None:
        """See `Operation.accept`."""
        self.accept_row(0, tuple(next(iter(Batch(records, batch.block)))), batch)

    def fail(self, status: int) -> None:
        """It ends without an answer. The caller holds the context's lock."""
        if not self.done:
            self.status = status
            self.complete()


class Get(_Single):
    """A get, with what came.

    Attributes
    ----------
    dbr_type, count
        What was asked for; count 0: as many elements as there are.
    writes
        How often the channel had been written by us when it was asked for; -1: not known.
    thread
        Who asked.
    row, data
        The answer, as a row of `daqca.events.Event`, and its bytes, where it is not a number.
    """

    __slots__ = ("count", "data", "dbr_type", "row", "thread", "writes")

    def __init__(self, channel: Channel, dbr_type: int, count: int = 0):
        super().__init__(channel)
        self.dbr_type = dbr_type
        self.count = count
        self.thread = get_ident()
        self.writes = channel.writes
        channel.unanswered.add(self)
        self.row: tuple[Any, ...] = ()
        self.data: bytes | memoryview = b""

    def accept_row(self, place: int, row: tuple[Any, ...], batch: Batch) -> None:
        """See `Operation.accept_row`."""
        self.row = row
        self.status = ECA.NORMAL if row[1] == _READ else from_number(row[3])
        if isinstance(row[6], tuple):
            self.data = batch.data(*row[6])

    def will_do(self, count: int) -> bool:
        """Whether its answer is still to come, and will be what one would get who asked for so many elements now."""
        return not self.done and self.count == count and self.writes == self.channel.writes

    def complete(self) -> None:
        """See `Waiter.complete`."""
        self.channel.unanswered.discard(self)
        super().complete()


class Put(_Single):
    """A put whose end somebody waits for, or wants to be called at.

    Parameters
    ----------
    ended
        Called once at its end, whatever that is, with the ECA status; under the context's lock.
    """

    __slots__ = ("_ended",)

    def __init__(self, channel: Channel, ended: Callable[[int], None] | None = None):
        super().__init__(channel)
        self._ended = ended
        channel.writes += 1

    def accept_row(self, place: int, row: tuple[Any, ...], batch: Batch) -> None:
        """See `Operation.accept_row`."""
        self.status = ECA.NORMAL if row[1] == _WRITTEN else from_number(row[3])

    def complete(self) -> None:
        """See `Waiter.complete`."""
        if not self.done:
            self.channel.puts.discard(self)
            if self._ended is not None:
                self._ended(self.status)
        super().complete()
