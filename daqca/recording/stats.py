"""The numbers of a recording: plain data, made by the recorder and by the reader of its files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class RecordingStats:
    """What came, what is in the file, and what is lost.

    After a verified stop ``received == written + dropped``, counted by reading the file back.
    """

    path: str
    pvs: int
    """Number of PVs."""
    seconds: float
    """How long the recording has run, or ran."""
    received: int
    """Updates that reached the recorder."""
    written: int
    """Of these, the ones in the file (while recording: in the file or in memory on the way there)."""
    dropped: int
    """Of these, the ones that are not in the file: the queue was full, or writing failed."""
    missed: int
    """Updates lost before the recorder, as far as it was told."""
    interruptions: int
    """How often the worker of a PV was lost, over all PVs: what it had not handed on is missing, and nobody knows how
    many updates that were."""
    control: int
    """Connection changes, access changes and losses, in the events table."""
    ignored: int
    """Events that make no row: metadata, of which the units are kept, and what says nothing to a recording."""
    late: int
    """Events that came after the stop; not recorded."""
    scalars: int
    """Rows of the scalars table."""
    strings: int
    """Rows of the strings table."""
    frames: int
    """Rows of the frames table: arrays."""
    bytes_in: int
    """Bytes taken in, in memory."""
    bytes_written: int
    """Bytes of data handed to HDF5, compressed where they are."""
    queue_bytes: int
    """Bytes waiting to be written."""
    queue_high_water: int
    """The most that ever waited."""
    queue_limit: int
    flushes: int
    reopened: int
    """How often the file was opened anew because arrays of a new size came."""
    cpu_seconds: float
    """CPU time of the writer thread."""
    complete: bool
    """Whether the recording was stopped, and its file read back and found to hold what was counted."""
    error: str
    """What ended the recording early; empty if nothing did."""

    @property
    def lost(self) -> int:
        """Updates that are not in the file, wherever they got lost, as far as they could be counted."""
        return self.dropped + self.missed

    @property
    def event_rate(self) -> float:
        """Updates received per second, on average."""
        return self.received / self.seconds if self.seconds > 0 else 0.0

    @property
    def byte_rate(self) -> float:
        """Bytes taken in per second, on average."""
        return self.bytes_in / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All fields and ``lost``, ``event_rate``, ``byte_rate``, for JSON."""
        return {**asdict(self), "lost": self.lost, "event_rate": self.event_rate, "byte_rate": self.byte_rate}

    def __str__(self) -> str:
        cut = ""
        if self.interruptions:
            cut = f" and an unknown number in {self.interruptions} interruptions of PVs whose worker was lost"
        state = "complete" if self.complete else (f"ended early: {self.error}" if self.error else "not complete")
        return (
            f"{self.path}: {self.received} updates of {self.pvs} PVs in {self.seconds:.1f} s"
            f" ({self.event_rate:.0f}/s, {self.byte_rate / 1e6:.1f} MB/s), {self.written} written,"
            f" {self.lost} lost ({self.dropped} here, {self.missed} before){cut}; {state}"
        )


@dataclass(frozen=True)
class PVCounts:
    """The counts of each PV, arrays of shape (pvs,) in the order of ``names``."""

    names: list[str]
    received: Counts
    written: Counts
    dropped: Counts
    missed: Counts
    interruptions: Counts
    """How often the worker of each was lost."""

    @property
    def lost(self) -> Counts:
        """Updates that are not in the file, wherever they got lost."""
        return self.dropped + self.missed

    def of(self, name: str) -> dict[str, int]:
        """The counts of one PV.

        Raises
        ------
        KeyError
            It is not among the names.
        """
        try:
            slot = self.names.index(name)
        except ValueError:
            raise KeyError(name) from None
        fields = ("received", "written", "dropped", "missed", "lost", "interruptions")
        return {field: int(getattr(self, field)[slot]) for field in fields}
