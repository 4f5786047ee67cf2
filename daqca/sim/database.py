"""The records of the simulated control system: what each serves, and the database text that makes EPICS base serve it.

Every value follows from the record's number, so that a reader of any of them can tell a right value from a wrong one.
The special records beside the scalars are in ``specials.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import ConfigurationError
from .specials import array_names, specials_text, specials_values

STRING, SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE = range(7)
_NO_ALARM, _MINOR, _MAJOR = range(3)
_STAT_HIHI, _STAT_HIGH, _STAT_STATE = 3, 4, 7
_UNITS = ("mm", "deg", "V", "mA", "")
_STATES = ("Idle", "Moving", "Settling", "Fault", "Homing")
# The mix of twenty records that repeats.
_MIX = (
    *("ai", "longin", "ao", "bi", "mbbi", "ai", "stringin", "longout", "ai", "bo"),
    *("ao", "mbbo", "ai", "float", "stringout", "short", "longin", "char", "ao", "int64in"),
)
# Each counter is read by two others that it processes, in this order.
_CHANGING_MIX = ("calc", "ramp", "tick")

Changing = int | Sequence[tuple[int, float]] | None
"""How many records change; or groups of them, each with its own rate: pairs of how many, and how often a second."""


@dataclass(frozen=True, slots=True)
class SimRecord:
    """A scalar record: what a client reads from it after the IOC has started.

    Parameters
    ----------
    name
        The PV name.
    record_type
        ``"ai"``, ``"mbbo"``, ...
    native_type
        The CA type: 0 STRING, 1 SHORT, 2 FLOAT, 3 ENUM, 4 CHAR, 5 LONG, 6 DOUBLE.
    value
        The value; of a changing record the value before the first change.
    severity, status
        The alarm (``alarm.h``).
    units, precision
        As served for the numeric ones; precision None where the type has none.
    enum_strings
        The names of the states, of an ENUM.
    changing
        Whether it counts up by one with each scan.
    rate_hz
        How often that is, per second; 0 for those that keep still.
    """

    name: str
    record_type: str
    native_type: int
    value: int | float | str
    severity: int = 0
    status: int = 0
    units: str = ""
    precision: int | None = None
    enum_strings: tuple[str, ...] = ()
    changing: bool = False
    rate_hz: float = 0.0


class SimDatabase:
    """The database of a ``SimIOC``.

    Scalar records are named ``<prefix><family><number>``, the number counting
    from 1 in each family, in five digits. Record ``n`` of a family serves:

    ============ ============ =============================================================
    family       CA type      value
    ============ ============ =============================================================
    ai, ao       DOUBLE       n / 8; units cycle by n through mm, deg, V, mA and none;
                              precision n % 6; MAJOR (HIHI) if n % 10 is 0,
                              MINOR (HIGH) if n % 10 is 5
    longin,      LONG         7 n; units cycle likewise; MAJOR if n % 10 is 0,
    longout                   MINOR if n % 10 is 5
    int64in      DOUBLE       1,000,003 n
    bi, bo       ENUM         n % 2 of Off, On; On is a MINOR alarm (STATE) if n % 10 is 7
    mbbi, mbbo   ENUM         n % 5 of Idle, Moving, Settling, Fault (MAJOR), Homing
    stringin,    STRING       ``text n``
    stringout
    float        FLOAT        n / 4 (waveforms of one element, as are the next two)
    short        SHORT        n, its sign alternating, at most 32,000
    char         CHAR         n % 256
    calc         DOUBLE       changing: counts up by one with each scan, from 1
    ramp, tick   DOUBLE, LONG changing: the count of calc ``n``, which processes them
    ============ ============ =============================================================

    Parameters
    ----------
    prefix
        What every name begins with.
    scalars
        Number of scalar records, the changing ones included.
    changing
        How many of them change; a twentieth, at most 1,000, when None. Or groups, as pairs of how many and of their
        own rate per second; a group begins with a calc of the next number.
    rate_hz
        How often each of those changes that are in no group, and the history among the special records, per second.
    arrays
        Whether the special records are there too.

    Raises
    ------
    ConfigurationError
        A number makes no sense.
    """

    def __init__(
        self,
        prefix: str = "SIM:",
        scalars: int = 20_000,
        changing: Changing = None,
        rate_hz: float = 10.0,
        *,
        arrays: bool = True,
    ):
        if changing is None:
            changing = min(1000, scalars // 20)
        groups = [(changing, rate_hz)] if isinstance(changing, int) else list(changing)
        in_all = sum(count for count, _ in groups)
        if any(count < 0 for count, _ in groups) or in_all > scalars or scalars < 0:
            raise ConfigurationError(f"{in_all} of {scalars} records cannot be changing ones")
        for rate in (rate_hz, *(rate for _, rate in groups)):
            if rate <= 0:
                raise ConfigurationError(f"records cannot change at {rate} Hz: give a rate above zero")
        self.prefix = prefix
        self.rate_hz = rate_hz
        self.arrays = arrays
        self.records: list[SimRecord] = []
        texts: list[str] = []
        counts: Counter[str] = Counter()
        rates = [rate_hz] if arrays else []
        first = 1
        for count, rate in groups:
            rates += [rate] if count else []
            for record, text in _counters(prefix, first, count, rate):
                self.records.append(record)
                texts.append(text)
            first += -(-count // 3)
        for index in range(scalars - in_all):
            family = _MIX[index % len(_MIX)]
            counts[family] += 1
            name = f"{prefix}{family}{counts[family]:05d}"
            record, text = _FAMILIES[family](name, family, counts[family])
            self.records.append(record)
            texts.append(text)
        self.rates_hz = list({_scan(rate): rate for rate in rates}.values())
        """The rates that the records ask for, each once."""
        self._scalars_text = "\n".join(texts)

    @cached_property
    def text(self) -> str:
        """The database, as in a ``.db`` file."""
        specials = specials_text(self.prefix, self.rate_hz) if self.arrays else ""
        return self._scalars_text + "\n" + specials

    @property
    def names(self) -> list[str]:
        """The names of the scalar records, in order, the changing ones first."""
        return [record.name for record in self.records]

    @property
    def changing_names(self) -> list[str]:
        """The names of those that change by themselves."""
        return [record.name for record in self.records if record.changing]

    @property
    def array_names(self) -> list[str]:
        """The names of the special records that are arrays or long strings."""
        return array_names(self.prefix) if self.arrays else []

    @cached_property
    def by_name(self) -> dict[str, SimRecord]:
        """The scalar records by their names."""
        return {record.name: record for record in self.records}

    @property
    def special_values(self) -> dict[str, object]:
        """What the special records serve at the start, by name: lists, numbers and strings (see ``specials.py``)."""
        return specials_values(self.prefix) if self.arrays else {}


def _analog(name: str, family: str, number: int) -> tuple[SimRecord, str]:
    severity, status, limits = _limits(number, high=10_000_000)
    units, precision, value = _UNITS[number % 5], number % 6, number / 8
    record = SimRecord(name, family, DOUBLE, value, severity, status, units, precision)
    return record, (
        f'record({family},"{name}"){{field(PINI,YES)field(VAL,{value})field(EGU,"{units}")field(PREC,{precision})'
        f"field(HOPR,{number})field(LOPR,{-number}){_drive(family)}{limits}}}"
    )


def _drive(family: str) -> str:
    # Control limits of an output are its drive limits.
    return "field(DRVH,1e9)field(DRVL,-1e9)" if family in ("ao", "longout") else ""


def _integer(name: str, family: str, number: int) -> tuple[SimRecord, str]:
    severity, status, limits = _limits(number, high=2_000_000_000)
    units, value = _UNITS[number % 5], 7 * number
    record = SimRecord(name, family, LONG, value, severity, status, units)
    drive = _drive(family).replace("1e9", "1000000000")
    return record, (
        f'record({family},"{name}"){{field(PINI,YES)field(VAL,{value})field(EGU,"{units}")'
        f"field(HOPR,{number})field(LOPR,{-number}){drive}{limits}}}"
    )


def _limits(number: int, high: int) -> tuple[int, int, str]:
    """Return severity, status and limit fields: every tenth beyond HIHI, every tenth beyond HIGH only."""
    ending = number % 10
    fields = f"field(LOLO,{-high})field(LOW,{-high // 2})field(LLSV,MAJOR)field(LSV,MINOR)"
    fields += "field(HHSV,MAJOR)field(HSV,MINOR)"
    if ending == 0:
        return _MAJOR, _STAT_HIHI, fields + "field(HIGH,-2)field(HIHI,-1)"
    if ending == 5:
        return _MINOR, _STAT_HIGH, fields + f"field(HIGH,-1)field(HIHI,{high})"
    return _NO_ALARM, _NO_ALARM, fields + f"field(HIGH,{high // 2})field(HIHI,{high})"


def _int64(name: str, family: str, number: int) -> tuple[SimRecord, str]:
    value = 1_000_003 * number
    record = SimRecord(name, family, DOUBLE, value, units="counts", precision=0)
    return record, f'record(int64in,"{name}"){{field(PINI,YES)field(VAL,{value})field(EGU,"counts")}}'


def _binary(name: str, family: str, number: int) -> tuple[SimRecord, str]:
    value, alarming = number % 2, number % 10 == 7
    severity, status = (_MINOR, _STAT_STATE) if alarming else (_NO_ALARM, _NO_ALARM)
    record = SimRecord(name, family, ENUM, value, severity, status, enum_strings=("Off", "On"))
    alarm = "field(OSV,MINOR)" if alarming else ""
    return record, (
        f'record({family},"{name}"){{field(PINI,YES)field(VAL,{value})field(ZNAM,"Off")field(ONAM,"On"){alarm}}}'
    )


_STATE_FIELDS = "".join(
    f'field({code}ST,"{state}")field({code}VL,{index})'
    for index, (code, state) in enumerate(zip(("ZR", "ON", "TW", "TH", "FR"), _STATES, strict=True))
)


def _multi(name: str, family: str, number: int) -> tuple[SimRecord, str]:
    value = number % 5
    severity, status = (_MAJOR, _STAT_STATE) if _STATES[value] == "Fault" else (_NO_ALARM, _NO_ALARM)
    record = SimRecord(name, family, ENUM, value, severity, status, enum_strings=_STATES)
    return record, f'record({family},"{name}"){{field(PINI,YES)field(VAL,{value}){_STATE_FIELDS}field(THSV,MAJOR)}}'


def _string(name: str, family: str, number: int) -> tuple[SimRecord, str]:
    value = f"text {number}"
    return SimRecord(name, family, STRING, value), f'record({family},"{name}"){{field(PINI,YES)field(VAL,"{value}")}}'


def _one_element(field_type: str, native_type: int, value_of: Callable[[int], int | float]) -> _Family:
    """Return the maker of waveforms of one element: no scalar record of base is of this type."""

    def make(name: str, family: str, number: int) -> tuple[SimRecord, str]:
        value = value_of(number)
        precision = 2 if native_type == FLOAT else None
        record = SimRecord(name, "waveform", native_type, value, units="a.u.", precision=precision)
        return record, (
            f'record(waveform,"{name}"){{field(PINI,YES)field(FTVL,{field_type})field(NELM,1)'
            f'field(INP,[{value}])field(EGU,"a.u.")field(PREC,2)}}'
        )

    return make


def _scan(rate_hz: float) -> str:
    return f"{rate_hz:g} Hz"


def _counters(prefix: str, first: int, count: int, rate_hz: float) -> Iterator[tuple[SimRecord, str]]:
    """Make a group of changing records: counters from this number on, each with the two that it processes."""
    for index in range(count):
        number, place = first + index // 3, index % 3
        # The next in the chain is there unless the group ends before it.
        following = _CHANGING_MIX[place + 1] if place < 2 and index + 1 < count else None
        yield _changing(prefix, _CHANGING_MIX[place], number, rate_hz, following)


def _changing(prefix: str, family: str, number: int, rate_hz: float, following: str | None) -> tuple[SimRecord, str]:
    """Return a counter, or one of the two that the counter of this number processes."""
    name, counter = f"{prefix}{family}{number:05d}", f"{prefix}calc{number:05d}"
    link = f'field(FLNK,"{prefix}{following}{number:05d}")' if following else ""
    record_type, native_type, value, precision = {
        "calc": ("calc", DOUBLE, 0.0, 1),
        "ramp": ("ai", DOUBLE, 0.0, 1),
        "tick": ("longin", LONG, 0, None),
    }[family]
    fields = f'field(SCAN,"{_scan(rate_hz)}")field(CALC,"VAL+1")' if family == "calc" else f'field(INP,"{counter}")'
    fields += f"field(PREC,{precision})" if precision is not None else ""
    record = SimRecord(
        name, record_type, native_type, value, units="counts", precision=precision, changing=True, rate_hz=rate_hz
    )
    return record, f'record({record_type},"{name}"){{{fields}field(EGU,"counts"){link}}}'


_Family = Callable[[str, str, int], "tuple[SimRecord, str]"]
_FAMILIES: dict[str, _Family] = {
    "ai": _analog,
    "ao": _analog,
    "longin": _integer,
    "longout": _integer,
    "int64in": _int64,
    "bi": _binary,
    "bo": _binary,
    "mbbi": _multi,
    "mbbo": _multi,
    "stringin": _string,
    "stringout": _string,
    "float": _one_element("FLOAT", FLOAT, lambda n: n / 4),
    "short": _one_element("SHORT", SHORT, lambda n: min(n, 32_000) * (-1) ** n),
    "char": _one_element("UCHAR", CHAR, lambda n: n % 256),
}
