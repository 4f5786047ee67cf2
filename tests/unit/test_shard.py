"""Channels from their search to their end: creation, reconnection, requests that wait, and servers of every kind."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from support import wire
from support.clients import HOST, PORT, SERVER, TestClient, sent, slots

from daqca.ca.channels import NO_CIRCUIT, State
from daqca.ca.shard import BRIEF_CIRCUIT, MAX_RETRY_CIRCUIT, READ_PART, RETRY_CIRCUIT
from daqca.events import Kind, Reason
from daqca.link import CTRL

OTHER = ("10.0.0.2", 5064)


def requests(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """(command, data type, count, p1, p2) of a client's messages."""
    return [message[:5] for message in wire.parse(data)]


# Connecting


def test_a_name_is_searched_found_created_and_subscribed_and_read_at_once() -> None:
    client = TestClient()
    (slot,) = client.shard.add(["PV"]).tolist()
    (subscription,) = client.shard.subscribe(slots(slot), 5).tolist()
    (ioid,) = client.read(slot)
    ((version, search),) = client.searches()
    client.reply(wire.replies(version.p1, wire.search_reply(search.p2, PORT)))
    circuit = client.circuit()
    client.open(circuit)
    greeting = wire.parse(sent(circuit))
    assert [m.command for m in greeting] == [wire.VERSION, wire.HOST_NAME, wire.CLIENT_NAME, wire.CREATE_CHAN]
    assert (greeting[-1].text, greeting[-1].p1, greeting[-1].p2) == ("PV", slot, 13)
    client.feed(circuit, wire.version() + wire.created(slot, 42, wire.LONG, 1, 1))
    assert [(e.slot, e.kind, e.dbr_type, e.count, e.status) for e in client.events()] == [(slot, 5, wire.LONG, 1, 1)]
    assert requests(sent(circuit)) == [(wire.EVENT_ADD, 20, 1, 42, subscription), (wire.READ_NOTIFY, 20, 1, 42, ioid)]
    client.wait(1.0)
    assert client.shard.searcher.idle


@pytest.mark.parametrize("n", [1, 3, 40])
def test_how_a_channel_is_asked_for_depends_on_its_type_and_count(n: int) -> None:
    client = TestClient()
    natives = [wire.STRING, wire.SHORT, wire.CHAR, wire.DOUBLE, wire.STRING, wire.CHAR] * n
    counts = [1, 1, 1, 1, 10, 1_000_000] * n
    numbers, circuit = client.connect(6 * n, natives, counts)
    client.read(*numbers.tolist())
    expected = [(14, 1), (20, 1), (20, 1), (20, 1), (14, 0), (18, 0)] * n
    asked = {m.p1 - 100: (m.data_type, m.count) for m in wire.parse(sent(circuit))}
    assert asked == dict(enumerate(expected))
    client.read(*numbers.tolist(), dbr_type=CTRL)
    asked = {m.p1 - 100: (m.data_type, m.count) for m in wire.parse(sent(circuit))}
    assert asked == {i: (native + 28, 1) for i, native in enumerate(natives)}
    client.read(0, 1, dbr_type=wire.STRING, count=1)
    assert {(m.data_type, m.count) for m in wire.parse(sent(circuit))} == {(0, 1)}
    for slot in range(6):
        client.shard.read_one(slot)
    assert [m[1:3] for m in requests(sent(circuit))] == expected[:6]


@pytest.mark.parametrize("minor", [12, 11, 8])
def test_a_server_older_than_4_13_is_told_the_count(minor: int) -> None:
    client = TestClient()
    counts = [1, 10, 100_000]
    numbers, circuit = client.connect(3, wire.SHORT, counts, minor=minor)
    ids = client.shard.subscribe(numbers, 5).tolist()
    client.read(0, 1, 2)
    messages = wire.parse(sent(circuit))
    expected = [(20, 1), (15, 10), (15, 100_000)]
    for command in (wire.EVENT_ADD, wire.READ_NOTIFY):
        found = {m.p1 - 100: (m.data_type, m.count) for m in messages if m.command == command}
        assert found == dict(enumerate(expected))
    assert {m.is_large for m in messages if m.count > 0xFFFF} == {True}
    mask = next(m.payload for m in messages if m.command == wire.EVENT_ADD and m.is_large)
    assert mask[12:14] == b"\0\5"
    for slot in range(3):
        client.shard.read_one(slot)
    assert [m[1:3] for m in requests(sent(circuit))] == expected
    client.shard.unsubscribe(np.array(ids, np.uint32))
    assert {m[3] for m in requests(sent(circuit)) if m[0] == wire.EVENT_CANCEL} == {100, 101, 102}


