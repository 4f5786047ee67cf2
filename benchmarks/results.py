"""What was measured: numbers by client and quantity, and what was wrong with them. Starts and times nothing."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from .processes import ClientError

Say = Callable[[str], None]


@dataclass
class Measurement:
    """One quantity of one client: a value for each run, and what was not as it should be in any of them."""

    client: str
    what: str
    unit: str
    values: list[float] = field(default_factory=list)
    wrong: str = ""

    @property
    def median(self) -> float:
        """The middle of the runs; NaN if there was none."""
        return median(self.values) if self.values else float("nan")


class Results:
    """Collects the measurements of a row, and tells of each run.

    Parameters
    ----------
    say
        Where the progress is printed.
    """

    def __init__(self, say: Say):
        self.say = say
        self._found: dict[tuple[str, str], Measurement] = {}

    def add(self, client: str, what: str, unit: str, value: float, wrong: str = "") -> None:
        """Take the value of one run; `wrong` says what makes it worthless."""
        measurement = self._found.setdefault((what, client), Measurement(client, what, unit))
        measurement.values.append(value)
        measurement.wrong = measurement.wrong or wrong
        self.say(f"  {client}: {what} {value:.4g} {unit} {wrong}")

    @contextmanager
    def tolerate(self, client: str, what: str, unit: str) -> Iterator[None]:
        """A client that fails is said to have failed; the others go on."""
        try:
            yield
        except (ClientError, subprocess.SubprocessError, OSError) as error:
            measurement = self._found.setdefault((what, client), Measurement(client, what, unit))
            if not measurement.wrong:
                self.say(f"  {client}: {error}")
            lines = [line for line in str(error).splitlines() if line.strip()]
            last = re.sub(r"/\S*/", "", lines[-1] if lines else repr(error))  # no folders of this machine in a table
            measurement.wrong = f"failed: {last}"[:150]

    @property
    def measurements(self) -> list[Measurement]:
        """All of them, those of one quantity together."""
        whats = list(dict.fromkeys(what for what, _ in self._found))
        return [each for what in whats for each in self._found.values() if each.what == what]
