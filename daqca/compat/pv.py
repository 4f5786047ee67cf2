"""``epics.pv``: `daqca.pv_proxy` for programs that derive classes from PV, replace its class, or look into its cache.

Source: the manual of PyEpics 3.2.5, chapter 3, and how PyEpics 3.5 behaves beyond it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import daqca.ca as ca
import daqca.dbr as dbr
from daqca import pv_proxy
from daqca.engine import Engine
from daqca.proxies.cache import Cache, OneOrMore, cache, clear_pvcache

__all__ = ["PV", "ca", "clear_pvcache", "dbr", "fmt_time", "get_pv"]

_UNSET: Any = object()


class PV(pv_proxy.PV):
    """A PV whose arguments are in the order of PyEpics 3.5, and which derived classes may change in more places.

    For the arguments see `daqca.pv_proxy.PV`. Where a derived class replaces `get_with_metadata`, `get` goes through
    it; where it replaces `get_ctrlvars`, attributes that are not known are asked for through it.
    """

    __slots__ = ("_given_chid", "_given_context")

    def __init__(
        self,
        pvname: str,
        callback: Callable[..., Any] | list[Callable[..., Any]] | tuple[Callable[..., Any], ...] | None = None,
        form: str = "time",
        verbose: bool = False,
        auto_monitor: bool | int | None = None,
        count: int | None = None,
        connection_callback: Callable[..., Any] | None = None,
        connection_timeout: float | None = None,
        access_callback: Callable[..., Any] | None = None,
        monitor_delta: float | None = None,
        *,
        engine: Engine | None = None,
    ):
        self._given_chid = self._given_context = _UNSET
        super().__init__(
            pvname,
            callback=callback,
            form=form,
            auto_monitor=auto_monitor,
            connection_callback=connection_callback,
            connection_timeout=connection_timeout,
            verbose=verbose,
            count=count,
            access_callback=access_callback,
            monitor_delta=monitor_delta,
            engine=engine,
        )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.get is PV.get and cls.get_with_metadata is not PV.get_with_metadata:
            setattr(cls, "get", PV._get_through)  # noqa: B010 - mypy takes no assignment to a method

    def _get_through(
        self,
        count: int | None = None,
        as_string: bool = False,
        as_numpy: bool = True,
        timeout: float | None = None,
        with_ctrlvars: bool = False,
        use_monitor: bool = True,
    ) -> Any:
        """`get`, by the way of `get_with_metadata`, always."""
        found = self.get_with_metadata(
            count=count,
            as_string=as_string,
            as_numpy=as_numpy,
            timeout=timeout,
            with_ctrlvars=with_ctrlvars,
            use_monitor=use_monitor,
        )
        return None if found is None else found["value"]

    def force_connect(self, pvname: str | None = None, chid: Any = None, conn: bool = True, **kws: Any) -> None:
        """Run the connection callbacks as if the connection had changed just now; after `disconnect`, `reconnect`."""
        if conn and self._is_detached:
            self.reconnect()
        else:
            super().force_connect(pvname, chid, conn, **kws)

    # Libraries that are done with a PV assign None to these; what was assigned is what they find.

    @property
    def chid(self) -> Any:
        """See `daqca.pv_proxy.PV`. May be assigned to."""
        return super().chid if self._given_chid is _UNSET else self._given_chid

    @chid.setter
    def chid(self, chid: Any) -> None:
        self._given_chid = chid

    @property
    def context(self) -> int | None:
        """See `daqca.pv_proxy.PV`. May be assigned to."""
        return super().context if self._given_context is _UNSET else self._given_context

    @context.setter
    def context(self, context: int | None) -> None:
        self._given_context = context


def get_pv(
    pvname: str | pv_proxy.PV,
    form: str = "time",
    connect: bool = False,
    context: int | None = None,
    timeout: float | None = 5.0,
    connection_callback: Callable[..., Any] | None = None,
    access_callback: Callable[..., Any] | None = None,
    callback: OneOrMore = None,
    verbose: bool = False,
    count: int | None = None,
    auto_monitor: bool | int | None = None,
    monitor_delta: float | None = None,
    **kws: Any,
) -> pv_proxy.PV:
    """`daqca.get_pv`, its arguments in the order of PyEpics 3.5."""
    return pv_proxy.get_pv(
        pvname, form=form, connect=connect, timeout=timeout, context=context, connection_callback=connection_callback,
        access_callback=access_callback, callback=callback, verbose=verbose, count=count, auto_monitor=auto_monitor,
        monitor_delta=monitor_delta, **kws,
    )  # fmt: skip


def fmt_time(tstamp: float | None = None) -> str:
    """A time in seconds since 1970 as text, local; None: now."""
    return pv_proxy.fmt_time(tstamp)


def _ensure_context(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself: a PV may be used in every thread, whatever its context."""
    return func


def restore() -> None:
    """Have `get_pv` make daqca's own PVs again."""
    pv_proxy.default_pv_class = pv_proxy.PV


def replace() -> None:
    """Have `get_pv` make PVs of the class above, unless a program has said which."""
    if pv_proxy.default_pv_class is pv_proxy.PV:
        pv_proxy.default_pv_class = PV


class _PVModule(ModuleType):
    @property
    def default_pv_class(self) -> Any:
        """The class of the PVs that `get_pv`, and with it `caget` and the others, make."""
        return pv_proxy.default_pv_class

    @default_pv_class.setter
    def default_pv_class(self, pv_class: Any) -> None:
        pv_proxy.default_pv_class = pv_class

    @property
    def _PVcache_(self) -> Cache:
        return cache


sys.modules[__name__].__class__ = _PVModule
