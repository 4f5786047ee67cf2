"""Finding servers by UDP, without the socket: names become datagrams, replies become servers.

A window of unanswered datagrams grows and shrinks as TCP's does; names without an answer are asked for
ever more rarely, until a beacon tells of a new server. Asking name servers over TCP is in `shard`.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from daqca.ca import protocol
from daqca.ca.channels import Channels, Slots, State
from daqca.ca.protocol import Command, server_address
from daqca.events import different

FIRST_WAIT = 0.03
"""Seconds after which a datagram without an answer is sent again; doubles with every try."""
INITIAL_WINDOW = 24
MIN_WINDOW = 4
MAX_WINDOW = 96
"""Datagrams on the way at once: more would overrun the receive buffer of a server."""
HOLD = 4
"""Times the first wait that a datagram without an answer keeps its place in the window; it may wait far longer."""
EARLY_TRIES = 2
"""Names asked for so often at most go before those that nobody seems to have."""
BEACON_SPREAD = 0.5
"""Seconds over which a beacon's searches are spread, so that a site does not storm."""
_VERSION_SIZE = protocol.HEADER_SIZE
# Plain numbers, because enum members are looked up slowly.
_SEARCHING, _VERSION, _SEARCH = int(State.SEARCHING), int(Command.VERSION), int(Command.SEARCH)
_MAX_SEQUENCE = 0xFFFF_FFFF


class Found:
    """Servers that answered: parallel columns of slots, and one address for all."""

    __slots__ = ("address", "slots")

    def __init__(self, slots: Slots, address: tuple[str, int]):
        self.slots = slots
        self.address = address


