"""The PVs of one engine: what begins when they are made, what they monitor, and whose callbacks an event is for.

Values are kept nowhere but in the engine's table; here is only who wants to be told of what.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daqca.dispatcher import Dispatcher
from daqca.engine.table import ChannelState
from daqca.errors import DaqcaError, EngineClosedError
from daqca.events import Batch, BatchBuilder, Event, Kind, different, grown, has_block, is_number, pick
from daqca.link import METADATA
from daqca.operations import Waiter
from daqca.proxies.wishes import Wishes

if TYPE_CHECKING:
    from daqca.engine import Engine
    from daqca.proxies.awaiting import Updates
    from daqca.proxies.calling import CallingProxy
    from daqca.proxies.channel import ChannelProxy

log = logging.getLogger("daqca.pv")

Slots = npt.NDArray[np.uint32]

_UPDATE, _CONNECTED, _DISCONNECTED = int(Kind.UPDATE), int(Kind.CONNECTED), int(Kind.DISCONNECTED)
_LOST, _REFUSED = int(Kind.LOST), int(Kind.REFUSED)
_IS_CONNECTED = int(ChannelState.CONNECTED)
_VALUES, _CHANGES = 1, 2
"""What the PVs of a slot want to be told of."""
GATHERING = 0.001
"""Seconds for which new PVs are gathered, so that they are searched and monitored together."""


_making = threading.Lock()


def _forked() -> None:
    global _making
    _making = threading.Lock()  # perhaps a thread of the parent held it


os.register_at_fork(after_in_child=_forked)


def watch_of(engine: Engine) -> Watch:
    """The watch of an engine, made at its first use."""
    watch = engine.watch
    if watch is None:
        with _making:
            watch = engine.watch
            if watch is None:
                watch = engine.watch = Watch(engine, engine.dispatcher)
    return watch  # type: ignore[no-any-return]


LONGEST_PAUSE = 0.1
"""Seconds after which somebody who waits for a condition looks again though nothing was heard."""


class Watch:
    """The PVs of one engine. It is a sink: see `daqca.engine.Sink`.

    Parameters
    ----------
    engine
        The engine.
    callbacks
        The dispatcher that runs users' callbacks.
    """

    def __init__(self, engine: Engine, callbacks: Dispatcher):
        self.engine = engine
        self.callbacks = callbacks
        self.feed = engine.feed(self)
        # Channels and monitors begin on a thread of their own: a callback may take its time.
        self._work = Dispatcher(name="daqca-pvs")
        self._slow_work = Dispatcher(name="daqca-pvs-slow")
        self.beginning = threading.RLock()
        self._adding = threading.Lock()
        self._new: list[CallingProxy] = []
        self._released: deque[tuple[int, int, bool, bool]] = deque()
        self._is_releasing = False
        self.wishes = Wishes(self)
        self._is_joined: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._wanted: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._arrived: npt.NDArray[np.float64] | None = None
        self._listeners: dict[int, tuple[CallingProxy, ...]] = {}
        self._waits: list[Waiter] = []
        self._hosts: dict[int, str] = {}
        self.said: set[int] = set()
        """The slots of which was logged that they are not there, and why."""
        self.endings: weakref.WeakSet[Updates] = weakref.WeakSet()
        """Those who wait for updates, to be told of the end."""

    # --- PVs come and go ------------------------------------------------------------------------

    def add(self, pv: CallingProxy) -> None:
        """A PV was made: it begins soon, with all that are made meanwhile."""
        with self._adding:
            if not self._new:
                self.later(self._begin_soon)
            self._new.append(pv)

    def later(self, function: Callable[[], None]) -> None:
        """Call a function on the thread that begins PVs, unless the engine is closed by then or meanwhile."""
        self._work.call(partial(self._unless_closed, function))

    def aside(self, function: Callable[[], None]) -> None:
        """`later` for what may wait for a server, on a thread that keeps no PV from beginning."""
        self._slow_work.call(partial(self._unless_closed, function))

    def _unless_closed(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(EngineClosedError):
            self.engine.check_open()
            function()

    def _begin_soon(self) -> None:
        time.sleep(GATHERING)
        if self._new and not self.engine.is_closed:
            self.begin()

    def begin(self) -> None:
        """Have all begin that are new: their channels are searched, and what they want is monitored."""
        with self.beginning:
            try:
                while new := list(self._new):
                    self._begin(new)
                    with self._adding:
                        del self._new[: len(new)]
            except BaseException as error:
                if not isinstance(error, Exception):  # a Ctrl-C: the other thread does it again
                    self.later(self._begin_soon)
                raise
            self._release()

    def _begin(self, new: Sequence[CallingProxy]) -> None:
        slots = self.engine.slots([pv.pvname for pv in new])
        self._make_room()
        for pv, slot in zip(new, slots.tolist(), strict=True):
            pv._slot = slot
        is_quiet = ~self._is_joined[slots]
        self._join(different(slots))
        for pv in new:
            if pv._has_listeners():
                self.listen(pv, greet=True)
        is_quiet &= self._wanted[slots] == 0  # none has callbacks
        self.wishes.add(new, slots, is_quiet)

    def _make_room(self) -> None:
        capacity = self.engine.table.capacity
        self._is_joined = grown(self._is_joined, capacity)
        with self.engine.lock:
            self._wanted = grown(self._wanted, capacity)
            if self._arrived is not None:
                self._arrived = grown(self._arrived, capacity)
            self.wishes.grow(capacity)

    def _join(self, slots: Slots) -> None:
        slots = slots[~self._is_joined[slots]]
        if len(slots):
            self.feed.add(slots)
            self._is_joined[slots] = True

    def gone(self, pv: CallingProxy) -> None:
        """A PV is no more: what it wanted ends as soon as anything comes, or is begun. Called in any thread, with any
        lock held.
        """
        self._released.append((pv._slot, pv._mask, pv._if_short, pv._has_metadata))

    def _release(self) -> None:
        ended: dict[tuple[int, bool], list[int]] = {}
        while self._released:
            slot, mask, if_short, has_metadata = self._released.popleft()
            if mask:
                ended.setdefault((mask, if_short), []).append(slot)
            if has_metadata:
                ended.setdefault((METADATA, False), []).append(slot)
        for (mask, if_short), slots in ended.items():
            self.wishes.want(np.array(slots, np.uint32), mask, if_short, -1)

    def _release_now(self) -> None:
        self._is_releasing = False
        if not self.engine.is_closed:
            with self.beginning:
                self._release()

    def count_arrivals(self) -> None:
        """Take note of when updates arrive: some form of PV tells that as its timestamp."""
        with self.engine.lock:
            if self._arrived is None:
                # What is known already came before now: nobody knows by how much.
                self._arrived = np.full(self.engine.table.capacity, time.time())

    def arrived(self, slot: int) -> float:
        """When the last update of a slot arrived, in seconds since the Unix epoch; 0 if that is not known."""
        return self._arrived.item(slot) if self._arrived is not None and slot < len(self._arrived) else 0.0

    def host(self, slot: int) -> str | None:
        """The server of a slot, ``address:port``; None if it is on none. Asked for all at once, and kept."""
        host = self._hosts.get(slot)
        if host is None and self.engine.table.state.item(slot) == _IS_CONNECTED:
            with self.engine.lock:
                slots = np.fromiter(self._listeners.keys() | {slot}, np.uint32)
                slots = slots[self.engine.table.state[slots] == _IS_CONNECTED]
            known = self._hosts
            new = np.array([one for one in slots.tolist() if one not in known], np.uint32)
            try:
                known.update(zip(new.tolist(), self.engine.hosts(new), strict=True))
            except DaqcaError as error:  # a callback has more to tell than the server
                log.info("%s", error)
            host = known.get(slot)
        return host or None

    # --- callbacks ------------------------------------------------------------------------------

    def listen(self, pv: CallingProxy, greet: bool = False) -> None:
        """Tell a PV of what it has callbacks for, from now on.

        Parameters
        ----------
        greet
            Tell it also how things are now.
        """
        with self.beginning, self.engine.lock:
            slot = pv._slot
            listeners = self._listeners.get(slot, ())
            if not any(other is pv for other in listeners):
                self._listeners[slot] = (*listeners, pv)
                if not greet:
                    pv._told = self.engine.table.state.item(slot) == _IS_CONNECTED
            self._wanted[slot] |= _CHANGES | (_VALUES if pv._wants_values() else 0)
            if greet and self.engine.table.state.item(slot) == _IS_CONNECTED:
                self.callbacks.put(partial(self._tell, (pv,)), self._present(pv))
            self.wishes.hurry(np.array([slot], np.uint32))  # what it is to be told first, its monitor tells

    def _present(self, pv: CallingProxy) -> Batch:
        """How things are with a PV, as events. The caller holds the engine's lock."""
        slot, table, builder = pv._slot, self.engine.table, BatchBuilder()
        native, count, access = (column.item(slot) for column in (table.native_type, table.native_count, table.access))
        if table.state.item(slot) != _IS_CONNECTED:
            builder.rows.append((slot, _DISCONNECTED, 0, 0, 0, time.time_ns(), 0.0, 0, 0))
            return builder.build()
        builder.rows.append((slot, _CONNECTED, native, access, 0, time.time_ns(), 0.0, count, 0))
        if self.wishes.is_on(slot, pv._mask) and table.kinds.item(slot) == _UPDATE:
            row = table.last[slot].item()
            value = row[6] if is_number(row[1], row[2], row[7]) else builder.store(table.datum(slot)[2])
            builder.rows.append((slot, _UPDATE, *row[2:6], value, row[7], pv._mask))
        return builder.build()

    def ignore(self, pv: CallingProxy) -> None:
        """Tell a PV nothing any more."""
        with self.beginning, self.engine.lock:
            slot = pv._slot
            left = tuple(other for other in self._listeners.get(slot, ()) if other is not pv)
            if left:
                self._listeners[slot] = left
            else:
                self._listeners.pop(slot, None)
            if slot < len(self._wanted):
                self._wanted[slot] = _CHANGES * bool(left) | _VALUES * any(other._wants_values() for other in left)

    def deliver(self, batch: Batch) -> None:
        """See `daqca.engine.Sink.deliver`."""
        if batch.is_small and all(row[1] == _UPDATE and type(row[6]) is not tuple for row in batch.rows()):
            self._deliver_rows(batch.rows())
        else:
            self._deliver_records(batch)
        if self._released and not self._is_releasing:
            self._is_releasing = True
            self.later(self._release_now)
        self.wake()

    def were_read(self, slots: Slots) -> None:
        """The values of these were read ahead of their monitors. The caller holds the engine's lock."""
        if self._arrived is not None:
            self._arrived[slots] = time.time()
        self.wake()

    def wake(self) -> None:
        """Have who waits for a condition look again."""
        if self._waits:
            waits, self._waits = self._waits, []
            for wait in waits:
                wait.complete()

    def _deliver_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """A few updates of numbers."""
        wanted = self._wanted
        if self._arrived is not None:
            now = time.time()
            for row in rows:
                self._arrived[row[0]] = now
        told = [row for row in rows if row[0] < len(wanted) and wanted.item(row[0]) & _VALUES]
        if told:
            self.callbacks.put(self._tell_listeners, Batch(rows=told))

    def _deliver_records(self, batch: Batch) -> None:
        records = batch.records
        kinds, slots = records["kind"], records["slot"]
        updates = kinds == _UPDATE
        wanted = self._wanted
        inside = slots < len(wanted)
        places = slots if inside.all() else np.where(inside, slots, 0)
        if self._arrived is not None and updates.any():
            self._arrived[places[updates]] = time.time()
        if not updates.all():
            connected = slots[kinds == _CONNECTED]
            if len(connected):
                for slot in connected.tolist() if self._hosts or self.said else ():
                    self._hosts.pop(slot, None)
                    self.said.discard(slot)
                self.later(partial(self.wishes.connected, connected))
            refused = slots[kinds == _REFUSED]
            if len(refused):  # what was read ahead of a monitor that there will not be, is not the last value
                self.engine.forget_reads(refused)
        told = inside & ((wanted[places] & np.where(updates, _VALUES, _CHANGES)) != 0)
        if told.any():
            part = records if told.all() else pick(records, told)
            # Numbers do not keep the arrays beside which they came.
            block = batch.block if len(batch.block) and has_block(part).any() else b""
            self.callbacks.put(self._tell_listeners, Batch(part, block))

    def _tell_listeners(self, batch: Batch) -> None:
        find = self._listeners.get
        for row in batch.plain_rows():
            if row[1] == _LOST:
                self._tell_anew(row[7])
            for pv in find(row[0], ()):
                self._tell_one(pv, row, batch)

    def _tell_anew(self, dropped: int) -> None:
        """Events were dropped because callbacks are too slow: tell how things are now."""
        log.warning("callbacks of PVs are too slow: %d events were dropped, and are made up for by the last", dropped)
        with self.engine.lock:
            pvs = [pv for listeners in self._listeners.values() for pv in listeners]
            now = [(pv, self._present(pv)) for pv in pvs]
        for pv, batch in now:
            self._tell((pv,), batch)

    def _tell(self, pvs: Sequence[CallingProxy], batch: Batch) -> None:
        for row in batch.plain_rows():
            for pv in pvs:
                self._tell_one(pv, row, batch)

    def _tell_one(self, pv: CallingProxy, row: tuple[Any, ...], batch: Batch) -> None:
        try:
            if row[1] != _UPDATE:
                pv._on_change(Event._make(row))
            elif row[8] == pv._mask:
                pv._on_update(row, batch)
        except Exception:
            self.callbacks.raised(f"a callback of {pv.pvname} raised; it stays installed")

    def guard(self, pv: ChannelProxy, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Call a user's function; that it raised is logged and counted."""
        try:
            function(*args, **kwargs)
        except BaseException as error:
            if not isinstance(error, Exception) and not self.callbacks.is_mine:
                raise  # sys.exit and Ctrl-C end what the calling thread does
            self.failed(pv, function)

    def failed(self, pv: ChannelProxy, function: Callable[..., Any]) -> None:
        """A user's function raised, just now: log and count it."""
        self.callbacks.raised(f"the callback {function} of {pv.pvname} raised; it stays installed")

    # --- waiting --------------------------------------------------------------------------------

    def _next_change(self) -> Waiter:
        """Done when anything more is known of any PV."""
        wait = Waiter()
        with self.engine.lock:
            self._waits.append(wait)
        return wait

    def wait_for(self, condition: Callable[[], Any], timeout: float) -> Any:
        """See `Engine.wait_for`."""
        self.begin()
        deadline = time.monotonic() + timeout
        wait = self._next_change()
        try:
            while True:
                found = condition()
                left = deadline - time.monotonic()
                if found or left <= 0 or self.engine.is_closed:
                    return found
                if wait.wait(min(left, LONGEST_PAUSE)):
                    wait = self._next_change()
        finally:
            with self.engine.lock:
                self._waits = [other for other in self._waits if other is not wait]

    def forked(self) -> None:
        """In the child of a fork: nothing is left of it."""
        self.beginning, self._adding = threading.RLock(), threading.Lock()
        self._work.forked()
        self._slow_work.forked()
        self._new = []
        self._released.clear()
        self._listeners.clear()
        self.wishes.users.clear()

    def close(self) -> None:
        """The engine is closed."""
        self._work.close(quietly=True)
        self._slow_work.close(quietly=True)
        self.wishes.users.clear()
        with self._adding:
            self._new = []
        with self.engine.lock:
            for wait in self._waits:
                wait.complete()
        for updates in list(self.endings):
            updates.end()
