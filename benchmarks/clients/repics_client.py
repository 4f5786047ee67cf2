"""repics: the blocking front end's ``caget`` of a list, and ``camonitor`` with every update."""
# ruff: noqa: D102 - the methods are those of Adapter

from __future__ import annotations

from collections.abc import Callable, Sequence

from _common import Adapter, Tally, play
from repics import ca


class Repics(Adapter):
    """One default context, used through the functions of its documentation."""

    subscriptions: Sequence[ca.Subscription] = ()

    def read(self) -> Sequence[float]:
        self.values = ca.caget(self.names, timeout=60)
        return self.values

    def stamps(self) -> Sequence[float]:
        return [value.timestamp for value in self.values]

    def getter(self) -> Callable[[], float]:
        name, caget = self.names[0], ca.caget
        return lambda: caget(name)

    def putter(self) -> Callable[[float], object]:
        name, caput = self.names[0], ca.caput
        return lambda value: caput(name, value, wait=True)

    def monitor(self, tally: Tally) -> None:
        self.subscriptions = ca.camonitor(self.names, tally.seen, all_updates=True)

    def dropped(self) -> int:
        return sum(subscription.dropped_callbacks for subscription in self.subscriptions)

    def close(self) -> None:
        for subscription in self.subscriptions:
            subscription.close()


if __name__ == "__main__":
    play(Repics)
