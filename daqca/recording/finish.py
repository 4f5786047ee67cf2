"""The end of a recording: rows counted by reading the file back, and what makes a file pleasant to open.

Works on a file that nobody writes any more; used by the stop of a recording and by the recovery of a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from daqca.recording import layout

BLOCK = 1 << 20
"""Rows read at a time."""

MAX_AXIS_ROWS = 20_000_000
"""With more arrays than this, they get no time axes: the frames table has the times in any case."""

OVERVIEW_PVS = 8
OVERVIEW_POINTS = 5000
OVERVIEW_BLOCKS = 64
"""The overview reads this many blocks of `OVERVIEW_CHUNKS` chunks at most, evenly spread over a long recording."""
OVERVIEW_CHUNKS = 16

Step = Callable[[int], None]
"""Called with the number of rows just read; may raise to stop."""


class DeadlineError(Exception):
    """Reading the file back took longer than allowed."""


@dataclass
class Tally:
    """What is in a file, counted by reading it."""

    rows: dict[str, int]
    """Rows of each table that count."""
    written: npt.NDArray[np.uint64]
    """Updates of each PV, shape (pvs,)."""
    broken: int = 0
    """Rows of the frames table whose array is not in the file."""
    strangers: int = 0
    """Rows with a slot that is no PV's."""


def table_rows(file: h5py.File) -> dict[str, int]:
    """How many rows of each table are surely there: of every column, and not more than was committed.

    The committed rows count while the file is written and after its writer was killed; they are then
    right, and the lengths of the datasets may be ahead of their data.
    """
    committed = file[layout.STATE]["rows"][:]
    return {
        spec.name: min(int(committed[i]), *(file[spec.path][name].shape[0] for name, _ in spec.columns))
        for i, spec in enumerate(layout.TABLES)
    }


def blocks(rows: int) -> Iterator[slice]:
    """Slices of `BLOCK` rows."""
    for start in range(0, rows, BLOCK):
        yield slice(start, min(start + BLOCK, rows))


def array_groups(file: h5py.File) -> Iterator[h5py.Group]:
    """The groups of arrays, by segment number, whether anything links to them or not."""
    references = file[layout.SEGMENTS]
    for start in range(0, len(references), 128):
        for reference in references[start : start + 128]:
            if not reference:
                return
            yield file[reference]


def segments(file: h5py.File) -> list[h5py.Dataset]:
    """The datasets of arrays, by segment number."""
    return [group["data"] for group in array_groups(file)]


def link_arrays(file: h5py.File) -> None:
    """Link the groups that are found by reference only: see `Store.add_segments`."""
    for group in array_groups(file):
        if layout.ITSELF in group:
            path = f"{layout.ARRAYS}/{group.attrs['link']}"
            if path not in file:
                file[path] = group
            del group[layout.ITSELF]


def tally(file: h5py.File, size: int, step: Step = lambda rows: None) -> Tally:
    """Count the updates of each of `size` PVs in a file."""
    rows = table_rows(file)
    result = Tally(rows, np.zeros(size, np.uint64))
    limits = np.array([*(data.shape[0] for data in segments(file)), 0], np.uint64)
    for spec in (layout.SCALARS, layout.STRINGS, layout.FRAMES):
        group = file[spec.path]
        for block in blocks(rows[spec.name]):
            slots = group["slot"][block]
            if spec is layout.FRAMES:
                segment, row = group["segment"][block], group["row"][block]
                there = (segment == layout.NO_SEGMENT) | (row < limits[np.minimum(segment, len(limits) - 1)])
                result.broken += int(len(slots) - np.count_nonzero(there))
                slots = slots[there]
            counts = np.bincount(slots[slots < size], minlength=size)
            result.strangers += int(len(slots) - counts.sum())
            result.written += counts.astype(np.uint64)
            step(block.stop - block.start)
    return result


def shorten(file: h5py.File) -> None:
    """Let the columns of a table end at the last row that is in all of them, and arrays at the last that has a row."""
    counted = table_rows(file)
    for name, rows in counted.items():
        for column in file[f"{layout.ENTRY}/{name}"].values():
            if column.shape[0] > rows:
                column.resize((rows,))
    arrays = segments(file)
    ends = np.zeros(len(arrays) + 1, np.uint64)
    table = file[layout.FRAMES.path]
    for block in blocks(counted[layout.FRAMES.name]):
        numbers = np.minimum(table["segment"][block], len(arrays))
        np.maximum.at(ends, numbers, table["row"][block] + np.uint64(1))
    for number, data in enumerate(arrays):
        if data.shape[0] > ends[number]:
            data.resize(int(ends[number]), axis=0)


def beauty_bytes(frames: int) -> int:
    """What `beautify` may add to a file with so many rows of arrays."""
    return 8 * frames + OVERVIEW_PVS * (16 * OVERVIEW_POINTS + (1 << 14)) + (1 << 18)


