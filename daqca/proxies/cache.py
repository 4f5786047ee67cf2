"""The cache of PVs by name, form and context: of one name `get_pv` gives one PV. Manual, chapter 3.7."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import daqca.ca as ca

if TYPE_CHECKING:
    from daqca.engine.engine import Engine
    from daqca.pv_proxy import PV

Key = tuple[Any, ...]
OneOrMore = Callable[..., Any] | list[Callable[..., Any]] | tuple[Callable[..., Any], ...] | None
"""Callbacks as `PV` is given them."""


class Cache(MutableMapping[Key, "PV"]):
    """``_PVcache_``: (name, form, context) to PV.

    A PV belongs to an engine and to no context of `daqca.ca`: whatever context is asked for, the PV is the same, and
    keys are listed with the current one.

    Attributes
    ----------
    lock
        Held by who looks for a PV and makes it, so that two threads get the same.
    monitored
        By name: the PVs that `daqca.camonitor` watches.
    """

    def __init__(self) -> None:
        self._pvs: dict[tuple[str, str], PV] = {}
        self.lock = threading.RLock()
        self.monitored: dict[str, PV] = {}

    def __getitem__(self, key: Key) -> PV:
        return self._pvs[key[0], key[1]]

    def __setitem__(self, key: Key, pv: PV) -> None:
        self._pvs[key[0], key[1]] = pv
        ca.register_clear_cache(clear_pvcache)

    def __delitem__(self, key: Key) -> None:
        del self._pvs[key[0], key[1]]

    def __iter__(self) -> Iterator[Key]:
        context = None if ca.initial_context is None else ca.current_context()
        return iter([(*key, context) for key in self._pvs])

    def __len__(self) -> int:
        return len(self._pvs)

    def find(self, name: str, form: str, engine: Engine) -> PV | None:
        """The PV of this name and form, if it is one of this engine."""
        pv = self._pvs.get((name, form))
        return None if pv is None or pv.engine is not engine else pv

    def discard(self, pv: PV) -> None:
        """Forget this PV, if it is here."""
        if self._pvs.get((pv.pvname, pv.form)) is pv:
            del self._pvs[pv.pvname, pv.form]

    def forked(self) -> None:
        """In the child of a fork: nobody holds the lock."""
        self.lock = threading.RLock()


cache = Cache()
"""The one of this process."""

os.register_at_fork(after_in_child=cache.forked)


def clear_pvcache() -> None:
    """Forget the PVs that `get_pv` keeps, and disconnect them. `daqca.ca.clear_cache` does it too."""
    with cache.lock:
        pvs = list(cache.values())
        cache.clear()
        cache.monitored.clear()
    for pv in pvs:
        if not pv.engine.is_closed:
            pv.disconnect()


def name_of(pvname: Any) -> str:
    """The name of a PV that is given by its name, or as a PV.

    Raises
    ------
    TypeError
        It is neither.
    """
    name = getattr(pvname, "pvname", pvname)
    if not isinstance(name, str):
        is_many = isinstance(name, (list, tuple, set, dict))
        many = "; for many PVs there are caget_many and caput_many" if is_many else ""
        raise TypeError(f"expected the name of a PV, and got {name!r:.200}{many}")
    return name.strip()


def join(
    pv: PV,
    connection_callback: Callable[..., Any] | None,
    access_callback: Callable[..., Any] | None,
    callback: OneOrMore,
    auto_monitor: bool | int | None,
    monitor_delta: float | None,
) -> None:
    """Somebody else uses a PV too, and wants this of it: see `daqca.get_pv`."""
    if connection_callback is not None:
        if pv.connected:
            connection_callback(pvname=pv.pvname, conn=True, pv=pv)
        pv.connection_callbacks.append(connection_callback)
    if access_callback is not None:
        if pv.connected:
            access_callback(pv.read_access, pv.write_access, pv=pv)
        pv.access_callbacks.append(access_callback)
    if auto_monitor and not pv.auto_monitor:
        pv.auto_monitor = auto_monitor
    if monitor_delta is not None and monitor_delta != pv.monitor_delta:
        pv._monitor_delta = monitor_delta
        pv._listen()
        if pv.connected:
            pv._set_delta()
    for function in callback if isinstance(callback, (list, tuple)) else [callback]:
        if callable(function):
            pv.add_callback(function, run_now=pv.connected)
