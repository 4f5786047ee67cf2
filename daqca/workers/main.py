"""The worker process, from its start to its end: ``python -m daqca.workers.main``, started by `daqca.workers.process`.

It runs no code of the user's program. What it does in between is in `worker`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from daqca.broker.endpoints import Endpoints
from daqca.broker.port import WorkerPort
from daqca.workers.configuration import HEARTBEAT, Configuration
from daqca.workers.worker import Worker

FIRST_HEARTBEAT = 0.01
"""Seconds between heartbeats until a client has said hello."""
FLUSH_PERIOD = 0.005
"""Seconds between attempts to send what waits for a slow client."""
PARENT_PERIOD = 0.5
LOG_FORMAT = "%(levelname)s:%(name)s:%(message)s"


def main() -> None:
    """Be a worker until the parent wants no more, or is gone."""
    _detach()
    parent = os.getppid()
    # Unbuffered: what comes after the configuration (nothing, until the end) is for the lifeline.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        configuration = Configuration.read(stdin)
    if configuration is None:
        return
    logging.basicConfig(level=configuration.log_level, format=LOG_FORMAT, stream=sys.stderr)
    endpoints = Endpoints(configuration.directory)
    threading.Thread(target=_end_with_pipe, args=(parent, endpoints), name="lifeline", daemon=True).start()
    threading.Thread(target=_end_with_parent, args=(parent, endpoints), name="parent", daemon=True).start()
    port = WorkerPort(endpoints, configuration.address, configuration.backlog)
    worker = Worker(port, configuration.settings)
    try:
        serve(worker, port, configuration.heartbeat)
    finally:
        worker.close()
        port.close()
    logging.shutdown()
    # The interpreter has nothing to tidy up that the system would not, and takes a third of a second for it.
    os._exit(0)


def _detach() -> None:
    """Take no notice of the terminal's Ctrl-C: whoever started us decides when we end.

    A process group of our own serves one thing more: if the parent is killed while we are stopped (and cannot notice),
    the group is orphaned, and the kernel hangs up an orphaned group that has stopped members.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getpid() != os.getpgrp():
        os.setpgid(0, 0)


def serve(worker: Worker, port: WorkerPort, period: float = HEARTBEAT) -> None:
    """Take requests, send heartbeats and what waits for a slow client, until a request ends it."""
    due = 0.0
    while not worker.quits:
        now = time.monotonic()
        if now >= due:
            worker.heartbeat()
            due = now + (period if worker.is_welcome else FIRST_HEARTBEAT)
        wait = min(due - now, FLUSH_PERIOD) if worker.flush() else due - now
        frames = port.receive(wait)
        if frames is not None:
            worker.handle(frames)


def _end_with_pipe(parent: int, endpoints: Endpoints) -> None:
    while os.read(0, 4096):
        pass
    # The pipe of a parent that ends is closed a moment before we are orphaned.
    limit = time.monotonic() + PARENT_PERIOD
    while os.getppid() == parent:
        if time.monotonic() > limit:
            os._exit(0)  # it closed the pipe, and lives on
        time.sleep(0.01)
    _orphaned(endpoints)


def _end_with_parent(parent: int, endpoints: Endpoints) -> None:
    """Another process may have inherited the other end of the pipe: then only our parent's id tells."""
    while os.getppid() == parent:
        time.sleep(PARENT_PERIOD)
    _orphaned(endpoints)


def _orphaned(endpoints: Endpoints) -> None:
    """Remove what the parent could not remove, and end at once: there is nothing to save."""
    endpoints.remove()
    os._exit(0)


if __name__ == "__main__":
    main()
