"""Finding names by UDP against a network of the test's own, which answers late, loses datagrams, or is not there."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import wire
from support.clients import HOST, slots

from daqca.ca.channels import Channels, State
from daqca.ca.search import BEACON_SPREAD, FIRST_WAIT, INITIAL_WINDOW, MAX_WINDOW, MIN_WINDOW, Searcher

SERVER = (HOST, 5064)


class Network:
    """A searcher, a clock, and one server with some names.

    Parameters
    ----------
    has
        Whether the server has a name.
    delay
        Seconds that an answer takes.
    lost
        The part of the datagrams that is lost, on either way.
    room
        So many datagrams wait at the server at most; it takes one in `work` seconds.
    """

    def __init__(
        self,
        has: Callable[[str], bool] = lambda name: True,
        delay: float = 0.001,
        lost: float = 0.0,
        room: int = 1 << 30,
        work: float = 0.0,
        max_period: float = 300.0,
    ):
        self.channels = Channels()
        self.searcher = Searcher(self.channels, max_period)
        self.has, self.delay, self.lost, self.room, self.work = has, delay, lost, room, work
        self.now, self.random = 1000.0, Random(1)
        self.sent: list[tuple[float, list[wire.Message]]] = []
        self.found: Counter[int] = Counter()
        self.overrun = 0
        self._answers: list[tuple[float, int, bytes]] = []
        self._busy_until = 0.0

    def add(self, *names: str) -> np.ndarray:
        added = self.channels.add(list(names))
        self.searcher.add(added)
        return added

    def _serve(self, data: bytes) -> None:
        messages = wire.parse(data)
        self.sent.append((self.now, messages))
        if self.random.random() < self.lost:
            return
        begin = max(self._busy_until, self.now)
        if self.work and (begin - self.now) / self.work >= self.room:
            self.overrun += 1
            return
        self._busy_until = begin + self.work
        answers = [wire.search_reply(m.p2, 5064) for m in messages[1:] if self.has(m.text)]
        if answers and self.random.random() >= self.lost:
            reply = wire.replies(messages[0].p1, *answers)
            heapq.heappush(self._answers, (self._busy_until + self.delay, len(self.sent), reply))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Let time pass; returns how much did."""
        start, end = self.now, self.now + seconds
        while self.now < end and not until():
            for data, _ in self.searcher.datagrams(self.now):
                self._serve(data)
            due = self.searcher.next_time(self.now)
            assert due is None or due > self.now or self._answers, "it wants to send and does not"
            times = [end, *([due] if due is not None else []), *([self._answers[0][0]] if self._answers else [])]
            self.now = max(self.now + 1e-6, min(times))
            while self._answers and self._answers[0][0] <= self.now:
                self._take(heapq.heappop(self._answers)[2])
        return self.now - start

    def _take(self, data: bytes) -> None:
        for found in self.searcher.received([(data, SERVER)], self.now):
            assert found.address == SERVER
            new = found.slots[self.channels.state[found.slots] == State.SEARCHING]
            self.channels.state[new] = State.CREATING
            self.found.update(new.tolist())

    def lose(self, lost: np.ndarray, when: float) -> None:
        self.channels.state[lost] = State.SEARCHING
        self.searcher.add(lost, when)

    def asked(self, text: str) -> list[float]:
        """When a name was asked for."""
        return [time for time, messages in self.sent for message in messages[1:] if message.text == text]


# Datagrams


def test_twenty_thousand_names_fit_into_datagrams_and_all_are_found_once() -> None:
    network = Network()
    names = [f"SIM:device{i}:signal" for i in range(20_000)]
    network.add(*names)
    took = network.run(5.0, lambda: len(network.found) == 20_000)
    assert set(network.found.values()) == {1}
    assert took < 1.0
    datagrams = [messages for _, messages in network.sent]
    assert all(sum(16 + len(m.payload) for m in messages) <= 1024 for messages in datagrams)
    assert len(datagrams) < 20_000 / 20
    assert Counter(m.text for messages in datagrams for m in messages[1:]) == dict.fromkeys(names, 1)
    assert network.searcher.next_time(network.now + 1000) is not None
    network.run(1.0)
    assert network.searcher.idle
    assert network.searcher.next_time(network.now) is None
    assert len(network.sent) == len(datagrams)


