"""PyEpics: ``caget_many``, and the recipe of its manual for many PVs (chapter 10.2), with time and alarm or without."""
# ruff: noqa: D102 - the methods are those of Adapter

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import epics
from _common import Adapter, Tally, play
from epics import ca, dbr


class Many(Adapter):
    """``caget_many``. It gives values alone: no time, no alarm."""

    def read(self) -> Sequence[float]:
        return epics.caget_many(self.names, connection_timeout=60, timeout=10)

    def make(self) -> Sequence[epics.PV]:
        return [epics.PV(name) for name in self.names]

    def getter(self) -> Callable[[], float]:
        pv = epics.PV(self.names[0], form="time", auto_monitor=False)
        pv.wait_for_connection(10)
        return pv.get

    def putter(self) -> Callable[[float], object]:
        pv = epics.PV(self.names[0], auto_monitor=False)
        pv.wait_for_connection(10)
        return lambda value: pv.put(value, wait=True)

    def monitor(self, tally: Tally) -> None:
        def updater(index: int) -> Callable[..., None]:
            return lambda value, **_: tally.seen(value, index)

        mask = dbr.DBE_VALUE | dbr.DBE_ALARM
        self.pvs = [
            epics.PV(name, form="time", auto_monitor=mask, callback=updater(index))
            for index, name in enumerate(self.names)
        ]


class LowLevel(Many):
    """The functions of ``epics.ca``, which the objects above use."""

    def channel(self, name: str) -> int:
        channel = ca.create_channel(name)
        assert ca.connect_channel(channel, timeout=10)
        return channel

    def getter(self) -> Callable[[], float]:
        channel, get = self.channel(self.names[0]), ca.get
        return lambda: get(channel)

    def putter(self) -> Callable[[float], object]:
        channel, put = self.channel(self.names[0]), ca.put
        return lambda value: put(channel, value, wait=True)

    def monitor(self, tally: Tally) -> None:
        def updater(index: int) -> Callable[..., None]:
            return lambda value, **_: tally.seen(value, index)

        channels = [ca.create_channel(name) for name in self.names]  # all are searched before one is waited for
        self.subscriptions = []
        for index, channel in enumerate(channels):
            assert ca.connect_channel(channel, timeout=10)
            self.subscriptions.append(ca.create_subscription(channel, use_time=True, callback=updater(index)))


class Recipe(Many):
    """Create all, wait for all, ask for all, collect all; ``time=yes`` asks for time and alarm with each value."""

    def read(self) -> Sequence[float]:
        channels = [ca.create_channel(name, connect=False, auto_cb=False) for name in self.names]
        deadline = time.monotonic() + 60
        for channel in channels:
            while ca.state(channel) != dbr.CS_CONN and time.monotonic() < deadline:
                ca.poll()
        if self.options.get("time") != "yes":
            for channel in channels:
                ca.get(channel, wait=False)
            ca.poll()
            return [ca.get_complete(channel, timeout=10) for channel in channels]
        types = [ca.promote_type(channel, use_time=True) for channel in channels]
        for channel, ftype in zip(channels, types, strict=True):
            ca.get_with_metadata(channel, ftype=ftype, wait=False)
        ca.poll()
        self.answers = [
            ca.get_complete_with_metadata(channel, ftype=ftype, timeout=10)
            for channel, ftype in zip(channels, types, strict=True)
        ]
        return [answer["value"] for answer in self.answers]

    def stamps(self) -> Sequence[float] | None:
        if self.options.get("time") != "yes":
            return None
        return [answer["timestamp"] for answer in self.answers]


def make(names: Sequence[str], **options: str) -> Adapter:
    how = {"recipe": Recipe, "ca": LowLevel}.get(options.pop("how", ""), Many)
    return how(names, **options)


if __name__ == "__main__":
    play(make)
