"""Reading and writing PVs with a word on what is wrong: readings, and what waits in asyncio instead of in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from daqca.engine.waits import ConnectWait
from daqca.errors import (
    AccessRightsError,
    ChannelError,
    EngineClosedError,
    PVDisconnectedError,
    PVNotFoundError,
    PVTimeoutError,
)
from daqca.link import CTRL
from daqca.operations import One
from daqca.outcome import Outcome
from daqca.proxies.attributes import LIMITS, native_type
from daqca.proxies.pause import left
from daqca.reading import Metadata, Reading

if TYPE_CHECKING:
    from daqca.pv_proxy import PV

log = logging.getLogger("daqca.pv")

_OUTCOMES: tuple[tuple[type[ChannelError], Outcome], ...] = (
    (PVNotFoundError, Outcome.NEVER_FOUND),
    (PVDisconnectedError, Outcome.DISCONNECTED),
    (PVTimeoutError, Outcome.TIMEOUT),
    (AccessRightsError, Outcome.NO_READ_ACCESS),
)


def reading_of(pv: PV, row: tuple[Any, ...], outcome: Outcome = Outcome.OK, why: str = "") -> Reading:
    """The reading of a row (see `daqca.proxies.channel.Row`)."""
    return Reading(pv.pvname, row[6], row[3], row[4], row[5], outcome, native_type(pv), metadata_of(pv), why=why)


def metadata_of(pv: PV) -> Metadata | None:
    """What is known of units, limits and states, without asking."""
    known = pv._known_metadata()
    if not known:
        return None
    limits = {name: float(known[name]) for name in LIMITS if name in known}
    return Metadata(known.get("units", ""), known.get("precision"), known.get("enum_strs", ()), **limits)


def absent(pv: PV, operation: str) -> ChannelError:
    """What it means that a PV is not connected."""
    pv.engine.check_open()
    if pv._is_detached:
        return PVDisconnectedError(
            f"{pv.pvname} is in no use since disconnect() was called; reconnect() makes it usable again",
            pvname=pv.pvname,
            operation=operation,
        )
    return pv.engine.error(pv.pvname, pv._begun(), operation)


def _failed(pv: PV, error: ChannelError) -> Reading:
    """The reading of a PV that could not be read: with its last value, if there was one."""
    outcome = next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), Outcome.REFUSED)
    row = pv._known_row()
    if row is not None and outcome is Outcome.DISCONNECTED:
        return reading_of(pv, row, Outcome.STALE, str(error))
    return Reading(pv.pvname, None, outcome=outcome, native_type=native_type(pv), why=str(error))


def _monitored(pv: PV) -> Reading | None:
    """The last value of a monitored PV, if it is to be trusted."""
    if pv.connected and pv._is_monitored() and pv._table.doubts.serial(pv._slot) is None:
        row = pv.engine.last(pv._slot)
        if row is not None:
            return reading_of(pv, row)
    return None


def _taken(pv: PV, operation: One, serial: int | None) -> Reading:
    """What a get has brought."""
    try:
        reading = pv.engine.reading(pv.pvname, pv._slot, operation)
    except ChannelError as error:
        return _failed(pv, error)
    row = operation.row or ()
    row = (*row[:6], reading.value, *row[7:])
    if pv._is_monitored():
        pv.engine.refresh(operation, serial)
    else:
        pv.keep(row)
    return reading_of(pv, row)


def read(pv: PV, timeout: float, fresh: bool) -> Reading:
    """See `PV.read`."""
    deadline = time.monotonic() + timeout
    if not pv.wait_for_connection(timeout):
        return _failed(pv, absent(pv, "get"))
    pv._metadata(left(deadline))
    found = None if fresh else _monitored(pv)
    if found is not None:
        return found
    serial = pv._table.doubts.serial(pv._slot)
    return _taken(pv, pv.engine.ask(pv._slot, left(deadline)), serial)


# --- asyncio ------------------------------------------------------------------------------------


class _Told(One):
    """One answer that a task waits for."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def complete(self) -> None:
        """See `Waiter.complete`."""
        super().complete()
        _tell(self.loop, self.future)


class _Connected(ConnectWait):
    """A connection that a task waits for."""

    __slots__ = ("future", "loop")

    def __init__(self, pv: PV) -> None:
        super().__init__(np.array([pv._begun()], np.uint32), pv._table)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def complete(self) -> None:
        """See `Waiter.complete`."""
        super().complete()
        _tell(self.loop, self.future)


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    def done() -> None:
        if not future.done():
            future.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(done)


async def _wait(future: asyncio.Future[None], timeout: float) -> bool:
    """Whether it is done in time."""
    done, _ = await asyncio.wait([future], timeout=timeout)
    return bool(done)


async def connect(pv: PV, timeout: float) -> bool:
    """Wait until a PV is connected; returns whether it is."""
    if not pv.connected and not pv._is_detached:
        wait = _Connected(pv)
        with pv.engine.waiting(wait):
            await _wait(wait.future, timeout)
    return pv.connected


async def _ask(pv: PV, operation: _Told, timeout: float) -> None:
    try:
        await _wait(operation.future, timeout)
    finally:
        pv.engine.give_up(pv._slot, operation)


async def _metadata(pv: PV, timeout: float) -> None:
    """Have units, limits and states known, as `PV.read` does."""
    if pv._slot not in pv._table.metadata:
        pv._want_metadata()
        operation = _Told()
        pv.engine.begin_ask(pv._slot, operation, CTRL, 1)
        await _ask(pv, operation, timeout)
        pv.take_metadata(operation)


