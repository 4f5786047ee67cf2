"""What is in a recording, in short: for the command line and for people. Reads through `RecordingFile`."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from daqca.recording import finish, layout
from daqca.recording.reader import RecordingFile


def summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The numbers of a recording as a plain dictionary, fit for JSON.

    Keys: ``path``, ``complete``, ``error``, ``start``, ``end`` (ISO 8601), ``seconds``, ``bytes`` (of the file),
    ``pvs``, ``silent`` (names of PVs without any update), ``rows`` (of each table), the totals
    (``received``, ``written``, ``dropped``, ``missed``, ``interruptions``, ...), ``lost``, ``losses`` (lost updates by
    name), ``arrays`` (shape and type of each dataset) and ``metadata``.

    Raises
    ------
    RecordingError
        The file cannot be read.
    """
    with RecordingFile(path) as file:
        counts = file.counts
        lost = counts.lost
        arrays = {
            str(group.attrs["link"]): {"shape": list(group["data"].shape), "dtype": str(group["data"].dtype)}
            for group in finish.array_groups(file.h5)
        }
        return {
            "path": os.fspath(path),
            "complete": file.complete,
            "error": file.error,
            "start": layout.iso_time(file.start_time),
            "end": layout.iso_time(file.end_time),
            "seconds": (file.end_time - file.start_time) / 1e9,
            "bytes": os.path.getsize(path),
            "pvs": len(file.names),
            "silent": [file.names[i] for i in np.flatnonzero(counts.received == 0).tolist()],
            "rows": file.rows,
            **file.totals,
            "lost": file.lost,
            "losses": {file.names[i]: int(lost[i]) for i in np.flatnonzero(lost).tolist()},
            "arrays": arrays,
            "metadata": file.metadata,
        }


def describe(path: str | os.PathLike[str]) -> str:
    """A recording in a few lines of text."""
    s = summary(path)
    state = "complete" if s["complete"] else f"NOT COMPLETE{': ' + s['error'] if s['error'] else ''}"
    lines = [
        f"{s['path']}  {s['bytes'] / 1e6:.1f} MB, {state}",
        f"  {s['start']} to {s['end']} ({s['seconds']:.1f} s)",
        f"  {s['pvs']} PVs, {len(s['silent'])} of them without any update",
        f"  {s['received']} updates received, {s['written']} written, {s['lost']} lost"
        f" ({s['dropped']} in the recorder, {s['missed']} before it)",
        "  rows: " + ", ".join(f"{name} {rows}" for name, rows in s["rows"].items()),
    ]
    if s["interruptions"]:
        lines.append(f"  {s['interruptions']} interruptions of PVs whose worker was lost: what it held is not counted")
    lines += [
        f"  {name}: {' x '.join(map(str, a['shape']))} {a['dtype']}" for name, a in list(s["arrays"].items())[:20]
    ]
    lines += [f"  lost of {name}: {count}" for name, count in list(s["losses"].items())[:20]]
    return "\n".join(lines)
