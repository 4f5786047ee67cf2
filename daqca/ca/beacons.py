"""The beacons of CA servers: reading them, and noticing when a server is new, restarted, or within reach again.

No socket and no clock: datagrams and times are handed in. What follows from an anomaly is up to the search.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import NamedTuple

Address = tuple[str, int]

DEFAULT_SERVER_PORT = 5064
LONGEST_PERIOD = 15.0
"""Seconds between the beacons of a server that has settled, by EPICS' default."""
MAX_SERVERS = 10_000
"""Servers remembered; beyond, the one unheard for the longest time is forgotten."""

_RSRV_IS_UP = 13
_COUNTED_SINCE = 10
_HEADER = struct.Struct(">HHHHII")


class Beacon(NamedTuple):
    """One beacon: the server's TCP address, and the counter of its beacons (None from servers before 4.10)."""

    server: Address
    counter: int | None
    minor_version: int


class Anomaly(Enum):
    """Why names that wait for an answer should be searched again soon."""

    NEW = "a server that was not heard before"
    RESTARTED = "the server was restarted"
    HEALED = "the server is heard again after beacons were missed"


def parse_beacons(datagram: bytes, sender: Address, default_port: int = DEFAULT_SERVER_PORT) -> list[Beacon]:
    """The beacons in a datagram; nothing of what is not a beacon.

    Parameters
    ----------
    datagram
        As it came, from the repeater or from a server. Other messages in it are passed over, and it is
        read no further than it makes sense.
    sender
        Where it came from: the server, if the beacon does not say (repeaters write it in).
    default_port
        The TCP port of a beacon that says 0.
    """
    found = []
    at = 0
    while at + _HEADER.size <= len(datagram):
        command, size, version, port, counter, ip = _HEADER.unpack_from(datagram, at)
        at += _HEADER.size + size
        if size % 8 or at > len(datagram):
            break
        if command == _RSRV_IS_UP:
            host = ".".join(map(str, ip.to_bytes(4, "big"))) if ip else sender[0]
            found.append(Beacon((host, port or default_port), counter if version >= _COUNTED_SINCE else None, version))
    return found


class _Server:
    """What is known of one server."""

    __slots__ = ("average", "counter", "last_period", "time")

    def __init__(self, counter: int | None, time: float):
        self.counter = counter
        self.time = time
        self.average: float | None = None
        self.last_period = 0.0


class BeaconTracker:
    """Remembers the servers that are heard, and tells what breaks the pattern of their beacons.

    A server that starts sends its beacons fast, then ever slower up to one in 15 s, and counts them from 0.
    An anomaly is therefore

    - a server that was not heard before, if its counter is young or we have listened long enough to know;
    - a counter that falls back, or a period much shorter than the average: restarted;
    - a counter that leaps, or a period much longer than the average: the network healed, or the server goes on.

    Beacons that come twice, over two routes, and single lost ones are none. These are the rules and numbers of
    libca in spirit; but libca waits for the second beacon of a new server, which the counter makes unnecessary.

    Parameters
    ----------
    since
        When we began to listen, by the clock of `received`; by default at the first beacon.
    """

    SHORT = 0.8
    LONG = 3.25
    DUPLICATES = 3
    YOUNG = 8
    SETTLED = 12
    """From this counter on the periods of a server are compared; until then they double from 20 ms to 15 s."""

    def __init__(self, since: float | None = None) -> None:
        self.duplicates = 0
        """Beacons that came more than once."""
        self._since = since
        self._servers: dict[Address, _Server] = {}

    def __len__(self) -> int:
        return len(self._servers)

    def received(self, server: Address, counter: int | None, now: float) -> Anomaly | None:
        """Take note of a beacon.

        Parameters
        ----------
        server
            The server's TCP address.
        counter
            Its beacon counter, None if it has none.
        now
            Seconds on a monotonic clock.

        Returns
        -------
        What is out of the ordinary, or None.
        """
        if self._since is None:
            self._since = now
        known = self._servers.pop(server, None)
        if known is None:
            if len(self._servers) >= MAX_SERVERS:
                del self._servers[next(iter(self._servers))]
            self._servers[server] = _Server(counter, now)
            is_young = counter is not None and counter < self.YOUNG
            return Anomaly.NEW if is_young or now - self._since >= LONGEST_PERIOD else None
        # Put back at the end: the first one in the table is the one unheard for the longest time.
        self._servers[server] = known
        return self._compare(known, counter, now)

    def forget(self, server: Address) -> None:
        """The circuit to a server was lost: its next beacon counts as that of a new one."""
        self._servers.pop(server, None)

    def _compare(self, known: _Server, counter: int | None, now: float) -> Anomaly | None:
        advance = None
        if counter is not None and known.counter is not None:
            advance = (counter - known.counter) & 0xFFFFFFFF
            if advance == 0 or advance > 0xFFFFFFFF - self.DUPLICATES:
                self.duplicates += 1
                return None
        period, known.time, known.counter = now - known.time, now, counter
        if advance is not None and advance > self.DUPLICATES:
            known.average = None
            return Anomaly.RESTARTED if advance >= 0x80000000 else Anomaly.HEALED
        if counter is not None and counter < self.SETTLED:
            return None
        period /= advance or 1
        average, last_period = known.average, known.last_period
        # Compared with the last period too, for that of a server that does not count may double still.
        if average is not None and period >= self.LONG * max(average, last_period):
            known.average = None
            return Anomaly.HEALED
        known.last_period = period
        if average is not None and period <= self.SHORT * average:
            known.average = None
            return Anomaly.RESTARTED
        known.average = period if average is None else average * 0.875 + period * 0.125
        return None
