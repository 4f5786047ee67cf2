"""daqca's CA client without a network: a shard or a circuit that a test answers by hand.

What a server sends comes from `wire`; what the client sends is taken apart by it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from daqca.ca.circuit import Circuit
from daqca.ca.settings import Settings
from daqca.ca.shard import Shard
from daqca.errors import ProtocolError
from daqca.events import Batch, Event, Kind, Reason

from . import wire

HOST = "10.0.0.1"
PORT = 5064
SERVER = (HOST, PORT)

# The shard tells its log what it does about bad servers; the tests look at its counters.
logging.getLogger("daqca.ca").addHandler(logging.NullHandler())


def slots(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint32)


def sent(circuit: Circuit) -> bytes:
    """All that a circuit wants to send; its queue is empty after that."""
    data = b"".join(bytes(view) for view in circuit.out)
    circuit.was_sent(len(data))
    return data


def view(event: Event, batch: Batch) -> tuple:
    """An event without what depends on our clock or on where its data lies: comparable between two decoders."""
    is_placed = isinstance(event.value, tuple)
    data = bytes(batch.data(*event.value)) if is_placed else np.float64(event.value).tobytes()
    ours = event.kind not in (Kind.UPDATE, Kind.READ, Kind.PROPERTY)
    return (*event[:5], None if ours else event.timestamp, is_placed, data, *event[7:])


class TestClient:
    """A shard with a clock, whose network is the test."""

    __test__ = False

    def __init__(self, **settings: object):
        settings.setdefault("auto_addr_list", False)
        settings.setdefault("addr_list", ((HOST, PORT),))
        self.shard = Shard(Settings(**settings), "user", "host")  # type: ignore[arg-type]
        self.now = 1000.0
        self._next_sid = 100

    # --- the clock and the batches

    def events(self) -> list[Event]:
        """What was told since the last call."""
        return list(self.batch())

    def batch(self) -> Batch:
        return self.shard.builder.build()

    def kinds(self) -> list[tuple[int, Kind]]:
        """(slot, kind) of what was told since the last call."""
        return [(event.slot, Kind(event.kind)) for event in self.events()]

    def wait(self, seconds: float) -> list[list[wire.Message]]:
        """Let time pass, do what is then due; returns the datagrams sent meanwhile."""
        end, found = self.now + seconds, []
        while True:
            due = min(self.shard.tick(self.now), self.shard.searcher.next_time(self.now) or end)
            found += self.searches()
            if due > end or self.now >= end:
                break
            # A timer that is due and does nothing would stop the clock.
            self.now = max(due, self.now + 1e-3)
        self.now = end
        self.shard.tick(self.now)
        return found + self.searches()

    # --- searches

    def searches(self) -> list[list[wire.Message]]:
        """The datagrams to be sent now, taken apart."""
        return [wire.parse(data) for data in self.shard.datagrams(self.now)]

    def reply(self, *answers: tuple[bytes, tuple[str, int]] | bytes) -> None:
        """Datagrams came; from the server unless said otherwise."""
        datagrams = [answer if isinstance(answer, tuple) else (answer, SERVER) for answer in answers]
        self.shard.replies(datagrams, self.now)

    def found(self, slots: Sequence[int], server: tuple[str, int] = SERVER) -> Circuit:
        """Answer for these channels without being asked; returns the circuit to the server."""
        self.reply((wire.replies(None, *(wire.search_reply(slot, server[1]) for slot in slots)), server))
        return self.circuit(server)

    def circuit(self, server: tuple[str, int] = SERVER) -> Circuit:
        return next(circuit for circuit in self.shard.circuits.values() if circuit.address == server)

    # --- circuits

    def open(self, circuit: Circuit) -> None:
        self.shard.to_open.remove(circuit)
        self.shard.opened(circuit, self.now)

    def feed(self, circuit: Circuit, data: bytes, cut: int | None = None) -> None:
        """Bytes came on a circuit, in one read or in reads of `cut` bytes; an error closes it, as a context does."""
        try:
            self.feed_raising(circuit, data, cut)
        except ProtocolError:
            self.shard.closed(circuit, Reason.PROTOCOL_ERROR, self.now)

    def feed_raising(self, circuit: Circuit, data: bytes, cut: int | None = None) -> None:
        left = memoryview(data)
        while len(left):
            buffer = circuit.get_buffer()
            n = min(len(buffer), len(left), cut or len(left))
            buffer[:n] = left[:n]
            left = left[n:]
            self.shard.bytes_received(circuit, n, self.now)

    def connect(
        self,
        names: Sequence[str] | int,
        native: int | Sequence[int] = wire.DOUBLE,
        count: int | Sequence[int] = 1,
        server: tuple[str, int] = SERVER,
        minor: int = 13,
    ) -> tuple[np.ndarray, Circuit]:
        """New channels, connected; their SID is 100 plus their slot. Nothing of it is left to be told or sent."""
        if isinstance(names, int):
            names = [f"PV:{i}" for i in range(names)]
        slots = self.shard.add(names)
        self.searches()
        circuit = self.found(slots.tolist(), server)
        if circuit in self.shard.to_open:
            self.open(circuit)
            self.feed(circuit, wire.version(minor))
        self.create(circuit, slots.tolist(), native, count)
        self.batch()
        sent(circuit)
        return slots, circuit

    def create(
        self,
        circuit: Circuit,
        slots: Sequence[int],
        native: int | Sequence[int] = wire.DOUBLE,
        count: int | Sequence[int] = 1,
        rights: int = 3,
    ) -> None:
        """The server creates these channels; their SID is 100 plus their slot."""
        natives = [native] * len(slots) if isinstance(native, int) else native
        counts = [count] * len(slots) if isinstance(count, int) else count
        self.feed(
            circuit,
            b"".join(
                wire.created(slot, 100 + slot, n, c, rights) for slot, n, c in zip(slots, natives, counts, strict=True)
            ),
        )

    def read(self, *numbers: int, dbr_type: int = 255, count: int = 0) -> list[int]:
        """Ask for values; returns the request ids."""
        firsts: list[int] = []
        self.shard.read(slots(*numbers), firsts.append, dbr_type, count)
        return list(range(firsts[0], firsts[0] + len(numbers)))
