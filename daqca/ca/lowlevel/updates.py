"""From updates to calls of users' callbacks: numbers in columns or rows, what is no number one by one.

The keywords are those of the manual's chapter 4.5. When callbacks are called is decided in `client`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import islice
from threading import get_ident
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.ca.dbr import padding, value_offset
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.raw import Raw, metadata_of, raw_of, value_of
from daqca.ca.lowlevel.subscription import TIME, Subscription
from daqca.events import Batch, Kind, Records, has_number

Failed = Callable[[Callable[..., Any], str | None], None]
"""Told of a callback that raised."""
Subscriptions = Mapping[int, Subscription]
"""By the token of their events."""

FAILURES = (Exception, SystemExit)
"""What a callback may raise, and all goes on: ``sys.exit()`` would end the thread that calls all others."""
_UPDATE, _NORMAL = int(Kind.UPDATE), int(ECA.NORMAL)
_NO_ALARM = {"status": _NORMAL}
_FLOAT, _CHAR, _DOUBLE = 2, 4, 6
_FIRST_GR, _LAST_CTRL = 21, 34

_PADDING = {ftype: padding(ftype) for ftype in range(_FIRST_GR, _LAST_CTRL + 1)}
"""Where servers send what happened to be in their memory."""

_Number = tuple[int, float, int, int, int, float, float, int]
"""Token, value, DBR type, status, severity, and the time in its three forms (see `raw.time_fields`)."""


def call_back_all(batch: Batch, subscriptions: Subscriptions, failed: Failed) -> None:
    """Call the callbacks of updates, each in its order.

    Parameters
    ----------
    batch
        UPDATE events and no others.
    """
    if batch.is_small:
        _call_back_rows(batch, subscriptions, failed)
    else:
        _call_back_records(batch, subscriptions, failed)


def _call_back_rows(batch: Batch, subscriptions: Subscriptions, failed: Failed) -> None:
    numbers: list[_Number] = []
    for row in batch.rows():
        subscription = subscriptions.get(row[8])
        if subscription is None:
            continue
        _, _, dbr_type, status, severity, timestamp, value, _, token = row
        if type(value) is tuple or (dbr_type == _CHAR and subscription.channel.is_array):
            _call_back_numbers(numbers, subscriptions, failed)
            numbers = []
            call_back(subscription, row, batch.data(*value) if type(value) is tuple else b"", failed)
            continue
        seconds, nanoseconds = divmod(timestamp, 1_000_000_000)
        if dbr_type != _DOUBLE and dbr_type != _FLOAT:
            value = int(value)
        stamp = seconds + 1e-6 * (nanoseconds // 1000)
        numbers.append((token, value, dbr_type, status, severity, stamp, float(seconds), nanoseconds))
    _call_back_numbers(numbers, subscriptions, failed)


def _call_back_records(batch: Batch, subscriptions: Subscriptions, failed: Failed) -> None:
    records = batch.records
    is_number = has_number(records)
    _exclude_arrays(records, is_number, subscriptions)
    timestamps = records["timestamp"]
    seconds = timestamps // 1_000_000_000
    nanoseconds = timestamps - seconds * 1_000_000_000
    stamps = seconds + 1e-6 * (nanoseconds // 1000)
    columns = zip(
        records["token"].tolist(),
        _values(records, is_number),
        records["dbr_type"].tolist(),
        records["status"].tolist(),
        records["severity"].tolist(),
        stamps.tolist(),
        seconds.astype(float).tolist(),
        nanoseconds.tolist(),
        strict=True,
    )
    done = 0
    others = np.flatnonzero(~is_number)
    for place, event in zip(others.tolist(), batch.select(others) if len(others) else (), strict=True):
        _call_back_numbers(islice(columns, place - done), subscriptions, failed)
        next(columns)
        done = place + 1
        subscription = subscriptions.get(event.token)
        if subscription is not None:
            data = batch.data(*event.value) if isinstance(event.value, tuple) else b""
            call_back(subscription, event, data, failed)
    _call_back_numbers(columns, subscriptions, failed)


def _exclude_arrays(records: Records, is_number: npt.NDArray[np.bool_], subscriptions: Subscriptions) -> None:
    """An array of characters is one also when only one came."""
    chars = np.flatnonzero(is_number & (records["dbr_type"] == _CHAR))
    for place, token in zip(chars.tolist(), records["token"][chars].tolist(), strict=True):
        subscription = subscriptions.get(token)
        if subscription is not None and subscription.channel.is_array:
            is_number[place] = False


def _values(records: Records, is_number: npt.NDArray[np.bool_]) -> list[float]:
    """The numbers, those of whole types as int; what is there where it is no number is not to be used."""
    values, dbr_types = records["value"], records["dbr_type"]
    is_whole = is_number & (dbr_types != _DOUBLE) & (dbr_types != _FLOAT)
    found: list[float]
    if not is_whole.any():
        found = values.tolist()
    elif is_whole.all():
        found = values.astype(np.int64).tolist()
    else:
        mixed = values.astype(object)
        mixed[is_whole] = values[is_whole].astype(np.int64)
        found = mixed.tolist()
    return found


def _call_back_numbers(numbers: Iterable[_Number], subscriptions: Subscriptions, failed: Failed) -> None:
    """The loop that every update of a number goes through: here nanoseconds count."""
    find, me = subscriptions.get, get_ident()
    for token, value, dbr_type, status, severity, stamp, second, nanosecond in numbers:
        subscription = find(token)
        if subscription is None or (callback := subscription.callback) is None:
            continue
        subscription.caller = me
        try:
            if subscription.is_ended:  # just now: see `Subscription.caller`
                continue
            row = subscription.row
            if row == TIME:
                callback(
                    value=value,
                    pvname=subscription.pvname,
                    chid=subscription.chid,
                    ftype=dbr_type + TIME,
                    count=1,
                    status=status,
                    severity=severity,
                    timestamp=stamp,
                    posixseconds=second,
                    nanoseconds=nanosecond,
                )
            elif row == 0:
                callback(
                    value=value,
                    pvname=subscription.pvname,
                    chid=subscription.chid,
                    ftype=dbr_type,
                    count=1,
                    status=_NORMAL,
                )
            else:
                callback(
                    value=value,
                    pvname=subscription.pvname,
                    chid=subscription.chid,
                    ftype=dbr_type + row,
                    count=1,
                    status=status,
                    severity=severity,
                )
        except FAILURES:
            failed(callback, subscription.pvname)
        finally:
            subscription.caller = 0


def are_updates(batch: Batch) -> bool:
    """Whether all events of a batch are updates."""
    if batch.is_small:
        return all(row[1] == _UPDATE for row in batch.rows())
    return bool((batch.records["kind"] == _UPDATE).all())


def call_back(subscription: Subscription, row: tuple[Any, ...], data: memoryview | bytes, failed: Failed) -> None:
    """Call a subscription's callback for one update of any kind.

    Parameters
    ----------
    row, data
        The event in the order of `daqca.events.Event`, and its bytes.
    """
    callback = subscription.callback
    if callback is None:
        return
    raw = raw_of(subscription.type_of(row[2]), row, data)
    subscription.caller = get_ident()
    try:
        if not subscription.is_ended:
            callback(
                value=value_of(raw, None, subscription.channel.is_array),
                pvname=subscription.pvname,
                chid=subscription.chid,
                ftype=raw.ftype,
                count=raw.count,
                **(known_of(raw) or _NO_ALARM),
            )
    except FAILURES:
        failed(callback, subscription.pvname)
    finally:
        subscription.caller = 0


def known_of(raw: Raw) -> Mapping[str, Any]:
    """`metadata_of`; a mapping that is not to be changed, and the same one for the same of a GR or CTRL type."""
    if not _FIRST_GR <= raw.ftype <= _LAST_CTRL:
        return metadata_of(raw)
    head = bytearray(raw.data[: value_offset(raw.ftype)])
    for at in _PADDING[raw.ftype]:
        head[at] = 0
    return _known_of_head(raw.ftype, bytes(head))


@lru_cache(maxsize=512)
def _known_of_head(ftype: int, head: bytes) -> Mapping[str, Any]:
    """What is before the value of a GR or CTRL type: with each update it comes again, and is the same."""
    return metadata_of(Raw(ftype, 0, None, head, 0, 0, 0))
