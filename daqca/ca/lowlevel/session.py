"""The contexts of this process, and which of them each thread is attached to: the one place that knows.

`lifecycle` has the manual's functions for it.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import daqca.ca as surface
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.client import Client
from daqca.dbr import chid_t
from daqca.errors import ChannelAccessException

_numbers = itertools.count(0x10000, 0x100)
"""Numbers of contexts: none is ever used twice in a process."""


class Library:
    """What `initialize_libca` returns, where the manual has the C library: ``libca.ca_xxx`` is ``daqca.ca.xxx``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("ca_"):
            return getattr(surface, name[3:])
        raise AttributeError(f"daqca needs no libca, and its stand-in has no {name!r}; names like ca_pend_io work")

    def __repr__(self) -> str:
        return "<daqca's own Channel Access client, in place of libca>"


class Session:
    """The contexts of one process.

    Attributes
    ----------
    initial, library
        The context made by `initialize_libca`, and what stands for the C library then; None before.
    contexts
        The open ones, by number.
    cache
        The channels of each context, by name: ``ca._cache``.
    channels
        Every channel that was not cleared, by its number.
    printf_handler
        Where messages go; None: to standard error, if `WITH_CA_MESSAGES`, or else nowhere.
    is_over
        Whether the interpreter ends: then nothing is begun any more.
    """

    def __init__(self) -> None:
        self.initial: int | None = None
        self.library: Library | None = None
        self.contexts: dict[int, Client] = {}
        self.cache: dict[int, dict[str, Channel]] = {}
        self.printf_handler: Callable[[str], Any] | None = None
        self.channels: dict[int, Channel] = {}
        self.is_over = False
        self.lock = threading.RLock()
        self._thread = threading.local()

    # --- the current context --------------------------------------------------------------------

    def current(self) -> Client | None:
        """The context that the calling thread is attached to."""
        client: Client | None = getattr(self._thread, "client", None)
        return client if client is not None and not client.is_closed else None

    def needed(self) -> Client:
        """The context that the calling thread is attached to; a thread without one is attached to the initial one."""
        client = self.current()
        if client is None:
            with self.lock:
                self.begin()
                assert self.initial is not None
                client = self._thread.client = self.contexts[self.initial]
        return client

    def begin(self, preemptive: bool | None = None) -> None:
        """Make the initial context, if there is none, and attach the calling thread to it.

        Parameters
        ----------
        preemptive
            By default as `PREEMPTIVE_CALLBACK` says.
        """
        with self.lock:
            if self.initial not in self.contexts:
                self.initial = self.create(surface.PREEMPTIVE_CALLBACK if preemptive is None else preemptive).number
                self.library = Library()
                atexit.unregister(_at_exit)
                atexit.register(_at_exit)

    def create(self, preemptive: bool) -> Client:
        """A new context, which the calling thread is attached to."""
        client = Client(next(_numbers), preemptive, self.say)
        with self.lock:
            self.contexts[client.number] = client
            self.cache[client.number] = client.channels
        self._thread.client = client
        return client

    def attach(self, number: int) -> int:
        """Attach the calling thread to a context; returns an ECA status."""
        client = self.contexts.get(number)
        if client is None:
            return ECA.NOCACTX
        current = self.current()
        if current is not None and current is not client:
            return ECA.ISATTACHED
        if not client.preemptive and current is None:
            return ECA.NOTTHREADED
        self._thread.client = client
        return ECA.NORMAL

    def detach(self) -> None:
        """The calling thread is attached to no context any more."""
        self._thread.client = None

    def destroy(self, client: Client, timeout: float = 5.0) -> None:
        """Close a context."""
        with self.lock:
            self.contexts.pop(client.number, None)
            self.cache.pop(client.number, None)
            for channel in list(client.channels.values()):
                self.channels.pop(int(channel), None)
        client.close(timeout)
        if getattr(self._thread, "client", None) is client:
            self.detach()

    def end(self, timeout: float) -> None:
        """Close every context; `begin` may follow."""
        with self.lock:
            clients = list(self.contexts.values())
        for client in clients:
            self.destroy(client, timeout)
        with self.lock:
            self.channels.clear()
            self.cache.clear()
            self.initial = self.library = None

    def say(self, text: str) -> None:
        """Write a message of Channel Access, if somebody wants such messages."""
        if self.printf_handler is not None:
            self.printf_handler(text)
        elif surface.WITH_CA_MESSAGES:
            sys.stderr.write(text)

    # --- channels -------------------------------------------------------------------------------

    def channel(self, chid: Any, function: str) -> Channel:
        """The channel that a chid (or its number) means.

        Raises
        ------
        ChannelAccessException
            It is none, or was cleared.
        """
        if isinstance(chid, Channel):
            if chid.is_cleared:
                raise ChannelAccessException(f"{function}: the channel {chid.pvname} was cleared; create it again")
            return chid
        if isinstance(chid, bool) or not isinstance(chid, (int, chid_t)):
            raise ChannelAccessException(
                f"{function}: expected a channel id, as create_channel returns it, and got {chid!r}"
            )
        found = self.channels.get(int(chid))
        if found is None:
            raise ChannelAccessException(f"{function}: {int(chid)} is no channel id, or its channel was cleared")
        return found

    def forked(self) -> None:
        """In the child of a fork: it begins without contexts. The parent's channels are of no use here."""
        self.lock = threading.RLock()
        self._thread = threading.local()
        for client in self.contexts.values():
            client.is_closed = True
            client.dispatcher.forked()
            for channel in client.channels.values():
                channel.is_cleared = True
        self.contexts = {}
        self.channels = {}
        self.cache.clear()
        self.initial = self.library = None


session = Session()
"""The one of this process."""


def _at_exit() -> None:
    """The interpreter ends: end everything, unless the user has said that he does (`AUTO_CLEANUP`)."""
    if surface.AUTO_CLEANUP:
        session.end(1.0)
    session.is_over = True


os.register_at_fork(after_in_child=session.forked)
