"""The errors of daqca: one tree, drawn here, and nothing else.

DaqcaError
├── ChannelAccessException        what `daqca.ca` raises, and the base of all that is about channels
│   ├── CASeverityException       a status is not the expected one: carries the function's name and the message
│   ├── ChannelAccessGetFailure   the server answered a get with an error: carries chid and ECA status
│   ├── ChannelError              something about one PV: carries pvname, operation and ECA status
│   │   ├── PVNotFoundError       (LookupError)      no server answered for the name
│   │   ├── PVDisconnectedError   (ConnectionError)  the channel was connected and is not now
│   │   ├── PVTimeoutError        (TimeoutError)     connected, but no answer in time
│   │   ├── AccessRightsError     (PermissionError)  the server does not let us read or write
│   │   ├── RefusedError          (RuntimeError)     the server answered with an ECA error
│   │   └── ConversionError       (ValueError)       the value does not fit the PV's type
│   └── ContextClosedError        a context was closed; an EngineClosedError too
├── ProtocolError                 (ValueError)       bytes that are not Channel Access
├── TransportError                (ValueError)       a message between processes that is malformed
├── ConfigurationError            (ValueError)       an environment variable or option makes no sense
├── NameListError                 (ValueError)       a list of PV names that cannot be used; names file and line
├── EngineClosedError             (RuntimeError)     the engine was closed
│   └── ContextClosedError        a context was closed; a ChannelAccessException too
├── WorkerError                   (RuntimeError)     a worker did not start, died or does not answer
└── RecordingError                (OSError)          a file could not be created, written or verified
"""

from __future__ import annotations

from typing import Any


class DaqcaError(Exception):
    """Base of every error that daqca raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Rebuilt without calling __init__, so that every leaf survives pickling
        # whatever its constructor asks for.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[DaqcaError], args: tuple[Any, ...], state: dict[str, Any]) -> DaqcaError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ChannelAccessException(DaqcaError):
    """Something went wrong in Channel Access (manual, chapter 4.4.2)."""


class CASeverityException(ChannelAccessException):
    """A function's status is not the one expected.

    Parameters
    ----------
    fcn
        The name of the function.
    msg
        What the status means.
    """

    def __init__(self, fcn: str, msg: str):
        super().__init__(f"{fcn} returned '{msg}'")
        self.fcn = fcn
        self.msg = msg


class ChannelAccessGetFailure(ChannelAccessException):
    """A server answered a get with an error.

    Parameters
    ----------
    message
        What was wanted and what happened.
    chid
        The channel.
    status
        The ECA status the server gave.
    """

    def __init__(self, message: str, chid: Any, status: int):
        super().__init__(message)
        self.chid = chid
        self.status = status


class ChannelError(ChannelAccessException):
    """Something went wrong with one PV.

    Parameters
    ----------
    message
        What was wanted, what happened and what to do.
    pvname
        The PV.
    operation
        ``"connect"``, ``"get"``, ``"put"``, ``"subscribe"``.
    eca
        The ECA status the server gave, or None.
    """

    def __init__(self, message: str, *, pvname: str, operation: str, eca: int | None = None):
        super().__init__(message)
        self.pvname = pvname
        self.operation = operation
        self.eca = eca


class PVNotFoundError(ChannelError, LookupError):
    """No server answered for the name."""


class PVDisconnectedError(ChannelError, ConnectionError):
    """The channel was connected once, and is not now."""


class PVTimeoutError(ChannelError, TimeoutError):
    """The channel is connected, but its server did not answer in time."""


class AccessRightsError(ChannelError, PermissionError):
    """The server does not allow this client to read or to write the PV."""


class RefusedError(ChannelError, RuntimeError):
    """The server answered the request with an ECA error."""


class ConversionError(ChannelError, ValueError):
    """The value cannot be converted to the type of the PV."""


class ProtocolError(DaqcaError, ValueError):
    """Bytes from the network that are not Channel Access; the circuit they came on is closed."""


class TransportError(DaqcaError, ValueError):
    """A message between daqca's processes that is malformed; it is counted and dropped."""


class ConfigurationError(DaqcaError, ValueError):
    """An environment variable or an option makes no sense; the message names it."""


class NameListError(DaqcaError, ValueError):
    """A list of PV names that cannot be used; the message names the file and the line."""


class EngineClosedError(DaqcaError, RuntimeError):
    """The engine, or the context below it, was closed."""


class ContextClosedError(EngineClosedError, ChannelAccessException):
    """A Channel Access context was closed, perhaps by another thread and just now."""


class WorkerError(DaqcaError, RuntimeError):
    """A worker process did not start, died, or does not answer."""


class RecordingError(DaqcaError, OSError):
    """A file could not be created, written or verified."""
