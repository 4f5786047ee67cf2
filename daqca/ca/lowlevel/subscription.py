"""One subscription of the low-level interface: its handle, and what is known of it when its callback is called.

Made and ended in `monitoring`, its callback called in `updates`.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daqca.link import NATIVE, NATIVE_CTRL, NATIVE_TIME

if TYPE_CHECKING:
    from daqca.ca.lowlevel.channel import Channel

log = logging.getLogger("daqca.ca")

_numbers = itertools.count(1)

Callback = Callable[..., Any]

PLAIN_TYPES, STS, TIME = 7, 7, 14
"""How many plain types there are, and where the rows of their STS and TIME variants begin."""
_FIRST_GR = 21
_ROWS = {NATIVE: 0, NATIVE_TIME: TIME, NATIVE_CTRL: TIME}
_PATIENCE = 5.0
_LONGEST_PAUSE = 0.01


class Subscription(ctypes.c_void_p):
    """The event id of a subscription, which `clear_subscription` takes. The subscription lives also if it is not kept.

    Parameters
    ----------
    dbr_type
        What is asked for: a DBR type, or `daqca.link.NATIVE` and its variants.

    Attributes
    ----------
    channel, callback
        What is watched, and who is called.
    number
        The token of its events: none is ever used twice in a process.
    id
        In the context's tables.
    row
        What the variant adds to the plain types of events.
    caller
        The thread that calls the callback at this moment, or 0. It says so before it looks whether the subscription
        has ended, and who ends it looks for a caller afterwards: so that one of them always sees the other.
    """

    __slots__ = (
        "callback",
        "caller",
        "channel",
        "chid",
        "count",
        "dbr_type",
        "id",
        "is_ended",
        "mask",
        "number",
        "pvname",
        "row",
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
        self.caller = 0
        self.pvname, self.chid = channel.pvname, int(channel)
        self.row = _ROWS.get(dbr_type, dbr_type - dbr_type % PLAIN_TYPES if dbr_type < _FIRST_GR else 0)

    __hash__ = object.__hash__

    def type_of(self, event_type: int) -> int:
        """The DBR type that came, from that of an event: where it is a plain one, the variant is not told there."""
        return event_type + self.row if event_type < PLAIN_TYPES else event_type

    def wait_for_caller(self) -> None:
        """Wait until no other thread is in the callback, if the subscription has ended, for some seconds at most."""
        begin, pause = time.monotonic(), 0.0001
        while self.caller not in (0, threading.get_ident()):
            if time.monotonic() > begin + _PATIENCE:
                log.warning(
                    "the callback %s for %s did not return within %.0f s of the end of its subscription; "
                    "it is not waited for any more",
                    self.callback,
                    self.pvname,
                    _PATIENCE,
                )
                return
            # Rare: its callback would have to be told to wake us after each update, and it has better things to do.
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "active"
        return f"<Subscription {self.value} of {self.channel.pvname!r}, {state}>"
