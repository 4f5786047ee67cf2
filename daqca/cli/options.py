"""The options that commands share, and the names and the engine that come of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from daqca.cli.output import note
from daqca.namelist import read_names

if TYPE_CHECKING:
    from daqca.engine import Engine

_Command = TypeVar("_Command", bound=Callable[..., Any])


def above_zero(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Callback of options that take seconds or the like: a finite number above zero, or none at all."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise click.BadParameter(f"{value} is not a number above zero", ctx, param)
    return value


def with_names(command: _Command) -> _Command:
    """Add the arguments NAME... and the option --file."""
    command = click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="NAMES.TXT",
        help="Read names from a file, one a line (# begins a comment); '-' is standard input. May be repeated.",
    )(command)
    return click.argument("names", nargs=-1, metavar="[NAME]...")(command)


def with_engine(timeout: float = 5.0) -> Callable[[_Command], _Command]:
    """Add the options --timeout and --workers."""

    def add(command: _Command) -> _Command:
        command = click.option(
            "--workers",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Go through N worker processes; 0, the default, stays in this process.",
        )(command)
        return click.option(
            "-w",
            "--timeout",
            type=float,
            callback=above_zero,
            default=timeout,
            show_default=True,
            metavar="SECONDS",
            help="Wait at most so long for what is missing.",
        )(command)

    return add


def with_json(command: _Command) -> _Command:
    """Add the option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(command)


def collect_names(names: Sequence[str], files: Sequence[str]) -> list[str]:
    """The names of the arguments and the files, each once; what was left out is said on stderr.

    Raises
    ------
    click.UsageError
        If there are none.
    NameListError
        If one of the lists cannot be used.
    """
    if not names and not files:
        raise click.UsageError("no PV names: give them as arguments, or a file of them with --file")
    collected = read_names(names)
    for file in files:
        collected = collected + read_names(file)
    if not collected.is_clean:
        note(collected.summary())
    return list(collected)


def open_engine(workers: int) -> Engine:
    """An engine in this process, or through so many workers."""
    from daqca.cli.output import log_in_lines
    from daqca.engine import Engine

    log_in_lines()
    return Engine(workers=workers)
