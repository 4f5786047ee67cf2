"""Cutting bytes into messages: however they are read, one by one or in columns, the events are the same."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import wire
from support.clients import TestClient, view
from support.soak.watch import memory
from support.streams import ready_client, streams

from daqca.ca.stream import BUFFER_SIZE, LARGE, Stream
from daqca.errors import ProtocolError
from daqca.events import BatchBuilder, Kind


def decoded(reads: list[bytes]) -> tuple[list[tuple], int]:
    """What a client tells of these reads, and how many messages were for nobody."""
    client = ready_client()
    circuit = client.circuit()
    found: list[tuple] = []
    for data in reads:
        client.feed_raising(circuit, data)
        batch = client.batch()
        found += [view(event, batch) for event in batch]
    return found, circuit.stray


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(streams())
def test_runs_are_decoded_as_the_same_messages_one_by_one(messages: list[bytes]) -> None:
    assert decoded([b"".join(messages)]) == decoded(messages)


@given(streams(), st.lists(st.integers(0, 1 << 20), max_size=8))
def test_any_way_of_cutting_the_bytes_gives_the_same_events(messages: list[bytes], places: list[int]) -> None:
    data = b"".join(messages)
    assert decoded(cut(data, places)) == decoded([data])


@settings(max_examples=8)
@given(streams(6))
def test_bytes_that_come_one_by_one(messages: list[bytes]) -> None:
    data = b"".join(messages)[:600]
    assert decoded([data[i : i + 1] for i in range(len(data))]) == decoded([data])


def test_many_forms_mixed_keep_the_order_of_the_messages() -> None:
    forms = [(20, [1.0]), (14, [b"text"]), (20, [1.0, 2.0]), (34, [4.0]), (18, [7, 8, 9])]
    messages = [
        wire.value(wire.EVENT_ADD, *forms[i % 5], i % 8, seconds=i) if i % 3 else wire.update(i % 8, i, seconds=i)
        for i in range(500)
    ]
    events, stray = decoded([b"".join(messages)])
    assert (len(events), stray) == (500, 0)
    assert [event[0] for event in events] == [i % 8 for i in range(500)]
    assert decoded([b"".join(messages)]) == decoded(messages)


# Sizes


def big_update(size: int, subscription: int = 6, native: int = wire.CHAR, fill: int = 0) -> bytes:
    count = size // struct.calcsize(wire.CODES[native])
    data = wire.head(wire.TIME + native, 1, 2, 3, 4) + bytes((fill + i) % 253 for i in range(size))
    return wire.message(wire.EVENT_ADD, data, wire.TIME + native, count, 1, subscription)


@pytest.mark.parametrize("step", [None, 1 << 16, 4099])
@pytest.mark.parametrize(
    "size",
    [16_000, 16_368, 16_376, LARGE - 16, LARGE, LARGE + 8, 65_535, 65_536, BUFFER_SIZE, BUFFER_SIZE + 8, 400_000],
)
def test_payloads_of_every_size_between_small_ones(size: int, step: int | None) -> None:
    """Small header and large, in the buffer and beyond it, with counts above 65,535."""
    before = [wire.update(0, i) for i in range(7)]
    data = b"".join([*before, big_update(size), *before, big_update(size, 7, fill=9), wire.update(1, 5.0)])
    client = ready_client()
    client.feed_raising(client.circuit(), data, step)
    batch = client.batch()
    events = list(batch)
    assert [event.slot for event in events] == [0] * 7 + [6] + [0] * 7 + [7] + [1]
    for event, fill in ((events[7], 0), (events[15], 9)):
        assert (event.count, event.dbr_type, event.status, event.severity) == (size, wire.CHAR, 1, 2)
        assert event.timestamp == (wire.UNIX_1990 + 3) * 10**9 + 4
        offset, length = event.value
        assert length == size
        assert bytes(batch.data(offset, length)) == bytes((fill + i) % 253 for i in range(size))
    assert events[-1].value == 5.0
    assert client.circuit().stray == 0


def test_a_large_payload_is_not_copied_and_nobody_writes_over_it() -> None:
    client = ready_client()
    circuit = client.circuit()
    client.feed_raising(circuit, big_update(100_000, fill=1))
    first = client.batch()
    client.feed_raising(circuit, big_update(100_000, fill=2))
    second = client.batch()
    for batch, fill in ((first, 1), (second, 2)):
        (event,) = batch
        assert bytes(batch.data(*event.value)) == bytes((fill + i) % 253 for i in range(100_000))


def test_small_payloads_survive_what_is_read_after_them() -> None:
    client = ready_client()
    circuit = client.circuit()
    client.feed_raising(circuit, wire.value(wire.EVENT_ADD, wire.TIME, [b"first"], 0))
    single = client.batch()
    client.feed_raising(circuit, wire.value(wire.EVENT_ADD, wire.TIME, [b"many"], 0) * 50)
    many = client.batch()
    client.feed_raising(circuit, b"\0" * 16 * 1000)
    (event,) = single
    assert bytes(single.data(*event.value)) == b"first".ljust(40, b"\0")
    assert {bytes(many.data(*event.value)) for event in many} == {b"many".ljust(40, b"\0")}


def test_a_large_header_with_a_small_payload() -> None:
    """Base sends it where the record could hold much and holds little."""
    data = wire.payload(20, [2.5], seconds=1)
    messages = [wire.message(wire.EVENT_ADD, data, 20, 1, 1, i % 8, large=True) for i in range(40)]
    messages += [wire.update(3, 2.5)] * 5
    events, _ = decoded([b"".join(messages)])
    assert len(events) == 45
    assert {struct.unpack("<d", event[7])[0] for event in events} == {2.5}
    assert decoded(messages)[0] == events


def test_a_channel_with_more_than_65535_elements_is_created() -> None:
    client = TestClient()
    client.shard.add(["A", "B"])
    client.searches()
    circuit = client.found([0, 1])
    client.open(circuit)
    client.feed_raising(circuit, wire.created(0, 5, wire.DOUBLE, 1_000_000) + wire.created(1, 6, wire.CHAR, 65_535))
    assert [(event.slot, event.kind, event.count) for event in client.events()] == [
        (0, Kind.CONNECTED, 1_000_000),
        (1, Kind.CONNECTED, 65_535),
    ]


def test_a_whole_buffer_of_updates_is_a_run() -> None:
    """And the message that it ends in the middle of comes with the next one."""
    client = ready_client()
    circuit = client.circuit()
    before, data = circuit.received, b"".join(wire.update(i % 8, i, seconds=i) for i in range(20_000))
    client.feed_raising(circuit, data)
    batch = client.batch()
    assert len(batch) == 20_000
    assert (batch.records["value"] == np.arange(20_000)).all()
    assert (batch.records["slot"] == np.arange(20_000) % 8).all()
    assert circuit.received - before == len(data)


# Garbage


class Recorder:
    """A receiver that only counts."""

    def __init__(self) -> None:
        self.messages = 0

    def single(self, *_: object, **__: object) -> None:
        self.messages += 1

    def controls(self, messages: np.ndarray, builder: BatchBuilder, count: int | None = None) -> None:
        self.messages += len(messages)

    def values(self, parts: list, builder: BatchBuilder) -> None:
        self.messages += sum(len(messages) for _, messages, _, _ in parts)


def fill(stream: Stream, data: bytes, receiver: Recorder, builder: BatchBuilder) -> None:
    left = memoryview(data)
    while len(left):
        buffer = stream.get_buffer()
        assert len(buffer) > 0
        n = min(len(buffer), len(left))
        buffer[:n] = left[:n]
        left = left[n:]
        stream.received(n, receiver, builder)


@given(streams(), st.integers(0, 100))
def test_no_message_is_lost_or_seen_twice(messages: list[bytes], trailing: int) -> None:
    recorder = Recorder()
    fill(Stream("it"), b"".join(messages) + b"\0\1" * min(trailing, 7), recorder, BatchBuilder())
    assert recorder.messages == len([m for message in messages for m in wire.parse(message)])


@pytest.mark.parametrize("size", [(1 << 30) + 8, 0xFFFFFFFF])
def test_a_payload_that_no_record_holds_is_refused_at_once(size: int) -> None:
    header = struct.pack(">HHHHIIII", wire.EVENT_ADD, 0xFFFF, 18, 0, 1, 0, size, size - 15)
    with pytest.raises(ProtocolError, match="more than any record holds"):
        fill(Stream("it"), header, Recorder(), BatchBuilder())


@pytest.mark.parametrize("command", [wire.WRITE_NOTIFY, wire.CREATE_CHAN, wire.ERROR, wire.ECHO, 0x4142])
def test_a_large_payload_of_anything_but_a_value_is_refused(command: int) -> None:
    header = struct.pack(">HHHHIIII", command, 0xFFFF, 0, 0, 1, 0, LARGE + 8, 1)
    with pytest.raises(ProtocolError, match=f"the server it sent message {command}"):
        fill(Stream("it"), header, Recorder(), BatchBuilder())


def test_memory_grows_with_what_comes_not_with_what_is_announced() -> None:
    recorder = Recorder()
    stream = Stream("it")
    builder = BatchBuilder()
    resident = _resident()
    fill(
        stream,
        struct.pack(">HHHHIIII", wire.EVENT_ADD, 0xFFFF, 18, 0, 1, 0, 1 << 30, (1 << 30) - 15),
        recorder,
        builder,
    )
    fill(stream, bytes(1 << 20), recorder, builder)
    assert _resident() - resident < 20 << 20
    assert recorder.messages == 0


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_memory_of_a_stream_is_its_buffer() -> None:
    stream = Stream("it")
    builder = BatchBuilder()
    data = b"".join(wire.update(i % 16, i) for i in range(5000))
    fill(stream, data, Recorder(), builder)
    before = memory()
    for _ in range(5):
        fill(stream, data, Recorder(), builder)
    after = memory()
    assert after.blocks - before.blocks < 1_000
    assert after.malloced - before.malloced < 100_000
