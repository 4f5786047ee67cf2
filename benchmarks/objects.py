"""The rows about PV objects: made, read, and called back."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from .bench import Bench, Client
from .build_c import program
from .processes import ClientProcess, Result, descendants, private_bytes
from .records import FEW
from .results import Results
from .rows import AIOCA, CAPROTO, DAQCA_CA, P50, P99, PYEPICS_CA, PYEPICS_PV, REPICS, one_by_one, verdict
from .streams import count

PV = Client("daqca, `PV`", "daqca_pv_client.py")
AT_ONCE = Client("daqca, `engine.pvs`", "daqca_pv_client.py", ("how=pvs",))
ONE_WORKER = Client("daqca, `PV`, 1 worker", "daqca_pv_client.py", ("workers=1",))
TWO_WORKERS = Client("daqca, `PV`, 2 workers", "daqca_pv_client.py", ("workers=2",))

MAKERS = (PV, AT_ONCE, TWO_WORKERS, PYEPICS_PV)
GETTERS = (PV, ONE_WORKER, PYEPICS_PV, REPICS, AIOCA, CAPROTO)
LISTENERS = (PV, ONE_WORKER, DAQCA_CA, REPICS, PYEPICS_CA, PYEPICS_PV, AIOCA, CAPROTO)
MONITORED = ("from the monitor", "us")


def pvs(bench: Bench, results: Results) -> None:
    """Make PV objects in a fresh client of a fresh IOC, wait until all are connected, and get each value, by the same
    calls of each library: the time from the start to each. Where workers are used, they run already, connected to
    nothing.

    Memory is private memory for each PV object, monitored, with all that it takes, in the client and its workers.
    """
    for names, n in {bench.few: min(FEW, bench.n), bench.scalars: bench.n}.items():
        for client in bench.rounds(MAKERS, restart=True):
            with results.tolerate(client.name, f"with values, {n:,}", "ms"):
                make(bench, client, names, n, results)


def make(bench: Bench, client: Client, names: Path, n: int, results: Results) -> None:
    """Have one client make, connect and read its PV objects."""
    with bench.process(client.command("objects", names)) as process:
        process.answer()
        time.sleep(0.3)
        before = sum(map(private_bytes, descendants(process.pid)))
        result = process.ask("go")
        time.sleep(0.3)
        used = sum(map(private_bytes, descendants(process.pid))) - before
    wrong = verdict(result)
    for state in ("connected", "monitored"):
        if result[state] != n:
            wrong = f"{result[state]} of {n} {state}"
    for what, seconds in result["times"].items():
        results.add(client.name, f"{what}, {n:,}", "ms", 1e3 * seconds, wrong)
    results.add(client.name, f"memory, {n:,}", "kB", used / n / 1000, wrong)


def pvget(bench: Bench, results: Results) -> None:
    """Gets of one connected PV, one after the other: for PV objects the value that the monitor told last, the middle of
    100 times 1,000 gets in each run; and, for all clients, the server's answer, the middle and the 99th percentile of
    1,000."""
    with ExitStack() as stack:
        processes: dict[Client, ClientProcess] = {}
        for client in bench.wanted((PV, ONE_WORKER, PYEPICS_PV)):
            with results.tolerate(client.name, *MONITORED):
                process = stack.enter_context(bench.process(client.command("known", bench.scalars)))
                process.answer()
                processes[client] = process
        for client in bench.rounds(list(processes)):
            with results.tolerate(client.name, *MONITORED):
                result = processes[client].ask("100")
                results.add(client.name, *MONITORED, median(result["ns"]) / 1e3, verdict(result))
    one_by_one(bench, results, GETTERS, "get", bench.scalars)


STAMPS, STAMPS_PER_SECOND = 1000, 200


def latency(bench: Bench, results: Results) -> None:
    """From a put in another process, through the IOC, to a Python callback: each of 1,000 puts, 200 a second, puts the
    time to one PV, and the callback compares it with the time when it runs. The middle and the 99th percentile."""
    with bench.process([program("stamp"), "stamp", str(bench.target)]) as putter:
        putter.answer()
        for client in bench.rounds(LISTENERS):
            with (
                results.tolerate(client.name, *P50),
                bench.process(client.command("latency", bench.target)) as process,
            ):
                process.answer()
                process.send(f"{STAMPS}")
                put = putter.ask(f"{STAMPS} {STAMPS_PER_SECOND}")["stamps"]
                add_delays(client, put, process.answer(), results)


def add_delays(client: Client, put: list[float], result: Result, results: Results) -> None:
    """Judge what one client saw, and add its delays."""
    seen = set(result["stamps"])
    if seen <= set(put) and result["stamps"] == sorted(seen):
        wrong = ""
    else:
        wrong = "values that were not put, or in another order"
    results.add(client.name, "lost", "", len(put) - len(seen), wrong)
    delays = 1e6 * (np.array(result["times"]) - np.array(result["stamps"]))
    p50, p99 = np.percentile(delays, [50, 99]).tolist() if len(delays) else (np.nan, np.nan)
    results.add(client.name, *P50, p50, wrong)
    results.add(client.name, *P99, p99, wrong)


CALLBACKS = {PV: "100 50000 1", ONE_WORKER: "100 50000 1", PYEPICS_PV: "40 20000 1"}
"""The puts of each: rounds of 1,000, how many puts a second, rounds on their way."""


def pvcallbacks(bench: Bench, results: Results) -> None:
    """1,000 PV objects with a callback, which gets all its keywords for each update: CPU of the client for each event,
    and what never came. 50,000 updates a second in all; 20,000 for pyepics, which keeps up with no more."""
    with bench.process([program("put"), "put", str(bench.counters)]) as putter:
        putter.answer()
        for client in bench.rounds(list(CALLBACKS)):
            with results.tolerate(client.name, "CPU for an event", "us"):
                count(bench, client, putter, CALLBACKS[client], results, "")
