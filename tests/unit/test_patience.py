"""How a thread waits for an answer: awake or asleep, whichever is quicker, and what it has learnt of that."""

from __future__ import annotations

import pytest

from daqca.ca.patience import Patience

TRIAL = 128
"""So often the other way is tried."""


def answers(patience: Patience, n: int, awake: float, asleep: float, in_vain: bool = False) -> list[bool]:
    """`n` answers that take so many seconds by either way; returns for each whether it was looked for awake."""
    ways = []
    for _ in range(n):
        is_awake = patience.is_awake()
        patience.learn(awake if is_awake else asleep, in_vain and is_awake)
        ways.append(is_awake)
    return ways


def test_it_starts_asleep() -> None:
    assert Patience().is_awake() is False


def test_what_is_slow_asleep_is_tried_awake() -> None:
    patience = Patience()
    ways = answers(patience, 10, awake=30e-6, asleep=100e-6)
    assert ways[0] is False
    assert ways[-1] is True


@pytest.mark.parametrize(("awake", "asleep"), [(30e-6, 100e-6), (95e-6, 100e-6), (100e-6, 95e-6), (1e-3, 60e-6)])
def test_it_stays_with_the_quicker(awake: float, asleep: float) -> None:
    patience = Patience()
    answers(patience, 100, awake, asleep)
    ways = answers(patience, 10 * TRIAL, awake, asleep)
    assert ways.count(awake < asleep) == 10 * TRIAL - 10


def test_being_awake_in_vain_counts_double() -> None:
    quicker = {"awake": 60e-6, "asleep": 100e-6}
    for in_vain in (False, True):
        patience = Patience()
        answers(patience, 100, in_vain=in_vain, **quicker)
        assert answers(patience, 10, in_vain=in_vain, **quicker) == [not in_vain] * 10


def test_an_answer_asleep_is_never_in_vain() -> None:
    patience = Patience()
    for _ in range(100):
        assert patience.is_awake() is False
        patience.learn(15e-6, in_vain=True)
    assert patience.asleep == pytest.approx(15e-6, rel=1e-3)


@pytest.mark.parametrize("seconds", [500e-6, 20e-3])
def test_a_far_server_is_slept_for(seconds: float) -> None:
    """It takes its time whichever way, and long after nobody looks any more."""
    patience = Patience()
    answers(patience, 100, seconds, seconds, in_vain=True)
    ways = answers(patience, 10 * TRIAL, seconds, seconds, in_vain=True)
    assert ways.count(True) == 10


def test_what_is_quick_asleep_is_never_tried_awake() -> None:
    patience = Patience()
    # It would be quicker still awake, but to find that out costs the other threads their time.
    assert not any(answers(patience, 20 * TRIAL, awake=1e-6, asleep=19e-6))
    assert patience.awake == 0.0


def test_the_other_way_is_tried_now_and_then() -> None:
    for awake, asleep in ((30e-6, 100e-6), (100e-6, 50e-6)):
        patience = Patience()
        ways = answers(patience, 10 * TRIAL, awake, asleep)
        other = [number for number, way in enumerate(ways, 1) if way is not (awake < asleep)]
        assert [number for number in other if number > TRIAL / 2] == [TRIAL * i for i in range(1, 11)]


@pytest.mark.parametrize("becomes_awake", [False, True])
def test_when_the_world_changes_it_follows(becomes_awake: bool) -> None:
    """What is quicker is learnt from the trials, or from what it does."""
    patience = Patience()
    before, after = {"awake": 100e-6, "asleep": 60e-6}, {"awake": 30e-6, "asleep": 60e-6}
    if not becomes_awake:
        before, after = after, before
    assert answers(patience, 1000, **before)[-10:] == [not becomes_awake] * 10
    assert answers(patience, 20 * TRIAL, **after)[-10:] == [becomes_awake] * 10


def test_averages_are_smoothed_and_apart() -> None:
    patience = Patience()
    patience.is_awake()
    patience.learn(80e-6)
    assert (patience.asleep, patience.awake) == (pytest.approx(10e-6), 0.0)
    patience.is_awake()
    patience.learn(90e-6)
    assert (patience.asleep, patience.awake) == (pytest.approx(20e-6), 0.0)
    patience.is_awake()
    patience.learn(100e-6)
    assert patience.is_awake()
    patience.learn(80e-6)
    assert (patience.asleep, patience.awake) == (pytest.approx(30e-6), pytest.approx(10e-6))