def test_channels_on_two_servers_have_a_circuit_each() -> None:
    client = TestClient()
    numbers = client.shard.add([f"A{i}" for i in range(10)])
    client.searches()
    first, second = client.found(range(5)), client.found(range(5, 10), OTHER)
    for circuit in (first, second):
        client.open(circuit)
    client.create(first, range(5))
    client.create(second, range(5, 10))
    client.batch(), sent(first), sent(second)
    ids = client.read(*numbers.tolist())
    assert [m[4] for m in requests(sent(first))] == ids[:5]
    assert [m[4] for m in requests(sent(second))] == ids[5:]
    client.shard.write_doubles(numbers, np.arange(10.0), False)
    assert [m[3] for m in requests(sent(second))] == [105, 106, 107, 108, 109]
    client.shard.closed(first, Reason.CLOSED, client.now)
    assert {(e.slot, e.kind) for e in client.events()} == {(i, k) for i in range(5) for k in (4, 6)}
    assert client.shard.channels.state[numbers].tolist() == [State.SEARCHING] * 5 + [State.CONNECTED] * 5


def test_reads_of_many_are_sent_part_by_part() -> None:
    client = TestClient()
    n = READ_PART + 100
    numbers, circuit = client.connect(n)
    parts = []
    client.shard.read(numbers, lambda first: None, flush=lambda: parts.append(len(wire.parse(sent(circuit)))))
    assert parts == [READ_PART]
    assert len(wire.parse(sent(circuit))) == 100


def test_a_circuit_that_closes_while_its_reads_are_sent_loses_none_of_them() -> None:
    client = TestClient()
    n = READ_PART + 100
    numbers, circuit = client.connect(n)
    firsts: list[int] = []

    def flush() -> None:
        client.shard.closed(circuit, Reason.CLOSED, client.now)

    client.shard.read(numbers, firsts.append, flush=flush)
    failed = [e.token for e in client.events() if e.kind == Kind.FAILED]
    assert failed == list(range(firsts[0], firsts[0] + READ_PART))
    # Those that were not sent yet wait for the channel.
    again = client.found(range(READ_PART, n))
    client.open(again)
    client.create(again, range(READ_PART, n))
    reads = [m[4] for m in requests(sent(again)) if m[0] == wire.READ_NOTIFY]
    assert reads == list(range(firsts[0] + READ_PART, firsts[0] + n))


# Reconnecting


def test_a_closed_circuit_fails_what_was_asked_and_its_channels_are_searched_again() -> None:
    client = TestClient()
    numbers, circuit = client.connect(3)
    (subscription,) = client.shard.subscribe(slots(2), 5).tolist()
    (ioid,) = client.read(0)
    first = client.shard.write_doubles(slots(1), np.zeros(1), True)
    client.shard.closed(circuit, Reason.CLOSED, client.now)
    events = [(e.slot, e.kind, e.status, e.token) for e in client.events()]
    assert sorted(events) == sorted(
        [*((i, Kind.DISCONNECTED, Reason.CLOSED, 0) for i in range(3)), (0, 4, 24, ioid), (1, 4, 24, first)]
    )
    assert not client.shard.requests.kind.any()
    assert client.shard.circuits == {}
    assert (client.shard.channels.circuit[numbers] == NO_CIRCUIT).all()
    (waiting,) = client.read(0)
    ((_, *searches),) = client.wait(0.001)
    assert [m.p2 for m in searches] == [0, 1, 2]
    again = client.found([0, 1, 2])
    assert again is not circuit
    client.open(again)
    # An IOC that was rebooted with other records: follow it.
    client.create(again, [0, 1, 2], [wire.STRING, wire.DOUBLE, wire.FLOAT], [1, 1, 500])
    assert [(e.slot, e.kind, e.dbr_type, e.count) for e in client.events()] == [
        (0, 5, 0, 1),
        (1, 5, 6, 1),
        (2, 5, 2, 500),
    ]
    assert requests(sent(again))[-2:] == [
        (wire.EVENT_ADD, 16, 0, 102, subscription),
        (wire.READ_NOTIFY, 14, 1, 100, waiting),
    ]
    client.feed(again, wire.value(wire.EVENT_ADD, 16, [1.0, 2.0], subscription))
    assert [(e.slot, e.kind, e.dbr_type, e.count) for e in client.events()] == [(2, Kind.UPDATE, wire.FLOAT, 2)]


