"""From updates to calls of users' callbacks: one by one, and for many numbers in columns.

The keywords are those of the manual's chapter 4.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import daqca.ca as surface
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.raw import metadata_of, raw_of, value_of
from daqca.ca.lowlevel.subscription import Subscription
from daqca.events import Event, Records

Failed = Callable[[Callable[..., Any], str | None], None]
"""Told of a callback that raised."""

_NORMAL = int(ECA.NORMAL)


def call_back(subscription: Subscription, event: Event, data: memoryview | bytes, failed: Failed) -> None:
    """Call a subscription's callback for one update."""
    callback = subscription.callback
    if callback is None:
        return
    raw = raw_of(subscription.dbr_type, tuple(event), data)
    channel = subscription.channel
    as_numpy = raw.count < surface.AUTOMONITOR_MAXLENGTH or surface.HAS_NUMPY
    try:
        value = value_of(raw, None, channel.is_array, as_numpy)
        known = {"status": _NORMAL, **metadata_of(raw)}
        callback(value=value, count=raw.count, **subscription.fixed, **known)
    except Exception:
        failed(callback, channel.pvname)


def call_back_numbers(records: Records, subscriptions: Mapping[int, Subscription], failed: Failed) -> None:
    """Call the callbacks of many updates that are single numbers, each in its order.

    Parameters
    ----------
    records
        Array of `daqca.events.EVENT`, shape (n,), all UPDATE events with a number.
    subscriptions
        By the events' tokens.
    """
    timestamps = records["timestamp"]
    seconds = timestamps // 1_000_000_000
    nanoseconds = timestamps - seconds * 1_000_000_000
    stamps = seconds + 1e-6 * (nanoseconds // 1000)
    find = subscriptions.get
    for token, number, status, severity, stamp, second, nanosecond in zip(
        records["token"].tolist(),
        records["value"].tolist(),
        records["status"].tolist(),
        records["severity"].tolist(),
        stamps.tolist(),
        seconds.astype(float).tolist(),
        nanoseconds.tolist(),
        strict=True,
    ):
        subscription = find(token)
        if subscription is None or (callback := subscription.callback) is None:
            continue
        try:
            if subscription.is_plain:
                callback(
                    value=int(number) if subscription.is_integer else number,
                    pvname=subscription.pvname,
                    chid=subscription.chid,
                    ftype=subscription.dbr_type,
                    count=1,
                    status=_NORMAL,
                )
            elif subscription.is_timed:
                callback(
                    value=int(number) if subscription.is_integer else number,
                    pvname=subscription.pvname,
                    chid=subscription.chid,
                    ftype=subscription.dbr_type,
                    count=1,
                    status=status,
                    severity=severity,
                    timestamp=stamp,
                    posixseconds=second,
                    nanoseconds=nanosecond,
                )
            else:
                row = Event(0, 1, 0, status, severity, 0, number, 1, token)
                call_back(subscription, row, b"", failed)
        except Exception:
            failed(callback, subscription.pvname)
