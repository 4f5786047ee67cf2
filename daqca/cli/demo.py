"""``daqca demo``: the main job, end to end, on an IOC of its own: snapshots of 20,000 PVs, and a recording.

What is measured is kept in `Results`; `demo_record` records, `demo_check` reads the files back, `demo_picture` draws.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from daqca.cli.codes import ExitCode
from daqca.cli.demo_record import FAST, PREFIX, SIDE, Pace, record
from daqca.cli.demo_steps import Serve, Step, settings_of
from daqca.cli.options import above_zero
from daqca.cli.sim import require_simulator
from daqca.errors import ConfigurationError, RecordingError

if TYPE_CHECKING:
    from rich.console import Console

    from daqca.cli.demo_check import Check
    from daqca.engine import Engine
    from daqca.recording import RecordingStats
    from daqca.sim import SimIOC
    from daqca.snapshot import Snapshot

WARM_SNAPSHOTS = 30
_FILES = ("snapshot.h5", "snapshot.csv", "recording.h5", "demo.png")


@dataclass(frozen=True)
class Snapshots:
    """How the snapshots went. Times are in seconds, by way: ``"in process"``, ``"2 workers"``."""

    last: Snapshot
    cold: dict[str, float]
    """Search, connect and read."""
    warm: dict[str, list[float]]
    """Each of many reads of connected PVs."""

    @property
    def missing(self) -> int:
        """How many PVs were not read."""
        return len(self.last.missing)


@dataclass(frozen=True)
class Results:
    """What the demo measured."""

    snapshots: Snapshots
    stats: RecordingStats
    """What the recorder counted."""
    check: Check
    """What is in its file."""

    @property
    def is_well(self) -> bool:
        """Whether nothing is missing or lost."""
        lost = self.snapshots.missing + self.stats.lost + self.check.lost
        return not lost and self.stats.complete


@click.command(
    epilog="""\b
Examples:
  daqca demo
  daqca demo --duration 30 --frame-rate 200
  daqca demo --scalars 2000 --no-picture -o /tmp/demo