def test_a_channel_that_its_server_deletes_is_searched_again_and_the_others_stay() -> None:
    client = TestClient()
    numbers, circuit = client.connect(3)
    client.shard.subscribe(numbers, 5)
    (ioid,) = client.read(1)
    sent(circuit)
    client.feed(circuit, wire.message(wire.SERVER_DISCONN, p1=1))
    assert [(e.slot, e.kind, e.status) for e in client.events()] == [(1, Kind.DISCONNECTED, Reason.DELETED), (1, 4, 24)]
    assert client.shard.requests.row(ioid) == -1
    assert client.wait(RETRY_CIRCUIT - 0.01) == []
    ((_, search),) = client.wait(0.02)
    assert search.p2 == 1
    assert client.found([1]) is circuit
    client.create(circuit, [1])
    assert client.kinds() == [(1, Kind.CONNECTED)]
    assert [m[0] for m in requests(sent(circuit))] == [wire.CREATE_CHAN, wire.EVENT_ADD]


def test_a_channel_that_cannot_be_created_is_searched_again_later() -> None:
    client = TestClient()
    client.shard.add(["A", "B"])
    client.searches()
    circuit = client.found([0, 1])
    client.open(circuit)
    client.feed(circuit, wire.message(wire.CREATE_CH_FAIL, p1=0) + wire.created(1, 101))
    assert client.kinds() == [(1, Kind.CONNECTED)]
    assert client.wait(RETRY_CIRCUIT - 0.01) == []
    ((_, search),) = client.wait(0.02)
    assert search.text == "A"


def test_deleted_twice_is_told_once() -> None:
    client = TestClient()
    _, circuit = client.connect(2)
    client.feed(circuit, wire.message(wire.SERVER_DISCONN, p1=1) * 10)
    assert client.kinds() == [(1, Kind.DISCONNECTED)]
    assert len([m for datagram in client.wait(1.01) for m in datagram[1:]]) == 1


def test_a_server_that_cannot_be_reached_is_tried_ever_more_rarely() -> None:
    client = TestClient()
    (slot,) = client.shard.add(["A"]).tolist()
    client.searches()
    waits = []
    for _ in range(8):
        circuit = client.found([slot])
        client.shard.to_open.clear()
        start = client.now
        client.shard.closed(circuit, Reason.CLOSED, client.now)
        while not client.wait(0.5):
            assert client.now - start < 100
        waits.append(client.now - start)
    assert waits == pytest.approx([1, 2, 4, 8, 16, MAX_RETRY_CIRCUIT, MAX_RETRY_CIRCUIT, MAX_RETRY_CIRCUIT], abs=0.6)
    assert client.events() == []  # it never was connected
    circuit = client.found([slot])
    client.open(circuit)
    client.wait(BRIEF_CIRCUIT + 1.0)
    client.shard.closed(circuit, Reason.CLOSED, client.now)
    assert client.wait(0.01)  # it was there for a while, so it may be there again
    client.shard.to_open.clear()
    client.shard.closed(client.found([slot]), Reason.CLOSED, client.now)
    assert client.wait(RETRY_CIRCUIT - 0.01) == []
    assert client.wait(0.02)


def test_a_server_whose_circuits_never_last_is_left_alone_ever_longer() -> None:
    client = TestClient()
    (slot,) = client.shard.add(["A"]).tolist()
    client.searches()
    waits = []
    for reason in [Reason.CLOSED, Reason.CLOSED, Reason.CLOSED, *[Reason.PROTOCOL_ERROR] * 5]:
        circuit = client.found([slot])
        client.open(circuit)
        start = client.now
        client.shard.closed(circuit, reason, client.now)
        while not client.wait(0.1):
            assert client.now - start < 100
        waits.append(client.now - start)
    assert waits == pytest.approx([0, 1, 2, 8, 16, *[MAX_RETRY_CIRCUIT] * 3], abs=0.2)
    assert client.shard.protocol_errors == 5


# Channels that end


def test_a_channel_that_is_cleared_while_it_is_created_is_given_back() -> None:
    client = TestClient()
    client.shard.add(["A", "B"])
    client.searches()
    circuit = client.found([0, 1])
    client.open(circuit)
    client.shard.remove(slots(0))
    sent(circuit)
    client.feed(circuit, wire.created(0, 55) + wire.created(1, 56))
    assert client.kinds() == [(1, Kind.CONNECTED)]
    assert requests(sent(circuit)) == [(wire.CLEAR_CHANNEL, 0, 0, 55, 0)]
    client.feed(circuit, wire.cleared(0, 55))
    assert client.events() == []


