"""The scenarios that every Python client plays, and its conversation with the driver; no client's own calls.

A client script makes an `Adapter` of its library and hands it to `play`. The driver starts
``script.py SCENARIO NAMES [option=value ...]`` and gets one JSON line for each command line it writes.
"""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

QUIET = 0.5
"""Seconds without an event after which a stream of monitors is over."""

LONGEST_DRAIN = 15.0
"""Seconds given to a client that still works off what it was sent."""


class Adapter:
    """What a scenario needs of a client library. Values are Python numbers, in the order of the names."""

    def __init__(self, names: Sequence[str], **options: str):
        self.names = list(names)
        self.options = options

    def start(self) -> None:
        """Prepare what a running program already has; not timed in any scenario."""

    def read(self) -> Sequence[float]:
        """Search and connect what is not connected yet, and read every name from the server."""
        raise NotImplementedError

    def stamps(self) -> Sequence[float] | None:
        """Timestamps that came with the last `read`, or None if it asks for plain values."""
        return None

    def gets(self, n: int) -> tuple[list[float], list[int]]:
        """Read the first name `n` times, one after the other: the values, and nanoseconds each."""
        values, times = [], []
        get, clock = self.getter(), time.perf_counter_ns
        for _ in range(n):
            start = clock()
            value = get()
            times.append(clock() - start)
            values.append(value)
        return values, times

    def getter(self) -> Callable[[], float]:
        """A function that gets the first name, connected, from its server."""
        raise NotImplementedError

    def puts(self, values: Sequence[float]) -> list[int]:
        """Put each of these values to the first name and wait until it is confirmed: nanoseconds each."""
        times = []
        put, clock = self.putter(), time.perf_counter_ns
        for value in values:
            start = clock()
            put(value)
            times.append(clock() - start)
        return times

    def putter(self) -> Callable[[float], object]:
        """A function that puts to the first name, connected, and waits until its server confirms it."""
        raise NotImplementedError

    def monitor(self, tally: Tally) -> None:
        """Subscribe to every name; ``tally.seen(value, index)`` gets each update, with time and alarm at hand."""
        raise NotImplementedError

    def make(self) -> Sequence[Any]:
        """A PV object for every name, none of them waited for."""
        raise NotImplementedError

    def monitored(self) -> Any:
        """A PV object of the first name, connected, that has a value from its monitor."""
        (pv,) = self.make()
        assert pv.wait_for_connection(10)
        deadline = time.monotonic() + 10
        while pv.get() is None and time.monotonic() < deadline:
            self.wait(0.05)
        self.wait(0.5)
        return pv

    def tally(self, n: int) -> Tally:
        """What is given to `monitor` for `n` PVs."""
        return Tally(n)

    def wait(self, seconds: float) -> None:
        """Let the library work while this thread has nothing to do."""
        time.sleep(seconds)

    def dropped(self) -> int:
        """Updates that the library itself says it dropped."""
        return 0

    def close(self) -> None:
        """Leave cleanly."""


def say(**result: Any) -> None:
    print(json.dumps(result), flush=True)


def commands(adapter: Adapter) -> Any:
    """Yield the driver's command lines until it says ``stop``, and keep the library alive between them."""
    while True:
        while not select.select([sys.stdin], [], [], 0)[0]:
            adapter.wait(0.02)
        line = sys.stdin.readline().strip()
        if line in ("", "stop"):
            return
        yield line


def judge(adapter: Adapter, values: Sequence[float], expected: Sequence[float]) -> dict[str, Any]:
    """How many values are right, and whether each came with a time of this century."""
    right = sum(1 for value, wanted in zip(values, expected, strict=True) if value is not None and value == wanted)
    stamps = adapter.stamps()
    if stamps is not None:
        right = min(right, sum(1 for stamp in stamps if stamp > 1e9))
    return {"right": right, "n": len(expected), "time_and_alarm": stamps is not None}


def cold(adapter: Adapter, expected: Sequence[float]) -> None:
    """Search, connect and read, in a client that knows nothing yet."""
    start = time.perf_counter()
    values = adapter.read()
    say(seconds=time.perf_counter() - start, **judge(adapter, values, expected))


def warm(adapter: Adapter, expected: Sequence[float]) -> None:
    """Read everything again and again, without a pause, for as many seconds as each command says."""
    adapter.read()
    adapter.read()
    say(ready=True)
    for command in commands(adapter):
        values, times, enough = [], [], float(command)
        while not times or (len(times) < 20 and sum(times) < enough):
            start = time.perf_counter()
            values.append(adapter.read())
            times.append(time.perf_counter() - start)
        judged = [judge(adapter, each, expected) for each in values]
        say(times=times, **min(judged, key=lambda each: each["right"]))


def get(adapter: Adapter, expected: Sequence[float]) -> None:
    """Single gets of one connected PV, as many as the command says."""
    adapter.gets(100)
    say(ready=True)
    for command in commands(adapter):
        values, times = adapter.gets(int(command))
        say(ns=times, right=sum(1 for value in values if value == expected[0]), n=len(values))


def put(adapter: Adapter, expected: Sequence[float]) -> None:
    """Single puts with completion to one connected PV, as many as the command says, counting up; then it is read."""
    adapter.puts([0.0] * 100)
    say(ready=True)
    for command in commands(adapter):
        n = int(command)
        times = adapter.puts([float(i + 1) for i in range(n)])
        values, _ = adapter.gets(1)
        say(ns=times, right=n if values == [float(n)] else 0, n=n)


