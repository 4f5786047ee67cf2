"""What the parts of the demo share: steps that are shown, and IOCs of its own."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from daqca.ca.settings import Settings
    from daqca.cli.output import ProgressBar
    from daqca.sim import SimIOC


class Step:
    """A bar for what is being done, and then a line that says how long it took."""

    def __init__(self, screen: Console, title: str):
        from daqca.cli.output import ProgressBar

        self._screen = screen
        self._title = title
        self._bar = ProgressBar(title)

    def __enter__(self) -> ProgressBar:
        self._start = time.perf_counter()
        return self._bar.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = time.perf_counter() - self._start
        self._bar.__exit__(kind, error, trace)
        if kind is None:
            self._screen.print(f"{self._title} [dim]({took:.1f} s)[/]")


class Serve:
    """An IOC of the demo while it is needed."""

    def __init__(self, screen: Console, title: str, server: SimIOC):
        self._step = Step(screen, title)
        self._server = server

    def __enter__(self) -> SimIOC:
        with self._step:
            return self._server.start()

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def settings_of(server: SimIOC) -> Settings:
    """How to find an IOC of the demo. No repeater of ours is left behind for long."""
    from daqca.ca.settings import Settings

    return replace(Settings.from_environ(server.environ), repeater_linger=1.0)
