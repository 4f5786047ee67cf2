"""Make the same calls with either library, and print what came of each: ``python calls.py epics|daqca PREFIX``.

JSON on standard output, an outcome for each name of a call. The sections of calls run in processes of their
own, so that a call that crashes or hangs has this as its outcome, and the next call follows.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Collection, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a program, the folder of the tests is not on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from support.lowlevel import channels, puts, reads
from support.lowlevel.describe import Outcome, outcome
from support.lowlevel.lab import Call, Lab, Section

MODULES: tuple[Any, ...] = (reads, channels, puts)
CALL_LIMIT_S = 10.0
CRASHED, HUNG = "crashed", "hung"


def run_section(section: Section, lab: Lab, alone: bool) -> dict[str, Outcome]:
    """Make the calls of a section in child processes, one after the other until all have been made.

    A process ends where a call ends it, and after each call when they shall be ``alone``.
    """
    found: dict[str, Outcome] = {}
    while True:
        made = len(found)
        ended, name = _run_child(section, lab, slice(made, made + 1 if alone else None), found)
        if ended is not None:
            found[name] = ended
        elif not alone or len(found) == made:
            return found


def _run_child(section: Section, lab: Lab, which: slice, found: dict[str, Outcome]) -> tuple[str | None, str]:
    """Make some of the calls; return how one ended the process, if one did, and its name."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(islice(section(lab), which.start, which.stop), lab, writing)
    os.close(writing)
    name = ""
    ended: str | None = CRASHED
    try:
        for line in _lines(reading):
            message = json.loads(line)
            if isinstance(message, str):
                name = message
            elif message is None:
                ended = None
            else:
                found[name], name = message[0], ""
    except TimeoutError:
        ended = HUNG
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if ended is not None and not name:
        raise RuntimeError(f"the process of {section.__name__} {ended} between two calls, after {list(found)[-1:]}")
    return ended, name


def _lines(reading: int) -> Iterator[bytes]:
    """Yield what the child writes, line by line.

    Raises
    ------
    TimeoutError
        Nothing came for as long as a call may take.
    """
    rest = b""
    while True:
        if not select.select([reading], [], [], CALL_LIMIT_S)[0]:
            raise TimeoutError
        data = os.read(reading, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _child(calls: Iterator[Call], lab: Lab, writing: int) -> None:
    """Make calls, and write of each its name before and its outcome after it; at the end, null."""
    # PyEpics shows some exceptions that it raises; they are recorded anyway.
    sys.excepthook = lambda *_: None
    try:
        for name, call in calls:
            os.write(writing, json.dumps(name).encode() + b"\n")
            result = json.dumps([outcome(call, lab.ca)]).encode() + b"\n"
            while result:
                result = result[os.write(writing, result) :]
        os.write(writing, b"null\n")
    except BaseException:
        traceback.print_exc()
    finally:
        # No farewell: the ways of the libraries to end are calls of their own.
        os._exit(0)


def _sections(only: Collection[str] | None) -> Iterator[tuple[Section, bool]]:
    """Yield the sections, and whether their calls want a process each."""
    for module in MODULES:
        for section in (*module.SECTIONS, *module.ALONE):
            if only is None or section.__name__ in only:
                yield section, section in module.ALONE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=("epics", "daqca"))
    parser.add_argument("prefix")
    parser.add_argument("--own", help="what the names of the records that are written begin with")
    parser.add_argument("--only", default="", help="names of sections, separated by commas")
    parser.add_argument("--times", action="store_true", help="tell on standard error how long each section takes")
    options = parser.parse_args()
    ca, dbr = (import_module(f"{options.library}.{name}") for name in ("ca", "dbr"))
    lab = Lab(ca, dbr, options.prefix, options.own or f"{options.prefix}{options.library}:")
    found: dict[str, Outcome] = {}
    for section, alone in _sections(options.only.split(",") if options.only else None):
        begin = time.monotonic()
        outcomes = run_section(section, lab, alone)
        twice = found.keys() & outcomes.keys()
        assert not twice, f"two calls of one name: {twice}"
        found |= outcomes
        if options.times:
            print(f"{section.__name__}: {len(outcomes)}, {time.monotonic() - begin:.1f} s", file=sys.stderr)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
