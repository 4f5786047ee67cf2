"""Reading recordings: finished ones, those that still grow, and those whose writer was killed.

Never changes a file; see `daqca.recording.recovery` for that.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5f, h5p

from daqca.errors import RecordingError
from daqca.events import Kind, Reason
from daqca.reading import decode_text
from daqca.recording import finish, layout, superblock
from daqca.recording.series import Frames, RecordedEvent, Series
from daqca.recording.stats import PVCounts

PATIENCE = 3.0
"""Seconds to wait for a writer that has the file for itself for a moment."""


class RecordingFile:
    """A recording, opened to read.

    While the file grows it shows what was flushed until it was opened; `refresh` brings it up to date.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    RecordingError
        There is no such file, it is not a recording, or it was left in a state that needs
        `daqca.recording.recover`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._file: Any = None
        self.refresh()

    def refresh(self) -> None:
        """Show what was flushed until now. `Frames` that were handed out before are of no more use."""
        end = time.monotonic() + PATIENCE
        while True:
            self.close()
            self._file = _open(self.path)
            try:
                self._load()
            except BaseException:
                self.close()
                raise
            # A dataset that was added since lies beyond what HDF5 takes for the end of the file.
            if self._found_all or time.monotonic() > end:
                return
            time.sleep(0.01)

    def _load(self) -> None:
        attributes = self._file.attrs
        if "daqca_layout" not in attributes:
            raise RecordingError(f"{self.path} is an HDF5 file, but not a recording")
        version = int(attributes["daqca_layout"])
        if version > layout.LAYOUT_VERSION:
            raise RecordingError(f"{self.path} has layout {version}, newer than this daqca knows: update daqca")
        self.names: list[str] = finish.read_names(self._file)
        self._slots = {name: slot for slot, name in enumerate(self.names)}
        self._rows = finish.table_rows(self._file)  # before the segments: those that rows need are then there
        self._segments: list[h5py.Dataset] = []
        self._found_all = False
        with contextlib.suppress(OSError, KeyError, RuntimeError, ValueError):
            self._segments.extend(group["data"] for group in finish.array_groups(self._file))
            self._found_all = True

    @property
    def h5(self) -> h5py.File:
        """The open file, for what is not here."""
        return self._file

    # How it stands

    @property
    def complete(self) -> bool:
        """Whether the recording was stopped, and its file read back and found to hold what was counted."""
        return bool(self._file.attrs["complete"])

    @property
    def error(self) -> str:
        """What ended the recording early; empty if nothing did, or if nobody could write it down."""
        return bytes(self._file[layout.STATE]["error"][0]).decode(errors="replace")

    @property
    def start_time(self) -> int:
        """When the recording began, ns since the Unix epoch, by the recorder's clock."""
        return int(self._file.attrs["start_time_ns"])

    @property
    def end_time(self) -> int:
        """When it was stopped, or last flushed, ns since the Unix epoch."""
        flushed, stopped = self._file[layout.STATE]["times"][:].tolist()
        return int(stopped or flushed)

    @property
    def totals(self) -> dict[str, int]:
        """The counts over all PVs, as of the last flush: see `layout.TOTALS`."""
        return layout.named_totals(self._file[layout.STATE]["totals"][:].tolist())

    @property
    def rows(self) -> dict[str, int]:
        """The rows of each table."""
        return dict(self._rows)

    @property
    def counts(self) -> PVCounts:
        """The counts of each PV, as of the last flush."""
        group = self._file[layout.PVS]
        received, written, dropped, missed = (group[n][:] for n in ("received", "written", "dropped", "missed"))
        interruptions = group["interruptions"][:] if "interruptions" in group else np.zeros_like(missed)
        return PVCounts(list(self.names), received, written, dropped, missed, interruptions)

    @property
    def lost(self) -> int:
        """Updates that are not in the file, as far as the file knows: see also `interruptions`."""
        totals = self.totals
        return totals["dropped"] + totals["missed"]

    @property
    def interruptions(self) -> list[RecordedEvent]:
        """When the worker of which PV was lost. What it had not handed on is missing, and not counted in `lost`."""
        return [e for e in self.events if e.kind == Kind.DISCONNECTED and e.code == Reason.WORKER_LOST]

    @property
    def metadata(self) -> dict[str, Any]:
        """What the user gave to keep with the data."""
        return _plain(self._file[layout.USER])

    def units(self, name: str) -> str:
        """The engineering units of a PV; empty if not known."""
        return decode_text(bytes(self._file[layout.PVS]["units"][self._slot(name)]))

    # Data

    def scalars(self, name: str) -> Series:
        """The numeric updates of a PV, as float64; of a string PV, its strings.

        Reads the whole table: for several PVs use `all_scalars`.

        Raises
        ------
        KeyError
            The PV was not recorded.
        """
        series = self.all_scalars([name])[name]
        return series if len(series.times) else self._series(layout.STRINGS, [name])[name]

    def all_scalars(self, names: Sequence[str] | None = None) -> dict[str, Series]:
        """The numeric updates of several PVs (all by default), reading the table once."""
        return self._series(layout.SCALARS, self.names if names is None else names)

    def strings(self, name: str) -> Series:
        """The string updates of a PV; ``values`` is an array of `str`."""
        return self._series(layout.STRINGS, [name])[name]

    def frames(self, name: str) -> Frames:
        """The array updates of a PV.

        Raises
        ------
        KeyError
            The PV was not recorded.
        """
        columns = self._columns(layout.FRAMES, [self._slot(name)])
        limits = np.array([*(data.shape[0] for data in self._segments), 0], np.uint64)
        limit = limits[np.minimum(columns["segment"], len(limits) - 1)]
        there = (columns["segment"] == layout.NO_SEGMENT) | (columns["row"] < limit)
        missing = int(len(there) - np.count_nonzero(there))
        return Frames({key: column[there] for key, column in columns.items()}, self._segments, missing)

    @property
    def events(self) -> list[RecordedEvent]:
        """Connection changes, access changes and losses, in order."""
        columns = self._columns(layout.EVENTS, None)
        found = []
        for slot, when, kind, code, dbr_type, count, origin in zip(
            *(columns[name].tolist() for name, _ in layout.EVENTS.columns), strict=True
        ):
            name = self.names[slot] if slot < len(self.names) else ""
            found.append(RecordedEvent(name, when, Kind(kind), code, dbr_type, count, layout.Origin(origin)))
        return found

    def _series(self, spec: layout.TableSpec, names: Sequence[str]) -> dict[str, Series]:
        slots = [self._slot(name) for name in names]
        columns = self._columns(spec, slots)
        if spec is layout.STRINGS:
            columns["value"] = np.array([decode_text(v) for v in columns["value"].tolist()], dtype=str)
        order = np.argsort(columns["slot"], kind="stable")
        ordered = columns.pop("slot")[order]
        columns = {key: column[order] for key, column in columns.items()}
        wanted = np.array(slots, ordered.dtype)  # of one type, else NumPy converts the whole column
        starts, ends = (np.searchsorted(ordered, wanted, side).tolist() for side in ("left", "right"))
        result = {}
        for name, start, end in zip(names, starts, ends, strict=True):
            result[name] = Series(*(columns[key][start:end] for key in ("time", "value", "status", "severity")))
        return result

    def _columns(self, spec: layout.TableSpec, slots: Sequence[int] | None) -> dict[str, npt.NDArray[Any]]:
        """The rows of a table that belong to these slots (all if None), column by column."""
        group = self._file[spec.path]
        wanted = None
        if slots is not None and len(slots) < len(self.names):
            wanted = np.zeros(len(self.names) + 1, np.bool_)
            wanted[list(slots)] = True
        parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name, _ in spec.columns}
        for block in finish.blocks(self._rows[spec.name]):
            chosen: npt.NDArray[Any] | slice = slice(None)
            if wanted is not None:
                chosen = np.flatnonzero(wanted[np.minimum(group["slot"][block], len(self.names))])
                if not len(chosen):
                    continue
            for name in parts:
                parts[name].append(group[name][block][chosen])
        return {name: np.concatenate(parts[name]) if parts[name] else np.zeros(0, code) for name, code in spec.columns}

    def _slot(self, name: str) -> int:
        try:
            return self._slots[name]
        except KeyError:
            raise KeyError(f"{name} is not in {self.path}") from None

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __enter__(self) -> RecordingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _access() -> h5p.PropFAID:
    """Access properties that share nothing with other handles of this process to the same file.

    HDF5 makes one file of all handles that a process has to it through the same driver, and they must
    all be for the same mode. The log driver (which logs nothing here) is the plain one under another name: so
    a recording can be read in the process that records it, and beside the user's own handles.
    """
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_fapl_log(os.devnull.encode(), 0, 0)
    access.set_file_locking(False, True)
    return access


def _open(path: str) -> h5py.File:
    """Open a file that may be in the hands of its writer at this moment."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return h5py.File(h5f.open(os.fsencode(path), h5f.ACC_RDONLY | h5f.ACC_SWMR_READ, _access()))
        except FileNotFoundError:
            raise RecordingError(f"cannot read {path}: there is no such file") from None
        except OSError as error:
            if not superblock.flags(path) or time.monotonic() > end:
                if superblock.flags(path):
                    raise RecordingError(
                        f"cannot read {path}: its writer is adding to it, or was killed while it did;"
                        f" if nobody records to it any more, daqca.recording.recover({path!r}) puts that right"
                    ) from error
                raise RecordingError(f"cannot read {path}: {error}") from error
        time.sleep(0.01)


def _plain(group: h5py.Group) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            found[name] = _plain(item)
        else:
            value = item[()]
            if isinstance(value, bytes):
                value = value.decode(errors="replace")
            found[name] = value.item() if isinstance(value, np.generic) else value
    return found
