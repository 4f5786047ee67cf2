"""The picture of the demo: how fast the snapshots were, what was recorded, and a frame of the detector.

The only module of the command line that imports Matplotlib.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from daqca.reading import TYPE_NAMES
from daqca.recording import RecordingFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from daqca.cli.demo import Results

_INK, _PAPER, _FAINT = "#1b2733", "#ffffff", "#c9d3dc"
_BLUE, _ORANGE, _TEAL = "#2b6cb0", "#dd6b20", "#2c9c8f"
# As operators' screens have them: no alarm, minor, major, invalid.
_SEVERITIES = (("no alarm", "#48a868"), ("minor", "#e8c33c"), ("major", "#d64545"), ("invalid", "#b65fcf"))
_STYLE: Any = {
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": _PAPER,
}


def draw(path: Path, recording: Path, results: Results) -> None:
    """Draw the results to a PNG.

    Parameters
    ----------
    path
        The PNG to make; one that exists is replaced.
    recording
        The recording of the demo.
    results
        What it measured.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE), RecordingFile(recording) as file:
        figure = Figure(figsize=(13.5, 8.4), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
        grid = figure.add_gridspec(2, 6)
        _draw_rates(figure.add_subplot(grid[0, :4]), file, results)
        _draw_frame(figure.add_subplot(grid[0, 4:]), file, results)
        _draw_cold_and_warm(figure.add_subplot(grid[1, :2]), results)
        _draw_times(figure.add_subplot(grid[1, 2:4]), results)
        _draw_types(figure.add_subplot(grid[1, 4:]), results)
        figure.savefig(path, dpi=110)


def _image(file: RecordingFile) -> str:
    return next(name for name in file.names if name.endswith("ArrayData"))


def _draw_rates(axes: Axes, file: RecordingFile, results: Results) -> None:
    """Updates and frames per second over the recording."""
    stamps = file.h5["entry/scalars/time"][:]
    frames = file.frames(_image(file))
    frame_stamps = frames.times[frames.lengths > 0]
    # From the first frame on, when all is under way.
    begin = int(frame_stamps[0]) if len(frame_stamps) else file.start_time
    # Whole bins only: the rate of a part of one would look like a drop.
    bins = np.arange(0.0, (max(stamps.max(initial=begin), begin + 5e8) - begin) / 1e9, 0.25)
    middle = (bins[:-1] + bins[1:]) / 2
    scalars = np.histogram((stamps - begin) / 1e9, bins)[0] / 0.25
    pictures = np.histogram((frame_stamps - begin) / 1e9, bins)[0] / 0.25
    axes.fill_between(middle, scalars / 1e3, color=_BLUE, alpha=0.25, linewidth=0)
    axes.plot(middle, scalars / 1e3, color=_BLUE, linewidth=1.8)
    axes.set(xlabel="seconds since the first frame", xlim=(0, middle[-1] if len(middle) else 1))
    axes.set_ylabel("thousand scalar updates per second", color=_BLUE)
    axes.set_ylim(0, max(1.0, scalars.max(initial=0) / 1e3 * 1.25))
    other: Any = axes.twinx()
    other.plot(middle, pictures, color=_ORANGE, linewidth=1.8)
    other.set_ylabel("frames per second", color=_ORANGE)
    other.set_ylim(0, max(1.0, pictures.max(initial=0) * 1.6))
    axes.set_title(
        f"Recorded to HDF5: {results.check.scalars:,} scalar updates, {results.check.frames:,} frames, "
        f"{results.check.lost:,} lost"
    )


def _draw_frame(axes: Axes, file: RecordingFile, results: Results) -> None:
    """The last frame of the detector."""
    frames = file.frames(_image(file))
    last = int(np.flatnonzero(frames.lengths > 0)[-1])
    image = np.asarray(frames[last])
    axes.imshow(image, cmap="magma", origin="lower", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(f"The last of {results.check.frames:,} frames")
    axes.set_xlabel(f"{image.shape[1]} x {image.shape[0]} pixels, each of them checked")


def _draw_cold_and_warm(axes: Axes, results: Results) -> None:
    """Bars of the times of the snapshots."""
    ways = list(results.snapshots.cold)
    labels, times, colours = [], [], []
    for way in reversed(ways):
        for kind, seconds, colour in (
            ("warm", float(np.median(results.snapshots.warm[way])), _TEAL),
            ("cold", results.snapshots.cold[way], _BLUE),
        ):
            labels.append(f"{kind}, {way}")
            times.append(seconds * 1e3)
            colours.append(colour)
    bars = axes.barh(labels, times, color=colours, height=0.62)
    axes.bar_label(bars, [f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" for value in times], padding=4)
    axes.set(xlabel="milliseconds", xlim=(0, max(times) * 1.25))
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"Snapshots of {len(results.snapshots.last):,} PVs")


def _draw_times(axes: Axes, results: Results) -> None:
    """How the times of the warm snapshots are spread."""
    times = {way: np.array(seconds) * 1e3 for way, seconds in results.snapshots.warm.items()}
    high = max(float(np.percentile(values, 97)) for values in times.values()) * 1.15
    bins = np.linspace(0, high, 40)
    for (way, values), colour in zip(times.items(), (_TEAL, _ORANGE), strict=False):
        axes.hist(np.minimum(values, high), bins.tolist(), color=colour, alpha=0.75, label=way)
    axes.set(xlabel="milliseconds", ylabel="snapshots")
    axes.legend(frameon=False)
    axes.set_title("Warm snapshots, one by one")


def _draw_types(axes: Axes, results: Results) -> None:
    """What the snapshot holds: PVs of each type, by alarm severity."""
    snapshot = results.snapshots.last
    types = np.arange(len(TYPE_NAMES))
    base = np.zeros(len(TYPE_NAMES))
    for severity, (label, colour) in enumerate(_SEVERITIES):
        chosen = snapshot.native_type[snapshot.ok & (snapshot.severity == severity)]
        counts = np.bincount(chosen, minlength=256)[: len(TYPE_NAMES)].astype(float)
        if counts.any():
            axes.bar(types, counts, bottom=base, color=colour, label=label, width=0.7)
        base += counts
    axes.set_xticks(types, [name.lower() for name in TYPE_NAMES], rotation=30)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("PVs")
    axes.legend(frameon=False)
    axes.set_title("What they are, and their alarms")
