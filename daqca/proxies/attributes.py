"""The attributes of a PV that are read only: each is computed when it is read, from what the engine knows by then.

They are all read through `Attributes._getarg`, which a subclass may replace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from daqca.dbr import CTRL_STRING, TIME_STRING, Name
from daqca.events import Access
from daqca.reading import UNKNOWN_TYPE, severity_name, status_name

if TYPE_CHECKING:
    from daqca.proxies.channel import ChannelProxy, Row

LIMITS = (
    "upper_disp_limit",
    "lower_disp_limit",
    "upper_alarm_limit",
    "lower_alarm_limit",
    "lower_warning_limit",
    "upper_warning_limit",
    "upper_ctrl_limit",
    "lower_ctrl_limit",
)
_OF_CONNECTION = frozenset(("host", "count", "access", "read_access", "write_access"))
"""What a PV that never connected waits for the connection to tell, as the manual's PyEpics does."""
ACCESS_NAMES = ("no access", "read-only", "write-only", "read/write")


class Attributes:
    """What a PV says of itself."""

    __slots__ = ()

    def _getarg(self, arg: str) -> Any:
        """The value of an attribute: the one way by which all properties are read."""
        pv: Any = self
        if arg in _OF_CONNECTION and native_type(pv) is None:
            pv.wait_for_connection()
        return FIELDS[arg](pv)

    @property
    def _args(self) -> Arguments:
        """What is known now, by the names of callbacks' keywords."""
        pv: Any = self
        return Arguments(pv)

    @_args.setter
    def _args(self, known: Mapping[str, Any]) -> None:
        self._args.update(known)

    @property
    def char_value(self) -> str:
        """The value as text: see the manual's table of string representations."""
        return self._getarg("char_value")  # type: ignore[no-any-return]

    @property
    def status(self) -> int | None:
        """The alarm status, as EPICS numbers it; 0: no alarm. None if there was no value yet."""
        return self._getarg("status")  # type: ignore[no-any-return]

    @property
    def char_status(self) -> str | None:
        """The name of the alarm status."""
        status = self.status
        return None if status is None else status_name(status)

    @property
    def severity(self) -> int | None:
        """The alarm severity: 0 none, 1 minor, 2 major, 3 invalid. None if there was no value yet."""
        return self._getarg("severity")  # type: ignore[no-any-return]

    @property
    def char_severity(self) -> str | None:
        """The name of the alarm severity."""
        severity = self.severity
        return None if severity is None else severity_name(severity)

    @property
    def timestamp(self) -> float | None:
        """When the value was last updated, in seconds since the Unix epoch, to the microsecond.

        By the IOC's clock if the form is ``"time"``, else by ours, when it arrived.
        """
        return self._getarg("timestamp")  # type: ignore[no-any-return]

    @property
    def posixseconds(self) -> float | None:
        """The whole seconds of the timestamp."""
        return self._getarg("posixseconds")  # type: ignore[no-any-return]

    @property
    def nanoseconds(self) -> int | None:
        """The nanoseconds of the timestamp, without its seconds."""
        return self._getarg("nanoseconds")  # type: ignore[no-any-return]

    @property
    def ftype(self) -> int | None:
        """The number of the DBR type, in the PV's form; None if it never connected."""
        return self._getarg("ftype")  # type: ignore[no-any-return]

    @property
    def type(self) -> str:
        """The name of the DBR type, like ``"time_double"``; ``"unknown"`` if it never connected."""
        return self._getarg("type")  # type: ignore[no-any-return]

    @property
    def typefull(self) -> str:
        """As `type`."""
        return self._getarg("typefull")  # type: ignore[no-any-return]

    @property
    def host(self) -> str | None:
        """The server, ``address:port``; None if it is not connected."""
        return self._getarg("host")  # type: ignore[no-any-return]

    @property
    def count(self) -> int | None:
        """How many elements the value has (NORD of a waveform); None if it does not connect."""
        return self._getarg("count")  # type: ignore[no-any-return]

    @property
    def nelm(self) -> int:
        """How many elements the PV can have; -1 if it never connected."""
        return self._getarg("nelm")  # type: ignore[no-any-return]

    @property
    def read_access(self) -> bool | None:
        """Whether we may read it; None if it does not connect."""
        return self._getarg("read_access")  # type: ignore[no-any-return]

    @property
    def write_access(self) -> bool | None:
        """Whether we may write it; None if it does not connect."""
        return self._getarg("write_access")  # type: ignore[no-any-return]

    @property
    def access(self) -> str:
        """``"read/write"``, ``"read-only"``, ``"write-only"`` or ``"no access"``; ``"unknown"`` without connection."""
        return self._getarg("access")  # type: ignore[no-any-return]

    @property
    def monitor_delta(self) -> float | None:
        """How much the value changes at least between two calls of callbacks; None: as the record is configured."""
        return self._getarg("monitor_delta")  # type: ignore[no-any-return]

    @property
    def precision(self) -> int | None:
        """The number of decimals to show of a float; None for other types."""
        return self._getarg("precision")  # type: ignore[no-any-return]

    @property
    def units(self) -> str | None:
        """The engineering units; None for strings and enums."""
        return self._getarg("units")  # type: ignore[no-any-return]

    @property
    def enum_strs(self) -> tuple[str, ...] | None:
        """The names of an enum's states; None for other types."""
        return self._getarg("enum_strs")  # type: ignore[no-any-return]

    @property
    def upper_disp_limit(self) -> float | None:
        """The upper end of the range for displays."""
        return self._getarg("upper_disp_limit")  # type: ignore[no-any-return]

    @property
    def lower_disp_limit(self) -> float | None:
        """The lower end of the range for displays."""
        return self._getarg("lower_disp_limit")  # type: ignore[no-any-return]

    @property
    def upper_alarm_limit(self) -> float | None:
        """Above this the alarm is major (if the record says so)."""
        return self._getarg("upper_alarm_limit")  # type: ignore[no-any-return]

    @property
    def lower_alarm_limit(self) -> float | None:
        """Below this the alarm is major (if the record says so)."""
        return self._getarg("lower_alarm_limit")  # type: ignore[no-any-return]

    @property
    def upper_warning_limit(self) -> float | None:
        """Above this the alarm is minor (if the record says so)."""
        return self._getarg("upper_warning_limit")  # type: ignore[no-any-return]

    @property
    def lower_warning_limit(self) -> float | None:
        """Below this the alarm is minor (if the record says so)."""
        return self._getarg("lower_warning_limit")  # type: ignore[no-any-return]

    @property
    def upper_ctrl_limit(self) -> float | None:
        """The highest value that may be put."""
        return self._getarg("upper_ctrl_limit")  # type: ignore[no-any-return]

    @property
    def lower_ctrl_limit(self) -> float | None:
        """The lowest value that may be put."""
        return self._getarg("lower_ctrl_limit")  # type: ignore[no-any-return]


