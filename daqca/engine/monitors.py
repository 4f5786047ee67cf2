"""Who monitors what: a channel is subscribed once for each mask, however many sinks want it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daqca.dispatcher import Dispatcher
from daqca.engine.sinks import CallbackSink, Feed, Sink, Subscription
from daqca.events import Batch, Kind, grown
from daqca.link import METADATA

if TYPE_CHECKING:
    from daqca.engine.deliver import Delivery
    from daqca.engine.engine import Engine

Slots = npt.NDArray[np.uint32]


class Monitors:
    """The monitors of an engine, with their users."""

    def __init__(self, engine: Engine, delivery: Delivery, dispatcher: Dispatcher):
        self._engine = engine
        self._delivery = delivery
        self._dispatcher = dispatcher
        self._changing = threading.RLock()
        self._users: dict[int, npt.NDArray[np.uint32]] = {}
        """By mask: how many want it, by slot."""

    def subscribe(
        self, names: Sequence[str], slots: Slots, sink: Sink | Callable[[Batch], Any], mask: int, metadata: bool
    ) -> Subscription:
        """See `Engine.subscribe`."""
        target = sink if hasattr(sink, "deliver") else CallbackSink(sink, self._dispatcher)
        subscription = Subscription(names, slots, target, mask, metadata)
        with self._changing:
            new = self._count(slots, mask, 1)
            described = self._count(slots, METADATA, 1) if metadata else np.ones(len(slots), np.bool_)
            subscription._close = self._unsubscribe
            try:
                self._delivery.attach(subscription, slots, mask, known=~new, described=~described)
                self._ask(slots[new], mask)
                if metadata:
                    self._ask(slots[described], METADATA)
            except BaseException:
                subscription.close()
                raise
        return subscription

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._changing:
            if subscription._close is None:  # another thread closed it meanwhile
                return
            subscription._close = None
            self._delivery.detach(subscription)
            self._release(subscription.slots, subscription.mask)
            if subscription.metadata:
                self._release(subscription.slots, METADATA)

    def join(self, feed: Feed, slots: Slots) -> None:
        """Tell a feed of the connections of these channels, and first of those that are connected."""
        with self._changing, self._engine.lock:
            feed.joined(slots)
            nothing = np.zeros(len(slots), np.bool_)
            self._delivery.attach(feed, slots, 0, known=nothing, described=nothing)

    def begin(self, feed: Feed, slots: Slots, mask: int) -> None:
        """Monitor channels for a feed, which does not with this mask yet."""
        with self._changing:
            new = self._count(slots, mask, 1)
            try:
                with self._engine.lock:
                    feed.began(slots, mask)
                    self._delivery.catch_up(feed, slots[~new], mask)
                self._ask(slots[new], mask)
            except BaseException:
                self.end(feed, slots, mask)
                raise

    def end(self, feed: Feed, slots: Slots, mask: int) -> None:
        """Monitor channels no more for a feed."""
        with self._changing:
            with self._engine.lock:
                feed.ended(slots, mask)
            self._release(slots, mask)

    def close(self, feed: Feed) -> None:
        """A feed ends, with its monitors."""
        with self._changing:
            self._delivery.detach(feed)
            for mask, slots in feed.monitored():
                self.end(feed, slots, mask)

    def has(self, slots: Slots, but: int = METADATA) -> npt.NDArray[np.bool_]:
        """Which of these have their values monitored with any mask but this one, shape (n,). The caller holds the
        engine's lock.
        """
        monitored = np.zeros(len(slots), np.bool_)
        for mask, users in self._users.items():
            if mask not in (but, METADATA):
                inside = slots < len(users)
                monitored |= inside & (users[np.where(inside, slots, 0)] > 0)
        return monitored

    def _ask(self, slots: Slots, mask: int) -> None:
        for shard, _, local in self._engine._by_shard(slots):
            shard.link.subscribe(local, mask)

    def _release(self, slots: Slots, mask: int) -> None:
        ended = self._count(slots, mask, -1)
        if not self._engine.is_closed:
            for shard, _, local in self._engine._by_shard(slots[ended]):
                shard.link.unsubscribe(local, mask)

    def _count(self, slots: Slots, mask: int, change: int) -> npt.NDArray[np.bool_]:
        """Count who monitors; returns where the first came, or the last went."""
        table = self._engine.table
        with self._engine.lock:
            users = self._users[mask] = grown(self._users.get(mask, np.zeros(0, np.uint32)), table.capacity)
            turned: npt.NDArray[np.bool_]
            if change > 0:
                turned = users[slots] == 0
            users[slots] += np.uint32(change % 2**32)
            if change < 0:
                turned = users[slots] == 0
            # Between one subscription and the next nobody keeps what is known up to date. What was read just before one
            # begins is as good as what it will tell first.
            if mask == METADATA:
                table.forget_metadata(slots[turned])
            else:
                unknown = slots[turned & ~self.has(slots, but=mask)]
                table.forget(unknown if change < 0 else unknown[table.kinds[unknown] != Kind.READ])
            return turned

    def forked(self) -> None:
        """In the child of a fork: a lock that nobody holds."""
        self._changing = threading.RLock()
