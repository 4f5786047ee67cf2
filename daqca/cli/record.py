"""``daqca record``: updates streamed to an HDF5 file, with the numbers as they grow and as they end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from daqca.cli.codes import ExitCode, code_of
from daqca.cli.options import above_zero, collect_names, open_engine, with_engine, with_json, with_names
from daqca.errors import RecordingError
from daqca.outcome import Outcome

if TYPE_CHECKING:
    from daqca.engine import Engine
    from daqca.recording import Recording, RecordingStats

_REFRESH_S = 0.5


def _shapes(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Callback of --shape: the shapes of ``NAME=HEIGHTxWIDTH``, by name."""
    shapes = {}
    for value in values:
        pvname, _, text = value.rpartition("=")
        sides = text.lower().split("x")
        if not pvname or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise click.BadParameter(f"{value!r} is not of the form NAME=HEIGHTxWIDTH", ctx, param)
        shapes[pvname] = tuple(int(side) for side in sides)
    return shapes


@click.command(
    epilog="""\b
Examples:
  daqca record -f scalers.txt -o run17.h5 --duration 60
  daqca record DET:image1:ArrayData --shape DET:image1:ArrayData=1024x1024 -o frames.h5
  daqca record -f all.txt -o night.h5 --workers 2       until Ctrl-C

\b
The file can be read while it grows. At the end it is read back and compared
with what was counted; the table says what came, what is in the file, and
what was lost and where.
"""
)
@with_names
@click.option("-o", "--output", required=True, metavar="FILE.h5", help="The HDF5 file to make.")
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
@click.option(
    "-d",
    "--duration",
    type=float,
    callback=above_zero,
    metavar="SECONDS",
    help="Stop so long after the start; else at Ctrl-C.",
)
@click.option(
    "--shape", "shapes", callback=_shapes, multiple=True, metavar="NAME=HxW", help="Store frames of this PV as images."
)
@click.option(
    "--compress-frames",
    type=click.Choice(["none", "deflate", "bslz4"]),
    default="none",
    show_default=True,
    help="Compress large arrays; bslz4 is fast, and its readers need hdf5plugin.",
)
@with_json
@with_engine()
def record(
    names: tuple[str, ...],
    files: tuple[str, ...],
    output: str,
    overwrite: bool,
    duration: float | None,
    shapes: dict[str, tuple[int, ...]],
    compress_frames: str,
    as_json: bool,
    timeout: float,
    workers: int,
) -> int:
    """Record every update of PVs to an HDF5 file, until the duration is over or Ctrl-C.

    PVs that are missing after --timeout are named, and recorded from when they come; the others are recorded from the
    beginning. Ctrl-C stops cleanly: what came is in the file, and is verified. Exits with 1 if a PV was missing, an
    update was lost or a worker was lost, with 3 if the file could not be written.
    """
    from daqca.snapshot.files import check_place

    check_place(output, overwrite)
    wanted = collect_names(names, files)
    options: dict[str, Any] = {
        "overwrite": overwrite,
        "shapes": shapes,
        "frame_compression": None if compress_frames == "none" else compress_frames,
    }
    with open_engine(workers) as engine, engine.record(output, wanted, connect_timeout=0.0, **options) as recording:
        missing, interrupt = _run(engine, recording, timeout, duration)
        try:
            stats = _stop(recording)
        except RecordingError:
            # The numbers first: they say what is in the file all the same.
            _report(recording.stats, interrupt is not None, as_json)
            raise
    _report(stats, interrupt is not None, as_json)
    if interrupt is not None:
        return code_of(interrupt)
    return ExitCode.MISSING if missing or stats.lost or stats.interruptions else ExitCode.OK


def _run(
    engine: Engine, recording: Recording, timeout: float, duration: float | None
) -> tuple[dict[str, Outcome], KeyboardInterrupt | None]:
    """Let it record until the duration is over, or until Ctrl-C; returns what was missing, and the Ctrl-C."""
    end = None if duration is None else time.monotonic() + duration
    missing: dict[str, Outcome] = {}
    try:
        missing = _connect(engine, recording.names, timeout if duration is None else min(timeout, duration))
        _watch(recording, duration, end)
    except KeyboardInterrupt as interrupt:
        return missing, interrupt
    return missing, None


def _connect(engine: Engine, names: list[str], timeout: float) -> dict[str, Outcome]:
    """Wait for the connections, and name what is missing."""
    from daqca.cli.output import ProgressBar, note, note_missing

    with ProgressBar("connecting") as progress:
        channels = engine.connect(names, timeout=timeout, progress=progress)
    missing: dict[str, Outcome] = {
        channel.name: channel.outcome for channel in channels if channel.outcome != Outcome.OK
    }
    note_missing(missing)
    if missing:
        note(f"{len(missing):,} of {len(channels):,} PVs are missing; they are recorded from when they come")
    return missing


def _watch(recording: Recording, duration: float | None, end: float | None) -> None:
    """Show the numbers as they grow, until `end` (by the monotonic clock)."""
    from rich.live import Live

    from daqca.cli.output import console

    screen = console(stderr=True)
    with Live("", console=screen, auto_refresh=False, transient=True) as live:
        while not recording.stats.error:
            left = _REFRESH_S if end is None else min(_REFRESH_S, end - time.monotonic())
            if left <= 0:
                break
            time.sleep(left)
            if screen.is_terminal:
                live.update(_live_line(recording.stats, duration), refresh=True)


def _live_line(stats: RecordingStats, duration: float | None) -> str:
    length = f"{stats.seconds:.0f} s" if duration is None else f"{stats.seconds:.0f} of {duration:g} s"
    colour = "red" if stats.lost else "green"
    return (
        f"[bold]recording[/] {length}  {stats.received:,} updates  {stats.event_rate:,.0f}/s  "
        f"{stats.bytes_in / 1e6:,.1f} MB  [{colour}]{stats.lost:,} lost[/]  Ctrl-C stops"
    )


def _stop(recording: Recording) -> RecordingStats:
    """Drain and verify, under a progress bar."""
    from daqca.cli.output import ProgressBar

    with ProgressBar("writing and verifying") as progress:
        return recording.stop(progress=progress)


def _report(stats: RecordingStats, interrupted: bool, as_json: bool) -> None:
    """Print the numbers at the end."""
    import os

    from daqca.cli.output import console, file_size, note, print_json

    if interrupted:
        note(f"stopped by request; what was recorded is kept in {stats.path}")
    if as_json:
        print_json({**stats.as_dict(), "interrupted": interrupted})
        return
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    lost = f"[{'red' if stats.lost else 'green'}]{stats.lost:,}[/]"
    rows = [
        ("PVs", f"{stats.pvs:,}"),
        ("time", f"{stats.seconds:.2f} s"),
        ("updates received", f"{stats.received:,}"),
        ("updates in the file", f"{stats.written:,}"),
        ("updates lost", lost),
        ("  lost before the recorder", f"{stats.missed:,}"),
        ("  lost in the recorder", f"{stats.dropped:,}"),
        *([("lost with a worker", f"unknown; interruptions: {stats.interruptions:,}")] if stats.interruptions else []),
        ("rate", f"{stats.event_rate:,.0f} updates/s, {stats.byte_rate / 1e6:,.1f} MB/s"),
        ("file read back and compared", "[green]yes[/]" if stats.complete else "[red]no[/]"),
    ]
    for label, text in rows:
        table.add_row(label, text)
    console().print(table)
    size = file_size(os.path.getsize(stats.path)) if os.path.exists(stats.path) else "not there"
    click.echo(f"recorded to {stats.path} ({size})")
