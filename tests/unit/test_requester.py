"""What is lost with a circuit before it was sent is told, for each value."""

from __future__ import annotations

import numpy as np

from daqca.ca.channels import Channels, Subscriptions
from daqca.ca.circuit import Circuit
from daqca.ca.requests import Requests
from daqca.events import BatchBuilder, Kind, Reason


def circuit_with(names: list[str]) -> tuple[Circuit, np.ndarray]:
    channels = Channels()
    circuit = Circuit(0, ("127.0.0.1", 5064), channels, Subscriptions(), Requests())
    slots = channels.add(names)
    circuit.create(slots)
    circuit.was_sent(circuit.backlog())
    return circuit, slots


def failed(circuit: Circuit) -> list[int]:
    builder = BatchBuilder()
    circuit.close(Reason.CLOSED, builder)
    return [event.slot for event in builder.build() if event.kind == Kind.FAILED]


def test_values_that_were_not_sent_are_told_each() -> None:
    circuit, slots = circuit_with(["a", "b", "c"])
    circuit.write_doubles(slots, np.zeros(3, np.uint32), np.ones(3), notify=False)
    circuit.write(int(slots[1]), 0, 6, 1, bytes(8), notify=False)
    assert failed(circuit) == [0, 1, 2, 1]


def test_values_that_were_sent_are_not() -> None:
    circuit, slots = circuit_with(["a", "b"])
    circuit.write(int(slots[0]), 0, 6, 1, bytes(8), notify=False)
    circuit.was_sent(24)
    circuit.write(int(slots[1]), 0, 6, 1, bytes(8), notify=False)
    circuit.was_sent(10)  # a part of it went
    assert failed(circuit) == [1]


def test_what_is_remembered_of_sent_values_does_not_grow() -> None:
    circuit, slots = circuit_with(["a"])
    for _ in range(1000):
        circuit.write(int(slots[0]), 0, 6, 1, bytes(8), notify=False)
        circuit.was_sent(24)
    assert len(circuit._unsent) == 1
    assert failed(circuit) == []
