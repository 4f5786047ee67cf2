"""A callback that remembers what it was called with, and what is waited for in tests of callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from daqca import ca
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.client import Client
from daqca.ca.lowlevel.session import session


class Calls:
    """A callback for anything that calls with keywords.

    Parameters
    ----------
    then
        Called with the same keywords each time, after they have been written down.

    Attributes
    ----------
    known
        The keywords of each call, in order.
    """

    def __init__(self, then: Callable[..., Any] | None = None):
        self.known: list[dict[str, Any]] = []
        self._then = then
        self._changed = threading.Condition()

    def __call__(self, **known: Any) -> None:
        with self._changed:
            self.known.append(known)
            self._changed.notify_all()
        if self._then is not None:
            try:
                self._then(**known)
            finally:
                with self._changed:
                    self._changed.notify_all()

    def __len__(self) -> int:
        return len(self.known)

    @property
    def values(self) -> list[Any]:
        return [known["value"] for known in self.known]

    def wait(self, count: int = 1, timeout: float = 15.0) -> list[dict[str, Any]]:
        """Wait until there were so many calls; returns all of them."""
        self.wait_for(lambda: len(self.known) >= count, f"{count} calls", timeout)
        return list(self.known)

    def wait_for(self, condition: Callable[[], Any], what: str, timeout: float = 15.0) -> None:
        """Wait until a condition is true after some call, or after what it does then."""
        with self._changed:
            came = self._changed.wait_for(condition, timeout)
        assert came, f"not within {timeout} s: {what}; the last calls: {self.known[-5:]}"

    def wait_value(self, value: Any, timeout: float = 15.0) -> None:
        """Wait until the last call was of this value."""
        self.wait_for(lambda: self.known and self.known[-1]["value"] == value, f"the value {value!r}", timeout)


class Gate:
    """A callback that does not return until it is let: what is behind it waits.

    Attributes
    ----------
    entered
        Set as soon as it is called.
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()

    def __call__(self, **known: Any) -> None:
        self.entered.set()
        assert self._open.wait(30), "the gate was never opened"

    def wait(self) -> None:
        """Wait until somebody stands in it."""
        assert self.entered.wait(15), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()


def connected(name: str) -> Channel:
    """A channel of the current context, connected."""
    channel = ca.create_channel(name)
    assert ca.connect_channel(channel, timeout=15), f"{name} does not connect"
    return channel


def read(chid: Any, **options: Any) -> Any:
    """`ca.get`, with time enough for a machine that is busy with other things."""
    return ca.get(chid, timeout=15, **options)


def current() -> Client:
    """The current context itself."""
    return session.needed()


def when_told() -> None:
    """Wait until all that waits for callbacks now has been told."""
    told = threading.Event()
    current().dispatcher.call(told.set)
    assert told.wait(15), "callbacks do not come to an end"