# --- what is behind them: of the table's columns, without asking anybody ------------------------


def native_type(pv: ChannelProxy) -> int | None:
    """The DBR type 0 to 6 of the channel, also when it is lost; None if it never connected."""
    slot = pv._begun()
    found = pv._table.native_type.item(slot)
    return None if found == UNKNOWN_TYPE else found


def _ftype(pv: ChannelProxy) -> int | None:
    plain = native_type(pv)
    if plain is None:
        return None
    if pv.form == "ctrl":
        plain += CTRL_STRING
    elif pv.form == "time":
        plain += TIME_STRING
    return TIME_STRING if plain == CTRL_STRING else plain


def _type(pv: ChannelProxy) -> str:
    ftype = _ftype(pv)
    return "unknown" if ftype is None else Name(ftype).lower()


def nelm(pv: ChannelProxy) -> int:
    """See `Attributes.nelm`."""
    return -1 if native_type(pv) is None else pv._table.native_count.item(pv._slot)


def _rights(pv: ChannelProxy) -> int | None:
    return None if native_type(pv) is None else pv._table.access.item(pv._slot)


def _may(right: Access) -> Callable[[ChannelProxy], bool | None]:
    def may(pv: ChannelProxy) -> bool | None:
        rights = _rights(pv)
        return None if rights is None else bool(rights & right)

    return may


