"""The reading of one PV, with its metadata and the words of alarms and types.

Plain values, made by the engine and by snapshots. No columns, no files, no network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca import events
from daqca.outcome import Outcome

NAN = float("nan")
FLOAT_TYPES = (2, 6)
"""The DBR types whose values are floats: FLOAT and DOUBLE."""
UNKNOWN_TYPE = 255
"""The native type, in columns, of a channel that never connected."""

TYPE_NAMES = ("STRING", "SHORT", "FLOAT", "ENUM", "CHAR", "LONG", "DOUBLE")
"""Names of the plain DBR types 0 to 6 (``db_access.h``)."""

Value = int | float | str | npt.NDArray[Any] | None
"""A value as a user gets it: int for SHORT, ENUM, CHAR and LONG, float, str, or a one-dimensional
array (native byte order; ``U`` for strings); None where there is no value."""


class Severity(IntEnum):
    """Alarm severity, as EPICS numbers it (``alarm.h``)."""

    NO_ALARM = 0
    MINOR = 1
    MAJOR = 2
    INVALID = 3


class AlarmStatus(IntEnum):
    """Alarm status, as EPICS numbers it (``alarm.h``)."""

    NO_ALARM = 0
    READ = 1
    WRITE = 2
    HIHI = 3
    HIGH = 4
    LOLO = 5
    LOW = 6
    STATE = 7
    COS = 8
    COMM = 9
    TIMEOUT = 10
    HWLIMIT = 11
    CALC = 12
    SCAN = 13
    LINK = 14
    SOFT = 15
    BAD_SUB = 16
    UDF = 17
    DISABLE = 18
    SIMM = 19
    READ_ACCESS = 20
    WRITE_ACCESS = 21


def severity_name(severity: int) -> str:
    """The name of an alarm severity, or its number in digits where EPICS has no name for it."""
    return Severity(severity).name if 0 <= severity < len(Severity) else str(severity)


def status_name(status: int) -> str:
    """The name of an alarm status, or its number in digits where EPICS has no name for it."""
    return AlarmStatus(status).name if 0 <= status < len(AlarmStatus) else str(status)


def type_name(native_type: int | None) -> str:
    """The name of a native type, or ``""`` if it is not known."""
    return TYPE_NAMES[native_type] if native_type is not None and native_type < len(TYPE_NAMES) else ""


def decode_text(raw: bytes, encoding: str = "utf-8") -> str:
    """The text before the first zero byte: UTF-8, or Latin-1 where it is not UTF-8 (EPICS does not say)."""
    end = raw.find(0)
    if end >= 0:
        raw = raw[:end]
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def encode_text(text: str, size: int) -> bytes:
    """The bytes that `decode_text` reads as `text`, in at most `size` bytes; what is too long is cut."""
    raw = text.encode()
    # A text that came as Latin-1 may not fit as UTF-8.
    return raw if len(raw) <= size else text.encode("latin-1", "replace")[:size]


def time_text(timestamp: int) -> str:
    """A timestamp in ns since the Unix epoch as ISO 8601 in UTC with all nine decimals; ``""`` for 0."""
    if not timestamp:
        return ""
    seconds, ns = divmod(int(timestamp), 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def number_value(number: float, native_type: int) -> int | float:
    """A scalar number as the user of this type gets it: int for SHORT, ENUM, CHAR and LONG."""
    return number if native_type in FLOAT_TYPES or not math.isfinite(number) else int(number)


def array_of(number: float, count: int, native_type: int) -> npt.NDArray[Any]:
    """The value of an array channel whose elements (one, as a rule) came as one number."""
    return np.full(count, number).astype(events.ELEMENT[native_type].newbyteorder("="))


def data_value(
    data: bytes | bytearray | memoryview, dbr_type: int, count: int, is_array: bool, encoding: str = "utf-8"
) -> Value:
    """The value of a string or an array, from its bytes as Channel Access sends them.

    Parameters
    ----------
    data
        Big-endian elements; strings of 40 bytes each (the last may be shorter).
    dbr_type
        Plain DBR type of the data, 0 to 6.
    count
        Number of elements.
    is_array
        Whether the channel can have several elements: then one element is an array too.
    encoding
        Of strings; what is not in it is taken for Latin-1.
    """
    if dbr_type == 0:
        raw = bytes(data)
        texts = [decode_text(raw[i * 40 : i * 40 + 40], encoding) for i in range(count)]
        return texts[0] if count == 1 and not is_array else np.array(texts, dtype="U" if texts else "U1")
    array = events.decode(memoryview(data), dbr_type, count)
    if count == 1 and not is_array:
        item: int | float = array[0].item()
        return item
    return array if array.flags.writeable else array.copy()  # the user's own, as of any type


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a DBR_CTRL structure says of a PV besides its value.

    Limits are NaN where the type has none, ``precision`` is None where it has none.
    """

    units: str = ""
    precision: int | None = None
    enum_strings: tuple[str, ...] = ()
    upper_disp_limit: float = NAN
    lower_disp_limit: float = NAN
    upper_alarm_limit: float = NAN
    upper_warning_limit: float = NAN
    lower_warning_limit: float = NAN
    lower_alarm_limit: float = NAN
    upper_ctrl_limit: float = NAN
    lower_ctrl_limit: float = NAN


LIMITS = tuple(field.name for field in fields(Metadata))[3:]
"""The names of the eight limits, in the order of the DBR_CTRL structures."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One PV as it was read.

    Parameters
    ----------
    name
        The PV.
    value
        See `Value`. None if there is none, and then `outcome` says why.
    status, severity
        The alarm (`AlarmStatus`, `Severity`).
    timestamp
        Nanoseconds since the Unix epoch, by the IOC's clock; 0 if there is none.
    outcome
        What became of the read. `STALE` comes with the last value known.
    native_type
        DBR type 0 to 6 of the channel; None if it never connected.
    metadata
        Units, limits and the like, if they were asked for.
    why
        In words, why there is no value, or why it is not fresh; ``""`` where there is nothing to say.
    """

    name: str
    value: Value
    status: int = 0
    severity: int = 0
    timestamp: int = 0
    outcome: Outcome = Outcome.OK
    native_type: int | None = None
    metadata: Metadata | None = None
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether the value was read as asked (its alarm may still be any)."""
        return self.outcome is Outcome.OK

    @property
    def units(self) -> str:
        """The engineering units; ``""`` if they were not asked for."""
        return self.metadata.units if self.metadata else ""

    @property
    def precision(self) -> int | None:
        """The number of decimals to show; None if it was not asked for or the type has none."""
        return self.metadata.precision if self.metadata else None

    @property
    def enum_strings(self) -> tuple[str, ...]:
        """The names of an enum's states; empty if they were not asked for or it is no enum."""
        return self.metadata.enum_strings if self.metadata else ()

    @property
    def time(self) -> str:
        """The timestamp as ISO 8601 in UTC, with nanoseconds."""
        return time_text(self.timestamp)

    def as_text(self) -> str:
        """The value as a person would read it.

        The state's name of an enum, the text of a CHAR array (a long string), numbers with the PV's
        precision where these are known; ``""`` where there is no value.
        """
        value = self.value
        if value is None:
            return ""
        if isinstance(value, np.ndarray):
            if self.native_type == 4:
                return decode_text(value.astype("u1").tobytes())
            return " ".join(str(item) for item in value.tolist())
        if isinstance(value, float) and self.precision is not None and self.precision >= 0:
            return f"{value:.{self.precision}f}"
        if isinstance(value, int) and 0 <= value < len(self.enum_strings):
            return self.enum_strings[value]
        return str(value)
