"""One subscription of the low-level interface: its handle, and how its callback is called for each update.

Made and ended in `monitoring`.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daqca.ca.lowlevel.channel import Channel

_numbers = itertools.count(1)

Callback = Callable[..., Any]


class Subscription(ctypes.c_void_p):
    """The event id of a subscription, which `clear_subscription` takes. The subscription lives also if it is not kept.

    Attributes
    ----------
    channel, callback
        What is watched, and who is called.
    dbr_type
        What was asked for.
    number
        The token of its events: none is ever used twice in a process.
    id
        In the context's tables.
    """

    __slots__ = (
        "callback",
        "channel",
        "chid",
        "count",
        "dbr_type",
        "fixed",
        "id",
        "is_ended",
        "is_integer",
        "is_plain",
        "is_timed",
        "mask",
        "number",
        "pvname",
    )

    def __init__(self, channel: Channel, callback: Callback | None, dbr_type: int, count: int, mask: int):
        self.number = next(_numbers)
        ctypes.c_void_p.__init__(self, self.number)
        self.channel = channel
        self.callback = callback
        self.dbr_type = dbr_type
        self.count = count
        self.mask = mask
        self.id = -1
        self.is_ended = False
        # Of the channel and the type, for the callback's keywords.
        self.pvname, self.chid = channel.pvname, int(channel)
        self.is_plain, self.is_timed = dbr_type < 7, 14 <= dbr_type < 21
        self.is_integer = dbr_type % 7 not in (2, 6)
        self.fixed = {"pvname": self.pvname, "chid": self.chid, "ftype": dbr_type}

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "active"
        return f"<Subscription {self.value} of {self.channel.pvname!r}, {state}>"
