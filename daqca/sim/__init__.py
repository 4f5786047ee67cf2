"""The embedded IOC: servers for demonstrations, tests and benchmarks. This file only hands names on."""

from .camera import CameraIOC
from .database import SimDatabase, SimRecord
from .ioc import SimIOC, SoftIOC
from .ports import Ports, free_port
from .process import ServerProcess, SimError

__all__ = [
    "CameraIOC",
    "Ports",
    "ServerProcess",
    "SimDatabase",
    "SimError",
    "SimIOC",
    "SimRecord",
    "SoftIOC",
    "free_port",
]
