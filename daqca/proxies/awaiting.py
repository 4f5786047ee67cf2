"""Reading and writing PVs with a word on what is wrong: readings, and what waits in asyncio instead of in a thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from daqca.engine.waits import ConnectWait
from daqca.errors import AccessRightsError, ChannelError, PVDisconnectedError, PVNotFoundError, PVTimeoutError
from daqca.operations import One
from daqca.outcome import Outcome
from daqca.proxies.attributes import LIMITS, native_type
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
    return Reading(
        pv.pvname, row[6], row[3], row[4], row[5], outcome, native_type(pv), metadata_of(pv) or None, why=why
    )


def metadata_of(pv: PV) -> Metadata | None:
    """What is known of units, limits and states, without asking."""
    known = pv._known_metadata()
    if not known:
        return None
    limits = {name: float(known[name]) for name in LIMITS if name in known}
    return Metadata(known.get("units", ""), known.get("precision"), known.get("enum_strs", ()), **limits)


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
    if not pv.wait_for_connection(timeout):
        return _failed(pv, pv.engine.error(pv.pvname, pv._begun(), "get"))
    pv._metadata(timeout)
    found = None if fresh else _monitored(pv)
    if found is not None:
        return found
    serial = pv._table.doubts.serial(pv._slot)
    return _taken(pv, pv.engine.ask(pv._slot, timeout), serial)


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

    if not loop.is_closed():
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


async def aget(pv: PV, timeout: float, fresh: bool) -> Reading:
    """See `PV.aget`."""
    if not await connect(pv, timeout):
        return _failed(pv, pv.engine.error(pv.pvname, pv._begun(), "get"))
    found = None if fresh else _monitored(pv)
    if found is not None:
        return found
    serial = pv._table.doubts.serial(pv._slot)
    operation = _Told()
    pv.engine.begin_ask(pv._slot, operation)
    await _ask(pv, operation, timeout)
    return _taken(pv, operation, serial)


async def aput(pv: PV, value: Any, wait: bool, timeout: float) -> None:
    """See `PV.aput`."""
    if not await connect(pv, timeout):
        raise pv.engine.error(pv.pvname, pv._begun(), "put")
    pv.check_writable()
    encoded = await asyncio.to_thread(pv._encode, value) if isinstance(value, str) else pv._encode(value)
    if not wait:
        pv.engine.write(pv._slot, encoded, None)
        return
    operation = _Told()
    pv.engine.write(pv._slot, encoded, operation)
    await _ask(pv, operation, timeout)
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
        self._limit = limit
        self._waiting: deque[Reading] = deque()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._future: asyncio.Future[None] | None = None
        self._index = object()
        self._lost: Callable[..., None] = self._connection

    def __aiter__(self) -> Updates:
        return self

    async def __anext__(self) -> Reading:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._pv.connection_callbacks.append(self._lost)
            self._pv.add_callback(self._update, index=self._index, with_ctrlvars=False)
            row = self._pv._known_row()
            if row is not None and self._pv.connected and not self._waiting:
                return reading_of(self._pv, row)
        while True:
            with self._lock:
                if self._waiting:
                    return self._waiting.popleft()
                future = self._future = self._loop.create_future()
            await future

    def _update(self, value: Any = None, **kw: Any) -> None:
        stamp = int(kw["posixseconds"]) * 1_000_000_000 + kw["nanoseconds"]
        row = (0, 0, 0, kw["status"], kw["severity"], stamp, value, kw["count"], 0)
        self._put(reading_of(self._pv, row))

    def _connection(self, conn: bool = True, **kw: Any) -> None:
        if not conn:
            pv = self._pv
            self._put(_failed(pv, pv.engine.error(pv.pvname, pv._begun(), "get")))

    def _put(self, reading: Reading) -> None:
        with self._lock:
            if len(self._waiting) >= self._limit:
                self._waiting.popleft()
                self.dropped += 1
                if self.dropped == 1:
                    log.warning("updates of %s are taken too slowly: the oldest are dropped", self._pv.pvname)
            self._waiting.append(reading)
            future, self._future = self._future, None
        if future is not None and self._loop is not None:
            _tell(self._loop, future)

    async def aclose(self) -> None:
        """End it: nothing is taken in any more."""
        if self._loop is not None:
            self._pv.remove_callback(self._index)
            if self._lost in self._pv.connection_callbacks:
                self._pv.connection_callbacks.remove(self._lost)
