"""The records of the benchmarks' IOC, whose values are known, and the names files that the clients read.

Starts nothing: `daqca.sim` serves these records.
"""

from __future__ import annotations

from pathlib import Path

COUNTERS = 1_000
"""Records of the monitoring rows; each put counts one of them up."""

FEW = 1_000
"""Scalars of the rows that measure how a client does with less than all."""

TARGET = "BENCH:target"
"""The record that single puts and stamps go to."""

STATES = 'field(ZRST,"zero") field(ONST,"one") field(TWST,"two") field(THST,"three")'


def scalar_record(i: int, name: str) -> tuple[str, float]:
    """Record number `i` and its value; of 20, 10 are DOUBLE, 4 LONG, 3 ENUM, and a FLOAT, a SHORT and a CHAR."""
    kind = i % 20
    if kind < 10:
        return f'record(ai,"{name}"){{field(PINI,"YES") field(INP,"{i}.25")}}', i + 0.25
    if kind < 14:
        return f'record(longin,"{name}"){{field(PINI,"YES") field(INP,"{i}")}}', i
    if kind < 17:
        return f'record(mbbi,"{name}"){{field(PINI,"YES") {STATES} field(INP,"{i % 4}")}}', i % 4
    array = f'field(FTVL,"{("FLOAT", "SHORT", "CHAR")[kind - 17]}") field(NELM,"1")'
    return f'record(waveform,"{name}"){{field(PINI,"YES") {array} field(INP,[{i % 100}])}}', i % 100


def write_records(folder: Path, scalars: int) -> str:
    """Write ``scalars.txt``, ``few.txt`` (the first 1,000 of them), ``counters.txt`` and ``target.txt``.

    They are lines of a name, a tab, its value.

    Returns
    -------
    The database text.
    """
    records, lines = [], []
    for i in range(scalars):
        name = f"BENCH:area{i // 1000}:scalar{i}"
        record, value = scalar_record(i, name)
        records.append(record)
        lines.append(f"{name}\t{value}\n")
    (folder / "scalars.txt").write_text("".join(lines))
    (folder / "few.txt").write_text("".join(lines[:FEW]))
    counters = [f"BENCH:counter{i}" for i in range(COUNTERS)]
    (folder / "counters.txt").write_text("".join(f"{name}\t0\n" for name in counters))
    records += [f'record(ao,"{name}"){{field(PINI,"YES")}}' for name in (*counters, TARGET)]
    (folder / "target.txt").write_text(f"{TARGET}\t0\n")
    return "\n".join(records)