def beautify(file: h5py.File, result: Tally) -> None:
    """Add what viewers like: links and time axes of arrays, an overview of some scalars, what to plot first."""
    start = int(file.attrs["start_time_ns"])
    link_arrays(file)
    images = _time_axes(file, result.rows[layout.FRAMES.name], start)
    plotted = _overview(file, result, start)
    entry = file[layout.ENTRY]
    if images is not None and (images[1] == "image" or not plotted):
        entry.attrs.modify("default", f"arrays/{images[0]}")
        file[layout.ARRAYS].attrs["default"] = images[0]
    elif plotted:
        entry.attrs.modify("default", "overview")


def _seconds(group: h5py.Group, times: npt.NDArray[np.int64], start: int) -> None:
    axis = group.create_dataset("time", data=(times - start) / 1e9)
    axis.attrs.update(
        units="s",
        start=layout.iso_time(start),
        long_name="time (s)",
        description="seconds since the start of recording",
    )


def _time_axes(file: h5py.File, rows: int, start: int) -> tuple[str, str] | None:
    """Give each PV's arrays a time axis; returns the group to show first and what it is."""
    first: tuple[str, str] | None = None
    if not 0 < rows <= MAX_AXIS_ROWS:
        return None
    table = file[layout.FRAMES.path]
    segment, times, row = (table[name][:rows] for name in ("segment", "time", "row"))
    order = np.argsort(segment, kind="stable")
    numbers, starts = np.unique(segment[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    parts = {number: order[a:b] for number, a, b in zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True)}
    for number, group in enumerate(array_groups(file)):
        data = group["data"]
        own = parts.get(number)
        if own is None or "time" in group or not data.attrs["pv"]:
            continue
        own = own[row[own] < data.shape[0]]
        axis = np.zeros(data.shape[0], np.int64)
        axis[row[own]] = times[own]
        _seconds(group, axis, start)
        group.attrs["axes"] = ["time", *["."] * (data.ndim - 1)]
        kind = data.attrs["interpretation"]
        if first is None or (kind == "image" and first[1] != "image"):
            first = (group.attrs["link"], kind)
    return first


def _overview(file: h5py.File, result: Tally, start: int) -> int:
    """Small curves of the first scalar PVs; returns how many there are."""
    rows = result.rows[layout.SCALARS.name]
    group = file[layout.OVERVIEW]
    if not rows or len(group):
        return len(group)
    table = file[layout.SCALARS.path]
    names = file[layout.PVS]["name"].asstr()
    spread = _spread(rows)
    slots = np.concatenate([table["slot"][part] for part in spread])
    times = np.concatenate([table["time"][part] for part in spread])
    values = np.concatenate([table["value"][part] for part in spread])
    taken: set[str] = set()
    for slot in np.unique(slots)[:OVERVIEW_PVS].tolist():
        own = np.flatnonzero(slots == slot)
        every = -(-len(own) // OVERVIEW_POINTS)
        own = own[::every]
        pvname = names[slot]
        name = layout.link_name(pvname, taken)
        plot = group.create_group(name)
        plot.attrs.update(NX_class="NXdata", signal="value", axes=["time"], title=pvname, every=every)
        plot.create_dataset("value", data=values[own])
        _seconds(plot, times[own], start)
        group.attrs.setdefault("default", name)
    return len(taken)


def _spread(rows: int) -> Sequence[slice]:
    """Parts of a table: all of it, or evenly spread ones if it is long."""
    size = OVERVIEW_CHUNKS * layout.SCALARS.chunk
    count = -(-rows // size)
    if count <= OVERVIEW_BLOCKS:
        return [slice(0, rows)]
    chosen = np.unique(np.linspace(0, count - 1, OVERVIEW_BLOCKS).astype(int)).tolist()
    return [slice(i * size, min((i + 1) * size, rows)) for i in chosen]


def set_end(file: h5py.File, end: int, totals: dict[str, int], complete: bool) -> None:
    """Overwrite the end time, the totals and whether all is there."""
    entry = file[layout.ENTRY]
    entry["end_time"][()] = layout.iso_time(end)
    entry["duration"][()] = (end - int(file.attrs["start_time_ns"])) / 1e9
    for name, value in {**totals, "end_time_ns": end}.items():
        file.attrs.modify(name, value)
    file.flush()
    file.attrs.modify("complete", complete)


def deadline(seconds_from_now: float, step: Step) -> Step:
    """A step that raises `DeadlineError` when the time is up."""
    end = time.monotonic() + seconds_from_now

    def checked(rows: int) -> None:
        step(rows)
        if time.monotonic() > end:
            raise DeadlineError

    return checked


def read_names(file: h5py.File) -> list[str]:
    """The PVs, by slot."""
    names: Any = file[layout.PVS]["name"].asstr()[:]
    return [str(name) for name in names]
