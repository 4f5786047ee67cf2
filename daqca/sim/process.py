"""A Channel Access server as a child process: started, proved ready, suspended, killed, started again.

The parent's side; what the server serves is up to the module it runs, which begins with ``lifeline.adopt()``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ..errors import DaqcaError
from .ports import Ports, ca_environ, child_environ
from .probe import Answer, ask

if TYPE_CHECKING:
    from typing_extensions import Self

_KEPT_LINES = 2000
_PROBE_TIMEOUT_S = 0.05
_PROBE_PAUSE_S = 0.01


class SimError(DaqcaError, RuntimeError):
    """A simulated server did not start, or is not in the state that the call needs."""


class ServerProcess:
    """A server in a child process, on ports of its own, that ends with its parent.

    A context manager: entering starts it and waits until it answers, leaving
    stops it. Its output is read all the time by a thread, and kept.

    Parameters
    ----------
    command
        Program and arguments. The program reads its settings, one line of JSON,
        from stdin, and ends when stdin closes (see ``lifeline.adopt``).
    settings
        What to write there; a callable is asked anew for each start.
    probe
        A PV of the server: it is ready when this one can be found and read.
    ports
        The ports to use; free ones are chosen when None.
    environ
        Environment variables beside those of the ports.
    start_timeout
        Seconds until a server that does not answer is given up.
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        probe: str,
        *,
        ports: Ports | None = None,
        environ: Mapping[str, str] | None = None,
        start_timeout: float = 30.0,
    ):
        self.command = tuple(command)
        self.probe = probe
        self.ports = ports or Ports.choose()
        self._settings = settings
        self._extra_environ = dict(environ or {})
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    @property
    def server_port(self) -> int:
        """The UDP port on which the server is searched, and TCP port of its circuits."""
        return self.ports.server

    @property
    def repeater_port(self) -> int:
        """The UDP port to which its beacons go."""
        return self.ports.repeater

    @property
    def environ(self) -> dict[str, str]:
        """The EPICS variables that a client (or another process) needs to find this server."""
        return ca_environ(self.ports)

    @property
    def pid(self) -> int:
        """The process id.

        Raises
        ------
        SimError
            The server was not started, or was stopped.
        """
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether the process exists (a suspended one does)."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """The last lines that the server printed, over all its starts."""
        return "".join(self._lines)

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Returns
        -------
        ServerProcess
            Itself.

        Raises
        ------
        SimError
            It runs already, ended at once, or does not answer in time; the
            message carries its output, and no process is left.
        """
        self.launch()
        return self.wait_ready()

    def launch(self) -> None:
        """Start the server without waiting for it; ``wait_ready`` comes next.

        Raises
        ------
        SimError
            It runs already.
        """
        if self.alive:
            raise SimError(f"{self} is started already: stop it first, or call restart()")
        # One that ended by itself leaves its pipes.
        self._end(signal.SIGKILL)
        settings = self._settings() if callable(self._settings) else self._settings
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environ({**ca_environ(self.ports), **self._extra_environ}),
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._keep, args=(self._process.stdout,), name=f"output of {self}")
        self._reader.daemon = True
        self._reader.start()
        try:
            self._hand_over(settings)
        except BaseException:
            self.kill()
            raise

    def wait_ready(self) -> Self:
        """Wait until the server answers.

        Returns
        -------
        ServerProcess
            Itself.

        Raises
        ------
        SimError
            It ended at once, or does not answer in time; it is killed then.
        """
        try:
            self._await_answer()
        except BaseException:
            self.kill()
            raise
        return self

    def _hand_over(self, settings: Mapping[str, Any]) -> None:
        stdin = self._running().stdin
        assert stdin is not None
        # A server that died already is reported by what it printed, not by the pipe.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(settings).encode() + b"\n")
            stdin.flush()

    def _await_answer(self) -> None:
        process = self._running()
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if self.answers():
                return
            if process.poll() is not None:
                self._join_reader()
                raise SimError(f"{self} ended at once with code {process.returncode}; it printed:\n{self.output}")
            time.sleep(_PROBE_PAUSE_S)
        raise SimError(
            f"{self} does not answer for {self.probe} on port {self.ports.server} "
            f"after {self._start_timeout:g} s; it printed:\n{self.output}"
        )

    def stop(self) -> None:
        """End the server, politely and then by force. Does nothing if it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would: at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _end(self, sign: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(sign)
        # A suspended process takes notice of SIGTERM only when it goes on.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        self._join_reader()
        self._process = None

    def suspend(self) -> None:
        """Stop the process in its tracks (SIGSTOP): its circuits stay open and fall silent.

        Returns when all its threads have stopped.
        """
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # Left to be waited for: its exit is for Popen to see.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a suspended process go on (SIGCONT)."""
        self._running().send_signal(signal.SIGCONT)

    def restart(self) -> Self:
        """Stop the server if it runs, and start it on the same ports.

        Returns
        -------
        ServerProcess
            Itself.
        """
        self.stop()
        return self.start()

    def answers(self) -> bool:
        """Whether the server can be found and its probe be read, now."""
        return ask(self.probe, self.ports.server, _PROBE_TIMEOUT_S) is not None

    def ask(self, pvname: str, timeout: float = 2.0) -> Answer | None:
        """Read a PV with the probe's own client; None when it cannot be found or read."""
        return ask(pvname, self.ports.server, timeout)

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        return f"{type(self).__name__} ({' '.join(self.command[1:])})"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise SimError(f"{self} is not running: call start() or restart()")
        return self._process

    def _keep(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._lines.append(line.decode(errors="replace"))

    def _join_reader(self) -> None:
        # It ends with the output; a grandchild that inherited the pipe must not hold us.
        if self._reader is not None:
            self._reader.join(2.0)


def python_module(name: str) -> tuple[str, ...]:
    """Return the command that runs a module with this interpreter."""
    return (sys.executable, "-m", name)
