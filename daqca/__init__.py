"""Data acquisition over EPICS Channel Access. This file only hands names on, each loaded at its first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daqca.engine import ChannelInfo, Engine, PutResult, Sink, Subscription
    from daqca.outcome import Outcome
    from daqca.reading import Metadata, Reading
    from daqca.snapshot import Snapshot

__version__ = "0.1.0"

__all__ = [
    "ChannelInfo",
    "Engine",
    "Metadata",
    "Outcome",
    "PutResult",
    "Reading",
    "Sink",
    "Snapshot",
    "Subscription",
    "__version__",
]

_HOMES = {
    "ChannelInfo": "daqca.engine",
    "Engine": "daqca.engine",
    "Metadata": "daqca.reading",
    "Outcome": "daqca.outcome",
    "PutResult": "daqca.engine",
    "Reading": "daqca.reading",
    "Sink": "daqca.engine",
    "Snapshot": "daqca.snapshot",
    "Subscription": "daqca.engine",
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
