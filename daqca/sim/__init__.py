"""The embedded IOC: servers for demonstrations, tests and benchmarks. This file only hands names on.

Each is loaded at its first use: the server processes import this package too, and shall not load
what only their parent needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .camera import CameraIOC
    from .database import SimDatabase, SimRecord
    from .frames import FramePattern
    from .ioc import SimIOC, SoftIOC
    from .ports import Ports, free_port
    from .process import ServerProcess, SimError
    from .run import Simulation, run_sim, start_sim

__all__ = [
    "CameraIOC",
    "FramePattern",
    "Ports",
    "ServerProcess",
    "SimDatabase",
    "SimError",
    "SimIOC",
    "SimRecord",
    "Simulation",
    "SoftIOC",
    "free_port",
    "run_sim",
    "start_sim",
]

_HOMES = {
    "CameraIOC": "camera",
    "FramePattern": "frames",
    "Ports": "ports",
    "ServerProcess": "process",
    "SimDatabase": "database",
    "SimError": "process",
    "SimIOC": "ioc",
    "SimRecord": "database",
    "Simulation": "run",
    "SoftIOC": "ioc",
    "free_port": "ports",
    "run_sim": "run",
    "start_sim": "run",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'daqca.sim' has no attribute {name!r}")
    value = getattr(import_module(f"daqca.sim.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
