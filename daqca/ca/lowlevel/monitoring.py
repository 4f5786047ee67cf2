"""Watching channels: subscriptions with a callback. Manual, chapters 4.3.2 and 4.5."""

from __future__ import annotations

from typing import Any

import daqca.ca as surface
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.channels import Chid, promote_fieldtype
from daqca.ca.lowlevel.session import session
from daqca.ca.lowlevel.subscription import Callback, Subscription
from daqca.errors import ChannelAccessException

_LAST_TYPE = 38


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
    may take its time, and may call anything.

    Parameters
    ----------
    use_time, use_ctrl
        Whether to ask for the TIME or CTRL variant of the type.
    ftype
        The type to begin with; None: the channel's, which must connect for it in time.
    mask
        `daqca.dbr.DBE_VALUE`, ``DBE_LOG``, ``DBE_ALARM`` and ``DBE_PROPERTY``, added; None:
        `DEFAULT_SUBSCRIPTION_MASK`.
    callback
        Called with the keywords ``pvname``, ``value``, ``count``, ``ftype``, ``status`` and ``chid`` (a number), and
        what the variant of the type has: see `get_with_metadata`. ``status`` is the alarm status where the variant has
        one, and else 1.
    count
        At most so many elements; 0: as many as there are.
    timeout
        Seconds to connect; None: `DEFAULT_CONNECTION_TIMEOUT`.

    Returns
    -------
    The callback, `callback` again (in C: what is passed to it), and the event id for `clear_subscription`.

    Raises
    ------
    ChannelAccessException
        The channel does not connect in time, or there is no such type.
    """
    channel = session.channel(chid, "create_subscription")
    client = channel.client
    if callback is not None and not callable(callback):
        raise TypeError(f"create_subscription({channel.pvname!r}) takes a function as callback, and got {callback!r}")
    if ftype is None:
        limit = surface.DEFAULT_CONNECTION_TIMEOUT if timeout is None else timeout
        if not client.connect(channel, limit):
            raise ChannelAccessException(
                f"create_subscription() timed out waiting for {channel.pvname!r} to connect ({limit:g} seconds)"
            )
        ftype = channel.native_type
    wanted = promote_fieldtype(int(ftype), use_time, use_ctrl)
    if not 0 <= wanted <= _LAST_TYPE:
        raise ChannelAccessException(f"create_subscription({channel.pvname!r}): there is no DBR type {wanted}")
    subscription = Subscription(channel, callback, wanted, count, mask or surface.DEFAULT_SUBSCRIPTION_MASK)
    client.subscribe(subscription)
    return callback, callback, subscription


def clear_subscription(event_id: Subscription) -> int:
    """End a subscription, given its event id (the last of what `create_subscription` returned); returns ECA_NORMAL.

    Nothing more is told, not even of updates that have come already.

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
    event_id.channel.client.unsubscribe(event_id)
    return int(ECA.NORMAL)
