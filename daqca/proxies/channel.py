"""A channel as a PV sees it: its connection, its last value, its metadata, and all that is known of it together.

It keeps no value: all is in the engine's table, in process as through workers.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

import daqca.ca as ca
from daqca.ca import eca
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.raw import Raw, time_fields
from daqca.ca.lowlevel.session import session
from daqca.ca.lowlevel.updates import known_of
from daqca.ca.protocol import check_name
from daqca.engine.engine import Engine
from daqca.engine.table import ChannelState
from daqca.errors import ChannelAccessGetFailure, ConfigurationError
from daqca.events import Kind
from daqca.link import CTRL, METADATA
from daqca.operations import One
from daqca.proxies.attributes import FIELDS, Attributes, native_type, nelm
from daqca.proxies.masks import mask_of
from daqca.proxies.pause import left
from daqca.proxies.texts import value_text
from daqca.proxies.watch import watch_of
from daqca.reading import decode_text

log = logging.getLogger("daqca.pv")

_CONNECTED, _READ, _UPDATE = int(ChannelState.CONNECTED), int(Kind.READ), int(Kind.UPDATE)
_STRING, _ENUM, _FLOATS = 0, 3, (2, 6)
_WITH_METADATA = frozenset((*_FLOATS, _ENUM))
_DISCONNECTED = eca.message_number(ECA.DISCONN)

FORMS = ("native", "time", "ctrl")
_NOTHING: Mapping[str, Any] = {}
Row = tuple[Any, ...]
"""An event in the order of `daqca.events.Event`, with the value as its user gets it."""


class ChannelProxy(Attributes):
    """See `daqca.pv_proxy.PV`, which is made of this and has its callbacks and puts."""

    __slots__ = (
        "_auto_monitor",
        "_base",
        "_has_metadata",
        "_if_short",
        "_is_detached",
        "_kept",
        "_mask",
        "_monitor_delta",
        "_more_args",
        "_slot",
        "_table",
        "_user_max_count",
        "_watch",
        "connection_timeout",
        "engine",
        "form",
        "pvname",
    )

    def __init__(
        self,
        pvname: str,
        form: str,
        auto_monitor: bool | int | None,
        connection_timeout: float | None,
        count: int | None,
        monitor_delta: float | None,
        engine: Engine,
    ):
        self._slot = -1
        self.pvname: str = pvname.strip()
        check_name(self.pvname)
        self.form = form.lower()
        if self.form not in FORMS:
            raise ConfigurationError(f"PV({self.pvname!r}, form={form!r}): a form is one of {', '.join(FORMS)}")
        self.connection_timeout = ca.DEFAULT_CONNECTION_TIMEOUT if connection_timeout is None else connection_timeout
        engine.check_open()
        self.engine = engine
        self._watch = watch_of(engine)
        self._table = engine.table
        self._auto_monitor = auto_monitor
        self._mask, self._if_short = mask_of(auto_monitor)
        self._user_max_count = count
        self._monitor_delta: float | None = monitor_delta
        self._is_detached = self._has_metadata = False
        self._more_args = _NOTHING
        # The answer to the last get, as a row, and when it came.
        self._kept: tuple[Row, float] | None = None
        # What callbacks are given but for what comes with each update; None: to be made anew.
        self._base: dict[str, Any] | None = None
        if self.form != "time":
            self._watch.count_arrivals()

    # --- the connection -------------------------------------------------------------------------

    def _begun(self) -> int:
        """The engine's slot; what was not searched yet is searched now."""
        if self._slot < 0:
            self._watch.begin()
            self.engine.check_open()
        return self._slot

    @property
    def connected(self) -> bool:
        """Whether it is connected now."""
        slot = self._slot
        return slot >= 0 and not self._is_detached and self._table.state.item(slot) == _CONNECTED

    def wait_for_connection(self, timeout: float | None = None) -> bool:
        """Wait until it is connected, at most `timeout` seconds (None: `connection_timeout`); returns whether it is."""
        if self.connected:
            return True
        if self._is_detached:
            return False
        slots = np.array([self._begun()], np.uint32)
        self.engine.wait_connected(slots, self.connection_timeout if timeout is None else timeout)
        return self.connected

    connect = wait_for_connection

    @property
    def chid(self) -> Any:
        """A channel of this name for the functions of `daqca.ca`, made when it is asked for; not the PV's own."""
        return ca.create_channel(self.pvname, connect=False, auto_cb=False)

    @property
    def context(self) -> int | None:
        """The context of `daqca.ca` in which `chid` is."""
        if ca.current_context() is None:
            ca.use_initial_context()
        return ca.current_context()

    # --- monitoring -----------------------------------------------------------------------------

    @property
    def auto_monitor(self) -> bool | int | None:
        """Whether its value is monitored, as given; a None that was given is decided once it has connected.

        May be assigned to.
        """
        if self._auto_monitor is None and self._slot >= 0 and nelm(self) >= 0:
            return nelm(self) < ca.AUTOMONITOR_MAXLENGTH
        return self._auto_monitor

    @auto_monitor.setter
    def auto_monitor(self, value: bool | int | None) -> None:
        mask, if_short = mask_of(value)
        with self._watch.beginning:
            self._watch.begin()  # what a Ctrl-C has broken off, is done again first
            slots = np.array([self._begun()], np.uint32)
            old = self._auto_monitor, self._mask, self._if_short
            try:
                self._auto_monitor, self._mask, self._if_short = value, mask, if_short
                if self._is_detached:  # it wants nothing until `reconnect`
                    return
                if mask:
                    self._watch.wishes.want(slots, mask, if_short, 1)
            except BaseException:
                self._auto_monitor, self._mask, self._if_short = old
                raise
            if old[1]:
                self._watch.wishes.want(slots, *old[1:], -1)

    @property
    def auto_monitor_mask(self) -> int | None:
        """The mask it is monitored with, or soon will be; None if it is not, or never connected."""
        return self._mask if self._wants_monitor() else None

    def clear_auto_monitor(self) -> None:
        """Monitor it no more."""
        self.auto_monitor = False

    def _wants_monitor(self) -> bool:
        most = nelm(self)
        return bool(self._mask) and most >= 0 and (most < ca.AUTOMONITOR_MAXLENGTH or not self._if_short)

    def _is_monitored(self) -> bool:
        return self._wants_monitor() and self._watch.wishes.is_on(self._slot, self._mask)

    # --- reading --------------------------------------------------------------------------------

    def get(
        self,
        count: int | None = None,
        as_string: bool = False,
        as_numpy: bool = True,
        timeout: float | None = None,
        with_ctrlvars: bool = False,
        use_monitor: bool = True,
    ) -> Any:
        """The value.

        Parameters
        ----------
        count
            At most so many elements.
        as_string
            Whether to give its text: see the manual's table of string representations.
        as_numpy
            Whether arrays are NumPy arrays; else they are lists.
        timeout
            Seconds to wait, for the connection and for the answer; None: `connection_timeout`, and 1 + log10 of the
            number of elements.
        with_ctrlvars
            Whether limits, units and the like are to be known after it.
        use_monitor
            Whether the value that the monitor told last will do; else the server is asked. After a put that was
            waited for, the server is asked in either case.

        Returns
        -------
        The value; None if the PV is not connected, or there is no answer in time.

        Raises
        ------
        ChannelAccessGetFailure
            The server answered with an error.
        """
        if use_monitor and not as_string and count is None and not with_ctrlvars:
            slot, table = self._slot, self._table
            if (
                slot >= 0
                and (kind := table.kinds.item(slot))
                and table.native_count.item(slot) == 1
                and table.state.item(slot) == _CONNECTED
                and table.counts.item(slot) == 1
                and slot not in table.doubts.slots
                and self._watch.wishes.is_on(slot, self._mask)
                and not self._is_detached
                and (kind == _UPDATE or self._watch.wishes.first.holds(slot))
            ):
                native = table.native_type.item(slot)
                if native == _STRING:
                    return decode_text(table.text.item(slot), ca.IOENCODING)
                number = table.numbers.item(slot)
                return number if native in _FLOATS else int(number)
        row = self._fetch(timeout, use_monitor, with_ctrlvars, as_string)
        return None if row is None else self._shown(row[6], count, as_string, as_numpy)

    def get_with_metadata(
        self,
        count: int | None = None,
        as_string: bool = False,
        as_numpy: bool = True,
        timeout: float | None = None,
        with_ctrlvars: bool = False,
        form: str | None = None,
        use_monitor: bool = True,
        as_namespace: bool = False,
    ) -> Any:
        """`get`, with what is known beside the value: a dictionary, by the names of callbacks' keywords.

        Parameters
        ----------
        form
            ``"ctrl"``: with limits, units and the like too; ``"time"``: with the record's timestamp. None: the PV's.
        as_namespace
            Whether it is a `types.SimpleNamespace` instead.
        """
        with_ctrlvars |= (self.form if form is None else form) == "ctrl"
        row = self._fetch(timeout, use_monitor, with_ctrlvars, as_string)
        if row is None:
            return None
        found = self._arguments(row, form)
        found["value"] = self._shown(row[6], count, as_string, as_numpy)
        return SimpleNamespace(**found) if as_namespace else found

    def _fetch(self, timeout: float | None, use_monitor: bool, with_ctrlvars: bool, as_string: bool) -> Row | None:
        """The row that a get is to show, with metadata if they are needed; None: lost."""
        if not self.wait_for_connection(timeout):
            self._say("get")
            return None
        limit = 1.0 + math.log10(max(1, nelm(self))) if timeout is None else timeout
        deadline = time.monotonic() + limit
        row = self._row(use_monitor, limit)
        if row is not None and (with_ctrlvars or (as_string and native_type(self) in _WITH_METADATA)):
            self._metadata(left(deadline))
            if self._slot not in self._table.metadata:
                log.warning("get(%r): precision, units and states did not come within %.3g s", self.pvname, limit)
        return row

    def _shown(self, value: Any, count: int | None, as_string: bool, as_numpy: bool) -> Any:
        """A value as `get` gives it."""
        is_array = isinstance(value, np.ndarray)
        if is_array:
            value = value[: (self._user_max_count if count is None else count) or None]
        if as_string:
            return self._text(value, self._known_metadata(), is_text=True)
        return value.tolist() if is_array and not (as_numpy and ca.HAS_NUMPY) else value

    def _row(self, use_monitor: bool, limit: float) -> Row | None:
        """The last value, or the server's answer, as a row with the value as its user gets it; None: lost."""
        slot, doubts = self._slot, self._table.doubts
        monitored, serial = self._is_monitored(), doubts.serial(slot)
        deadline = time.monotonic() + limit
        is_trusted = use_monitor and monitored and serial is None
        if is_trusted and (row := self._watch.wishes.value(slot, limit)) is not None:
            return row
        operation = self.engine.ask(slot, max(deadline - time.monotonic(), 0.0))
        row = operation.row
        if row is None:
            log.warning("get(%r): its server is connected but did not answer within %.3g s", self.pvname, limit)
            return None
        if row[1] != _READ:
            if row[3] == _DISCONNECTED:
                self._say("get")
                return None
            error = self.engine.error(self.pvname, slot, "get", row)
            raise ChannelAccessGetFailure(str(error), self.pvname, error.eca or 0)
        if monitored:
            self.engine.refresh(operation, serial)
        reading = self.engine.reading(self.pvname, slot, operation)
        row = (*row[:6], reading.value, *row[7:])
        if not monitored:
            self.keep(row)
        return row

    def keep(self, row: Row) -> None:
        """The answer to a get came just now."""
        self._kept = (row, time.time())

    def _known_row(self) -> Row | None:
        """What is known of the last value, as a row, without asking anybody."""
        row = self.engine.last(self._begun()) if self._is_monitored() else None
        return row if row is not None or self._kept is None else self._kept[0]

    def _some_row(self) -> Row | None:
        """`_known_row`; what is not known, or was put in doubt by a put that was confirmed, is asked for."""
        row = self._known_row()
        is_in_doubt = self.connected and self._is_monitored() and self._slot in self._table.doubts.slots
        if row is None or is_in_doubt:
            self.get()
            row = self._known_row()
        return row

    def _latest(self) -> Any:
        """The value; of a lost PV that which it had."""
        if not self.connected and (row := self._known_row()) is not None:
            self.engine.check_open()
            self._say("read")
            return self._shown(row[6], None, as_string=False, as_numpy=True)
        return self.get()

    @property
    def value(self) -> Any:
        """The value: the last one if it is monitored or was lost (see `connected`), else the server's.

        Assigning to it is `put`.
        """
        return self._getarg("value")

    @value.setter
    def value(self, value: Any) -> None:
        pv: Any = self
        pv.put(value)

    def _say(self, operation: str) -> None:
        """Log, once until it connects again, that it is not there, and why."""
        said = self._watch.said
        about = ~self._slot if self._is_detached else self._begun()
        if about not in said:
            said.add(about)
            if self._is_detached:
                log.warning(
                    "%s(%r): disconnect() was called; reconnect() makes it usable again", operation, self.pvname
                )
            else:
                log.warning("%s", self.engine.error(self.pvname, self._begun(), operation))

    def _times(self, row: Row, form: str | None = None) -> tuple[float, float, int]:
        """timestamp, posixseconds and nanoseconds of a row: the record's, if the PV's form or this one is "time"."""
        stamp = row[5]
        if "time" not in (form, self.form):
            seconds = self._watch.arrived(self._slot) if self._is_monitored() else 0.0
            if not seconds and self._kept is not None:
                seconds = self._kept[1]
            stamp = int(seconds * 1e9)
        fields = time_fields(stamp)
        return fields["timestamp"], fields["posixseconds"], int(fields["nanoseconds"])

    # --- metadata -------------------------------------------------------------------------------

    def _metadata(self, timeout: float | None = None) -> Mapping[str, Any]:
        """Precision, units, limits and states, as the server told last; the first time it is asked, then monitored."""
        slot = self._begun()
        if slot not in self._table.metadata and self.wait_for_connection(timeout):
            self.get_ctrlvars(1.0 if timeout is None else timeout, warn=False)
        return self._known_metadata()

    def _want_metadata(self) -> None:
        """Have the metadata monitored, from now on or once it has begun."""
        with self._watch.beginning:
            if not self._has_metadata:
                if self._slot >= 0 and not self._is_detached:
                    self._watch.wishes.want(np.array([self._slot], np.uint32), METADATA, False, 1)
                self._has_metadata = True

    def _known_metadata(self) -> Mapping[str, Any]:
        found = self._table.metadata.get(self._slot)
        return {} if found is None else known_of(Raw(found[0], 1, None, found[1], 0, 0, 0))

    def take_metadata(self, operation: One) -> tuple[int, bytes] | None:
        """The metadata that were asked for, if they came; from now on they are known."""
        row, batch = operation.row, operation.batch
        if row is None or batch is None or row[1] != _READ:
            return None
        found = row[2], bytes(batch.data(*row[6]))
        with self.engine.lock:
            self._table.metadata[self._slot] = found
        self._base = None
        return found

    def get_ctrlvars(self, timeout: float = 5.0, warn: bool = True) -> dict[str, Any] | None:
        """The control fields, from the server: alarm, precision, units, limits, the names of an enum's states.

        Returns
        -------
        A dictionary; None if it does not connect in `connection_timeout` seconds, or does not answer in `timeout`.
        """
        if not self.wait_for_connection():
            self._say("get_ctrlvars")
            return None
        self._want_metadata()
        found = self.take_metadata(self.engine.ask(self._slot, timeout, CTRL, 1))
        if found is None:
            if warn:
                log.warning("get_ctrlvars(%r): no answer within %.3g s", self.pvname, timeout)
            return None
        return dict(known_of(Raw(found[0], 1, None, found[1], 0, 0, 0)))

    def get_timevars(self, timeout: float = 5.0, warn: bool = True) -> dict[str, Any] | None:
        """status, severity, timestamp, posixseconds and nanoseconds, from the server; None if it does not answer."""
        if not self.wait_for_connection():
            self._say("get_timevars")
            return None
        row = self._row(use_monitor=False, limit=timeout)
        return None if row is None else {"status": row[3], "severity": row[4], **time_fields(row[5])}

    def _make_base(self) -> dict[str, Any]:
        """What callbacks are given, but for what comes with each update."""
        base = dict.fromkeys(FIELDS)
        for name in ("pvname", "ftype", "type", "typefull", "access", "read_access", "write_access", "monitor_delta"):
            base[name] = FIELDS[name](self)
        base["nelm"] = base["count"] = nelm(self)
        base["host"] = self._watch.host(self._slot)
        base["chid"] = session.promise(self.pvname)
        known = self._known_metadata()
        base.update({name: item for name, item in known.items() if name in base})
        self._base = base
        return base

    def _arguments(self, row: Row, form: str | None = None, base: dict[str, Any] | None = None) -> dict[str, Any]:
        """All keywords for one value, with the time as of `_times`; those that do not come with each value are in
        `base`, if they are known.
        """
        found = dict(base or self._make_base())
        value = row[6]
        if self._user_max_count and isinstance(value, np.ndarray):
            value = value[: self._user_max_count]
        found["value"] = value
        found["count"] = len(value) if isinstance(value, np.ndarray) else row[7]
        found["status"], found["severity"] = row[3], row[4]
        found["timestamp"], found["posixseconds"], found["nanoseconds"] = self._times(row, form)
        found["char_value"] = self._text(value, found)
        return found

    def _known_arguments(self) -> dict[str, Any]:
        """As `_arguments`, for what is known now."""
        slot = self._begun()
        row = self._known_row()
        return dict(self._make_base()) if row is None or slot < 0 else self._arguments(row)

    def _text(self, value: Any, known: Mapping[str, Any], is_text: bool = False) -> str:
        is_array, native = isinstance(value, (np.ndarray, list)), native_type(self)
        short = is_text or (is_array and nelm(self) < ca.AUTOMONITOR_MAXLENGTH)
        type_name = FIELDS["typefull"](self) if is_array else ""
        return value_text(value, _STRING if native is None else native, type_name, is_array, short, known)

    def _set_charval(self, val: Any, call_ca: bool = True, force_long_string: bool = False) -> str:
        """The text of a value; with `call_ca`, precision and states are asked for if they are not known."""
        if call_ca and val is not None and native_type(self) in _WITH_METADATA:
            self._metadata()
        return self._text(val, self._known_metadata(), force_long_string)
