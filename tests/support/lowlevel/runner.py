"""Runs sections of calls in child processes, some at a time; a call that crashes or hangs has this as its outcome.

A child begins with the first call that has no outcome yet. It writes a line of JSON for each name of a call
before it, and one for its outcome after it; who reads them knows which call ended the process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NoReturn

from .describe import Outcome, outcome
from .lab import Lab, Section

AT_A_TIME = 5
CALL_LIMIT_S = 30.0
CRASHED, HUNG = "crashed", "hung"


class Run:
    """One section, and what came of its calls so far.

    Parameters
    ----------
    section
        The calls.
    alone
        Whether each call wants a process of its own.
    make_lab
        Called in each child, for the library and the names of the records.
    """

    def __init__(self, section: Section, alone: bool, make_lab: Callable[[], Lab]):
        self.section = section
        self.found: dict[str, Outcome] = {}
        self.took = 0.0
        self._alone = alone
        self._make_lab = make_lab
        self._began = time.monotonic()
        self._start()

    def _start(self) -> None:
        self._calling = ""
        self._ended: str | None = CRASHED
        self._rest = b""
        self._first = len(self.found)
        self.reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self.reading)
            self._be_child(writing)
        os.close(writing)
        self.deadline = time.monotonic() + CALL_LIMIT_S

    def read(self) -> bool:
        """Take what the child has written; return whether all calls have been made."""
        data = os.read(self.reading, 1 << 16)
        if not data:
            return self._finish()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        self.deadline = time.monotonic() + CALL_LIMIT_S
        return False

    def give_up(self) -> bool:
        """End a child that hangs; return whether all calls have been made."""
        self._ended = HUNG
        return self._finish()

    def end(self) -> None:
        """End the child, if there is one."""
        if self._pid:
            os.close(self.reading)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _take(self, message: str | list[Outcome] | dict[str, str] | None) -> None:
        if isinstance(message, str):
            self._calling = message
        elif isinstance(message, list):
            self.found[self._calling], self._calling = message[0], ""
        elif message is None:
            self._ended = None
        else:
            raise RuntimeError(f"{self._where()}: {message['failed']}")

    def _finish(self) -> bool:
        self.end()
        if self._ended is not None:
            if not self._calling:
                raise RuntimeError(f"the process of {self._where()} {self._ended}, and no call was being made")
            self.found[self._calling] = self._ended
        if self._ended is not None or (self._alone and len(self.found) > self._first):
            self._start()
            return False
        self.took = time.monotonic() - self._began
        return True

    def _where(self) -> str:
        return f"{self.section.__name__} at {self._calling or 'the call after ' + str(list(self.found)[-1:])}"

    def _be_child(self, writing: int) -> NoReturn:
        # What is raised is recorded; both libraries, and ctypes, also show some of it.
        sys.excepthook = lambda *_: None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)

        def write(message: object) -> None:
            data = json.dumps(message).encode() + b"\n"
            while data:
                data = data[os.write(writing, data) :]

        try:
            lab = self._make_lab()
            for name, call in islice(self.section(lab), self._first, self._first + 1 if self._alone else None):
                write(name)
                write([outcome(call, lab.ca)])
            write(None)
        except BaseException:
            write({"failed": traceback.format_exc()})
        finally:
            # No farewell: the ways of the libraries to end are calls of their own.
            os._exit(0)


def run_all(sections: Iterable[tuple[Section, bool, Callable[[], Lab]]]) -> list[Run]:
    """Run sections, some at a time: many calls only wait."""
    waiting = list(sections)
    running: list[Run] = []
    done: list[Run] = []
    try:
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                running.append(Run(*waiting.pop(0)))
            patience = max(0.0, min(run.deadline for run in running) - time.monotonic())
            ready = select.select([run.reading for run in running], [], [], patience)[0]
            for run in list(running):
                ended = False
                if run.reading in ready:
                    ended = run.read()
                elif time.monotonic() > run.deadline:
                    ended = run.give_up()
                if ended:
                    running.remove(run)
                    done.append(run)
    finally:
        for run in running:
            run.end()
    return done
