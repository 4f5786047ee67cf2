"""The callbacks that the soak hands over: of puts, counted one by one, and of subscriptions, whose order is known."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daqca import ca
from daqca.ca.eca import ECA, message
from daqca.errors import ChannelAccessException

from .records import Ledger, decode

if TYPE_CHECKING:
    from .weather import Weather

LATE_S = 3.0
"""Seconds after a subscription was cleared in which a callback that was under way may still be seen."""


class PutCallbacks:
    """All callbacks of puts: how many were handed over, and how many were called."""

    def __init__(self, weather: Weather, problem: Callable[[str], None]):
        self.weather = weather
        self.problem = problem
        self.issued = 0
        self.received = 0
        self.failed: Counter[str] = Counter()
        self.withdrawn = 0
        """Of puts that were refused before anything was sent: their callbacks are not to be called."""
        self.waiting: set[PutCallback] = set()
        self.lock = threading.Lock()

    def new(self, ledger: Ledger, number: int, by: str) -> PutCallback:
        """The callback of a put that is made now."""
        callback = PutCallback(self, ledger, number, by)
        with self.lock:
            self.issued += 1
            self.waiting.add(callback)
        return callback

    def withdraw(self, callback: PutCallback) -> None:
        """The put raised, because it could not be sent."""
        with self.lock:
            self.withdrawn += 1
            if callback in self.waiting:
                self.waiting.remove(callback)
            else:
                self.problem(f"{callback} was called, though the put raised")

    def check(self) -> None:
        """At the end: each was called."""
        with self.lock:
            waiting = list(self.waiting)
            if waiting:
                self.problem(f"{len(waiting)} put callbacks were never called: {waiting[:5]}")
            if self.issued != self.received + self.withdrawn + len(waiting):
                self.problem(
                    f"put callbacks: {self.issued} issued, {self.received} received, {self.withdrawn} not sent"
                )

    def report(self) -> dict[str, Any]:
        return {
            "issued": self.issued,
            "received": self.received,
            "of failed puts": dict(self.failed),
            "not sent": self.withdrawn,
        }


class PutCallback:
    """The callback of one put."""

    __slots__ = ("_all", "_begun", "_by", "_calls", "_since", "ledger", "number")

    def __init__(self, everyone: PutCallbacks, ledger: Ledger, number: int, by: str):
        self.ledger = ledger
        self.number = number
        self._all = everyone
        self._by = by
        self._begun = everyone.weather.epoch
        self._since = time.monotonic()
        self._calls = 0

    def __call__(self, pvname: str = "", data: Any = None, status: int = ECA.NORMAL) -> None:
        with self._all.lock:
            self._calls += 1
            if self not in self._all.waiting:
                self._all.problem(f"{self} was called {self._calls} times")
                return
            self._all.waiting.remove(self)
            self._all.received += 1
            if status != ECA.NORMAL:
                self._all.failed[message(status)] += 1
        if data is not self or pvname != self.ledger.pvname:
            self._all.problem(f"{self} was called with pvname={pvname!r} and data={data!r}")
        if status == ECA.NORMAL:
            self.ledger.confirm(self.number, self._begun, self._all.weather.epoch)

    def __repr__(self) -> str:
        age = time.monotonic() - self._since
        return f"<callback of put {self.number} to {self.ledger.pvname} by {self._by}, {age:.1f} s ago>"


class Watch:
    """The callback of one subscription.

    Parameters
    ----------
    ledger
        Of the record that is watched; None: of one that nobody writes.
    asks
        Whether it asks for something in every twentieth call, as callbacks may.
    """

    def __init__(self, chid: Any, ledger: Ledger | None, problem: Callable[[str], None], asks: bool):
        self.chid = chid
        self.ledger = ledger
        self.last = -1
        self.updates = 0
        self.asked = 0
        self._number = int(chid)
        self._pvname = chid.pvname
        self._problem = problem
        self._asks = asks
        self._ended = float("inf")

    def end(self) -> None:
        """It was cleared: nothing may be told any more."""
        self._ended = min(self._ended, time.monotonic())

    @property
    def is_live(self) -> bool:
        return self._ended == float("inf") and not self.chid.is_cleared

    def __call__(self, pvname: str = "", chid: int = 0, value: Any = None, **more: Any) -> None:
        late = time.monotonic() - self._ended
        if late > LATE_S:
            self._problem(f"a subscription of {self._pvname} was told something {late:.1f} s after it was cleared")
        if pvname != self._pvname or chid != self._number:
            self._problem(f"a subscription of {self._pvname} was told something of {pvname}")
            return
        self.updates += 1
        if self.ledger is not None:
            self._look(value)
        if self._asks and not self.updates % 20:
            self._ask()

    def _ask(self) -> None:
        try:
            self.asked += ca.get(self.chid, timeout=0.02) is not None
        except ChannelAccessException:
            if not self.chid.is_cleared:  # by another thread, right now
                raise

    def _look(self, value: Any) -> None:
        assert self.ledger is not None
        number = decode(self.ledger.kind, value)
        if number > self.ledger.sent:
            self._problem(f"a subscription of {self._pvname} gave {number}, and only {self.ledger.sent} were written")
        if 0 < number < self.last and self.ledger.is_ordered:
            self._problem(f"a subscription of {self._pvname} gave {number} after {self.last}")
        if number or self.last < 0:
            self.last = max(number, self.last)