"""
)
@click.option("-o", "--output", default="demo-output", show_default=True, metavar="FOLDER", help="Where the files go.")
@click.option("--scalars", type=click.IntRange(min=100), default=20_000, show_default=True, help="PVs to read.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Worker processes.")
@click.option(
    "-d", "--duration", type=float, callback=above_zero, default=10.0, show_default=True, help="Seconds to record."
)
@click.option(
    "--rate",
    type=float,
    callback=above_zero,
    help=f"Scalar updates per second, of {FAST:,} PVs.  [default: as many as come without a loss, which is tried out]",
)
@click.option(
    "--frame-rate",
    type=float,
    callback=above_zero,
    default=100.0,
    show_default=True,
    help="Frames per second.",
)
@click.option("--picture/--no-picture", default=True, help="Draw a PNG of the results, or not.")
def demo(
    output: str, scalars: int, workers: int, duration: float, rate: float | None, frame_rate: float, picture: bool
) -> int:
    """Snapshot 20,000 PVs and record a detector, on an IOC of its own; print the numbers, and draw them.

    Everything runs on this machine and on the loopback interface. The files of an earlier demo are replaced.
    Exits with 1 if a PV was missing or an update was lost.
    """
    from daqca.cli.output import console
    from daqca.sim import SimIOC

    require_simulator(camera=True)
    if picture:
        _require_plot()
    folder = _folder(output)
    screen = console()
    with Serve(screen, f"starting an IOC of {scalars:,} records", SimIOC(PREFIX, scalars, arrays=False)) as ioc:
        snapshots = _take_snapshots(screen, ioc, folder, workers)
    # On another one, so that what it does at full speed does not slow the snapshots.
    pace = Pace(rate, frame_rate, duration, workers)
    results = Results(snapshots, *record(screen, str(folder / "recording.h5"), pace))
    if picture:
        with Step(screen, "drawing"):
            from daqca.cli.demo_picture import draw

            draw(folder / "demo.png", folder / "recording.h5", results)
    _report(screen, folder, results)
    return ExitCode.OK if results.is_well else ExitCode.MISSING


def _require_plot() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("the picture needs matplotlib: pip install 'daqca[plot]', or say --no-picture")


def _folder(output: str) -> Path:
    """The folder for the files, made if need be; those of an earlier demo can be replaced."""
    from daqca.snapshot.files import check_place

    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"cannot make the folder {folder}: {error.strerror}") from error
    for name in _FILES:
        check_place(folder / name, overwrite=True)
    return folder


def _take_snapshots(screen: Console, server: SimIOC, folder: Path, workers: int) -> Snapshots:
    """Cold and warm, in this process and through workers; the last one is saved."""
    from daqca.engine import Engine
    from daqca.snapshot import Snapshot

    names, settings = server.names, settings_of(server)
    cold: dict[str, float] = {}
    warm: dict[str, list[float]] = {}
    for number in dict.fromkeys((0, workers)):
        way = f"{number} workers" if number else "in process"
        with (
            Step(screen, f"snapshots of {len(names):,} PVs, {way}") as progress,
            Engine(number, settings=settings) as engine,
        ):
            cold[way] = _timed_snapshot(engine, names)[0]
            timed = []
            for done in range(WARM_SNAPSHOTS):
                progress(done + 1, WARM_SNAPSHOTS + 1)
                timed.append(_timed_snapshot(engine, names))
            warm[way] = [seconds for seconds, _ in timed]
            last = timed[-1][1]
    last.save(folder / "snapshot.h5", overwrite=True)
    last.save(folder / "snapshot.csv", overwrite=True)
    if Snapshot.load(folder / "snapshot.h5").missing != last.missing:
        raise RecordingError("the file of the snapshot does not read back as it was saved")
    return Snapshots(last, cold, warm)


def _timed_snapshot(engine: Engine, names: list[str]) -> tuple[float, Snapshot]:
    start = time.perf_counter()
    snapshot = engine.snapshot(names, timeout=20.0)
    return time.perf_counter() - start, snapshot


def _report(screen: Console, folder: Path, results: Results) -> None:
    """The table at the end."""
    from rich.markup import escape
    from rich.table import Table

    from daqca.cli.output import file_size

    table = Table(title="What was done", title_justify="left", title_style="bold")
    for column in ("", "amount", "time", "rate", "lost"):
        table.add_column(column, justify="right" if column else "left")
    for row in _snapshot_rows(results.snapshots):
        table.add_row(*row)
    table.add_section()
    for row in _recording_rows(results.check, results.stats):
        table.add_row(*row)
    screen.print()
    screen.print(table)
    if results.is_well:
        screen.print("Lost is counted in the file: each number of each counter is there, each frame, and each pixel.")
    else:
        stats = results.stats
        screen.print(
            f"[bold red]Not all is there.[/] Lost before the recorder: {stats.missed:,}, in the recorder: "
            f"{stats.dropped:,}; missing in the file: {results.check.lost:,}; PVs not read: "
            f"{results.snapshots.missing:,}. "
            "Where this machine has other work, try a smaller --rate or --frame-rate."
        )
    for name in _FILES:
        path = folder / name
        if path.exists():
            screen.print(f"  {escape(str(path))} [dim]({file_size(path.stat().st_size)})[/]")


def _snapshot_rows(snapshots: Snapshots) -> Iterator[tuple[str, ...]]:
    size, lost = len(snapshots.last), _lost(snapshots.missing)
    for way, cold in snapshots.cold.items():
        warm = median(snapshots.warm[way])
        for kind, seconds in (("cold", cold), ("warm", warm)):
            shown = f"{seconds * 1e3:.1f} ms"
            yield f"snapshot, {kind}, {way}", f"{size:,} PVs", shown, f"{size / seconds:,.0f} PVs/s", lost


def _recording_rows(check: Check, stats: RecordingStats) -> Iterator[tuple[str, ...]]:
    rate = check.scalars / max(check.seconds, 1e-9)
    yield (
        "scalar updates in the file",
        f"{check.scalars:,}",
        f"{check.seconds:.1f} s",
        f"{rate:,.0f}/s",
        _lost(check.scalars_lost),
    )
    rate = check.frames / max(check.frame_seconds, 1e-9)
    yield (
        f"frames of {SIDE} x {SIDE} in the file",
        f"{check.frames:,}",
        f"{check.frame_seconds:.1f} s",
        f"{rate:,.0f}/s, {rate * SIDE * SIDE / 1e6:,.0f} MB/s",
        _lost(check.frames_lost),
    )
    yield "the recorder's own count", f"{stats.written:,}", f"{stats.seconds:.1f} s", "", _lost(stats.lost)


def _lost(count: int) -> str:
    return f"[green]{count:,}[/]" if not count else f"[bold red]{count:,}[/]"
