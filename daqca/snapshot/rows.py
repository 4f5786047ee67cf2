"""A snapshot as one plain dictionary for each PV, and back: what the text formats and ``--json`` share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from daqca import events
from daqca.outcome import Outcome
from daqca.reading import (
    LIMITS,
    TYPE_NAMES,
    UNKNOWN_TYPE,
    AlarmStatus,
    Metadata,
    Reading,
    Severity,
    encode_text,
    severity_name,
    status_name,
    type_name,
)
from daqca.snapshot.container import Datum, Snapshot
from daqca.snapshot.metadata import MetadataColumns

Row = dict[str, Any]

FIELDS = (
    "name",
    "value",
    "outcome",
    "severity",
    "status",
    "time",
    "timestamp",
    "type",
    "count",
    "native_count",
)
METADATA_FIELDS = ("units", "precision", *LIMITS, "enum_strings")

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_TYPES = {"": UNKNOWN_TYPE, **{name: code for code, name in enumerate(TYPE_NAMES)}}
_OUTCOMES = {outcome.text: outcome for outcome in Outcome}


def rows_of(snapshot: Snapshot) -> Iterator[Row]:
    """One `Row` for each PV, of values that JSON knows.

    ``severity``, ``status``, ``time`` and ``timestamp`` are None where there is no value.
    """
    counts, native_counts = snapshot.count.tolist(), snapshot.native_count.tolist()
    for reading, count, native_count in zip(snapshot, counts, native_counts, strict=True):
        yield {**row_of(reading), "count": count, "native_count": native_count, **_metadata_row(reading.metadata)}


def row_of(reading: Reading) -> Row:
    """The `Row` of one reading, without its counts and metadata."""
    has_value = reading.value is not None
    return {
        "name": reading.name,
        "value": plain(reading.value),
        "outcome": reading.outcome.text,
        "severity": severity_name(reading.severity) if has_value else None,
        "status": status_name(reading.status) if has_value else None,
        "time": reading.time or None,
        "timestamp": reading.timestamp or None,
        "type": type_name(reading.native_type) or None,
    }


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, and NaN and the infinities as words."""
    if isinstance(value, np.ndarray):
        items = value.tolist()
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return [plain(item) for item in items]
        return items
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _metadata_row(metadata: Metadata | None) -> Row:
    if metadata is None:
        return {}
    limits = {name: getattr(metadata, name) for name in LIMITS}
    return {
        "units": metadata.units,
        "precision": metadata.precision,
        **{name: None if math.isnan(limit) else plain(limit) for name, limit in limits.items()},
        "enum_strings": list(metadata.enum_strings),
    }


def from_rows(rows: Iterable[Mapping[str, Any]], started: int = 0, elapsed: float = math.nan) -> Snapshot:
    """Make the snapshot whose `rows_of` are these.

    Raises
    ------
    ValueError, KeyError, TypeError
        If a row is not one of ours; the message names the PV.
    """
    table = list(rows)
    size = len(table)
    column = {name: [row[name] for row in table] for name in FIELDS}
    number = np.full(size, np.nan)
    data: dict[int, Datum] = {}
    native_type = [_known(_TYPES, name or "", "type of a PV") for name in column["type"]]
    outcome = [_known(_OUTCOMES, text, "outcome") for text in column["outcome"]]
    for i in range(size):
        if outcome[i] in (Outcome.OK, Outcome.STALE):
            try:
                _store(i, native_type[i], column["value"][i], column["count"][i], number, data)
            except (ValueError, TypeError) as error:
                raise ValueError(f"the value of {column['name'][i]} is not one: {error}") from error
    return Snapshot(
        column["name"],
        number,
        status=[_code(AlarmStatus, name) for name in column["status"]],
        severity=[_code(Severity, name) for name in column["severity"]],
        timestamps=[stamp or 0 for stamp in column["timestamp"]],
        outcome=outcome,
        native_type=native_type,
        count=column["count"],
        native_count=column["native_count"],
        data=data,
        metadata=_metadata_from(table),
        started=started,
        elapsed=elapsed,
    )


def _store(
    i: int, native_type: int, value: Any, count: int, number: np.ndarray[Any, Any], data: dict[int, Datum]
) -> None:
    """Put one value where a snapshot keeps values of its type and count."""
    items = value if isinstance(value, list) else [value]
    if len(items) != count:
        raise ValueError(f"{len(items)} elements where {count} are said to be")
    if native_type == 0:
        raw = b"".join(encode_text(item, 40).ljust(40, b"\0") for item in items)
        data[i] = (0, count, raw)
    elif count == 1:
        number[i] = _special(items[0])
    else:
        dtype = events.ELEMENT[6 if native_type == UNKNOWN_TYPE else native_type]
        data[i] = (native_type, count, np.array([_special(item) for item in items], dtype).tobytes())


def _special(item: Any) -> Any:
    return _known(_SPECIAL, item, "number") if isinstance(item, str) else item


def _known(words: Mapping[str, Any], word: Any, what: str) -> Any:
    if word not in words:
        raise ValueError(f"{word!r} is no {what}")
    return words[word]


def _code(words: type[AlarmStatus] | type[Severity], name: str | None) -> int:
    if not name:
        return 0
    return int(name) if name.isdecimal() else int(_known(words.__members__, name, "word of an alarm"))


def _metadata_from(table: list[Mapping[str, Any]]) -> MetadataColumns | None:
    if not table or "units" not in table[0]:
        return None
    columns = MetadataColumns.empty(len(table))
    for i, row in enumerate(table):
        limits = [math.nan if row[name] is None else float(_special(row[name])) for name in LIMITS]
        columns.set(i, Metadata(row["units"], row["precision"], tuple(row["enum_strings"]), *limits))
    return columns
