"""The callbacks of a PV: who has some, and how they are called. Manual, chapters 3.4 and 3.5."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import daqca.ca as ca
from daqca.ca.lowlevel.raw import time_fields
from daqca.errors import ChannelError
from daqca.events import Access, Batch, Event, Kind
from daqca.proxies.attributes import native_type, nelm
from daqca.proxies.cache import OneOrMore
from daqca.proxies.callbacks import Callbacks, Listeners
from daqca.proxies.channel import Row
from daqca.proxies.putting import WritableProxy
from daqca.proxies.texts import number_text, time_text
from daqca.reading import array_of, data_value, number_value

log = logging.getLogger("daqca.pv")

_CONNECTED, _DISCONNECTED, _ACCESS = int(Kind.CONNECTED), int(Kind.DISCONNECTED), int(Kind.ACCESS)


class CallingProxy(WritableProxy):
    """See `daqca.pv_proxy.PV`."""

    __slots__ = (
        "_access_callbacks",
        "_callbacks",
        "_connection_callbacks",
        "_is_filtered",
        "_last_told",
        "_told",
        "_told_so",
        "_verbose",
    )

    _runs_itself = False
    """Whether a subclass has its own `run_callbacks` or `run_callback`, which are called for each update then."""
    _telling: dict[str, Any] | None = None
    """The keywords of the update that these are called for."""

    def __init_subclass__(cls, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        own = (cls.run_callbacks, cls.run_callback)
        cls._runs_itself = own != (CallingProxy.run_callbacks, CallingProxy.run_callback)

    def _begin_callbacks(
        self,
        callback: OneOrMore,
        connection_callback: Callable[..., Any] | None,
        access_callback: Callable[..., Any] | None,
        verbose: bool,
    ) -> None:
        """With these callbacks it begins."""
        self._verbose = verbose
        self._is_filtered = self._told = False
        self._last_told: float | None = None
        # For which keywords the rest was made, the type of the PV, and how a number of it becomes a text.
        self._told_so: tuple[Any, int, Callable[[float], str] | None] = (None, 0, None)
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
            or self._verbose
            or self._monitor_delta is not None
        )

    def _wants_values(self) -> bool:
        return bool(self._callbacks or self._verbose)

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
        if self._runs_itself:
            for index in self.callbacks.in_order():
                self.run_callback(index)
        else:
            self._run(self._known_arguments())

    def run_callback(self, index: Any) -> None:
        """Call one callback now, with what is known."""
        if index in self.callbacks:
            self._run_one(index, self._telling or self._known_arguments())

    def _run(self, keywords: dict[str, Any]) -> None:
        callbacks = self._callbacks
        if callbacks:
            for index in callbacks.in_order():
                self._run_one(index, keywords)

    def _run_own(self, keywords: dict[str, Any]) -> None:
        """Call all callbacks with keywords that nobody else has: one of them, as a rule, and so without a copy."""
        items = list((self._callbacks or {}).items())
        if len(items) != 1 or not callable(items[0][1][0]):
            self._run(keywords)
            return
        index, (function, more) = items[0]
        if more:
            keywords.update(more)
        keywords["cb_info"] = (index, self)
        try:
            function(**keywords)
        except (Exception, SystemExit):
            self._watch.failed(self, function)

    def _run_one(self, index: Any, keywords: dict[str, Any]) -> None:
        found = (self._callbacks or {}).get(index)
        if found is not None and callable(found[0]):
            self._watch.guard(self, found[0], **{**keywords, **found[1], "cb_info": (index, self)})

    # Events come on the thread of the callbacks.

    def _on_update(self, row: tuple[Any, ...], batch: Batch) -> None:
        keywords = self._number_arguments(row)
        if keywords is None:
            value = self._value_of(Event._make(row), batch)
            keywords = self._arguments((*row[:6], value, *row[7:]), base=self._base)
        if self._is_filtered and not self._moved(keywords["value"]):
            return
        if self.verbose:
            print(f"{self.pvname}: {keywords['char_value']} ({time_text(keywords['timestamp'])})")
        if not self._runs_itself:
            self._run_own(keywords)
            return
        vars(self)["_telling"] = keywords
        self._watch.guard(self, self.run_callbacks)
        del vars(self)["_telling"]

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
        if kind == _CONNECTED and self._monitor_delta is not None:
            self._is_filtered = True  # until the record sees to it
            self._watch.aside(self._set_delta)
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
            self._is_filtered = False
            return
        record = self.pvname.partition(".")[0]
        try:
            self.engine.put(f"{record}.MDEL", float(self._monitor_delta), timeout=self.connection_timeout)
            self._is_filtered = False
        except ChannelError as error:
            log.info("%s; changes of %s by less than %g are left out here", error, self.pvname, self._monitor_delta)
            self._is_filtered = True

    def _how_to_tell(self, base: dict[str, Any]) -> tuple[int, Callable[[float], str] | None]:
        """The type of the PV, and how a number of it is told as text; None where a value is more than a number."""
        native = native_type(self)
        if native is None or nelm(self) != 1:
            return 0, None
        return native, number_text(native, base["precision"], base["enum_strs"])

    def _number_arguments(self, row: Row) -> dict[str, Any] | None:
        """As `_arguments` for an event with a number, and the IOC's time: quicker. None: it is none of these."""
        base = self._base or self._make_base()
        told_of, native, text = self._told_so
        if told_of is not base:
            _, native, text = self._told_so = (base, *self._how_to_tell(base))
        if text is None or type(row[6]) is tuple or self.form != "time":
            return None
        found = base.copy()
        found["value"] = value = number_value(row[6], native)
        found["count"], found["status"], found["severity"] = 1, row[3], row[4]
        found.update(time_fields(row[5]))
        found["char_value"] = text(value)
        return found

    def _value_of(self, event: Event, batch: Batch) -> Any:
        """The value in an event, as its user gets it."""
        table, slot, value = self._table, self._slot, event.value
        native, is_array = table.native_type.item(slot), table.native_count.item(slot) > 1
        if isinstance(value, tuple):
            return data_value(batch.data(*value), event.dbr_type, event.count, is_array, ca.IOENCODING)
        return array_of(value, event.count, native) if is_array else number_value(value, native)
