"""Children that `multiprocessing` starts anew (spawn, forkserver) find daqca as ``epics``, too.

Such a child imports the main module of its parent, which may begin with ``import epics``. What the parent sends it
first says where that is, and how modules are found: it is the only thing that comes early enough.
"""

from __future__ import annotations

from multiprocessing import spawn
from typing import Any

_KEY = "daqca.compat"
_SERVER = "ignore"
"""The name with which the fork server is prepared, and not a child."""


class _Install:
    """What installs `daqca.compat` where it is unpickled.

    Parameters
    ----------
    path
        Where modules are found; the child has not been told yet.
    """

    def __init__(self, path: list[str]):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"import sys; sys.path[:] = {self.path!r}; import daqca.compat; daqca.compat.install()"
        return exec, (code, {})


class _Preparation:
    """`multiprocessing.spawn.get_preparation_data` with an `_Install` in it, which has its effect by being unpickled.

    Parameters
    ----------
    original
        What was there before.
    """

    def __init__(self, original: Any):
        self.original = original

    def __call__(self, name: str) -> dict[str, Any]:
        """What a child is told first."""
        data: dict[str, Any] = self.original(name)
        if name == _SERVER:
            # It takes no objects, and would import the main module as it is: its children do it themselves.
            data.pop("init_main_from_path", None)
            data.pop("init_main_from_name", None)
        else:
            data[_KEY] = _Install([entry for entry in data["sys_path"] if isinstance(entry, str)])
        return data


def begin() -> None:
    """Tell the children from now on. To do so again does no harm."""
    if not isinstance(spawn.get_preparation_data, _Preparation):
        _replace(_Preparation(spawn.get_preparation_data))


def end() -> None:
    """Tell them no more."""
    if isinstance(spawn.get_preparation_data, _Preparation):
        _replace(spawn.get_preparation_data.original)


def _replace(function: Any) -> None:
    setattr(spawn, "get_preparation_data", function)  # noqa: B010 - mypy takes no assignment to a function
