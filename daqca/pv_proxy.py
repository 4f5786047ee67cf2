"""The PV object of the manual's chapter 3, and what it has beyond that: a proxy of one channel of an engine.

What it says of its channel is in `daqca.proxies.channel`, how it is written in `daqca.proxies.putting`, its callbacks
are in `daqca.proxies.calling`; events come from `daqca.proxies.watch`. Here is how it is made, and what goes beyond.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from daqca.engine.default import default_engine
from daqca.engine.engine import Engine
from daqca.proxies import awaiting
from daqca.proxies.attributes import count_of
from daqca.proxies.cache import OneOrMore, cache, clear_pvcache, join, name_of  # noqa: F401 - clear_pvcache is handed on
from daqca.proxies.calling import CallingProxy
from daqca.proxies.pause import poll
from daqca.proxies.texts import describe, time_text
from daqca.reading import Reading

log = logging.getLogger("daqca.pv")


class PV(CallingProxy):
    """One process variable.

    Parameters
    ----------
    pvname
        The name. It is searched at once, together with all others that are made meanwhile.
    callback
        A function, or a list of them, called when the value or the alarm changes: see `add_callback`.
    form
        ``"time"`` (the timestamp is the record's), ``"native"`` or ``"ctrl"`` (the timestamp tells when the value
        arrived).
    auto_monitor
        Whether the value is monitored: None: if it has less than ``ca.AUTOMONITOR_MAXLENGTH`` elements; True, with the
        mask ``ca.DEFAULT_SUBSCRIPTION_MASK``; False; or a mask, the sum of ``DBE_...`` of `daqca.dbr`.
    connection_callback
        Called with the keywords ``pvname``, ``conn`` and ``pv`` when the PV connects or is lost.
    connection_timeout
        Seconds that what needs a connection waits for it; None: ``ca.DEFAULT_CONNECTION_TIMEOUT``.
    verbose
        Whether each update is printed.
    count
        At most so many elements; None or 0: all.
    access_callback
        Called as ``access_callback(read_access, write_access, pv=pv)`` when the access rights change.
    monitor_delta
        Callbacks are called only for changes by this at least: the record's MDEL is set to it, or, where it cannot be
        set, smaller changes are left out here. None: as the record is configured.
    engine
        Whose channel it is; None: `daqca.default_engine`.

    Notes
    -----
    All callbacks run on a thread of their own, and may take their time and call anything. One that raises is logged
    and counted, and stays.
    """

    __slots__ = ("__dict__", "__weakref__")

    def __init__(
        self,
        pvname: str,
        callback: OneOrMore = None,
        form: str = "time",
        auto_monitor: bool | int | None = None,
        connection_callback: Callable[..., Any] | None = None,
        connection_timeout: float | None = None,
        verbose: bool = False,
        count: int | None = None,
        access_callback: Callable[..., Any] | None = None,
        monitor_delta: float | None = None,
        *,
        engine: Engine | None = None,
    ):
        super().__init__(
            pvname,
            form,
            auto_monitor,
            connection_timeout,
            count,
            monitor_delta,
            default_engine() if engine is None else engine,
        )
        self._begin_callbacks(callback, connection_callback, access_callback, verbose)
        self._watch.add(self)

    def __del__(self) -> None:
        if getattr(self, "_slot", -1) >= 0 and not self._is_detached:
            self._watch.gone(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PV) and other.pvname == self.pvname and other.engine is self.engine

    def __hash__(self) -> int:
        return hash((self.pvname, id(self.engine)))

    def __repr__(self) -> str:
        if not self.connected:
            return f"<PV '{self.pvname}': not connected>"
        most = self.nelm
        count = f"{count_of(self, self._known_row())}/{most}" if most > 1 else f"{most}"
        return f"<PV '{self.pvname}', count={count}, type={self.typefull}, access={self.access}>"

    # --- the end, and the beginning again -------------------------------------------------------

    def reconnect(self) -> bool:
        """Use it again after `disconnect`, which has removed its callbacks; returns whether it is connected."""
        with self._watch.beginning:
            if self._is_detached:
                self._is_detached = False
                self._watch.add(self)
                self._watch.begin()
        return self.wait_for_connection()

    def disconnect(self, deepclean: bool = True) -> None:
        """End its use: monitor and callbacks end, and it leaves the cache. The engine keeps the channel.

        Parameters
        ----------
        deepclean
            Accepted, and of no effect: nothing is left behind.
        """
        cache.discard(self)
        with self._watch.beginning:
            if not self.engine.is_closed:
                self._begun()
            if self._slot >= 0 and not self._is_detached:
                self._watch.ignore(self)
                self._watch.said.discard(~self._slot)
                self._watch.gone(self)
                self._watch.begin()
            self._is_detached = True
            self.clear_callbacks(with_access_callback=True, with_connect_callback=True)
            self._kept = self._base = None
            self._has_metadata = self._told = False

    def force_connect(self, pvname: str | None = None, chid: Any = None, conn: bool = True, **kws: Any) -> None:
        """Run the connection callbacks as if the connection had changed just now."""
        self._run_connection_callbacks(conn)

    def force_read_access_rights(self) -> None:
        """Nothing: access rights are always those that the server told last."""

    # --- beyond the manual ----------------------------------------------------------------------

    def read(self, timeout: float | None = None, fresh: bool = False) -> Reading:
        """The value with alarm, time and metadata, and with what there is to say against it.

        Parameters
        ----------
        timeout
            Seconds to wait, for the connection and for the answer; None: `connection_timeout`.
        fresh
            Whether to ask the server though the value is monitored.

        Returns
        -------
        A reading, never an exception: its ``outcome`` is OK, or STALE (the last value of a PV that is lost), or says
        why there is no value; ``why`` says it in words.
        """
        return awaiting.read(self, self.connection_timeout if timeout is None else timeout, fresh)

    async def aget(self, timeout: float | None = None, fresh: bool = False) -> Reading:
        """`read`, for asyncio: other tasks run while it waits."""
        return await awaiting.aget(self, self.connection_timeout if timeout is None else timeout, fresh)

    async def aput(self, value: Any, wait: bool = True, timeout: float = 30.0) -> None:
        """Write a value, for asyncio.

        Parameters
        ----------
        wait
            Whether to wait until the record has processed it.
        timeout
            In seconds, for the connection and for the end of the processing.

        Raises
        ------
        ChannelError
            One of its leaves: not found, disconnected, no answer in time, no access, refused, a value that does not
            fit.
        """
        await awaiting.aput(self, value, wait, timeout)

    def updates(self, limit: int = 10_000) -> AsyncIterator[Reading]:
        """``async for reading in pv.updates()``: a reading of each update, and one when the PV is lost (STALE).

        A PV that is not monitored is so until the end of it.

        Parameters
        ----------
        limit
            How many may wait to be taken; then the oldest are dropped, which is logged, and counted in the iterator's
            ``dropped``.
        """
        return awaiting.Updates(self, limit)

    @property
    def info(self) -> str | None:
        """A paragraph about all of it; None if it does not connect."""
        if self.get_ctrlvars() is None:
            return None
        self._metadata()
        return describe(self)

    def poll(self, evt: float = 1e-4, iot: float = 1.0) -> None:
        """See `daqca.poll`."""
        poll(evt, iot)


default_pv_class: type[PV] = PV  # what `get_pv` makes; a program may assign a subclass
_PVcache_, fmt_time = cache, time_text


def get_pv(
    pvname: str | PV,
    form: str = "time",
    connect: bool = False,
    timeout: float | None = 5.0,
    context: int | None = None,
    connection_callback: Callable[..., Any] | None = None,
    access_callback: Callable[..., Any] | None = None,
    callback: OneOrMore = None,
    verbose: bool = False,
    count: int | None = None,
    auto_monitor: bool | int | None = None,
    monitor_delta: float | None = None,
    **kws: Any,
) -> PV:
    """The PV of this name and form: the one that there is, or else a new one of the class `default_pv_class`.

    Parameters
    ----------
    connect
        Whether to wait until it is connected. If it is not within `timeout` seconds, this is logged.
    timeout
        Seconds to wait; also the ``connection_timeout`` of a new PV (None: `PV` says).
    context
        Of no effect: a PV is in an engine.
    connection_callback, access_callback, callback, auto_monitor, monitor_delta
        If there is one: callbacks are added, and called now too if it is connected; it is monitored if it was not.
    verbose, count, kws
        Of a new PV only: see `PV`.
    """
    name, engine = name_of(pvname), kws.get("engine") or default_engine()
    with cache.lock:
        pv = cache.find(name, form.lower(), engine)
        if is_new := pv is None:
            pv = default_pv_class(
                name, callback=callback, form=form, auto_monitor=auto_monitor, connection_callback=connection_callback,
                connection_timeout=timeout, verbose=verbose, count=count, access_callback=access_callback,
                monitor_delta=monitor_delta, **kws,
            )  # fmt: skip
            cache[name, pv.form] = pv
    if not is_new:
        join(pv, connection_callback, access_callback, callback, auto_monitor, monitor_delta)
    if connect and not pv.wait_for_connection(timeout):
        log.warning("%s", pv.engine.error(name, pv._begun(), "connect"))
    return pv
