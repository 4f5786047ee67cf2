"""``python -m daqca.compat script.py args...``: run a program that was written for PyEpics, unchanged."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import Any, NoReturn

from daqca import compat

USAGE = """\
usage: python -m daqca.compat SCRIPT [ARGUMENT]...
       python -m daqca.compat -m MODULE [ARGUMENT]...
       python -m daqca.compat -c CODE [ARGUMENT]...

Run a program that was written for PyEpics over daqca's own Channel Access client: `import epics`
finds daqca, whether PyEpics is installed or not. The program is found, and finds its arguments, as
with `python SCRIPT`, `python -m MODULE` and `python -c CODE`; SCRIPT may be a folder or a zip file
with a __main__.py, too.

  -h, --help   this text

The children of its multiprocessing find it, too, however they are started. Other programs that it
starts are run with python -m daqca.compat themselves, or call daqca.compat.install().
"""


def main(arguments: list[str]) -> None:
    """Run what the arguments of the command line say.

    Raises
    ------
    SystemExit
        They say nothing that can be run (2), or only that help is wanted (0).
    """
    if not arguments:
        _refuse("what is to be run?")
    first, rest = arguments[0], arguments[1:]
    if first in ("-h", "--help"):
        sys.stdout.write(USAGE)
        raise SystemExit(0)
    if first in ("-m", "-c"):
        if not rest:
            _refuse(f"{first} needs {'a module' if first == '-m' else 'code'}")
        target, rest = rest[0], rest[1:]
    elif first.startswith("-"):
        _refuse(f"unknown option {first}")
    elif not os.path.exists(first):
        _refuse(f"there is no file {first}")
    compat.install()
    if first == "-c":
        _start_at("")
        _run(compile(target, "<string>", "exec", dont_inherit=True), ["-c", *rest])
    elif first == "-m":
        _start_at(os.getcwd())
        _run_spec(_module(target), rest)
    elif os.path.isdir(first) or zipfile.is_zipfile(first):
        _start_at(first)
        spec = PathFinder.find_spec("__main__", [first])
        if spec is None:
            _refuse(f"there is no __main__.py in {first}")
        _run_spec(spec, rest, first)
    else:
        _start_at(os.path.dirname(os.path.realpath(first)))
        path = os.path.abspath(first)
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        _run(code, [first, *rest], __file__=path)


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"daqca.compat: {why}\n{USAGE}")
    raise SystemExit(2)


def _start_at(folder: str) -> None:
    """Have modules be looked for there first, as Python has it for the program it runs.

    Python put the folder it was started in there for this module, unless it was told not to (``-P``, ``-I``).
    """
    if getattr(sys.flags, "safe_path", False) or sys.flags.isolated:
        return
    sys.path[0] = folder


def _module(name: str) -> ModuleSpec:
    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        _refuse(f"cannot find the module {name}: {error}")
    if spec is None:
        _refuse(f"there is no module {name} that can be run")
    return spec


def _run_spec(spec: ModuleSpec, arguments: list[str], program: str | None = None) -> None:
    loader: Any = spec.loader
    code = loader.get_code(spec.name) if hasattr(loader, "get_code") else None
    if code is None:
        _refuse(f"{spec.name} is not written in Python")
    names = {"__file__": spec.origin, "__spec__": spec, "__loader__": loader, "__package__": spec.parent}
    _run(code, [program or spec.origin or spec.name, *arguments], **names)


def _run(code: CodeType, argv: list[str], **names: Any) -> None:
    """Run code as ``__main__``, which it stays when it is through: threads and exit handlers may go on."""
    module = ModuleType("__main__")
    module.__dict__.update({"__builtins__": __builtins__, "__package__": None, **names})
    sys.modules["__main__"] = module
    sys.argv[:] = argv
    exec(code, module.__dict__)


if __name__ == "__main__":
    main(sys.argv[1:])
