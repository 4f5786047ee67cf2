"""The PV object of the manual's chapter 3, and what it has beyond that: a proxy of one channel of an engine.

What it says of its channel is in `daqca.proxies.channel`, its events come from `daqca.proxies.watch`. Here are its
callbacks; how it is written is in `daqca.proxies.putting`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from daqca.engine.default import default_engine
from daqca.engine.engine import Engine
from daqca.errors import ChannelError
from daqca.events import Access, Batch, Event, Kind
from daqca.proxies import awaiting
from daqca.proxies.attributes import native_type, nelm
from daqca.proxies.cache import OneOrMore, cache, clear_pvcache, join, name_of  # noqa: F401 - clear_pvcache is handed on
from daqca.proxies.callbacks import Callbacks, Listeners
from daqca.proxies.pause import poll
from daqca.proxies.putting import WritableProxy
from daqca.proxies.texts import describe, time_text
from daqca.reading import Reading

log = logging.getLogger("daqca.pv")

_CONNECTED, _DISCONNECTED, _ACCESS = int(Kind.CONNECTED), int(Kind.DISCONNECTED), int(Kind.ACCESS)


class PV(WritableProxy):
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

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_access_callbacks",
        "_callbacks",
        "_connection_callbacks",
        "_is_filtered",
        "_last_told",
        "_told",
        "_verbose",
    )

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
        self._verbose = verbose
        self._is_filtered = self._told = False
        self._last_told: float | None = None
        self._callbacks: Callbacks | None = None
        self._connection_callbacks: Listeners | None = None
        self._access_callbacks: Listeners | None = None
        if callback is not None:
            functions = callback if isinstance(callback, (list, tuple)) else [callback]
            for index, function in enumerate(functions):
                if callable(function):
                    self.callbacks[index] = (function, {})
            self._has_metadata = bool(self.callbacks)
        if connection_callback is not None:
            self.connection_callbacks.append(connection_callback)
        if access_callback is not None:
            self.access_callbacks.append(access_callback)
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
        count = f"{self.count}/{most}" if most > 1 else f"{most}"
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

    # --- callbacks ------------------------------------------------------------------------------

    @property
    def callbacks(self) -> Callbacks:
        """The callbacks for changes: a dictionary of index to (callback, its keywords)."""
        if self._callbacks is None:
            self._callbacks = Callbacks(self._listen)
        return self._callbacks

    @callbacks.setter
    def callbacks(self, callbacks: dict[Any, Any]) -> None:
        self._callbacks = Callbacks(self._listen)
        self._callbacks.update(callbacks)

    @property
    def connection_callbacks(self) -> Listeners:
        """The callbacks for changes of the connection: a list, to which others may be appended."""
        if self._connection_callbacks is None:
            self._connection_callbacks = Listeners(self._listen)
        return self._connection_callbacks

    @connection_callbacks.setter
    def connection_callbacks(self, callbacks: list[Callable[..., Any]]) -> None:
        self._connection_callbacks = Listeners(self._listen, callbacks)
        self._listen()

    @property
    def access_callbacks(self) -> Listeners:
        """The callbacks for changes of the access rights: a list, to which others may be appended."""
        if self._access_callbacks is None:
            self._access_callbacks = Listeners(self._listen)
        return self._access_callbacks

    @access_callbacks.setter
    def access_callbacks(self, callbacks: list[Callable[..., Any]]) -> None:
        self._access_callbacks = Listeners(self._listen, callbacks)
        self._listen()

    @property
    def verbose(self) -> bool:
        """Whether each update is printed. May be assigned to."""
        return self._verbose

    @verbose.setter
    def verbose(self, verbose: bool) -> None:
        self._verbose = verbose
        self._listen()

    def _has_listeners(self) -> bool:
        return bool(
            self._callbacks
            or self._connection_callbacks
            or self._access_callbacks
            or self.verbose
            or self._monitor_delta is not None
        )

    def _wants_values(self) -> bool:
        return bool(self._callbacks or self.verbose)

    def _listen(self) -> None:
        if self._slot >= 0 and not self._is_detached:
            (self._watch.listen if self._has_listeners() else self._watch.ignore)(self)

    def add_callback(
        self,
        callback: Callable[..., Any] | None = None,
        index: Any = None,
        run_now: bool = False,
        with_ctrlvars: bool = True,
        **kw: Any,
    ) -> Any:
        """Have a function called when the value or the alarm changes.

        It is called with keywords, all that is known of the PV: ``pvname``, ``value``, ``char_value``, ``count``,
        ``ftype``, ``type``, ``status``, ``severity``, ``timestamp``, ``precision``, ``units``, ``enum_strs``, limits,
        ``read_access``, ``write_access``, ``access``, ``host``, ``chid``, and ``cb_info``: (its index, the PV). So it
        should take ``**kw``.

        Parameters
        ----------
        index
            By what it is known; None: the next number.
        run_now
            Whether to call it now too, if the PV is connected.
        with_ctrlvars
            Whether limits, units and the like are to be known in the calls.
        kw
            More keywords for its calls.

        Returns
        -------
        The index.
        """
        if callable(callback):
            if index is None:
                index = 1 + max((one for one in self.callbacks if isinstance(one, int)), default=0)
            if with_ctrlvars:
                self._want_metadata()
                if self.connected:
                    self._metadata()
            self.callbacks[index] = (callback, kw)
        if run_now:
            self.get()
            if self.connected:
                self.run_callback(index)
        return index

    def remove_callback(self, index: Any = None) -> None:
        """Remove a callback; None: the only one there is."""
        callbacks = self.callbacks
        if index is None and len(callbacks) == 1:
            callbacks.clear()
        callbacks.pop(index, None)
        self._hush()

    def clear_callbacks(self, with_access_callback: bool = False, with_connect_callback: bool = False) -> None:
        """Remove all callbacks for changes, and as wanted those for access rights and connections."""
        self._callbacks = None
        if with_access_callback:
            self._access_callbacks = None
        if with_connect_callback:
            self._connection_callbacks = None
        self._hush()

    def _hush(self) -> None:
        """Fewer callbacks than there were: listen to no more than is needed."""
        if self._slot >= 0 and not self._wants_values():
            with self._watch.beginning, self.engine.lock:  # it misses nothing meanwhile
                self._watch.ignore(self)
                if self._has_listeners():
                    self._watch.listen(self)

    def run_callbacks(self) -> None:
        """Call all callbacks now, with what is known."""
        self._run(self._known_arguments())

    def run_callback(self, index: Any) -> None:
        """Call one callback now, with what is known."""
        if index in self.callbacks:
            self._run_one(index, self._known_arguments())

    def _run(self, keywords: dict[str, Any]) -> None:
        callbacks = self._callbacks
        if callbacks:
            for index in callbacks.in_order():
                self._run_one(index, keywords)

    def _run_one(self, index: Any, keywords: dict[str, Any]) -> None:
        found = (self._callbacks or {}).get(index)
        if found is not None and callable(found[0]):
            self._watch.guard(self, found[0], **{**keywords, **found[1], "cb_info": (index, self)})

    # Events come on the thread of the callbacks.

    def _on_update(self, event: Event, batch: Batch) -> None:
        value = self._value_of(event, batch)
        if self._is_filtered and not self._moved(value):
            return
        keywords = self._arguments((*event[:6], value, *event[7:]), base=self._base)
        if self.verbose:
            print(f"{self.pvname}: {keywords['char_value']} ({time_text(keywords['timestamp'])})")
        self._run(keywords)

    def _moved(self, value: Any) -> bool:
        """Whether a value is far enough from that which was told last."""
        try:
            if self._last_told is not None and abs(value - self._last_told) < (self._monitor_delta or 0):
                return False
        except TypeError:  # an array or a text
            return True
        self._last_told = value
        return True

    def _on_change(self, event: Event) -> None:
        kind = event.kind
        self._base = None
        if kind == _CONNECTED:
            self._set_delta()
        if kind in (_CONNECTED, _DISCONNECTED) and self._told is not (kind == _CONNECTED):
            self._told = kind == _CONNECTED
            self._run_connection_callbacks(self._told)
        if kind in (_CONNECTED, _ACCESS):
            rights = event.status
            for callback in list(self._access_callbacks or ()):
                self._watch.guard(self, callback, bool(rights & Access.READ), bool(rights & Access.WRITE), pv=self)

    def _run_connection_callbacks(self, conn: bool) -> None:
        for callback in list(self._connection_callbacks or ()):
            self._watch.guard(self, callback, pvname=self.pvname, conn=conn, pv=self)

    def _set_delta(self) -> None:
        """Have the record tell changes by `monitor_delta` only, or else see to it here."""
        if self._monitor_delta is None or nelm(self) != 1 or native_type(self) in (0, 3):  # texts and states
            return
        record = self.pvname.partition(".")[0]
        try:
            self.engine.put(f"{record}.MDEL", float(self._monitor_delta), timeout=self.connection_timeout)
            self._is_filtered = False
        except ChannelError as error:
            log.info("%s; changes of %s by less than %g are left out here", error, self.pvname, self._monitor_delta)
            self._is_filtered = True

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
    context: int | None = None,
    timeout: float | None = 5.0,
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
    context
        Of no effect: a PV is in an engine.
    timeout
        Seconds to wait; also the ``connection_timeout`` of a new PV (None: `PV` says).
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