class Searcher:
    """Searches the channels that are in state SEARCHING.

    Parameters
    ----------
    channels
        The columns of the context.
    max_period
        The longest wait between two tries, seconds (``EPICS_CA_MAX_SEARCH_PERIOD``).
    """

    def __init__(self, channels: Channels, max_period: float = 300.0):
        self._channels = channels
        self._max_period = max_period
        self._early: deque[tuple[Slots, int, int, bytes]] = deque()
        """(slots, number of the search, tries, their messages) to be sent now."""
        self._late: deque[tuple[Slots, int, int, bytes]] = deque()
        """The same, of names that were asked for before; they must not delay the others."""
        self._waiting: list[tuple[float, int, int, int, Slots]] = []
        """Heap of (when due, sequence number, number of the search, tries, slots) of what was sent."""
        self._searches = 0
        self._on_the_way: dict[int, float] = {}
        """Datagrams without an answer yet: sequence number to when it was sent."""
        self._in_window: dict[int, float] = {}
        """Those of them that keep others back, oldest first."""
        self._round_trip = 0.0
        self._sequence = 0
        self.window = float(INITIAL_WINDOW)
        self._threshold = float(MAX_WINDOW)
        self._shrunk_before = 0
        self.use_window = True
        """False where there is nobody to search by UDP, and so no answer to wait for."""
        self.sent = 0
        """Datagrams sent (to each address)."""
        self.answered = 0
        """Datagrams answered."""
        self.malformed = 0
        """Datagrams received that are not Channel Access."""

    def add(self, slots: Slots, delay_until: float | None = None, tries: int = 0) -> None:
        """Search these channels, at once or from a time on. What is left of earlier searches for them ends."""
        self._searches = search = self._searches % _MAX_SEQUENCE + 1
        self._channels.search[slots] = search
        if delay_until is None:
            queue = self._early if tries <= EARLY_TRIES else self._late
            queue.extend((part, search, tries, messages) for part, messages in self._cut(slots))
            return
        for part, _ in self._cut(slots):
            heapq.heappush(self._waiting, (delay_until, self._next_sequence(), search, tries, part))

    def _next_sequence(self) -> int:
        if self._sequence == _MAX_SEQUENCE:
            self._sequence = self._shrunk_before = 0
        self._sequence += 1
        return self._sequence

    def _first_wait(self) -> float:
        return max(FIRST_WAIT, 3.0 * self._round_trip)

    def _has_room(self, now: float) -> bool:
        """Whether the window lets another datagram go."""
        if not self.use_window or len(self._in_window) < int(self.window):
            return True
        # What has no answer for long is lost, or asks for what nobody has.
        limit = now - HOLD * self._first_wait()
        for sequence in [sequence for sequence, sent in self._in_window.items() if sent <= limit]:
            del self._in_window[sequence]
        return len(self._in_window) < int(self.window)

    def _cut(self, slots: Slots) -> list[tuple[Slots, bytes]]:
        """Cut slots into parts that fit into one datagram each, with the messages of each."""
        if not len(slots):
            return []
        room = protocol.MAX_DATAGRAM - _VERSION_SIZE
        slots, block = self._channels.search_messages(slots)
        ends = np.cumsum(self._channels.size[slots], dtype=np.int64)
        parts, first, base = [], 0, 0
        while first < len(slots):
            last = max(int(ends.searchsorted(base + room, "right")), first + 1)
            end = int(ends[last - 1])
            parts.append((slots[first:last], block[base:end]))
            base, first = end, last
        return parts

    def datagrams(self, now: float) -> list[tuple[bytes, Slots]]:
        """What is to be sent now: datagrams for every search address, and the channels they ask for."""
        self._collect_due(now)
        out: list[tuple[bytes, Slots]] = []
        first_wait = self._first_wait()
        while (self._early or self._late) and self._has_room(now):
            slots, search, tries, messages = (self._early or self._late).popleft()
            sequence = self._next_sequence()
            wait = min(first_wait * 2.0 ** min(tries, 30), self._max_period)
            heapq.heappush(self._waiting, (now + wait, sequence, search, tries + 1, slots))
            if self.use_window:
                self._on_the_way[sequence] = self._in_window[sequence] = now
            # data_type 1 says that parameter 1 is a sequence number, which comes back with the replies.
            out.append((protocol.pack_header(_VERSION, 0, 1, protocol.MINOR_VERSION, sequence, 0) + messages, slots))
        self.sent += len(out)
        if self.idle:
            self._channels.forget_search_messages()
        return out

    def _still_searching(self, slots: Slots, search: int) -> Slots:
        channels = self._channels
        left: Slots = slots[(channels.state[slots] == _SEARCHING) & (channels.search[slots] == search)]
        return left

    def _collect_due(self, now: float) -> None:
        due: dict[int, list[Slots]] = {}
        silent = False
        while self._waiting and self._waiting[0][0] <= now:
            _, sequence, search, tries, slots = heapq.heappop(self._waiting)
            left = self._still_searching(slots, search)
            if self._forget(sequence) is not None:
                silent |= tries <= 2 and sequence > self._shrunk_before and len(left) > 0
            if len(left):
                due.setdefault(tries, []).append(left)
        if silent:
            # No word of any name of a datagram: perhaps it was lost. Once per window, as TCP does.
            self._threshold = self.window = max(self.window / 2, MIN_WINDOW)
            self._shrunk_before = self._sequence
        for tries, parts in due.items():
            # What is left of several datagrams goes into fewer, now that most names are found.
            self.add(np.concatenate(parts), tries=tries)

    def _forget(self, sequence: int) -> float | None:
        """A datagram is no more on the way; returns when it was sent."""
        self._in_window.pop(sequence, None)
        return self._on_the_way.pop(sequence, None)

    def received(self, replies: Sequence[tuple[bytes, tuple[str, int]]], now: float) -> list[Found]:
        """Datagrams came from servers; returns the channels they have, by server.

        A datagram that is not Channel Access is counted in `malformed` and otherwise ignored.
        """
        by_sender: dict[tuple[str, int], list[bytes]] = {}
        for data, sender in replies:
            part = self._after_version(data, now)
            if part:
                by_sender.setdefault(sender, []).append(part)
        found: list[Found] = []
        for sender, parts in by_sender.items():
            messages = _search_replies(parts)
            if messages is None:
                messages = _search_replies(list(map(self._mixed_part, parts)))
            if messages is not None and len(messages):
                found.extend(self._found(messages, sender))
        return found

    def _after_version(self, data: bytes, now: float) -> bytes:
        """What follows the VERSION that a datagram begins with; the datagram it answers is no more on the way."""
        if len(data) < protocol.HEADER_SIZE:
            self.malformed += 1
            return b""
        command, size, data_type, _, sequence, _ = protocol.unpack_header(data, 0)
        if command != _VERSION or size:
            return data
        sent = self._forget(sequence) if data_type == 1 else None
        if sent is not None:
            self.answered += 1
            self._round_trip += (now - sent - self._round_trip) / 8
            grown = self.window + (1.0 if self.window < self._threshold else 1.0 / self.window)
            self.window = min(grown, MAX_WINDOW)
        return data[protocol.HEADER_SIZE :]

    def _mixed_part(self, data: bytes) -> bytes:
        """The search replies among the messages of a datagram, 24 bytes each."""
        parts, pos = [], 0
        while len(data) - pos >= protocol.HEADER_SIZE:
            command, size, _, _, _, _ = protocol.unpack_header(data, pos)
            following = pos + protocol.HEADER_SIZE + size
            if following > len(data):
                break
            if command == _SEARCH:
                header = protocol.pack_header(_SEARCH, 8, *protocol.unpack_header(data, pos)[2:])
                parts.append(header + data[pos + 16 : min(following, pos + 24)].ljust(8, b"\0"))
            pos = following
        self.malformed += pos < len(data)
        return b"".join(parts)

    def _found(self, messages: npt.NDArray[np.void], sender: tuple[str, int]) -> list[Found]:
        slots = messages["p2"].astype(np.uint32)
        known = slots < len(self._channels.names)
        ips, ports, versions = messages["p1"], messages["data_type"], messages["minor_version"]
        if (ips == ips[0]).all() and (ports == ports[0]).all() and (versions == versions[0]).all():
            return [Found(slots[known], server_address(int(ips[0]), int(ports[0]), sender[0], int(versions[0])))]
        servers = versions.astype(np.uint64) << np.uint64(48) | ips.astype(np.uint64) << np.uint64(16) | ports
        found: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
        for server in different(servers[known]).tolist():
            address = server_address(server >> 16 & 0xFFFF_FFFF, server & 0xFFFF, sender[0], server >> 48)
            here = known & (servers == server)
            found[address] = found[address] | here if address in found else here
        return [Found(slots[here], address) for address, here in found.items()]

    @property
    def idle(self) -> bool:
        """Whether nothing is searched."""
        return not (self._early or self._late or self._waiting)

    def next_time(self, now: float) -> float | None:
        """When `datagrams` has something to send, or None if nothing is searched."""
        due = self._waiting[0][0] if self._waiting else None
        if not (self._early or self._late):
            return due
        if self._has_room(now):
            return now
        room = next(iter(self._in_window.values())) + HOLD * self._first_wait()
        return room if due is None else min(due, room)

    def beacon(self, now: float) -> None:
        """A new or restarted server: ask again for what waits, spread over a while."""
        patient = [item for item in self._waiting if item[0] > now + BEACON_SPREAD]
        if not patient:
            return
        self._waiting = [item for item in self._waiting if item[0] <= now + BEACON_SPREAD]
        heapq.heapify(self._waiting)
        for item in patient:  # else they would keep their places in the window for ever
            self._forget(item[1])
        parts = self._cut(np.concatenate([self._still_searching(item[4], item[2]) for item in patient]))
        for i, (part, _) in enumerate(parts):
            self.add(part, now + BEACON_SPREAD * i / len(parts))


def _search_replies(parts: list[bytes]) -> npt.NDArray[np.void] | None:
    """Datagrams as one run of search replies of 24 bytes; None if there is anything else in one of them."""
    if any(len(part) % protocol.SEARCH_REPLY.itemsize for part in parts):
        return None
    messages = np.frombuffer(b"".join(parts), protocol.SEARCH_REPLY)
    uniform = (messages["command"] == _SEARCH) & (messages["size"] == 8)
    return messages if uniform.all() else None
