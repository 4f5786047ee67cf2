"""The contexts of this process, and which of them each thread is attached to: the one place that knows.

`lifecycle` has the manual's functions for it.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import daqca.ca as surface
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.channel import Channel, channel_number
from daqca.ca.lowlevel.client import Client
from daqca.dbr import chid_t
from daqca.errors import ChannelAccessException

_numbers = itertools.count(0x10000, 0x100)
"""Numbers of contexts: none is ever used twice in a process."""
_SHORTEST = 0.1
"""Seconds that every context is given at least to end, however late it is."""


class Library:
    """What `initialize_libca` returns, where the manual has the C library: ``libca.ca_xxx`` is ``daqca.ca.xxx``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("ca_"):
            return getattr(surface, name[3:])
        raise AttributeError(f"daqca needs no libca, and its stand-in has no {name!r}; names like ca_pend_io work")

    def __repr__(self) -> str:
        return "<daqca's own Channel Access client, in place of libca>"


LIBRARY = Library()


class _Attachment(threading.local):
    """Which context the calling thread is attached to.

    Attributes
    ----------
    number
        The context; 0: none. It may have been closed meanwhile.
    made
        The contexts that this thread has made.
    runs_callbacks
        Whether it is the thread that runs the callbacks of a context.
    """

    def __init__(self) -> None:
        self.number = 0
        self.made: set[int] = set()
        self.runs_callbacks = False