def test_a_datagram_begins_with_its_number_and_asks_with_version_and_without_negative_reply() -> None:
    network = Network()
    network.add("A", "\u00b5B")
    ((data, asked),) = network.searcher.datagrams(network.now)
    version, first, second = wire.parse(data)
    assert version[:5] == (wire.VERSION, 1, 13, 1, 0)
    assert first[:5] == (wire.SEARCH, 5, 13, 0, 0)
    assert second[:5] == (wire.SEARCH, 5, 13, 1, 1)
    assert (first.text, second.text, asked.tolist()) == ("A", "\u00b5B", [0, 1])


def test_a_name_too_long_for_a_datagram_goes_alone() -> None:
    network = Network()
    network.add("a", "x" * 2000, "b")
    sizes = [[len(m.text) for m in messages[1:]] for messages in map(wire.parse, _sent(network))]
    assert sizes == [[1], [2000], [1]]


def _sent(network: Network) -> list[bytes]:
    return [data for data, _ in network.searcher.datagrams(network.now)]


def test_sequence_numbers_wrap_without_a_zero_and_answers_count_across_the_wrap() -> None:
    network = Network(has=lambda name: name != "missing")
    network.searcher._sequence = 0xFFFFFFFF - 3
    for i in range(8):
        network.add(f"A{i}")
        network.run(0.005)
    numbers = [messages[0].p1 for _, messages in network.sent]
    assert numbers == [0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF, 1, 2, 3, 4, 5]
    assert network.searcher.answered == 8
    assert len(network.found) == 8


def test_the_window_still_shrinks_after_the_wrap() -> None:
    network = Network(has=lambda name: False)
    network.searcher._sequence = network.searcher._shrunk_before = 0xFFFFFFFF
    network.add("missing")
    network.run(FIRST_WAIT * 1.5)
    assert network.searcher.window == INITIAL_WINDOW / 2


# The window


def test_the_window_grows_with_every_answer_and_has_an_end() -> None:
    network = Network(delay=0.002)
    network.add(*(f"a name that is long enough to make a datagram of few:{i:05}" for i in range(20_000)))
    network.run(10.0, lambda: len(network.found) == 20_000)
    per_time = Counter(time for time, _ in network.sent)
    assert network.searcher.window == MAX_WINDOW
    assert next(iter(per_time.values())) == INITIAL_WINDOW
    assert network.searcher.answered == network.searcher.sent == len(network.sent)


def test_the_window_shrinks_once_for_a_window_of_losses_and_not_below_its_least() -> None:
    network = Network(has=lambda name: False)
    network.add(*(f"missing:{i:05}" for i in range(20_000)))
    seen = []
    for _ in range(200):
        network.run(FIRST_WAIT / 2)
        seen.append(network.searcher.window)
    assert seen[0] == INITIAL_WINDOW
    assert INITIAL_WINDOW / 2 in seen
    assert INITIAL_WINDOW / 4 in seen
    assert min(seen) == MIN_WINDOW


def test_losses_of_one_window_that_are_noticed_one_by_one_shrink_it_once() -> None:
    network = Network(has=lambda name: False)
    for i in range(10):
        network.add(f"missing:{i}")
        network.run(0.002)
    network.run(FIRST_WAIT - 0.0005)
    assert len(network.sent) == 20  # all were asked for again
    assert network.searcher.window == INITIAL_WINDOW / 2


@pytest.mark.parametrize("lost", [0.02, 0.2, 0.5])
def test_lost_datagrams_are_asked_again(lost: float) -> None:
    network = Network(lost=lost, max_period=10.0)
    network.add(*(f"SIM:device{i}:signal" for i in range(5000)))
    network.run(600.0, lambda: len(network.found) == 5000)
    assert len(network.found) == 5000
    assert set(network.found.values()) == {1}


def test_a_server_is_not_overrun_for_long() -> None:
    """Its receive buffer holds 40 datagrams; what is lost beyond is little, for the window keeps to it."""
    network = Network(room=40, work=0.0005, delay=0.0001)
    network.add(*(f"a name that is long enough to make a datagram of few:{i:05}" for i in range(20_000)))
    took = network.run(60.0, lambda: len(network.found) == 20_000)
    assert len(network.found) == 20_000
    assert network.overrun < len(network.sent) / 10
    assert took < 3 * 0.0005 * len(network.sent)


