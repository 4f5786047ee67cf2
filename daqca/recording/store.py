"""The HDF5 file of a recording while it is written: made, flushed, given new datasets, closed.

Every method is called by the writer thread, and only here is HDF5 asked to write while others read (SWMR).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5f, h5i

from daqca.errors import RecordingError
from daqca.recording import layout
from daqca.recording.arrays import SHARED, PipelineChunks, Planner, Segment
from daqca.recording.blank import Places, deflate_options, fill
from daqca.recording.columns import Chunks, Table
from daqca.recording.ledger import Ledger
from daqca.recording.options import Options
from daqca.recording.space import require_space

_log = logging.getLogger(__name__)


def open_for_writing(path: str) -> h5py.File:
    """Open a recording to write, not yet for others to read.

    Without file locks: HDF5's readers keep a lock as long as they read, and would keep us out.
    """
    return h5py.File(path, "r+", libver=layout.LIBVER, locking=False)


class Store:
    """One recording's file.

    Parameters
    ----------
    path
        Where; must not exist, unless the options say to overwrite.
    names
        The PVs, by slot.
    options
        See `Options`.

    Raises
    ------
    RecordingError
        The file exists, or cannot be made there; nothing is left behind.
    """

    def __init__(self, path: str, names: Sequence[str], options: Options):
        self.path = path
        self.names = names
        self.options = options
        packed = options.compression is not None
        self.tables = [Table(spec, packed) for spec in layout.TABLES]
        self.scalars, self.strings, self.frames, self.events = self.tables
        self.planner = Planner(names, options.shapes, packed, options.frame_compression)
        self.start_time = time.time_ns()
        self.reopened = 0
        """How often the file had to be opened again for new datasets."""
        self.flushes = 0
        self._taken: set[str] = set()
        self._places: Places = {}
        self.began = float("inf")
        """When the first data came, by the monotonic clock."""
        self.is_shared = False
        self._hurried = False
        self._file: Any = None
        self._fd = -1
        self._create()

    @property
    def handle_path(self) -> str:
        """A path to the file that stays right if it is moved or deleted, where the system has one."""
        path = f"/proc/self/fd/{self._fd}"
        return path if self._fd >= 0 and os.path.exists(path) else self.path

    @property
    def bytes_written(self) -> int:
        """Bytes of data handed to HDF5."""
        return sum(t.bytes for t in self.tables) + sum(s.bytes for s in self.planner.segments)

    # Making the file

    def _create(self) -> None:
        replaces = os.path.lexists(self.path)
        if replaces and not self.options.overwrite:
            raise RecordingError(
                f"cannot record to {self.path}: it exists already; choose another name or overwrite=True"
            )
        if os.path.isdir(self.path):
            raise RecordingError(f"cannot record to {self.path}: it is a directory")
        # An older file goes only when the new one is there.
        target = f"{self.path}.{os.getpid()}.new" if replaces else self.path
        try:
            self._file = h5py.File(target, "x", libver=layout.LIBVER, locking=False)
            self._fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)
            self.require_space(0)
            self._places = fill(self._file, self.path, self.names, self.options, self.tables, self.start_time)
            self._close_file()
            if replaces:
                os.replace(target, self.path)
        except Exception as error:
            self.abandon()
            if not isinstance(error, FileExistsError):
                with contextlib.suppress(OSError):
                    os.unlink(target)
            raise RecordingError(f"cannot record to {self.path}: {reason(error)}") from error

    # Datasets for arrays

    def begin(self) -> None:
        """Open the file for the first data. Until then it lies closed, an empty recording that anybody may open."""
        if self._file is None:
            self._open_again()
            self._attach()
            self.began = time.monotonic()

    def share(self) -> None:
        """From now on others may read the file (SWMR): every flush leaves it whole for them."""
        if self._file is not None and not self.is_shared:
            self._file.flush()
            self._file.swmr_mode = True
            self.is_shared = True

    def add_segments(self, segments: Sequence[Segment]) -> None:
        """Make the datasets of new segments.

        A file that others read takes no new objects: so it is closed, opened for us alone, extended,
        and shared again. The new groups then lead to themselves only, and are found by reference, until the
        recording ends: linking them to others would change what readers have open, and a kill could
        tear it. So nothing of what was there before is touched.
        """
        if self.is_shared:
            self._open_again()
        made = [self._create_segment(segment) for segment in segments]
        self._file.flush()
        references = self._file[layout.SEGMENTS]
        for segment, group in zip(segments, made, strict=True):
            segment.reference = group.ref
            references[segment.number] = group.ref
        self._file.flush()
        if self.is_shared:
            del made, group, references
            self._file.swmr_mode = True
            self._attach()
            self.reopened += 1

    def _open_again(self) -> None:
        for _ in range(5):
            self._close_file()
            self._file = open_for_writing(self.handle_path)
            if not self._file.swmr_mode:  # else somebody in this process opened it in between
                break

    def _create_segment(self, segment: Segment) -> h5py.Group:
        shared = segment.slot == SHARED
        pvname = "" if shared else self.names[segment.slot]
        name = f"shared_{segment.dtype.str[1:]}_{segment.capacity}" if shared else pvname
        link = layout.link_name(name, self._taken)
        if self.is_shared:
            group = self._file.create_group(None)
            group[layout.ITSELF] = group
        else:
            group = self._file.create_group(f"{layout.ARRAYS}/{link}")
        group.attrs.update(NX_class="NXdata", signal="data", title=name, link=link)
        filters: dict[str, Any] = deflate_options(segment.dtype.itemsize) if segment.chunks.packed else {}
        if isinstance(segment.chunks, PipelineChunks):
            import hdf5plugin  # its filters register with HDF5 when it is imported

            filters = dict(hdf5plugin.Bitshuffle(cname="lz4"))
        tail = segment.chunks.tail
        dataset = group.create_dataset(
            "data", (0, *tail), segment.dtype, chunks=(segment.chunks.rows, *tail), maxshape=(None, *tail), **filters
        )
        dataset.attrs.update(
            pv=pvname,
            slot=layout.NO_SEGMENT if shared else segment.slot,
            segment=segment.number,
            interpretation="image" if len(tail) == 2 else "spectrum",
        )
        return group

    def opened(self, segment: Segment) -> Segment:
        """The segment, with its dataset open."""
        if not segment.chunks.is_attached:
            segment.chunks.attach(self._file[segment.reference]["data"].id)
        return segment

    def _attach(self) -> None:
        for table in self.tables:
            group = self._file[table.spec.path]
            for (name, _), chunks in zip(table.spec.columns, table.chunks, strict=True):
                chunks.attach(group[name].id)

    def _detach(self) -> None:
        for chunks in self._chunks():
            chunks.attach(None)

    def _chunks(self) -> Iterator[Chunks]:
        for table in self.tables:
            yield from table.chunks
        for segment in self.planner.segments:
            yield segment.chunks

    # While recording

    def require_space(self, size: int) -> None:
        """Make sure that `size` bytes can be written: see `daqca.recording.space`."""
        require_space(self._fd, size)

    def flush(self, final: bool = False) -> None:
        """Bring all that was taken in to the file; `final` if no more will come."""
        if self._file is None:
            if not any(table.rows for table in self.tables):
                return
            self.begin()
        for segment in self.planner.segments:
            if segment.committed < segment.rows:
                self.opened(segment).flush(final)
        for table in self.tables:
            table.flush(final)
        self._file.flush()
        self.flushes += 1
        self.put_fixed("rows", np.array([table.committed for table in self.tables], np.uint64))

    def salvage(self) -> None:
        """After a failed write: bring what is in memory to the file, as far as that still goes."""
        for segment in self.planner.segments:
            with contextlib.suppress(Exception):
                self.opened(segment).flush()
        for table in self.tables:
            with contextlib.suppress(Exception):
                table.flush()
        with contextlib.suppress(Exception):
            self._file.flush()
            self.put_fixed("rows", np.array([table.committed for table in self.tables], np.uint64))

    def hurry(self, hurried: bool) -> None:
        """Compress nothing while the queue is filling up."""
        if hurried != self._hurried:
            self._hurried = hurried
            for chunks in self._chunks():
                chunks.hurried = hurried

    def put_index(self, ledger: Ledger, dropped: npt.NDArray[Any]) -> None:
        """Overwrite the PV index in place."""
        lost = ledger.dropped + dropped
        received = ledger.processed + dropped
        columns: dict[str, npt.NDArray[Any]] = {
            name: getattr(ledger, name)
            for name in ("native_type", "native_count", "units", "missed", "interruptions", "first_time", "last_time")
        }
        for name, column in {**columns, "received": received, "dropped": lost, "written": received - lost}.items():
            self.put_fixed(name, column)

    def put_fixed(self, name: str, data: npt.NDArray[Any]) -> None:
        """Overwrite a column of the index or a field of the state, in place.

        Their place in the file is fixed and has its disk space, so they are written past HDF5: that
        works on a full disk too, and needs no flush.
        """
        code = dict(layout.PV_COLUMNS).get(name) or next(f[1] for f in layout.STATE_FIELDS if f[0] == name)
        os.pwrite(self._fd, np.ascontiguousarray(data, code).tobytes(), self._places[name])

    def touch(self, stopped: int = 0) -> None:
        """Write that we are alive, or when we stopped (ns)."""
        self.put_fixed("times", np.array([time.time_ns(), stopped], np.int64))

    # The end

    def _close_file(self) -> None:
        """Close the file for certain: HDF5 keeps it open, and shared, while anybody in this process has it open."""
        self._detach()
        file, self._file = self._file, None
        if not file:
            return
        if h5f.get_obj_count(file.id, h5f.OBJ_FILE) > 1:
            _log.warning(
                "closing the h5py handles of this process to %s, which is being recorded:"
                " read it with daqca.recording.RecordingFile here, or from another process",
                self.path,
            )
            for kinds in (h5f.OBJ_ALL & ~h5f.OBJ_FILE, h5f.OBJ_FILE):
                for handle in h5f.get_obj_ids(file.id, kinds) if file else ():
                    while handle.valid:
                        h5i.dec_ref(handle)
        else:
            file.close()

    def close(self) -> None:
        """Close HDF5's file; `put_fixed` still works until `abandon`."""
        self._close_file()

    def abandon(self) -> None:
        """Let go of everything, come what may."""
        with contextlib.suppress(Exception):
            self.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def reason(error: BaseException) -> str:
    """The system's words for an error of HDF5 or of the system, with its name where there is one."""
    if isinstance(error, RecordingError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        words = error.strerror if error.strerror and len(error.strerror) < 100 else os.strerror(error.errno)
        return f"{errno.errorcode.get(error.errno, error.errno)}, {words}"
    return f"{type(error).__name__}: {error}"
