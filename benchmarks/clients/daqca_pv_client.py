"""daqca's PV objects: in process, or through running workers (``workers=N``); by ``engine.pvs`` with ``how=pvs``."""
# ruff: noqa: D102 - the methods are those of Adapter

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from _common import Adapter, Tally, play

from daqca import Engine, dbr
from daqca.engine.default import use_engine
from daqca.pv_proxy import PV


class Objects(Adapter):
    """Workers run before anything is measured; the default engine, in process, is made by what needs it first."""

    engine: Engine | None = None

    def start(self) -> None:
        workers = int(self.options.get("workers", "0"))
        if workers:
            self.engine = Engine(workers=workers)
            use_engine(self.engine)

    def make(self) -> Sequence[Any]:
        if self.options.get("how") == "pvs":
            self.engine = self.engine or Engine()
            return self.engine.pvs(self.names)
        return [PV(name) for name in self.names]

    def getter(self) -> Callable[[], float]:
        get = self.monitored().get
        return lambda: get(use_monitor=False)

    def putter(self) -> Callable[[float], object]:
        put = self.monitored().put
        return lambda value: put(value, wait=True)

    def monitor(self, tally: Tally) -> None:
        def updater(index: int) -> Callable[..., None]:
            return lambda value, **_: tally.seen(value, index)

        mask = dbr.DBE_VALUE | dbr.DBE_ALARM
        self.pvs = [PV(name, auto_monitor=mask, callback=updater(index)) for index, name in enumerate(self.names)]

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()


if __name__ == "__main__":
    play(Objects)
