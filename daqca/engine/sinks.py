"""Subscriptions of an engine: which events go to which sink, and under which number each sees its PVs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from daqca.dispatcher import Dispatcher
from daqca.events import ALL_SLOTS, Batch, Kind, Records, grown, pick
from daqca.link import METADATA

if TYPE_CHECKING:
    from daqca.engine.monitors import Monitors

Slots = npt.NDArray[np.uint32]

# Plain numbers: beside an enum's member NumPy looks for attributes, slowly, and drops a Ctrl-C that comes meanwhile.
_LOST, _PROPERTY = int(Kind.LOST), int(Kind.PROPERTY)
_TOLD: npt.NDArray[np.bool_] = np.zeros(256, np.bool_)
"""By kind: whether sinks are told such events."""
_TOLD[[Kind.UPDATE, Kind.CONNECTED, Kind.DISCONNECTED, Kind.ACCESS, Kind.LOST, Kind.REFUSED]] = True


class Sink(Protocol):
    """Whatever consumes batches: the recorder, alarms."""

    def deliver(self, batch: Batch) -> None:
        """Take a batch.

        Called on the thread that reads the network, in order, never twice at once: queue it, and neither
        block nor raise, nor call the engine. The records' slots are indices into the subscription's names.
        What a sink is told: CONNECTED (of channels already connected too), UPDATE, DISCONNECTED, ACCESS, REFUSED, LOST;
        and PROPERTY, if it was subscribed with metadata.
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


_MONITORED: npt.NDArray[np.bool_] = np.zeros(256, np.bool_)
"""By kind: whether its token is the mask that was subscribed with."""
_MONITORED[[Kind.UPDATE, Kind.PROPERTY, Kind.REFUSED]] = True

NARROW = 64
"""A subscription of so many PVs at most is found by its slots; a wider one looks at every batch."""


class Feeds:
    """The subscriptions of an engine, and which of them a batch concerns."""

    def __init__(self) -> None:
        self._wide: tuple[Subscription | Feed, ...] = ()
        self._narrow: dict[int, tuple[Subscription, ...]] = {}

    def add(self, subscription: Subscription | Feed) -> None:
        """Feed this one too."""
        if isinstance(subscription, Feed) or len(subscription.slots) > NARROW:
            if subscription not in self._wide:
                self._wide += (subscription,)
            return
        for slot in subscription.slots.tolist():
            self._narrow[slot] = (*self._narrow.get(slot, ()), subscription)

    def remove(self, subscription: Subscription | Feed) -> None:
        """Feed this one no more."""
        self._wide = tuple(other for other in self._wide if other is not subscription)
        if isinstance(subscription, Feed) or len(subscription.slots) > NARROW:
            return
        for slot in subscription.slots.tolist():
            left = tuple(other for other in self._narrow.get(slot, ()) if other is not subscription)
            if left:
                self._narrow[slot] = left
            else:
                self._narrow.pop(slot, None)

    def concerned(self, records: Records) -> tuple[Subscription | Feed, ...]:
        """The subscriptions that may want some of these events."""
        if not self._narrow:
            return self._wide
        slots = set(records["slot"].tolist())
        wanted = self._narrow.keys() if ALL_SLOTS in slots else slots & self._narrow.keys()
        narrow = {id(one): one for slot in wanted for one in self._narrow[slot]}
        return (*self._wide, *narrow.values())

    def concerned_rows(self, rows: Sequence[tuple[Any, ...]]) -> tuple[Subscription | Feed, ...]:
        """The same for a few updates."""
        if not self._narrow:
            return self._wide
        narrow = {id(one): one for row in rows for one in self._narrow.get(row[0], ())}
        return (*self._wide, *narrow.values())


