"""What the rows share: the IOC, the clients and the order of the runs. The rows are in `rows` and `streams`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from daqca.sim import SoftIOC
from daqca.sim.process import child_environ

from .build_c import program
from .processes import ClientProcess, total_cpu
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


class Bench:
    """The one IOC that all clients of a run talk to, and how often each is measured.

    Parameters
    ----------
    runs
        Measurements of each client in each row.
    scalars
        Scalar records of the IOC.
    only
        Measure only the clients whose names begin with one of these; all if empty.
    """

    def __init__(self, runs: int, scalars: int, only: Sequence[str] = ()):
        self.runs = runs
        self.n = scalars
        self._only = tuple(only)
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.ioc = self._stack.enter_context(SoftIOC(write_records(self.folder, self.n)))
        self.environment = child_environ(self.ioc.environ)
        self.scalars, self.counters = self.folder / "scalars.txt", self.folder / "counters.txt"
        self.few, self.target = self.folder / "few.txt", self.folder / "target.txt"
        self._stack.enter_context(self.process([program("repeater")]))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def process(
        self, command: list[str], timeout: float = 180.0, environment: Mapping[str, str] | None = None
    ) -> ClientProcess:
        """Start a program in the environment that finds the IOC, or in another one."""
        return ClientProcess(command, environment or self.environment, timeout)

    def settle(self) -> None:
        """Wait until the IOC has done with the last client: it must not be busy with the end of one for the next."""
        wait_idle([self.ioc.pid], limit=0.02)

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A path where nothing is yet, in a folder that goes away with the block."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder) / name

    def wanted(self, clients: Sequence[Client]) -> list[Client]:
        """Those of the clients that take part in this run."""
        return [client for client in clients if not self._only or client.name.startswith(self._only)]

    def rounds(self, clients: Sequence[Client], restart: bool = False) -> Iterator[Client]:
        """All runs: one of each client in turn, each round beginning with another, so that noise hits all alike.

        Parameters
        ----------
        restart
            Start the IOC anew for each. One that has served two circuits at the same time takes half as long again for
            every read from then on, whoever reads: a client would be measured by those that came before it.
        """
        clients = self.wanted(clients)
        for run in range(self.runs):
            for i in range(len(clients)):
                if restart:
                    self.ioc.restart()
                self.settle()
                yield clients[(run + i) % len(clients)]


def wait_idle(pids: Sequence[int], limit: float, timeout: float = 20.0) -> float:
    """Wait until these processes use less than `limit` of a core; returns when that began (monotonic clock)."""
    deadline = time.monotonic() + timeout
    while True:
        start, before = time.monotonic(), sum(total_cpu(pid) for pid in pids)
        time.sleep(0.1)
        used = sum(total_cpu(pid) for pid in pids) - before
        if used < limit * (time.monotonic() - start) or time.monotonic() > deadline:
            return start
