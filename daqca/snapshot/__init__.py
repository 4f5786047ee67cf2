"""Many PVs read at once: the container, its table and its files."""

from daqca.snapshot.container import Snapshot
from daqca.snapshot.metadata import MetadataColumns

__all__ = ["MetadataColumns", "Snapshot"]
