"""The rows about reading, importing and memory; those about streams are in `streams`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from .bench import Bench, Client
from .processes import ClientError, ClientProcess, Result, descendants, private_bytes
from .results import Results

LIBCA = Client("C, libca", "read")
DAQCA = Client("daqca", "daqca_client.py")
ONE_WORKER = Client("daqca, 1 worker", "daqca_client.py", ("workers=1",))
REPICS = Client("repics", "repics_client.py")
PYEPICS_PV = Client("pyepics, `PV`", "pyepics_client.py")
AIOCA = Client("aioca", "aioca_client.py")
CAPROTO = Client("caproto", "caproto_client.py")

READERS = (
    LIBCA,
    Client("C, libca, `ca_array_get` and `ca_pend_io`", "read", ("plain",)),
    DAQCA,
    Client("daqca, as Python numbers", "daqca_client.py", ("values=list",)),
    Client("daqca, 2 workers", "daqca_client.py", ("workers=2",)),
    Client("daqca, 2 workers, as Python numbers", "daqca_client.py", ("workers=2", "values=list")),
    REPICS,
    Client("pyepics, `caget_many` (values alone)", "pyepics_client.py"),
    Client("pyepics, recipe 10.2 (values alone)", "pyepics_client.py", ("how=recipe",)),
    Client("pyepics, recipe 10.2 with time and alarm", "pyepics_client.py", ("how=recipe", "time=yes")),
    AIOCA,
    CAPROTO,
)
GETTERS = (
    LIBCA,
    Client("C, libca, `ca_array_get_callback`", "read", ("callback",)),
    DAQCA,
    ONE_WORKER,
    REPICS,
    PYEPICS_PV,
    AIOCA,
    CAPROTO,
)
SUBSCRIBERS = (Client("C, libca", "monitor"), DAQCA, ONE_WORKER, REPICS, PYEPICS_PV, AIOCA, CAPROTO)


def verdict(result: Result) -> str:
    """What is wrong with a client's values, if anything."""
    return "" if result["right"] == result["n"] else f"{result['right']} of {result['n']} right"


def cold(bench: Bench, results: Results) -> None:
    """Search, connect and read in a fresh client; where workers are used, they run already, connected to nothing."""
    for client in bench.rounds(READERS):
        with (
            results.tolerate(client.name, "time", "ms"),
            bench.process(client.command("cold", bench.scalars)) as process,
        ):
            result = process.answer()
            results.add(client.name, "time", "ms", 1e3 * result["seconds"], verdict(result))


def connected(
    bench: Bench, clients: Sequence[Client], scenario: str, stack: ExitStack, results: Results
) -> dict[Client, ClientProcess]:
    """Start the clients of a scenario that keeps its connections, and wait until they have them."""
    processes = {}
    for client in clients:
        with results.tolerate(client.name, "p50" if scenario == "get" else "time", "us" if scenario == "get" else "ms"):
            process = stack.enter_context(bench.process(client.command(scenario, bench.scalars)))
            process.answer()
            processes[client] = process
    return processes


def warm(bench: Bench, results: Results) -> None:
    """Read all again from the IOC, through connections that exist."""
    with ExitStack() as stack:
        processes = connected(bench, READERS, "warm", stack, results)
        for client in bench.rounds(list(processes)):
            with results.tolerate(client.name, "time", "ms"):
                result = processes[client].ask("go")
                results.add(client.name, "time", "ms", 1e3 * result["seconds"], verdict(result))


def get(bench: Bench, results: Results) -> None:
    """Gets of one connected PV, one after the other: in each run the middle and the 99th percentile of 1,000."""
    with ExitStack() as stack:
        processes = connected(bench, GETTERS, "get", stack, results)
        for client in bench.rounds(list(processes)):
            with results.tolerate(client.name, "p50", "us"):
                result = processes[client].ask("1000")
                p50, p99 = np.percentile(np.array(result["ns"]) / 1e3, [50, 99]).tolist()
                results.add(client.name, "p50", "us", p50, verdict(result))
                results.add(client.name, "p99", "us", p99, verdict(result))


IMPORTS = {
    "daqca": "import daqca",
    "daqca, its Engine": "from daqca import Engine",
    "daqca, its PV": "from daqca import PV",
    "pyepics": "import epics",
    "repics": "from repics import ca",
    "aioca": "import aioca",
    "caproto": "import caproto.threading.client",
}


def imports(bench: Bench, results: Results) -> None:
    """Import the client beyond importing numpy, in a fresh interpreter whose files are in the cache."""
    code = "import numpy, time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    for run in range(-1, bench.runs):  # the first round fills caches
        for name, statement in IMPORTS.items():
            with results.tolerate(name, "time", "ms"):
                command = [sys.executable, "-c", code.format(statement)]
                done = subprocess.run(command, env=bench.environment, capture_output=True, text=True, timeout=60)
                if done.returncode:
                    raise ClientError(done.stderr)
                if run >= 0:
                    results.add(name, "time", "ms", 1e3 * float(done.stdout))


def memory(bench: Bench, results: Results) -> None:
    """Private memory for each connected and monitored scalar PV, in the client and its workers together."""
    for client in bench.rounds(SUBSCRIBERS):
        with (
            results.tolerate(client.name, "memory", "kB"),
            bench.process(client.command("memory", bench.scalars)) as process,
        ):
            process.answer()
            time.sleep(0.3)
            before = sum(map(private_bytes, descendants(process.pid)))
            result = process.ask("go")
            time.sleep(0.3)
            used = sum(map(private_bytes, descendants(process.pid))) - before
            wrong = "" if result["pvs"] == bench.n else f"{result['pvs']} of {bench.n} monitored"
            results.add(client.name, "memory", "kB", used / bench.n / 1000, wrong)
