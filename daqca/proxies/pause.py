"""A pause in which events are taken in: what scripts for Channel Access call `poll`."""

from __future__ import annotations

import time

import daqca.ca as ca


def poll(evt: float = 1e-5, iot: float = 1.0) -> None:
    """Pause for `evt` seconds (manual, chapter 10.3).

    PVs need none: their events are taken in all the time. A context of `daqca.ca` without preemptive callbacks does,
    and has it here; `iot` is what is given to `pend_io` then.
    """
    if ca.initial_context is None:
        time.sleep(evt)
    else:
        ca.poll(evt, iot)
