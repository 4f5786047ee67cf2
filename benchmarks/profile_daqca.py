"""Where daqca's time goes: ``python benchmarks/profile_daqca.py cold|warm|get|monitor|callbacks``, in one process.

The profiler slows Python down, NumPy not: use it to find what is called too often, and `run` for times.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
import tempfile
import threading
import time
from pathlib import Path

import click

if __package__ in (None, ""):  # run as a file: this folder is in the package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.build_c import program
from benchmarks.processes import ClientProcess
from benchmarks.records import write_records
from daqca.engine import Engine
from daqca.sim import SoftIOC
from daqca.sim.process import child_environ


@click.command()
@click.argument("scenario", type=click.Choice(["cold", "warm", "get", "monitor", "callbacks"]))
@click.option("--pvs", default=20_000, show_default=True)
@click.option(
    "--times",
    default=10,
    show_default=True,
    help="Warm reads, thousands of gets, hundreds of rounds of puts (callbacks: tens).",
)
@click.option("--sort", default="tottime", show_default=True)
@click.option("--lines", default=35, show_default=True)
def main(scenario: str, pvs: int, times: int, sort: str, lines: int) -> None:
    """Profile the thread that asks, which is also the one that reads; for monitors the one that reads, for callbacks
    that which makes them.
    """
    with tempfile.TemporaryDirectory() as folder:
        database = write_records(Path(folder), pvs)
        names = [line.split("\t")[0] for line in (Path(folder) / "scalars.txt").open()]
        with SoftIOC(database) as ioc:
            os.environ.update(ioc.environ)
            profile, elapsed = run(scenario, names, times, Path(folder) / "counters.txt", child_environ(ioc.environ))
    click.echo(f"{scenario}: {1e3 * elapsed:.1f} ms under the profiler")
    pstats.Stats(profile).sort_stats(sort).print_stats(lines)


def run(
    scenario: str, names: list[str], times: int, counters: Path, environment: dict[str, str]
) -> tuple[cProfile.Profile, float]:
    """Play the scenario; returns its profile and how long it took."""
    profile = cProfile.Profile()
    with Engine() as engine:
        if scenario in ("warm", "get"):
            engine.snapshot(names, timeout=60.0)
        start = time.perf_counter()
        if scenario == "monitor":
            watch(engine, counters, environment, times, profile)
        elif scenario == "callbacks":
            call_back(engine, counters, environment, times, profile)
        else:
            profile.enable()
            if scenario == "get":
                for _ in range(1000 * times):
                    engine.get(names[0])
            else:
                for _ in range(times if scenario == "warm" else 1):
                    engine.snapshot(names, timeout=60.0)
            profile.disable()
        return profile, time.perf_counter() - start


def watch(engine: Engine, counters: Path, environment: dict[str, str], times: int, profile: cProfile.Profile) -> None:
    """Profile the network thread under puts: it begins to profile itself when it delivers the first batch."""
    from daqca.events import Batch

    class Sink:
        """Takes batches and drops them."""

        begun = False

        def deliver(self, batch: Batch) -> None:
            """Turn the profiler on in this thread, once."""
            if not self.begun:
                self.begun = True
                profile.enable()

    names = [line.split("\t")[0] for line in counters.open()]
    with engine.subscribe(names, Sink()), ClientProcess([program("put"), "put", str(counters)], environment) as putter:
        putter.answer()
        putter.ask(f"{100 * times} 0 1")


def call_back(
    engine: Engine, counters: Path, environment: dict[str, str], times: int, profile: cProfile.Profile
) -> None:
    """Profile the thread that runs callbacks of PV objects: it begins to profile itself in the first call."""
    names = [line.split("\t")[0] for line in counters.open()]
    left = [1000 * 10 * times]
    done = threading.Event()

    def called(**_: object) -> None:
        if left[0] == 1000 * 10 * times:
            profile.enable()
        left[0] -= 1
        if not left[0]:
            profile.disable()
            done.set()

    pvs = engine.pvs(names)
    for pv in pvs:
        pv.wait_for_connection(10)
        pv.get()
    for pv in pvs:
        pv.add_callback(called)
    with ClientProcess([program("put"), "put", str(counters)], environment) as putter:
        putter.answer()
        putter.ask(f"{10 * times} 20000 1")
    if not done.wait(60):
        click.echo(f"{left[0]:,} updates never came")


if __name__ == "__main__":
    main()
