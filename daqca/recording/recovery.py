"""Files whose writer was killed: made such that every HDF5 program opens them, and their counts set right.

`RecordingFile` reads most of them as they are; this is for everything else.
"""

from __future__ import annotations

import os
import time

import h5py
import numpy as np

from daqca.errors import RecordingError
from daqca.recording import finish, layout, superblock
from daqca.recording.reader import RecordingFile
from daqca.recording.space import require_space
from daqca.recording.store import open_for_writing, reason

QUIET = 5.0
"""A file that has not changed for so many seconds is not being written: its writer says every 2 s that it lives."""


def recover(path: str | os.PathLike[str], force: bool = False) -> finish.Tally:
    """Repair a recording whose writer was killed, in place.

    Takes off the mark that makes HDF5 refuse the file, cuts tables to the rows that are surely there,
    corrects the counts of each PV to what is in the file, and adds the time axes and the overview. The
    file stays marked as not complete. A file that was closed well is left alone, but for what is missing.

    Parameters
    ----------
    path
        The file.
    force
        Do not wait to see whether somebody still writes it.

    Returns
    -------
    What is in the file.

    Raises
    ------
    RecordingError
        It is no recording, is still being written, is damaged beyond this, or the disk is full.
    """
    path = os.fspath(path)
    try:
        if not force and (superblock.flags(path) or not _is_complete(path)):
            _require_quiet(path)
        superblock.mend(path)
        with open_for_writing(path) as file:
            if "daqca_layout" not in file.attrs:
                raise RecordingError(f"{path} is an HDF5 file, but not a recording")
            return _repair(file, path)
    except RecordingError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        raise RecordingError(f"cannot recover {path}: {reason(error)}") from error


def _is_complete(path: str) -> bool:
    # A recorder that waits for its first data has its file closed, and the file has no mark.
    with RecordingFile(path) as file:
        return file.complete


def _require_quiet(path: str) -> None:
    before = os.stat(path).st_mtime
    while (age := time.time() - before) < QUIET:
        time.sleep(min(0.5, max(0.01, QUIET - age)))
        if os.stat(path).st_mtime != before:
            raise RecordingError(f"cannot recover {path}: it is being written")


def _repair(file: h5py.File, path: str) -> finish.Tally:
    names = finish.read_names(file)
    found = finish.tally(file, len(names))
    if bool(file.attrs["complete"]):
        return found
    require_space(path, finish.beauty_bytes(found.rows[layout.FRAMES.name]))
    finish.shorten(file)
    pvs, state = file[layout.PVS], file[layout.STATE]
    # What was flushed of the index may be older or newer than the rows: never claim more than is there.
    received = np.maximum(pvs["received"][:], found.written)
    pvs["received"][:] = received
    pvs["written"][:] = found.written
    pvs["dropped"][:] = received - found.written
    totals = layout.named_totals(state["totals"][:].tolist())
    totals["received"] = int(received.sum())
    totals["written"] = int(found.written.sum())
    totals["dropped"] = totals["received"] - totals["written"]
    state["totals"][:] = [totals[name] for name in layout.TOTALS[: len(state["totals"])]]
    error = bytes(state["error"][0]).decode(errors="replace") or "the recorder was killed"
    state["error"][0] = layout.text(error)
    flushed, stopped = state["times"][:].tolist()
    finish.beautify(file, found)
    file.flush()
    finish.set_end(file, stopped or flushed, totals, complete=False)
    return found
