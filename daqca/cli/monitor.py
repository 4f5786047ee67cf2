"""``daqca monitor``: updates printed as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from daqca.cli.codes import ExitCode
from daqca.cli.options import above_zero, collect_names, open_engine, with_engine, with_json, with_names

if TYPE_CHECKING:
    from daqca.cli.inbox import Inbox
    from daqca.engine import Engine
    from daqca.events import Batch
    from daqca.reading import Metadata, Reading
    from daqca.snapshot import Snapshot


@click.command(
    epilog="""\b
Examples:
  daqca monitor BL7:m1.RBV
  daqca monitor -f motors.txt --duration 10
  daqca monitor BL7:counts --count 100 --json > counts.jsonl
"""
)
@with_names
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="Stop after N updates.")
@click.option(
    "-d", "--duration", type=float, callback=above_zero, metavar="SECONDS", help="Stop after so many seconds."
)
@click.option("-n", "--number", "as_number", is_flag=True, help="Print enums and CHAR arrays as numbers.")
@with_json
@with_engine()
def monitor(
    names: tuple[str, ...],
    files: tuple[str, ...],
    count: int | None,
    duration: float | None,
    as_number: bool,
    as_json: bool,
    timeout: float,
    workers: int,
) -> int:
    """Print each update of PVs: time, name, value, units, alarm. Ctrl-C ends it.

    The first line of each PV is its value now. Connections, losses and refusals are printed as they happen. Where
    updates come faster than they can be printed for long, some are dropped, and a line says how many. Exits with 1 if
    an update was lost, or if a PV was not there at the beginning; it is printed when it comes.
    """
    from daqca.cli.inbox import Inbox

    wanted = collect_names(names, files)
    show = _Lines(as_json, as_number)
    with open_engine(workers) as engine:
        first = _first_look(engine, wanted, timeout)
        inbox = Inbox()
        with engine.subscribe(wanted, inbox) as subscription:
            deadline = None if duration is None else time.monotonic() + duration
            lines = _Updates(list(subscription.names), first).lines(inbox, deadline)
            seen, is_complete = 0, True
            while seen != count and (line := next(lines, None)) is not None:
                show(line)
                seen += line["event"] == "update"
                is_complete &= line["event"] != "lost"
    return ExitCode.OK if first.ok.all() and is_complete else ExitCode.MISSING


def _first_look(engine: Engine, names: list[str], timeout: float) -> Snapshot:
    """Connect, learn units and states, and name what is missing."""
    from daqca.cli.output import ProgressBar, note_missing

    with ProgressBar("connecting") as progress:
        first = engine.snapshot(names, timeout=timeout, form="ctrl", progress=progress)
    note_missing(first.missing)
    return first


class _Updates:
    """What the events of a subscription say, one line each.

    Parameters
    ----------
    names
        The names that the slots of the events stand for.
    first
        What was known of them before.
    """

    def __init__(self, names: list[str], first: Snapshot):
        self._names = names
        self._native = dict(zip(first.names, first.native_type.tolist(), strict=True))
        self._counts = dict(zip(first.names, first.native_count.tolist(), strict=True))
        self._metadata: dict[str, Metadata | None] = {reading.name: reading.metadata for reading in first}

    def lines(self, inbox: Inbox, deadline: float | None) -> Iterator[dict[str, Any]]:
        """A line for each event that comes until the deadline: see `lines_of`."""
        while (batch := inbox.next(deadline)) is not None:
            yield from self.lines_of(batch)

    def lines_of(self, batch: Batch) -> Iterator[dict[str, Any]]:
        """A line for each event: ``event``, ``name``, and a ``reading`` or a ``text``, of losses a ``count`` too."""
        from daqca.events import ALL_SLOTS, Access, Kind, Reason

        for event in batch:
            slot, kind, status = event[0], event[1], event[3]
            name = "all" if slot == ALL_SLOTS else self._names[slot]
            if kind == Kind.UPDATE:
                yield {"event": "update", "name": name, "reading": self._reading(name, batch, event)}
            elif kind == Kind.CONNECTED:
                self._native[name], self._counts[name] = event[2], event[7]
                yield {"event": "connected", "name": name, "text": "connected"}
            elif kind == Kind.DISCONNECTED:
                why = Reason(status).name.lower().replace("_", " ") if status in list(Reason) else str(status)
                yield {"event": "disconnected", "name": name, "text": f"disconnected: {why}"}
            elif kind == Kind.ACCESS:
                rights = Access(status & 3)
                words = " and ".join(
                    word for bit, word in ((Access.READ, "read"), (Access.WRITE, "write")) if rights & bit
                )
                yield {"event": "access", "name": name, "text": f"access is now: {words or 'none'}"}
            elif kind == Kind.LOST:
                lost = event[7]
                yield {"event": "lost", "name": name, "text": f"{lost:,} updates were lost", "count": lost}
            elif kind == Kind.REFUSED:
                yield {"event": "refused", "name": name, "text": f"the server refuses to be monitored (ECA {status})"}

    def _reading(self, name: str, batch: Batch, event: Any) -> Reading:
        from daqca.reading import Reading, data_value, number_value

        native, is_array = self._native.get(name, 6), self._counts.get(name, 1) > 1
        value = event[6]
        if isinstance(value, tuple):
            shown = data_value(batch.data(*value), event[2], event[7], is_array)
        else:
            shown = number_value(value, native)
        metadata = self._metadata.get(name)
        return Reading(name, shown, event[3], event[4], event[5], native_type=native, metadata=metadata)


class _Lines:
    """Prints lines as text or as JSON."""

    def __init__(self, as_json: bool, as_number: bool):
        self._as_json = as_json
        self._as_number = as_number

    def __call__(self, line: dict[str, Any]) -> None:
        from daqca.cli.output import note, print_json_line
        from daqca.cli.values import alarm_text, local_time, value_text
        from daqca.snapshot.rows import row_of

        reading = line.get("reading")
        if self._as_json:
            print_json_line(line if reading is None else {"event": line["event"], **row_of(reading)})
        elif reading is None:
            if line["event"] != "connected":
                note(f"{line['name']}: {line['text']}")
        else:
            value = value_text(reading, as_number=self._as_number)
            cells = (local_time(reading.timestamp), reading.name, value, reading.units, alarm_text(reading))
            click.echo("  ".join(cell for cell in cells if cell))
