"""The child's side of a server process: takes its settings from stdin and dies with its parent.

The parent's side is in ``process.py``. Runs before anything of EPICS is loaded.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

_CHECK_PERIOD_S = 0.5


def adopt() -> dict[str, Any]:
    """Make this process the obedient child of the one that wrote to its stdin.

    Three things can take the parent away, and each ends this process:

    * it ends, or is killed: the pipe on stdin closes;
    * the same, but a third process has inherited the other end of the pipe: the
      parent's process id is no longer ours;
    * the same, while we are suspended and cannot notice: we are alone in a
      process group, and the kernel hangs up an orphaned group that has stopped
      members (SIGHUP, then SIGCONT). The own group also keeps the Ctrl-C of a
      terminal away from us: the parent decides when we end.

    Returns
    -------
    dict
        The settings: one line of JSON, the first on stdin.
    """
    if os.getpid() != os.getpgrp():
        os.setpgid(0, 0)
    parent = os.getppid()
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)
    settings: dict[str, Any] = json.loads(line)
    threading.Thread(target=_end_with_pipe, name="lifeline", daemon=True).start()
    threading.Thread(target=_end_with_parent, args=(parent,), name="parent", daemon=True).start()
    return settings


def _end_with_pipe() -> None:
    while os.read(0, 4096):
        pass
    # Not sys.exit: threads of EPICS do not end for it, and there is nothing to save.
    os._exit(0)


def _end_with_parent(parent: int) -> None:
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(_CHECK_PERIOD_S)
    os._exit(0)
