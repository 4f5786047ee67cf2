"""What the commands print: notes and progress on stderr, results on stdout as lines, tables or JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from daqca.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

SHOWN_MISSING = 20
_PROGRESS_AFTER = 0.5
_PIPE_WIDTH = 200
_WIDEST = 48  # a longer cell stands out of its column, and makes no other line long


def note(text: str) -> None:
    """Say something on stderr."""
    click.echo(f"daqca: {text}", err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_json_line(value: Any) -> None:
    """Print a value as JSON on one line, at once."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def console(stderr: bool = False) -> Console:
    """A rich console; wide where the output is not a terminal, so that nothing is cut.

    Without emoji, for ``:b:`` in the name of a PV is no emoji. What is not ours must still be escaped.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False, emoji=False)


def print_lines(rows: Iterable[Sequence[str]]) -> None:
    """Print rows as lines, their columns aligned."""
    rows = list(rows)
    if not rows:
        return
    widths = [min(max(map(len, column)), _WIDEST) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    click.echo("\n".join(lines))


def note_missing(missing: Mapping[str, Outcome]) -> None:
    """Name on stderr the PVs that are missing, the first of them at least, and why."""
    for name, outcome in list(missing.items())[:SHOWN_MISSING]:
        note(f"{name}: {outcome.text}")
    if len(missing) > SHOWN_MISSING:
        note(f"... and {len(missing) - SHOWN_MISSING:,} more are missing")


def file_size(size: int) -> str:
    """A number of bytes as people read it."""
    return f"{size:,} bytes" if size < 10_000 else f"{size / 1e6:,.2f} MB"


def log_in_lines() -> None:
    """Have what daqca logs appear on stderr as notes are: a line each, and the same line once.

    With DAQCA_DEBUG set it appears in full, tracebacks and repetitions included.
    """
    import logging

    class Lines(logging.Handler):
        """Prints a message when it is new."""

        def __init__(self) -> None:
            super().__init__()
            self._said: set[str] = set()

        def emit(self, record: logging.LogRecord) -> None:
            text = self.format(record) if os.environ.get("DAQCA_DEBUG") else record.getMessage().partition("\n")[0]
            if text not in self._said or os.environ.get("DAQCA_DEBUG"):
                self._said.add(text)
                note(text)

    log = logging.getLogger("daqca")
    if not log.handlers:
        log.addHandler(Lines())
        log.propagate = False


class ProgressBar:
    """A bar on stderr for what takes over half a second; nothing where stderr is not a terminal.

    Call it with (done, total), on any thread. A context manager; the bar is gone at the end.

    Parameters
    ----------
    title
        What is being done.
    """

    def __init__(self, title: str):
        self._title = title
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last = (0, 0)
        self._timer = threading.Timer(_PROGRESS_AFTER, self._show)
        self._timer.daemon = True

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
        if self._timer.is_alive():
            self._timer.join()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        with self._lock:
            self._last = (done, total)
            if self._progress is not None and self._task is not None:
                self._progress.update(self._task, completed=done, total=total or None)

    def _show(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        progress = Progress(*columns, console=console(stderr=True), transient=True)
        with self._lock:
            if self._timer.finished.is_set():
                return  # it was over meanwhile
            done, total = self._last
            self._task = progress.add_task(self._title, completed=done, total=total or None)
            self._progress = progress
            progress.start()
