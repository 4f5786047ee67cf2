"""Subscriptions of an engine: which events go to which sink, and under which number each sees its PVs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from daqca.dispatcher import Dispatcher
from daqca.events import ALL_SLOTS, Batch, Kind, Records, pick

# Plain numbers: beside an enum's member NumPy looks for attributes, slowly, and drops a Ctrl-C that comes meanwhile.
_UPDATE, _LOST = int(Kind.UPDATE), int(Kind.LOST)
_TOLD: npt.NDArray[np.bool_] = np.zeros(256, np.bool_)
"""By kind: whether sinks are told such events."""
_TOLD[[Kind.UPDATE, Kind.CONNECTED, Kind.DISCONNECTED, Kind.ACCESS, Kind.LOST, Kind.REFUSED]] = True


class Sink(Protocol):
    """Whatever consumes batches: the recorder, alarms."""

    def deliver(self, batch: Batch) -> None:
        """Take a batch.

        Called on the thread that reads the network, in order, never twice at once: queue it, and neither
        block nor raise, nor call the engine. The records' slots are indices into the subscription's names.
        What a sink is told: CONNECTED (of channels already connected too), UPDATE, DISCONNECTED, ACCESS, REFUSED, LOST.
        """


class CallbackSink:
    """A function as a sink: it runs on the dispatcher thread, and may block."""

    def __init__(self, function: Callable[[Batch], Any], dispatcher: Dispatcher):
        self.closed = False
        self._function = function
        self._dispatcher = dispatcher

    def deliver(self, batch: Batch) -> None:
        """See `Sink.deliver`."""
        self._dispatcher.put(self._run, batch)

    def _run(self, batch: Batch) -> None:
        # What still waits when the subscription is closed is for nobody.
        if not self.closed:
            self._function(batch)


NARROW = 64
"""A subscription of so many PVs at most is found by its slots; a wider one looks at every batch."""


class Feeds:
    """The subscriptions of an engine, and which of them a batch concerns."""

    def __init__(self) -> None:
        self._wide: tuple[Subscription, ...] = ()
        self._narrow: dict[int, tuple[Subscription, ...]] = {}

    def add(self, subscription: Subscription) -> None:
        """Feed this one too."""
        if len(subscription.slots) > NARROW:
            self._wide += (subscription,)
            return
        for slot in subscription.slots.tolist():
            self._narrow[slot] = (*self._narrow.get(slot, ()), subscription)

    def remove(self, subscription: Subscription) -> None:
        """Feed this one no more."""
        self._wide = tuple(other for other in self._wide if other is not subscription)
        for slot in subscription.slots.tolist() if len(subscription.slots) <= NARROW else ():
            left = tuple(other for other in self._narrow.get(slot, ()) if other is not subscription)
            if left:
                self._narrow[slot] = left
            else:
                self._narrow.pop(slot, None)

    def concerned(self, records: Records) -> tuple[Subscription, ...]:
        """The subscriptions that may want some of these events."""
        if not self._narrow:
            return self._wide
        slots = set(records["slot"].tolist())
        wanted = self._narrow.keys() if ALL_SLOTS in slots else slots & self._narrow.keys()
        narrow = {id(one): one for slot in wanted for one in self._narrow[slot]}
        return (*self._wide, *narrow.values())


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
        # A wide subscription finds a slot's place in one step, a narrow one is spared the column for it.
        self._order = np.argsort(slots)
        self._sorted = slots[self._order]
        self._index: npt.NDArray[np.int32] | None = None
        if len(slots) > NARROW:
            self._index = np.full(int(slots.max()) + 1, -1, np.int32)
            self._index[slots] = np.arange(len(slots))
        self._close: Callable[[Subscription], None] | None = None

    def offer(self, records: Records, batch: Batch) -> None:
        """Hand on what is for this sink (of records with engine slots). The caller holds the engine's lock."""
        kinds = records["kind"]
        slots = records["slot"]
        places = self._places(slots)
        mine = (places >= 0) & _TOLD[kinds]
        mine &= (kinds != _UPDATE) | (records["token"] == self.mask)
        everyone = (kinds == _LOST) & (slots == ALL_SLOTS)
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

    def _places(self, slots: npt.NDArray[np.uint32]) -> npt.NDArray[Any]:
        """The index in `names` of each slot, -1 where it is not one of ours."""
        if self._index is not None:
            inside = slots < len(self._index)
            return np.where(inside, self._index[np.where(inside, slots, 0)], -1)
        if not len(self._sorted):
            return np.full(len(slots), -1)
        found = np.minimum(self._sorted.searchsorted(slots), len(self._sorted) - 1)
        return np.where(self._sorted[found] == slots, self._order[found], -1)

    def __repr__(self) -> str:
        return f"<Subscription of {len(self.names):,} PVs>"

    def close(self) -> None:
        """End the subscription; the sink gets nothing more."""
        if isinstance(self._sink, CallbackSink):
            self._sink.closed = True
        if self._close is not None:
            close, self._close = self._close, None
            close(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
