"""The camera process, from its parent's side."""

from __future__ import annotations

from .ports import Ports
from .process import ServerProcess, python_module


class CameraIOC(ServerProcess):
    """An areaDetector-like camera."""

    def __init__(self, prefix: str = "SIM:", *, ports: Ports | None = None):
        super().__init__(python_module("daqca.sim.serve_camera"), {}, prefix, ports=ports)
