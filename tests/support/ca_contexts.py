"""Contexts of the low-level interface, for tests: threads, and channels that are watched in them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .background import Background
from .recording import eventually


def in_thread(call: Callable[[], Any]) -> Any:
    """What a call returns on a thread of its own; what it raises is raised."""
    done = Background(call).join()
    if done.error is not None:
        raise done.error
    return done.result


def contexts(ca: ModuleType) -> list[int]:
    return list(ca._cache)


def io_threads() -> int:
    return sum(thread.name.startswith("daqca") for thread in threading.enumerate())


class Watch:
    """A channel that is watched: what its callback was given, and in which context."""

    def __init__(self, ca: ModuleType, name: str):
        self.values: list[Any] = []
        self.contexts: set[Any] = set()
        self.connections: list[bool] = []
        self._ca = ca
        self.chid = ca.create_channel(name, callback=self._connection)
        assert ca.connect_channel(self.chid, timeout=20), name
        self.event_id = ca.create_subscription(self.chid, callback=self._update)[2]
        self.sees(self.last_of_server())

    def _connection(self, conn: bool, **known: Any) -> None:
        self.connections.append(conn)
        self.contexts.add(self._ca.current_context())

    def _update(self, value: Any, **known: Any) -> None:
        self.values.append(value)
        self.contexts.add(self._ca.current_context())

    def last_of_server(self) -> Any:
        return self._ca.get(self.chid)

    def sees(self, value: Any) -> None:
        eventually(lambda: self.values[-1:] == [value], f"an update to {value}")
