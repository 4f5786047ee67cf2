"""What one can be told: versions, messages, the state of contexts and channels, and what fails unasked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import daqca.ca as surface
from daqca.ca import eca
from daqca.ca.lowlevel.groups import Data
from daqca.ca.lowlevel.raw import Raw, text_of, value_of
from daqca.ca.lowlevel.session import session
from daqca.ca.protocol import MINOR_VERSION
from daqca.errors import ChannelAccessException

Writer = Callable[[str], Any]


def version() -> str:
    """The version of Channel Access that is spoken: ``4.13``."""
    return f"4.{MINOR_VERSION}"


def message(status: int) -> str:
    """EPICS' words for an ECA status."""
    return eca.message(int(status))


def replace_printf_handler(fcn: Writer | None = None) -> None:
    """Have messages of Channel Access written by ``fcn(text)``; None: to standard error.

    They tell of what fails unasked: see `add_exception_event`. They are not written unless this or
    `enable_ca_messages` was called, or `WITH_CA_MESSAGES` is true; the log ``daqca.ca`` always has them.
    """
    if fcn is not None and not callable(fcn):
        raise ChannelAccessException(f"replace_printf_handler takes a function, and got {fcn!r}")
    session.printf_handler = fcn if fcn is not None else _to_stderr


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)


def enable_ca_messages(writer: Writer | str | None = "stderr") -> None:
    """Have messages written: to ``"stderr"``, to ``"stdout"``, or by a function; None: not."""
    if writer is None:
        disable_ca_messages()
    elif isinstance(writer, str):
        replace_printf_handler(None if writer == "stderr" else lambda text: sys.stdout.write(text))
    else:
        replace_printf_handler(writer)


def disable_ca_messages() -> None:
    """Have messages not written."""
    session.printf_handler = None


def add_exception_event(callback: Callable[..., Any] | None = None) -> None:
    """Have a function told of what fails without anybody waiting for it, in the current context.

    It is called with the keywords ``op`` (``"put"``, ``"create_subscription"``, ``"event"``), ``status`` (an ECA
    status), ``message``, ``pvname``, ``chid`` (a number; None, if no channel is concerned) and ``context``. None
    removes all. (In C: ca_add_exception_event.)
    """
    client = session.needed()
    if callback is None:
        client.exception_callbacks.clear()
    else:
        client.exception_callbacks.append(callback)


def client_status(context: int | None = None, level: int = 0) -> dict[str, Any]:
    """Print (to standard error) how a context is doing, and return it.

    Parameters
    ----------
    context
        None: the current one.
    level
        0: a line with counts; 1: also a line for each channel; 2: also all counters.

    Returns
    -------
    A dictionary with the counters of the context, and under ``channels`` a dictionary for each channel by name.
    """
    client = session.needed() if context is None else session.contexts.get(context)
    if client is None:
        raise ChannelAccessException(f"client_status: there is no context {context!r}")
    client.begin()
    channels = {}
    for channel in list(client.channels.values()):
        channels[channel.pvname] = {
            "chid": int(channel),
            "connected": channel.is_connected,
            "state": channel.state(),
            "host": client.host(channel),
            "type": channel.native_type,
            "count": channel.native_count,
            "access": channel.access,
            "subscriptions": len(channel.subscriptions),
        }
    report = {
        **client.context.stats(),
        "context": client.number,
        "preemptive": client.preemptive,
        "callback_errors": client.dispatcher.errors,
        "callback_events_waiting": client.dispatcher.waiting,
        "callback_events_dropped": client.dispatcher.dropped,
    }
    connected = sum(bool(known["connected"]) for known in channels.values())
    lines = [
        f"Context {client.number:#x}: {len(channels)} channels, {connected} connected, "
        f"{report['circuits']} circuits, {report['subscriptions']} subscriptions"
    ]
    if level > 0:
        for name, known in channels.items():
            where = (
                f"{known['host']}, {known['count']} x type {known['type']}" if known["connected"] else "not connected"
            )
            lines.append(f"  {name}: {where}")
    if level > 1:
        lines += [f"  {name} = {value}" for name, value in report.items()]
    sys.stderr.write("\n".join(lines) + "\n")
    return {**report, "channels": channels}


def show_cache(print_out: bool = True) -> str | None:
    """A list of all channels, with their context and whether they are connected.

    Parameters
    ----------
    print_out
        Whether to print it; else it is returned.
    """
    lines = [
        "#  PVName        ChannelID/Context Connected?",
        "#--------------------------------------------",
    ]
    for number, channels in list(session.cache.items()):
        for channel in list(channels.values()):
            lines.append(f" {channel.pvname:15s} {int(channel)}/{number}  {channel.is_connected}")
    text = "\n".join(lines)
    if print_out:
        print(text)
        return None
    return text


def _unpack(
    first: Any = None,
    data: Any = None,
    count: int | None = None,
    ftype: int | None = None,
    as_numpy: bool | None = None,
    *,
    chid: Any = None,
) -> Any:
    """The Python value of raw data: of what `sg_get` gives, or of a ctypes array.

    Both ``_unpack(chid, data)`` and ``_unpack(data, chid=chid)`` work, for the manual has both.

    Parameters
    ----------
    chid
        The channel; None: not known.
    count
        At most so many elements; None: all.
    ftype
        Without effect where the data say their type.
    as_numpy
        Whether arrays are NumPy arrays; None: as was said to `sg_get`, or yes.

    Returns
    -------
    The value; None if there are no data (yet).
    """
    if chid is None and data is not None:
        chid = first
    elif data is None:
        data = first
    if isinstance(data, Data):
        raw = data.raw
        if raw is None:
            return None
        numpy = data.as_numpy if as_numpy is None else as_numpy
        value = value_of(raw, count, data.channel.is_array, numpy)
        return text_of(value, raw.ftype, _states(data)) if data.as_string else value
    channel = None if chid is None else session.channel(chid, "_unpack")
    is_array = channel is not None and channel.is_array
    if isinstance(data, Raw):
        return value_of(data, count, is_array, as_numpy is not False)
    if data is None:
        return None
    values = list(data)[: count or None]
    if ftype is None and channel is not None:
        ftype = channel.native_type
    if len(values) == 1 and not is_array:
        return values[0]
    if as_numpy is False or not surface.HAS_NUMPY:
        return data
    import numpy as np

    from daqca.dbr import NP_Map, native_type

    return np.array(values, NP_Map.get(native_type(ftype if ftype is not None else 1)))


def _states(data: Data) -> tuple[str, ...] | None:
    from daqca.ca.lowlevel.getting import get_enum_strings

    return get_enum_strings(data.channel) if data.ftype % 7 == 3 else None
