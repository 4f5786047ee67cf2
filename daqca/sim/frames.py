"""The frames of the simulated camera: a pattern that moves, numbered, and complete or not at a glance.

Made here by the camera process, checked here by whoever received them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.integer[Any]]
# The data types of areaDetector that the camera can deliver, and the field type of their waveform.
DATA_TYPES: dict[str, tuple[np.dtype[Any], str]] = {
    "Int8": (np.dtype(np.int8), "CHAR"),
    "UInt8": (np.dtype(np.uint8), "CHAR"),
    "Int16": (np.dtype(np.int16), "SHORT"),
    "UInt16": (np.dtype(np.uint16), "SHORT"),
    "Int32": (np.dtype(np.int32), "LONG"),
    "UInt32": (np.dtype(np.uint32), "LONG"),
}
_NUMBER = struct.Struct(">Q")
_STEPS = 256


class FramePattern:
    """The frames of one size and type.

    Pixel (y, x) of frame ``n`` is ``(x + y + n) % 256``: a ramp along the
    diagonal that moves up by a row with each frame. The first eight bytes, as
    they are on the wire (big-endian), are the number ``n`` instead.

    Parameters
    ----------
    width, height
        Pixels; eight bytes at least in all.
    dtype
        An integer type.
    """

    def __init__(self, width: int, height: int, dtype: npt.DTypeLike = np.uint8):
        self.width, self.height, self.dtype = width, height, np.dtype(dtype)
        self._stamped = _NUMBER.size // self.dtype.itemsize
        if width < 1 or height < 1 or width * height < self._stamped:
            raise ValueError(f"a frame of {width} x {height} pixels has no room for its number")
        # Enough rows for every step: each frame is a window on them, made without copying.
        rows = np.arange(height + _STEPS)[:, np.newaxis] + np.arange(width)
        self._ramp: Frame = (rows % _STEPS).astype(self.dtype).ravel()

    @property
    def nbytes(self) -> int:
        """Bytes of a frame."""
        return self.width * self.height * self.dtype.itemsize

    @contextmanager
    def lend(self, number: int) -> Iterator[Frame]:
        """Lend the pixels of a frame, shape (height * width,), valid until the context ends."""
        frame = self._window(number)
        hidden = frame[: self._stamped].copy()
        frame[: self._stamped] = self._stamp(number)
        try:
            yield frame
        finally:
            # The next window shows these pixels again.
            frame[: self._stamped] = hidden

    def frame(self, number: int) -> Frame:
        """Return a frame of its own, shape (height, width)."""
        with self.lend(number) as pixels:
            frame: Frame = pixels.reshape(self.height, self.width).copy()
            return frame

    def number_of(self, pixels: npt.NDArray[Any] | bytes) -> int:
        """Check a received frame and return its number.

        Parameters
        ----------
        pixels
            The frame, of any shape, in this machine's byte order or any other;
            or the bytes of the wire.

        Raises
        ------
        ValueError
            It is not one whole frame of this camera; the message says how.
        """
        wire = self.dtype.newbyteorder(">")
        flat = np.frombuffer(pixels, wire) if isinstance(pixels, bytes) else pixels.ravel()
        if flat.size != self.width * self.height:
            raise ValueError(f"{flat.size} pixels instead of {self.width} x {self.height}")
        # Channel Access has no unsigned short and long: a bit pattern is what counts.
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=False).view(self.dtype)
        (number,) = _NUMBER.unpack(flat[: self._stamped].astype(wire).tobytes())
        wrong = int(np.count_nonzero(flat[self._stamped :] != self._window(number)[self._stamped :]))
        if wrong:
            raise ValueError(f"{wrong} of {flat.size} pixels are not those of frame {number}: it is torn or mixed")
        return int(number)

    def _window(self, number: int) -> Frame:
        start = number % _STEPS * self.width
        return self._ramp[start : start + self.width * self.height]

    def _stamp(self, number: int) -> Frame:
        return np.frombuffer(_NUMBER.pack(number), self.dtype.newbyteorder(">")).astype(self.dtype)
