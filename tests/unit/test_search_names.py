"""When the search asks for a name: again if nobody has it, sooner after a beacon, no more once its channel is gone."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clients import slots
from support.search import Network

from daqca.ca.channels import State
from daqca.ca.search import BEACON_SPREAD, FIRST_WAIT, INITIAL_WINDOW

# Names that nobody has


def test_back_off_doubles_up_to_its_limit() -> None:
    network = Network(has=lambda name: False, max_period=60.0)
    network.add("missing")
    network.run(400.0)
    times = network.asked("missing")
    waits = np.diff(times)
    expected = [min(FIRST_WAIT * 2**i, 60.0) for i in range(len(waits))]
    assert waits == pytest.approx(expected, rel=0.01)
    assert waits[-1] == pytest.approx(60.0)


def test_a_name_may_be_missing_for_months() -> None:
    network = Network(has=lambda name: False)
    network.searcher.add(network.channels.add(["missing"]), tries=1022)
    network.run(301.0 * 10)
    assert len(network.asked("missing")) == 11


@pytest.mark.parametrize("missing", [10, 300, 4000])
def test_missing_names_delay_no_other(missing: int) -> None:
    """However many wait for nobody, and for however long: a new name is found in the time of an answer."""
    network = Network(has=lambda name: name.startswith("there"))
    network.add(*(f"missing:{i:05}" for i in range(missing)))
    # In the first seconds nobody knows yet which of very many are there.
    for patience in (0.001, 0.1, 1.0, 10.0, 100.0, 1000.0)[3 if missing > 1000 else 0 :]:
        network.run(patience)
        before = len(network.found)
        network.add(*(f"there:{network.now}:{i}" for i in range(500)))
        took = network.run(100.0, lambda before=before: len(network.found) == before + 500)
        assert took < 0.5, f"after {patience} s"


def test_missing_names_are_all_asked_again_for_ever() -> None:
    network = Network(has=lambda name: False, max_period=60.0)
    names = [f"missing:{i:05}" for i in range(3000)]
    network.add(*names)
    network.run(300.0)
    before = len(network.sent)
    network.run(120.0)
    asked = Counter(m.text for _, messages in network.sent[before:] for m in messages[1:])
    assert set(asked) == set(names)
    assert max(asked.values()) <= 4
    assert len(network.sent) - before < 4 * (3000 / 40 + 10)


def test_retries_come_in_small_parts_too() -> None:
    """Not thousands at once, which would overrun whoever has some of them."""
    network = Network(has=lambda name: False)
    network.add(*(f"missing:{i:05}" for i in range(5000)))
    network.run(60.0)
    times = np.array([time for time, _ in network.sent])
    within = np.searchsorted(times, times + 0.01) - np.arange(len(times))
    assert within.max() <= INITIAL_WINDOW
    assert len(times) > 5 * 5000 / 45


# Beacons


def test_a_beacon_brings_waiting_names_forward_spread_over_a_while() -> None:
    network = Network(has=lambda name: False)
    names = [f"missing:{i:05}" for i in range(2000)]
    network.add(*names)
    network.run(100.0)
    network.has = lambda name: True
    beginning = network.now
    network.searcher.beacon(beginning)
    took = network.run(30.0, lambda: len(network.found) == 2000)
    assert took < BEACON_SPREAD + 0.2
    times = [time - beginning for time, _ in network.sent if time >= beginning]
    assert max(times) > BEACON_SPREAD / 2
    assert sum(time < BEACON_SPREAD / 4 for time in times) < len(times) / 2
    assert set(network.found.values()) == {1}


def test_beacons_by_the_hundred_do_not_stop_the_search() -> None:
    network = Network(has=lambda name: name == "there")
    network.add(*(f"missing:{i:05}" for i in range(300)))
    for _ in range(60):
        network.run(3.0)
        network.searcher.beacon(network.now)
    network.run(2.0)
    # Nothing is remembered of the datagrams whose names were brought forward.
    assert len(network.searcher._on_the_way) <= 2 * 300 / 40
    before = len(network.sent)
    network.add("there")
    assert network.run(10.0, lambda: bool(network.found)) < 0.1
    network.run(400.0)
    asked = Counter(m.text for _, messages in network.sent[before:] for m in messages[1:])
    assert len(asked) == 301


def test_a_beacon_when_nothing_waits_changes_nothing() -> None:
    network = Network()
    network.searcher.beacon(network.now)
    assert network.searcher.idle
    network.add("A")
    network.run(0.01)
    network.searcher.beacon(network.now)
    network.run(10.0)
    assert len(network.sent) == 1


# Channels that come and go


def test_channels_that_are_removed_before_they_were_asked_for() -> None:
    network = Network()
    added = network.add(*(f"a name that is long enough to make a datagram of few:{i:05}" for i in range(3000)))
    network.searcher.datagrams(network.now)
    gone = added[::2]
    network.channels.remove(gone)
    kept = added[1::2]
    network.run(20.0)
    assert set(network.found) == set(kept.tolist())


def test_channels_that_were_lost_are_searched_from_then_on() -> None:
    network = Network()
    added = network.add("A", "B")
    network.run(1.0)
    network.lose(added[:1], network.now + 5.0)
    network.run(4.9)
    assert len(network.asked("A")) == 1
    network.run(0.2)
    assert len(network.asked("A")) == 2
    assert network.found == {0: 2, 1: 1}


def test_a_channel_that_comes_and_goes_is_searched_once_at_a_time() -> None:
    """What is left of its earlier searches ends; else each loss would add one more."""
    network = Network(has=lambda name: network.now > 1500)
    network.add("flaps", "stays away")
    network.run(510.0)
    network.has = lambda name: name == "flaps"
    network.run(300.0)
    for _ in range(20):
        network.lose(slots(0), network.now + 1.0)
        network.run(5.0)
    network.has = lambda name: False
    network.lose(slots(0), network.now + 1.0)
    before = len(network.sent)
    network.run(600.0)
    waits = np.diff([time for time in network.asked("flaps") if time > network.sent[before][0] - 1e-6])
    assert (np.diff(waits)[: len(waits) - 3] > 0).all()
    assert len(waits) < 16


@settings(max_examples=20)
@given(st.integers(0, 1 << 30))
def test_whatever_happens_in_the_end_all_are_found(seed: int) -> None:
    random = Random(seed)
    network = Network(has=lambda name: not name.startswith("never"), lost=random.choice([0.0, 0.3]))
    network.random = random
    present: set[int] = set()
    for step in range(random.randrange(2, 15)):
        choice = random.random()
        if choice < 0.4:
            prefix = random.choice(["there", "there", "never"])
            added = network.add(*(f"{prefix}:{step}:{i}" for i in range(random.choice([1, 30, 400])))).tolist()
            present.update(added)
        elif choice < 0.6 and present:
            gone = random.sample(sorted(present), random.randrange(1, min(len(present), 100) + 1))
            network.channels.remove(slots(*gone))
            present.difference_update(gone)
        elif choice < 0.8:
            connected = [slot for slot in present if network.channels.state[slot] == State.CREATING]
            if connected:
                network.lose(slots(*connected[:50]), network.now + random.random())
        else:
            network.searcher.beacon(network.now)
        network.run(random.choice([0.0, 0.01, 0.5, 20.0]))
    network.run(700.0)
    states = {network.channels.names[slot]: network.channels.state[slot] for slot in present}
    assert all((state == State.SEARCHING) == name.startswith("never") for name, state in states.items())
    # What nobody has is asked for as rarely as may be.
    before = len(network.sent)
    network.run(600.0)
    asked = Counter(m.text for _, messages in network.sent[before:] for m in messages[1:])
    assert set(asked) == {name for name in states if name.startswith("never")}
