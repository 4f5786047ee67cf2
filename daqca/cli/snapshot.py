"""``daqca snapshot``: many PVs read at once, counted, and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from daqca.cli.codes import ExitCode
from daqca.cli.options import collect_names, open_engine, with_engine, with_json, with_names
from daqca.errors import RecordingError

if TYPE_CHECKING:
    from daqca.snapshot import Snapshot


@click.command(
    epilog="""\b
Examples:
  daqca snapshot -f beamline.txt -o before.h5
  daqca snapshot -f beamline.txt -o now.csv --ctrl --workers 2
  daqca snapshot BL7:m1.RBV BL7:m2.RBV --json

\b
The file holds a value, a status, an alarm, a timestamp and an outcome for
each PV; daqca.Snapshot.load reads it back.
"""
)
@with_names
@click.option(
    "-o", "--output", metavar="FILE", help="Save to FILE.h5, FILE.csv or FILE.json: the suffix is the format."
)
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option("--ctrl", is_flag=True, help="Ask for units, limits and the states of enums too.")
@with_json
@with_engine()
def snapshot(
    names: tuple[str, ...],
    files: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    ctrl: bool,
    as_json: bool,
    timeout: float,
    workers: int,
) -> int:
    """Read many PVs at once, say what is missing, and save all to a file.

    A missing PV delays no other; the command waits for it until the timeout. Exits with 1 if any is missing,
    after the file was written. An output file that exists or cannot be written is refused before anything is read; if
    it cannot be written after all (a full disk), what was read is printed as if there were no --output, and the exit
    code is 3.
    """
    from daqca.cli.output import ProgressBar, note

    if output is not None:
        from daqca.snapshot.files import check_target

        check_target(output, overwrite)
    wanted = collect_names(names, files)
    with open_engine(workers) as engine, ProgressBar("reading") as progress:
        taken = engine.snapshot(wanted, timeout=timeout, form="ctrl" if ctrl else "time", progress=progress)
    unsaved = _save(taken, output, overwrite)
    saved = None if unsaved else output
    if as_json:
        _print_json(taken, saved)
    else:
        _print_table(taken, saved)
        if saved is None and len(taken) <= 20:
            click.echo(taken.table())
        elif output is None:
            note("nothing was saved: give a file with --output, or ask for --json")
    if unsaved is not None:
        # Only now: what was read, and what is missing, is told all the same.
        raise unsaved
    return ExitCode.OK if taken.ok.all() else ExitCode.MISSING


def _save(taken: Snapshot, output: str | None, overwrite: bool) -> RecordingError | None:
    """Save to the output file, if there is one; returns what went wrong."""
    if output is not None:
        try:
            taken.save(output, overwrite)
        except RecordingError as error:
            return error
    return None


def _print_json(taken: Snapshot, output: str | None) -> None:
    """The whole snapshot if it went to no file, else a summary."""
    from daqca.cli.output import print_json

    if output is None:
        from daqca.snapshot.text import dump_json

        click.echo(dump_json(taken), nl=False)
        return
    print_json(
        {
            "file": output,
            "size": len(taken),
            "elapsed": taken.elapsed,
            "outcomes": {outcome.text: count for outcome, count in taken.outcomes.items()},
            "missing": {name: outcome.text for name, outcome in taken.missing.items()},
        }
    )


def _print_table(taken: Snapshot, output: str | None) -> None:
    """The summary: how many of each outcome, in what time, at what rate; the missing names; the file."""
    import os

    from rich.table import Table

    from daqca.cli.output import console, file_size, note_missing
    from daqca.outcome import Outcome

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows: list[tuple[str, Any]] = [("PVs", f"{len(taken):,}")]
    for outcome, count in taken.outcomes.items():
        colour = "green" if outcome == Outcome.OK else "red"
        rows.append((outcome.text, f"[{colour}]{count:,}[/]"))
    if taken.elapsed > 0:
        rows.append(("time", f"{taken.elapsed:.3f} s"))
        if taken.ok.all():  # else the time is that of waiting for what is missing
            rows.append(("rate", f"{len(taken) / taken.elapsed:,.0f} PVs/s"))
    for label, text in rows:
        table.add_row(label, text)
    console().print(table)
    note_missing(taken.missing)
    if output is not None:
        click.echo(f"saved to {output} ({file_size(os.path.getsize(output))})")
