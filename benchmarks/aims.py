"""What daqca is to reach, each as a number against a limit; judged from the results of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from .results import Measurement

C, MANY = "C, libca", "pyepics, `caget_many` (values alone)"
COLUMNS, NUMBERS = "daqca", "daqca, as Python numbers"
WORKERS, WORKERS_NUMBERS = "daqca, 2 workers", "daqca, 2 workers, as Python numbers"
MISSING, WORKERS_MISSING = "daqca, 1 % missing", "daqca, 2 workers, 1 % missing"
ONE = "daqca, 1 worker"
LOW_LEVEL = "daqca, `daqca.ca`"
VALUES, FEW_VALUES = "with values, 20,000", "with values, 1,000"
PV, PVS, PYEPICS_PV = "daqca, `PV`", "daqca, `engine.pvs`", "pyepics, `PV`"


@dataclass(frozen=True)
class Aim:
    """One quantity of one client in a row, alone or divided by that of another client, against a limit."""

    row: str
    text: str
    what: str
    client: str
    limit: float
    over: str = ""
    at_least: bool = False
    every_run: bool = False
    """Whether the worst run is judged, not the median."""

    def value(self, measurements: list[Measurement]) -> float:
        """What was measured; NaN if it was not."""
        middle = max if self.every_run else median
        medians = {
            each.client: middle(each.values)
            for each in measurements
            if each.what == self.what and each.values and not each.wrong
        }
        base = medians.get(self.over, math.nan) if self.over else 1.0
        return medians.get(self.client, math.nan) / base if base else math.nan

    def met(self, value: float) -> bool:
        """Whether it was reached."""
        return value >= self.limit if self.at_least else value <= self.limit


AIMS = (
    Aim("cold", "cold, over C", "time", COLUMNS, 1.3, C),
    Aim("cold", "cold, `caget_many` over daqca", "time", MANY, 12, NUMBERS, at_least=True),
    Aim("cold", "cold, 2 workers over in process", "time", WORKERS, 2, COLUMNS),
    Aim("warm", "warm, over C", "time", COLUMNS, 1.5, C),
    Aim("warm", "warm, `caget_many` over daqca", "time", MANY, 80, NUMBERS, at_least=True),
    Aim("warm", "warm, repics over daqca", "time", "repics", 15, NUMBERS, at_least=True),
    Aim("warm", "warm, 2 workers over in process", "time", WORKERS, 2, COLUMNS),
    Aim("missing", "1 % missing, others at hand, over none missing", "others at hand", MISSING, 1.3, COLUMNS),
    Aim("missing", "the same, 2 workers", "others at hand", WORKERS_MISSING, 1.3, WORKERS),
    Aim("get", "one get, p50, us", "p50", COLUMNS, 15),
    Aim("get", "one get, p50, over repics", "p50", COLUMNS, 1, "repics"),
    Aim("get", "one `ca.get`, p50, us", "p50", LOW_LEVEL, 15),
    Aim("get", "one `ca.get`, p50, over repics", "p50", LOW_LEVEL, 1, "repics"),
    Aim("put", "one `ca.put` with completion, p50, us", "p50", LOW_LEVEL, 25),
    Aim("put", "one `ca.put` with completion, p50, over C", "p50", LOW_LEVEL, 1, C),
    Aim("monitors", "CPU for an event, a Python callback for each, us", "CPU for an event", LOW_LEVEL, 1.5),
    Aim("monitors", "lost at 50,000/s with a callback for each, worst run", "lost", LOW_LEVEL, 0, every_run=True),
    Aim("pvs", "20,000 `PV`s with values, pyepics over daqca", VALUES, PYEPICS_PV, 15, PV, at_least=True),
    Aim("pvs", "1,000 `PV`s with values, pyepics over daqca", FEW_VALUES, PYEPICS_PV, 15, PV, at_least=True),
    Aim("pvs", "20,000 by `engine.pvs` created and connected, ms", "connected, 20,000", PVS, 250),
    Aim("pvs", "kB for a PV object, monitored", "memory, 20,000", PV, 2),
    Aim("pvget", "`PV.get` from the monitor, us", "from the monitor", PV, 1.5),
    Aim("latency", "from a put to a PV's callback, p50, over pyepics", "p50", PV, 1, PYEPICS_PV),
    Aim("pvcallbacks", "CPU for an event with a PV's callback, over pyepics", "CPU for an event", PV, 1, PYEPICS_PV),
    Aim("pvcallbacks", "lost at 50,000/s with a PV's callback, worst run", "lost", PV, 0, every_run=True),
    Aim("recording", "updates/s recorded at full speed", "updates/s at full speed", ONE, 400_000, at_least=True),
    Aim("recording", "lost of 3,000,000 at full speed, worst run", "lost at full speed", ONE, 0, every_run=True),
    Aim("recording", "lost of 2,000,000 at 400,000/s, worst run", "lost at 400,000/s", ONE, 0, every_run=True),
    Aim("recording", "CPU for an event in the worker, us", "CPU for an event in the worker at 400,000/s", ONE, 0.5),
    Aim("recording", "CPU for an event in the recorder, us", "CPU for an event in the recorder at 400,000/s", ONE, 1),
    Aim("frames", "frames of 1 MB lost of 1,000, worst run", "lost", ONE, 0, every_run=True),
    Aim("import", "`import daqca` beyond numpy, ms", "time", "daqca", 100),
    Aim("import", "`from daqca import Engine` beyond numpy, ms", "time", "daqca, its Engine", 100),
    Aim("memory", "kB for a monitored scalar, 1 worker and client", "memory", ONE, 1),
)


def summary(rows: Mapping[str, Any]) -> str:
    """A Markdown table of all aims whose rows were measured."""
    lines = ["| aim | to reach | measured | |", "| --- | ---: | ---: | --- |"]
    for aim in AIMS:
        if aim.row not in rows:
            continue
        value = aim.value([Measurement(**each) for each in rows[aim.row]["measurements"]])
        sign = "at least" if aim.at_least else "at most"
        measured, judged = ("-", "not measured") if math.isnan(value) else (f"{value:,.3g}", "met")
        if not math.isnan(value) and not aim.met(value):
            judged = "**not met**"
        if value >= 1000:
            measured = f"{value:,.0f}"
        lines.append(f"| {aim.text} | {sign} {aim.limit:,.10g} | {measured} | {judged} |")
    return "\n".join(lines)
