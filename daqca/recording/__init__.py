"""Recording of PVs to HDF5, and reading it back. This file only hands names on."""

from daqca.recording.plotting import plot
from daqca.recording.reader import RecordingFile
from daqca.recording.recorder import Recorder
from daqca.recording.recording import Recording
from daqca.recording.recovery import recover
from daqca.recording.series import Frames, RecordedEvent, Series
from daqca.recording.stats import PVCounts, RecordingStats
from daqca.recording.summaries import describe, summary

__all__ = [
    "Frames",
    "PVCounts",
    "RecordedEvent",
    "Recorder",
    "Recording",
    "RecordingFile",
    "RecordingStats",
    "Series",
    "describe",
    "plot",
    "recover",
    "summary",
]
