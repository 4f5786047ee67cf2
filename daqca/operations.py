"""Requests that wait for their answers: what a thread waits on, and who gets which answer.

Nothing here knows where requests go. Whoever delivers batches hands them to `Operations.answer`.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.events import Batch, Records, pick

_NO_BLOCK = Batch()
LOOK = 0.1
"""The longest time in seconds that a thread sleeps without a look at signals; see `Waiter.wait`."""


class Waiter:
    """Something that one thread waits for and another completes."""

    __slots__ = ("_lock", "done")

    def __init__(self) -> None:
        self.done = False
        # A lock that is released once: a tenth of the price of a threading.Event.
        self._lock = threading.Lock()
        self._lock.acquire()

    def complete(self) -> None:
        """Wake the waiting thread. Completing twice is harmless if done under one lock."""
        if not self.done:
            self.done = True
            self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; returns `done`.

        A signal that comes just before the thread falls asleep, or is taken by another thread, does not wake it: the
        interpreter runs the handler when the thread wakes for another reason. So none sleeps longer than `LOOK`.
        """
        deadline = time.monotonic() + timeout
        while not self.done and timeout > 0:
            if self._lock.acquire(timeout=min(timeout, LOOK)):
                self._lock.release()  # for whoever else waits
                break
            timeout = deadline - time.monotonic()
        return self.done


class Operation(Waiter):
    """`n` requests made together, with consecutive tokens from `first` on.

    Subclasses take the answers in `accept`, and may take those of small batches more quickly in `accept_row`.
    """

    __slots__ = ("first", "left", "n")

    def __init__(self, n: int = 1):
        super().__init__()
        self.n = n
        self.left = n
        self.first = 0

    def accept(self, places: npt.NDArray[np.int64], records: Records, batch: Batch) -> None:
        """Answers came: `places` are the numbers 0 to n - 1 of the requests, shape (m,), as are the records."""
        raise NotImplementedError

    def accept_row(self, place: int, row: tuple[Any, ...], batch: Batch) -> None:
        """One answer came, as a row in the order of `daqca.events.Event`."""
        self.accept(np.array([place]), Batch(rows=[row]).records, batch)

    def answer(self, row: tuple[Any, ...]) -> None:
        """The only request was answered, with a row that has nothing in a block; nobody else knows of it."""
        self.accept_row(0, row, _NO_BLOCK)
        self.left = 0
        self.complete()


class One(Operation):
    """One answer, kept as the row that came.

    Attributes
    ----------
    row, batch
        The answer and the batch it came in, whose block has what of it is not a number. None before.
    """

    __slots__ = ("batch", "row")

    def __init__(self) -> None:
        # What the classes above do, without three calls.
        self.done = False
        self._lock = threading.Lock()
        self._lock.acquire()
        self.n = self.left = 1
        self.first = 0
        self.row: tuple[Any, ...] | None = None
        self.batch: Batch | None = None

    def accept_row(self, place: int, row: tuple[Any, ...], batch: Batch) -> None:
        """See `Operation.accept_row`."""
        self.row = row
        self.batch = batch

    def accept(self, places: npt.NDArray[np.int64], records: Records, batch: Batch) -> None:
        """See `Operation.accept`."""
        self.batch = Batch(records, batch.block)
        self.row = tuple(next(iter(self.batch)))


class Operations:
    """The operations that are under way on one link, by token."""

    def __init__(self) -> None:
        self._single: dict[int, Operation] = {}
        self._many: list[Operation] = []
        self._firsts: list[int] = []

    def __len__(self) -> int:
        return len(self._single) + len(self._many)

    def __iter__(self) -> Iterator[Operation]:
        yield from list(self._single.values())
        yield from list(self._many)

    def add(self, first: int, operation: Operation) -> None:
        """Register an operation whose first token is `first`."""
        operation.first = first
        if operation.n == 1:
            self._single[first] = operation
        elif operation.n == 0:
            operation.complete()
        else:
            place = bisect.bisect(self._firsts, first)
            self._firsts.insert(place, first)
            self._many.insert(place, operation)

    def discard(self, operation: Operation) -> None:
        """Forget an operation: it was given up, or is complete."""
        if operation.n == 1:
            self._single.pop(operation.first, None)
        elif operation in self._many:
            place = self._many.index(operation)
            del self._many[place], self._firsts[place]

    def answer(self, records: Records, batch: Batch) -> None:
        """Hand answers (records with tokens) to their operations; those that nobody waits for are dropped."""
        tokens = records["token"].astype(np.int64)
        while len(tokens):
            operation = self._find(int(tokens[0]))
            if operation is None:
                records, tokens = records[1:], tokens[1:]
                continue
            places = tokens - operation.first
            mine = (places >= 0) & (places < operation.n)
            if mine.all():
                self._accept(operation, places, records, batch)
                return
            self._accept(operation, places[mine], pick(records, mine), batch)
            records, tokens = pick(records, ~mine), tokens[~mine]

    def answer_row(self, row: tuple[Any, ...], batch: Batch) -> None:
        """`answer` for one row."""
        token = row[8]
        single = self._single.pop(token, None)
        if single is not None:
            single.accept_row(0, row, batch)
            single.left = 0
            single.complete()
            return
        operation = self._find(token)
        if operation is not None:
            operation.accept_row(token - operation.first, row, batch)
            self._count(operation, 1)

    def _find(self, token: int) -> Operation | None:
        operation = self._single.get(token)
        if operation is None and self._many:
            place = bisect.bisect(self._firsts, token) - 1
            if place >= 0 and token - self._firsts[place] < self._many[place].n:
                return self._many[place]
        return operation

    def _accept(self, operation: Operation, places: npt.NDArray[np.int64], records: Records, batch: Batch) -> None:
        operation.accept(places, records, batch)
        self._count(operation, len(places))

    def _count(self, operation: Operation, answers: int) -> None:
        operation.left -= answers
        if operation.left <= 0:
            self.discard(operation)
            operation.complete()
