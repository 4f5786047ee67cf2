from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqca.ca import beacons as beacons_module
from daqca.ca.beacons import Anomaly, Beacon, BeaconTracker, parse_beacons

SERVER = ("10.0.0.1", 5064)
SENDER = ("10.0.0.9", 5065)
WRAP = 2**32


def beacon(counter: int = 0, port: int = 5064, ip: int = 0x0A000001, version: int = 13, command: int = 13) -> bytes:
    return struct.pack(">HHHHII", command, 0, version, port, counter, ip)


def start_up(count: int, longest: float = 15.0) -> list[float]:
    """Times of the beacons of a server that starts at 0: 20 ms apart, then twice that, up to the longest period."""
    times, period = [0.0], 0.02
    while len(times) < count:
        times.append(times[-1] + period)
        period = min(2 * period, longest)
    return times


def settled(tracker: BeaconTracker, counter: int = 1000, count: int = 10) -> float:
    """A server that the tracker knows well; the time of its last beacon."""
    for i in range(count):
        tracker.received(SERVER, counter - count + 1 + i, 15.0 * i)
    return 15.0 * (count - 1)


def test_a_beacon_says_server_counter_and_version():
    assert parse_beacons(beacon(7, 5099), SENDER) == [Beacon(("10.0.0.1", 5099), 7, 13)]


def test_what_a_beacon_leaves_out():
    assert parse_beacons(beacon(7, 5099, ip=0), SENDER) == [Beacon(("10.0.0.9", 5099), 7, 13)]
    assert parse_beacons(beacon(7, port=0), SENDER) == [Beacon(("10.0.0.1", 5064), 7, 13)]
    assert parse_beacons(beacon(7, port=0), SENDER, 6064) == [Beacon(("10.0.0.1", 6064), 7, 13)]
    assert parse_beacons(beacon(0, version=9), SENDER) == [Beacon(SERVER, None, 9)]


def test_other_messages_are_passed_over():
    version = struct.pack(">HHHHII", 0, 0, 0, 13, 0, 0)
    search = struct.pack(">HHHHII8s", 6, 8, 5, 13, 1, 1, b"NAME")
    assert [b.counter for b in parse_beacons(version + beacon(1) + search + beacon(2), SENDER)] == [1, 2]


@pytest.mark.parametrize(
    "rest",
    [b"x", struct.pack(">HHHHII", 13, 64, 0, 0, 0, 0), struct.pack(">HHHHII", 0, 3, 0, 0, 0, 0) + bytes(3)],
    ids=["a part of a header", "a payload beyond the end", "a payload out of line"],
)
def test_nothing_is_read_beyond_what_makes_sense(rest):
    assert parse_beacons(beacon(1) + rest + beacon(2), SENDER) == [Beacon(SERVER, 1, 13)]
    assert parse_beacons(rest, SENDER) == []


@given(st.binary(max_size=200))
def test_garbage_gives_beacons_or_nothing(datagram):
    for found in parse_beacons(datagram, SENDER):
        assert 0 < found.server[1] < 65536
        assert found.counter is None or 0 <= found.counter < WRAP


@given(st.lists(st.tuples(st.integers(0, WRAP - 1), st.integers(1, 65535), st.integers(1, WRAP - 1)), max_size=60))
def test_every_beacon_of_a_datagram_comes_back(items):
    datagram = b"".join(beacon(counter, port, ip) for counter, port, ip in items)
    found = parse_beacons(datagram, SENDER)
    assert [(b.counter, b.server[1]) for b in found] == [(counter, port) for counter, port, _ in items]


@pytest.mark.parametrize("since", [0.0, None])
def test_a_server_that_starts_is_told_of_once(since):
    tracker = BeaconTracker(since)
    anomalies = [tracker.received(SERVER, i, 100 + t) for i, t in enumerate(start_up(30))]
    assert anomalies == [Anomaly.NEW] + [None] * 29


def test_beacons_that_waited_for_us_say_nothing_of_their_period():
    tracker = BeaconTracker()
    times = [max(t, 0.31) for t in start_up(30)]  # the first five are read at once
    assert times.count(0.31) == 5
    assert [tracker.received(SERVER, i, t) for i, t in enumerate(times)] == [Anomaly.NEW] + [None] * 29


@pytest.mark.parametrize("lost", [1, 2, 7])
def test_a_new_server_is_told_of_if_its_first_beacons_were_lost(lost):
    tracker = BeaconTracker()
    anomalies = [tracker.received(SERVER, i, t) for i, t in list(enumerate(start_up(30)))[lost:]]
    assert anomalies == [Anomaly.NEW] + [None] * (29 - lost)