@pytest.mark.parametrize("n", [1, 6])
def test_a_channel_that_is_created_twice_keeps_the_first(n: int) -> None:
    client = TestClient()
    numbers, circuit = client.connect(n)
    client.feed(circuit, b"".join(wire.created(slot, 900 + slot, wire.STRING) for slot in numbers.tolist()))
    assert client.events() == []
    assert requests(sent(circuit)) == [(wire.CLEAR_CHANNEL, 0, 0, 900 + slot, slot) for slot in numbers.tolist()]
    client.read(0)
    assert requests(sent(circuit))[0][:4] == (wire.READ_NOTIFY, 20, 1, 100)


def test_a_late_creation_never_goes_to_the_next_owner_of_its_slot() -> None:
    """Three thousand channels end while they are created, and a thousand others begin before the server knows."""
    client = TestClient()
    old = client.shard.add([f"old:{i}" for i in range(3000)])
    client.wait(0.02)
    circuit = client.found(old.tolist())
    client.open(circuit)
    client.shard.remove(old)
    new = client.shard.add([f"new:{i}" for i in range(1000)])
    client.found(new.tolist())
    client.feed(circuit, b"".join(wire.created(slot, 5000 + slot, wire.STRING) for slot in old.tolist()))
    assert client.events() == []
    cleared = {m[3] for m in requests(sent(circuit)) if m[0] == wire.CLEAR_CHANNEL}
    assert cleared == set(range(5000, 8000))
    client.create(circuit, new.tolist())
    assert [(e.slot, e.dbr_type) for e in client.events()] == [(slot, wire.DOUBLE) for slot in new.tolist()]
    # When the server has confirmed it, the slots are used again.
    client.feed(circuit, b"".join(wire.cleared(slot, 5000 + slot) for slot in old.tolist()))
    assert set(client.shard.add(["next"]).tolist()) <= set(old.tolist())
    assert len(client.shard.channels) == 1001


def test_the_slots_of_a_lost_circuit_are_free_again() -> None:
    client = TestClient()
    old, circuit = client.connect(1500)
    client.shard.remove(old)
    assert client.shard.add(["more"])[0] == 1500
    client.shard.closed(circuit, Reason.CLOSED, client.now)
    assert client.shard.add(["next"])[0] < 1500
    assert len(client.shard.channels) == 2


def test_a_cleared_channel_takes_its_subscriptions_and_requests_along() -> None:
    client = TestClient()
    numbers, circuit = client.connect(3)
    ids = client.shard.subscribe(slots(0, 1, 0), 5)
    reads = client.read(0, 1)
    client.shard.add(["not there"])
    (waiting,) = client.read(3)
    sent(circuit)
    client.shard.remove(slots(0, 3))
    assert sorted(requests(sent(circuit))) == [
        (wire.EVENT_CANCEL, 20, 1, 100, ids[0]),
        (wire.EVENT_CANCEL, 20, 1, 100, ids[2]),
        (wire.CLEAR_CHANNEL, 0, 0, 100, 0),
    ]
    client.feed(
        circuit, wire.update(int(ids[0]), 1.0) + wire.read_reply(reads[0], 1.0) + wire.read_reply(reads[1], 2.0)
    )
    assert [(e.slot, e.token) for e in client.events()] == [(1, reads[1])]
    assert client.shard.requests.row(waiting) == -1
    assert len(client.shard.requests.waiting.of(slots(3))) == 0
    assert len(client.shard.subscriptions) == 1
    client.shard.closed(circuit, Reason.CLOSED, client.now)
    assert [e.slot for e in client.events()] == [1, 2]
    assert numbers.tolist() == [0, 1, 2]


def test_a_read_that_waited_and_was_given_up_is_never_sent() -> None:
    client = TestClient()
    client.shard.add(["A", "B"])
    first, second = client.read(0, 0)
    client.shard.cancel(first, 1)
    assert client.shard.requests.waiting.of(slots(0)).tolist() == [second]
    client.searches()
    circuit = client.found([0])
    client.open(circuit)
    client.create(circuit, [0])
    assert [m[4] for m in requests(sent(circuit)) if m[0] == wire.READ_NOTIFY] == [second]


def test_a_subscription_that_ended_before_the_connection_is_never_sent() -> None:
    client = TestClient()
    client.shard.add(["A"])
    ids = client.shard.subscribe(slots(0, 0), 5)
    client.shard.unsubscribe(ids[:1])
    client.searches()
    circuit = client.found([0])
    client.open(circuit)
    client.create(circuit, [0])
    assert [m[4] for m in requests(sent(circuit)) if m[0] == wire.EVENT_ADD] == [ids[1]]


