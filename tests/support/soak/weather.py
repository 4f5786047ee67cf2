"""The weather of the soak: an IOC that is stopped, continued, killed and started again, as a seed says."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from daqca.sim import SoftIOC

ROUND = ("stop", "kill", "long stop", "stop and kill")
RECOVERY_S = 40.0
"""Seconds that channels are given to be connected again."""


def schedule(seed: object) -> Iterator[tuple[float, str, float, float]]:
    """Faults without end, in rounds of all kinds: seconds before it, its kind, seconds it lasts, and more seconds."""
    chance = random.Random(f"weather {seed}")
    while True:
        for fault in chance.sample(ROUND, len(ROUND)):
            # Long: so that circuits are found unresponsive, after EPICS_CA_CONN_TMO and five seconds more.
            lasts = chance.uniform(6.5, 8.0) if fault == "long stop" else chance.uniform(0.1, 2.0)
            yield chance.uniform(0.5, 3.0), fault, lasts, chance.uniform(0.0, 1.0)


class Weather:
    """What happens to an IOC, and who wants to know.

    Attributes
    ----------
    epoch
        Even: a server (or its absence) that has not changed as long as this number stays; odd while one is killed.
    counts
        Stops, continues, kills and restarts.
    recoveries
        Seconds from the end of each fault until all channels were connected.
    """

    def __init__(self, ioc: SoftIOC, problem: Callable[[str], None], channels: Callable[[], list[Any]]):
        self.ioc = ioc
        self.epoch = 0
        self.counts: Counter[str] = Counter(stops=0, continues=0, kills=0, restarts=0)
        self.recoveries: list[float] = []
        self._problem = problem
        self._channels = channels
        self._calm_since: float | None = time.monotonic()

    def was_calm(self, since: float) -> bool:
        """Whether the IOC ran and was connected all the time from then until now."""
        calm = self._calm_since
        return calm is not None and calm <= since

    def run(self, seconds: float, seed: object) -> None:
        """Faults for so long; at the end the IOC runs, and all is connected."""
        end = time.monotonic() + seconds
        for pause, fault, lasts, later in schedule(seed):
            if time.monotonic() + pause + lasts + 2.0 > end:
                time.sleep(max(end - time.monotonic(), 0.0))
                return
            time.sleep(pause)
            self._calm_since = None
            if fault != "kill":
                self.ioc.suspend()
                self.counts["stops"] += 1
                time.sleep(lasts)
            if "kill" in fault:
                self._kill()
                time.sleep(later)
                self.ioc.start()
                self.counts["restarts"] += 1
            else:
                self.ioc.resume()
                self.counts["continues"] += 1
            self.await_calm(fault)

    def _kill(self) -> None:
        self.epoch += 1
        self.ioc.kill()
        self.epoch += 1
        self.counts["kills"] += 1

    def await_calm(self, after: str) -> None:
        """Wait until every channel that exists now is connected."""
        begin = time.monotonic()
        lost = self._channels()
        while lost := [channel for channel in lost if not (channel.is_connected or channel.is_cleared)]:
            if time.monotonic() > begin + RECOVERY_S:
                self._problem(f"after a {after}, {len(lost)} channels did not connect in {RECOVERY_S} s: {lost[:5]}")
                break
            time.sleep(0.02)
        self._calm_since = time.monotonic()
        self.recoveries.append(self._calm_since - begin)
