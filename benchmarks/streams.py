"""The rows about monitors: updates and frames, from the IOC to a callback or to a file."""

from __future__ import annotations

from pathlib import Path

from daqca.sim import CameraIOC
from daqca.sim.process import child_environ

from .bench import Bench, Client, wait_idle
from .build_c import program
from .processes import ClientProcess, Result, command_line, descendants, total_cpu
from .recorded import judge_counters, judge_frames
from .results import Results
from .rows import DAQCA, ONE_WORKER, SUBSCRIBERS

COUNTER = SUBSCRIBERS[0]


def monitors(bench: Bench, results: Results) -> None:
    """Watch 1,000 PVs updated 50,000 times a second in all: CPU of the client for each event, and what never came."""
    with bench.process([program("put"), "put", str(bench.counters)]) as putter:
        putter.answer()
        for client in bench.rounds(SUBSCRIBERS):
            with results.tolerate(client.name, "CPU for an event", "us"):
                count(bench, client, putter, "100 50000 1", results, "")


def count(bench: Bench, client: Client, putter: ClientProcess, how: str, results: Results, label: str) -> None:
    """Let a subscriber count the updates of one stream of puts."""
    with bench.process(client.command("monitor", bench.counters)) as process:
        pvs = process.answer()["pvs"]
        pids = descendants(process.pid)
        before = sum(map(total_cpu, pids))
        puts = putter.ask(how)
        result = process.ask("count")
        cpu = sum(map(total_cpu, pids)) - before
        wrong = ""
        if result["last"] != puts["value"] * pvs:
            wrong = "the last values are not those put last"
        elif result["events"] > result["last"] - result["first"]:
            wrong = "more events than puts"
        if label:
            results.add(client.name, f"updates/s{label}", "", puts["puts"] / puts["seconds"])
        results.add(client.name, f"lost{label}", "", puts["puts"] - result["events"], wrong)
        results.add(client.name, f"CPU for an event{label}", "us", 1e6 * cpu / max(1, result["events"]))


PUTS = {" at full speed": "3000 0 1", " at 400,000/s": "2000 400000 1"}


def recording(bench: Bench, results: Results) -> None:
    """1,000 monitored PVs under puts, from the IOC through a worker and the broker to an HDF5 file.

    Every put counts its PV up by one, so the file itself shows what is lost: each PV must have every number, in order.
    The rate is that of the puts, until the last update is with the recorder. The C program only counts what it gets.
    """
    with bench.process([program("put"), "put", str(bench.counters)]) as putter:
        putter.answer()
        for label, how in PUTS.items():
            for client in bench.rounds((COUNTER, DAQCA, ONE_WORKER)):
                with results.tolerate(client.name, f"updates/s{label}", ""):
                    if client is COUNTER:
                        count(bench, client, putter, how, results, label)
                    else:
                        record(bench, client, putter, how, results, label)


def record(bench: Bench, client: Client, putter: ClientProcess, how: str, results: Results, label: str) -> None:
    """Record the updates of one stream of puts, and look into the file."""
    with bench.scratch("counters.h5") as path:
        with bench.process(client.command("record", bench.counters, f"path={path}")) as process:
            process.answer()
            roles = {role: Load(pids) for role, pids in by_role(process.pid).items()}
            wait_idle(descendants(process.pid), limit=0.05)
            for load in roles.values():
                load.start()
            puts = putter.ask(how)
            late = max(0.0, wait_idle(descendants(process.pid), limit=0.05) - puts["ended"])
            used = {role: load.seconds() for role, load in roles.items()}
            stopped = process.ask("count")
        lost, wrong = judge_counters(path, puts)
    results.say(f"    {stopped['stats'].partition(': ')[2]}")
    results.add(client.name, f"updates/s{label}", "", puts["puts"] / (puts["seconds"] + late), wrong)
    results.add(client.name, f"lost{label}", "", lost, wrong)
    for role, seconds in used.items():
        results.add(client.name, f"CPU for an event in the {role}{label}", "us", 1e6 * seconds / puts["puts"])


class Load:
    """The CPU that some processes use from one moment to another."""

    def __init__(self, pids: list[int]):
        self.pids = pids
        self.before = 0.0

    def start(self) -> None:
        """Count from now."""
        self.before = sum(map(total_cpu, self.pids))

    def seconds(self) -> float:
        """CPU seconds since the start."""
        return sum(map(total_cpu, self.pids)) - self.before


def by_role(pid: int) -> dict[str, list[int]]:
    """The processes of an engine: the one that records, its workers, its broker."""
    roles: dict[str, list[int]] = {"recorder": [pid], "worker": [], "broker": []}
    for child in descendants(pid)[1:]:
        role = next((role for role in ("worker", "broker") if role in command_line(child)), "other")
        roles.setdefault(role, []).append(child)
    return {role: pids for role, pids in roles.items() if pids}


FRAMES = 1000


def frames(bench: Bench, results: Results) -> None:
    """1,000 frames of 1,048,576 bytes at 200 Hz from a simulated camera, into an HDF5 file or to a counter in C.

    Each frame carries its number and a pattern; every frame of the file is compared with it byte for byte.
    """
    with CameraIOC("BENCH:", rate_hz=200.0) as camera:
        environment = child_environ(camera.environ)
        names = bench.folder / "frames.txt"
        names.write_text("BENCH:image1:ArrayData\t0\n")
        shot = ["ImageMode", "1", "NumImages", str(FRAMES), "ArrayCounter", "0", "Acquire", "1"]
        shot[::2] = [f"BENCH:cam1:{name}" for name in shot[::2]]
        with bench.process([program("set"), *shot], environment=environment) as trigger:
            trigger.answer()
            for client in bench.rounds((COUNTER, DAQCA, ONE_WORKER)):
                with results.tolerate(client.name, "frames/s", ""):
                    shoot(bench, client, camera, names, trigger, environment, results)


def shoot(
    bench: Bench,
    client: Client,
    camera: CameraIOC,
    names: Path,
    trigger: ClientProcess,
    environment: dict[str, str],
    results: Results,
) -> None:
    """Take one series of frames."""
    with bench.scratch("frames.h5") as path:
        command = ["frames"] if client is COUNTER else ["record", f"path={path}"]
        with bench.process(client.command(command[0], names, *command[1:]), environment=environment) as process:
            process.answer()
            load = Load(descendants(process.pid))
            load.start()
            took: Result = trigger.ask("go")
            wait_idle(load.pids, limit=0.05)
            cpu = load.seconds()
            result = process.ask("count")
        if client is COUNTER:
            lost, wrong = FRAMES - result["events"], "" if result["last"] == FRAMES else "not the last frame"
        else:
            lost, wrong = judge_frames(path, camera.pattern, FRAMES)
            results.say(f"    {result['stats'].partition(': ')[2]}")
    results.add(client.name, "frames/s", "", FRAMES / took["seconds"])
    results.add(client.name, "lost", "", lost, wrong)
    results.add(client.name, "CPU for a frame", "ms", 1e3 * cpu / FRAMES)
