"""Writing: values of any kind, with or without waiting for the record to process. Manual, chapter 4.3.2."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import daqca.ca as surface
from daqca.ca import eca
from daqca.ca.conversion import encode_as, encode_value
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.channels import Chid
from daqca.ca.lowlevel.operations import Put
from daqca.ca.lowlevel.session import session
from daqca.errors import AccessRightsError, CASeverityException, ChannelAccessException

log = logging.getLogger("daqca.ca")

PutCallback = Callable[..., Any]
TIMED_OUT = -1


class WriteDeniedError(AccessRightsError, CASeverityException):
    """The server does not let this client write the PV; a `CASeverityException` too, as programs expect of `put`."""

    def __init__(self, message: str, *, pvname: str, fcn: str):
        AccessRightsError.__init__(self, message, pvname=pvname, operation="put", eca=ECA.NOWTACCESS)
        self.fcn = fcn
        self.msg = eca.message(ECA.NOWTACCESS)


def put(
    chid: Chid,
    value: Any,
    wait: bool = False,
    timeout: float = 30,
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
        becomes of it. Text is written in the encoding ``ca.IOENCODING``.
    wait
        Whether to wait until the record has processed the value, at most `timeout` seconds.
    callback
        Called then, with the keywords ``pvname`` and ``data`` (`callback_data`); with it nothing is waited for, unless
        `wait` is true too. It is called exactly once, also if the put fails or the channel is lost or cleared: then
        with ``status``, the ECA status, if the function takes such an argument.
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
    ready(channel, "put")
    encoded = encode(channel, value, ftype)
    client = channel.client
    if not wait and callback is None:
        client.write(channel, encoded, None, None)
        return int(ECA.NORMAL)
    ended = None if callback is None else _caller(channel, callback, callback_data)
    operation = Put(channel, ended)
    client.write(channel, encoded, operation, timeout if wait else None)
    if not wait:
        return int(ECA.NORMAL)
    if not operation.done:
        return TIMED_OUT
    if operation.status != ECA.NORMAL:
        raise ChannelAccessException(
            f"put {channel.pvname}: {eca.message(operation.status or ECA.DISCONN)}; "
            "whether the value was written is not known"
            if operation.status in (0, ECA.DISCONN, ECA.CHANDESTROY)
            else f"put {channel.pvname}: its server answered: {eca.message(operation.status)}"
        )
    return int(ECA.NORMAL)


def ready(channel: Channel, function: str) -> None:
    """Make sure that a channel can be written.

    Raises
    ------
    ChannelAccessException
        It does not connect in time, or may not be written.
    """
    if not channel.is_connected and not channel.client.connect(channel, surface.DEFAULT_CONNECTION_TIMEOUT):
        raise ChannelAccessException(
            f"{function}() timed out waiting for {channel.pvname!r} to connect "
            f"({surface.DEFAULT_CONNECTION_TIMEOUT:g} seconds); is its IOC running?"
        )
    if not channel.access & 2:
        raise WriteDeniedError(
            f"cannot write {channel.pvname}: its server does not give this client the access",
            pvname=channel.pvname,
            fcn=function,
        )


def encode(channel: Channel, value: Any, ftype: int | None = None) -> tuple[int, int, bytes]:
    """DBR type, count and bytes of a value for a channel."""
    native, count = channel.native_type, channel.native_count
    if ftype is None:
        return encode_value(value, native, count, channel.pvname, surface.IOENCODING)
    return encode_as(value, ftype, count, channel.pvname, surface.IOENCODING)


def _caller(channel: Channel, callback: PutCallback, data: Any) -> Callable[[int], None]:
    """What has the callback called when the put has ended."""
    client, pvname = channel.client, channel.pvname

    def ended(status: int) -> None:
        more = {}
        if status != ECA.NORMAL:
            text = f"put {pvname}: {eca.message(status or ECA.DISCONN)}"
            client.dispatcher.call(lambda: client.tell_exception("put", status, channel, text))
            if _takes_status(callback):
                more["status"] = int(status)
        client.dispatcher.call(lambda: client.guard(callback, pvname=pvname, data=data, **more))

    return ended


def _takes_status(callback: PutCallback) -> bool:
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(each.name == "status" or each.kind is each.VAR_KEYWORD for each in parameters)
