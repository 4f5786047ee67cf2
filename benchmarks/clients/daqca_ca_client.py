"""daqca's low-level interface, ``daqca.ca``: the calls of PyEpics' ``epics.ca``, and a callback for each update."""
# ruff: noqa: D102 - the methods are those of Adapter

from __future__ import annotations

from collections.abc import Callable, Sequence

from _common import Adapter, Tally, play

from daqca import ca
from daqca.ca.lowlevel.channel import Channel


class LowLevel(Adapter):
    """The functions that the manual's chapter 4 has."""

    def channel(self, name: str) -> Channel:
        channel = ca.create_channel(name)
        assert ca.connect_channel(channel, timeout=10)
        return channel

    def read(self) -> Sequence[float]:
        channels = [ca.create_channel(name) for name in self.names]
        for channel in channels:
            ca.connect_channel(channel, timeout=60)
        for channel in channels:
            ca.get(channel, wait=False)
        return [ca.get_complete(channel, timeout=10) for channel in channels]

    def getter(self) -> Callable[[], float]:
        channel, get = self.channel(self.names[0]), ca.get
        return lambda: get(channel)

    def putter(self) -> Callable[[float], object]:
        channel, put = self.channel(self.names[0]), ca.put
        return lambda value: put(channel, value, wait=True)

    def monitor(self, tally: Tally) -> None:
        def updater(index: int) -> Callable[..., None]:
            return lambda value, **_: tally.seen(value, index)

        channels = [ca.create_channel(name) for name in self.names]
        for index, channel in enumerate(channels):
            ca.connect_channel(channel, timeout=10)
            ca.create_subscription(channel, use_time=True, callback=updater(index))

    def dropped(self) -> int:
        dropped: int = ca.client_status()["callback_events_dropped"]
        return dropped

    def close(self) -> None:
        ca.finalize_libca()


if __name__ == "__main__":
    play(LowLevel)
