"""A pool of workers for one client program: the broker, the client and the processes, and the links to them."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from types import TracebackType

from daqca.broker.broker import Broker
from daqca.broker.client import BrokerClient
from daqca.ca.settings import Settings
from daqca.link import Deliver
from daqca.workers.link import WorkerLink
from daqca.workers.supervisor import Supervision, Supervisor

_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()
"""The open pools, only for the child of a fork, which must leave them to the parent."""


class WorkerPool:
    """`n` worker processes, started and supervised.

    Parameters
    ----------
    n
        How many.
    deliver
        Called as ``deliver(link, batch)`` with every batch, in the order of each worker's stream, under the link's
        lock: mostly on the receive thread, so it must be quick and must not wait for an answer.
    settings
        Of their contexts; by default from the environment of this process.
    patience
        See `Supervision`.

    Attributes
    ----------
    links
        One for each worker (`daqca.link.Link`).

    Raises
    ------
    ConfigurationError
        The environment makes no sense.
    TransportError
        There is no place for the sockets, or no file descriptor.
    WorkerError
        A worker does not start; the message has what it wrote.
    """

    def __init__(
        self, n: int, deliver: Deliver, settings: Settings | None = None, *, patience: Supervision | None = None
    ):
        settings = settings if settings is not None else Settings.from_environ()
        self.is_closed = False
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._broker = Broker()
        try:
            self._client = BrokerClient(self._broker)
        except BaseException:
            self._broker.close()
            raise
        self.links = [WorkerLink(number, self._client, deliver) for number in range(n)]
        self._supervisor = Supervisor(
            self.links, self._client, self._broker.endpoints.directory, settings, patience or Supervision()
        )
        _pools.add(self)
        atexit.register(self.close)
        try:
            self._supervisor.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers; 0 for one that is being replaced."""
        processes = [member.process for member in self._supervisor.members]
        return [process.pid if process is not None else 0 for process in processes]

    def stats(self) -> list[dict[str, object]]:
        """What each worker and its link count; see `WorkerLink.stats`."""
        return [link.stats() for link in self.links]

    def close(self) -> None:
        """End the workers, the broker and every thread; nothing is delivered after this."""
        if os.getpid() != self._pid:
            return
        with self._closing:
            if self.is_closed:
                return
            self.is_closed = True
            self._supervisor.stop()
            for link in self.links:
                link.close()
            self._client.close()
            self._broker.close()
            self._client.join()
            _pools.discard(self)
            atexit.unregister(self.close)

    def _forked(self) -> None:
        """In the child of a fork: the workers are the parent's."""
        self.is_closed = True
        for link in self.links:
            link.forked()
        for member in self._supervisor.members:
            if member.process is not None:
                member.process.forget()


def _forget_pools() -> None:
    for pool in list(_pools):
        pool._forked()
    _pools.clear()


os.register_at_fork(after_in_child=_forget_pools)
