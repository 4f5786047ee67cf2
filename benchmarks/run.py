"""The benchmark: daqca beside the other clients, in one run against one IOC. ``python benchmarks/run.py --help``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

if __package__ in (None, ""):  # run as a file: this folder is the package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import objects, report, rows, streams
from benchmarks.aims import summary
from benchmarks.bench import Bench
from benchmarks.results import Results


@dataclass(frozen=True)
class Row:
    """A row: its title, the aim, what was done in words, and the function that does it."""

    title: str
    aim: str
    measure: Callable[[Bench, Results], None]


ROWS = {
    "cold": Row(
        "20,000 scalars, cold",
        "daqca in process at most 1.3 x C and at least 12 x faster than `caget_many`; "
        "through 2 workers at most 2 x the in-process time",
        rows.cold,
    ),
    "warm": Row(
        "20,000 scalars, warm",
        "daqca in process at most 1.5 x C, at least 80 x faster than pyepics and 15 x faster than repics; "
        "through 2 workers at most 2 x the in-process time",
        rows.warm,
    ),
    "missing": Row(
        "20,000 scalars, and 200 names that nobody has",
        "the others' values at hand as soon as without them (within 1.3 x)",
        rows.missing,
    ),
    "get": Row("One get", "p50 at most 15 us and under repics", rows.get),
    "put": Row("One put with completion", "p50 at most 25 us", rows.put),
    "monitors": Row(
        "Monitors at 50,000 updates/s",
        "less CPU than the other Python clients, a Python callback for each event at under 1.5 us, none lost",
        streams.monitors,
    ),
    "pvs": Row(
        "PV objects",
        "pyepics over daqca at least 15; 20,000 by `engine.pvs` created and connected in 0.25 s; under 2 kB for each",
        objects.pvs,
    ),
    "pvget": Row("One get of a PV object", "from the monitor at most 1.5 us", objects.pvget),
    "latency": Row("From a put to a callback", "p50 in process under pyepics", objects.latency),
    "pvcallbacks": Row("Callbacks of PV objects", "less CPU than pyepics, none lost", objects.pvcallbacks),
    "recording": Row(
        "Recording 1,000 PVs under puts",
        "400,000 updates/s or more, none lost; at most 0.5 us of CPU an event in the worker, 1 us in the recorder",
        streams.recording,
    ),
    "frames": Row("Recording frames of 1 MB at 200 Hz", "none lost", streams.frames),
    "import": Row("Import", "under 100 ms more than numpy", rows.imports),
    "memory": Row("Memory", "under 1 kB in worker and client together", rows.memory),
}


@click.command()
@click.option("--quick", is_flag=True, help="2,000 PVs and 3 runs, to try it out.")
@click.option("--only", multiple=True, type=click.Choice(list(ROWS)), help="Only this row; may be given again.")
@click.option("--runs", default=5, show_default=True, help="Measurements of each client in each row.")
@click.option("--client", multiple=True, help="Only clients whose name begins so; may be given again.")
def main(quick: bool, only: tuple[str, ...], runs: int, client: tuple[str, ...]) -> None:
    """Measure, print the tables, and write them to results.json and README.md beside this file.

    Fewer than 5 runs, or not all clients, are for trying things out: nothing is written then.
    """
    pvs = 20_000
    if quick:
        runs, pvs = min(runs, 3), 2_000
    say = click.echo
    results = {}
    with Bench(runs, pvs, client) as bench:
        for key in only or ROWS:
            row = ROWS[key]
            say(f"{row.title} ({key})")
            start = time.perf_counter()
            found = Results(say)
            row.measure(bench, found)
            how = " ".join((row.measure.__doc__ or "").split())
            results[key] = report.as_result(row.title, row.aim, how, runs, pvs, found.measurements)
            say(f"  {time.perf_counter() - start:.0f} s\n\n{report.table(results[key])}")
            if not quick and not client and runs >= 5:
                report.write_readme(report.keep(results), list(ROWS))
    say(summary(results))


if __name__ == "__main__":
    main()
