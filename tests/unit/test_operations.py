"""Requests that wait for answers: single and bulk ones, answered in any order and mixture, by rows and by records."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqca.events import Batch, Kind, Records, records_from_rows
from daqca.operations import Operation, Operations, Waiter


class Collected(Operation):
    """Keeps what it is given."""

    __slots__ = ("got",)

    def __init__(self, n: int = 1):
        super().__init__(n)
        self.got: list[tuple[int, float]] = []

    def accept(self, places: np.ndarray, records: Records, batch: Batch) -> None:
        self.got += zip(places.tolist(), records["value"].tolist(), strict=True)

    def accept_row(self, place: int, row: tuple, batch: Batch) -> None:
        self.got.append((place, row[6]))


def row(token: int, value: float | None = None) -> tuple:
    return (0, int(Kind.READ), 6, 0, 0, 0, float(token if value is None else value), 1, token)


def answer(operations: Operations, tokens: list[int], by_rows: bool = False) -> None:
    rows = [row(token) for token in tokens]
    batch = Batch(rows=rows)
    if by_rows:
        for one in rows:
            operations.answer_row(one, batch)
    else:
        operations.answer(records_from_rows(rows), batch)


def test_a_single_operation_gets_its_answer_and_is_forgotten() -> None:
    for by_rows in (True, False):
        operations, one, other = Operations(), Collected(), Collected()
        operations.add(7, one)
        operations.add(8, other)
        answer(operations, [7], by_rows)
        assert (one.done, one.got, other.done, other.got) == (True, [(0, 7.0)], False, [])
        assert list(operations) == [other]
        answer(operations, [7], by_rows)
        assert (one.got, len(operations)) == ([(0, 7.0)], 1)


def test_an_operation_of_nothing_is_complete_at_once() -> None:
    operations, none = Operations(), Collected(0)
    operations.add(5, none)
    assert none.done
    assert len(operations) == 0


def test_an_operation_that_was_given_up_gets_nothing() -> None:
    operations, one, many = Operations(), Collected(), Collected(3)
    operations.add(1, one)
    operations.add(10, many)
    operations.discard(one)
    operations.discard(many)
    operations.discard(many)
    answer(operations, [1, 10, 11, 12])
    assert (one.got, many.got, one.done, many.done, len(operations)) == ([], [], False, False, 0)


def test_an_operation_is_done_with_its_last_answer_not_before() -> None:
    operations, many = Operations(), Collected(3)
    operations.add(0xFFFFFFF0, many)
    answer(operations, [0xFFFFFFF2, 0xFFFFFFF0])
    assert (many.done, many.left) == (False, 1)
    answer(operations, [0xFFFFFFF1], by_rows=True)
    assert many.done
    assert many.got == [(2, 4294967282.0), (0, 4294967280.0), (1, 4294967281.0)]


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[int], list[tuple[list[int], bool]]]:
    """Sizes of operations, and their tokens (with strange ones between) shuffled and cut into batches."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=8))
    tokens = draw(st.permutations(range(10, 10 + sum(sizes) + 5)))
    batches, rest = [], list(tokens)
    while rest:
        n = draw(st.integers(1, len(rest)))
        batches.append((rest[:n], draw(st.booleans())))
        rest = rest[n:]
    return sizes, batches


@given(traffic(), st.data())
def test_answers_in_any_order_and_mixture_reach_whom_they_are_for(
    traffic: tuple[list[int], list[tuple[list[int], bool]]], data: st.DataObject
) -> None:
    sizes, batches = traffic
    operations, made, first = Operations(), [], 10
    for n in sizes:
        made.append((first, Collected(n)))
        first += n
    for first, operation in data.draw(st.permutations(made)):
        operations.add(first, operation)
    seen: set[int] = set()
    for tokens, by_rows in batches:
        answer(operations, tokens, by_rows)
        seen.update(tokens)
        for first, operation in made:
            mine = set(range(first, first + operation.n))
            assert sorted(operation.got) == [(token - first, float(token)) for token in sorted(mine & seen)]
            assert operation.done == (mine <= seen)
            assert (operation in list(operations)) != operation.done
    assert len(operations) == 0


def test_a_waiter_wakes_all_who_wait_and_keeps_its_time() -> None:
    waiter, woken = Waiter(), []
    assert waiter.wait(0.0) is False
    assert waiter.wait(0.01) is False
    threads = [threading.Thread(target=lambda: woken.append(waiter.wait(30.0))) for _ in range(3)]
    for thread in threads:
        thread.start()
    waiter.complete()
    waiter.complete()
    for thread in threads:
        thread.join(30.0)
    assert woken == [True, True, True]
    assert waiter.wait(0.0) is True


def test_a_wait_may_be_longer_than_a_lock_can() -> None:
    waiter = Waiter()
    timer = threading.Timer(0.02, waiter.complete)
    timer.start()
    assert waiter.wait(1e300) is True
    timer.join()


@pytest.mark.parametrize("by_rows", [True, False])
def test_answers_nobody_waits_for_are_dropped(by_rows: bool) -> None:
    operations, many = Operations(), Collected(2)
    operations.add(100, many)
    answer(operations, [0, 99, 102, 0, 101, 4_000_000_000], by_rows)
    assert many.got == [(1, 101.0)]
    assert not many.done
