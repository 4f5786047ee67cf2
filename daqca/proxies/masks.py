"""What `auto_monitor` may be, and which mask it means. Manual, chapter 3.3."""

from __future__ import annotations

import operator

import numpy as np

import daqca.ca as ca
from daqca.errors import ConfigurationError

_LAST_MASK = 0xFF


def mask_of(auto_monitor: bool | int | None) -> tuple[int, bool]:
    """The mask that `auto_monitor` means (0: none), and whether it is for values with few elements only.

    Raises
    ------
    ConfigurationError
        It means none.
    """
    if isinstance(auto_monitor, np.bool_):
        auto_monitor = bool(auto_monitor)
    if auto_monitor is None or auto_monitor is True:
        return int(ca.DEFAULT_SUBSCRIPTION_MASK), auto_monitor is None
    try:
        mask = operator.index(auto_monitor)
    except TypeError:
        mask = -1
    if not 0 <= mask <= _LAST_MASK:
        raise ConfigurationError(
            f"auto_monitor={auto_monitor!r}: it is None, True, False, or a mask, the sum of DBE_VALUE and others"
        )
    return mask, False
