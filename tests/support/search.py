"""A network for the tests of the search by UDP: it answers late, loses datagrams, or is not there."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random

import numpy as np

from daqca.ca.channels import Channels, State
from daqca.ca.search import Searcher

from . import wire
from .clients import SERVER


class Network:
    """A searcher, a clock, and one server with some names.

    Parameters
    ----------
    has
        Whether the server has a name.
    delay
        Seconds that an answer takes.
    lost
        The part of the datagrams that is lost, on either way.
    room
        So many datagrams wait at the server at most; it takes one in `work` seconds.
    """

    def __init__(
        self,
        has: Callable[[str], bool] = lambda name: True,
        delay: float = 0.001,
        lost: float = 0.0,
        room: int = 1 << 30,
        work: float = 0.0,
        max_period: float = 300.0,
    ):
        self.channels = Channels()
        self.searcher = Searcher(self.channels, max_period)
        self.has, self.delay, self.lost, self.room, self.work = has, delay, lost, room, work
        self.now, self.random = 1000.0, Random(1)
        self.sent: list[tuple[float, list[wire.Message]]] = []
        self.found: Counter[int] = Counter()
        self.overrun = 0
        self._answers: list[tuple[float, int, bytes]] = []
        self._busy_until = 0.0

    def add(self, *names: str) -> np.ndarray:
        added = self.channels.add(list(names))
        self.searcher.add(added)
        return added

    def _serve(self, data: bytes) -> None:
        messages = wire.parse(data)
        self.sent.append((self.now, messages))
        if self.random.random() < self.lost:
            return
        begin = max(self._busy_until, self.now)
        if self.work and (begin - self.now) / self.work >= self.room:
            self.overrun += 1
            return
        self._busy_until = begin + self.work
        answers = [wire.search_reply(m.p2, 5064) for m in messages[1:] if self.has(m.text)]
        if answers and self.random.random() >= self.lost:
            reply = wire.replies(messages[0].p1, *answers)
            heapq.heappush(self._answers, (self._busy_until + self.delay, len(self.sent), reply))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Let time pass; returns how much did."""
        start, end = self.now, self.now + seconds
        while self.now < end and not until():
            for data, _ in self.searcher.datagrams(self.now):
                self._serve(data)
            due = self.searcher.next_time(self.now)
            assert due is None or due > self.now or self._answers, "it wants to send and does not"
            times = [end, *([due] if due is not None else []), *([self._answers[0][0]] if self._answers else [])]
            self.now = max(self.now + 1e-6, min(times))
            while self._answers and self._answers[0][0] <= self.now:
                self._take(heapq.heappop(self._answers)[2])
        return self.now - start

    def _take(self, data: bytes) -> None:
        for found in self.searcher.received([(data, SERVER)], self.now):
            assert found.address == SERVER
            new = found.slots[self.channels.state[found.slots] == State.SEARCHING]
            self.channels.state[new] = State.CREATING
            self.found.update(new.tolist())

    def lose(self, lost: np.ndarray, when: float) -> None:
        self.channels.state[lost] = State.SEARCHING
        self.searcher.add(lost, when)

    def asked(self, text: str) -> list[float]:
        """When a name was asked for."""
        return [time for time, messages in self.sent for message in messages[1:] if message.text == text]
