"""Whether a thread that waits for an answer looks for it awake, or sleeps until the kernel wakes it.

To be woken costs up to fifty microseconds where it is another core that must be woken, and next to nothing where
server and client share one; and a server may be far away. So both are tried, and the quicker one is kept.
"""

from __future__ import annotations

LOOKS = 100
"""So often somebody awake looks before it sleeps after all: some 130 us."""
_TRIAL = 128
"""Every so many answers the other way is tried again."""
_QUICK = 20e-6
"""Seconds. Who is answered so quickly asleep has no reason to try the other way."""
_LONGEST = 1e-3
"""Seconds. An answer that takes longer says nothing more about how to wait."""
_WEIGHT = 0.125
"""Of one answer, in the average."""
_IN_VAIN = 2.0
"""How much worse an answer counts for which one was awake in vain."""


class Patience:
    """What one link has learnt.

    Attributes
    ----------
    awake, asleep
        Seconds that an answer takes, smoothed.
    """

    __slots__ = ("_answers", "_is_awake", "asleep", "awake")

    def __init__(self) -> None:
        self.awake = self.asleep = 0.0
        self._answers = 0
        self._is_awake = False

    def is_awake(self) -> bool:
        """Whether to look for the next answer awake."""
        self._answers += 1
        best = self.awake < self.asleep and self.asleep > _QUICK
        tries = self._answers % _TRIAL == 0 and self.asleep > _QUICK
        self._is_awake = best is not tries
        return self._is_awake

    def learn(self, seconds: float, in_vain: bool = False) -> None:
        """The answer took so long."""
        seconds = min(seconds, _LONGEST)
        if not self._is_awake:
            self.asleep += (seconds - self.asleep) * _WEIGHT
            return
        if in_vain:
            seconds *= _IN_VAIN
        self.awake += (seconds - self.awake) * _WEIGHT
