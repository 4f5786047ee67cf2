"""The bench on which the calls are made: one of the two libraries, and channels of it."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from .describe import Text

Call = tuple[str, Callable[[], Any]]
Section = Callable[["Lab"], Iterator[Call]]
PATIENCE_S = 5.0


class Broken(BaseException):
    """Not an outcome of a call: the bench itself does not work, and nothing that follows would be worth anything."""


class Lab:
    """A library, and the names of the records.

    Parameters
    ----------
    ca, dbr
        The modules of the library.
    shared
        What the names of the records begin with that are only read.
    own
        The same of those that only this process writes.
    """

    def __init__(self, ca: ModuleType, dbr: ModuleType, shared: str, own: str):
        self.ca: Any = ca
        self.dbr: Any = dbr
        self.shared = shared
        self.own = own
        self._chids: dict[str, Any] = {}

    def read(self, ending: str) -> Any:
        """Return the connected channel of a record that is only read."""
        return self._connected(self.shared + ending)

    def written(self, ending: str) -> Any:
        """Return the connected channel of a record of our own."""
        return self._connected(self.own + ending)

    def _connected(self, name: str) -> Any:
        if name not in self._chids:
            chid = self.ca.create_channel(name)
            if not self.ca.connect_channel(chid, timeout=PATIENCE_S):
                raise Broken(f"{name} does not connect")
            self._chids[name] = chid
        return self._chids[name]

    def anew(self, ending: str) -> Any:
        """Return a new connected channel of a record that is only read: nothing has been asked of it yet."""
        name = self.shared + ending
        self.ca.clear_channel(self.ca.create_channel(name))
        self._chids.pop(name, None)
        return self._connected(name)

    def printed(self, call: Callable[[], Any]) -> str:
        """Return what a call prints."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            call()
        return out.getvalue()

    def wait(self, condition: Callable[[], Any], patience: float = PATIENCE_S) -> bool:
        """Poll until the condition is true; return whether it became so."""
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.ca.poll()
            time.sleep(0.001)
        return True

    def plain_name(self, name: Any) -> Any:
        """Return a PV name without what differs between the two processes."""
        if isinstance(name, str):
            return name.replace(self.own, "OWN:").replace(self.shared, "SHARED:")
        return name

    def kwargs(self, chid: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of a callback without what differs between two runs."""
        found = dict(given)
        if "chid" in found:
            value, number = found["chid"], number_of(chid)
            found["chid"] = Text(f"{type(value).__name__} {'of the channel' if number_of(value) == number else value}")
        if "pvname" in found:
            found["pvname"] = self.plain_name(found["pvname"])
        return found


def number_of(chid: Any) -> Any:
    """Return the number in a channel id."""
    return getattr(chid, "value", chid)


def fresh(found: dict[str, Any]) -> dict[str, Any]:
    """Return metadata with its time, if it is now, told as that: two runs do not write at the same time."""
    result = dict(found)
    for name in ("timestamp", "posixseconds"):
        if isinstance(found.get(name), (int, float)) and abs(found[name] - time.time()) < 60:
            result[name] = Text(f"{type(found[name]).__name__} now")
    if "nanoseconds" in found:
        value = found["nanoseconds"]
        result["nanoseconds"] = Text(f"{type(value).__name__} {'below 1e9' if 0 <= value < 1e9 else value}")
    return result
