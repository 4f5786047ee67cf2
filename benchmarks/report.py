"""Results as JSON and as the tables of the README; measures nothing."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from .aims import summary
from .results import Measurement

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
BEGIN, END = "<!-- results begin -->", "<!-- results end -->"


def packages() -> dict[str, str]:
    """The versions that were compared."""
    from importlib.metadata import version

    return {
        name: version(name) for name in ("daqca", "pyepics", "aioca", "repics", "caproto", "epicscorelibs", "numpy")
    }


def as_result(title: str, aim: str, how: str, runs: int, n: int, measurements: list[Measurement]) -> dict[str, Any]:
    """One row as it is kept in the JSON file."""
    return {
        "title": title,
        "aim": aim,
        "how": how,
        "runs": runs,
        "pvs": n,
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "packages": packages(),
        "measurements": [asdict(each) for each in measurements],
    }


def table(row: dict[str, Any]) -> str:
    """One row of the benchmark as a Markdown table, one line for each client."""
    measurements = [Measurement(**each) for each in row["measurements"]]
    whats = list(dict.fromkeys(each.what for each in measurements))
    lines = [f"### {row['title']}", "", row["how"], "", f"To reach: {row['aim']}", ""]
    head = "| client | what | median | range | / C | / daqca | checked |"
    lines += [head, "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for what in whats:
        group = [each for each in measurements if each.what == what]
        bases = [base(group, "C, libca"), base(group, "daqca", "daqca, `PV`")]
        for each in group:
            spread = f"{amount(min(each.values))} to {amount(max(each.values))}" if each.values else ""
            ratios = " | ".join(ratio(each.median, reference) for reference in bases)
            checked = each.wrong or ("all right" if each.values else "not measured")
            middle = f"{amount(each.median)} {each.unit}"
            lines.append(f"| {each.client} | {what} | {middle} | {spread} | {ratios} | {checked} |")
    lines += ["", f"{row['runs']} runs, {row['date']}, {row['cores']} cores, Python {row['python']}.", ""]
    return "\n".join(lines)


def base(group: list[Measurement], *clients: str) -> float:
    """The median that ratios refer to: of the first of these clients that is in the row; NaN if none is."""
    medians = {each.client: each.median for each in group}
    return next((medians[client] for client in clients if client in medians), math.nan)


def amount(value: float) -> str:
    """A number with three digits that matter."""
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 3)}f}"


def ratio(value: float, reference: float) -> str:
    """How many times the reference; blank if there is none."""
    if math.isnan(value) or math.isnan(reference) or reference <= 0:
        return ""
    return f"{amount(value / reference)} x"


def keep(results: dict[str, Any], path: Path = RESULTS) -> dict[str, Any]:
    """Add rows to the JSON file, replacing those of the same key; returns all that it holds."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    known.update(results)
    path.write_text(json.dumps(known, indent=1) + "\n")
    return known


def write_readme(results: dict[str, Any], order: list[str]) -> None:
    """Put the tables of all rows between the markers of the README."""
    before, rest = README.read_text().split(BEGIN)
    after = rest.split(END)[1]
    tables = "\n".join(table(results[key]) for key in order if key in results)
    versions = ", ".join(f"{name} {version}" for name, version in packages().items())
    README.write_text(f"{before}{BEGIN}\n\n{versions}; {sys.platform}.\n\n{summary(results)}\n\n{tables}\n{END}{after}")
