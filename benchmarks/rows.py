"""The rows about reading, importing and memory; those about streams are in `streams`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from .bench import Bench, Client, Measurement, tolerated
from .processes import ClientProcess, Result, descendants, private_bytes

Say = Callable[[str], None]

LIBCA = Client("C, libca", "read")
LIBCA_PLAIN = Client("C, libca, `ca_array_get` and `ca_pend_io`", "read", ("plain",))
LIBCA_CALLBACK = Client("C, libca, `ca_array_get_callback`", "read", ("callback",))
DAQCA = (Client("daqca", "daqca_client.py"), Client("daqca, as Python numbers", "daqca_client.py", ("values=list",)))
DAQCA_WORKERS = (
    Client("daqca, 2 workers", "daqca_client.py", ("workers=2",)),
    Client("daqca, 2 workers, as Python numbers", "daqca_client.py", ("workers=2", "values=list")),
)
PYEPICS = Client("pyepics, `caget_many` (values alone)", "pyepics_client.py")
RECIPES = (
    Client("pyepics, recipe 10.2 (values alone)", "pyepics_client.py", ("how=recipe",)),
    Client("pyepics, recipe 10.2 with time and alarm", "pyepics_client.py", ("how=recipe", "time=yes")),
)
AIOCA = Client("aioca", "aioca_client.py")
REPICS = Client("repics", "repics_client.py")
CAPROTO = Client("caproto", "caproto_client.py")
READERS = (LIBCA, LIBCA_PLAIN, *DAQCA, *DAQCA_WORKERS, REPICS, PYEPICS, *RECIPES, AIOCA, CAPROTO)


def verdict(result: Result) -> str:
    """What is wrong with a client's values, if anything."""
    return "" if result["right"] == result["n"] else f"{result['right']} of {result['n']} right"


def cold(bench: Bench, say: Say) -> list[Measurement]:
    """Search, connect and read in a fresh client; a client with workers has them running, connected to nothing."""
    found = {client: Measurement(client.name, "time", "ms") for client in READERS}
    for run, client in bench.rounds(READERS):
        with tolerated([found[client]], say), bench.process(client.command("cold", bench.scalars)) as process:
            result = process.answer()
            found[client].values.append(1e3 * result["seconds"])
            found[client].wrong = found[client].wrong or verdict(result)
            say(f"  run {run + 1}: {client.name}: {1e3 * result['seconds']:.1f} ms {verdict(result)}")
    return list(found.values())


def connected(
    bench: Bench,
    clients: Sequence[Client],
    scenario: str,
    stack: ExitStack,
    say: Say,
    found: dict[Client, list[Measurement]],
) -> dict[Client, ClientProcess]:
    """Start each client of a scenario that keeps its connections, and wait until it has them."""
    processes = {}
    for client in clients:
        with tolerated(found[client], say):
            process = stack.enter_context(bench.process(client.command(scenario, bench.scalars)))
            process.answer()
            processes[client] = process
    return processes


def warm(bench: Bench, say: Say) -> list[Measurement]:
    """Read all again through connections that exist."""
    found = {client: [Measurement(client.name, "time", "ms")] for client in READERS}
    with ExitStack() as stack:
        processes = connected(bench, READERS, "warm", stack, say, found)
        for run, client in bench.rounds(list(processes)):
            (measurement,) = found[client]
            with tolerated([measurement], say):
                result = processes[client].ask("go")
                measurement.values.append(1e3 * result["seconds"])
                measurement.wrong = measurement.wrong or verdict(result)
                say(f"  run {run + 1}: {client.name}: {1e3 * result['seconds']:.1f} ms {verdict(result)}")
    return [each for measurements in found.values() for each in measurements]


def get(bench: Bench, say: Say) -> list[Measurement]:
    """One get of a connected PV after the other: the middle and the 99th percentile of 1,000, in each run."""
    clients = (
        LIBCA,
        LIBCA_CALLBACK,
        DAQCA[0],
        Client("daqca, 1 worker", "daqca_client.py", ("workers=1",)),
        REPICS,
        Client("pyepics, `PV.get`", "pyepics_client.py"),
        AIOCA,
        CAPROTO,
    )
    found = {
        client: [Measurement(client.name, "p50", "us"), Measurement(client.name, "p99", "us")] for client in clients
    }
    with ExitStack() as stack:
        processes = connected(bench, clients, "get", stack, say, found)
        for run, client in bench.rounds(list(processes)):
            with tolerated(found[client], say):
                result = processes[client].ask("1000")
                times = np.percentile(np.array(result["ns"]) / 1e3, [50, 99])
                for measurement, value in zip(found[client], times.tolist(), strict=True):
                    measurement.values.append(value)
                    measurement.wrong = measurement.wrong or verdict(result)
                say(f"  run {run + 1}: {client.name}: {times[0]:.1f} us, {times[1]:.1f} us {verdict(result)}")
    return [each for measurements in found.values() for each in measurements]


IMPORTS = {
    "daqca": "import daqca",
    "daqca, its Engine": "from daqca import Engine",
    "daqca, its PV": "from daqca import PV",
    "pyepics": "import epics",
    "repics": "from repics import ca",
    "aioca": "import aioca",
    "caproto": "import caproto.threading.client",
}


def imports(bench: Bench, say: Say) -> list[Measurement]:
    """Importing the client beyond importing numpy, in a fresh interpreter whose files are in the cache."""
    found = {name: Measurement(name, "time", "ms") for name in IMPORTS}
    for run in range(-1, 2 * bench.runs):  # the first round fills caches
        for name, statement in IMPORTS.items():
            code = f"import numpy, time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            with tolerated([found[name]], say):
                done = subprocess.run(
                    [sys.executable, "-c", code], env=bench.environment, capture_output=True, text=True, timeout=60
                )
                if done.returncode:
                    raise OSError(done.stderr)
                if run >= 0:
                    found[name].values.append(1e3 * float(done.stdout))
    return list(found.values())


def memory(bench: Bench, say: Say) -> list[Measurement]:
    """Private memory for each connected and monitored scalar, in the client and its workers together."""
    clients = (
        Client("C, libca", "monitor"),
        DAQCA[0],
        Client("daqca, 1 worker", "daqca_client.py", ("workers=1",)),
        REPICS,
        Client("pyepics, `PV`", "pyepics_client.py"),
        AIOCA,
        CAPROTO,
    )
    found = {client: Measurement(client.name, "memory", "kB") for client in clients}
    for run, client in bench.rounds(clients):
        with tolerated([found[client]], say), bench.process(client.command("memory", bench.scalars)) as process:
            process.answer()
            time.sleep(0.3)
            before = sum(map(private_bytes, descendants(process.pid)))
            result = process.ask("go")
            time.sleep(0.3)
            used = sum(map(private_bytes, descendants(process.pid))) - before
            found[client].values.append(used / bench.n / 1000)
            if result["pvs"] != bench.n:
                found[client].wrong = f"{result['pvs']} of {bench.n} monitored"
            say(f"  run {run + 1}: {client.name}: {used / bench.n:.0f} bytes {found[client].wrong}")
    return list(found.values())