def test_what_is_found_of_a_datagram_is_not_asked_again() -> None:
    network = Network(has=lambda name: not name.endswith("7"))
    network.add(*(f"SIM:{i}" for i in range(1000)))
    network.run(20.0)
    for i in range(1000):
        times = network.asked(f"SIM:{i}")
        assert len(times) > 5 if i % 10 == 7 else len(times) == 1
    # What is left of many datagrams goes into few.
    assert max(len(messages) - 1 for _, messages in network.sent[-5:]) > 30


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


# Replies


def answers(network: Network, data: bytes, sender: tuple[str, int] = SERVER) -> list[tuple[list[int], tuple[str, int]]]:
    found = network.searcher.received([(data, sender)], network.now)
    return [(part.slots.tolist(), part.address) for part in found if len(part.slots)]


def test_the_address_is_that_of_the_reply_or_of_its_sender() -> None:
    network = Network()
    network.add(*"ABCD")
    assert answers(network, wire.replies(1, wire.search_reply(0, 5064))) == [([0], (HOST, 5064))]
    assert answers(network, wire.replies(None, wire.search_reply(1, 6000, 0xC0A80102))) == [
        ([1], ("192.168.1.2", 6000))
    ]
    mixed = wire.replies(
        7, wire.search_reply(2, 5064), wire.search_reply(3, 6000, 0x01020304), wire.search_reply(0, 5064)
    )
    assert sorted(answers(network, mixed)) == [([2, 0], (HOST, 5064)), ([3], ("1.2.3.4", 6000))]


def test_replies_between_other_messages_and_in_odd_sizes() -> None:
    network = Network()
    network.add(*"ABC")
    data = b"".join(
        (
            wire.message(wire.NOT_FOUND, b"", 10, 0, 2, 2),
            wire.message(wire.SEARCH, b"", 5064, 0, 0xFFFFFFFF, 0),  # without the version
            wire.message(wire.SEARCH, bytes(24), 5064, 0, 0xFFFFFFFF, 1),
            wire.search_reply(2, 5064),
        )
    )
    assert answers(network, data) == [([0, 1, 2], SERVER)]
    assert network.searcher.malformed == 0


def test_replies_for_channels_that_do_not_exist() -> None:
    network = Network()
    assert answers(network, wire.replies(None, wire.search_reply(0, 5064))) == []
    network.add("A")
    data = wire.replies(None, *(wire.search_reply(cid, 5064) for cid in (0, 1, 70, 0xFFFFFFFF)))
    assert answers(network, data) == [([0], SERVER)]


@given(st.binary(max_size=200), st.booleans())
def test_any_datagram_is_taken_without_an_error(data: bytes, with_version: bool) -> None:
    network = Network()
    network.add("A", "B")
    data = (wire.message(wire.VERSION, b"", 1, 13, 1, 0) if with_version else b"") + data
    for found in network.searcher.received([(data, SERVER)], network.now):
        assert all(slot < 2 for slot in found.slots.tolist())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\6",
        bytes(15),
        wire.search_reply(0, 5064)[:-1],
        wire.search_reply(0, 5064)[:20],
        wire.search_reply(0, 5064) + b"half a header",
        wire.message(wire.VERSION, b"", 1, 13, 1) + b"123",
        b"\x41" * 40,
    ],
)
def test_malformed_datagrams_are_counted(data: bytes) -> None:
    network = Network()
    network.add("A")
    network.searcher.received([(data, SERVER)], network.now)
    assert network.searcher.malformed == 1
    network.searcher.received([(wire.replies(None, wire.search_reply(0, 5064)), SERVER)], network.now)
    assert network.searcher.malformed == 1


def test_a_malformed_datagram_spoils_no_other_of_the_same_server() -> None:
    network = Network()
    network.add(*"ABC")
    good, bad = wire.search_reply(0, 5064), wire.search_reply(1, 5064)[:20]
    found = network.searcher.received([(good, SERVER), (bad, SERVER), (wire.search_reply(2, 5064), SERVER)], 0.0)
    assert sorted(slot for part in found for slot in part.slots.tolist()) == [0, 2]
    assert network.searcher.malformed == 1


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
