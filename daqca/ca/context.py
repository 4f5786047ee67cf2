"""One Channel Access client as a program uses it: what can be asked for, from any thread.

Sockets and threads are in `loop`; what is asked for becomes messages in `shard`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.ca.channels import NO_CIRCUIT, Slots, State
from daqca.ca.circuit import Circuit
from daqca.ca.leading import Leading
from daqca.ca.protocol import Command
from daqca.ca.shard import Register
from daqca.events import EPICS_EPOCH_NS, Kind
from daqca.link import AUTO
from daqca.operations import Waiter

_READ_NOTIFY, _WRITE_NOTIFY = int(Command.READ_NOTIFY), int(Command.WRITE_NOTIFY)
_KIND_READ, _KIND_WRITTEN = int(Kind.READ), int(Kind.WRITTEN)
_CHAR, _TIME_DOUBLE = 4, 20
Row = tuple[Any, ...]
_CONFIRMED = Struct(">HHHHII")
"""The answer to a put."""
NUMBERS = {
    **{1 + i: Struct(f">HHHHII{code}") for i, code in enumerate(("h6x", "f4x", "H6x", "B7x", "i4x", "d"))},
    _TIME_DOUBLE: Struct(">HHHHIIhhII4xd"),
}
"""The answers that are one number: of the plain types SHORT to DOUBLE, and of TIME_DOUBLE."""
ADD_PART = 4096
"""So many names are searched before the messages of the next are made."""


class Context(Leading):
    """One Channel Access client: a shard, its sockets and its I/O thread.

    Parameters
    ----------
    deliver
        Called with every batch, in order, under the context's lock, by the thread that read it. It must
        be quick and must not call back into the context.
    settings
        Default: from the environment.

    Notes
    -----
    Every method may be called from any thread. After a fork the child's copy is closed.
    """

    def add(self, names: Sequence[str]) -> Slots:
        """Add channels and begin to search them; returns their slots, shape (n,)."""
        with self.lock:
            self._check_open()
            parts = []
            for start in range(0, len(names), ADD_PART):
                parts.append(self.shard.add(names[start : start + ADD_PART]))
                self._pump()
            return np.concatenate(parts) if parts else np.empty(0, np.uint32)

    def remove(self, slots: Slots) -> None:
        """Clear channels."""
        with self.lock:
            self._check_open()
            self.shard.remove(slots)
            self._pump()

    def read(self, slots: Slots, register: Register, dbr_type: int = AUTO, count: int = 0) -> None:
        """See `Shard.read`. ``register(first id)`` is called before any answer can come."""
        with self.lock:
            self._check_open()
            self.shard.read(slots, register, dbr_type, count, self._flush_all)
            self._pump()

    def read_now(self, slot: int, register: Callable[[int], Waiter], timeout: float) -> Row | Waiter | None:
        """Read one number of a connected channel, with time and alarm, and wait for it: see `Leading.exchange`.

        Returns
        -------
        The answer as a row in the order of `daqca.events.Event`, or what `Leading.exchange` returns.
        """
        channels = self.shard.channels
        native = channels.native_type.item(slot)
        if channels.native_count.item(slot) != 1 or not native:
            return None
        answer = self.exchange(slot, _READ_NOTIFY, _TIME_DOUBLE, 1, b"", NUMBERS[_TIME_DOUBLE], register, timeout)
        if type(answer) is not tuple:
            return answer
        _, _, _, _, _, id_, status, severity, seconds, nanoseconds, value = answer
        if value < 0 and native == _CHAR:
            value += 256.0  # see decode.unsigned_chars
        timestamp = seconds * 1_000_000_000 + nanoseconds + EPICS_EPOCH_NS
        return (slot, _KIND_READ, 6, status & 0xFF, severity & 0xFF, timestamp, value, 1, id_)

    def write_now(
        self,
        slot: int,
        dbr_type: int,
        count: int,
        payload: bytes,
        register: Callable[[int], Waiter],
        timeout: float,
    ) -> Row | Waiter | None:
        """Write one value and wait until the server confirms it: as `read_now`."""
        answer = self.exchange(slot, _WRITE_NOTIFY, dbr_type, count, payload, _CONFIRMED, register, timeout)
        if type(answer) is not tuple:
            return answer
        return (slot, _KIND_WRITTEN, 0, 0, 0, time.time_ns(), 0.0, 0, answer[5])

    def read_one(self, slot: int, register: Register, dbr_type: int = AUTO, count: int = 0, send: bool = True) -> None:
        """See `Shard.read_one`; ``register(id)`` is called before the answer can come.

        Without `send` it goes out with what is sent next.
        """
        with self.lock:
            self._check_open()
            id_, circuit = self.shard.read_one(slot, dbr_type, count)
            register(id_)
            if send:
                self._send_on(circuit)

    def flush(self) -> None:
        """Send all that waits to be sent."""
        with self.lock:
            self._check_open()
            self._pump()

    def _send_on(self, circuit: Circuit | None) -> None:
        """Send what was just put on one circuit, without looking at the others."""
        if circuit is None:
            self._pump()
            return
        self._flush(self._links[circuit.index])
        if self.shard.builder:
            self._deliver_batch(self.shard.builder.build())

    def cancel(self, first: int, n: int = 1) -> None:
        """Give up requests."""
        with self.lock:
            self.shard.cancel(first, n)

    def subscribe(
        self,
        slots: Slots,
        mask: int,
        dbr_type: int = AUTO,
        kind: int = Kind.UPDATE,
        label: int | None = None,
        count: int = 0,
    ) -> npt.NDArray[np.uint32]:
        """See `Shard.subscribe`."""
        with self.lock:
            self._check_open()
            ids = self.shard.subscribe(slots, mask, dbr_type, kind, label, count)
            self._pump()
            return ids

    def unsubscribe(self, ids: npt.NDArray[np.uint32]) -> None:
        """See `Shard.unsubscribe`."""
        with self.lock:
            if not self.is_closed:
                self.shard.unsubscribe(ids)
                self._pump()

    def write_one(self, slot: int, dbr_type: int, count: int, payload: bytes, register: Register | None) -> None:
        """See `Shard.write_one`; with `register` the server confirms the write."""
        with self.lock:
            self._check_open()
            id_, circuit = self.shard.write_one(slot, dbr_type, count, payload, register is not None)
            if register is not None:
                register(id_)
            self._send_on(circuit)

    def write_doubles(self, slots: Slots, values: npt.NDArray[np.float64], register: Register | None) -> None:
        """See `Shard.write_doubles`; with `register` the server confirms the writes."""
        with self.lock:
            self._check_open()
            first = self.shard.write_doubles(slots, values, register is not None)
            if register is not None:
                register(first)
            self._pump()

    def hosts(self, slots: Slots) -> list[str]:
        """``address:port`` of the server of each channel, ``""`` where it is on none, length n."""
        with self.lock:
            circuits = self.shard.circuits
            names = {index: circuit.name for index, circuit in circuits.items()}
            connected = self.shard.channels.state[slots] >= State.CONNECTED
            indices = np.where(connected, self.shard.channels.circuit[slots], NO_CIRCUIT)
            return [names.get(index, "") for index in indices.tolist()]

    def set_events(self, on: bool) -> None:
        """Flow control: have the servers hold back updates, or resume; for a program that wants the latest values only.

        While they are off, a server keeps the latest value of each subscription and tells it when they are on again;
        what was between is lost, and nobody counts it. Answers come as ever; new subscriptions have no first value.
        It holds for all circuits, also those to come. daqca itself never turns updates off: see
        docs/decisions/0008-flow-control.md.

        Raises
        ------
        EngineClosedError
            The context is closed.
        """
        with self.lock:
            self._check_open()
            self.shard.set_events(on)
            self._pump()

    def stats(self) -> dict[str, Any]:
        """Counters since the start."""
        with self.lock:
            shard, searcher = self.shard, self.shard.searcher
            states = np.bincount(shard.channels.state[: len(shard.channels.names)], minlength=5)
            return {
                "channels": len(shard.channels),
                "searching": int(states[State.SEARCHING]),
                "connected": int(states[State.CONNECTED]),
                "unresponsive": int(states[State.UNRESPONSIVE]),
                "circuits": len(shard.circuits),
                "subscriptions": len(shard.subscriptions),
                "batches": self.batches,
                "events": self.events,
                "bytes_received": shard.past_received + sum(circuit.received for circuit in shard.circuits.values()),
                "bytes_behind": sum(link.ahead.size for link in self._links.values()),
                "stray_messages": shard.past_stray + sum(circuit.stray for circuit in shard.circuits.values()),
                "protocol_errors": shard.protocol_errors,
                "searches_sent": searcher.sent,
                "searches_answered": searcher.answered,
                "malformed_datagrams": searcher.malformed,
                "duplicate_names": len(shard.duplicates),
                "repeater": self._registration.confirmed,
                "beacons": shard.beacons_heard,
                "beacon_anomalies": shard.beacon_anomalies,
            }