async def aget(pv: PV, timeout: float, fresh: bool) -> Reading:
    """See `PV.aget`."""
    deadline = time.monotonic() + timeout
    if not await connect(pv, timeout):
        return _failed(pv, absent(pv, "get"))
    await _metadata(pv, left(deadline))
    found = None if fresh else _monitored(pv)
    if found is not None:
        return found
    serial = pv._table.doubts.serial(pv._slot)
    operation = _Told()
    pv.engine.begin_ask(pv._slot, operation)
    await _ask(pv, operation, left(deadline))
    return _taken(pv, operation, serial)


async def aput(pv: PV, value: Any, wait: bool, timeout: float) -> None:
    """See `PV.aput`."""
    deadline = time.monotonic() + timeout
    if not await connect(pv, timeout):
        raise absent(pv, "put")
    pv.check_writable()
    encoded = await asyncio.to_thread(pv._encode, value) if isinstance(value, str) else pv._encode(value)
    if not wait:
        pv.engine.write(pv._slot, encoded, None)
        return
    operation = _Told()
    pv.engine.write(pv._slot, encoded, operation)
    await _ask(pv, operation, left(deadline))
    if not pv.was_written(operation):
        raise pv.engine.error(pv.pvname, pv._slot, "put", operation.row)


class Updates(AsyncIterator[Reading]):
    """See `PV.updates`.

    Attributes
    ----------
    dropped
        How many readings were dropped because they were not taken in time.
    """

    def __init__(self, pv: PV, limit: int) -> None:
        self.dropped = 0
        self._pv = pv
        self._limit = max(1, limit)
        self._waiting: deque[Reading] = deque()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._future: asyncio.Future[None] | None = None
        self._has_begun = self._has_ended = False
        self._index = object()
        self._before: tuple[bool | int | None, ...] = ()  # `auto_monitor`, if it is changed for this
        # The PV does not keep alive what an ``async for`` that was left has left behind.
        self._update = _weakly(weakref.WeakMethod(self._updated))
        self._connection = _weakly(weakref.WeakMethod(self._changed))

    def __aiter__(self) -> Updates:
        return self

    async def __anext__(self) -> Reading:
        if self._loop is None and not self._has_ended:
            self._loop = asyncio.get_running_loop()
            self._begin()
        while True:
            with self._lock:
                if self._waiting:
                    return self._waiting.popleft()
                if self._pv.engine.is_closed:
                    raise EngineClosedError(f"the engine of {self._pv.pvname} was closed: no more updates come")
                if self._has_ended:
                    raise StopAsyncIteration
                future = self._future = asyncio.get_running_loop().create_future()
            await future

    def _begin(self) -> None:
        """First the value that there is, then the updates that come after it, each once."""
        pv, watch = self._pv, self._pv._watch
        pv._begun()
        watch.endings.add(self)
        if not (pv._wants_monitor() if pv._if_short else pv._mask):  # or nobody knows yet how long it is
            self._before, pv.auto_monitor = (pv._auto_monitor,), True
        pv.connection_callbacks.append(self._connection)
        pv.add_callback(self._update, index=self._index, with_ctrlvars=False)
        with pv.engine.lock:
            # What waits for callbacks now is older than this value.
            is_known = pv.connected and pv._is_monitored() and watch.wishes.was_told(pv._slot)
            row = pv._known_row() if is_known else None
            watch.callbacks.call(partial(self._started, row))

    def _started(self, row: tuple[Any, ...] | None) -> None:
        self._has_begun = True
        if row is not None:
            self._put(reading_of(self._pv, row))

    def _updated(self, value: Any = None, **kw: Any) -> None:
        if self._has_begun:
            stamp = int(kw["posixseconds"]) * 1_000_000_000 + kw["nanoseconds"]
            row = (0, 0, 0, kw["status"], kw["severity"], stamp, value, kw["count"], 0)
            self._put(reading_of(self._pv, row))

    def _changed(self, conn: bool = True, **kw: Any) -> None:
        if self._has_begun and not conn:
            self._put(_failed(self._pv, absent(self._pv, "get")))

    def _put(self, reading: Reading) -> None:
        with self._lock:
            if self._has_ended:
                return
            if len(self._waiting) >= self._limit:
                self._waiting.popleft()
                self.dropped += 1
                if self.dropped == 1:
                    log.warning("updates of %s are taken too slowly: the oldest are dropped", self._pv.pvname)
            self._waiting.append(reading)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            future, self._future = self._future, None
        if future is not None and self._loop is not None:
            _tell(self._loop, future)

    def end(self) -> None:
        """Nothing is taken in any more. Called in any thread."""
        with self._lock:
            self._has_ended = True
        self._wake()

    async def aclose(self) -> None:
        """End it: who waits for a reading waits no more."""
        self.end()
        self._waiting.clear()
        if self._loop is not None:
            _forget(self._pv, self._index, self._connection, self._before)

    def __del__(self) -> None:
        if self._loop is not None and not self._has_ended:
            end = partial(_forget, self._pv, self._index, self._connection, self._before)
            self._pv._watch.callbacks.call(end)


def _forget(pv: PV, index: Any, connection: Callable[..., None], before: tuple[bool | int | None, ...]) -> None:
    if before and not pv.engine.is_closed:
        pv.auto_monitor = before[0]
    pv.remove_callback(index)
    if connection in pv.connection_callbacks:
        pv.connection_callbacks.remove(connection)
    pv._hush()


def _weakly(method: weakref.WeakMethod[Callable[..., None]]) -> Callable[..., None]:
    def call(**kw: Any) -> None:
        found = method()
        if found is not None:
            found(**kw)

    return call
