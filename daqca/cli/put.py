"""``daqca put``: one value written to one PV, or to all of a list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from daqca.cli.codes import ExitCode
from daqca.cli.options import collect_names, open_engine, with_engine, with_json
from daqca.outcome import Outcome

if TYPE_CHECKING:
    from daqca.engine import Engine
    from daqca.reading import Reading


_DONE = (Outcome.OK, Outcome.SENT)


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  daqca put BL7:m1.VAL 12.5
  daqca put BL7:m1.VAL -3            a negative number is no option
  daqca put BL7:shutter Open         an enum by its state, or by its number
  daqca put BL7:wave 1 2 3 4         several values make an array
  daqca put BL7:title -- "-h-"       a text that begins with a dash
  daqca put --no-wait -f shutters.txt Close
""",
)
@click.argument("words", nargs=-1, metavar="[NAME] VALUE...")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="NAMES.TXT",
    help="Write to every PV of this list; then all arguments are the value.",
)
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="Wait until the record has been processed, and print the value it has then.",
)
@with_json
@with_engine()
def put(words: tuple[str, ...], files: tuple[str, ...], wait: bool, as_json: bool, timeout: float, workers: int) -> int:
    """Write a value to a PV, or to all PVs of a list.

    Exits with 1 if any write was refused or not confirmed in time; each of those is named on stderr.
    """
    names, value = ((), words) if files else (words[:1], words[1:])
    if not value:
        raise click.UsageError("no value to write: daqca put NAME VALUE, or daqca put --file NAMES.TXT VALUE")
    wanted = collect_names(names, files)
    with open_engine(workers) as engine:
        outcomes = _put(engine, wanted, value, wait, timeout)
        _report(engine, outcomes, wait, as_json, timeout)
    return ExitCode.OK if all(outcome in _DONE for outcome in outcomes.values()) else ExitCode.MISSING


def _put(engine: Engine, names: list[str], words: Sequence[str], wait: bool, timeout: float) -> dict[str, Outcome]:
    """Write the value, and say on stderr what was wrong with it; returns what became of each PV."""
    from daqca.ca import eca
    from daqca.cli.output import ProgressBar, note
    from daqca.cli.values import parse_value

    with ProgressBar("connecting") as progress:
        channels = engine.connect(names, timeout=timeout, progress=progress)
    outcomes: dict[str, Outcome] = {channel.name: channel.outcome for channel in channels}
    there = [channel.name for channel in channels if channel.connected]
    with ProgressBar("waiting until the record has processed" if len(there) == 1 else "waiting for the records"):
        result = engine.put_many(there, [parse_value(words)] * len(there), wait=wait, timeout=timeout)
    for name, outcome, number in zip(there, result.outcome.tolist(), result.eca.tolist(), strict=True):
        outcomes[name] = Outcome(outcome)
        if outcome == Outcome.REFUSED:
            note(f"{name}: its server says: {eca.message(eca.from_number(number))}")
    for text in result.errors.values():
        note(text)
    return outcomes


def _report(engine: Engine, outcomes: dict[str, Outcome], wait: bool, as_json: bool, timeout: float) -> None:
    """Print what was written, as it reads now if it was waited for, and name what was not."""
    from daqca.cli.output import ProgressBar, note_missing, print_json, print_lines
    from daqca.cli.values import value_text

    written = [name for name, outcome in outcomes.items() if outcome in _DONE]
    now: Iterable[Reading] = []
    if written and wait:
        with ProgressBar("reading") as progress:
            now = engine.snapshot(written, timeout=timeout, form="ctrl", progress=progress)
    if as_json:
        from daqca.snapshot.rows import plain

        values = {reading.name: plain(reading.value) for reading in now}
        print_json(
            [{"name": name, "outcome": outcome.text, "value": values.get(name)} for name, outcome in outcomes.items()]
        )
        return
    if wait:
        print_lines((reading.name, value_text(reading), reading.units) for reading in now)
    else:
        print_lines((name, "sent") for name in written)
    note_missing({name: outcome for name, outcome in outcomes.items() if name not in written})
