"""What a row of the benchmark is made of: the IOC, the clients, the measurements; no row itself."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from daqca.sim import SoftIOC
from daqca.sim.process import child_environ

from .build_c import program
from .processes import ClientError, ClientProcess, cpu_seconds
from .records import write_records

CLIENTS = Path(__file__).resolve().parent / "clients"


@dataclass(frozen=True)
class Client:
    """One competitor: its name in the tables, the program that plays the scenarios, and its options there."""

    name: str
    program: str
    options: tuple[str, ...] = ()

    def command(self, scenario: str, names: Path, *more: str) -> list[str]:
        """The command line that plays a scenario."""
        if self.program.endswith(".py"):
            return [sys.executable, str(CLIENTS / self.program), scenario, str(names), *self.options, *more]
        return [program(self.program), scenario, str(names), *self.options, *more]


@dataclass
class Measurement:
    """The runs of one client in one row.

    ``values`` are in ``unit``, one for each run; ``wrong`` says what was not as it should be in any of them.
    """

    client: str
    what: str
    unit: str
    values: list[float] = field(default_factory=list)
    wrong: str = ""
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the runs; NaN if there was none."""
        return median(self.values) if self.values else float("nan")


class Bench:
    """The one IOC that all clients of a run talk to, and how often each is measured.

    Parameters
    ----------
    runs
        Measurements of each client in each row.
    scalars
        Scalar records of the IOC.
    """

    def __init__(self, runs: int, scalars: int):
        self.runs = runs
        self.n = scalars
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.ioc = self._stack.enter_context(SoftIOC(write_records(self.folder, self.n)))
        self.environment = child_environ(self.ioc.environ)
        self.scalars, self.counters = self.folder / "scalars.txt", self.folder / "counters.txt"
        self._stack.enter_context(self.process([program("repeater")]))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def process(self, command: list[str], timeout: float = 180.0) -> ClientProcess:
        """Start a program in the environment that finds the IOC."""
        return ClientProcess(command, self.environment, timeout)

    def settle(self) -> None:
        """Wait until the IOC has done with the last client: it must not be busy with the end of one for the next."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            before = sum(cpu_seconds(self.ioc.pid).values())
            time.sleep(0.1)
            if sum(cpu_seconds(self.ioc.pid).values()) - before < 0.002:
                return

    def rounds(self, clients: Sequence[Client]) -> Iterator[tuple[int, Client]]:
        """All runs: one of each client in turn, each round beginning with another, so that noise hits all alike."""
        for run in range(self.runs):
            for i in range(len(clients)):
                self.settle()
                yield run, clients[(run + i) % len(clients)]


@contextmanager
def tolerated(measurements: Sequence[Measurement], report: Callable[[str], None]) -> Iterator[None]:
    """A client that fails is said to have failed; the others go on."""
    try:
        yield
    except (ClientError, subprocess.SubprocessError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        if not measurements[0].wrong:
            report(f"    {measurements[0].client}: {error}")
        for measurement in measurements:
            measurement.wrong = f"failed: {lines[-1] if lines else error!r}"[:150]
