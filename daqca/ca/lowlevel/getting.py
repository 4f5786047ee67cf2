"""Reading: values, and what comes with them. The first part of the manual's chapter 4.3.2, and chapter 10.1."""

from __future__ import annotations

import logging
import math
import operator
from typing import Any, NamedTuple

import daqca.ca as surface
from daqca.ca import eca
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.channels import Chid, promote_fieldtype
from daqca.ca.lowlevel.operations import Get
from daqca.ca.lowlevel.raw import Raw, metadata_of, raw_of, text_of, value_of
from daqca.ca.lowlevel.session import session
from daqca.dbr import CLASS_NAME, Name
from daqca.errors import CASeverityException, ChannelAccessGetFailure

log = logging.getLogger("daqca.ca")

_ENUM, _FLOATS = 3, (2, 6)
_GONE = frozenset((ECA.DISCONN, ECA.CHANDESTROY))
Metadata = dict[str, Any]


class _Form(NamedTuple):
    """In which form a value is wanted: see `get`."""

    elements: int | None
    as_string: bool
    as_numpy: bool


def get(
    chid: Chid,
    ftype: int | None = None,
    count: int | None = None,
    wait: bool = True,
    timeout: float | None = None,
    as_string: bool = False,
    as_numpy: bool = True,
) -> Any:
    """The value of a channel, from its server.

    Parameters
    ----------
    chid
        The channel; it is given `DEFAULT_CONNECTION_TIMEOUT` seconds (or `timeout`, if that is given) to connect.
    ftype
        The DBR type to ask for; None: its own.
    count
        At most so many elements; None or 0: all there are.
    wait
        Whether to wait for the answer; if not, `get_complete` gives it later.
    timeout
        Seconds to wait for it; None: 1 + log10 of the number of elements.
    as_string
        Whether to give it as a string: of an enum the state's name, of an array of characters the text (if it has
        less than `AUTOMONITOR_MAXLENGTH` elements), of other arrays a description.
    as_numpy
        Whether arrays are NumPy arrays; else they are ctypes arrays.

    Returns
    -------
    The value, as the server has it after this call: never a late answer to an earlier one, which `get_complete` is
    for. None if the channel is not connected, if the answer is not waited for, or if it did not come in time.

    Raises
    ------
    ChannelAccessGetFailure
        The server answered with an error.
    ChannelAccessException
        There is no such type.
    """
    if wait and ftype is None and count is None and not as_string:
        channel = chid if type(chid) is Channel else session.channel(chid, "get")
        limit = 1.0 if timeout is None else timeout
        answer = channel.client.read_number(channel, limit)
        if type(answer) is tuple:
            return answer[6]
        if isinstance(answer, Get):
            info = _finish(answer, _Form(None, False, as_numpy), limit)
            return None if info is None else info["value"]
    info = get_with_metadata(chid, ftype, count, wait, timeout, as_string, as_numpy)
    return None if info is None else info["value"]


def get_with_metadata(
    chid: Chid,
    ftype: int | None = None,
    count: int | None = None,
    wait: bool = True,
    timeout: float | None = None,
    as_string: bool = False,
    as_numpy: bool = True,
) -> Metadata | None:
    """`get`, with what comes beside the value: a dictionary with ``value`` and, by the type, alarm, time, limits.

    With a TIME type that is ``status``, ``severity``, ``timestamp``, ``posixseconds`` and ``nanoseconds``, with a CTRL
    type ``precision``, ``units``, ``enum_strs`` and limits.
    """
    channel = session.channel(chid, "get")
    if not _connected(channel, timeout):
        return None
    dbr_type = _type(channel, ftype)
    most = _at_most(channel, count)
    limit = _time_limit(timeout, most)
    asked = 1 if dbr_type == CLASS_NAME else most if count else 0
    with channel.lock:
        session.channel(channel, "get")  # once more: another thread may have cleared it
        earlier = channel.gets.get(dbr_type)
        if not wait and earlier is not None and earlier.will_do(asked):
            return None
        operation = Get(channel, dbr_type, asked)
        if not wait or earlier is None or earlier.done or earlier.thread == operation.thread:
            channel.gets[dbr_type] = operation  # else another thread's is left, which its `get_complete` is to find
    channel.client.read(operation, asked, limit if wait else None)
    return _finish(operation, _Form(count, as_string, as_numpy), limit) if wait else None


def type_of(channel: Channel, function: str) -> int:
    """The DBR type of a channel that has connected, also if it was lost just now.

    Parameters
    ----------
    function
        Who asks: for the error, if another thread has cleared it.
    """
    with channel.lock:
        return session.channel(channel, function).last_type


def _type(channel: Channel, ftype: int | None) -> int:
    """The DBR type to ask for."""
    if ftype is None:
        return type_of(channel, "get")
    dbr_type = operator.index(ftype)
    if not 0 <= dbr_type <= CLASS_NAME:
        raise CASeverityException("get", f"{eca.message(ECA.BADTYPE)}: {dbr_type}, for {channel.pvname}")
    return dbr_type


def _at_most(channel: Channel, count: int | None) -> int:
    """How many elements can come."""
    if count is None:
        return channel.last_count
    if operator.index(count) < 0:
        raise CASeverityException("get", f"{eca.message(ECA.BADCOUNT)}: {count}, for {channel.pvname}")
    return min(count, channel.last_count)


