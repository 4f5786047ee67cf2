"""Recording of PVs to HDF5, and reading it back. This file only hands names on."""

from daqca.recording.recorder import Recorder
from daqca.recording.recording import Recording
from daqca.recording.stats import PVCounts, RecordingStats

__all__ = ["PVCounts", "Recorder", "Recording", "RecordingStats"]
