"""What one can be told: versions, messages, the state of contexts and channels, and what fails unasked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import daqca.ca as surface
from daqca.ca import eca
from daqca.ca.lowlevel.getting import get_enum_strings
from daqca.ca.lowlevel.groups import Data
from daqca.ca.lowlevel.raw import Raw, decode_string, metadata_of, text_of, value_of
from daqca.ca.lowlevel.session import session
from daqca.ca.protocol import MINOR_VERSION
from daqca.dbr import ENUM, STRING, Map, NP_Map, native_type
from daqca.errors import ChannelAccessException

Writer = Callable[[str], Any]
_NOT_GIVEN = object()


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


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)


def _to_nobody(text: str) -> None:
    pass


_STREAMS: dict[str, Writer] = {"stderr": _to_stderr, "stdout": _to_stdout}


def enable_ca_messages(writer: Writer | str | None = "stderr") -> None:
    """Have messages written: to ``"stderr"``, to ``"stdout"``, or by a function; None: not."""
    if isinstance(writer, str) and writer not in _STREAMS:
        raise ChannelAccessException(f"enable_ca_messages takes 'stderr', 'stdout' or a function, and got {writer!r}")
    if writer is None:
        disable_ca_messages()
    else:
        replace_printf_handler(_STREAMS.get(writer) if isinstance(writer, str) else writer)


def disable_ca_messages() -> None:
    """Have messages not written, also if `WITH_CA_MESSAGES` is true."""
    session.printf_handler = _to_nobody


def write(msg: str, newline: bool = True, flush: bool = True) -> None:
    """Write a text to standard output."""
    sys.stdout.write(f"{msg}\n" if newline else msg)
    if flush:
        sys.stdout.flush()


def add_exception_event(callback: Callable[..., Any] | None = None) -> None:
    """Have a function told of what fails without anybody waiting for it, in the current context.

    Parameters
    ----------
    callback
        Called, on the thread of all callbacks, with the keywords ``op`` (``"put"``, ``"sg_put"``,
        ``"create_subscription"``; ``"event"``, if updates were dropped because callbacks are too slow), ``status`` (an
        ECA status), ``message`` (a text), ``pvname`` and ``chid`` (a number; both None, if no channel is concerned) and
        ``context``. None: all that were added are removed. (In C: ca_add_exception_event.)
    """
    if callback is not None and not callable(callback):
        raise ChannelAccessException(f"add_exception_event takes a function, and got {callback!r}")
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
    data: Any = _NOT_GIVEN,
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
    if data is _NOT_GIVEN:
        data = first
    elif chid is None:
        chid = first
    if isinstance(data, Data):
        raw = data.raw
        if raw is None:
            return None
        value = value_of(raw, count, data.most > 1, data.as_numpy if as_numpy is None else as_numpy)
        return _text(value, raw, count, data) if data.as_string else value
    channel = None if chid is None else session.channel(chid, "_unpack")
    is_array = channel is not None and channel.is_array
    if isinstance(data, Raw):
        return value_of(data, count, is_array, as_numpy is not False)
    if data is None:
        return None
    if ftype is None and channel is not None and channel.is_connected:
        ftype = channel.native_type
    return _unpack_plain(data, count, 1 if ftype is None else native_type(ftype), is_array, as_numpy is not False)


def _unpack_plain(data: Any, count: int | None, ftype: int, is_array: bool, as_numpy: bool) -> Any:
    """Elements of a plain type in a ctypes array, or in any other sequence."""
    values = data[: count or None]
    if ftype == STRING:
        texts = [value if isinstance(value, str) else decode_string(bytes(value)) for value in values]
        return texts[0] if len(texts) == 1 and not is_array else texts
    if len(values) == 1 and not is_array:
        return values[0]
    if as_numpy and surface.HAS_NUMPY:
        return np.array(values, NP_Map.get(ftype))
    return (Map[ftype] * len(values))(*values)


def _text(value: Any, raw: Raw, count: int | None, data: Data) -> str:
    states = metadata_of(raw).get("enum_strs")
    if states is None and native_type(raw.ftype) == ENUM and isinstance(value, int):
        states = get_enum_strings(data.channel)
    return text_of(value, raw.ftype, states, min(count or data.most, data.most))
