"""The simulated camera as a child process, seen from its parent.

The process itself is ``serve_camera.py``, its frames are in ``frames.py``, its PVs in ``areadetector.py``.
"""

from __future__ import annotations

import secrets
from typing import Any

from ..errors import ConfigurationError
from .frames import DATA_TYPES, FramePattern
from .ports import Ports
from .process import ServerProcess, python_module

MAX_PIXELS = 12_000_000


class CameraIOC(ServerProcess):
    """A camera with the PVs of areaDetector's simulator: ``<prefix>cam1:...`` and ``<prefix>image1:...``.

    It acquires as a detector does: ``cam1:Acquire`` starts and stops,
    ``cam1:ImageMode``, ``NumImages``, ``AcquireTime``, ``AcquirePeriod``,
    ``SizeX`` and ``SizeY`` are obeyed. A put of 1 to ``Acquire`` with completion
    ends with the acquisition. For each frame ``image1:ArrayData`` is posted
    first, then the ``ArrayCounter_RBV`` and ``UniqueId_RBV`` of both; a frame
    carries its ``UniqueId``, and can be checked (``pattern``). Unlike the real
    one, ``image1:EnableCallbacks`` is on at the start.

    Parameters
    ----------
    prefix
        What every name begins with.
    width, height
        Pixels of a frame at the start, and at most.
    data_type
        ``"UInt8"``, ``"UInt16"``, ... (``DATA_TYPES``).
    rate_hz
        Frames per second at the start: ``1 / AcquirePeriod``.
    acquire
        Whether it acquires from the start.
    patience_s
        How long a frame waits, in seconds, for circuits that still read the one
        before. EPICS base sends only the newer of two arrays posted in quick
        succession; the camera rather slows down for a slow reader, and no frame is
        lost on the way out. With 0 it takes no care, as a real one does not.
        ``image1:DroppedArrays_RBV`` counts how often the patience ended.
    ports
        The ports to use; free ones are chosen when None.

    Raises
    ------
    ConfigurationError
        An option makes no sense.
    """

    def __init__(
        self,
        prefix: str = "SIM:",
        *,
        width: int = 1024,
        height: int = 1024,
        data_type: str = "UInt8",
        rate_hz: float = 200.0,
        acquire: bool = False,
        patience_s: float = 0.5,
        ports: Ports | None = None,
    ):
        if data_type not in DATA_TYPES:
            raise ConfigurationError(f"no camera of data type {data_type!r}: choose one of {', '.join(DATA_TYPES)}")
        if rate_hz <= 0:
            raise ConfigurationError(f"no camera takes {rate_hz} frames per second: give a rate above zero")
        dtype, _ = DATA_TYPES[data_type]
        # Eight pixels in a row have room for the number of the frame, whatever the height.
        if width < 8 or height < 1 or width * height > MAX_PIXELS:
            raise ConfigurationError(
                f"no camera has frames of {width} x {height} pixels: 8 x 1 at least, {MAX_PIXELS} pixels at most"
            )
        self.pattern = FramePattern(width, height, dtype)
        self.prefix = prefix
        settings: dict[str, Any] = {
            "prefix": prefix,
            "width": width,
            "height": height,
            "data_type": data_type,
            "period_s": 1 / rate_hz,
            "acquire": acquire,
            "patience_s": patience_s,
            "max_pixels": MAX_PIXELS,
            "probe": (probe := f"daqca-sim:{secrets.token_hex(8)}"),
        }
        super().__init__(python_module("daqca.sim.serve_camera"), settings, probe, ports=ports)

    @property
    def image(self) -> str:
        """The PV of the frames."""
        return f"{self.prefix}image1:ArrayData"
