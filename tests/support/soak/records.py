"""The records of the soak, and the ledgers of those that are written: what was sent, and what may be read of them.

One thread writes each of these; the numbers it writes only grow. After a restart of the IOC a record is at zero again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

KINDS = ("double", "long", "string", "array", "text", "slow")
"""Of the records that are written; a slow one confirms a put some time after it has the value."""
SCANNED = tuple(f"count{index}" for index in range(4))
LASTING = tuple(f"lasting{index}" for index in range(3))
"""Of these the channels and subscriptions last from the beginning to the end; they count as the scanned ones do."""
PLAIN = ("ai", "mbbi", "stringin", "waveform")
MISSING = ("missing1", "missing2")
_RECORDS = {
    "double": 'record(ao, "{0}") {{ }}',
    "long": 'record(longout, "{0}") {{ }}',
    "string": 'record(stringout, "{0}") {{ }}',
    "array": 'record(waveform, "{0}") {{ field(FTVL, "DOUBLE") field(NELM, "64") }}',
    "text": 'record(waveform, "{0}") {{ field(FTVL, "CHAR") field(NELM, "200") }}',
    "slow": 'record(ao, "{0}") {{ field(FLNK, "{0}:after") }}\n'
    'record(calcout, "{0}:after") {{ field(CALC, "VAL+1") field(ODLY, "0.15") }}',
}
_FIXED = """
record(ai, "{0}ai") {{ field(VAL, "1.5") field(EGU, "mm") field(PREC, "3") }}
record(mbbi, "{0}mbbi") {{ field(VAL, "2") field(ZRST, "zero") field(ONST, "one") field(TWST, "two") }}
record(stringin, "{0}stringin") {{ field(VAL, "some text") }}
record(waveform, "{0}waveform") {{ field(FTVL, "LONG") field(NELM, "2000") field(INP, [1, 2, 3, 4]) }}
"""
FIXED_VALUES: dict[str, Any] = {"ai": 1.5, "mbbi": 2, "stringin": "some text", "waveform": [1, 2, 3, 4]}


def database(prefix: str, written: Iterable[Ledger]) -> str:
    """The text of the database."""
    scanned = (
        f'record(calc, "{prefix}{name}") {{ field(CALC, "VAL+1") field(SCAN, ".1 second") }}'
        for name in (*SCANNED, *LASTING)
    )
    return "\n".join(
        (_FIXED.format(prefix), *scanned, *(_RECORDS[ledger.kind].format(ledger.pvname) for ledger in written))
    )


def encode(kind: str, number: int) -> Any:
    """What is written for a number."""
    if kind == "string":
        return f"number {number}"
    if kind == "array":
        return np.full(2 + number % 10, float(number))
    if kind == "text":
        return f"the number {number} " + "x" * (1 + 12 * (number % 10))
    return float(number) if kind != "long" else number


def decode(kind: str, value: Any) -> int:
    """The number that was written.

    Raises
    ------
    ValueError
        No such value was ever written.
    """
    if kind == "array":
        numbers = set(np.asarray(value).tolist())
        if len(numbers) > 1 or (numbers and len(value) != 2 + int(min(numbers)) % 10):
            raise ValueError(f"an array of {len(value)} numbers that was never written: {sorted(numbers)[:5]}")
        return int(min(numbers)) if numbers else 0
    if kind in ("string", "text"):
        text = value if isinstance(value, str) else bytes(value).split(b"\0")[0].decode()
        if not text:
            return 0
        number = int(text.split()[-1 if kind == "string" else 2])
        if text != encode(kind, number):
            raise ValueError(f"a text that was never written: {text!r}")
        return number
    if value != int(value):
        raise ValueError(f"a number that was never written: {value!r}")
    return int(value)


class Ledger:
    """What one thread has written to one record.

    Parameters
    ----------
    is_ordered
        Whether all is written on one circuit. On two of them a server takes puts in any order.
    problem
        Told of what should not be.
    """

    def __init__(self, pvname: str, kind: str, is_ordered: bool, problem: Callable[[str], None]):
        self.pvname = pvname
        self.kind = kind
        self.is_ordered = is_ordered
        self.sent = 0
        self._problem = problem
        self._lock = threading.Lock()
        self._confirmed = (0, 0)
        """The last number that certainly was in the record, and in which epoch (see `Weather`)."""
        self._returned: dict[int, int] = {}
        """By epoch: the last number whose put had returned then."""

    def next(self) -> int:
        """A new number, to be written now; its owner calls this."""
        self.sent += 1
        return self.sent

    def value(self, number: int) -> Any:
        """What is written for a number."""
        return encode(self.kind, number)

    def returned(self, number: int, epoch: int) -> None:
        """The call that wrote a number has returned."""
        with self._lock:
            self._returned[epoch] = number
            for old in sorted(self._returned)[:-3]:
                del self._returned[old]

    def confirm(self, number: int, begun: int, ended: int) -> None:
        """The server has confirmed a put that began and ended in these epochs."""
        with self._lock:
            if begun == ended and not begun % 2 and (begun, number) > self._confirmed[::-1]:
                self._confirmed = (number, begun)

    def least(self, epoch: int) -> int:
        """What the record has at least: the last number that was confirmed by the server of this epoch."""
        with self._lock:
            number, confirmed_in = self._confirmed
            return number if confirmed_in == epoch and self.is_ordered else 0

    def before(self, epoch: int) -> int:
        """The last number that can only have reached an earlier server."""
        with self._lock:
            return max((number for old, number in self._returned.items() if old < epoch), default=0)

    def check(self, value: Any, least: int, before: int, what: str) -> int:
        """Look at a value that was read; returns its number.

        Parameters
        ----------
        least, before
            What these were before it was asked for.
        """
        try:
            number = decode(self.kind, value)
        except (ValueError, TypeError, IndexError) as error:
            self._problem(f"{what} of {self.pvname}: {error}")
            return 0
        if number > self.sent:
            self._problem(f"{what} of {self.pvname} gave {number}, and only {self.sent} were written")
        if number < least:
            self._problem(f"{what} of {self.pvname} gave {number} after {least} had been confirmed")
        if 0 < number <= before:
            self._problem(f"{what} of {self.pvname} gave {number}, written before the IOC was restarted ({before} too)")
        return number
