"""Worker processes that own Channel Access contexts. This file only hands names on, each loaded at its first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daqca.workers.link import WorkerLink
    from daqca.workers.pool import WorkerPool
    from daqca.workers.supervisor import Supervision

__all__ = ["Supervision", "WorkerLink", "WorkerPool"]

# The worker process imports modules of this package and needs none of these.
_HOMES = {
    "Supervision": "daqca.workers.supervisor",
    "WorkerLink": "daqca.workers.link",
    "WorkerPool": "daqca.workers.pool",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'daqca.workers' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
