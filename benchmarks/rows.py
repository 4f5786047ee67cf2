"""The rows about reading, importing and memory; those about streams are in `streams`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from .bench import Bench, Client
from .processes import ClientError, Result, descendants, private_bytes
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
SEEKERS = (
    DAQCA,
    Client("daqca, 1 % missing", "daqca_client.py", ("absent=200",)),
    Client("daqca, 2 workers", "daqca_client.py", ("workers=2",)),
    Client("daqca, 2 workers, 1 % missing", "daqca_client.py", ("workers=2", "absent=200")),
)
BARE = Client("C, bare sockets: the floor", "bare")
DAQCA_CA = Client("daqca, `daqca.ca`", "daqca_ca_client.py")
PYEPICS_CA = Client("pyepics, `epics.ca`", "pyepics_client.py", ("how=ca",))
OTHERS = (REPICS, PYEPICS_CA, PYEPICS_PV, AIOCA, CAPROTO)
CALLBACK = Client("C, libca, `ca_array_get_callback`", "read", ("callback",))
GETTERS = (BARE, LIBCA, CALLBACK, DAQCA_CA, DAQCA, ONE_WORKER, *OTHERS)
PUTTERS = (BARE, LIBCA, DAQCA_CA, DAQCA, ONE_WORKER, *OTHERS)
SUBSCRIBERS = (Client("C, libca", "monitor"), DAQCA, DAQCA_CA, ONE_WORKER, *OTHERS)

TIME, PAUSED, P50, P99 = ("time", "ms"), ("time after a pause", "ms"), ("p50", "us"), ("p99", "us")


def verdict(result: Result) -> str:
    """What is wrong with a client's values, if anything."""
    return "" if result["right"] == result["n"] else f"{result['right']} of {result['n']} right"


def cold(bench: Bench, results: Results) -> None:
    """Search, connect and read in a fresh client, from a fresh IOC; where workers are used, they run already, connected
    to nothing."""
    for client in bench.rounds(READERS, restart=True):
        with (
            results.tolerate(client.name, *TIME),
            bench.process(client.command("cold", bench.scalars)) as process,
        ):
            result = process.answer()
            results.add(client.name, *TIME, 1e3 * result["seconds"], verdict(result))


def warm(bench: Bench, results: Results) -> None:
    """Read all again from the IOC, through connections that exist: the middle of reads that follow each other for half
    a second, and of 5 reads after a pause of 0.1 s, in which caches and cores go cold.

    One client at a time is connected, to a fresh IOC: it takes longer for a read the more channels there are, and once
    it has served two circuits at the same time, whoever reads.
    """
    for client in bench.rounds(READERS, restart=True):
        with (
            results.tolerate(client.name, *TIME),
            bench.process(client.command("warm", bench.scalars)) as process,
        ):
            process.answer()
            reads = process.ask("0.5")
            results.add(client.name, *TIME, 1e3 * median(reads["times"]), verdict(reads))
            paused = []
            for _ in range(5):
                time.sleep(0.1)
                paused.append(process.ask("0"))
            wrong = next(filter(None, map(verdict, paused)), "")
            results.add(client.name, *PAUSED, 1e3 * median(each["times"][0] for each in paused), wrong)


def missing(bench: Bench, results: Results) -> None:
    """Search, connect and read in a fresh client, from a fresh IOC; with 200 names more that nobody has, and without
    them: until every value that there is was at hand, and until the call returned, whose timeout is 2 s.
    """
    for client in bench.rounds(SEEKERS, restart=True):
        with (
            results.tolerate(client.name, "others at hand", "ms"),
            bench.process(client.command("missing", bench.scalars)) as process,
        ):
            result = process.answer()
            results.add(client.name, "others at hand", "ms", 1e3 * result["at_hand"], verdict(result))
            results.add(client.name, "the call", "ms", 1e3 * result["took"])


def get(bench: Bench, results: Results) -> None:
    """Gets of one connected PV, one after the other: in each run the middle and the 99th percentile of 1,000."""
    one_by_one(bench, results, GETTERS, "get", bench.scalars)


def put(bench: Bench, results: Results) -> None:
    """Puts of a number to one connected PV, each waited for until its record has processed: in each run the middle and
    the 99th percentile of 1,000. The last one is read back."""
    one_by_one(bench, results, PUTTERS, "put", bench.target)


def one_by_one(bench: Bench, results: Results, clients: Sequence[Client], scenario: str, names: Path) -> None:
    """Latencies of operations that follow each other; all clients are connected, one at a time is busy."""
    with ExitStack() as stack:
        processes = {}
        for client in bench.wanted(clients):
            with results.tolerate(client.name, *P50):
                process = stack.enter_context(bench.process(client.command(scenario, names)))
                process.answer()
                processes[client] = process
        for client in bench.rounds(list(processes)):
            with results.tolerate(client.name, *P50):
                result = processes[client].ask("1000")
                p50, p99 = np.percentile(np.array(result["ns"]) / 1e3, [50, 99]).tolist()
                results.add(client.name, *P50, p50, verdict(result))
                results.add(client.name, *P99, p99, verdict(result))


IMPORTS = {
    "daqca": "import daqca",
    "daqca, its Engine": "from daqca import Engine",
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
            with results.tolerate(name, *TIME):
                command = [sys.executable, "-c", code.format(statement)]
                done = subprocess.run(command, env=bench.environment, capture_output=True, text=True, timeout=60)
                if done.returncode:
                    raise ClientError(done.stderr)
                if run >= 0:
                    results.add(name, *TIME, 1e3 * float(done.stdout))


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
