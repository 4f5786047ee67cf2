"""The tables of a client: channels, subscriptions and requests against simple models of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from support import wire
from support.clients import slots

from daqca.ca.channels import (
    NO_CIRCUIT,
    UNKNOWN_TYPE,
    Channels,
    SlotIndex,
    State,
    Subscriptions,
    Table,
    distinct,
)
from daqca.ca.requests import RequestKind, Requests
from daqca.errors import ConfigurationError
from daqca.link import AUTO

SLOTS = st.integers(0, 200)


class Numbers(Table):
    COLUMNS = {"number": (np.int64, -1), "flag": (np.bool_, True)}  # noqa: RUF012


def test_a_table_grows_by_doubling_and_keeps_its_rows() -> None:
    table = Numbers(4)
    table.number[:] = range(4)
    table.grow(5)
    assert table.capacity == 8
    assert table.number.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert table.flag.all()
    table.grow(100)
    assert len(table.number) == len(table.flag) == table.capacity == 100


@given(st.lists(st.integers(0, 5)))
def test_distinct_values(numbers: list[int]) -> None:
    assert distinct(np.array(numbers, np.int64)) == sorted(set(numbers)) or len(set(numbers)) == 1
    assert set(distinct(np.array(numbers, np.int64))) == set(numbers)


class SlotIndexModel(RuleBasedStateMachine):
    """`SlotIndex` against a dictionary of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.index = SlotIndex(2)
        self.model: dict[int, list[int]] = {}
        self.next_id = 0

    @rule(numbers=st.lists(SLOTS, max_size=12))
    def add(self, numbers: list[int]) -> None:
        ids = np.arange(self.next_id, self.next_id + len(numbers))
        self.next_id += len(numbers)
        self.index.add(slots(*numbers), ids)
        for slot, id_ in zip(numbers, ids.tolist(), strict=True):
            self.model.setdefault(slot, []).append(id_)

    @rule(numbers=st.sets(SLOTS, max_size=12))
    def of(self, numbers: set[int]) -> None:
        expected = Counter(id_ for slot in numbers for id_ in self.model.get(slot, ()))
        assert Counter(self.index.of(slots(*numbers)).tolist()) == expected

    @rule(numbers=st.sets(SLOTS, max_size=12))
    def take(self, numbers: set[int]) -> None:
        expected = Counter(id_ for slot in numbers for id_ in self.model.pop(slot, ()))
        assert Counter(self.index.take(slots(*numbers)).tolist()) == expected

    @rule(slot=SLOTS, data=st.data())
    def discard(self, slot: int, data: st.DataObject) -> None:
        known = self.model.get(slot, [])
        id_ = data.draw(st.sampled_from([*known, self.next_id + 5]))
        self.index.discard(slot, id_)
        if id_ in known:
            known.remove(id_)

    @invariant()
    def all_are_there(self) -> None:
        expected = Counter(id_ for ids in self.model.values() for id_ in ids)
        assert Counter(self.index.of(np.arange(201, dtype=np.uint32)).tolist()) == expected


TestSlotIndex = SlotIndexModel.TestCase
TestSlotIndex.settings = settings(max_examples=40, stateful_step_count=30)


# Channels