class Feed:
    """Channels that come and go, for one sink, which sees them under the engine's slots.

    Its sink is told what those of a `Subscription` are, and PROPERTY events of what it monitors with
    `daqca.link.METADATA`.

    Parameters
    ----------
    sink
        See `Sink`.
    monitors
        Of the engine.
    """

    def __init__(self, sink: Sink, monitors: Monitors):
        self._sink = sink
        self._monitors = monitors
        self._is_mine: npt.NDArray[np.bool_] = np.zeros(64, np.bool_)
        self._masks: dict[int, npt.NDArray[np.bool_]] = {}

    def add(self, slots: Slots) -> None:
        """Tell of the connections of these channels from now on, and first of those that are connected."""
        self._monitors.join(self, slots)

    def monitor(self, slots: Slots, mask: int) -> None:
        """Monitor channels that were added and are not monitored with this mask."""
        self._monitors.begin(self, slots, mask)

    def end(self, slots: Slots, mask: int) -> None:
        """Monitor channels no more that are monitored with this mask."""
        self._monitors.end(self, slots, mask)

    def close(self) -> None:
        """End all of it."""
        self._monitors.close(self)

    # The rest is called under the engine's lock.

    def joined(self, slots: Slots) -> None:
        """These are told of."""
        self._is_mine = grown(self._is_mine, int(slots.max(initial=0)) + 1)
        self._is_mine[slots] = True

    def began(self, slots: Slots, mask: int) -> None:
        """These are monitored."""
        column = self._masks[mask] = grown(self._masks.get(mask, self._is_mine[:0]), len(self._is_mine))
        column[slots] = True

    def ended(self, slots: Slots, mask: int) -> None:
        """These are monitored no more."""
        self._masks[mask][slots] = False

    def monitored(self) -> list[tuple[int, Slots]]:
        """What is monitored, by mask."""
        return [(mask, np.flatnonzero(column).astype(np.uint32)) for mask, column in self._masks.items()]

    def offer(self, records: Records, batch: Batch) -> None:
        """See `Subscription.offer`."""
        kinds, slots = records["kind"], records["slot"]
        inside = slots < len(self._is_mine)
        places = slots if inside.all() else np.where(inside, slots, 0)
        mine = inside & self._is_mine[places] & _TOLD[kinds]
        monitored = _MONITORED[kinds] & inside
        if monitored.any():
            tokens = records["token"]
            wanted = np.zeros(len(records), np.bool_)
            for mask, column in self._masks.items():
                known = places < len(column)
                wanted |= (tokens == mask) & known & column[np.where(known, places, 0)]
            mine = np.where(monitored, wanted, mine)
        mine |= (kinds == _LOST) & (slots == ALL_SLOTS)
        if mine.all():
            self._sink.deliver(Batch(records, batch.block))
        elif mine.any():
            self._sink.deliver(Batch(pick(records, mine), batch.block))

    def offer_rows(self, rows: Sequence[tuple[Any, ...]], batch: Batch) -> None:
        """The same for a few updates of numbers."""
        masks = self._masks
        mine = [
            row
            for row in rows
            if (column := masks.get(row[8])) is not None and row[0] < len(column) and column.item(row[0])
        ]
        if mine:
            self._sink.deliver(batch if len(mine) == len(rows) else Batch(rows=mine))


class Subscription:
    """The PVs of one sink, until it is closed.

    Attributes
    ----------
    names
        The PVs, without repetitions; a batch's slots are indices into it.
    mask
        What is told: see `daqca.ca.dbr.Mask`.
    metadata
        Whether units, limits and the names of states are told too.
    events
        How many events the sink was given.
    """

    def __init__(
        self, names: Sequence[str], slots: npt.NDArray[np.uint32], sink: Sink, mask: int, metadata: bool = False
    ):
        self.names = list(names)
        self.slots = slots
        self.mask = mask
        self.metadata = metadata
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
        mine &= ~_MONITORED[kinds] | (records["token"] == self.mask)
        if self.metadata:
            mine |= (places >= 0) & (kinds == _PROPERTY) & (records["token"] == METADATA)
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
        close = self._close
        if close is not None:
            close(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
