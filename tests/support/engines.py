"""Engines for tests, in this process and over workers, and a sink that remembers.

The fixtures are made known by the ``conftest.py`` of each folder that uses them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from daqca import Engine
from daqca.events import ALL_SLOTS, Batch, Event, Kind
from daqca.sim import SimIOC

MakeEngine = Callable[..., Engine]
MODES = [pytest.param(0, id="here"), pytest.param(2, id="workers")]


@pytest.fixture(params=MODES)
def make_engine(request: pytest.FixtureRequest, session_environ: dict[str, str]) -> Iterator[MakeEngine]:
    """Make engines of the environment as it is then, of each mode; they are closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Engine(workers=request.param, **options))


@pytest.fixture
def engine(ioc: SimIOC, make_engine: MakeEngine) -> Engine:
    """An engine whose searches reach ``ioc``."""
    return make_engine()


class Seen:
    """A sink that keeps all it is told, and can be waited on.

    Attributes
    ----------
    rows
        (event, its bytes in the block), in order.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[Event, bytes]] = []
        self._changed = threading.Condition()

    def deliver(self, batch: Batch) -> None:
        rows = [(event, bytes(batch.data(*event.value)) if isinstance(event.value, tuple) else b"") for event in batch]
        with self._changed:
            self.rows += rows
            self._changed.notify_all()

    __call__ = deliver

    def events(self, *kinds: Kind, slot: int | None = None) -> list[Event]:
        with self._changed:
            rows = list(self.rows)
        return [event for event, _ in rows if event.kind in kinds and slot in (None, event.slot)]

    def values(self, slot: int = 0) -> list[Any]:
        """The numbers in the updates of one slot."""
        return [event.value for event in self.events(Kind.UPDATE, slot=slot)]

    def lost(self) -> int:
        return sum(event.count for event in self.events(Kind.LOST) if event.slot == ALL_SLOTS)

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 20.0) -> Any:
        """Wait until `condition` is true after some batch, and return what it returned."""
        with self._changed:
            result = self._changed.wait_for(condition, timeout)
        assert result, f"not within {timeout} s: {what}; seen: {[row[0] for row in self.rows[-20:]]}"
        return result

    def wait_kind(self, kind: Kind, count: int = 1, slot: int | None = None) -> list[Event]:
        """Wait until there were `count` events of a kind; returns all of them."""
        self.wait(lambda: len(self.events(kind, slot=slot)) >= count, f"{count} times {kind.name}")
        return self.events(kind, slot=slot)
