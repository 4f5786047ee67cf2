"""The functions of the manual's chapter 2.2: read, write and watch PVs by name, on the default engine.

Each PV that they use one by one stays in the cache of `daqca.get_pv`. `caget_many` and `caput_many` make no PVs.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np

from daqca.proxies.cache import cache, name_of
from daqca.proxies.many import CONNECTION_TIMEOUT, PUT_TIMEOUT, caget_many, caput_many, connecting, seconds_of
from daqca.proxies.pause import poll
from daqca.pv_proxy import PV, get_pv

__all__ = [
    "INVALID_ALARM",
    "MAJOR_ALARM",
    "MINOR_ALARM",
    "NO_ALARM",
    "caget",
    "caget_many",
    "cainfo",
    "camonitor",
    "camonitor_clear",
    "caput",
    "caput_many",
    "poll",
]

log = logging.getLogger("daqca.pv")

NO_ALARM, MINOR_ALARM, MAJOR_ALARM, INVALID_ALARM = range(4)
_MONITOR = -999
"""The index of a camonitor's callback; other callbacks of the PV have other ones."""


# --- one PV -------------------------------------------------------------------------------------


def caget(
    pvname: str,
    as_string: bool = False,
    count: int | None = None,
    as_numpy: bool = True,
    timeout: float | None = None,
    use_monitor: bool = False,
    connection_timeout: float | None = CONNECTION_TIMEOUT,
) -> Any:
    """The value of a PV (manual, chapter 2.2.1).

    Parameters
    ----------
    as_string
        Whether to give its text: the name of an enum's state, a number with the record's precision, the text in an
        array of characters, or a description of any other array.
    count
        At most so many elements.
    as_numpy
        Whether arrays are NumPy arrays; else they are lists.
    timeout
        Seconds for all of it; None: 1 + log10 of the number of elements for the value, after the connection.
    use_monitor
        Whether the value that the monitor told last will do; else the server is asked.
    connection_timeout
        Of the time, at most so much for the connection.

    Returns
    -------
    The value; None if it is not connected, or there is no answer in time: which and why is logged.

    Raises
    ------
    ChannelAccessGetFailure
        The server answered with an error.
    """
    left = _left(timeout)
    pv = _connected("caget", pvname, timeout, connection_timeout)
    if pv is None:
        return None
    return pv.get(count=count, as_string=as_string, as_numpy=as_numpy, timeout=left(), use_monitor=use_monitor)


def caput(
    pvname: str,
    value: Any,
    wait: bool = False,
    timeout: float | None = PUT_TIMEOUT,
    connection_timeout: float | None = CONNECTION_TIMEOUT,
) -> int | None:
    """Write the value of a PV (manual, chapter 2.2.2).

    Parameters
    ----------
    value
        See `daqca.PV.put`.
    wait
        Whether to wait until the record has processed it.
    timeout
        Seconds for all of it; None: 60.
    connection_timeout
        Of the time, at most so much for the connection.

    Returns
    -------
    1 if it was sent, or (with `wait`) processed; -1 if it was not processed in time; None if it is not connected. What
    is not 1 is logged.

    Raises
    ------
    ChannelAccessException
        The PV may not be written, the server refuses (known only with `wait`), or the value does not fit.
    """
    timeout = PUT_TIMEOUT if timeout is None else timeout
    left = _left(timeout)
    pv = _connected("caput", pvname, timeout, connection_timeout)
    if pv is None:
        return None
    status = pv.put(value, wait=wait, timeout=left())
    if status is not None and status < 0:
        log.warning("caput: %s", pv.engine.error(pv.pvname, pv._begun(), "put"))
    return status


def cainfo(
    pvname: str,
    print_out: bool = True,
    timeout: float | None = CONNECTION_TIMEOUT,
    connection_timeout: float | None = CONNECTION_TIMEOUT,
) -> str | None:
    """Print a paragraph about a PV, with its limits and units (manual, chapter 2.2.3).

    Parameters
    ----------
    print_out
        Whether to print it; else it is returned.
    timeout
        Seconds for all of it; None: 5.
    connection_timeout
        Of the time, at most so much for the connection.

    Returns
    -------
    The text, if it is not printed; None if the PV is not connected, or there is no answer in time, which is logged.
    """
    timeout = CONNECTION_TIMEOUT if timeout is None else timeout
    left = _left(timeout)
    pv = _connected("cainfo", pvname, timeout, connection_timeout)
    if pv is None or pv.get(timeout=left()) is None or pv.get_ctrlvars(timeout=left() or 0.0) is None:
        return None
    text = pv.info
    if text is None or not print_out:
        return text
    _print(f"{text}\n")
    return None


