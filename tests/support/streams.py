"""Streams of a server's messages, made by Hypothesis for a client whose state is known."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from hypothesis import strategies as st

from daqca.events import Kind
from daqca.link import CTRL

from . import wire
from .clients import TestClient, sent, slots

NATIVES = [wire.STRING, wire.SHORT, wire.FLOAT, wire.ENUM, wire.CHAR, wire.LONG, wire.DOUBLE, wire.CHAR]
READS = 400
WRITES = 200
FIRST_READ = 1
FIRST_WRITE = FIRST_READ + READS


def ready_client() -> TestClient:
    """Eight channels with two subscriptions each (ids 0 to 15), and many reads and writes under way."""
    client = TestClient()
    numbers, circuit = client.connect(8, NATIVES)
    client.shard.subscribe(numbers, 5)
    client.shard.subscribe(numbers, 8, CTRL, Kind.PROPERTY, 77)
    first = client.read(*(i % 8 for i in range(READS)))[0]
    assert first == FIRST_READ
    values = np.zeros(WRITES)
    assert client.shard.write_doubles(slots(*(i % 8 for i in range(WRITES))), values, True) == FIRST_WRITE
    sent(circuit)
    client.batch()
    return client


@dataclass
class Ids:
    """The next ids of the requests to be answered."""

    read: int = FIRST_READ
    write: int = FIRST_WRITE


ERRORS = [wire.NORMAL] * 12 + [wire.NORDACCESS, wire.GETFAIL, 0xFFFFFFFF]
TYPES = [20] * 10 + list(range(39))
KINDS = ["update"] * 5 + ["read"] * 4 + ["write", "write", "access", "other", "error", "stray"]


def payload(random: Random) -> tuple[int, int, bytes]:
    """A value of any type: (data type, count, payload)."""
    data_type = random.choice(TYPES)
    code = wire.CODES[wire.plain(data_type)]
    count = random.choice([1] * 8 + [0, 2, 3, 17])
    data = random.randbytes(count * struct.calcsize(code))
    if wire.plain(data_type) == wire.STRING and count == 1:
        data = data[: random.choice([40, 40, 3, 12])]
    times = random.getrandbits(32), random.randrange(10**9)
    return data_type, count, wire.head(data_type, random.randrange(300), random.randrange(300), *times) + data


def values(random: Random, kind: str, n: int, ids: Ids) -> list[bytes]:
    """Updates or answers to reads of one form; ids of answers are used up, those of ``stray`` are nobody's."""
    data_type, count, data = payload(random)
    out = []
    for _ in range(n):
        if kind == "update":
            p2, command = random.randrange(16), wire.EVENT_ADD
        elif kind == "read" and ids.read < FIRST_READ + READS:
            p2, command = ids.read, wire.READ_NOTIFY
            ids.read += random.choice([0, 1, 1, 1, 1])
        else:
            # Requests that were never made, and subscriptions: none has these ids.
            p2 = (
                random.choice([0, 64_000, 0xFFFFFFFF]) if kind == "read" else random.choice([16, 63, 64, 5000, 1 << 31])
            )
            command = wire.READ_NOTIFY if kind == "read" or p2 > 5000 else wire.EVENT_ADD
        out.append(wire.message(command, data, data_type, count, random.choice(ERRORS), p2))
    ids.read += kind == "read"
    return out


def controls(random: Random, kind: str, n: int, ids: Ids) -> list[bytes]:
    """Messages without values."""
    out = []
    for _ in range(n):
        if kind == "write" and ids.write < FIRST_WRITE + WRITES:
            out.append(wire.written(ids.write, random.choice(ERRORS)))
            ids.write += random.choice([0, 1, 1, 1])
        elif kind == "access":
            out.append(wire.access(random.choice([*range(8), 99, 0xFFFFFFFF]), random.randrange(8)))
        elif kind == "error":
            request = random.choice([(wire.EVENT_ADD, 20), (wire.WRITE, 0), (wire.READ_NOTIFY, 999), (wire.ECHO, 0)])
            header = wire.message(request[0], b"", 20, 1, 100, random.randrange(request[1] + 1))
            out.append(wire.error(header, wire.PUTFAIL, random.randrange(9)))
        else:
            anything = [
                wire.message(wire.ECHO),
                wire.version(),
                wire.cancelled(random.randrange(20), 100),
                wire.cleared(90, 91),
                wire.message(wire.SERVER_DISCONN, p1=random.choice([99, 99, 99, 5])),
                wire.created(random.choice([99, 1]), 5),
                wire.message(wire.EVENT_CANCEL, b"", 20, 1, 100, 3),
                wire.tcp_search_reply(3, 5064),
            ]
            out.append(random.choice(anything))
    return out


def make_stream(random: Random, pieces: int) -> list[bytes]:
    """Messages for `ready_client`, in runs and alone."""
    ids, found = Ids(), []
    for _ in range(pieces):
        kind, n = random.choice(KINDS), random.choice([1, 1, 1, 2, 3, 4, 5, 20])
        make = values if kind in ("update", "read", "stray") else controls
        found += make(random, kind, n, ids)
    if random.random() < 0.3:
        random.shuffle(found)
    return found


@st.composite
def streams(draw: st.DrawFn, max_pieces: int = 12) -> list[bytes]:
    """Messages for `ready_client`, one after the other, sometimes mixed."""
    return make_stream(Random(draw(st.integers(0, 1 << 32))), draw(st.integers(1, max_pieces)))


def mutation(random: Random) -> Callable[[bytes], bytes]:
    """A way of spoiling bytes."""

    def flip(data: bytes) -> bytes:
        spoiled = bytearray(data)
        for _ in range(random.choice([1, 1, 3, 30])):
            spoiled[random.randrange(len(spoiled))] ^= 1 << random.randrange(8)
        return bytes(spoiled)

    def drop(data: bytes) -> bytes:
        place = random.randrange(len(data))
        return data[:place] + data[place + random.choice([1, 8, 16, 40]) :]

    def insert(data: bytes) -> bytes:
        place = random.randrange(len(data))
        return data[:place] + random.randbytes(random.choice([1, 8, 16])) + data[place:]

    def repeat(data: bytes) -> bytes:
        place = random.randrange(len(data)) // 8 * 8
        return data[:place] + data[max(0, place - random.choice([16, 40, 800])) : place] * 3 + data[place:]

    return random.choice([flip, flip, drop, insert, repeat])
