"""Data acquisition over EPICS Channel Access. This file only hands names on, each loaded at its first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daqca.engine import ChannelInfo, Engine, PutResult, Sink, Subscription
    from daqca.engine.default import default_engine, use_engine
    from daqca.functions import (
        INVALID_ALARM,
        MAJOR_ALARM,
        MINOR_ALARM,
        NO_ALARM,
        caget,
        caget_many,
        cainfo,
        camonitor,
        camonitor_clear,
        caput,
        caput_many,
        poll,
    )
    from daqca.multiproc import CAPool, CAProcess
    from daqca.outcome import Outcome
    from daqca.pv_proxy import PV, get_pv
    from daqca.reading import Metadata, Reading
    from daqca.snapshot import Snapshot

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - sorted as everybody sorts
    "CAPool",
    "CAProcess",
    "ChannelInfo",
    "Engine",
    "INVALID_ALARM",
    "MAJOR_ALARM",
    "MINOR_ALARM",
    "Metadata",
    "NO_ALARM",
    "Outcome",
    "PV",
    "PutResult",
    "Reading",
    "Sink",
    "Snapshot",
    "Subscription",
    "__version__",
    "caget",
    "caget_many",
    "cainfo",
    "camonitor",
    "camonitor_clear",
    "caput",
    "caput_many",
    "default_engine",
    "get_pv",
    "poll",
    "use_engine",
]

_HOMES = {
    "INVALID_ALARM": "daqca.functions",
    "MAJOR_ALARM": "daqca.functions",
    "MINOR_ALARM": "daqca.functions",
    "NO_ALARM": "daqca.functions",
    "CAPool": "daqca.multiproc",
    "CAProcess": "daqca.multiproc",
    "PV": "daqca.pv_proxy",
    "ChannelInfo": "daqca.engine",
    "Engine": "daqca.engine",
    "Metadata": "daqca.reading",
    "Outcome": "daqca.outcome",
    "PutResult": "daqca.engine",
    "Reading": "daqca.reading",
    "Sink": "daqca.engine",
    "Snapshot": "daqca.snapshot",
    "Subscription": "daqca.engine",
    "caget": "daqca.functions",
    "caget_many": "daqca.functions",
    "cainfo": "daqca.functions",
    "camonitor": "daqca.functions",
    "camonitor_clear": "daqca.functions",
    "caput": "daqca.functions",
    "caput_many": "daqca.functions",
    "default_engine": "daqca.engine.default",
    "get_pv": "daqca.pv_proxy",
    "poll": "daqca.functions",
    "use_engine": "daqca.engine.default",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'daqca' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
