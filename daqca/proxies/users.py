"""Who wants a slot monitored: counts by slot, for one mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from daqca.events import grown

Counts = npt.NDArray[np.int32]


class Users:
    """Who wants a slot monitored with one mask, by slot.

    Attributes
    ----------
    always
        How many PVs want it, whatever it is.
    if_short
        How many want it if it has less than ``ca.AUTOMONITOR_MAXLENGTH`` elements.
    is_on
        Whether it is.
    """

    def __init__(self, capacity: int) -> None:
        self.always: Counts = np.zeros(capacity, np.int32)
        self.if_short: Counts = np.zeros(capacity, np.int32)
        self.is_on: npt.NDArray[np.bool_] = np.zeros(capacity, np.bool_)

    def grow(self, capacity: int) -> None:
        """Make room."""
        for name in ("always", "if_short", "is_on"):
            setattr(self, name, grown(getattr(self, name), capacity))