# --- watching -----------------------------------------------------------------------------------


def camonitor(
    pvname: str,
    writer: Callable[[str], Any] | None = None,
    callback: Callable[..., Any] | None = None,
    connection_timeout: float | None = CONNECTION_TIMEOUT,
    monitor_delta: float | None = None,
) -> None:
    """Have each change of a PV printed, or something else done with it (manual, chapter 2.2.4).

    There is one such monitor for each PV: a second call replaces the first. The value that it has now is not told.

    Parameters
    ----------
    writer
        A function that is given a line, ``NAME TIME VALUE`` and its end, for each change; None: ``sys.stdout.write``.
        The time is the record's, as the clock of this place shows it.
    callback
        Called instead, with keywords: see `daqca.PV.add_callback`.
    connection_timeout
        Seconds to wait until it is connected. If it is not, this is logged, and it is watched from when it is.
    monitor_delta
        Changes by less than this are left out: see `daqca.PV`.
    """
    for function, what in ((writer, "writer"), (callback, "callback")):
        if function is not None and not callable(function):
            raise TypeError(f"camonitor({pvname!r}) takes a function as {what}, and got {function!r}")
    limit = connecting(connection_timeout)
    left = _left(limit)
    pv = get_pv(pvname, auto_monitor=True, monitor_delta=monitor_delta)
    if _is_connected("camonitor", pv, limit) and pv.read_access:
        # What its monitor tells first is how it is now, and no change.
        wishes, slot = pv._watch.wishes, pv._begun()
        wishes.hurry(np.array([slot], np.uint32))
        pv.engine.wait_for(lambda: wishes.was_told(slot) or not pv.connected, left() or 0.0)
    camonitor_clear(pv.pvname)
    pv.add_callback(_Lines(writer) if callback is None else callback, index=_MONITOR, with_ctrlvars=True)
    cache.monitored[pv.pvname] = pv


def camonitor_clear(pvname: str) -> None:
    """End what `camonitor` began with this PV, if it did: its writer is not called any more when this returns."""
    pv = cache.monitored.pop(name_of(pvname), None)
    if pv is None:
        return
    function, _ = pv.callbacks.get(_MONITOR, (None, None))
    if isinstance(function, _Lines):
        function.end()
    pv.remove_callback(_MONITOR)


class _Lines:
    """The callback that writes a line for each change.

    Parameters
    ----------
    writer
        Takes the line; None: standard output, whatever that is by then.
    """

    def __init__(self, writer: Callable[[str], Any] | None):
        self._write = writer or _print
        self._lock = threading.RLock()
        self._is_over = False

    def __call__(self, pvname: str, value: Any, char_value: str | None, timestamp: float, **_: Any) -> None:
        text = repr(value) if char_value is None else char_value
        when = datetime.fromtimestamp(timestamp).isoformat(" ", "microseconds")
        with self._lock:
            if not self._is_over:
                self._write(f"{pvname} {when} {text}\n")

    def __repr__(self) -> str:
        return "<camonitor>"

    def end(self) -> None:
        """Write no more; a line that is being written is waited for."""
        self._is_over = True
        with self._lock:
            pass


# --- arguments ----------------------------------------------------------------------------------


def _connected(operation: str, pvname: str, timeout: float | None, connection_timeout: float | None) -> PV | None:
    """The PV, connected; None if it is not in time, which is logged."""
    name, limit = name_of(pvname), connecting(connection_timeout)
    if timeout is not None:
        limit = min(limit, seconds_of("timeout", timeout, 0.0))
    pv = get_pv(name)
    return pv if _is_connected(operation, pv, limit) else None


def _is_connected(operation: str, pv: PV, limit: float) -> bool:
    if pv.wait_for_connection(limit):
        return True
    log.warning("%s waited %.3g s: %s", operation, limit, pv.engine.error(pv.pvname, pv._begun(), "connect"))
    return False


def _left(timeout: float | None) -> Callable[[], float | None]:
    """Tells how many of these seconds are left; None: no limit was given."""
    if timeout is None:
        return lambda: None
    end = time.monotonic() + seconds_of("timeout", timeout, 0.0)
    return lambda: max(0.0, end - time.monotonic())


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