class ChannelsModel(RuleBasedStateMachine):
    """`Channels` against a dictionary; slots are reused only after many others."""

    channels_added = Bundle("channels")

    def __init__(self) -> None:
        super().__init__()
        self.channels = Channels()
        self.model: dict[int, str] = {}
        self.counter = 0

    @rule(target=channels_added, n=st.sampled_from([1, 2, 7, 700]))
    def add(self, n: int) -> object:
        names = [f"PV:{self.counter + i}" for i in range(n)]
        self.counter += n
        numbers = self.channels.add(names).tolist()
        assert len(set(numbers)) == n
        assert not set(numbers) & set(self.model)
        self.model.update(zip(numbers, names, strict=True))
        return multiple(numbers)

    @rule(group=consumes(channels_added))
    def remove(self, group: list[int]) -> None:
        self.channels.state[group] = State.CONNECTED
        self.channels.remove(slots(*group))
        for slot in group:
            del self.model[slot]
            assert self.channels.state[slot] == State.FREE
            assert self.channels.names[slot] == ""

    @invariant()
    def names_and_messages_are_theirs(self) -> None:
        assert len(self.channels) == len(self.model)
        if not self.model:
            return
        numbers = sorted(self.model)[:: max(1, len(self.model) // 20)]
        assert [self.channels.names[slot] for slot in numbers] == [self.model[slot] for slot in numbers]
        assert (self.channels.state[numbers] == State.SEARCHING).all()
        for data, command in (
            (self.channels.create_messages(slots(*numbers)), wire.CREATE_CHAN),
            (self.channels.search_messages(slots(*numbers))[1], wire.SEARCH),
        ):
            messages = wire.parse(data)
            assert {message.command for message in messages} == {command}
            assert {message.p1: message.text for message in messages} == {slot: self.model[slot] for slot in numbers}
            assert self.channels.size[numbers].sum() == len(data)


TestChannels = ChannelsModel.TestCase
TestChannels.settings = settings(max_examples=15, stateful_step_count=25)


def test_a_slot_rests_behind_a_thousand_others() -> None:
    channels = Channels()
    first = channels.add([f"A{i}" for i in range(1500)])
    channels.remove(first)
    again = channels.add([f"B{i}" for i in range(100)])
    assert again.tolist() == first[:100].tolist()
    assert channels.add([f"C{i}" for i in range(400)])[0] == 1500
    assert channels.add(["D"])[0] == 100
    assert len(channels) == 501


def test_a_slot_that_is_used_again_knows_nothing_of_its_old_owner() -> None:
    channels = Channels()
    numbers = channels.add([f"A{i}" for i in range(1200)])
    channels.sid[numbers], channels.native_type[numbers], channels.access[numbers] = 9, 3, 3
    channels.seen[numbers], channels.state[numbers] = True, State.CONNECTED
    channels.remove(numbers)
    (slot,) = channels.add(["new"])
    assert slot == 0
    row = [getattr(channels, column)[slot] for column in ("state", "circuit", "sid", "native_type", "access", "seen")]
    assert row == [State.SEARCHING, NO_CIRCUIT, 0, UNKNOWN_TYPE, 0, False]


def test_a_name_that_is_refused_leaves_no_trace() -> None:
    channels = Channels()
    channels.add(["good"])
    with pytest.raises(ConfigurationError):
        channels.add(["also good", ""])
    assert channels.names == ["good"]
    assert channels.add(["next"]).tolist() == [1]
    assert channels.add([]).tolist() == []


@given(st.lists(st.integers(0, 59), min_size=1, max_size=30, unique=True))
def test_messages_of_any_channels_from_several_chunks(numbers: list[int]) -> None:
    channels = Channels()
    for chunk in range(3):
        channels.add([f"chunk {chunk} name {i}" for i in range(20)])
    order, searches = channels.search_messages(slots(*numbers))
    assert [message.p1 for message in wire.parse(searches)] == order.tolist()
    messages = wire.parse(channels.create_messages(slots(*numbers)))
    assert sorted((message.p1, message.text) for message in messages) == [
        (slot, channels.names[slot]) for slot in sorted(numbers)
    ]


def test_how_channels_are_asked_for() -> None:
    channels = Channels()
    numbers = channels.add([f"A{i}" for i in range(14)])
    channels.native_type[numbers] = [*range(7), *range(7)]
    channels.native_count[numbers] = [1] * 7 + [100] * 7
    types, counts = channels.time_types(numbers)
    assert types.tolist() == [14, 20, 20, 20, 20, 20, 20, 14, 15, 16, 17, 18, 19, 20]
    assert counts.tolist() == [1] * 7 + [0] * 7
    types, counts = channels.ctrl_types(numbers)
    assert types.tolist() == [*range(28, 35)] * 2
    assert counts.tolist() == [1] * 14


# Subscriptions


def test_subscriptions_of_a_slot_are_found_until_they_are_removed() -> None:
    table = Subscriptions()
    ids = table.add(slots(4, 5, 4), 5, AUTO, 1)
    more = table.add(slots(4), 8, 34, 8, label=77)
    assert (ids.tolist(), more.tolist(), len(table)) == ([0, 1, 2], [3], 4)
    assert table.label[:4].tolist() == [0, 1, 2, 77]
    assert sorted(table.by_slot.of(slots(4)).tolist()) == [0, 2, 3]
    table.remove(ids[:1])
    assert sorted(table.by_slot.of(slots(4, 5)).tolist()) == [1, 2, 3]
    assert table.slot[0] == Subscriptions.FREE
    assert len(table) == 3


# Requests


def test_requests_have_consecutive_ids_and_are_found_by_them() -> None:
    requests = Requests()
    first = requests.add_one(5, RequestKind.READ, 2, 20, 1)
    ids = requests.add(slots(7, 8, 9), RequestKind.WRITE)
    assert (first, ids.tolist()) == (1, [2, 3, 4])
    assert [requests.slot[requests.row(id_)] for id_ in (1, 2, 3, 4)] == [5, 7, 8, 9]
    assert requests.circuit[requests.row(1)] == 2
    assert requests.circuit[requests.row(3)] == NO_CIRCUIT
    assert requests.on_circuit(2).tolist() == [requests.row(1)]
    requests.release(requests.rows(ids[:2]))
    assert [requests.row(id_) for id_ in (1, 2, 3, 4, 5)] == [1, -1, -1, 4, -1]
    assert requests.rows(np.arange(10)).tolist() == [1, 4]


@pytest.mark.parametrize("bulk", [True, False])
def test_ids_wrap_at_the_end_of_32_bits(bulk: bool) -> None:
    requests = Requests()
    requests._next = 0xFFFFFFFF - 5
    found: list[int] = []
    for _ in range(4):
        if bulk:
            ids = requests.add(slots(1, 2, 3), RequestKind.READ).tolist()
            assert ids == [ids[0], ids[0] + 1, ids[0] + 2]
        else:
            ids = [requests.add_one(slot, RequestKind.READ, 0) for slot in (1, 2, 3)]
        found += ids
    assert 0 not in found
    assert len(set(found)) == 12
    assert max(found) <= 0xFFFFFFFF
    assert min(found) < 10 < max(found)
    assert [requests.slot[requests.row(id_)] for id_ in found] == [1, 2, 3] * 4


def test_the_ring_grows_while_requests_are_outstanding() -> None:
    requests = Requests()
    asked: dict[int, int] = {}
    for slot in range(1500):
        asked[requests.add_one(slot, RequestKind.READ, 1)] = slot
    ids = requests.add(np.arange(5000, 15_000, dtype=np.uint32), RequestKind.WRITE)
    asked.update(zip(ids.tolist(), range(5000, 15_000), strict=True))
    assert requests.capacity >= 11_500
    rows = requests.rows(np.array(list(asked)))
    assert len(rows) == len(asked)
    assert requests.slot[rows].tolist() == list(asked.values())
    assert len(requests.on_circuit(1)) == 1500


def test_an_old_request_does_not_make_the_ring_grow_for_ever() -> None:
    """One waits for a PV that is never found, while others come and go by the million."""
    requests = Requests()
    old = requests.add_one(1, RequestKind.READ, NO_CIRCUIT)
    for _ in range(300):
        ids = requests.add(np.zeros(10_000, np.uint32), RequestKind.READ)
        requests.release(requests.rows(ids))
        one = requests.add_one(2, RequestKind.READ, 0)
        assert requests.row(old) >= 0
        requests.release(requests.row(one))
    assert requests.capacity <= 1 << 15


def test_an_old_request_survives_the_wrap() -> None:
    requests = Requests()
    old = requests.add_one(7, RequestKind.READ, NO_CIRCUIT)
    requests._next = 0xFFFFFFFE
    found = [requests.add_one(8, RequestKind.READ, 0) for _ in range(5)]
    requests._next = 0xFFFFFFFE
    found += requests.add(slots(9, 9, 9), RequestKind.READ).tolist()
    assert old not in found
    assert len(set(found)) == 8
    assert requests.slot[requests.row(old)] == 7
    assert requests.capacity <= 4096


class RequestsModel(RuleBasedStateMachine):
    """`Requests` against a dictionary, near the wrap and with a small ring."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = Requests()
        self.requests._next = 0xFFFFFFFF - 3000
        self.model: dict[int, int] = {}
        self.slot = 0

    @rule(n=st.sampled_from([1, 3, 200, 600, 1100]))
    def add(self, n: int) -> None:
        ids = self.requests.add(np.arange(self.slot, self.slot + n, dtype=np.uint32), RequestKind.READ)
        assert (np.diff(ids.astype(np.int64)) == 1).all()
        assert not set(ids.tolist()) & set(self.model)
        self.model.update(zip(ids.tolist(), range(self.slot, self.slot + n), strict=True))
        self.slot += n

    @rule()
    def add_one(self) -> None:
        id_ = self.requests.add_one(self.slot, RequestKind.WRITE, 3)
        assert id_ not in self.model
        self.model[id_] = self.slot
        self.slot += 1

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if self.model:
            n = data.draw(st.integers(1, len(self.model)))
            ids = list(self.model)[:n]
            self.requests.release(self.requests.rows(np.array(ids)))
            for id_ in ids:
                del self.model[id_]

    @invariant()
    def all_are_there(self) -> None:
        ids = np.array(list(self.model), np.int64)
        rows = self.requests.rows(ids)
        assert self.requests.slot[rows].tolist() == list(self.model.values())
        assert int((self.requests.kind != 0).sum()) == len(self.model)


TestRequests = RequestsModel.TestCase
TestRequests.settings = settings(max_examples=25, stateful_step_count=30)
