"""One worker process as its parent sees it: started, listened to, ended. Who supervises it is in `supervisor`."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from daqca.errors import WorkerError
from daqca.workers.configuration import Configuration

log = logging.getLogger("daqca.workers")

QUIT_PATIENCE = 2.0
TERMINATE_PATIENCE = 1.0
_KEPT_LINES = 40
# The user's modules are found where the parent finds them, daqca too, but none of them is run. Python's own `-m` would
# look for them in the current directory first.
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = sys.argv[1:]; "
    "from daqca.workers.main import main; main()"
)


class WorkerProcess:
    """A worker process.

    Parameters
    ----------
    number
        Of the worker in its pool, for names and messages.
    configuration
        What the process is told.
    ended
        Called once, on another thread, when the process has closed its standard error: it is ending.

    Raises
    ------
    WorkerError
        The process cannot be started at all.
    """

    def __init__(self, number: int, configuration: Configuration, ended: Callable[[], None] = lambda: None):
        self.number = number
        self.address = configuration.address
        self._ended = ended
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _START, *(str(path) or os.getcwd() for path in sys.path)],
                bufsize=0,  # no buffers, whose locks a fork could copy while they are held
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise WorkerError(f"worker {number} cannot be started as {sys.executable}: {error}") from error
        assert self._popen.stdin is not None
        data = configuration.encode()
        with contextlib.suppress(BrokenPipeError):  # it died at once; why, stands in its output
            while data:
                data = data[self._popen.stdin.write(data) :]
        self._reader = threading.Thread(target=self._read, name=f"daqca-worker-{number}-log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        """The last lines that it wrote to its standard error."""
        return "\n".join(self._lines)

    def doing(self) -> str:
        """What the system says of it: its state in the letters of ``ps``, and the CPU seconds it has used."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "gone"
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return f"state {fields[0]}, {used:.1f} s of CPU"

    def how_it_ended(self) -> str:
        """In words, for messages."""
        code = self._popen.poll()
        if code is None:
            return "it is still running"
        return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"

    def _read(self) -> None:
        """The thread that logs what the process writes to its standard error."""
        assert self._popen.stderr is not None
        rest = b""
        while more := self._popen.stderr.read(1 << 16):
            *lines, rest = (rest + more).split(b"\n")
            for line in lines:
                self._log(line.decode(errors="replace"))
        if rest:
            self._log(rest.decode(errors="replace"))
        self._ended()

    def _log(self, line: str) -> None:
        self._lines.append(line)
        level, _, rest = line.partition(":")
        name, _, message = rest.partition(":")
        number = logging.getLevelName(level)
        if isinstance(number, int) and name.startswith("daqca"):
            logging.getLogger(name).log(number, "worker %d: %s", self.number, message)
        else:
            log.warning("worker %d wrote: %s", self.number, line)

    def kill(self) -> None:
        """End it by force."""
        self._popen.kill()

    def stop(self, patience: float = QUIT_PATIENCE) -> None:
        """Wait until it ends, which it was asked to do; then make it end. No zombie stays.

        Parameters
        ----------
        patience
            Seconds to wait before it is terminated; 0 to kill it at once.
        """
        popen = self._popen
        if patience > 0:
            self._wait(patience)
        if popen.poll() is None and patience > 0:
            log.warning("worker %d (pid %d) does not end by itself and is terminated", self.number, popen.pid)
            popen.terminate()
            self._wait(TERMINATE_PATIENCE)
        if popen.poll() is None:
            popen.kill()
        popen.wait()
        self._reader.join()
        for pipe in (popen.stdin, popen.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _wait(self, timeout: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)

    def forget(self) -> None:
        """In the child of a fork: the process is not ours."""
        self._popen.returncode = 0  # so that nobody waits for it, or warns that nobody did
        for pipe in (self._popen.stdin, self._popen.stderr):
            if pipe is not None:
                pipe.close()
