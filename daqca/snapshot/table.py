"""A snapshot as text and as HTML, for terminals and notebooks. No files, no rich."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from daqca.outcome import Outcome
from daqca.reading import severity_name, status_name, type_name

if TYPE_CHECKING:
    from daqca.snapshot.container import Snapshot

HEADER = ("name", "value", "units", "alarm", "time (UTC)", "outcome")
MAX_VALUE = 40


def headline(snapshot: Snapshot) -> str:
    """How many PVs, with what outcomes, in what time, on one line."""
    counts = ", ".join(f"{count:,} {outcome.text}" for outcome, count in snapshot.outcomes.items())
    line = f"{len(snapshot):,} PVs: {counts or 'none asked for'}"
    return line if math.isnan(snapshot.elapsed) else f"{line}; {snapshot.elapsed:.3f} s"


def rows(snapshot: Snapshot, limit: int) -> list[tuple[str, ...]]:
    """The first `limit` PVs as words, in the order of `HEADER`."""
    return [_row(snapshot, index) for index in range(min(limit, len(snapshot)))]


def _row(snapshot: Snapshot, index: int) -> tuple[str, ...]:
    reading = snapshot.reading(index)
    value = reading.value
    if value is None:
        text = ""
    elif isinstance(value, int | float | str):
        text = reading.as_text()
    else:
        head = reading.as_text() if len(value) <= MAX_VALUE or reading.native_type == 4 else ""
        text = head or f"{type_name(reading.native_type)}[{len(value):,}]"
    if len(text) > MAX_VALUE:
        text = text[: MAX_VALUE - 3] + "..."
    alarm = severity_name(reading.severity)
    if reading.severity:
        alarm = f"{alarm} {status_name(reading.status)}"
    has_value = reading.outcome in (Outcome.OK, Outcome.STALE)
    return (reading.name, text, reading.units, alarm if has_value else "", reading.time, reading.outcome.text)


def text_table(snapshot: Snapshot, limit: int = 20) -> str:
    """A table of the first `limit` PVs under the headline, in columns of plain text."""
    body = rows(snapshot, limit)
    widths = [max(len(row[i]) for row in (HEADER, *body)) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (HEADER, *body)]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.insert(0, headline(snapshot))
    if len(snapshot) > limit:
        lines.append(f"... and {len(snapshot) - limit:,} more")
    return "\n".join(line.rstrip() for line in lines)


def html_table(snapshot: Snapshot, limit: int = 20) -> str:
    """The same table in HTML, as notebooks show it."""
    head = "".join(f"<th>{cell}</th>" for cell in HEADER)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(snapshot, limit)
    )
    more = f"<p>... and {len(snapshot) - limit:,} more</p>" if len(snapshot) > limit else ""
    return f"<p>{html.escape(headline(snapshot))}</p><table><tr>{head}</tr>{body}</table>{more}"
