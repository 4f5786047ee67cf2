"""The processes of clients: started, spoken with in lines of JSON, their CPU and memory read from ``/proc``.

What is measured with them is in `rows`.
"""

from __future__ import annotations

import json
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

Result = dict[str, Any]


class ClientError(RuntimeError):
    """A client ended, or said nothing in time."""


class ClientProcess:
    """A running client; leaving the block ends it.

    Parameters
    ----------
    command
        Program and arguments.
    environment
        The whole environment, with the ``EPICS_*`` variables that find the IOC.
    timeout
        Seconds to wait for an answer.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], timeout: float = 180.0):
        self.command = command
        self.timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, bufsize=0
        )
        self._rest = b""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def answer(self) -> Result:
        """The next line it prints.

        Raises
        ------
        ClientError
            It ended, or printed nothing in time.
        """
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + self.timeout
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                raise ClientError(f"{self.command}: no answer in {self.timeout:g} s\n{self._complaints()}")
            piece = stdout.read(1 << 20)
            if not piece:
                raise ClientError(f"{self.command}: ended with {self._process.wait(5)}\n{self._complaints()}")
            self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        result: Result = json.loads(line)
        return result

    def send(self, command: str) -> None:
        """Write a command line."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")

    def ask(self, command: str) -> Result:
        """Write a command line and wait for its answer."""
        self.send(command)
        return self.answer()

    def __enter__(self) -> ClientProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _complaints(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace")


def descendants(pid: int) -> list[int]:
    """`pid` and the processes that came of it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in _read(task).split()]
    return found


def private_bytes(pid: int) -> int:
    """Bytes of memory that are this process's alone (Private_Clean + Private_Dirty)."""
    lines = _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def cpu_seconds(pid: int) -> dict[str, float]:
    """CPU of each living thread of a process, by ``"tid name"``."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        nanoseconds = _read(task / "schedstat").split()
        if nanoseconds:
            found[f"{task.name} {_read(task / 'comm').strip()}"] = int(nanoseconds[0]) / 1e9
    return found


def total_cpu(pid: int) -> float:
    """CPU of all living threads of a process."""
    return sum(cpu_seconds(pid).values())


def command_line(pid: int) -> str:
    """How a process was started, for telling workers from brokers."""
    return _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended in the meantime
        return ""
