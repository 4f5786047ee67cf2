"""``import epics`` means daqca, on request: for scripts and libraries that were written for PyEpics."""

from daqca.compat.finder import install, uninstall

__all__ = ["install", "uninstall"]
