"""aioca: ``caget`` of a list, and ``camonitor`` with every update, in one asyncio loop."""
# ruff: noqa: D102 - the methods are those of Adapter

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from _common import Adapter, Tally, play
from aioca import FORMAT_TIME, caget, camonitor, caput, purge_channel_caches


class Aioca(Adapter):
    """All work runs in the loop of the thread that measures."""

    def __init__(self, names: Sequence[str], **options: str):
        super().__init__(names, **options)
        self.loop = asyncio.new_event_loop()
        self.subscriptions: list = []

    def read(self) -> Sequence[float]:
        self.values = self.loop.run_until_complete(caget(self.names, format=FORMAT_TIME, timeout=60))
        return self.values

    def stamps(self) -> Sequence[float]:
        return [value.timestamp for value in self.values]

    def gets(self, n: int) -> tuple[list[float], list[int]]:
        async def loop() -> tuple[list[float], list[int]]:
            values, times = [], []
            name, clock = self.names[0], time.perf_counter_ns
            for _ in range(n):
                start = clock()
                value = await caget(name, format=FORMAT_TIME)
                times.append(clock() - start)
                values.append(value)
            return values, times

        return self.loop.run_until_complete(loop())

    def puts(self, values: Sequence[float]) -> list[int]:
        async def loop() -> list[int]:
            times = []
            name, clock = self.names[0], time.perf_counter_ns
            for value in values:
                start = clock()
                await caput(name, value, wait=True)
                times.append(clock() - start)
            return times

        return self.loop.run_until_complete(loop())

    def monitor(self, tally: Tally) -> None:
        async def subscribe() -> list:
            return camonitor(self.names, tally.seen, format=FORMAT_TIME, all_updates=True)

        self.subscriptions = self.loop.run_until_complete(subscribe())

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def dropped(self) -> int:
        return sum(subscription.dropped_callbacks for subscription in self.subscriptions)

    def close(self) -> None:
        async def leave() -> None:
            for subscription in self.subscriptions:
                subscription.close()
            purge_channel_caches()

        self.loop.run_until_complete(leave())
        self.loop.close()


if __name__ == "__main__":
    play(Aioca)
