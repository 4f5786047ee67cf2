"""A plot of a recording as a PNG, with Matplotlib (the extra ``plot``)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from daqca.recording.reader import RecordingFile

POINTS = 20_000
"""Points of one curve; longer series are thinned out."""


def plot(path: str | os.PathLike[str], image: str | os.PathLike[str], names: Sequence[str] | None = None) -> list[str]:
    """Plot scalar PVs over time, and the last array of array PVs, to a PNG file.

    Parameters
    ----------
    path
        The recording.
    image
        The PNG to make.
    names
        The PVs; by default the first six numeric and the first two array PVs that have data.

    Returns
    -------
    The PVs that were plotted.

    Raises
    ------
    ImportError
        Matplotlib is not installed.
    RecordingError, KeyError
        The file cannot be read; a PV is not in it.
    """
    from matplotlib.figure import Figure

    with RecordingFile(path) as file:
        candidates = list(names) if names is not None else _interesting(file)
        curves = {n: s for n, s in file.all_scalars(candidates).items() if len(s.times)}
        frames = {n: f for n in candidates if n not in curves and len(f := file.frames(n))}
        if names is None:
            curves, frames = dict(list(curves.items())[:6]), dict(list(frames.items())[:2])
        columns = bool(curves) + len(frames)
        figure = Figure(figsize=(5.5 * max(1, columns), 4.5), layout="constrained")
        axes = figure.subplots(1, max(1, columns), squeeze=False)[0]
        if curves:
            for name, series in curves.items():
                every = -(-len(series.times) // POINTS)
                seconds = (series.times[::every] - file.start_time) / 1e9
                axes[0].plot(seconds, series.values[::every], ".-", markersize=3, linewidth=0.8, label=name)
            axes[0].set(xlabel="time since start (s)", ylabel="value", title="scalars")
            axes[0].legend(fontsize="small")
        for axis, (name, series_of_arrays) in zip(axes[bool(curves) :], frames.items(), strict=False):
            last = np.asarray(series_of_arrays[-1])
            if last.ndim == 2:
                figure.colorbar(axis.imshow(last, cmap="viridis"), ax=axis)
            elif last.dtype.kind != "S":
                axis.plot(last.reshape(-1))
            axis.set_title(f"{name}\nlast of {len(series_of_arrays)}")
        figure.savefig(os.fspath(image), dpi=110)
        return [*curves, *frames]


def _interesting(file: RecordingFile) -> list[str]:
    """PVs with updates: some of them array PVs, some not."""
    counts = file.counts.written
    arrays = file.h5["entry/pvs/native_count"][:] > 1
    return [
        file.names[slot]
        for mask, most in ((~arrays, 30), (arrays, 2))
        for slot in np.flatnonzero(mask & (counts > 0))[:most].tolist()
    ]
