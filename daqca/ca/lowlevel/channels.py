"""Creating, connecting and asking about channels: the manual's chapter 4.3.1."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import daqca.ca as surface
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.channel import Channel, ConnectionCallback
from daqca.ca.lowlevel.session import session
from daqca.dbr import CS_CONN, CTRL_STRING, TIME_STRING, chid_t
from daqca.errors import ChannelAccessException, ConfigurationError

Chid = chid_t | int
"""What functions take for a channel: what `create_channel` returned, or its number."""


def create_channel(
    pvname: str, connect: bool = False, callback: ConnectionCallback | None = None, auto_cb: bool = True
) -> Channel:
    """A channel of the current context; of one name there is one, however often it is created.

    It is searched at once, and connects by itself, whenever its server is there.

    Parameters
    ----------
    pvname
        The name.
    connect
        Whether to wait until it is connected, at most `DEFAULT_CONNECTION_TIMEOUT` seconds.
    callback
        Called with the keywords ``pvname``, ``chid`` and ``conn`` whenever the channel connects or is lost; at once,
        if it is connected already.
    auto_cb
        Without effect: channels always know whether they are connected.

    Raises
    ------
    ChannelAccessException
        No PV can have this name.
    """
    if not isinstance(pvname, str):
        raise TypeError(f"create_channel takes the name of a PV, and got {pvname!r}")
    if callable(auto_cb) and not callable(callback):
        callback = auto_cb  # in PyEpics 3.5 these two stand the other way round
    client = session.needed()
    try:
        channel, is_new = client.channel(pvname)
    except ConfigurationError as error:
        raise ChannelAccessException(f"create_channel: {error}") from error
    if is_new:
        with channel.lock:
            if not channel.is_cleared:  # by another thread, that has had it right now
                session.channels[int(channel)] = channel
    if callable(callback) and callback not in channel.callbacks and channel.add_callback(channel.callbacks, callback):
        client.guard(callback, pvname=pvname, chid=int(channel), conn=True)
        if not channel.is_connected:  # lost meanwhile: that may have been told before it was told to be there
            client.guard(callback, pvname=pvname, chid=int(channel), conn=False)
    if connect:
        connect_channel(channel)
    return channel


def connect_channel(chid: Chid, timeout: float | None = None, verbose: bool = False) -> bool:
    """Wait until a channel is connected.

    Parameters
    ----------
    timeout
        In seconds; None: `DEFAULT_CONNECTION_TIMEOUT`.
    verbose
        Whether to print what is waited for.

    Returns
    -------
    Whether it is connected.
    """
    channel = session.channel(chid, "connect_channel")
    if verbose:
        print(f" connect channel -> {channel!r}, state {channel.state()}, wanted {CS_CONN}")
    if channel.is_connected:
        return True
    connected = channel.client.connect(channel, surface.DEFAULT_CONNECTION_TIMEOUT if timeout is None else timeout)
    if not connected:
        with channel.lock:
            channel.ts = time.time()
            channel.failures += 1
    return connected


def clear_channel(chid: Chid) -> int:
    """Clear a channel, with its subscriptions; returns ECA_NORMAL.

    Gets and puts that are under way end now. A put's callback is called (see `put`).
    """
    if sys.is_finalizing():
        return int(ECA.NORMAL)
    channel = session.channel(chid, "clear_channel")
    channel.client.clear(channel)
    session.channels.pop(int(channel), None)
    return int(ECA.NORMAL)


def name(chid: Chid) -> str:
    """The name of a channel's PV."""
    return session.channel(chid, "name").pvname


def host_name(chid: Chid) -> str:
    """The server of a channel, ``address:port``; ``<disconnected>`` if it is not connected."""
    channel = session.channel(chid, "host_name")
    return channel.client.host(channel) or "<disconnected>"


def element_count(chid: Chid) -> int:
    """How many elements a channel's value can have; 0 if it is not connected."""
    return session.channel(chid, "element_count").native_count


def field_type(chid: Chid) -> int:
    """The DBR type of a channel, 0 to 6; -1 if it is not connected."""
    return session.channel(chid, "field_type").native_type


def read_access(chid: Chid) -> int:
    """1 if the channel may be read, 0 if not (or it is not connected)."""
    return session.channel(chid, "read_access").access & 1


def write_access(chid: Chid) -> int:
    """1 if the channel may be written, 0 if not (or it is not connected)."""
    return session.channel(chid, "write_access").access >> 1


def access(chid: Chid) -> str:
    """``no access``, ``read-only``, ``write-only`` or ``read/write``."""
    return ("no access", "read-only", "write-only", "read/write")[session.channel(chid, "access").access]


def state(chid: Chid) -> int:
    """The state of a channel: ``daqca.dbr.CS_CONN`` and the like."""
    return session.channel(chid, "state").state()


def isConnected(chid: Chid) -> bool:
    """Whether a channel is connected."""
    return session.channel(chid, "isConnected").is_connected


def promote_type(chid: Chid, use_time: bool = False, use_ctrl: bool = False) -> int:
    """The TIME or CTRL variant of a channel's type (of a STRING there is no CTRL variant: it is TIME)."""
    return promote_fieldtype(field_type(chid), use_time, use_ctrl)


def promote_fieldtype(ftype: int, use_time: bool = False, use_ctrl: bool = False) -> int:
    """The TIME or CTRL variant of a plain type."""
    if use_ctrl:
        ftype += CTRL_STRING
    elif use_time:
        ftype += TIME_STRING
    return TIME_STRING if ftype == CTRL_STRING else ftype


def replace_access_rights_event(chid: Chid, callback: Callable[[bool, bool], Any] | None = None) -> None:
    """Have ``callback(read_access, write_access)`` called when a channel's access rights change.

    It is called at once if the channel is connected, and whenever it connects. (In C: ca_replace_access_rights_event.)
    """
    channel = session.channel(chid, "replace_access_rights_event")
    if callback is None:
        return
    if channel.add_callback(channel.access_event_callback, callback):
        rights = channel.access
        channel.client.guard(callback, bool(rights & 1), bool(rights & 2))


def get_cache(pvname: str) -> Channel | None:
    """The entry of a name in the current context; None if it has none."""
    current = session.current()
    return None if current is None else current.channels.get(pvname)
