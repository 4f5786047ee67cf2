"""Watching channels: subscriptions with a callback. Manual, chapters 4.3.2 and 4.5."""

from __future__ import annotations

import operator
import sys
from typing import Any, SupportsIndex

import daqca.ca as surface
from daqca.ca.eca import ECA, message
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.channels import Chid, promote_fieldtype
from daqca.ca.lowlevel.session import session
from daqca.ca.lowlevel.subscription import Callback, Subscription
from daqca.dbr import CLASS_NAME
from daqca.errors import CASeverityException, ChannelAccessException
from daqca.link import NATIVE, NATIVE_CTRL, NATIVE_TIME

_LAST_MASK = 0xFF
_LAST_COUNT = 0xFFFFFFFF


def create_subscription(
    chid: Chid,
    use_time: bool = False,
    use_ctrl: bool = False,
    ftype: int | None = None,
    mask: int | None = None,
    callback: Callback | None = None,
    count: int = 0,
    timeout: float | None = None,
) -> tuple[Any, Any, Subscription]:
    """Have a function called for every update of a channel.

    It lives until `clear_subscription`, or until its channel is cleared, whether the result is kept or not, and it
    survives reconnections. The callback runs on a thread of its own (without preemption: in `pend_event` and `poll`),
    may take its time, and may call anything. What it raises is logged and counted (see `client_status`), and it stays.

    Parameters
    ----------
    use_time, use_ctrl
        Whether to ask for the TIME or CTRL variant of the type.
    ftype
        The type to begin with. None: the channel's, which must connect for it in time; if it has another one after a
        reconnection, the subscription follows it.
    mask
        `daqca.dbr.DBE_VALUE`, ``DBE_LOG``, ``DBE_ALARM`` and ``DBE_PROPERTY``, added; None (or 0):
        `DEFAULT_SUBSCRIPTION_MASK`.
    callback
        Called with the keywords ``pvname``, ``value``, ``count``, ``ftype``, ``status`` and ``chid`` (a number), and
        what the variant of the type has: see `get_with_metadata`. ``status`` is the alarm status where the variant has
        one, and else 1.
    count
        So many elements, or as many as the channel can have, if that is less; the server fills up with zeros what
        the value has not. 0: those that the value has.
    timeout
        Seconds to connect; None: `DEFAULT_CONNECTION_TIMEOUT`.

    Returns
    -------
    The callback, `callback` again (in C: what is passed to it), and the event id for `clear_subscription`.

    Raises
    ------
    ChannelAccessException
        The channel does not connect in time.
    CASeverityException
        There is no such type, mask or count.
    """
    channel = session.channel(chid, "create_subscription")
    if callback is not None and not callable(callback):
        raise TypeError(f"create_subscription({channel.pvname!r}) takes a function as callback, and got {callback!r}")
    mask = mask or surface.DEFAULT_SUBSCRIPTION_MASK
    mask = _checked(channel, ECA.BADMASK, mask, 1, _LAST_MASK)
    count = _checked(channel, ECA.BADCOUNT, count, 0, _LAST_COUNT)
    if ftype is None:
        _connect(channel, timeout)
        wanted = NATIVE_CTRL if use_ctrl else NATIVE_TIME if use_time else NATIVE
    else:
        ftype = _checked(channel, ECA.BADTYPE, ftype, 0, CLASS_NAME)
        wanted = _checked(channel, ECA.BADTYPE, promote_fieldtype(ftype, use_time, use_ctrl), 0, CLASS_NAME)
    if channel.is_connected:
        count = min(count, channel.native_count)
    subscription = Subscription(channel, callback, wanted, count, mask)
    channel.client.subscribe(subscription)
    return callback, callback, subscription


def _checked(channel: Channel, status: ECA, value: SupportsIndex, lowest: int, highest: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if lowest <= number <= highest:
        return number
    raise CASeverityException("create_subscription", f"{message(status)}: {value!r} for {channel.pvname}")


def _connect(channel: Channel, timeout: float | None) -> None:
    limit = surface.DEFAULT_CONNECTION_TIMEOUT if timeout is None else timeout
    if not channel.client.connect(channel, limit):
        raise ChannelAccessException(
            f"create_subscription() timed out waiting for {channel.pvname!r} to connect ({limit:g} seconds)"
        )


def clear_subscription(event_id: Subscription) -> int:
    """End a subscription, given its event id (the last of what `create_subscription` returned); returns ECA_NORMAL.

    Its callback is not called after this, not even for updates that have come already. If it is being called by
    another thread right now, this waits for it to return, for 5 seconds at most: hold no lock that it wants.

    Raises
    ------
    ChannelAccessException
        It is no event id.
    """
    if isinstance(event_id, tuple) and len(event_id) == 3:
        event_id = event_id[2]
    if not isinstance(event_id, Subscription):
        raise ChannelAccessException(
            "clear_subscription: expected an event id, the last of what create_subscription returns, and got "
            f"{event_id!r}"
        )
    if not sys.is_finalizing():  # else threads stand still, with whatever locks they hold
        event_id.channel.client.unsubscribe(event_id)
        event_id.wait_for_caller()
    return int(ECA.NORMAL)
