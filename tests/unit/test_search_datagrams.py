"""The datagrams of the search: what is in them, how many are under way at once, and the replies."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import wire
from support.clients import HOST, SERVER
from support.search import Network

from daqca.ca.probe import Answer, Place, _UDPSearch
from daqca.ca.search import FIRST_WAIT, INITIAL_WINDOW, MAX_WINDOW, MIN_WINDOW

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


@pytest.mark.parametrize(
    ("ip", "minor_version", "host"),
    [
        (0xC0A80102, 13, "192.168.1.2"),
        (0xC0A80102, 8, "192.168.1.2"),
        (0xC0A80102, 7, HOST),  # not an address: older servers do not tell theirs
        (0xC0A80102, 0, HOST),
        (0xFFFFFFFF, 13, HOST),
        (0, 13, HOST),
        (0, 7, HOST),
    ],
)
def test_search_and_probe_take_the_same_address(ip: int, minor_version: int, host: str) -> None:
    network = Network()
    network.add(*"AB")
    reply = wire.replies(None, wire.search_reply(0, 6000, ip, minor_version))
    assert answers(network, reply) == [([0], (host, 6000))]
    # Among others, where it goes another way.
    others = wire.search_reply(1, 5064) + wire.message(wire.NOT_FOUND, b"", 10, 0, 7, 7)
    assert ([0], (host, 6000)) in answers(network, reply + others)
    with _UDPSearch(Place(SERVER), "AB") as search:
        search._sent.append(1.0)
        search._understand(reply, HOST, 1.25)
        assert search.place.answers == [Answer("A", (host, 6000), 0.25, minor_version)]


def test_replies_that_mean_the_same_server_are_one() -> None:
    """However each says where it is."""
    network = Network()
    network.add(*"ABCD")
    same = [(0xFFFFFFFF, 13), (0, 13), (0x0A000001, 13), (0xC0A80102, 7)]
    data = wire.replies(1, *(wire.search_reply(cid, 5064, *told) for cid, told in enumerate(same)))
    assert answers(network, data) == [([0, 1, 2, 3], (HOST, 5064))]


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
