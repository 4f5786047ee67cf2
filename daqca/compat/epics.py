"""The package ``epics`` over daqca's own client: this file runs under that name. See `daqca.compat`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import daqca
import daqca.ca as ca
import daqca.dbr as dbr
from daqca.compat import pv, utils
from daqca.compat.finder import CLASSES, MODULES, missing
from daqca.functions import caget as _caget
from daqca.functions import caget_many, cainfo, camonitor, camonitor_clear, caput, poll
from daqca.functions import caput_many as _caput_many
from daqca.proxies.cache import cache

pv.replace()
PV = pv.PV
get_pv = pv.get_pv

NO_ALARM, MINOR_ALARM, MAJOR_ALARM, INVALID_ALARM = range(4)

_PVmonitors_ = cache.monitored
"""By name: the PVs that `camonitor` watches."""

# The release of PyEpics whose names are here, for programs that ask for a minimum, and what it really is.
__version__ = f"3.5.10.0+daqca.{daqca.__version__}"

__all__ = [
    "INVALID_ALARM",
    "MAJOR_ALARM",
    "MINOR_ALARM",
    "NO_ALARM",
    "PV",
    "ca",
    "caget",
    "caget_many",
    "cainfo",
    "camonitor",
    "camonitor_clear",
    "caput",
    "caput_many",
    "dbr",
    "get_pv",
    "poll",
    "pv",
    "utils",
    *(name for name, module in CLASSES.items() if MODULES[module] is not None),
]


def caget(
    pvname: str,
    as_string: bool = False,
    count: int | None = None,
    as_numpy: bool = True,
    use_monitor: bool = False,
    timeout: float | None = 5.0,
    connection_timeout: float | None = 5.0,
) -> Any:
    """`daqca.caget`, its arguments in the order of PyEpics 3.5."""
    return _caget(pvname, as_string, count, as_numpy, timeout, use_monitor, connection_timeout)


def caput_many(
    pvlist: Iterable[Any],
    values: Sequence[Any],
    wait: bool | str = False,
    connection_timeout: float = 5.0,
    put_timeout: float = 60.0,
) -> list[int]:
    """`daqca.caput_many`, which says -1 of a PV that is not connected, as programs know it."""
    statuses = _caput_many(pvlist, values, wait, connection_timeout, put_timeout)
    return [-1 if status is None else status for status in statuses]


def __getattr__(name: str) -> Any:
    module = CLASSES.get(name)
    if module is not None and MODULES[module] is not None:
        return getattr(import_module(f"{__name__}.{module}"), name)
    what = missing(name) if module or name in MODULES else f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(what, name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