def _connected(channel: Channel, timeout: float | None) -> bool:
    return channel.is_connected or channel.client.connect(
        channel, surface.DEFAULT_CONNECTION_TIMEOUT if timeout is None else timeout
    )


def _time_limit(timeout: float | None, count: int) -> float:
    return 1.0 + math.log10(max(1, count)) if timeout is None else timeout


def get_complete(
    chid: Chid,
    ftype: int | None = None,
    count: int | None = None,
    timeout: float | None = None,
    as_string: bool = False,
    as_numpy: bool = True,
) -> Any:
    """The value of an earlier `get` that was not waited for, or whose answer had not come in time.

    Parameters and errors are those of `get`; `ftype` must be that of the earlier one.

    Returns
    -------
    The value; None if it has not come in time now either, or if there was no such get.
    """
    info = get_complete_with_metadata(chid, ftype, count, timeout, as_string, as_numpy)
    return None if info is None else info["value"]


def get_complete_with_metadata(
    chid: Chid,
    ftype: int | None = None,
    count: int | None = None,
    timeout: float | None = None,
    as_string: bool = False,
    as_numpy: bool = True,
) -> Metadata | None:
    """`get_complete`, with what `get_with_metadata` gives."""
    channel = session.channel(chid, "get_complete")
    operation = channel.gets.get(channel.last_type if ftype is None else operator.index(ftype))
    if operation is None:
        return None
    limit = _time_limit(timeout, _at_most(channel, count))
    if not operation.done:
        channel.client.context.flush()
        channel.client.wait(operation, limit)
    return _finish(operation, _Form(count, as_string, as_numpy), limit)


def _finish(operation: Get, form: _Form, limit: float) -> Metadata | None:
    """What came of a get that was waited for; None if nothing did."""
    channel = operation.channel
    if not operation.done:
        log.warning("get(%r): no answer within %.3g s; get_complete() may have it later", channel.pvname, limit)
        return None
    with channel.lock:
        if channel.gets.get(operation.dbr_type) is operation:
            del channel.gets[operation.dbr_type]
    raw = answered(operation)
    if raw is None:
        return None
    value = value_of(raw, form.elements, channel.is_array, form.as_numpy)
    known = metadata_of(raw)
    if form.as_string:
        states = known.get("enum_strs")
        if states is None and raw.ftype % 7 == _ENUM and isinstance(value, int):
            states = (get_ctrlvars(channel, limit) or {}).get("enum_strs")
        value = text_of(value, raw.ftype, states, _at_most(channel, form.elements))
    return {**known, "value": value}


def answered(operation: Get) -> Raw | None:
    """What came; None if the channel was lost before.

    Raises
    ------
    ChannelAccessGetFailure
        The server answered with an error.
    """
    if operation.status == ECA.NORMAL:
        return raw_of(operation.dbr_type, operation.row, operation.data)
    channel = operation.channel
    if operation.status in _GONE or not operation.status:
        return None
    form = "" if operation.dbr_type == channel.last_type else f" as {Name(operation.dbr_type)}"
    raise ChannelAccessGetFailure(
        f"cannot get {channel.pvname}{form}: its server answered: {eca.message(operation.status)}",
        channel,
        operation.status,
    )


def _variant(chid: Chid, timeout: float, use_time: bool = False, use_ctrl: bool = False) -> Metadata | None:
    channel = session.channel(chid, "get")
    if not _connected(channel, timeout):
        return None
    ftype = promote_fieldtype(type_of(channel, "get"), use_time, use_ctrl)
    info = get_with_metadata(channel, ftype, 1, True, timeout)
    if info is not None:
        del info["value"]
    return info


def get_ctrlvars(chid: Chid, timeout: float = 5.0, warn: bool = True) -> Metadata | None:
    """The CTRL fields of a channel: alarm, precision, units, limits, the names of an enum's states.

    Returns
    -------
    A dictionary (see the manual's table of control attributes); None if the channel does not answer in time.
    """
    return _variant(chid, timeout, use_ctrl=True)


def get_timevars(chid: Chid, timeout: float = 5.0, warn: bool = True) -> Metadata | None:
    """The TIME fields of a channel: status, severity, timestamp, posixseconds, nanoseconds.

    Returns
    -------
    A dictionary; None if the channel does not answer in time.
    """
    return _variant(chid, timeout, use_time=True)


def get_timestamp(chid: Chid) -> float:
    """When a channel's value was last updated, in seconds since the Unix epoch; 0 if it does not say."""
    known = get_timevars(chid)
    return 0 if known is None else known["timestamp"]


def get_severity(chid: Chid) -> int:
    """The alarm severity of a channel; 0 if it does not say."""
    known = get_timevars(chid)
    return 0 if known is None else known["severity"]


def get_precision(chid: Chid) -> int | None:
    """The number of decimals of a channel; 0 if its type is neither FLOAT nor DOUBLE, None if it does not answer."""
    channel = session.channel(chid, "get_precision")
    if not _connected(channel, None):
        return None
    if type_of(channel, "get_precision") not in _FLOATS:
        return 0
    known = get_ctrlvars(channel)
    return None if known is None else known.get("precision")


def get_enum_strings(chid: Chid) -> tuple[str, ...] | None:
    """The names of the states of an enum; None if the channel is no enum, has none, or does not answer."""
    channel = session.channel(chid, "get_enum_strings")
    if not _connected(channel, None) or type_of(channel, "get_enum_strings") != _ENUM:
        return None
    known = get_ctrlvars(channel)
    return None if known is None else known.get("enum_strs")
