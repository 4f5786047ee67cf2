"""The recording of the demo read back: is each number of each counter there, and each pixel of each frame?

The counters of the simulated IOC go up by one with each update, and its frames are numbered: what is missing shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from daqca.recording import RecordingFile
from daqca.sim.frames import FramePattern


@dataclass(frozen=True)
class Check:
    """What is in a recording, counted value by value."""

    scalars: int
    """Updates of counters."""
    scalars_lost: int
    """Numbers that a counter skipped."""
    seconds: float
    """From the first to the last of them, by the IOC's clock."""
    frames: int
    frames_lost: int
    """Frames that the camera made and that are missing here, or are not whole."""
    frame_seconds: float

    @property
    def lost(self) -> int:
        """All that is missing."""
        return self.scalars_lost + self.frames_lost


def check(path: str, image: str, counters: Sequence[str], pattern: FramePattern, made: int) -> Check:
    """Read a recording and count what is missing.

    Parameters
    ----------
    path
        The recording.
    image
        The PV of the frames.
    counters
        The PVs that count up by one.
    pattern
        What the frames should look like.
    made
        How many frames the camera has made.
    """
    scalars = skipped = 0
    first, last = np.iinfo(np.int64).max, 0
    with RecordingFile(path) as file:
        for series in file.all_scalars(counters).values():
            scalars += len(series.values)
            steps = np.diff(series.values)
            # A step back counts too: nothing in this file may be out of order.
            skipped += int(np.abs(steps - 1).sum())
            if len(series.times):
                first, last = min(first, int(series.times[0])), max(last, int(series.times[-1]))
        frames = file.frames(image)
        # Subscribing brings the frame that was there before, or none: an array without elements.
        numbers, broken, times = [], 0, []
        for i in np.flatnonzero(frames.lengths > 0).tolist():
            try:
                numbers.append(pattern.number_of(frames[i]))
                times.append(int(frames.times[i]))
            except ValueError:
                broken += 1
    gaps = int(np.abs(np.diff(numbers) - 1).sum()) if len(numbers) > 1 else 0
    frames_lost = max(gaps + broken, abs(made - len(numbers)))
    frame_seconds = (times[-1] - times[0]) / 1e9 if len(times) > 1 else 0.0
    return Check(scalars, skipped, max(0, last - first) / 1e9, len(numbers), frames_lost, frame_seconds)
