"""Scripts with processes and pools: files, for a child that is spawned imports the script again.

The modules that use the fixture give it a name: ``command = multiproc.command``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .ca_scripts import Running, quiet

METHODS = pytest.mark.parametrize("method", ["fork", "spawn"])
# The second: a warning of os.fork beside threads, since Python 3.12.
FLAGS = ("-W", "error", "-W", "ignore::DeprecationWarning")
BEGIN = """
import multiprocessing as mp
import os, signal, sys, threading, time

import daqca as epics
from daqca import ca

prefix = sys.argv[1]

def until(condition, patience=30):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.001)

def joined(process, code=0):
    process.join(40)
    assert process.exitcode == code, process
"""
MAIN = """
if __name__ == "__main__":
    mp.set_start_method(sys.argv[2])
"""
COMMAND = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path) -> COMMAND:
    """The command that runs a script: ``command(functions, main, *args)``; `flags` go before the script."""

    def make(functions: str, main: str, *args: str, begin: str = BEGIN, flags: tuple[str, ...] = ()) -> list[str]:
        path = tmp_path / "script.py"
        main = textwrap.indent(textwrap.dedent(main), "    ")
        path.write_text(begin + textwrap.dedent(functions) + MAIN + main)
        return [sys.executable, *FLAGS, *flags, str(path), *args]

    return make


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a script to its end; returns what it printed. Whatever it says on its standard error is a fault."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=cwd)
    return quiet(done)


@contextmanager
def running(command: list[str]) -> Iterator[Running]:
    """Start a script as the leader of its process group, as a terminal does."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield Running(process)
        finally:
            process.kill()


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
