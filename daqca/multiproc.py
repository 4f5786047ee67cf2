"""Processes and pools of `multiprocessing` whose children use Channel Access. Manual of PyEpics, chapter 10.5.

The worker processes of an engine are something else: see `daqca.workers`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.util import Finalize
from typing import Any

from daqca.ca.lowlevel.lifecycle import clear_cache as clear_ca_cache
from daqca.ca.lowlevel.session import session

__all__ = ["CAPool", "CAProcess", "clear_ca_cache"]

_LAST = -1000
"""The priority of what is done at the end of a child: after its queues are through, and its own children."""


class CAProcess(multiprocessing.Process):
    """A process that begins with a Channel Access context of its own, whatever its parent had.

    PVs, channels and engines of the parent are not the child's, however it is started: the target makes its own. What
    the child has put without waiting is sent before it ends, unless it is terminated. Who derives a class and replaces
    `run` calls this `run` in it.

    Parameters
    ----------
    group
        None.
    target
        What the process calls.
    name
        By default ``CAProcess-1`` and so on.
    args, kwargs
        The target's arguments.
    daemon
        Whether it is terminated when the parent ends; by default as the parent's own.
    """

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] = {},
        *,
        daemon: bool | None = None,
    ):
        super().__init__(group, target, name, args, kwargs, daemon=daemon)

    def run(self) -> None:
        """See `multiprocessing.Process.run`. It begins with `daqca.ca.clear_cache`."""
        if multiprocessing.current_process() is self:  # and nobody has called run for a process of another kind
            Finalize(None, _end, exitpriority=_LAST)
        clear_ca_cache()
        super().run()


class CAPool(multiprocessing.pool.Pool):
    """A pool of `CAProcess` instances. Leaving its ``with`` terminates them, as with every pool.

    Parameters
    ----------
    processes
        How many; by default as many as there are processors.
    initializer, initargs
        What each process calls first, and with what.
    maxtasksperchild
        After so many tasks a process is replaced by a new one; None: never.

    Raises
    ------
    ValueError
        No process at all is wanted, or no task.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ):
        super().__init__(processes, initializer, initargs, maxtasksperchild)

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> CAProcess:
        """Make one of its processes: how pools of `multiprocessing` are told of which class."""
        return CAProcess(*args, **kwds)


# --- the end of a child -------------------------------------------------------------------------


def _end() -> None:
    """A child of multiprocessing ends without exit handlers: have done here what they would do.

    Threads that Python is going to wait for may use Channel Access until they end, and are waited for before.
    """
    if _others():
        threading.Thread(target=_end_after_others, name="daqca-end").start()
    else:
        _close()


def _others() -> list[threading.Thread]:
    here = (threading.current_thread(), threading.main_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in here]


def _end_after_others() -> None:
    while others := _others():
        for thread in others:
            thread.join()
    _close()


def _close() -> None:
    session.rest()
    engines = sys.modules.get("daqca.engine.engine")
    if engines is not None:
        engines.close_all()
