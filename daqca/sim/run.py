"""The simulator as a program: started, announced, and cleaned up when the user has enough.

The command line itself (``daqca sim``) is in ``daqca/cli``.
"""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from .database import Changing
from .ioc import SimIOC
from .ports import Ports
from .process import SimError

_CHECK_PERIOD_S = 0.5


class Simulation:
    """A running simulator, and what there is to say of it. A context manager: leaving stops it.

    Parameters
    ----------
    ioc
        The IOC, started.
    """

    def __init__(self, ioc: SimIOC):
        self.ioc = ioc

    @property
    def exports(self) -> str:
        """Shell commands that lead clients to the simulator, one on each line."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.ioc.environ.items())

    @property
    def names(self) -> list[str]:
        """The names of the scalar PVs."""
        return self.ioc.names

    def write_names(self, path: str | Path) -> int:
        """Write the names of the scalar PVs to a file, one on each line.

        Parameters
        ----------
        path
            The file; one that exists is replaced.

        Returns
        -------
        int
            How many there are.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        Path(path).write_text("".join(f"{name}\n" for name in self.names), encoding="utf-8")
        return len(self.names)

    def wait(self) -> None:
        """Wait until Ctrl-C or SIGTERM; only the main thread may.

        Raises
        ------
        SimError
            A server has ended by itself; the message carries what it printed.
        """
        enough = threading.Event()

        def stop(_signal: int, _frame: FrameType | None) -> None:
            enough.set()

        earlier = {sign: signal.signal(sign, stop) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not enough.wait(_CHECK_PERIOD_S):
                self.check()
        finally:
            for sign, handler in earlier.items():
                signal.signal(sign, handler)

    def check(self) -> None:
        """Raise SimError if a server has ended by itself."""
        for server in (self.ioc, self.ioc.camera):
            if server is not None and not server.alive:
                raise SimError(f"{server} has ended by itself; it printed:\n{server.output}")

    def stop(self) -> None:
        """Stop the simulator."""
        self.ioc.stop()

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_sim(
    prefix: str = "SIM:",
    scalars: int = 20_000,
    changing: Changing = None,
    rate_hz: float = 10.0,
    *,
    camera: bool = True,
    camera_options: dict[str, Any] | None = None,
    ports: Ports | None = None,
) -> Simulation:
    """Start the simulator and return when every server answers. The parameters are those of ``SimIOC``.

    Returns
    -------
    Simulation
        To be stopped, or used as a context.

    Raises
    ------
    SimError
        A server did not start.
    ConfigurationError
        A parameter makes no sense.
    """
    ioc = SimIOC(prefix, scalars, changing, rate_hz, camera=camera, camera_options=camera_options, ports=ports)
    return Simulation(ioc.start())


def run_sim(announce: Callable[[Simulation], None], **options: Any) -> None:
    """Run the simulator in the foreground until Ctrl-C or SIGTERM, and clean up.

    Parameters
    ----------
    announce
        Called once everything answers: prints ``exports``, writes the names.
    options
        As for ``start_sim``.

    Raises
    ------
    SimError
        A server did not start, or has ended by itself.
    ConfigurationError
        An option makes no sense.
    """
    with start_sim(**options) as simulation:
        announce(simulation)
        simulation.wait()
