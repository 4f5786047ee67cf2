"""Search replies of a real server among spoiled ones and garbage: these are counted, those are found all the same."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import wire
from support.clients import sent
from support.replay import ADDRESS, NAMES, REPLY, SERVER, Conversation, load
from support.search import Network
from support.streams import mutation

from daqca.ca.channels import State
from daqca.events import Kind, Reason

REAL = [data for kind, data in load() if kind == REPLY]
CREATED = next(data for kind, data in load() if kind == SERVER)
"""What the server says first on the circuit: all channels are there."""
THERE = set(range(len(NAMES) - 1))
OTHER = ("127.0.0.2", 40_000)

Datagram = tuple[bytes, tuple[str, int], bool]
"""Bytes, sender, and whether they are as the server sent them."""


def spoiled(seed: int, data: bytes) -> bytes:
    """Spoiled, and perhaps once more."""
    random = Random(seed)
    for _ in range(random.choice([1, 1, 3])):
        data = mutation(random)(data) if data else data
    return data


real = st.sampled_from(REAL)
datagrams = st.lists(
    st.one_of(
        st.tuples(real, st.just(ADDRESS), st.just(True)),
        st.tuples(
            st.one_of(
                st.builds(spoiled, st.integers(0, 1 << 60), real),
                st.builds(lambda data, end: data[:end], real, st.integers(0, len(REAL[0]) - 1)),
                st.builds(lambda data, start: data[start:], real, st.integers(1, len(REAL[0]))),
                st.builds(lambda data, end, more: data[:end] + more, real, st.integers(0, 100), st.binary(max_size=60)),
                st.binary(max_size=100),
            ),
            st.sampled_from([ADDRESS, OTHER]),
            st.just(False),
        ),
    ),
    max_size=8,
)


def is_malformed(data: bytes) -> bool:
    """Whether its messages do not end where it ends."""
    at = 0
    while at + 16 <= len(data):
        at += 16 + struct.unpack_from(">H", data, at + 2)[0]
    return at != len(data) or not data


def test_the_capture_has_what_these_tests_are_about() -> None:
    assert len(REAL) == 1
    assert {message.p2 for message in wire.parse(REAL[0])[1:]} == THERE
    assert not is_malformed(REAL[0])


@settings(max_examples=300)
@given(datagrams)
def test_what_is_malformed_is_counted_and_hides_nothing(came: list[Datagram]) -> None:
    network = Network()
    network.add(*NAMES)
    searcher = network.searcher
    assert len(searcher.datagrams(network.now)) == 1
    found = searcher.received([(data, sender) for data, sender, _ in came], network.now)
    assert searcher.malformed == sum(is_malformed(data) for data, _, _ in came)
    assert all(slot < len(NAMES) for part in found for slot in part.slots.tolist())
    if any(is_real for _, _, is_real in came):
        assert {slot for part in found if part.address == ADDRESS for slot in part.slots.tolist()} >= THERE
        assert searcher.answered == 1


@settings(max_examples=150)
@given(datagrams)
def test_in_the_end_every_channel_is_connected_to_the_server(came: list[Datagram]) -> None:
    """Servers that a spoiled reply made up refuse; the channels are then searched again, and found where they are."""
    talk = Conversation()
    shard = talk.shard
    shard.add(NAMES)
    shard.datagrams(0.0)
    shard.replies([(data, sender) for data, sender, _ in came], 0.0)
    assert shard.searcher.malformed <= sum(not is_real for _, _, is_real in came)
    for circuit in list(shard.circuits.values()):
        if circuit.address != ADDRESS:
            shard.to_open.remove(circuit)
            shard.closed(circuit, Reason.CLOSED, 0.0)
    lost = {int(slot) for slot in THERE if shard.channels.state[slot] == State.SEARCHING}
    assert {message.p2 for data in shard.datagrams(100.0) for message in wire.parse(data)[1:]} >= lost
    shard.replies([(data, ADDRESS) for data in REAL], 100.0)
    assert [circuit.address for circuit in shard.circuits.values()] == [ADDRESS]
    shard.to_open.remove(talk.circuit)
    shard.opened(talk.circuit, 100.0)
    asked = {message.p1 for message in wire.parse(sent(talk.circuit)) if message.command == wire.CREATE_CHAN}
    assert asked >= THERE
    talk.feed(CREATED)
    connected = [event.slot for batch in talk.batches for event in batch if event.kind == Kind.CONNECTED]
    assert sorted(connected) == sorted(THERE)


@pytest.mark.parametrize("cut", [8, 20, 24, 28])
def test_two_halves_of_a_reply_do_not_make_one(cut: int) -> None:
    """A datagram is whole or it is not."""
    network = Network()
    network.add(*NAMES)
    data = REAL[0][16:]
    halves = [data[:cut], data[cut:]]
    network.searcher.received([(half, ADDRESS) for half in halves], network.now)
    assert network.searcher.malformed == sum(map(is_malformed, halves)) == (0 if cut == 24 else 2)
