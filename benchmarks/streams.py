"""The rows about monitors: updates and frames, from the IOC to a callback or to a file."""

from __future__ import annotations

from .bench import Bench, Client, Measurement, tolerated
from .build_c import program
from .processes import Result
from .rows import AIOCA, CAPROTO, DAQCA, REPICS, Say

SUBSCRIBERS = (
    Client("C, libca", "monitor"),
    DAQCA[0],
    Client("daqca, 1 worker", "daqca_client.py", ("workers=1",)),
    REPICS,
    Client("pyepics, `PV`", "pyepics_client.py"),
    AIOCA,
    CAPROTO,
)


def monitors(bench: Bench, say: Say) -> list[Measurement]:
    """1,000 PVs updated 50,000 times a second in all: CPU for each event, and what never came."""
    found = {
        client: [Measurement(client.name, "CPU for an event", "us"), Measurement(client.name, "lost", "%")]
        for client in SUBSCRIBERS
    }
    with bench.process([program("put"), "put", str(bench.counters)]) as putter:
        putter.answer()
        for run, client in bench.rounds(SUBSCRIBERS):
            with tolerated(found[client], say), bench.process(client.command("monitor", bench.counters)) as process:
                before = process.answer()
                puts = putter.ask("100 50000 1")
                result = process.ask("count")
                lost = puts["puts"] - result["events"]
                per_event = 1e6 * result["cpu"] / max(1, result["events"])
                found[client][0].values.append(per_event)
                found[client][1].values.append(100 * lost / puts["puts"])
                if wrong := misled(before, result, puts):
                    found[client][0].wrong = wrong
                say(f"  run {run + 1}: {client.name}: {per_event:.2f} us, lost {lost} of {puts['puts']} {wrong}")
    return [each for measurements in found.values() for each in measurements]


def misled(before: Result, after: Result, puts: Result) -> str:
    """What is wrong with the values a subscriber saw: the last must be the last put, and none may come twice."""
    pvs = before["pvs"]
    if after["last"] != puts["value"] * pvs:
        return "the last values are not those put last"
    if after["events"] > after["last"] - after["first"]:
        return "more events than puts"
    return ""
