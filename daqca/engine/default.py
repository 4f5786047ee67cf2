"""The engine that PVs and functions use when none is named: made at its first use, ended with the program."""

from __future__ import annotations

import atexit
import os
import threading

from daqca.engine.engine import Engine

_lock = threading.Lock()
_engine: Engine | None = None
_own: list[Engine] = []


def default_engine() -> Engine:
    """The engine of PVs that name none: in this process, made at its first use, unless `use_engine` gave another."""
    global _engine
    engine = _engine
    if engine is not None and not engine.is_closed:
        return engine
    with _lock:
        if _engine is None or _engine.is_closed:
            _engine = Engine()
            _own.append(_engine)
        return _engine


def use_engine(engine: Engine | None) -> None:
    """Have PVs and functions that name no engine use this one from now on; None: one of their own, made when needed.

    PVs that are there already stay with theirs.
    """
    global _engine
    with _lock:
        _engine = engine


def _forked() -> None:
    global _lock
    _lock = threading.Lock()  # perhaps a thread of the parent held it


os.register_at_fork(after_in_child=_forked)


@atexit.register
def _close() -> None:
    for engine in _own:
        engine.close()
