"""A conversation with a soft IOC: had once by ``scripts/capture.py``, and had again with its recording by the tests.

Both run `converse`, so that the client says the same each time and the recorded answers fit.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from daqca.ca.circuit import Circuit
from daqca.ca.settings import Settings
from daqca.ca.shard import Shard
from daqca.events import Batch, Kind
from daqca.link import CTRL

from . import wire

CAPTURE = Path(__file__).parent.parent / "data" / "softioc.capture.gz"
ADDRESS = ("127.0.0.1", 5064)
QUERY, REPLY, CLIENT, SERVER = b"Q", b"R", b"C", b"S"
"""Datagrams to and from the server, bytes to and from it on the circuit."""

DATABASE = """
record(ao, "CAP:ao{i}") {{ field(PINI, YES) field(VAL, {i}.5) field(EGU, "mm") field(PREC, 3) field(HOPR, 10)
    field(HIHI, 8) field(HHSV, MAJOR) field(TSE, -2) }}
record(longout, "CAP:long{i}") {{ field(PINI, YES) field(VAL, -{i}) field(EGU, "counts") }}
record(bo, "CAP:bo{i}") {{ field(PINI, YES) field(VAL, 1) field(ZNAM, "off") field(ONAM, "on") }}
record(stringout, "CAP:str{i}") {{ field(PINI, YES) field(VAL, "text {i}") }}
"""
ARRAYS = """
record(waveform, "CAP:double") { field(FTVL, DOUBLE) field(NELM, 6000) }
record(waveform, "CAP:char") { field(FTVL, UCHAR) field(NELM, 70000) }
record(waveform, "CAP:strings") { field(FTVL, STRING) field(NELM, 5) }
record(waveform, "CAP:onechar") { field(FTVL, CHAR) field(NELM, 1) }
record(waveform, "CAP:float") { field(FTVL, FLOAT) field(NELM, 1) }
record(waveform, "CAP:short") { field(FTVL, SHORT) field(NELM, 1) }
record(ao, "CAP:noread") { field(ASG, "NOREAD") }
record(ao, "CAP:nowrite") { field(ASG, "NOWRITE") field(PINI, YES) field(VAL, 3) }
"""
RULES = "ASG(DEFAULT) { RULE(1, READ) RULE(1, WRITE) }\nASG(NOWRITE) { RULE(1, READ) }\nASG(NOREAD) { RULE(0, NONE) }\n"
SCALARS = [f"CAP:{kind}{i}" for i in range(6) for kind in ("ao", "long", "bo", "str")]
SPECIALS = [f"CAP:{name}" for name in ("double", "char", "strings", "onechar", "float", "short", "noread", "nowrite")]
NAMES = [*SCALARS, *SPECIALS, "CAP:missing"]


def database() -> str:
    return "".join(DATABASE.format(i=i) for i in range(6)) + ARRAYS


class Line(Protocol):
    """The connection to the server, or the recording of it."""

    def ask(self, datagrams: list[bytes]) -> list[bytes]:
        """Send datagrams; returns those that come."""

    def exchange(self, circuit: Circuit, feed: Callable[[bytes], None], until: Callable[[], bool]) -> None:
        """Send what the circuit has to send, and feed what comes, until that is enough."""


class Conversation:
    """What was told in a conversation, step by step."""

    def __init__(self) -> None:
        self.shard = Shard(Settings(addr_list=(ADDRESS,), auto_addr_list=False), "user", "host")
        self.batches: list[Batch] = []
        self.found_by_tcp = 0
        self.writes: list[int] = []

    @property
    def circuit(self) -> Circuit:
        assert self.shard.circuits, "no server was found"
        return next(iter(self.shard.circuits.values()))

    def feed(self, data: bytes) -> None:
        left = memoryview(data)
        circuit = self.circuit
        while len(left):
            buffer = circuit.get_buffer()
            n = min(len(buffer), len(left))
            buffer[:n] = left[:n]
            left = left[n:]
            circuit.received_bytes(n, self.shard.builder, 1.0)
            self.found_by_tcp += len(circuit.found)
            circuit.found.clear()
        self.batches.append(self.shard.builder.build())

    def count(self, *kinds: Kind) -> int:
        return sum(int(np.isin(batch.records["kind"], kinds).sum()) for batch in self.batches)

    def tokens(self, kind: Kind) -> list[int]:
        return [token for b in self.batches for token in b.records["token"][b.records["kind"] == kind].tolist()]


def converse(line: Line, conversation: Conversation | None = None) -> Conversation:
    """Search, connect, subscribe, read as every type, write well and badly, search by TCP, and clear."""
    talk = conversation or Conversation()
    shard = talk.shard
    slots = shard.add(NAMES)
    shard.replies([(data, ADDRESS) for data in line.ask(shard.datagrams(0.0))], 0.0)
    circuit = talk.circuit
    shard.to_open.clear()
    shard.opened(circuit, 0.0)

    def until(enough: Callable[[], bool]) -> None:
        line.exchange(circuit, talk.feed, enough)

    there = slots[:-1]
    until(lambda: talk.count(Kind.CONNECTED) == len(there))
    ids = shard.subscribe(there, 5)
    properties = shard.subscribe(there[:8], 8, CTRL, Kind.PROPERTY)
    until(lambda: talk.count(Kind.UPDATE, Kind.REFUSED, Kind.PROPERTY) == len(there) + 8)
    answers = 0

    def answered() -> bool:
        return talk.count(Kind.READ, Kind.FAILED) >= answers

    for dbr_type in (255, CTRL):
        shard.read(slots, lambda first: None, dbr_type)
        answers += len(there)
        until(answered)
    for dbr_type in range(39):
        if dbr_type not in (35, 36):  # PUT_ACKT and PUT_ACKS are only written
            shard.read(there[[0, 1, 2, 3, 25, 26]], lambda first: None, dbr_type, 1 + dbr_type % 2)
            answers += 6
            until(answered)
    _write(talk, until, slots)
    circuit.send_search(slots)
    until(lambda: talk.found_by_tcp == len(there))
    shard.unsubscribe(ids[:10])
    shard.unsubscribe(properties)
    shard.remove(slots[:6])
    until(lambda: len(shard.channels._resting) == 0 and shard.subscriptions._resting == 0)
    return talk


def _write(talk: Conversation, until: Callable[[Callable[[], bool]], None], slots: np.ndarray) -> None:
    shard = talk.shard
    before = talk.count(Kind.UPDATE)
    n = len(SCALARS)
    numbers = [i for i in range(n) if not NAMES[i].startswith("CAP:str")]
    first = shard.write_doubles(slots[numbers], np.arange(len(numbers)) % 2 + 7.0, True)
    talk.writes = list(range(first, first + len(numbers)))
    until(lambda: set(talk.writes) <= set(talk.tokens(Kind.WRITTEN)) and talk.count(Kind.UPDATE) >= before + 12)
    place = {name: int(slot) for name, slot in zip(NAMES, slots.tolist(), strict=True)}
    failed = talk.count(Kind.FAILED)
    shard.write_one(place["CAP:nowrite"], wire.DOUBLE, 1, struct.pack(">d", 1.0), True)
    shard.write_one(place["CAP:nowrite"], wire.DOUBLE, 1, struct.pack(">d", 1.0), False)
    shard.write_one(place["CAP:bo0"], wire.STRING, 1, b"no such state", True)
    until(lambda: talk.count(Kind.FAILED) == failed + 3)
    before = talk.count(Kind.UPDATE)
    arrays = [("CAP:double", wire.DOUBLE, 6000), ("CAP:char", wire.CHAR, 70_000), ("CAP:onechar", wire.CHAR, 1)]
    for name, native, count in arrays:
        size = struct.calcsize(wire.CODES[native]) * count
        shard.write_one(place[name], native, count, b"\xc8" * size, False)
    until(lambda: talk.count(Kind.UPDATE) == before + 3)


class Recorded:
    """The recording of a conversation as a line; the client has to say what it said then.

    `change` is given each part of the server's (its kind, `REPLY` or `SERVER`, and its bytes), and returns what comes.
    """

    def __init__(self, path: Path = CAPTURE, change: Callable[[bytes, bytes], bytes] | None = None):
        self.parts = load(path)
        self._change = change or (lambda kind, data: data)
        self._at = 0

    def _next(self, kind: bytes) -> bytes | None:
        if self._at < len(self.parts) and self.parts[self._at][0] == kind:
            self._at += 1
            return self.parts[self._at - 1][1]
        return None

    def ask(self, datagrams: list[bytes]) -> list[bytes]:
        for data in datagrams:
            assert self._next(QUERY) == data
        answers = []
        while (data := self._next(REPLY)) is not None:
            answers.append(self._change(REPLY, data))
        return answers

    def exchange(self, circuit: Circuit, feed: Callable[[bytes], None], until: Callable[[], bool]) -> None:
        said = b"".join(bytes(view) for view in circuit.out)
        circuit.was_sent(len(said))
        assert self._next(CLIENT) == said
        while (data := self._next(SERVER)) is not None:
            feed(self._change(SERVER, data))
        assert until()


def save(parts: list[tuple[bytes, bytes]], path: Path = CAPTURE) -> None:
    data = b"".join(kind + struct.pack(">I", len(part)) + part for kind, part in parts)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data, 9, mtime=0))


def load(path: Path = CAPTURE) -> list[tuple[bytes, bytes]]:
    data, at, parts = gzip.decompress(path.read_bytes()), 0, []
    while at < len(data):
        kind, size = data[at : at + 1], struct.unpack_from(">I", data, at + 1)[0]
        parts.append((kind, data[at + 5 : at + 5 + size]))
        at += 5 + size
    return parts
