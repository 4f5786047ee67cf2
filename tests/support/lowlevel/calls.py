"""Make the same calls with either library, and print what came of each: ``python calls.py epics|daqca PREFIX``.

JSON on standard output, an outcome for each name of a call. The calls are in the modules beside this one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a program, the folder of the tests is not on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from support.lowlevel import channels, contexts, groups, library, loss, monitors, puts, reads
from support.lowlevel.database import records
from support.lowlevel.describe import Outcome
from support.lowlevel.lab import Lab, Section
from support.lowlevel.runner import run_all

# Those first that wait long: the others pass the time.
MODULES: tuple[Any, ...] = (contexts, loss, monitors, channels, library, groups, puts, reads)
SHARED = "shared:"


def sections() -> Iterator[tuple[Section, bool]]:
    """Yield the sections, and whether their calls want a process each."""
    for module in MODULES:
        yield from ((section, True) for section in module.ALONE)
        yield from ((section, False) for section in module.SECTIONS)


def database(prefix: str, *sides: str) -> str:
    """Return the records that are read by all, and those that each section of each side writes."""
    owners = [f"{prefix}{side}:{section.__name__}:" for side in sides for section, _ in sections()]
    return "\n".join(records(owner) for owner in (prefix + SHARED, *owners))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=("epics", "daqca"))
    parser.add_argument("prefix")
    parser.add_argument("--side", help="which records are written, beside PREFIX; those named like the library")
    parser.add_argument("--only", nargs="*", default=(), help="names of sections")
    parser.add_argument("--times", action="store_true", help="tell on standard error how long each section takes")
    options = parser.parse_args()
    ca, dbr = (import_module(f"{options.library}.{name}") for name in ("ca", "dbr"))
    for name in dir(ca):
        # What is loaded at its first use is loaded once, not in each of the processes to come.
        getattr(ca, name, None)
    side = options.side or options.library
    wanted = [
        (section, alone, partial(Lab, ca, dbr, options.prefix + SHARED, f"{options.prefix}{side}:{section.__name__}:"))
        for section, alone in sections()
        if not options.only or section.__name__ in options.only
    ]
    found: dict[str, Outcome] = {}
    for run in run_all(wanted):
        twice = found.keys() & run.found.keys()
        assert not twice, f"two calls of one name: {twice}"
        found |= run.found
        if options.times:
            print(f"{run.section.__name__}: {len(run.found)}, {run.took:.1f} s", file=sys.stderr)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
