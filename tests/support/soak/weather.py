"""The weather of the soak: an IOC that is stopped, continued, killed and started again, as a seed says."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from daqca import ca
from daqca.sim import SoftIOC

from .callbacks import Watch

ROUND = ("stop", "kill", "long stop", "stop and kill")
RECOVERY_S = 40.0
"""Seconds that channels are given to be connected again."""


Fault = tuple[float, str, float, float]
"""Seconds before it, its kind, seconds that the IOC is stopped, and seconds that it is gone."""


def schedule(seed: object) -> Iterator[Fault]:
    """Faults without end, in rounds of all kinds."""
    chance = random.Random(f"weather {seed}")
    while True:
        for fault in chance.sample(ROUND, len(ROUND)):
            # Long: so that circuits are found unresponsive, after EPICS_CA_CONN_TMO and five seconds more.
            lasts = chance.uniform(6.5, 8.0) if fault == "long stop" else chance.uniform(0.1, 2.0)
            yield chance.uniform(0.5, 3.0), fault, lasts, chance.uniform(0.0, 1.0)


class Lasting:
    """A channel that nobody clears, with a subscription.

    Parameters
    ----------
    pvname
        Of a record that changes by itself. The calling thread is attached to the context it shall be in.
    """

    def __init__(self, pvname: str, problem: Callable[[str], None]):
        self.connections: list[bool] = []
        self._problem = problem
        chid = ca.create_channel(pvname, callback=lambda conn, **more: self.connections.append(conn))
        ca.connect_channel(chid, timeout=10.0)
        self.watch = Watch(chid, None, problem, asks=False)
        ca.create_subscription(chid, use_time=True, callback=self.watch)

    def check(self, kills: int) -> None:
        """While it is connected: it was told of every loss, and after each that it was over."""
        told = list(self.connections)
        if told != [True, *[False, True] * (len(told) // 2)] or len(told) // 2 < kills:
            self._problem(f"after {kills} kills {self.watch.chid} was told of the connections {told[-9:]}")


class Weather:
    """What happens to an IOC, and who wants to know.

    Attributes
    ----------
    epoch
        Even: a server (or its absence) that has not changed as long as this number stays; odd while one is killed.
    counts
        Stops, continues, kills and restarts.
    recoveries
        Seconds from the end of each fault until all channels were connected, and what lasts had updates again.
    is_lost
        Whether that did not happen in time.
    """

    def __init__(self, ioc: SoftIOC, problem: Callable[[str], None], channels: Callable[[], list[Any]]):
        self.ioc = ioc
        self.lasting: list[Lasting] = []
        self.is_lost = False
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

    def run(self, faults: Iterator[Fault], seconds: float) -> None:
        """Faults for so long; at the end the IOC runs, and all is connected."""
        end = time.monotonic() + seconds
        for pause, fault, lasts, gone in faults:
            if self.is_lost:
                return
            if time.monotonic() + pause + lasts + 2.0 > end:
                time.sleep(max(end - time.monotonic(), 0.0))
                return
            time.sleep(pause)
            self._calm_since = None
            if "stop" in fault:
                self.ioc.suspend()
                self.counts["stops"] += 1
                time.sleep(lasts)
            if "kill" in fault:
                self._kill()
                time.sleep(gone)
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
        """Wait until every channel that exists now is connected, and updates come on what lasts."""
        begin = time.monotonic()
        missing = self._channels()
        heard = {lasting: lasting.watch.updates for lasting in self.lasting}
        while True:
            missing = [channel for channel in missing if not (channel.is_connected or channel.is_cleared)]
            heard = {lasting: updates for lasting, updates in heard.items() if lasting.watch.updates <= updates + 1}
            if not missing and not heard:
                break
            if time.monotonic() > begin + RECOVERY_S:
                self._problem(
                    f"{RECOVERY_S:.0f} s after a {after}, {len(missing)} channels are not connected: {missing[:5]}, "
                    f"and {len(heard)} of {len(self.lasting)} lasting subscriptions are silent"
                )
                self.is_lost = True
                return
            time.sleep(0.02)
        for lasting in self.lasting:
            lasting.check(self.counts["kills"])
        self._calm_since = time.monotonic()
        self.recoveries.append(self._calm_since - begin)
