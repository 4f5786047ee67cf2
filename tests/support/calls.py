"""A callback that remembers its calls."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .recording import eventually


class Calls:
    """A callback of a PV: keeps the keywords of each call, and the thread that made it."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.threads: set[str] = set()

    def __call__(self, *args: Any, **kw: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls.append({**kw, "args": args} if args else kw)

    def __len__(self) -> int:
        return len(self.calls)

    def all(self, name: str = "value") -> list[Any]:
        """This keyword of every call."""
        return [call.get(name) for call in list(self.calls)]

    def wait(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many calls; returns all."""
        eventually(lambda: len(self.calls) >= count, f"{count} calls; there were {self.calls}")
        return list(self.calls)

    def wait_last(self, value: Any, name: str = "value") -> dict[str, Any]:
        """Wait until the last call has this value; returns its keywords."""
        eventually(
            lambda: self.calls and type(last := self.calls[-1].get(name)) is not np.ndarray and last == value,
            f"{name}={value!r} in the last call; there were {self.all(name)}",
        )
        return self.calls[-1]
