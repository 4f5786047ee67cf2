"""Checks of statuses and arguments, as functions and as decorators: the manual's chapters 4.4.2 and 4.4.3."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import daqca.ca as surface
from daqca.ca import eca
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.session import session
from daqca.errors import CASeverityException, ChannelAccessException

P = ParamSpec("P")
R = TypeVar("R")


def PySEVCHK(func_name: str, status: int, expected: int = ECA.NORMAL) -> int:
    """Return a status if it is the expected one.

    Raises
    ------
    CASeverityException
        It is another one; the message has the function's name and EPICS' words for the status.
    """
    if status == expected:
        return int(status)
    raise CASeverityException(func_name, eca.message(status))


def withSEVCHK(fcn: Callable[P, int]) -> Callable[P, int]:
    """Decorator: `PySEVCHK` for what a function returns, which should be ECA_NORMAL."""

    @functools.wraps(fcn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> int:
        return PySEVCHK(getattr(fcn, "__name__", repr(fcn)), fcn(*args, **kwargs))

    return wrapper


def withCA(fcn: Callable[P, R]) -> Callable[P, R | None]:
    """Decorator: there is a context when the function runs. When the interpreter has ended, nothing is done."""

    @functools.wraps(fcn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
        if sys.is_finalizing():
            return None
        session.needed()
        return fcn(*args, **kwargs)

    return wrapper


def withCHID(fcn: Callable[..., R]) -> Callable[..., R]:
    """Decorator: the function's first argument is a channel id; the number of one is made one.

    Raises
    ------
    ChannelAccessException
        When it is called with something else.
    """
    return _with_channel(fcn, None)


def withConnectedCHID(fcn: Callable[..., R]) -> Callable[..., R]:
    """Decorator: the function's first argument is the id of a connected channel, which is waited for.

    The wait is the function's argument ``timeout``, if it is given by name, or `DEFAULT_CONNECTION_TIMEOUT`.

    Raises
    ------
    ChannelAccessException
        When it is called with something else, or the channel does not connect in time.
    """
    return _with_channel(fcn, True)


def withMaybeConnectedCHID(fcn: Callable[..., R]) -> Callable[..., R]:
    """Decorator: as `withConnectedCHID`, but the function runs also if the channel does not connect in time."""
    return _with_channel(fcn, False)


def _with_channel(fcn: Callable[..., R], must_connect: bool | None) -> Callable[..., R]:
    name = getattr(fcn, "__name__", repr(fcn))

    @functools.wraps(fcn)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        if not args:
            return fcn(*args, **kwargs)
        channel = session.channel(args[0], name)
        if must_connect is not None:
            timeout = kwargs.get("timeout")
            timeout = surface.DEFAULT_CONNECTION_TIMEOUT if timeout is None else timeout
            if not channel.client.connect(channel, timeout) and must_connect:
                raise ChannelAccessException(
                    f"{name}() timed out waiting for {channel.pvname!r} to connect ({timeout:g} seconds)"
                )
        return fcn(channel, *args[1:], **kwargs)

    return wrapper


def withInitialContext(fcn: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the function runs in the initial context (manual, chapter 10.4)."""

    @functools.wraps(fcn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        from daqca.ca.lowlevel.lifecycle import use_initial_context

        use_initial_context()
        return fcn(*args, **kwargs)

    return wrapper
