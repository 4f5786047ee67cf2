"""The arguments of all functions of a package named ``epics``, from a process of its own.

Run as a program it is that process: ``daqca`` for the package of `daqca.compat`, or ``pyepics``. It prints JSON: by
its name each function of the package and its modules, and each method of ``PV``, and the names of its arguments, in
order, with their defaults as text.
"""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

MODULES = ("epics", "epics.pv", "epics.utils", "epics.ca", "epics.dbr")
OWN = ("__init__", "_set_charval", "_getarg")
"""Methods that libraries use though they are no public names."""
Arguments = list[list[str]]


def of(package: str) -> dict[str, Arguments]:
    """Those of one package, from a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, package]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Arguments] = json.loads(done.stdout)
    return found


def arguments(function: Callable[..., Any]) -> Arguments:
    """The arguments of a function, in order; ``*`` says which are given by their names only."""
    found = []
    for each in inspect.signature(function).parameters.values():
        before = {each.VAR_POSITIONAL: "*", each.KEYWORD_ONLY: "*, ", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        default = "" if each.default is each.empty else f"{each.default!r}"
        if isinstance(each.default, (int, float)) and not isinstance(each.default, bool):
            default = f"{float(each.default):g}"  # 60 and 60.0 are the same
        found.append([before + each.name, default])
    return found


def _of_module(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions that a program finds in a module, but for what it has from elsewhere."""
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {
        name: one
        for name, one in found.items()
        if inspect.isfunction(one)
        if module.__name__ == "epics" or one.__module__ == module.__name__ or one.__module__.startswith("daqca.")
    }


def main(package: str) -> None:
    """Print those of what is named ``epics`` here."""
    if package == "daqca":
        import daqca.compat

        daqca.compat.install()
    found = {}
    for name in MODULES:
        for one, function in _of_module(importlib.import_module(name)).items():
            found[f"{name}.{one}"] = arguments(function)
    PV = importlib.import_module("epics").PV
    for name in dir(PV):
        method = inspect.getattr_static(PV, name)
        if inspect.isfunction(method) and (not name.startswith("_") or name in OWN):
            found[f"epics.PV.{name}"] = arguments(method)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
