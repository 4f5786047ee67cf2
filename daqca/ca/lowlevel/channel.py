"""One channel as the low-level interface holds it: its chid, its callbacks and its gets that are under way.

What its server says of it is in the columns of its context; nothing is asked of a server here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daqca.ca.channels import UNKNOWN_TYPE, State
from daqca.dbr import CS_CLOSED, CS_CONN, CS_NEVER_CONN, CS_PREV_CONN, chid_t

if TYPE_CHECKING:
    from daqca.ca.lowlevel.client import Client
    from daqca.ca.lowlevel.operations import Get, Put
    from daqca.ca.lowlevel.subscription import Subscription

_CONNECTED = int(State.CONNECTED)
_numbers = itertools.count(0x1000, 8)


def channel_number() -> int:
    """The number of a channel to come: none is ever used twice in a process."""
    return next(_numbers)


Callback = Callable[..., Any]
ConnectionCallback = Callback
"""Called with ``pvname``, ``chid`` (its number) and ``conn``."""


class Channel(chid_t):
    """A chid: what `create_channel` returns, and the channel's entry in ``ca._cache``.

    It is a ctypes long, as the manual says; ``int(chid)`` and ``chid.value`` are its number.

    Attributes
    ----------
    pvname
        The name.
    client
        The context it lives in.
    slot
        Its row there, or -1 as long as it waits to be searched (see `Client.begin`).
    begun
        When it got its slot, in ns since the Unix epoch.
    conn
        Whether the last connection callback told of a connection.
    ts
        When the connection changed last, or when `connect_channel` last gave up; seconds since the Unix epoch.
    failures
        How often `connect_channel` has given up since then.
    callbacks, access_event_callback
        Whom to tell of connections, and of access rights.
    gets
        Gets that nobody has completed, by the type that was asked for: the latest of each.
    unanswered
        Gets that are not answered.
    puts
        Puts whose end somebody waits for.
    writes
        How often it was written by us.
    states
        The names of the states of an enum, if they were asked for since it connected.
    subscriptions
        What was subscribed to.
    """

    __slots__ = (
        "_told_ahead",
        "access_event_callback",
        "begun",
        "callbacks",
        "client",
        "conn",
        "failures",
        "gets",
        "is_cleared",
        "lock",
        "puts",
        "pvname",
        "slot",
        "states",
        "subscriptions",
        "ts",
        "unanswered",
        "writes",
    )

    def __init__(self, pvname: str, client: Client):
        chid_t.__init__(self, channel_number())  # ctypes' metaclass has no part in super()
        self.pvname = pvname
        self.client = client
        self.slot = -1
        self.begun = 0
        self.conn = False
        self.is_cleared = False
        self.ts = 0.0
        self.failures = 0
        self.lock = client.lock
        self.callbacks: list[ConnectionCallback] = []
        self.access_event_callback: list[Callback] = []
        self.gets: dict[int, Get] = {}
        self.unanswered: set[Get] = set()
        self.puts: set[Put] = set()
        self.writes = 0
        self.states: tuple[str, ...] | None = None
        self._told_ahead: list[tuple[list[Callback], Callback]] = []
        self.subscriptions: set[Subscription] = set()

    __hash__ = object.__hash__

    @property
    def chid(self) -> Channel | None:
        """Itself: the entries of ``ca._cache`` have their chid by this name. None once it was cleared."""
        return None if self.is_cleared else self

    @property
    def chid_int(self) -> int:
        """Its number."""
        return int(self)

    @property
    def context(self) -> int:
        """The number of its context."""
        return self.client.number

    @property
    def get_results(self) -> dict[int, Get]:
        """Gets that nobody has completed, by the type that was asked for."""
        return self.gets

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    @property
    def is_connected(self) -> bool:
        """Whether it is connected now."""
        return self.slot >= 0 and self.client.columns.state.item(self.slot) == _CONNECTED

    def state(self) -> int:
        """Its state as `ca_state` gives it: one of the ``CS_...`` numbers of `daqca.dbr`."""
        if self.is_cleared:
            return CS_CLOSED
        if self.is_connected:
            return CS_CONN
        seen = self.slot >= 0 and bool(self.client.columns.seen.item(self.slot))
        return CS_PREV_CONN if seen else CS_NEVER_CONN

    @property
    def native_type(self) -> int:
        """Its DBR type, 0 to 6; -1 if it is not connected."""
        return self.client.columns.native_type.item(self.slot) if self.is_connected else -1

    @property
    def last_type(self) -> int:
        """Its DBR type, also while it is not connected; 255 if it never was."""
        return self.client.columns.native_type.item(self.slot) if self.slot >= 0 else UNKNOWN_TYPE

    @property
    def native_count(self) -> int:
        """How many elements it can have; 0 if it is not connected."""
        return self.client.columns.native_count.item(self.slot) if self.is_connected else 0

    @property
    def last_count(self) -> int:
        """How many elements it can have, also while it is not connected; 0 if it never was."""
        return self.client.columns.native_count.item(self.slot) if self.slot >= 0 else 0

    @property
    def is_array(self) -> bool:
        """Whether it can have more than one element."""
        return self.last_count > 1

    @property
    def access(self) -> int:
        """Bit 0: may be read, bit 1: may be written; 0 if it is not connected."""
        return self.client.columns.access.item(self.slot) if self.is_connected else 0

    def add_callback(self, callbacks: list[Callback], callback: Callback) -> bool:
        """Have a callback of one of the two lists told from now on.

        Returns
        -------
        Whether the channel is connected, so that the caller is to tell it. That it has connected may be still to
        be told on the dispatcher's thread: this callback is left out then.
        """
        with self.lock:
            callbacks.append(callback)
            if self.is_connected and not self.conn:
                self._told_ahead.append((callbacks, callback))
            return self.is_connected

    def run_connection_callbacks(self, conn: bool, timestamp: float) -> None:
        """Tell who wants to know that the connection has changed."""
        with self.lock:
            self.conn, self.ts, self.failures, self.states = conn, timestamp, 0, None
            callbacks = self._to_tell(self.callbacks)
            self._told_ahead.clear()  # access callbacks that came after those had been told of this connection
        for callback in callbacks:
            if callable(callback):
                self.client.guard(callback, pvname=self.pvname, chid=int(self), conn=conn)

    def run_access_event_callbacks(self, read: bool, write: bool) -> None:
        """Tell who wants to know that the access rights have changed."""
        with self.lock:
            callbacks = self._to_tell(self.access_event_callback)
        for callback in callbacks:
            if callable(callback):
                self.client.guard(callback, read, write)

    def _to_tell(self, callbacks: list[Callback]) -> list[Callback]:
        """Those of a list that do not know yet."""
        ahead = [callback for owner, callback in self._told_ahead if owner is callbacks]
        self._told_ahead = [pair for pair in self._told_ahead if pair[0] is not callbacks]
        return [callback for callback in callbacks if callback not in ahead] if ahead else list(callbacks)

    def __repr__(self) -> str:
        state = "cleared" if self.is_cleared else "connected" if self.is_connected else "not connected"
        return f"<Channel {int(self):#x} {self.pvname!r}, {state}>"
