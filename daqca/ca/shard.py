"""One CA client without its sockets: the channels, searches and circuits of a context, and what connects them.

The context above moves the bytes and knows the time; here is decided what they mean and what comes next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from daqca.ca import protocol
from daqca.ca.beacons import BeaconTracker, parse_beacons
from daqca.ca.channels import NO_CIRCUIT, Channels, Slots, State, Subscriptions, distinct
from daqca.ca.circuit import Circuit, CircuitState, greeting
from daqca.ca.replies import ECA_DISCONN, event_records
from daqca.ca.requests import RequestKind, Requests
from daqca.ca.search import Found, Searcher
from daqca.ca.settings import Settings
from daqca.events import BatchBuilder, Kind, Reason, different
from daqca.link import AUTO, CTRL

log = logging.getLogger("daqca.ca")

Address = tuple[str, int]
Register = Callable[[int], object]
"""Told the first of the request ids, before an answer to them can come."""
Flush = Callable[[], None] | None
READ_PART = 4096
"""So many reads are put on their way before the next are prepared."""
_BEACON, _CONFIRM = int(protocol.Command.RSRV_IS_UP), int(protocol.Command.REPEATER_CONFIRM)
_CONNECTED, _READ = int(State.CONNECTED), int(RequestKind.READ)
RETRY_CIRCUIT = 1.0
"""Seconds before channels of a circuit that failed are searched again; doubles while it fails."""
MAX_RETRY_CIRCUIT = 30.0
BRIEF_CIRCUIT = 10.0
"""A circuit that lasted for so many seconds counts as one that did not fail."""


class Shard:
    """The channels of one context, with all that is needed to keep them connected.

    Events are collected in `builder`; the owner takes them with ``builder.build()``.
    Nothing here is safe against threads: the owner holds its lock.

    Parameters
    ----------
    settings
        Where to search, and the time limits.
    user, host
        Told to servers, whose access rules may depend on them.
    """

    def __init__(self, settings: Settings, user: str, host: str):
        self.settings = settings
        self.channels = Channels()
        self.subscriptions = Subscriptions()
        self.requests = Requests()
        self.searcher = Searcher(self.channels, settings.max_search_period)
        self.builder = BatchBuilder()
        self.circuits: dict[int, Circuit] = {}
        self.to_open: list[Circuit] = []
        """Circuits that want a TCP connection."""
        self.beacons = BeaconTracker()
        self.duplicates: dict[int, Address] = {}
        """Channels for which a second server answered, and its address."""
        self.protocol_errors = 0
        self.beacons_heard = 0
        self.beacon_anomalies = 0
        """Beacons that told of a new, restarted or healed server."""
        self.past_received = self.past_stray = 0
        """Bytes, and messages that were nobody's, of circuits that are closed."""
        self._events_on = True
        self._greeting = greeting(user, host)
        self._by_address: dict[Address, Circuit] = {}
        self._failures: dict[Address, int] = {}
        self._opened: dict[int, float] = {}
        """By circuit: when its connection was there."""
        self._next_index = 0
        self._name_servers_due = 0.0

    # --- channels -------------------------------------------------------------------------------

    def add(self, names: Sequence[str]) -> Slots:
        """New channels, searched from now on; returns their slots, shape (n,)."""
        slots = self.channels.add(names)
        self.searcher.add(slots)
        return slots

    def remove(self, slots: Slots) -> None:
        """Clear channels, with their subscriptions and requests. Nothing is told of them any more."""
        channels = self.channels
        self.unsubscribe(self.subscriptions.by_slot.of(slots).astype(np.uint32))
        self.requests.waiting.take(slots)
        rows = np.flatnonzero(self.requests.kind)
        self.requests.release(rows[np.isin(self.requests.slot[rows], slots)])
        for circuit, part in self._by_circuit(slots):
            created = part[channels.state[part] >= State.CONNECTED]
            if circuit is not None and len(created):
                circuit.clear(created)
        for slot in slots.tolist():
            self.duplicates.pop(slot, None)
        channels.remove(slots)

    def _by_circuit(self, slots: Slots) -> list[tuple[Circuit | None, Slots]]:
        """Slots, grouped by the circuit they are on (None: on none)."""
        indices = self.channels.circuit[slots]
        if len(indices) and (indices == indices[0]).all():
            return [(self.circuits.get(int(indices[0])), slots)]
        return [(self.circuits.get(int(index)), slots[indices == index]) for index in different(indices)]

    # --- requests -------------------------------------------------------------------------------

    def read(self, slots: Slots, register: Register, dbr_type: int = AUTO, count: int = 0, flush: Flush = None) -> None:
        """Ask for values; those of channels that are not connected are asked for when they are.

        Parameters
        ----------
        register
            Called with the id of the first request; the others follow it, in the order of `slots`. The
            answers come as READ or FAILED events with these ids as tokens.
        flush
            Called now and then while there is more to ask: a server can begin to answer meanwhile.
        """
        if not len(slots):
            register(0)
            return
        ids = self.requests.add(slots, RequestKind.READ, dbr_type, count)
        register(int(ids[0]))
        connected = self.channels.state[slots] == _CONNECTED
        if not connected.all():
            self.requests.waiting.add(slots[~connected], ids[~connected])
            slots, ids = slots[connected], ids[connected]
        for start in range(0, len(slots), READ_PART):
            if start and flush is not None:
                flush()
            part, part_ids = slots[start : start + READ_PART], ids[start : start + READ_PART]
            indices = self.channels.circuit[part]
            for index in distinct(indices):
                here = indices == index
                if index in self.circuits:
                    rows = part_ids[here].astype(np.int64) & (self.requests.capacity - 1)
                    self.circuits[index].send_reads(rows)
                else:  # a flush found the circuit closed: these wait as if they had not been connected
                    self.requests.waiting.add(part[here], part_ids[here])

    def read_one(self, slot: int, data_type: int = AUTO, count: int = 0) -> tuple[int, Circuit | None]:
        """`read` of a single slot: its id, and the circuit it was sent on, if it is connected."""
        channels = self.channels
        if channels.state[slot] != _CONNECTED or data_type == CTRL:
            ids: list[int] = []
            self.read(np.array([slot], np.uint32), ids.append, data_type, count)
            return ids[0], None
        index = int(channels.circuit[slot])
        circuit = self.circuits[index]
        native, native_count = int(channels.native_type[slot]), int(channels.native_count[slot])
        asked = data_type
        if data_type == AUTO:
            data_type = 20 if native_count == 1 and native else native + 14
        if not count:
            count = 1 if native_count == 1 else (0 if circuit.minor_version >= 13 else native_count)
        id_ = self.requests.add_one(slot, _READ, index, asked, count)
        circuit.send_read(slot, id_, data_type, count)
        return id_, circuit

    def cancel(self, first: int, n: int) -> None:
        """Give up requests; answers that come later are ignored."""
        ids = np.arange(first, first + n, dtype=np.int64)
        rows = self.requests.rows(ids)
        waits = rows[self.requests.circuit[rows] == NO_CIRCUIT]
        if len(waits):
            slots, waiting = self.requests.slot[waits], self.requests.id[waits]
            for slot, id_ in zip(slots.tolist(), waiting.tolist(), strict=True):
                self.requests.waiting.discard(slot, id_)
        self.requests.release(rows)

    def subscribe(
        self,
        slots: Slots,
        mask: int,
        dbr_type: int = AUTO,
        kind: int = Kind.UPDATE,
        label: int | None = None,
        count: int = 0,
    ) -> npt.NDArray[np.uint32]:
        """Subscribe; channels that are not connected are subscribed when they are.

        Parameters
        ----------
        kind
            Of the events that updates become: UPDATE or PROPERTY.
        label
            Their token; by default the subscription's id.
        count
            How many elements to send; 0: as many as there are.

        Returns
        -------
        The ids of the subscriptions, shape (n,).
        """
        ids = self.subscriptions.add(slots, mask, dbr_type, kind, label, count)
        for circuit, part in self._by_circuit(slots):
            if circuit is not None:
                up = part[self.channels.state[part] == State.CONNECTED]
                circuit.send_subscriptions(ids[np.isin(slots, up)])
        return ids

    def unsubscribe(self, ids: npt.NDArray[np.uint32]) -> None:
        """Cancel subscriptions. No update of them is told after this."""
        if not len(ids):
            return
        indices = self.channels.circuit[self.subscriptions.slot[ids]]
        for index in distinct(indices):
            if index in self.circuits:
                self.circuits[index].cancel_subscriptions(ids[indices == index])
        self.subscriptions.remove(ids)

    def write_one(
        self, slot: int, dbr_type: int, count: int, payload: bytes, notify: bool
    ) -> tuple[int, Circuit | None]:
        """Write one value; returns the request's id (0 without `notify`) and the circuit.

        A channel that is not connected gives a FAILED event and no circuit.
        """
        circuit = None
        if self.channels.state[slot] == State.CONNECTED:
            circuit = self.circuits[int(self.channels.circuit[slot])]
        id_ = self.requests.add_one(slot, RequestKind.WRITE, circuit.index if circuit else NO_CIRCUIT) if notify else 0
        if circuit is not None:
            circuit.write(slot, id_, dbr_type, count, payload, notify)
        else:
            self._fail_writes(np.array([slot], np.uint32), np.array([id_], np.uint32))
        return id_, circuit

    def write_doubles(self, slots: Slots, values: npt.NDArray[np.float64], notify: bool) -> int:
        """Write one number to each of these channels; those that are not connected give FAILED events.

        Returns
        -------
        With `notify`, the id of the first request; the others follow it. Else 0.
        """
        ids = self.requests.add(slots, RequestKind.WRITE) if notify else np.zeros(len(slots), np.uint32)
        first = int(ids[0]) if len(ids) else 0
        connected = self.channels.state[slots] == State.CONNECTED
        if not connected.all():
            self._fail_writes(slots[~connected], ids[~connected])
            slots, ids, values = slots[connected], ids[connected], values[connected]
        indices = self.channels.circuit[slots]
        for index in distinct(indices):
            part = indices == index
            if notify:
                self.requests.circuit[ids[part].astype(np.int64) & (self.requests.capacity - 1)] = index
            self.circuits[index].write_doubles(slots[part], ids[part], values[part], notify)
        return first

    def _fail_writes(self, slots: Slots, ids: npt.NDArray[np.uint32]) -> None:
        records = event_records(slots, Kind.FAILED, ECA_DISCONN)
        records["token"] = ids
        self.requests.release(self.requests.rows(ids))
        self.builder.extend(records)

    # --- searching ------------------------------------------------------------------------------

    def replies(self, datagrams: Sequence[tuple[bytes, Address]], now: float) -> None:
        """Datagrams came: search replies, or beacons forwarded by the repeater."""
        others = []
        for data, sender in datagrams:
            command = data[1] if len(data) >= protocol.HEADER_SIZE and data[0] == 0 else -1
            if command == _BEACON:
                self._beacons(data, sender, now)
            elif command != _CONFIRM:
                others.append((data, sender))
        for found in self.searcher.received(others, now):
            self._found(found, now)

    def _beacons(self, data: bytes, sender: Address, now: float) -> None:
        beacons = parse_beacons(data, sender, self.settings.server_port)
        self.searcher.malformed += not beacons
        for beacon in beacons:
            self.beacons_heard += 1
            anomaly = self.beacons.received(beacon.server, beacon.counter, now)
            circuit = self._by_address.get(beacon.server)
            if circuit is not None and anomaly is None:
                circuit.heard_beacon(now)
            elif circuit is not None:
                circuit.ask_for_echo(now)  # the server we were connected to may be gone without a word
            if anomaly is not None:
                self.beacon_anomalies += 1
                self._failures.pop(beacon.server, None)
                self.searcher.beacon(now)

    def _found(self, found: Found, now: float) -> None:
        channels = self.channels
        state = channels.state[found.slots]
        searching = state == State.SEARCHING
        if not searching.all():
            self._warn_duplicates(found.slots[state > State.SEARCHING], found.address)
        slots = found.slots[searching]
        if not len(slots):
            return
        circuit = self.circuit_to(found.address)
        circuit.create(different(slots))

    def circuit_to(self, address: Address) -> Circuit:
        """The circuit to a server, a new one if there is none."""
        circuit = self._by_address.get(address)
        if circuit is None:
            while self._next_index in self.circuits or self._next_index == NO_CIRCUIT:
                self._next_index = (self._next_index + 1) % NO_CIRCUIT
            circuit = Circuit(
                self._next_index,
                address,
                self.channels,
                self.subscriptions,
                self.requests,
                self._greeting,
                self.settings.conn_tmo,
                self.settings.payload_limit,
            )
            circuit.set_events(self._events_on)
            self._next_index += 1
            self.circuits[circuit.index] = self._by_address[address] = circuit
            self.to_open.append(circuit)
        return circuit

    def _warn_duplicates(self, slots: Slots, address: Address) -> None:
        told: dict[str, list[str]] = {}
        for slot in slots.tolist():
            circuit = self.circuits.get(int(self.channels.circuit[slot]))
            if circuit is None or circuit.address == address or slot in self.duplicates:
                continue
            self.duplicates[slot] = address
            told.setdefault(circuit.name, []).append(self.channels.names[slot])
        for name, names in told.items():
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            log.warning("%s%s: two servers have it; using %s, ignoring %s:%d", names[0], more, name, *address)

    def set_events(self, on: bool) -> None:
        """Flow control: have all servers, also those to come, hold back and merge updates, or resume."""
        self._events_on = on
        for circuit in self.circuits.values():
            circuit.set_events(on)

    def datagrams(self, now: float) -> list[bytes]:
        """What is to be sent to every search address now; name servers are asked the same on their circuits."""
        out = self.searcher.datagrams(now)
        for circuit in self.circuits.values() if out else ():
            if circuit.is_name_server and circuit.state == CircuitState.UP:
                circuit.send_search(np.concatenate([slots for _, slots in out]))
        return [data for data, _ in out]

    def _connect_name_servers(self, now: float) -> None:
        if now < self._name_servers_due:
            return
        self._name_servers_due = now + MAX_RETRY_CIRCUIT
        for address in self.settings.name_servers:
            self.circuit_to(address).is_name_server = True

    # --- circuits -------------------------------------------------------------------------------

    def opened(self, circuit: Circuit, now: float) -> None:
        """The TCP connection of a circuit is there."""
        circuit.opened(now)
        self._opened[circuit.index] = now
        if circuit.is_name_server:
            waiting = np.flatnonzero(self.channels.state == State.SEARCHING).astype(np.uint32)
            circuit.send_search(waiting)

    def bytes_received(self, circuit: Circuit, n: int, now: float) -> None:
        """`n` bytes were put into the circuit's buffer.

        Raises
        ------
        ProtocolError
            See `Circuit.received_bytes`; the caller closes the circuit.
        """
        try:
            circuit.received_bytes(n, self.builder, now)
        finally:  # what came before an error counts
            if circuit.orphans:
                orphans, circuit.orphans = circuit.orphans, []
                self.search_again(np.concatenate(orphans), now + RETRY_CIRCUIT)
        if circuit.found:
            found, circuit.found = circuit.found, []
            self._found_by_name_server(found, now)

    def _found_by_name_server(self, found: list[tuple[int, Address, int]], now: float) -> None:
        by_address: dict[Address, list[int]] = {}
        for cid, address, _ in found:
            if cid < len(self.channels.names):
                by_address.setdefault(address, []).append(cid)
        for address, cids in by_address.items():
            self._found(Found(np.array(cids, np.uint32), address), now)

    def closed(self, circuit: Circuit, reason: Reason, now: float) -> None:
        """The TCP connection of a circuit is gone, or was never made: its channels go back to search."""
        self.past_received += circuit.received
        self.past_stray += circuit.stray
        was_up = circuit.state in (CircuitState.UP, CircuitState.UNRESPONSIVE)
        slots = circuit.close(reason, self.builder)
        self.circuits.pop(circuit.index, None)
        if self._by_address.get(circuit.address) is circuit:
            del self._by_address[circuit.address]
        self.beacons.forget(circuit.address)
        if reason == Reason.PROTOCOL_ERROR:
            self.protocol_errors += 1
        wait = 0.0
        was_brief = now - self._opened.pop(circuit.index, now) < BRIEF_CIRCUIT
        if reason == Reason.CLEARED:
            pass  # our own doing says nothing of the server
        elif was_brief or reason == Reason.PROTOCOL_ERROR:
            failures = self._failures[circuit.address] = self._failures.get(circuit.address, 0) + 1
            # A server that was up may be back soon: only if that repeats it is left alone for a while.
            failures -= was_up and reason != Reason.PROTOCOL_ERROR
            wait = min(RETRY_CIRCUIT * 2.0 ** (failures - 1), MAX_RETRY_CIRCUIT) if failures else 0.0
        else:
            self._failures.pop(circuit.address, None)
        self.search_again(slots, now + wait)
        if circuit.is_name_server:
            self._name_servers_due = min(self._name_servers_due, now + max(wait, RETRY_CIRCUIT))

    def search_again(self, slots: Slots, when: float) -> None:
        """Search channels that were lost."""
        if len(slots):
            self.searcher.add(slots, when)

    def tick(self, now: float) -> float:
        """Look at the clock; returns when to look again."""
        due = now + 60.0
        if self.settings.name_servers:
            self._connect_name_servers(now)
            due = self._name_servers_due
        for circuit in self.circuits.values():
            due = min(due, circuit.check(now, self.builder))
        search = self.searcher.next_time(now)
        return due if search is None else min(due, search)