# Two servers


def test_a_second_server_of_a_name_is_warned_of_once_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    client = TestClient()
    with caplog.at_level(logging.WARNING, "daqca.ca"):
        client.shard.add(["A", "B"])
        client.searches()
        client.reply(
            (wire.replies(1, wire.search_reply(0, PORT), wire.search_reply(1, PORT)), SERVER),
            (wire.replies(1, wire.search_reply(0, PORT)), OTHER),
        )
        client.reply((wire.replies(1, wire.search_reply(0, PORT)), OTHER), (wire.search_reply(0, PORT), SERVER))
    assert [record.getMessage() for record in caplog.records] == [
        f"A: two servers have it; using {HOST}:{PORT}, ignoring 10.0.0.2:5064"
    ]
    assert client.shard.duplicates == {0: OTHER}
    assert [circuit.address for circuit in client.shard.circuits.values()] == [SERVER]
    client.shard.remove(slots(0))
    assert client.shard.duplicates == {}


# Beacons and datagrams


def test_the_beacon_of_a_new_server_brings_searches_forward() -> None:
    client = TestClient()
    client.shard.add(["A"])
    client.wait(60.0)
    client.reply(wire.beacon(5064, 0, 0x0A000001))
    assert client.shard.beacon_anomalies == 1
    ((_, search),) = client.wait(0.01)
    assert search.text == "A"
    client.reply(wire.beacon(5064, 1, 0x0A000001), wire.beacon(5064, 1, 0x0A000001))
    assert (client.shard.beacons_heard, client.shard.beacon_anomalies) == (3, 1)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\0", b"\0\6", bytes(15), b"\0\x0d", wire.beacon(5064, 1)[:12], b"\x41" * 40, b"A\x11" * 12),
        wire.message(wire.BEACON, bytes(8), 13, 5064, 1, 0)[:20],
        b"\0\x11" + bytes(9),
    ],
)
def test_datagrams_that_are_no_channel_access_are_counted(data: bytes) -> None:
    client = TestClient()
    client.shard.add(["A"])
    client.reply(data)
    assert client.shard.searcher.malformed == 1
    client.reply(wire.message(wire.REPEATER_CONFIRM, p2=0x7F000001), wire.beacon(5064, 1), wire.search_reply(0, PORT))
    assert client.shard.searcher.malformed == 1
    assert len(client.shard.circuits) == 1


# Name servers


def test_names_are_asked_of_name_servers_by_tcp() -> None:
    server = ("10.0.0.9", 5064)
    client = TestClient(name_servers=(server,), addr_list=())
    client.shard.searcher.use_window = False
    client.shard.tick(client.now)
    circuit = client.circuit(server)
    client.shard.add(["A", "B"])
    client.searches()
    client.open(circuit)
    client.feed(circuit, wire.version())
    asked = [m for m in wire.parse(sent(circuit)) if m.command == wire.SEARCH]
    assert [(m.data_type, m.count, m.p1, m.p2, m.text) for m in asked] == [(10, 13, 0, 0, "A"), (10, 13, 1, 1, "B")]
    client.shard.add(["C"])
    client.searches()
    assert [m.text for m in wire.parse(sent(circuit)) if m.command == wire.SEARCH] == ["C"]
    client.feed(circuit, wire.tcp_search_reply(2, 5066, 0x0A000003) + wire.message(wire.NOT_FOUND, b"", 10, 13, 0, 0))
    assert client.shard.channels.circuit[2] == client.circuit(("10.0.0.3", 5066)).index
    client.wait(1.0)
    assert {m.text for m in wire.parse(sent(circuit)) if m.command == wire.SEARCH} == {"A", "B"}
    client.feed(circuit, b"".join(wire.tcp_search_reply(slot, 5064) for slot in (0, 1, 99, 0xFFFFFFFF)))
    assert (client.shard.channels.circuit[:2] == circuit.index).all()


def test_a_name_server_that_went_is_connected_again() -> None:
    server = ("10.0.0.9", 5064)
    client = TestClient(name_servers=(server,), addr_list=())
    client.shard.tick(client.now)
    circuit = client.circuit(server)
    client.open(circuit)
    client.shard.closed(circuit, Reason.CLOSED, client.now)
    assert client.shard.circuits == {}
    client.wait(RETRY_CIRCUIT + 0.1)
    assert client.circuit(server).is_name_server