def _access(pv: ChannelProxy) -> str:
    rights = _rights(pv)
    return "unknown" if rights is None else ACCESS_NAMES[rights & 3]


def _host(pv: ChannelProxy) -> str | None:
    return pv.engine.channels([pv.pvname])[0].host or None


def count_of(pv: ChannelProxy, row: Row | None) -> int | None:
    """How many elements a row has, or, if there is none, may have."""
    most = nelm(pv)
    if most <= 1:
        return None if most < 0 else most
    return min(most if row is None else row[7], pv._user_max_count or most)


def _count(pv: ChannelProxy) -> int | None:
    is_coming = pv.connected and nelm(pv) > 1 and pv._wants_monitor()
    return count_of(pv, pv._some_row() if is_coming else pv._known_row())


def _of_row(place: int) -> Callable[[ChannelProxy], Any]:
    def get(pv: ChannelProxy) -> Any:
        row = pv._some_row()
        return None if row is None else row[place]

    return get


def _of_time(place: int) -> Callable[[ChannelProxy], Any]:
    def get(pv: ChannelProxy) -> Any:
        row = pv._some_row()
        return None if row is None else pv._times(row)[place]

    return get


def _of_metadata(name: str) -> Callable[[ChannelProxy], Any]:
    return lambda pv: pv._metadata().get(name)


FIELDS: dict[str, Callable[[ChannelProxy], Any]] = {
    "pvname": lambda pv: pv.pvname,
    "value": lambda pv: pv._latest(),
    "char_value": lambda pv: pv._set_charval(pv._latest()),
    "status": _of_row(3),
    "severity": _of_row(4),
    "timestamp": _of_time(0),
    "posixseconds": _of_time(1),
    "nanoseconds": _of_time(2),
    "ftype": _ftype,
    "type": _type,
    "typefull": _type,
    "chid": lambda pv: pv.chid,
    "host": _host,
    "count": _count,
    "nelm": nelm,
    "access": _access,
    "read_access": _may(Access.READ),
    "write_access": _may(Access.WRITE),
    "monitor_delta": lambda pv: pv._monitor_delta,
    "precision": _of_metadata("precision"),
    "units": _of_metadata("units"),
    "enum_strs": _of_metadata("enum_strs"),
    **{limit: _of_metadata(limit) for limit in LIMITS},
}
"""How each is found."""


class Arguments(MutableMapping[str, Any]):
    """``PV._args``: what is known of a PV now, by the names of callbacks' keywords.

    Nothing is asked of a server: what is not known is None. What a program sets under a name that the PV keeps itself
    has no effect, for the PV knows better; under any other name it is kept.
    """

    def __init__(self, pv: ChannelProxy) -> None:
        self._pv = pv

    def __getitem__(self, name: str) -> Any:
        known = self._pv._known_arguments()
        return known[name] if name in known else self._pv._more_args[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in FIELDS:
            self._pv._more_args = {**self._pv._more_args, name: value}

    def __delitem__(self, name: str) -> None:
        self._pv._more_args = {other: value for other, value in self._pv._more_args.items() if other != name}

    def clear(self) -> None:
        """Forget what a program has set; what the PV keeps itself stays."""
        self._pv._more_args = {}

    def popitem(self) -> tuple[str, Any]:
        """Take away what a program has set last, if it has set anything."""
        more = dict(self._pv._more_args)
        item = more.popitem()
        self._pv._more_args = more
        return item

    def __iter__(self) -> Iterator[str]:
        return iter({**self._pv._known_arguments(), **self._pv._more_args})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def copy(self) -> dict[str, Any]:
        """All of it, as a dictionary."""
        return dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))
