"""caproto: its threading client, reads in a `Batch`."""
# ruff: noqa: D102 - the methods are those of Adapter

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from _common import Adapter, Tally, play
from caproto.threading.client import Batch, Context


class Caproto(Adapter):
    """One `Context`; PVs are made once and kept, as its documentation does."""

    def __init__(self, names: Sequence[str], **options: str):
        super().__init__(names, **options)
        self.context: Context | None = None
        self.pvs: list[Any] = []

    def connect(self) -> None:
        if self.context is None:
            self.context = Context(timeout=60)
            self.pvs = self.context.get_pvs(*self.names)
            for pv in self.pvs:
                pv.wait_for_connection(timeout=60)

    def read(self) -> Sequence[float]:
        self.connect()
        values: list[Any] = [None] * len(self.pvs)
        self.times: list[float] = [0.0] * len(self.pvs)
        missing, done = len(self.pvs), threading.Event()

        def arrived(index: int, response: Any) -> None:
            nonlocal missing
            values[index] = response.data[0].item()
            self.times[index] = response.metadata.timestamp
            missing -= 1
            if not missing:
                done.set()

        with Batch(timeout=60) as batch:
            for index, pv in enumerate(self.pvs):
                batch.read(pv, lambda response, index=index: arrived(index, response), data_type="time")
        done.wait(60)
        return values

    def stamps(self) -> Sequence[float]:
        return self.times

    def getter(self) -> Callable[[], float]:
        self.connect()
        pv = self.pvs[0]
        return lambda: pv.read(data_type="time").data[0]

    def putter(self) -> Callable[[float], object]:
        self.connect()
        pv = self.pvs[0]
        return lambda value: pv.write([value], wait=True)

    def monitor(self, tally: Tally) -> None:
        self.connect()
        self.kept = []
        for index, pv in enumerate(self.pvs):
            subscription = pv.subscribe(data_type="time")

            def update(_: Any, response: Any, index: int = index) -> None:
                tally.seen(response.data[0], index)

            subscription.add_callback(update)
            self.kept.append((subscription, update))  # callbacks are held by weak references

    def close(self) -> None:
        if self.context is not None:
            self.context.disconnect(wait=False)


if __name__ == "__main__":
    play(Caproto)
