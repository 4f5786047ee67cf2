"""Programs with the low-level interface, as users write them, run as child processes.

Whatever one says on its standard error is a fault, unless the test looks for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager

BEGIN = """
import atexit, os, signal, sys, threading, time
from daqca import ca
prefix = sys.argv[1]

def until(condition, patience=20):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.001)

def connected(ending, callback=None):
    chid = ca.create_channel(prefix + ending, callback=callback)
    assert ca.connect_channel(chid, timeout=20), ending
    return chid

def watched(ending, callback=lambda **known: None):
    chid = connected(ending)
    return chid, ca.create_subscription(chid, callback=callback)

def begun(target, *args):
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread
"""
"""What scripts begin with."""

FORKED = """
    def forked(child):
        '''Fork, have the child do something and end; returns its exit code.'''
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        code = 1
        try:
            signal.alarm(25)
            child()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
"""
"""For scripts that fork, which import what it needs."""

QUICK = 10.0
"""Seconds in which every script ends that is not asked for more, on a busy machine; a hang lasts longer."""

Done = subprocess.CompletedProcess[str]


def script(body: str, begin: str = BEGIN) -> str:
    return begin + textwrap.dedent(body)


def command(body: str, *args: str, flags: tuple[str, ...] = (), begin: str = BEGIN) -> list[str]:
    return [sys.executable, "-W", "error", *flags, "-c", script(body, begin), *args]


def run(body: str, *args: str, flags: tuple[str, ...] = (), timeout: float = 50.0, begin: str = BEGIN) -> Done:
    """Run a script to its end."""
    return subprocess.run(
        command(body, *args, flags=flags, begin=begin), capture_output=True, text=True, timeout=timeout, check=False
    )


def quiet(done: Done, code: int = 0) -> str:
    """What a script printed that ended as it should, without a word on its standard error."""
    assert (done.returncode, done.stderr) == (code, ""), done
    return done.stdout


class Running:
    """A script that waits for a line on its standard input where the test wants to do something meanwhile."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process

    def says(self, line: str) -> None:
        """Wait until it prints a line."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == line + "\n", self.process.communicate(timeout=10)

    def tell(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self, within: float = QUICK) -> Done:
        """Wait for its end, which is near."""
        begin = time.monotonic()
        out, errors = self.process.communicate(timeout=50)
        took = time.monotonic() - begin
        assert took < within, f"it took {took:.1f} s to end"
        return Done(self.process.args, self.process.returncode, out, errors)


@contextmanager
def running(body: str, *args: str, flags: tuple[str, ...] = ()) -> Iterator[Running]:
    """Start a script; it is killed if the test fails."""
    process = subprocess.Popen(
        command(body, *args, flags=flags),
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


def descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            found.add(f"{entry.name} {os.readlink(entry.path)}")
        except OSError:
            continue
    return found
