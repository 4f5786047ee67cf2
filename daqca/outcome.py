"""What became of a request for one PV: the words and numbers, no behaviour."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """The outcome of a connect, read or write of one PV; stored as u1 in columns and files."""

    PENDING = 0
    """Not decided yet (only in partial results)."""
    OK = 1
    """Connected, read from the server, or confirmed by it."""
    SENT = 2
    """A put without completion: handed to the network, not confirmed."""
    STALE = 3
    """A value is there, but it is from before the connection was lost."""
    NEVER_FOUND = 4
    """No server answered for the name."""
    DISCONNECTED = 5
    """Connected earlier, not now."""
    NO_READ_ACCESS = 6
    """The server does not let us read it."""
    NO_WRITE_ACCESS = 7
    """The server does not let us write it."""
    TIMEOUT = 8
    """Connected, but no answer in time."""
    REFUSED = 9
    """The server answered with an ECA error."""
    BAD_VALUE = 10
    """The value to put does not fit the type of the PV; nothing was sent."""

    @property
    def text(self) -> str:
        """The outcome in words, as tables and files print it."""
        return self.name.lower().replace("_", " ")
