"""Ids of requests that are in no row, and those of them that are outstanding after all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.clients import slots

from daqca.ca.requests import RequestKind, Requests


def taken(requests: Requests) -> list[int]:
    """The rows in use."""
    rows: list[int] = np.flatnonzero(requests.kind).tolist()
    return rows


def test_an_id_that_is_taken_is_in_no_row_until_it_is_adopted() -> None:
    requests = Requests()
    id_ = requests.take_id()
    assert taken(requests) == []
    assert requests.row(id_) == -1
    requests.adopt(id_, 7, RequestKind.READ, 3, 20, 1)
    row = requests.row(id_)
    assert taken(requests) == [row]
    assert requests.on_circuit(3).tolist() == [row]
    columns = ("id", "slot", "circuit", "kind", "dbr_type", "count")
    assert [getattr(requests, name)[row] for name in columns] == [id_, 7, 3, RequestKind.READ, 20, 1]
    requests.release(row)
    assert requests.row(id_) == -1


def test_ids_are_given_once_whoever_asks() -> None:
    requests = Requests()
    found = []
    for _ in range(5):
        found += [requests.take_id(), requests.add_one(1, RequestKind.READ, 0)]
        found += requests.add(slots(1, 2, 3), RequestKind.WRITE).tolist()
    assert found == list(range(1, 26))


def test_a_row_that_another_id_has_makes_the_ring_grow_and_both_are_found() -> None:
    requests = Requests()
    capacity = requests.capacity
    id_ = requests.take_id()
    others = requests.add(np.arange(100, 100 + capacity, dtype=np.uint32), RequestKind.READ)
    assert requests.capacity == capacity
    assert requests.kind.all()
    requests.adopt(id_, 7, RequestKind.WRITE, 3, 6, 2)
    assert requests.capacity == 2 * capacity
    assert requests.slot[requests.row(id_)] == 7
    rows = requests.rows(others)
    assert requests.slot[rows].tolist() == list(range(100, 100 + capacity))
    assert requests.id[rows].tolist() == others.tolist()
    assert requests.on_circuit(3).tolist() == [requests.row(id_)]


def test_the_ring_grows_until_the_two_are_apart() -> None:
    """Their ids differ by a multiple of the capacity, and of its double."""
    requests = Requests()
    id_ = requests.take_id()
    distance = 4 * requests.capacity
    requests._next = id_ + distance
    other = requests.add_one(1, RequestKind.READ, 0)
    requests.adopt(id_, 2, RequestKind.READ, 0, 20, 1)
    assert other == id_ + distance
    assert requests.capacity == 2 * distance
    assert [requests.slot[requests.row(each)] for each in (other, id_)] == [1, 2]


def test_a_row_of_its_own_leaves_the_ring_as_it_is() -> None:
    requests = Requests()
    for _ in range(3 * requests.capacity):
        id_ = requests.take_id()
        requests.adopt(id_, 1, RequestKind.READ, 0, 20, 1)
        requests.release(requests.row(id_))
    assert requests.capacity == Requests().capacity


def test_ids_wrap_at_the_end_of_32_bits() -> None:
    requests = Requests()
    requests._next = 0xFFFFFFFE
    found = [requests.take_id() for _ in range(4)]
    assert found == [0xFFFFFFFE, 0xFFFFFFFF, 1, 2]
    for slot, id_ in enumerate(found):
        requests.adopt(id_, slot, RequestKind.READ, 0, 20, 1)
    assert [requests.slot[requests.row(id_)] for id_ in found] == [0, 1, 2, 3]
    assert requests.rows(np.array(found)).tolist() == [requests.row(id_) for id_ in found]


def test_an_old_request_keeps_its_id_after_the_wrap() -> None:
    requests = Requests()
    old = requests.add_one(7, RequestKind.READ, 0)
    requests._next = 0xFFFFFFFF
    found = [requests.take_id() for _ in range(3)]
    assert old not in found
    for id_ in found:
        requests.adopt(id_, 8, RequestKind.READ, 0, 20, 1)
    assert requests.slot[requests.row(old)] == 7
    assert requests.capacity <= 4096


@pytest.mark.parametrize("last", [0xFFFFFFFE, 0xFFFFFFFF])
def test_all_that_give_ids_go_on_after_the_last(last: int) -> None:
    for ask in (
        lambda requests: [requests.take_id()],
        lambda requests: [requests.add_one(1, RequestKind.READ, 0)],
        lambda requests: requests.add(slots(1, 2), RequestKind.READ).tolist(),
    ):
        requests = Requests()
        requests._next = last
        found = [requests.take_id(), *ask(requests), requests.take_id()]
        assert len(set(found)) == len(found)
        assert all(0 < id_ <= 0xFFFFFFFF for id_ in found)


class TakenModel(RuleBasedStateMachine):
    """`Requests` against a dictionary, with ids that are taken now and adopted much later, near the wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = Requests()
        self.requests._next = 0xFFFFFFFF - 3000
        self.taken: list[int] = []
        self.model: dict[int, int] = {}
        self.slot = 0

    @rule(n=st.integers(1, 20))
    def take(self, n: int) -> None:
        ids = [self.requests.take_id() for _ in range(n)]
        assert len({*ids, *self.taken, *self.model}) == n + len(self.taken) + len(self.model)
        self.taken += ids

    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        if self.taken:
            id_ = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
            self.requests.adopt(id_, self.slot, RequestKind.READ, 1, 20, 1)
            self.model[id_] = self.slot
            self.slot += 1

    @rule(n=st.sampled_from([1, 3, 200, 600, 1100]))
    def add(self, n: int) -> None:
        ids = self.requests.add(np.arange(self.slot, self.slot + n, dtype=np.uint32), RequestKind.READ)
        assert not {*self.taken, *self.model} & set(ids.tolist())
        self.model.update(zip(ids.tolist(), range(self.slot, self.slot + n), strict=True))
        self.slot += n

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if self.model:
            ids = list(self.model)[: data.draw(st.integers(1, len(self.model)))]
            self.requests.release(self.requests.rows(np.array(ids)))
            for id_ in ids:
                del self.model[id_]

    @invariant()
    def all_are_there(self) -> None:
        rows = self.requests.rows(np.array(list(self.model), np.int64))
        assert self.requests.slot[rows].tolist() == list(self.model.values())
        assert len(taken(self.requests)) == len(self.model)


TestTaken = TakenModel.TestCase
TestTaken.settings = settings(max_examples=25, stateful_step_count=30)
