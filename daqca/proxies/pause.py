"""Time that is given: a pause in which events are taken in, and what is left until a deadline."""

from __future__ import annotations

import time

import daqca.ca as ca

MOMENT = 0.01
"""Seconds in which what is there already is still taken."""


def poll(evt: float = 1e-5, iot: float = 1.0) -> None:
    """Pause for `evt` seconds (manual, chapter 10.3).

    PVs need none: their events are taken in all the time. A context of `daqca.ca` without preemptive callbacks does,
    and has it here; `iot` is what is given to `pend_io` then.
    """
    if ca.initial_context is None:
        time.sleep(evt)
    else:
        ca.poll(evt, iot)


def left(deadline: float) -> float:
    """Seconds until a time of `time.monotonic`; a `MOMENT`, if it is over."""
    return max(deadline - time.monotonic(), MOMENT)
