"""Flow control by hand: while updates are off the IOC keeps the latest value only, and tells it when they are on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.engines import Seen
from support.ioc import IOCFactory

from daqca.ca.context import Context
from daqca.ca.dbr import Mask
from daqca.errors import EngineClosedError
from daqca.events import Kind
from daqca.sim import SoftIOC

NAMES = ["FLOW:a", "FLOW:b"]
DATABASE = "".join(f'record(longout, "{name}") {{ field(PINI, YES) field(VAL, 0) }}\n' for name in NAMES)


class Client(Seen):
    """A context of its own that monitors `NAMES`, which are its slots 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.context = Context(self.deliver)
        self.slots = self.context.add(NAMES)
        self.context.subscribe(self.slots, Mask.VALUE)

    def wait_value(self, value: float) -> None:
        """Until the last update of both channels was this one."""
        for slot in (0, 1):
            self.wait(lambda slot=slot: self.values(slot)[-1:] == [value], f"an update to {value}")

    def put(self, value: float) -> None:
        """Put the same to both, and wait until the IOC has confirmed it."""
        before = len(self.events(Kind.WRITTEN))
        self.context.write_doubles(self.slots, np.full(2, value), lambda first: None)
        self.wait_kind(Kind.WRITTEN, before + 2)

    def all_values(self) -> list[list[float]]:
        return [self.values(slot) for slot in (0, 1)]


@pytest.fixture
def ioc(make_ioc: IOCFactory, point_at: Callable[..., Any]) -> SoftIOC:
    """An IOC with `NAMES`, which the clients of this test find."""
    ioc = make_ioc(DATABASE)
    point_at(ioc)
    return ioc


@pytest.fixture
def clients(ioc: SoftIOC) -> Iterator[tuple[Client, Client]]:
    """One whose updates the test turns off, and one whose are on; both know the value 0."""
    one, other = Client(), Client()
    with one.context, other.context:
        one.wait_value(0)
        other.wait_value(0)
        yield one, other


def test_updates_are_held_back_and_the_latest_value_comes_when_they_are_on(clients: tuple[Client, Client]):
    held, other = clients
    held.context.set_events(False)
    # On the same circuit, so that the IOC has heard the one before the other.
    for value in range(1, 11):
        held.put(value)
        other.wait_value(value)
    assert held.all_values() == [[0], [0]]
    assert other.all_values() == [[*range(11)]] * 2
    held.context.set_events(True)
    held.wait_value(10)
    held.put(11)
    held.wait_value(11)
    assert held.all_values() == [[0, 10, 11]] * 2


def test_a_circuit_that_connects_anew_is_off_too(clients: tuple[Client, Client], ioc: SoftIOC):
    held, other = clients
    held.context.set_events(False)
    ioc.restart()
    for client in clients:
        client.wait_kind(Kind.DISCONNECTED, 2)
        client.wait_kind(Kind.CONNECTED, 4)
    for value in range(1, 6):
        held.put(value)
        other.wait_value(value)
    assert held.all_values() == [[0], [0]], "not even the first value of the subscription that was made again"
    assert other.all_values()[0][-5:] == [1, 2, 3, 4, 5]
    held.context.set_events(True)
    held.wait_value(5)
    assert held.all_values() == [[0, 5]] * 2


def test_a_closed_context_says_so(ioc: SoftIOC):
    client = Client()
    client.context.close()
    with pytest.raises(EngineClosedError):
        client.context.set_events(False)
