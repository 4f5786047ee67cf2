"""Beginning and ending, contexts and threads, and letting things happen: the first part of the manual's chapter 4.3."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import daqca.ca as surface
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.checks import PySEVCHK
from daqca.ca.lowlevel.session import LIBRARY, Library, session
from daqca.errors import EngineClosedError


def initialize_libca() -> Library:
    """Begin: make the initial context, and attach the calling thread to it.

    It need not be called, for every function that needs a context begins by itself. `PREEMPTIVE_CALLBACK` is
    looked at now. When the program ends, what waits to be sent goes out, and no callback runs any more (unless
    `AUTO_CLEANUP` is False); nothing need be ended.

    Returns
    -------
    What stands for the C library, also ``ca.libca`` (manual, chapter 4.3).
    """
    session.needed()
    return LIBRARY


def find_libca() -> str:
    """Where the client is, for programs that look for the C library first: there is none to find."""
    return str(Path(surface.__file__).parent)


def finalize_libca(maxtime: float = 10.0) -> None:
    """End: clear all channels of all contexts, and close these.

    What waits to be sent goes out before. What is called later begins anew. It may be called in a callback.

    Parameters
    ----------
    maxtime
        Seconds to wait for that, and for callbacks that run (manual, chapter 4.3).
    """
    if not sys.is_finalizing():
        session.end(maxtime)


def context_create(ctx: int | None = None) -> int:
    """Create a context, and attach the calling thread to it; where it is attached to one already, that stays.

    Parameters
    ----------
    ctx
        1: with preemptive callbacks, 0: without, None: as `PREEMPTIVE_CALLBACK` says.

    Returns
    -------
    ECA_NORMAL.

    Raises
    ------
    CASeverityException
        The thread is attached to a context without preemptive callbacks, and one with them is asked for.
    """
    preemptive = bool(surface.PREEMPTIVE_CALLBACK if ctx is None else ctx)
    current = session.current()
    if current is not None:
        clash = preemptive and not current.preemptive
        return PySEVCHK("context_create", ECA.NOTTHREADED if clash else ECA.NORMAL)
    with session.lock:
        if session.initial is None:
            session.begin(preemptive)
        else:
            session.create(preemptive)
    return int(ECA.NORMAL)


def create_context(ctx: int | None = None) -> None:
    """`context_create`, under the name that follows the other functions."""
    context_create(ctx)


def context_destroy() -> int:
    """Destroy the context that the calling thread is attached to, with its channels; returns ECA_NORMAL.

    Other threads that are attached to it are attached to none then. It may be called in a callback.
    """
    current = session.current()
    if current is not None and not sys.is_finalizing():
        session.destroy(current)
    return int(ECA.NORMAL)


def destroy_context() -> int:
    """`context_destroy`, under the name that follows the other functions."""
    return context_destroy()


def current_context() -> int | None:
    """The context that the calling thread is attached to; None if there is none.

    In a callback it is the context of the channel. If there never was a context, the initial one is made.
    """
    current = session.current() if session.was_begun else session.needed()
    return None if current is None else current.number


def attach_context(context: int) -> int:
    """Attach the calling thread to a context.

    Returns
    -------
    ECA_NORMAL; ECA_ISATTACHED: the thread is attached to one already; ECA_NOTTHREADED: a context without preemptive
    callbacks belongs to the thread that made it; ECA_NOCACTX: there is no such context.
    """
    return int(session.attach(context))


def detach_context() -> None:
    """Detach the calling thread from its context."""
    session.detach()


def use_initial_context() -> int:
    """Attach the calling thread to the context that was created first (manual, chapter 10.4).

    Returns
    -------
    ECA_NORMAL.

    Raises
    ------
    CASeverityException
        The thread is attached to another context, or the initial one belongs to another thread: see `attach_context`.
    """
    with session.lock:
        session.begin()
        current = session.current()
        is_there = current is not None and current.number == session.initial
        return PySEVCHK("use_initial_context", ECA.NORMAL if is_there else session.attach(session.initial))


class CAThread(threading.Thread):
    """A thread that uses the initial context (manual, chapter 4.7)."""

    def run(self) -> None:
        """See `threading.Thread.run`."""
        use_initial_context()
        super().run()


# --- letting things happen ----------------------------------------------------------------------


def flush_io() -> int:
    """Send what waits to be sent; returns ECA_NORMAL."""
    _happen(0.0, process=False)
    return int(ECA.NORMAL)


def pend_io(timeout: float = 1.0) -> int:
    """Send what waits to be sent, also what synchronous groups wait with; without preemption, read what is there.

    Returns
    -------
    ECA_NORMAL.
    """
    if not sys.is_finalizing():  # then nothing can be imported
        from daqca.ca.lowlevel.groups import send_all

        send_all()
    _happen(0.0)
    return int(ECA.NORMAL)


def pend_event(timeout: float = 1e-5) -> int:
    """Let things happen for `timeout` seconds (0: what there is now).

    Returns
    -------
    ECA_TIMEOUT: that is how it ends, always.
    """
    _happen(timeout)
    return int(ECA.TIMEOUT)


def _happen(seconds: float, process: bool = True) -> None:
    """Let things happen in the calling thread's context. Without one there is nothing to happen."""
    if sys.is_finalizing():
        return
    end = time.monotonic() + seconds
    client = session.present()
    if client is not None:
        try:
            if process:
                client.process(seconds)
            else:
                client.begin()
                client.context.flush()
        except EngineClosedError:  # by another thread, just now
            client = None
    if client is None:
        time.sleep(max(end - time.monotonic(), 0.0))


def poll(evt: float = 1e-5, iot: float = 1.0) -> int:
    """`pend_event` for `evt` seconds, then `pend_io`; returns what that returns."""
    pend_event(evt)
    return pend_io(iot)


def test_io() -> bool:
    """Whether nothing waits to be sent or answered (of what `pend_io` waits for: nothing does)."""
    return True


def clear_cache() -> None:
    """Clear all channels of all contexts, and attach the calling thread to a new initial context.

    What others keep of channels is told to `register_clear_cache` before.
    """
    for callback in list(_clear_cache_callbacks.values()):
        callback()
    session.end(1.0)
    initialize_libca()


_clear_cache_callbacks: dict[int, Any] = {}


def register_clear_cache(callback: Any) -> None:
    """Have `callback()` called before `clear_cache` clears channels, so that their user lets go of them."""
    if callback is None:
        return
    if not callable(callback):
        raise TypeError(f"register_clear_cache takes a function, and got {callback!r}")
    _clear_cache_callbacks[id(callback)] = callback
