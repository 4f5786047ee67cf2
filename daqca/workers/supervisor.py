"""Keeps the workers of a pool alive: starts them, notices that one is dead or silent, replaces it.

What becomes of the channels meanwhile is the business of the link.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from daqca.broker.client import BrokerClient
from daqca.broker.messages import ID_SIZE
from daqca.broker.publisher import BACKLOG_BYTES
from daqca.ca.settings import Settings
from daqca.errors import WorkerError
from daqca.workers.asking import State
from daqca.workers.configuration import HEARTBEAT, Configuration
from daqca.workers.link import WorkerLink
from daqca.workers.process import QUIT_PATIENCE, WorkerProcess

log = logging.getLogger("daqca.workers")


@dataclass(frozen=True, slots=True)
class Supervision:
    """How patient a pool is with its workers; all times in seconds.

    Parameters
    ----------
    heartbeat
        How often a worker says that it lives.
    silent_after
        A worker that is not heard for so long counts as lost: its channels are stale. If it speaks again, it goes on.
    replaced_after
        One that is not heard for so long is killed and replaced.
    start
        How long a start may take.
    restart, longest_restart
        The wait before a worker that died is replaced; doubles while its followers die young, up to the longest.
    backlog
        The most bytes that may wait in a worker, if this process does not read.
    """

    heartbeat: float = HEARTBEAT
    silent_after: float = 5.0
    replaced_after: float = 20.0
    start: float = 20.0
    restart: float = 0.1
    longest_restart: float = 10.0
    backlog: int = BACKLOG_BYTES


class Member:
    """A worker of a pool: its link, and the processes that serve it, one after the other."""

    def __init__(self, number: int, link: WorkerLink):
        self.number = number
        self.link = link
        self.process: WorkerProcess | None = None
        self.is_silent = False
        self.started = 0.0
        self.due = 0.0
        self.wait = 0.0


class Supervisor:
    """Starts the workers of a pool, and replaces those that die.

    Parameters
    ----------
    links
        One for each worker.
    client
        The client of all of them.
    directory
        Of the broker's sockets.
    settings
        Of the workers' contexts.
    patience
        See `Supervision`.
    """

    def __init__(
        self,
        links: Sequence[WorkerLink],
        client: BrokerClient,
        directory: str,
        settings: Settings,
        patience: Supervision,
    ):
        self.members = [Member(number, link) for number, link in enumerate(links)]
        self.patience = patience
        self._client = client
        self._directory = directory
        self._settings = settings
        self._stops = False
        self._wake = threading.Event()
        self._was_idle = False
        self._thread = threading.Thread(target=self._run, name="daqca-supervisor", daemon=True)

    # --- the start ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all workers at once, and wait until they answer; then supervise them.

        Raises
        ------
        WorkerError
            One of them does not. None of them is left running.
        """
        try:
            for member in self.members:
                self._launch(member)
            deadline = time.monotonic() + self.patience.start
            for member in self.members:
                self._wait_for(member, deadline)
        except BaseException:
            self.stop()
            raise
        self._thread.start()

    def _launch(self, member: Member) -> None:
        configuration = Configuration(
            self._directory,
            secrets.token_bytes(ID_SIZE),
            self._settings,
            logging.getLogger("daqca").getEffectiveLevel(),
            self.patience.heartbeat,
            self.patience.backlog,
        )
        member.link.expect(configuration.address)
        member.process = WorkerProcess(member.number, configuration, self._wake.set)
        member.started = time.monotonic()

    def _wait_for(self, member: Member, deadline: float) -> None:
        process = member.process
        assert process is not None
        while not member.link.is_up.wait(0.05):
            if process.is_alive and time.monotonic() < deadline:
                continue
            alive = process.is_alive
            process.stop(patience=0)
            what = f"did not answer within {self.patience.start:g} s" if alive else f"died: {process.how_it_ended()}"
            raise WorkerError(
                f"worker {member.number} should have started and {what}; it wrote:\n{process.output or '(nothing)'}"
            )

    # --- the watch ------------------------------------------------------------------------------

    def _run(self) -> None:
        period = min(self.patience.heartbeat / 2, 0.25)
        slept = time.monotonic()
        while not self._stops:
            due = min((member.due for member in self.members if member.process is None), default=slept + period)
            self._wake.wait(min(max(due - slept, 0.0), period))
            self._wake.clear()
            now = time.monotonic()
            if now - slept > period + 1.0:
                # We were not running ourselves: the silence was ours.
                for member in self.members:
                    member.link.heard = now
            slept = now
            caught_up = self._has_caught_up()
            for member in self.members:
                if self._stops:
                    return
                if member.link.state == State.CLOSED:
                    continue
                try:
                    self._look_at(member, now, caught_up)
                    member.is_silent = member.link.state == State.SILENT
                except Exception:
                    log.exception("worker %d cannot be supervised", member.number)

    def _has_caught_up(self) -> bool:
        """Whether we have read all there is, and had so a while ago: else a worker's heartbeat may be in the queue."""
        was_idle, self._was_idle = self._was_idle, self._client.is_idle
        return was_idle and self._was_idle

    def _look_at(self, member: Member, now: float, caught_up: bool) -> None:
        process, link = member.process, member.link
        if process is None:
            if now >= member.due:
                self._relaunch(member)
            return
        if not process.is_alive:
            self._bury(member, now)
        elif link.state == State.DOWN:
            if now - member.started > self.patience.start:
                log.error("worker %d does not start within %g s and is killed", member.number, self.patience.start)
                process.kill()
        elif caught_up:
            silence = now - link.heard
            if link.state == State.UP and silence > self.patience.silent_after:
                what = "worker %d (%s) has said nothing for %.1f s; its channels are stale"
                log.error(what, member.number, process.doing(), silence)
                link.fell_silent()
            elif silence > self.patience.replaced_after:
                what = "worker %d (%s) has said nothing for %.1f s; it is killed and replaced"
                log.error(what, member.number, process.doing(), silence)
                process.kill()

    def _bury(self, member: Member, now: float) -> None:
        """The process is dead: tell it, and plan its replacement."""
        assert member.process is not None
        log.error("worker %d (pid %d) is dead: %s", member.number, member.process.pid, member.process.how_it_ended())
        member.link.died()
        member.process.stop(patience=0)
        member.process = None
        lived = now - member.started
        first = self.patience.restart
        member.wait = (
            first
            if lived > self.patience.longest_restart
            else min(max(2 * member.wait, first), self.patience.longest_restart)
        )
        member.due = now + member.wait

    def _relaunch(self, member: Member) -> None:
        try:
            self._launch(member)
        except WorkerError as error:
            log.error("%s", error)
            member.due = time.monotonic() + self.patience.longest_restart

    # --- the end --------------------------------------------------------------------------------

    def stop(self) -> None:
        """End all workers, and wait for their end."""
        self._stops = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        running = [(member.process, member) for member in self.members if member.process is not None]
        for _, member in running:
            member.link.quit()
        deadline = time.monotonic() + QUIT_PATIENCE
        for process, member in running:
            # One that is silent has not heard that it is to end.
            is_silent = member.is_silent or member.link.state == State.SILENT
            process.stop(0.0 if is_silent else max(deadline - time.monotonic(), 0.1))