def test_servers_that_ran_before_us_are_no_news():
    tracker = BeaconTracker(0.0)
    assert tracker.received(SERVER, 1000, 3.0) is None
    assert tracker.received(("10.0.0.2", 5064), 2000, 14.9) is None
    assert tracker.received(SERVER, 1001, 18.0) is None
    assert tracker.received(("10.0.0.3", 5064), 3000, 15.1) is Anomaly.NEW  # its network has come up
    assert tracker.received(("10.0.0.4", 5064), None, 15.2) is Anomaly.NEW
    assert len(tracker) == 4


@pytest.mark.parametrize("counter", [5, 20, 1000, 2**31 - 10])
@pytest.mark.parametrize("after", [0.5, 7.0, 15.0, 300.0])
def test_a_restarted_server_is_told_of_once(counter, after):
    tracker = BeaconTracker()
    last = settled(tracker, counter, min(counter, 10))
    anomalies = [tracker.received(SERVER, i, last + after + t) for i, t in enumerate(start_up(30))]
    assert anomalies == [Anomaly.RESTARTED] + [None] * 29


def test_a_restarted_server_that_does_not_count():
    tracker = BeaconTracker()
    for i in range(10):
        assert tracker.received(SERVER, None, 15.0 * i) is None
    times = [135.0 + 5.0 + t for t in start_up(30)]
    anomalies = [tracker.received(SERVER, None, t) for t in times]
    assert anomalies == [Anomaly.RESTARTED] + [None] * 29


def test_beacons_that_come_twice_are_counted_and_nothing_else():
    tracker = BeaconTracker()
    last = settled(tracker)
    for i in range(1, 20):
        at = last + 15.0 * i
        assert tracker.received(SERVER, 1000 + i, at) is None
        assert tracker.received(SERVER, 1000 + i, at + 0.001) is None
        assert tracker.received(SERVER, 1000 + i - 2, at + 0.002) is None
    assert tracker.duplicates == 38


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_few_lost_beacons_are_no_anomaly(lost):
    tracker = BeaconTracker()
    last = settled(tracker)
    assert tracker.received(SERVER, 1001 + lost, last + 15.0 * (lost + 1)) is None
    assert tracker.received(SERVER, 1002 + lost, last + 15.0 * (lost + 2)) is None


def test_many_lost_beacons_mean_that_the_network_healed():
    tracker = BeaconTracker()
    last = settled(tracker)
    assert tracker.received(SERVER, 1020, last + 300.0) is Anomaly.HEALED
    assert [tracker.received(SERVER, 1020 + i, last + 300.0 + 15.0 * i) for i in range(1, 10)] == [None] * 9


@pytest.mark.parametrize("counts", [True, False])
def test_a_server_that_was_stopped_and_goes_on(counts):
    tracker = BeaconTracker()
    for i in range(10):
        tracker.received(SERVER, 100 + i if counts else None, 15.0 * i)
    assert tracker.received(SERVER, 110 if counts else None, 135.0 + 49.0) is Anomaly.HEALED
    assert tracker.received(SERVER, 111 if counts else None, 135.0 + 64.0) is None


def test_the_counter_wraps():
    tracker = BeaconTracker()
    anomalies = [tracker.received(SERVER, (WRAP - 5 + i) % WRAP, 15.0 * i) for i in range(10)]
    assert anomalies == [None] * 10
    assert tracker.duplicates == 0


def test_a_late_beacon_is_not_a_restart():
    tracker = BeaconTracker()
    last = settled(tracker)
    assert tracker.received(SERVER, 1001, last + 22.0) is None
    assert tracker.received(SERVER, 1002, last + 37.0) is None


def test_a_forgotten_server_is_new_again():
    tracker = BeaconTracker()
    last = settled(tracker)
    tracker.forget(SERVER)
    tracker.forget(("10.0.0.2", 1))
    assert tracker.received(SERVER, 1001, last + 15.0) is Anomaly.NEW


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(beacons_module, "MAX_SERVERS", 3)
    tracker = BeaconTracker(0.0)
    for host in ("a", "b", "c", "a", "d"):  # b is unheard for the longest time
        tracker.received((host, 1), 10, 20.0)
    assert len(tracker) == 3
    assert tracker.received(("a", 1), 11, 35.0) is None
    assert tracker.received(("c", 1), 11, 35.0) is None
    assert tracker.received(("b", 1), 11, 35.0) is Anomaly.NEW


@given(
    st.lists(
        st.tuples(
            st.sampled_from([SERVER, SENDER]), st.none() | st.integers(0, WRAP - 1), st.floats(0, 1e6, allow_nan=False)
        ),
        max_size=40,
    )
)
def test_any_sequence_of_beacons_is_taken(items):
    tracker = BeaconTracker()
    for server, counter, now in items:
        assert tracker.received(server, counter, now) in (None, *Anomaly)
    assert len(tracker) == len({server for server, _, _ in items})
