"""Subscriptions of an engine: which events go to which sink, and under which number each sees its PVs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from daqca.engine.dispatcher import Dispatcher
from daqca.events import ALL_SLOTS, Batch, Kind, Records, pick


class Sink(Protocol):
    """Whatever consumes batches: the recorder, alarms."""

    def deliver(self, batch: Batch) -> None:
        """Take a batch.

        Called on the thread that reads the network, in order, never twice at once: queue it, and neither
        block nor raise. The records' slots are indices into the subscription's names. What a sink is told:
        CONNECTED (of channels already connected too), UPDATE, DISCONNECTED, ACCESS, REFUSED, LOST.
        """


class CallbackSink:
    """A function as a sink: it runs on the dispatcher thread, and may block."""

    def __init__(self, function: Callable[[Batch], Any], dispatcher: Dispatcher):
        self._function = function
        self._dispatcher = dispatcher

    def deliver(self, batch: Batch) -> None:
        """See `Sink.deliver`."""
        self._dispatcher.put(self._function, batch)


class Subscription:
    """The PVs of one sink, until it is closed.

    Attributes
    ----------
    names
        The PVs, without repetitions; a batch's slots are indices into it.
    mask
        What is told: see `daqca.ca.dbr.Mask`.
    events
        How many events the sink was given.
    """

    def __init__(self, names: Sequence[str], slots: npt.NDArray[np.uint32], sink: Sink, mask: int):
        self.names = list(names)
        self.slots = slots
        self.mask = mask
        self.events = 0
        self._sink = sink
        self._index: npt.NDArray[np.int64] = np.full(int(slots.max(initial=0)) + 1, -1, np.int64)
        self._index[slots] = np.arange(len(slots))
        self._close: Callable[[Subscription], None] | None = None

    def offer(self, records: Records, batch: Batch) -> None:
        """Hand on what is for this sink (of records with engine slots). The caller holds the engine's lock."""
        kinds = records["kind"]
        slots = records["slot"]
        inside = slots < len(self._index)
        places = self._index[np.where(inside, slots, 0)]
        mine = inside & (places >= 0) & (kinds != Kind.READ)
        mine &= (kinds != Kind.UPDATE) | (records["token"] == self.mask)
        mine &= (kinds != Kind.WRITTEN) & (kinds != Kind.FAILED) & (kinds != Kind.PROPERTY)
        everyone = (kinds == Kind.LOST) & (slots == ALL_SLOTS)
        if everyone.any():
            mine |= everyone
            places = np.where(everyone, ALL_SLOTS, places)
        if not mine.any():
            return
        if not mine.all():
            places = places[mine]
        records = pick(records, mine)
        records["slot"] = places
        self.events += len(records)
        self._sink.deliver(Batch(records, batch.block))

    def close(self) -> None:
        """End the subscription; the sink gets nothing more."""
        if self._close is not None:
            close, self._close = self._close, None
            close(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
