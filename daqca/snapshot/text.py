"""Snapshots as CSV and as JSON: bytes from a snapshot, and a snapshot from bytes. No files are opened here."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from daqca.reading import LIMITS
from daqca.snapshot.container import Snapshot
from daqca.snapshot.rows import FIELDS, METADATA_FIELDS, Row, from_rows, rows_of

FORMAT = "daqca-snapshot"
VERSION = 1

_WHOLE = ("SHORT", "ENUM", "CHAR", "LONG")
_NEEDS_QUOTES = re.compile('[,"\\r\\n]')
_CSV_WORDS = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}


def dump_json(snapshot: Snapshot) -> bytes:
    """A JSON object with a head and ``pvs``, a list with one PV on each line."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "started": snapshot.started,
        "elapsed": None if math.isnan(snapshot.elapsed) else snapshot.elapsed,
        "size": len(snapshot),
    }
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    lines = ",\n".join(encode(row) for row in rows_of(snapshot))
    return f'{encode(head)[:-1]}, "pvs": [\n{lines}\n]}}\n'.encode()


def parse_json(content: bytes) -> Snapshot:
    """The snapshot that `dump_json` wrote.

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is something else.
    """
    head = json.loads(content.decode())
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"it does not say that its format is {FORMAT}")
    if head["version"] != VERSION:
        raise ValueError(f"it is of version {head['version']}, and this daqca reads version {VERSION}")
    if len(head["pvs"]) != head["size"]:
        raise ValueError(f"it holds {len(head['pvs'])} PVs and says {head['size']}")
    return from_rows(head["pvs"], head["started"], math.nan if head["elapsed"] is None else head["elapsed"])


def dump_csv(snapshot: Snapshot) -> bytes:
    """A CSV table with a header and one PV in each row; arrays are JSON lists in their cell."""
    columns = FIELDS if snapshot.metadata is None else FIELDS + METADATA_FIELDS
    lines = [",".join(columns)]
    lines += [",".join(_cell(row[name], row["type"] != "STRING") for name in columns) for row in rows_of(snapshot)]
    return ("\n".join(lines) + "\n").encode()


def _cell(value: Any, has_words: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, str):
        text = _CSV_WORDS.get(value, value) if has_words else value
    else:
        return repr(value)
    # The csv module of Python before 3.13 leaves a lone carriage return unquoted, and then cannot read it.
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def parse_csv(content: bytes) -> Snapshot:
    """The snapshot that `dump_csv` wrote (when it was taken is not in such a file).

    Raises
    ------
    ValueError, KeyError, TypeError
        If it is something else.
    """
    return from_rows(_csv_rows(content.decode("utf-8-sig")))


def _csv_rows(text: str) -> Iterator[Row]:
    # An image in one cell is longer than what the module allows at first. The limit is the module's, so it is put back.
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        reader = csv.reader(io.StringIO(text, newline=""))
        columns = next(reader, [])
        if tuple(columns) not in (FIELDS, FIELDS + METADATA_FIELDS):
            raise ValueError("its first line is not the header of a snapshot")
        table = list(reader)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    finally:
        csv.field_size_limit(limit)
    for number, cells in enumerate(table, 2):
        if len(cells) != len(columns):
            raise ValueError(f"row {number} has {len(cells)} cells where the header has {len(columns)}")
        yield _typed(dict(zip(columns, cells, strict=True)))


def _typed(row: Row) -> Row:
    """A row of strings with each cell as `rows_of` had it."""
    row["count"], row["native_count"] = int(row["count"]), int(row["native_count"])
    row["timestamp"] = int(row["timestamp"] or 0)
    row["value"] = _typed_value(row)
    if "units" in row:
        row["precision"] = int(row["precision"]) if row["precision"] else None
        row["enum_strings"] = json.loads(row["enum_strings"])
        row.update({name: float(row[name]) if row[name] else None for name in LIMITS})
    return row


def _typed_value(row: Row) -> Any:
    text, kind = row["value"], row["type"]
    is_list = row["native_count"] > 1 or row["count"] != 1
    if is_list:
        return json.loads(text) if text else None
    if kind == "STRING" or not text:
        return text
    return int(text) if kind in _WHOLE else float(text)
