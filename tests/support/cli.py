"""The command line as its users run it: a process, with its output and its exit code."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from typing import Any

COMMAND = (sys.executable, "-m", "daqca.cli")


class Done:
    """What a command left: ``code``, ``out`` and ``err``."""

    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """Its output as strict JSON."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        return json.loads(self.out, parse_constant=refuse)

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}---"


def environ(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of this test, in which a mistake of daqca is shown and no colours are."""
    return {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "PYTHONWARNINGS": "error", **(extra or {})}


def daqca(
    *args: object,
    stdin: str | bytes = b"",
    env: dict[str, str] | None = None,
    timeout: float = 50.0,
    cwd: Any = None,
    file_limit: int | None = None,
) -> Done:
    """Run ``daqca args...`` to its end; `file_limit` is the size in bytes that no file of it can exceed."""
    content = stdin.encode() if isinstance(stdin, str) else stdin
    limit = [] if file_limit is None else ["prlimit", f"--fsize={file_limit}"]
    done = subprocess.run(
        [*limit, *COMMAND, *map(str, args)],
        input=content,
        capture_output=True,
        env=environ(env),
        timeout=timeout,
        check=False,
        cwd=cwd,
    )
    result = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.err, result
    return result


@contextlib.contextmanager
def daqca_running(
    *args: object, env: dict[str, str] | None = None, command: Sequence[str] = COMMAND
) -> Iterator[subprocess.Popen[str]]:
    """Run ``daqca args...`` beside the test; killed at the end if it has not ended."""
    process = subprocess.Popen(
        [*command, *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ(env),
        text=True,
        # A group of its own, as a terminal gives to the commands that it runs.
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ctrl_c(process: subprocess.Popen[str], signum: int = signal.SIGINT) -> None:
    """What a terminal does at Ctrl-C: the signal goes to the command and to all that it has started."""
    os.killpg(process.pid, signum)


def ended(process: subprocess.Popen[str], timeout: float = 30.0) -> Done:
    """Wait for the end of a command that was told to end."""
    out, err = process.communicate(timeout=timeout)
    result = Done(process.returncode, out, err)
    assert "Traceback" not in result.err, result
    return result


def daqca_on_terminal(*args: object, env: dict[str, str] | None = None, command: Sequence[str] = COMMAND) -> Done:
    """Run ``daqca args...`` with stderr on a terminal of 100 columns; what it wrote there is ``err``, as it came."""
    master, terminal = pty.openpty()
    size = struct.pack("HHHH", 30, 100, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    try:
        process = subprocess.Popen(
            [*command, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=terminal,
            env=environ({"TERM": "xterm", "COLUMNS": "100", **(env or {})}),
        )
        os.close(terminal)
        err = b""
        with process:
            # The end of a terminal is an error: nobody holds its other side any more.
            with contextlib.suppress(OSError):
                while more := os.read(master, 65536):
                    err += more
            assert process.stdout is not None
            out = process.stdout.read()
        return Done(process.returncode, out.decode(), err.decode())
    finally:
        os.close(master)