def objects(adapter: Adapter, expected: Sequence[float]) -> None:
    """Make a PV object for every name, wait until all are connected, get each value; seconds from the start to each."""
    say(ready=True)
    for _ in commands(adapter):
        start = time.perf_counter()
        pvs = adapter.make()
        created = time.perf_counter() - start
        connected = sum(1 for pv in pvs if pv.wait_for_connection(60))
        seconds = time.perf_counter() - start
        values = [pv.get() for pv in pvs]
        times = {"created": created, "connected": seconds, "with values": time.perf_counter() - start}
        monitored = sum(1 for pv in pvs if pv.auto_monitor_mask)
        say(times=times, connected=connected, monitored=monitored, **judge(adapter, values, expected))


BLOCK = 1000
"""Values from a monitor that are got in one go: the clock would take as long as each."""


def known(adapter: Adapter, expected: Sequence[float]) -> None:
    """Get the value of one monitored PV object, as many thousand times as the command says: nanoseconds for each."""
    get = adapter.monitored().get
    say(ready=True)
    for command in commands(adapter):
        times, right, blocks = [], 0, int(command)
        for _ in range(blocks):
            start = time.perf_counter_ns()
            values = [get() for _ in range(BLOCK)]
            times.append((time.perf_counter_ns() - start) / BLOCK)
            right += values.count(expected[0])
        say(ns=times, right=right, n=blocks * BLOCK)


class Tally:
    """Counts the updates of counters that only ever go up by one."""

    def __init__(self, n: int):
        self.events = 0
        self.begun = 0
        self.first: list[float | None] = [None] * n
        self.last = [0.0] * n

    def seen(self, value: float, index: int) -> None:
        """One update: the least that a program does with it."""
        self.events += 1
        if self.first[index] is None:
            self.first[index] = value
            self.begun += 1
        self.last[index] = value

    @property
    def complete(self) -> bool:
        """Whether every PV has sent its first value."""
        return self.begun == len(self.first)

    def summary(self) -> dict[str, Any]:
        """The events after each PV's first, and the sums of the first and the last values."""
        first = sum(value for value in self.first if value is not None)
        return {"pvs": self.begun, "events": self.events - self.begun, "first": first, "last": float(sum(self.last))}


def monitor(adapter: Adapter, expected: Sequence[float]) -> None:
    """Count the updates of counters from one command (the puts begin) to the next (the puts have ended)."""
    tally = adapter.tally(len(expected))
    adapter.monitor(tally)
    deadline = time.monotonic() + 60
    while not tally.complete and time.monotonic() < deadline:
        adapter.wait(0.05)
    say(ready=True, **tally.summary())
    cpu, start = time.process_time(), time.perf_counter()
    for _ in commands(adapter):
        begun, before, last_news = time.monotonic(), tally.events, time.monotonic()
        while time.monotonic() - last_news < QUIET and time.monotonic() - begun < LONGEST_DRAIN:
            adapter.wait(0.05)
            if tally.events != before:
                before, last_news = tally.events, time.monotonic()
        cpu, elapsed = time.process_time() - cpu, time.perf_counter() - start
        say(cpu=cpu, elapsed=elapsed, dropped=adapter.dropped(), **tally.summary())


class Delays(Tally):
    """Notes each update of one PV, whose value is the monotonic time at which it was put, and when it is seen."""

    def __init__(self) -> None:
        super().__init__(1)
        self.stamps: list[float] = []
        self.times: list[float] = []

    def seen(self, value: float, index: int) -> None:
        """One update."""
        self.times.append(time.monotonic())
        self.stamps.append(float(value))
        self.events += 1


def latency(adapter: Adapter, expected: Sequence[float]) -> None:
    """Note when each of so many updates is seen as the command says; they come from one command on."""
    delays = Delays()
    adapter.monitor(delays)
    deadline = time.monotonic() + 60
    while not delays.events and time.monotonic() < deadline:
        adapter.wait(0.05)
    say(ready=True)
    for command in commands(adapter):
        wanted, last_news, before = 1 + int(command), time.monotonic(), 0
        while delays.events < wanted and time.monotonic() - last_news < 2 + QUIET:
            adapter.wait(0.2)
            if delays.events != before:
                before, last_news = delays.events, time.monotonic()
        adapter.wait(QUIET)
        say(stamps=delays.stamps[1:], times=delays.times[1:])


def memory(adapter: Adapter, expected: Sequence[float]) -> None:
    """Connect to and monitor every name, and stay while the driver looks at our memory."""
    adapter.start()
    tally = adapter.tally(len(expected))
    say(ready=True)
    for _ in commands(adapter):
        adapter.monitor(tally)
        deadline = time.monotonic() + 120
        while not tally.complete and time.monotonic() < deadline:
            adapter.wait(0.05)
        say(**tally.summary())


ONE_BY_ONE = (get, put, known)
"""Scenarios that need the first name alone."""

SCENARIOS = {each.__name__: each for each in (cold, warm, *ONE_BY_ONE, objects, monitor, latency, memory)}


def play(make: Callable[..., Adapter], *more: Callable[..., None]) -> None:
    """Run the scenario that the command line names (one of `SCENARIOS` or of `more`) with what `make` makes."""
    scenario, path, *rest = sys.argv[1:]
    with open(path) as file:
        rows = [line.split("\t") for line in file]
    names, expected = [row[0] for row in rows], [float(row[1]) for row in rows]
    if SCENARIOS.get(scenario) in ONE_BY_ONE:
        names = names[:1]
    adapter = make(names, **dict(item.split("=") for item in rest))
    if scenario not in ("memory",):
        adapter.start()
    try:
        scenarios = SCENARIOS | {each.__name__: each for each in more}
        scenarios[scenario](adapter, expected)
    finally:
        adapter.close()
