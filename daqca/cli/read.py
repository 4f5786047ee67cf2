"""``daqca get`` and ``daqca info``: PVs read once and printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from daqca.cli.codes import ExitCode
from daqca.cli.options import collect_names, open_engine, with_engine, with_json, with_names

if TYPE_CHECKING:
    from daqca.engine import ChannelInfo
    from daqca.reading import Reading
    from daqca.snapshot import Snapshot


@click.command(
    epilog="""\b
Examples:
  daqca get BL7:m1.RBV BL7:m2.RBV
  daqca get -t BL7:m1.RBV            the value alone, for scripts
  daqca get --long -f motors.txt
  daqca get --json BL7:cam1:Model_RBV
"""
)
@with_names
@click.option("-t", "--terse", is_flag=True, help="Print values alone.")
@click.option("-l", "--long", "is_long", is_flag=True, help="Print time, type and alarm too.")
@click.option("-n", "--number", "as_number", is_flag=True, help="Print enums and CHAR arrays as numbers.")
@click.option(
    "-e",
    "--elements",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="Print at most N elements of an array; 0 prints all.",
)
@with_json
@with_engine()
def get(
    names: tuple[str, ...],
    files: tuple[str, ...],
    terse: bool,
    is_long: bool,
    as_number: bool,
    elements: int,
    as_json: bool,
    timeout: float,
    workers: int,
) -> int:
    """Read PVs once and print their values.

    Exits with 1 if any PV is missing; each of those is named on stderr.
    """
    from daqca.cli.output import note_missing, print_json, print_lines
    from daqca.cli.values import alarm_text, local_time, value_text
    from daqca.reading import type_name

    wanted = collect_names(names, files)
    snapshot = _read(wanted, timeout, workers)
    if as_json:
        from daqca.snapshot.rows import rows_of

        print_json(list(rows_of(snapshot)))
        return _code(snapshot)

    def line(reading: Reading) -> tuple[str, ...]:
        value = value_text(reading, elements, as_number)
        if terse:
            return (value,)
        if is_long:
            time, kind = local_time(reading.timestamp), type_name(reading.native_type)
            return (reading.name, time, value, reading.units, kind, alarm_text(reading) or "NO_ALARM")
        return (reading.name, value, reading.units, alarm_text(reading))

    readings = [reading for reading in snapshot if reading.value is not None]
    if terse:
        click.echo("\n".join(line(reading)[0] for reading in readings)) if readings else None
    else:
        print_lines(line(reading) for reading in readings)
    note_missing(snapshot.missing)
    return _code(snapshot)


@click.command(
    epilog="""\b
Examples:
  daqca info BL7:m1
  daqca info --json BL7:m1.VAL BL7:cam1:Acquire
"""
)
@with_names
@with_json
@with_engine()
def info(
    names: tuple[str, ...],
    files: tuple[str, ...],
    as_json: bool,
    timeout: float,
    workers: int,
) -> int:
    """Show all that is known of PVs: server, type, access, value, alarm, limits, states."""
    from daqca.cli.output import ProgressBar, note_missing, print_json

    wanted = collect_names(names, files)
    with open_engine(workers) as engine:
        with ProgressBar("reading") as progress:
            snapshot = engine.snapshot(wanted, timeout=timeout, form="ctrl", progress=progress)
        channels = engine.channels(wanted)
    if as_json:
        from daqca.snapshot.rows import rows_of

        pairs = zip(rows_of(snapshot), channels, strict=True)
        print_json([{**row, "host": channel.host, "access": _access(channel)} for row, channel in pairs])
        return _code(snapshot)
    blocks = ["\n".join(_block(pv, channel)) for pv, channel in zip(snapshot, channels, strict=True) if channel.host]
    if blocks:
        click.echo("\n\n".join(blocks))
    note_missing(snapshot.missing)
    return _code(snapshot)


def _read(names: list[str], timeout: float, workers: int) -> Snapshot:
    from daqca.cli.output import ProgressBar

    with open_engine(workers) as engine, ProgressBar("reading") as progress:
        return engine.snapshot(names, timeout=timeout, form="ctrl", progress=progress)


def _code(snapshot: Snapshot) -> ExitCode:
    return ExitCode.OK if snapshot.ok.all() else ExitCode.MISSING


def _access(channel: ChannelInfo) -> str:
    return ("no access", "read only", "write only", "read and write")[int(channel.access) & 3]


def _block(reading: Reading, channel: ChannelInfo) -> Iterator[str]:
    """The lines about one PV."""
    from daqca.cli.values import value_text
    from daqca.reading import severity_name, status_name, type_name

    yield reading.name
    count = channel.native_count
    rows: list[tuple[str, Any]] = [
        ("server", channel.host),
        ("type", f"{type_name(channel.native_type)}[{count:,}]" if count > 1 else type_name(channel.native_type)),
        ("access", _access(channel)),
        ("outcome", reading.outcome.text),
    ]
    if reading.value is not None:
        rows += [
            ("value", value_text(reading)),
            ("alarm", f"{severity_name(reading.severity)} {status_name(reading.status)}"),
            ("time", reading.time),
        ]
    rows += _metadata_rows(reading)
    for label, text in rows:
        yield f"  {label:<16} {text}"


def _metadata_rows(reading: Reading) -> Iterator[tuple[str, Any]]:
    if reading.metadata is None:
        return
    if reading.units:
        yield "units", reading.units
    if reading.precision is not None:
        yield "precision", reading.precision
    for label, key in (("display", "disp"), ("control", "ctrl"), ("alarm", "alarm"), ("warning", "warning")):
        lower = getattr(reading.metadata, f"lower_{key}_limit")
        upper = getattr(reading.metadata, f"upper_{key}_limit")
        if lower == lower or upper == upper:  # NaN: the type has none, or the record sets none
            yield f"{label} limits", f"{lower:g} to {upper:g}"
    for number, state in enumerate(reading.enum_strings):
        yield f"state {number}", state
