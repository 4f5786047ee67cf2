"""What a client has asked of its worker and not heard of: which requests, so that none hangs when answers are lost."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from daqca.events import EVENT, Kind, Records

Slots = npt.NDArray[np.uint32]


class _Asked:
    """The requests of one operation."""

    __slots__ = ("first", "left", "n", "question", "slots", "waits")

    def __init__(self, first: int, slots: Slots, question: int):
        self.first = first
        self.n = self.left = len(slots)
        self.slots = slots
        self.question = question
        self.waits: npt.NDArray[np.bool_] | None = None  # all of them, until the first answers

    def failed(self, status: int) -> Records:
        """FAILED events for what was not answered."""
        tokens = np.arange(self.first, self.first + self.n, dtype=np.uint32)
        slots = self.slots
        if self.waits is not None:
            tokens, slots = tokens[self.waits], slots[self.waits]
        records = np.zeros(len(tokens), EVENT)
        records["slot"] = slots
        records["token"] = tokens
        records["kind"] = Kind.FAILED
        records["status"] = status
        records["timestamp"] = time.time_ns()
        return records


class Pending:
    """The requests under way on one link, by token."""

    def __init__(self) -> None:
        self._asked: dict[int, _Asked] = {}
        self._large: dict[int, _Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def add(self, first: int, slots: Slots, question: int) -> None:
        """Requests were made for `slots`, with consecutive tokens from `first` on.

        Parameters
        ----------
        question
            The number of the last RESYNC before them.
        """
        asked = self._asked[first] = _Asked(first, slots, question)
        if len(slots) > 1:
            self._large[first] = asked

    def asked_after(self, first: int, question: int) -> None:
        """These requests were sent only now, after this RESYNC."""
        if first in self._asked:
            self._asked[first].question = question

    def discard(self, first: int) -> None:
        """These requests were given up."""
        self._asked.pop(first, None)
        self._large.pop(first, None)

    def answered(self, tokens: npt.NDArray[np.uint32]) -> None:
        """Answers came, shape (n,)."""
        for asked in list(self._large.values()) if len(tokens) else ():
            places = tokens - np.uint32(asked.first)  # wraps round for tokens before the first
            mine = places < asked.n
            if not mine.any():
                continue
            if asked.waits is None:
                asked.waits = np.ones(asked.n, np.bool_)
            asked.waits[places[mine]] = False
            asked.left = int(asked.waits.sum())
            if not asked.left:
                self.discard(asked.first)
            if mine.all():
                return
            tokens = tokens[~mine]
        for token in tokens.tolist():
            self._asked.pop(token, None)

    def fail(self, first: int, status: int) -> Records:
        """Give up the requests that begin with this token; returns FAILED events for those not answered."""
        asked = self._asked.get(first)
        self.discard(first)
        return _joined([] if asked is None else [asked.failed(status)])

    def fail_all(self, status: int) -> Records:
        """Give up everything; returns a FAILED event for each request that was not answered."""
        asked, self._asked, self._large = list(self._asked.values()), {}, {}
        return _joined([one.failed(status) for one in asked])

    def compare(self, kept: npt.NDArray[np.uint32], question: int, status: int) -> Records:
        """Give up what the worker does not know any more; returns FAILED events.

        Parameters
        ----------
        kept
            First token and number of unanswered requests of what the worker still works at, shape (n, 2).
        question
            The number of the RESYNC that it answers: what was asked after that is not judged.
        status
            Of the events: an ECA message number.
        """
        known = dict(kept.tolist())
        lost = [one for one in self._asked.values() if one.question < question and one.left > known.get(one.first, 0)]
        for one in lost:
            self.discard(one.first)
        return _joined([one.failed(status) for one in lost])


def _joined(parts: list[Records]) -> Records:
    if not parts:
        return np.zeros(0, EVENT)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
