"""Writing: values of any kind, with or without waiting for the record to process. Manual, chapter 4.3.2.

What becomes of a value is decided in `daqca.ca.conversion`; here is added what only the channel knows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import daqca.ca as surface
from daqca.ca import eca
from daqca.ca.conversion import Encoded, attempt, encode_as, encode_value
from daqca.ca.dbr import MAX_ENUM_STATES, MAX_ENUM_STRING_SIZE, MAX_STRING_SIZE, DBRType
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.channels import Chid
from daqca.ca.lowlevel.getting import get_ctrlvars
from daqca.ca.lowlevel.operations import Put
from daqca.ca.lowlevel.raw import decode_string
from daqca.ca.lowlevel.session import session
from daqca.errors import (
    AccessRightsError,
    CASeverityException,
    ChannelAccessException,
    ChannelAccessGetFailure,
    ConversionError,
    PVDisconnectedError,
    PVNotFoundError,
    RefusedError,
)

PutCallback = Callable[..., Any]
States = tuple[str, ...]
TIMED_OUT = -1
DEFAULT_TIMEOUT = 30.0
_STATES_TIMEOUT = 1.0
"""Seconds that a server is given to tell the states of an enum."""
_LOST = frozenset((0, ECA.DISCONN, ECA.CHANDESTROY))


class WriteDeniedError(AccessRightsError, CASeverityException):
    """The server does not let this client write the PV; a `CASeverityException` too, as programs expect of `put`."""

    def __init__(self, message: str, *, pvname: str, fcn: str):
        Exception.__init__(self, message)  # those of its bases do not agree on their arguments
        self.pvname = pvname
        self.operation = "put"
        self.eca: int | None = ECA.NOWTACCESS
        self.fcn = fcn
        self.msg = eca.message(ECA.NOWTACCESS)


def put(
    chid: Chid,
    value: Any,
    wait: bool = False,
    timeout: float | None = DEFAULT_TIMEOUT,
    callback: PutCallback | None = None,
    callback_data: Any = None,
    ftype: int | None = None,
) -> int:
    """Write a value.

    Parameters
    ----------
    chid
        The channel; it is given `DEFAULT_CONNECTION_TIMEOUT` seconds to connect.
    value
        A number, a text, bytes, or a sequence or array of them: see `daqca.ca.conversion.encode_value` for what
        becomes of it. Text is written in the encoding ``ca.IOENCODING``; for an enum it must be one of its states.
    wait
        Whether to wait until the record has processed the value, at most `timeout` seconds (None: 30).
    callback
        Called then, with the keywords ``pvname`` and ``data`` (`callback_data`). It is called exactly once, also if
        the put fails or the channel is lost or cleared: then with ``status``, the ECA status, if the function takes
        such an argument. With `wait` it is called before `put` returns, by the same thread; else, or if it comes
        later than `timeout`, where all callbacks are.
    callback_data
        If it is a dictionary, what is in it is given by its names too, to a function that takes such arguments.
    ftype
        The DBR type to write; None: as fits the channel.

    Returns
    -------
    1 if it was sent, or (with `wait`) processed; -1 if that did not happen in time.

    Raises
    ------
    ChannelAccessException
        The channel is not connected, may not be written, or the server refuses (known only with `wait`).
    ConversionError
        The value does not fit the channel; nothing was sent. It is a `ChannelAccessException` too.
    """
    channel = session.channel(chid, "put")
    if callback is not None and not callable(callback):
        raise TypeError(f"put to {channel.pvname} takes a function as callback, and got {callback!r}")
    ready(channel, "put", value)
    encoded = encode(channel, value, ftype)
    native, most = channel.last_type, channel.last_count  # for errors, when the channel may be cleared
    client = channel.client
    if not wait and callback is None:
        channel.writes += 1
        client.write(channel, encoded, None, None)
        return int(ECA.NORMAL)
    caller = None if callback is None else _Caller(channel, callback, callback_data, is_here=wait)
    operation = Put(channel, None if caller is None else caller.ended)
    limit = DEFAULT_TIMEOUT if timeout is None else timeout
    try:
        client.write(channel, encoded, operation, limit if wait else None)
    except BaseException:
        with channel.lock:
            if not operation.first:  # a Ctrl-C, say, after which nobody will hear of its end
                operation.fail(ECA.DISCONN)
        raise
    finally:
        if caller is not None and wait:
            caller.leave()
    if not wait:
        return int(ECA.NORMAL)
    if not operation.done:
        return TIMED_OUT
    if operation.status != ECA.NORMAL:
        raise _failure(attempt(value, native, most, channel.pvname), channel.pvname, operation.status)
    return int(ECA.NORMAL)


def ready(channel: Channel, function: str, value: Any = None) -> None:
    """Make sure that a channel can be written.

    Parameters
    ----------
    function, value
        What is about to be called, and with what: for errors.

    Raises
    ------
    ChannelAccessException
        It does not connect in time, or may not be written.
    """
    if not channel.is_connected and not channel.client.connect(channel, surface.DEFAULT_CONNECTION_TIMEOUT):
        raise (PVDisconnectedError if channel.last_count else PVNotFoundError)(
            f"{function}() timed out waiting for {channel.pvname!r} to connect "
            f"({surface.DEFAULT_CONNECTION_TIMEOUT:g} seconds); is its IOC running?",
            pvname=channel.pvname,
            operation="put",
        )
    if not channel.access & 2:
        what = f"cannot write {channel.pvname}"
        if value is not None:
            what = attempt(value, channel.last_type, channel.last_count, channel.pvname)
        raise WriteDeniedError(
            f"{what}: its server does not let this client write it", pvname=channel.pvname, fcn=function
        )


def _failure(what: str, pvname: str, status: int) -> ChannelAccessException:
    """The error of a put that was sent."""
    if status in _LOST:
        status = status or ECA.DISCONN
        return PVDisconnectedError(
            f"{what}: {eca.message(status)}; whether it was written is not known",
            pvname=pvname,
            operation="put",
            eca=status,
        )
    return RefusedError(
        f"{what}: its server answered: {eca.message(status)}", pvname=pvname, operation="put", eca=status
    )


# --- values that only the channel can judge -----------------------------------------------------


def encode(channel: Channel, value: Any, ftype: int | None = None) -> Encoded:
    """DBR type, count and bytes of a value for a channel."""
    native, count = channel.native_type, channel.native_count
    if native < 0:
        raise PVDisconnectedError(
            f"cannot put {value!r} to {channel.pvname}: it is not connected", pvname=channel.pvname, operation="put"
        )
    if ftype is not None:
        return encode_as(value, ftype, count, channel.pvname, surface.IOENCODING)
    encoded = encode_value(value, native, count, channel.pvname, surface.IOENCODING)
    if native == DBRType.ENUM and encoded[0] == DBRType.STRING:
        return encode_states(value, encoded, channel.last_count, channel.pvname, channel.states, partial(_ask, channel))
    return encoded


def _ask(channel: Channel) -> States | None:
    try:
        known = get_ctrlvars(channel, _STATES_TIMEOUT)
    except ChannelAccessGetFailure:
        return None
    if known is not None:
        channel.states = known.get("enum_strs", ())
    return None if known is None else channel.states


def encode_states(
    value: Any, encoded: Encoded, most: int, pvname: str, states: States | None, ask: Callable[[], States | None]
) -> Encoded:
    """Text for an enum: names of its states go as they are, and the numbers that a text says as numbers.

    The server would refuse what it does not know; but who does not wait would never hear of it.

    Parameters
    ----------
    value, encoded
        What is to be written, and what `daqca.ca.conversion.encode_value` made of it.
    most
        How many elements the PV can have.
    states
        What is known of the states, perhaps from long ago; None: nothing.
    ask
        Asks the server for them; None: it does not tell.
    """
    payload = encoded[2]
    texts = [payload[i : i + MAX_STRING_SIZE].rstrip(b"\0") for i in range(0, len(payload), MAX_STRING_SIZE)]
    if not states or not all(is_state(text, states) for text in texts):
        states = ask()
        if states is None:
            return encoded
    if not states:
        return encode_as(value, DBRType.ENUM, most, pvname, surface.IOENCODING)
    wrong = [decode_string(text) for text in texts if not is_state(text, states)]
    if not wrong:
        return encoded
    numbers = [number for text in texts if (number := _number(text)) is not None]
    if len(numbers) == len(texts) and 0 <= min(numbers) <= max(numbers) < len(states):
        return encode_value(numbers, DBRType.ENUM, most, pvname)
    if len(states) >= MAX_ENUM_STATES:  # a menu may have more choices than Channel Access tells
        return encoded
    raise ConversionError(
        f"{attempt(value, DBRType.ENUM, most, pvname)}: {wrong[0]!r} is none of its states, "
        f"which are {', '.join(map(repr, states))}",
        pvname=pvname,
        operation="put",
    )


def is_state(text: bytes, states: States) -> bool:
    """Whether a text is the name of a state, of which Channel Access tells 25 bytes at most."""
    told = MAX_ENUM_STRING_SIZE - 1
    return decode_string(text) in states or (len(text) > told and decode_string(text[:told]) in states)


def _number(text: bytes) -> int | None:
    """The number of a state that a text says."""
    for base in (0, 10):
        with suppress(ValueError):
            return int(text, base)
    return None


# --- callbacks ----------------------------------------------------------------------------------


class _Caller:
    """Calls a put's callback, once.

    Parameters
    ----------
    is_here
        Whether a thread waits in `put` that will make the call itself.
    """

    def __init__(self, channel: Channel, callback: PutCallback, data: Any, is_here: bool):
        self._channel = channel
        self._callback = callback
        self._data = data
        self._is_here = is_here
        self._status: int | None = None

    def ended(self, status: int) -> None:
        """The put has ended. Under the context's lock."""
        self._status = status or ECA.DISCONN
        if not self._is_here:
            self._channel.client.dispatcher.call(self._tell)

    def leave(self) -> None:
        """The thread in `put` makes the call now, or leaves it to the dispatcher."""
        with self._channel.lock:
            self._is_here = False
            if self._status is None:
                return
        self._call()

    def _tell(self) -> None:
        """The call, after which nobody raises an error."""
        client, pvname, status = self._channel.client, self._channel.pvname, self._status
        if status not in (None, ECA.NORMAL, ECA.CHANDESTROY):  # the last is no exception, but what somebody wanted
            client.tell_exception("put", status, self._channel, f"put {pvname}: {eca.message(status)}")
        self._call()

    def _call(self) -> None:
        given = arguments(self._callback, self._data, self._status)
        self._channel.client.guard(self._callback, pvname=self._channel.pvname, **given)


def arguments(callback: PutCallback, data: Any, status: int | None) -> dict[str, Any]:
    """The keywords that a put's callback is given beside ``pvname``: see `put`."""
    given: dict[str, Any] = {"data": data}
    more: dict[str, Any] = {} if status is None or status == ECA.NORMAL else {"status": int(status)}
    if more or data is None or isinstance(data, dict):
        names, takes_all = _parameters(callback)
        if isinstance(data, dict):  # PyEpics gives what is in it
            more = {**{name: item for name, item in data.items() if isinstance(name, str)}, **more}
            given["data"] = data.get("data", data)
        if (data is None or isinstance(data, dict)) and "data" not in names and not takes_all:
            given = {}
        given.update({name: more[name] for name in more.keys() - {"pvname", "data"} if takes_all or name in names})
    return given


def _parameters(function: Callable[..., Any]) -> tuple[set[str], bool]:
    """The names that a function takes as keywords, and whether it takes any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {"pvname", "data"}, False
    named = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return named, any(each.kind is each.VAR_KEYWORD for each in parameters)
