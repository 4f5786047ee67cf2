"""Where each module of ``epics`` comes from, and how Python is told.

What differs from daqca's own names is in the modules beside this one. Importing this imports nothing else of daqca.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any

PACKAGE = "epics"
MODULES: dict[str, str | None] = {
    "alarm": None,
    "autosave": None,
    "ca": "daqca.ca",
    "dbr": "daqca.dbr",
    "device": None,
    "devices": None,
    "motor": None,
    "multiproc": "daqca.multiproc",
    "pv": "daqca.compat.pv",
    "utils": "daqca.compat.utils",
    "wx": None,
}
"""What each module of ``epics`` is, and with it what is in it, if it is a package. None: daqca has none yet."""
CLASSES = {"Alarm": "alarm", "CAPool": "multiproc", "CAProcess": "multiproc", "Device": "device", "Motor": "motor"}
"""Classes that ``epics`` itself hands on, and the module of ``epics`` that each is from."""


def install() -> None:
    """Have ``import epics`` find daqca from now on, in this process and in the children of its `multiprocessing`.

    PyEpics, if it is there, is not looked at.

    To do so again does no harm.

    Raises
    ------
    ImportError
        PyEpics (or another ``epics``) was imported already: some modules would use it, and others daqca.
    """
    if _finder in sys.meta_path:
        return
    found = sys.modules.get(PACKAGE)
    if found is not None:
        place = getattr(found, "__file__", None) or "an unknown place"
        raise ImportError(
            f"daqca.compat.install() comes too late: {PACKAGE} was imported already, from {place}. "
            "Call it before anything imports epics, or run the program with python -m daqca.compat",
            name=PACKAGE,
        )
    from daqca.compat import spawning

    _forget()
    sys.meta_path.insert(0, _finder)
    spawning.begin()


def uninstall() -> None:
    """Undo `install`: the next ``import epics`` finds what is installed. What was imported before stays as it is."""
    if _finder not in sys.meta_path:
        return
    from daqca.compat import spawning

    spawning.end()
    sys.meta_path.remove(_finder)
    home = sys.modules.get("daqca.compat.pv")
    if home is not None:
        home.restore()
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(PACKAGE + ".")]:
        del sys.modules[name]


def missing(name: str) -> str:
    """What to say of a module or class that there is not yet."""
    return f"{PACKAGE}.{name} is not in daqca yet: daqca.compat has {', '.join(sorted(_there()))} of PyEpics"


def _there() -> list[str]:
    return [f"{PACKAGE}.{name}" for name, home in MODULES.items() if home is not None]


class _Finder:
    """Finds ``epics`` and its modules, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        if fullname == PACKAGE:
            source = os.path.join(os.path.dirname(__file__), "epics.py")
            # A package of which nothing is found in a folder.
            spec = ModuleSpec(fullname, SourceFileLoader(fullname, source), origin=source, is_package=True)
            spec.has_location = True
            return spec
        package, _, name = fullname.partition(".")
        if package != PACKAGE:
            return None
        first, _, rest = name.partition(".")
        module = CLASSES.get(first, first)
        if module not in MODULES or (module != first and MODULES[module] is not None):
            return None
        home = MODULES[module]
        loader: Any = _Loader(first, home if home is None or not rest else f"{home}.{rest}")
        return ModuleSpec(fullname, loader)


class _Loader:
    """Hands a module of daqca on under another name: it is the same module under both.

    Parameters
    ----------
    name
        Within ``epics``.
    home
        Its name in daqca; None: there is none yet.
    """

    def __init__(self, name: str, home: str | None):
        self.name = name
        self.home = home

    def create_module(self, spec: ModuleSpec) -> None:
        """Nothing is made, for the module is there."""
        if self.home is None:
            raise ImportError(missing(self.name), name=spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Put daqca's module in the place of the empty one that Python made; it takes what it finds there then."""
        if self.home is not None:
            sys.modules[module.__name__] = importlib.import_module(self.home)


_finder = _Finder()
