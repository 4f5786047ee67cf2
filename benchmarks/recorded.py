"""What a recording holds, judged by reading the HDF5 file itself and by nothing of daqca."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters that a recording may use
import numpy as np

from daqca.sim.frames import FramePattern

from .processes import Result


def judge_counters(path: Path, puts: Result) -> tuple[int, str]:
    """How many of the puts are not in the file, and what else is wrong with it.

    Each PV began at the value before the puts, which it had when the recording began, and was counted up by one.
    """
    with h5py.File(path) as file:
        slots, values = file["entry/scalars/slot"][()], file["entry/scalars/value"][()]
        names = file["entry/pvs/name"][()]
    first = puts["value"] - puts["puts"] // len(names)
    order = np.argsort(slots, kind="stable")
    slots, values = slots[order], values[order]
    same = slots[1:] == slots[:-1]
    steps = np.diff(values)[same]
    pvs, starts = np.unique(slots, return_index=True)
    lost = int((steps[steps > 1] - 1).sum()) + (len(names) - len(pvs)) * (puts["puts"] // len(names))
    lost += int((values[starts] - first).sum())
    ends = values[np.append(starts[1:], len(values)) - 1]
    lost += int((puts["value"] - ends).sum())
    if (steps < 1).any():
        return lost, f"{int((steps < 1).sum())} updates are out of order or come twice"
    return lost, ""


def judge_frames(path: Path, pattern: FramePattern, frames: int) -> tuple[int, str]:
    """How many of the frames 1 to `frames` are not in the file whole, and what else is wrong with it."""
    size = pattern.width * pattern.height
    found: list[int] = []

    def look(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim > 1 and item[:1].size in (0, size):
            found.extend(pattern.number_of(item[row]) for row in range(len(item)))

    with h5py.File(path) as file:
        try:
            file["entry/arrays"].visititems(look)
        except ValueError as error:
            return frames - len(found), str(error)
    series = found[1:] if found[:1] != [1] else found  # the first is what the camera showed before, if it did
    lost = frames - len(set(series) & set(range(1, frames + 1)))
    return lost, "" if series == sorted(set(series)) else "frames are out of order or come twice"