class Session:
    """The contexts of one process.

    Attributes
    ----------
    initial, library
        The context that was made first, and what stands for the C library then; None before.
    contexts
        The open ones, by number.
    cache
        The channels of each context, by name: ``ca._cache``.
    channels
        Every channel that was not cleared, by its number.
    printf_handler
        Where messages go; None: to standard error, if `WITH_CA_MESSAGES`, or else nowhere.
    was_begun
        Whether there ever was a context.
    """

    def __init__(self) -> None:
        self.initial: int | None = None
        self.library: Library | None = None
        self.contexts: dict[int, Client] = {}
        self.cache: dict[int, dict[str, Channel]] = {}
        self.channels: dict[int, Channel] = {}
        self.printf_handler: Callable[[str], Any] | None = None
        self.was_begun = False
        self.lock = threading.RLock()
        self._thread = _Attachment()
        self._promised: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    # --- the current context --------------------------------------------------------------------

    def current(self) -> Client | None:
        """The context that the calling thread is attached to."""
        return self.contexts.get(self._thread.number)

    def _is_orphan(self) -> bool:
        return self._thread.runs_callbacks and self._thread.number != 0

    def present(self) -> Client | None:
        """The context that the calling thread is attached to. One without is attached to the initial one, if it may."""
        client = self.current()
        if client is None and not self._is_orphan():
            initial = self.contexts.get(self.initial or 0)
            if initial is not None and (initial.preemptive or initial.number in self._thread.made):
                self._thread.number = initial.number
                return initial
        return client

    def needed(self) -> Client:
        """`present`, or a context made for it: the initial one, if there is none.

        If there is one that belongs to another thread, because it has no preemptive callbacks, this thread gets one of
        its own, as in C.

        Raises
        ------
        ChannelAccessException
            The thread runs callbacks, and their context was closed; or the interpreter ends.
        """
        if sys.is_finalizing():  # threads stand still now, with whatever locks they hold
            raise ChannelAccessException("the interpreter ends, and Channel Access with it")
        client = self.present()
        if client is None:
            if self._is_orphan():
                raise ChannelAccessException("the context of this callback was closed, and there is nothing to use")
            with self.lock:
                self.begin()
                client = self.present() or self.create(False)
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
                self.initial = self.create(
                    bool(surface.PREEMPTIVE_CALLBACK if preemptive is None else preemptive)
                ).number
                self.library = LIBRARY
                if not self.was_begun:
                    self.was_begun = True
                    for name in surface.__all__:
                        getattr(surface, name)  # objects may call them when the interpreter goes: no more imports then

    def create(self, preemptive: bool) -> Client:
        """A new context, which the calling thread is attached to."""
        client = Client(next(_numbers), preemptive, self.say)
        if preemptive:
            client.dispatcher.call(lambda: self._adopt(client.number))
        with self.lock:
            self.contexts[client.number] = client
            self.cache[client.number] = client.channels
        self._thread.number = client.number
        self._thread.made = {number for number in self._thread.made if number in self.contexts} | {client.number}
        return client

    def _adopt(self, number: int) -> None:
        """The first that a context's dispatcher is called for: what callbacks do, they do in their context."""
        self._thread.number = number
        self._thread.runs_callbacks = True

    def attach(self, number: int | None) -> int:
        """Attach the calling thread to a context; returns an ECA status."""
        client = self.contexts.get(number or 0)
        if client is None:
            return ECA.NOCACTX
        if self.current() is not None:
            return ECA.ISATTACHED
        if not client.preemptive:
            return ECA.NOTTHREADED
        self._thread.number = client.number
        return ECA.NORMAL

    def detach(self) -> None:
        """The calling thread is attached to no context any more."""
        self._thread.number = 0

    def destroy(self, client: Client, timeout: float = 5.0) -> None:
        """Close a context."""
        with self.lock:
            self.contexts.pop(client.number, None)
            self.cache.pop(client.number, None)
            for channel in list(client.channels.values()):
                self.channels.pop(int(channel), None)
            if self.initial == client.number:
                self.initial = None
        client.close(timeout)
        if self._thread.number == client.number:
            self.detach()

    def end(self, timeout: float) -> None:
        """Close every context; `begin` may follow, also in another thread meanwhile."""
        deadline = time.monotonic() + timeout
        with self.lock:
            clients = list(self.contexts.values())
            self._forget()
        for client in clients:
            client.close(max(deadline - time.monotonic(), _SHORTEST))
        self.detach()

    def rest(self, timeout: float = 2.0) -> None:
        """The interpreter ends: send what waits to be sent, and run no callbacks any more.

        Contexts with threads stay open until the process ends, for functions that are called later at the exit and for
        threads that nobody waits for. Those without would be found with open sockets, and are closed.
        """
        if not surface.AUTO_CLEANUP:
            return
        deadline = time.monotonic() + timeout
        for client in list(self.contexts.values()):
            left = max(deadline - time.monotonic(), _SHORTEST)
            if client.preemptive:
                client.rest(left)
            else:
                self.destroy(client, left)

    def _forget(self) -> None:
        """There are no contexts. The caller holds the lock, or is alone."""
        self.contexts = {}
        self.channels = {}
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
            It is none, or was cleared; or the interpreter ends.
        """
        if sys.is_finalizing():  # see needed
            raise ChannelAccessException(f"{function}: the interpreter ends, and Channel Access with it")
        if isinstance(chid, Channel):
            found: Channel | None = chid
        elif isinstance(chid, bool) or not isinstance(chid, (int, chid_t)):
            raise ChannelAccessException(
                f"{function}: expected a channel id, as create_channel returns it, and got {chid!r}"
            )
        else:
            found = self.channels.get(int(chid))
            if found is None and int(chid) in self._promised:
                found = surface.create_channel(self._promised[int(chid)])
        if found is None:
            raise ChannelAccessException(f"{function}: {int(chid)} is no channel id, or its channel was cleared")
        if found.is_cleared:
            raise ChannelAccessException(f"{function}: the channel {found.pvname} was cleared; create it again")
        return found

    def promise(self, pvname: str) -> int:
        """A number that means the channel of this name, which is created when a function is given the number."""
        number = self._numbers.get(pvname)
        if number is None:
            number = self._numbers[pvname] = channel_number()
            self._promised[number] = pvname
        return number

    # --- fork -----------------------------------------------------------------------------------

    def forked(self) -> None:
        """In the child of a fork: it begins without contexts. The parent's channels are of no use here.

        Other threads are gone, and locks that they held are never released: all are new.
        """
        self.lock = threading.RLock()
        self._thread = _Attachment()
        for client in self.contexts.values():
            client.is_closed = True
            client.lock = threading.RLock()
            client.dispatcher.forked()
            for channel in client.channels.values():
                channel.is_cleared = True
                channel.lock = client.lock
        self._forget()


session = Session()
"""The one of this process."""

os.register_at_fork(after_in_child=session.forked)
atexit.register(session.rest)
