"""The container of a snapshot: columns over all its PVs, and readings of single ones.

Its files are in `daqca.snapshot.files`, its tables in `daqca.snapshot.table`; reading the PVs is the engine's work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca import events
from daqca.outcome import Outcome
from daqca.reading import FLOAT_TYPES, UNKNOWN_TYPE, Reading, Value, data_value, decode_text, number_value
from daqca.snapshot.metadata import MetadataColumns

Datum = tuple[int, int, bytes | bytearray | memoryview]
"""DBR type, number of elements and big-endian bytes of one string or array."""

_WITH_VALUE = (Outcome.OK, Outcome.STALE)


class Snapshot:
    """The values of n PVs with a status, an alarm, a timestamp and an outcome for each.

    A name that was asked for twice is there twice. Columns are arrays of shape (n,), in the order of `names`.

    Parameters
    ----------
    names
        The PVs.
    number
        f8, the value of scalar numbers; NaN for strings, arrays and where there is no value.
    status, severity
        u1, the alarm.
    timestamps
        i8, nanoseconds since the Unix epoch by the clock of the IOC; 0 where there is none.
    outcome
        u1, an `Outcome` for each PV.
    native_type
        u1, DBR type 0 to 6 of the channel; 255 where it never connected.
    count
        u4, number of elements received; taken from `data` if not given.
    native_count
        u4, the most elements the channel can have. A channel that can have several gives an array even
        when it has one element now. Taken as `count` if not given.
    data
        By index: the (DBR type, count, big-endian bytes) of strings and arrays. The bytes are not copied.
        Or a function that makes this dictionary when it is first needed.
    metadata
        Units, limits and enum states, if they were asked for (``form="ctrl"``).
    started
        When it was asked for: nanoseconds since the Unix epoch by our clock; 0 if not known.
    elapsed
        How long it took, in seconds; NaN if not known.

    Attributes
    ----------
    ok : bool array
        Which PVs were read as asked.
    """

    def __init__(
        self,
        names: Sequence[str],
        number: npt.ArrayLike,
        *,
        status: npt.ArrayLike,
        severity: npt.ArrayLike,
        timestamps: npt.ArrayLike,
        outcome: npt.ArrayLike,
        native_type: npt.ArrayLike,
        count: npt.ArrayLike | None = None,
        native_count: npt.ArrayLike | None = None,
        data: Mapping[int, Datum] | Callable[[], dict[int, Datum]] | None = None,
        metadata: MetadataColumns | None = None,
        started: int = 0,
        elapsed: float = float("nan"),
    ):
        self.names: list[str] = list(names)
        self.number: npt.NDArray[np.float64] = np.asarray(number, np.float64)
        self.status: npt.NDArray[np.uint8] = np.asarray(status, np.uint8)
        self.severity: npt.NDArray[np.uint8] = np.asarray(severity, np.uint8)
        self.timestamps: npt.NDArray[np.int64] = np.asarray(timestamps, np.int64)
        self.outcome: npt.NDArray[np.uint8] = np.asarray(outcome, np.uint8)
        self.native_type: npt.NDArray[np.uint8] = np.asarray(native_type, np.uint8)
        self._data: dict[int, Datum] | Callable[[], dict[int, Datum]] = data if callable(data) else dict(data or {})
        if not callable(data):
            self._check_data()
        self.count: npt.NDArray[np.uint32] = self._counts() if count is None else np.asarray(count, np.uint32)
        self.native_count: npt.NDArray[np.uint32] = (
            self.count if native_count is None else np.asarray(native_count, np.uint32)
        )
        self.metadata = metadata
        self.started = int(started)
        self.elapsed = float(elapsed)
        self._check()
        self._values: list[Value] | None = None
        self._index: dict[str, int] | None = None

    def _counts(self) -> npt.NDArray[np.uint32]:
        count = self.has_value.astype(np.uint32)
        for index, (_, elements, _) in self.data.items():
            count[index] = elements
        return count

    def _check(self) -> None:
        size = len(self.names)
        for column in (*COLUMNS, "metadata"):
            value = getattr(self, column)
            if value is not None and len(value) != size:
                raise ValueError(f"column {column!r} has {len(value)} rows, but there are {size} names")

    def _check_data(self) -> None:
        size = len(self.names)
        if self.data and not 0 <= min(self.data) <= max(self.data) < size:
            raise ValueError(f"there is data for index {max(self.data)}, but there are {size} names")

    @property
    def data(self) -> dict[int, Datum]:
        """By index: the (DBR type, count, big-endian bytes) of strings and arrays."""
        if callable(self._data):
            self._data = self._data()
        return self._data

    # ---- what was read

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which PVs were read as asked, shape (n,)."""
        ok: npt.NDArray[np.bool_] = self.outcome == Outcome.OK
        return ok

    @property
    def has_value(self) -> npt.NDArray[np.bool_]:
        """Which PVs have a value, if only a stale one, shape (n,)."""
        has_value: npt.NDArray[np.bool_] = self.ok | (self.outcome == Outcome.STALE)
        return has_value

    @property
    def missing(self) -> dict[str, Outcome]:
        """Every PV that was not read as asked, stale ones among them, with the reason."""
        return {self.names[i]: Outcome(int(self.outcome[i])) for i in np.flatnonzero(~self.ok).tolist()}

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many PVs had each outcome; only those that occur."""
        counts = np.bincount(self.outcome, minlength=1)
        return {Outcome(i): int(counts[i]) for i in np.flatnonzero(counts).tolist()}

    @property
    def values(self) -> list[Value]:
        """The values as Python has them (see `daqca.reading.Value`), made at the first use.

        None where there is no value. Of a stale PV it is the last value known: see `outcome`.
        """
        if self._values is None:
            self._values = self._make_values()
        return self._values

    @property
    def units(self) -> list[str] | None:
        """The engineering units of each PV, ``""`` where there are none; None if they were not asked for."""
        return None if self.metadata is None else [decode_text(units) for units in self.metadata.units.tolist()]

    def _make_values(self) -> list[Value]:
        values = self.number.astype(object)
        whole = np.isfinite(self.number)
        whole &= ~np.isin(self.native_type, FLOAT_TYPES)
        values[whole] = self.number[whole].astype(np.int64).astype(object)
        has_value = self.has_value
        values[~has_value] = None
        result: list[Value] = values.tolist()
        # Strings are many and short, so they do not go through the general case below.
        strings = has_value & (self.native_count <= 1)
        plain, there = strings.tolist(), has_value.tolist()
        for i, (dbr_type, count, raw) in self.data.items():
            if dbr_type == 0 and count == 1 and plain[i]:
                result[i] = decode_text(bytes(raw))
            elif there[i]:
                result[i] = self._value(i)
        for i in np.flatnonzero((self.native_count > 1) & (self.count <= 1) & has_value).tolist():
            result[i] = self._value(i)
        return result

    def _value(self, index: int) -> Value:
        """The value of one PV, without making all of them."""
        if self.outcome[index] not in _WITH_VALUE:
            return None
        native = int(self.native_type[index])
        is_array = self.native_count[index] > 1
        datum = self.data.get(index)
        if datum is None:
            number = float(self.number[index])
            if is_array:
                return np.full(int(self.count[index]), number).astype(_native_dtype(native))
            return number_value(number, native)
        dbr_type, count, raw = datum
        return data_value(raw, dbr_type, count, is_array)

    # ---- as a collection of readings

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._places()

    def __iter__(self) -> Iterator[Reading]:
        return (self.reading(i) for i in range(len(self)))

    def __getitem__(self, name: str) -> Reading:
        """The reading of a PV by name (the first of this name).

        Raises
        ------
        KeyError
            If the snapshot was not asked for this name.
        """
        try:
            return self.reading(self._places()[name])
        except KeyError:
            raise KeyError(f"{name} is not in this snapshot of {len(self):,} PVs") from None

    def reading(self, index: int) -> Reading:
        """The reading of the PV at `index` in `names`."""
        native = int(self.native_type[index])
        return Reading(
            self.names[index],
            self._value(index) if self._values is None else self._values[index],
            int(self.status[index]),
            int(self.severity[index]),
            int(self.timestamps[index]),
            Outcome(int(self.outcome[index])),
            None if native == UNKNOWN_TYPE else native,
            None if self.metadata is None else self.metadata[index],
        )

    def _places(self) -> dict[str, int]:
        if self._index is None:
            # Backwards, so that the first of two equal names stays.
            size = len(self.names)
            self._index = dict(zip(reversed(self.names), range(size - 1, -1, -1), strict=True))
        return self._index

    def to_dict(self) -> dict[str, Value]:
        """Name to value; None where there is none (`missing` says why). The first of equal names counts."""
        return dict(zip(reversed(self.names), reversed(self.values), strict=True))

    # ---- text and files

    def table(self, limit: int = 20) -> str:
        """A text table of the first `limit` PVs."""
        from daqca.snapshot.table import text_table

        return text_table(self, limit)

    def __repr__(self) -> str:
        from daqca.snapshot.table import headline

        return f"<Snapshot of {headline(self)}>"

    def _repr_html_(self) -> str:
        from daqca.snapshot.table import html_table

        return html_table(self)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the snapshot to a file; the suffix decides: ``.h5``, ``.csv`` or ``.json``.

        The file appears complete or not at all, and one that was there stays as it is if anything fails.

        Raises
        ------
        ConfigurationError
            For another suffix.
        RecordingError
            If the file exists and `overwrite` is false, or if it cannot be written.
        """
        from daqca.snapshot.files import save

        save(self, path, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read a snapshot that `save` wrote.

        Raises
        ------
        ConfigurationError
            For a suffix that `save` does not know.
        RecordingError
            If the file cannot be read or holds no snapshot.
        """
        from daqca.snapshot.files import load

        return load(path)

    def __getstate__(self) -> dict[str, Any]:
        # The bytes may be memoryviews of a received block, which cannot be pickled.
        data = {index: (dbr_type, count, bytes(raw)) for index, (dbr_type, count, raw) in self.data.items()}
        return {**self.__dict__, "_data": data, "_values": None, "_index": None}


COLUMNS = ("number", "status", "severity", "timestamps", "outcome", "native_type", "count", "native_count")
"""The columns that every snapshot has, besides its names."""


def _native_dtype(native_type: int) -> np.dtype[Any]:
    """The dtype, in native byte order, of a number's array."""
    if not 0 < native_type < len(events.ELEMENT):
        return np.dtype(np.float64)
    dtype: np.dtype[Any] = events.ELEMENT[native_type].newbyteorder("=")
    return dtype
