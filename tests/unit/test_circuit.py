"""What a server's messages mean: updates, answers, refusals, access rights, and the clock of a circuit."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from support import wire
from support.clients import TestClient, sent, slots

from daqca.ca.channels import Channels, State, Subscriptions
from daqca.ca.circuit import ECHO_TIMEOUT, Circuit, CircuitState
from daqca.ca.requests import Requests
from daqca.errors import ProtocolError
from daqca.events import Access, Kind, Reason
from daqca.link import CTRL


def failures(client: TestClient) -> list[tuple[int, int, int, int]]:
    """(slot, kind, status, token) of all events."""
    return [(event.slot, event.kind, event.status, event.token) for event in client.events()]


# Values


def test_an_update_and_a_read_carry_value_alarm_and_time() -> None:
    client = TestClient()
    _, circuit = client.connect(2)
    (subscription,) = client.shard.subscribe(slots(1), 5).tolist()
    (ioid,) = client.read(0)
    client.feed(circuit, wire.update(subscription, 2.5, status=3, severity=2, seconds=10, nanoseconds=7))
    client.feed(circuit, wire.read_reply(ioid, -1.0, seconds=11))
    update, read = client.events()
    stamp = (wire.UNIX_1990 + 10) * 10**9 + 7
    assert update == (1, Kind.UPDATE, 6, 3, 2, stamp, 2.5, 1, subscription)
    assert read == (0, Kind.READ, 6, 0, 0, (wire.UNIX_1990 + 11) * 10**9, -1.0, 1, ioid)


@pytest.mark.parametrize("n", [1, 3, 50])
@pytest.mark.parametrize("data_type", [6, 13, 20])
def test_a_char_above_127_comes_back_from_its_double(data_type: int, n: int) -> None:
    """A server turns it into a negative double; a DOUBLE that is negative stays so."""
    client = TestClient()
    numbers, circuit = client.connect(3, [wire.CHAR, wire.DOUBLE, wire.SHORT])
    ids = client.shard.subscribe(numbers, 5).tolist()
    data = b"".join(wire.update(ids[i % 3], -56.0, data_type) for i in range(n * 3))
    client.feed(circuit, data)
    assert [event.value for event in client.events()] == [200.0, -56.0, -56.0] * n
    ioids = client.read(*[0, 1, 2] * n)
    client.feed(circuit, b"".join(wire.read_reply(ioid, -1.0, data_type) for ioid in ioids))
    assert [event.value for event in client.events()] == [255.0, -1.0, -1.0] * n


def test_a_read_that_was_given_up_is_answered_to_nobody() -> None:
    client = TestClient()
    _, circuit = client.connect(30)
    ids = client.read(*range(30))
    client.shard.cancel(ids[0], 30)
    client.feed(circuit, b"".join(wire.read_reply(ioid, 1.0) for ioid in ids))
    client.feed(circuit, wire.read_reply(ids[3], 1.0))
    assert client.events() == []
    assert circuit.stray == 31


@pytest.mark.parametrize("n", [1, 40])
def test_an_answer_counts_once(n: int) -> None:
    client = TestClient()
    _, circuit = client.connect(n)
    ids = client.read(*range(n))
    data = b"".join(wire.read_reply(ioid, 1.0) * 2 for ioid in ids)
    client.feed(circuit, data)
    client.feed(circuit, data)
    assert sorted(event.token for event in client.events()) == ids
    assert circuit.stray == 3 * n


@pytest.mark.parametrize("n", [1, 40])
def test_reads_that_are_refused_fail_by_number(n: int) -> None:
    client = TestClient()
    _, circuit = client.connect(n)
    ids = client.read(*range(n))
    data = [
        wire.read_reply(ioid, 0.0) if i % 2 else wire.value(15, 20, [0.0], ioid, wire.NORDACCESS)
        for i, ioid in enumerate(ids)
    ]
    client.feed(circuit, b"".join(data))
    events = client.events()
    assert [event.kind for event in events] == [Kind.READ if i % 2 else Kind.FAILED for i in range(n)]
    assert {event.status for event in events if event.kind == Kind.FAILED} == {46}
    assert [event.token for event in events] == ids


def test_a_subscription_without_read_access_is_refused_and_goes_on_when_there_is_access() -> None:
    client = TestClient()
    _, circuit = client.connect(1)
    (subscription,) = client.shard.subscribe(slots(0), 5).tolist()
    client.feed(circuit, wire.value(wire.EVENT_ADD, 20, [0.0], subscription, wire.NORDACCESS))
    assert failures(client) == [(0, Kind.REFUSED, 46, subscription)]
    client.feed(circuit, wire.update(subscription, 3.0))
    assert [event.value for event in client.events()] == [3.0]


def test_the_end_of_a_subscription_is_confirmed_and_tells_nothing() -> None:
    """The confirmation has the channel where a status would be; it must not look like a refusal."""
    client = TestClient()
    numbers, circuit = client.connect(5)
    ids = client.shard.subscribe(numbers, 5)
    client.shard.unsubscribe(ids[:2])
    again = client.shard.subscribe(slots(0), 5)
    confirmations = b"".join(wire.cancelled(int(i), 100 + int(i)) for i in ids[:2])
    client.feed(circuit, wire.cancelled(int(ids[0]), 100) + wire.update(int(again[0]), 4.0))
    client.feed(circuit, confirmations)
    assert [(event.kind, event.value) for event in client.events()] == [(Kind.UPDATE, 4.0)]


def test_updates_after_the_end_of_a_subscription_are_nobodys() -> None:
    client = TestClient()
    numbers, circuit = client.connect(10)
    ids = client.shard.subscribe(numbers, 5)
    client.shard.unsubscribe(ids)
    client.feed(circuit, b"".join(wire.update(int(i), 1.0) for i in ids) + wire.update(0, 1.0))
    assert client.events() == []
    assert circuit.stray == 11


def test_updates_on_their_way_never_reach_the_next_owner_of_an_id() -> None:
    """Three thousand subscriptions end and a thousand others begin before the server knows."""
    client = TestClient()
    numbers, circuit = client.connect(4000)
    old = client.shard.subscribe(numbers[:3000], 5)
    sent(circuit)
    client.shard.unsubscribe(old)
    new = client.shard.subscribe(numbers[3000:], 5)
    client.feed(circuit, b"".join(wire.update(int(i), 1.0) for i in old))
    assert client.events() == []
    assert not set(old.tolist()) & set(new.tolist())
    # When their end is confirmed the ids may be used again.
    client.feed(circuit, b"".join(wire.cancelled(int(i), 100 + int(i)) for i in old))
    again = client.shard.subscribe(numbers[:100], 5)
    assert set(again.tolist()) <= set(old.tolist())
    assert client.shard.subscriptions.capacity <= 8192


def test_ids_of_subscriptions_are_free_again_when_the_circuit_is_gone() -> None:
    client = TestClient()
    numbers, circuit = client.connect(3000)
    old = client.shard.subscribe(numbers, 5)
    client.shard.unsubscribe(old[:2000])
    client.shard.closed(circuit, Reason.CLOSED, client.now)
    new = client.shard.subscribe(numbers[:500], 5)
    assert set(new.tolist()) <= set(old[:2000].tolist())
    assert len(client.shard.subscriptions) == 1500


def test_ids_of_subscriptions_that_no_server_knew_are_free_at_once() -> None:
    client = TestClient()
    numbers = client.shard.add([f"A{i}" for i in range(3000)])
    for _ in range(20):
        client.shard.unsubscribe(client.shard.subscribe(numbers, 5))
    assert client.shard.subscriptions.capacity <= 8192
    assert len(client.shard.subscriptions) == 0


def test_metadata_are_subscribed_before_values() -> None:
    """When a channel connects: who is told of its first value is to know its units."""
    client = TestClient()
    names = [f"PV:{i}" for i in range(3)]
    places = client.shard.add(names)
    client.shard.subscribe(places, 5)
    client.shard.subscribe(places, 8, CTRL, Kind.PROPERTY)
    client.searches()
    circuit = client.found(places.tolist())
    client.open(circuit)
    sent(circuit)
    client.feed(circuit, b"".join(wire.created(cid, 100 + cid) for cid in places.tolist()))
    asked = [message for message in wire.parse(sent(circuit)) if message.command == wire.EVENT_ADD]
    assert [message.data_type for message in asked] == [wire.CTRL + wire.DOUBLE] * 3 + [wire.TIME + wire.DOUBLE] * 3


def test_metadata_come_as_they_are_and_a_value_in_their_place_is_nobodys() -> None:
    client = TestClient()
    _, circuit = client.connect(1)
    (subscription,) = client.shard.subscribe(slots(0), 8, CTRL, Kind.PROPERTY, 5).tolist()
    (request,) = [message for message in wire.parse(sent(circuit)) if message.command == wire.EVENT_ADD]
    assert (request.data_type, request.count) == (34, 1)
    data = wire.payload(34, [1.0])
    client.feed(circuit, wire.message(wire.EVENT_ADD, data, 34, 1, 1, subscription))
    batch = client.batch()
    (event,) = batch
    assert (event.kind, event.dbr_type, event.token) == (Kind.PROPERTY, 34, 5)
    assert bytes(batch.data(*event.value)) == data
    client.feed(circuit, wire.update(subscription, 1.0) * 9)
    client.feed(circuit, wire.update(subscription, 1.0))
    assert client.events() == []
    assert circuit.stray == 10


# Writes


def test_writes_in_bulk_end_well_or_badly() -> None:
    client = TestClient()
    numbers, circuit = client.connect(100)
    first = client.shard.write_doubles(numbers, np.arange(100.0), True)
    requests = wire.parse(sent(circuit))
    assert [message[:5] for message in requests] == [(wire.WRITE_NOTIFY, 6, 1, 100 + i, first + i) for i in range(100)]
    ends = [wire.written(first + i, wire.PUTFAIL if i % 10 == 3 else wire.NORMAL) for i in range(100)]
    client.feed(circuit, b"".join(ends[:60]))
    client.feed(circuit, b"".join(ends))  # sixty of them for the second time
    events = client.events()
    assert [event.token for event in events] == list(range(first, first + 100))
    for i, event in enumerate(events):
        assert (event.slot, event.kind, event.status) == (i, *((4, 20) if i % 10 == 3 else (3, 0)))
    assert circuit.stray == 60


def test_a_write_without_completion_fails_by_name_only() -> None:
    client = TestClient()
    _, circuit = client.connect(2)
    client.shard.write_one(1, wire.DOUBLE, 1, bytes(8), False)
    request = sent(circuit)
    client.feed(circuit, wire.error(request, wire.NOWTACCESS, cid=1))
    assert failures(client) == [(1, Kind.FAILED, 47, 0)]


def test_an_error_about_somebody_elses_channel_is_not_told_of_ours() -> None:
    client = TestClient()
    _, circuit = client.connect(1)
    client.connect(["other"], server=("10.0.0.2", 5064))
    request = wire.message(wire.WRITE, bytes(8), 6, 1, 999, 0)
    for cid in (1, 2, 0xFFFFFFFF):
        client.feed(circuit, wire.error(request, wire.PUTFAIL, cid))
    assert client.events() == []


def test_what_no_channel_is_connected_for_fails_at_once() -> None:
    client = TestClient()
    client.shard.add(["A", "B"])
    id_, circuit = client.shard.write_one(0, wire.DOUBLE, 1, bytes(8), True)
    assert circuit is None
    assert client.shard.write_one(1, wire.DOUBLE, 1, bytes(8), False)[0] == 0
    first = client.shard.write_doubles(slots(0, 1), np.zeros(2), True)
    assert failures(client) == [(0, 4, 24, id_), (1, 4, 24, 0), (0, 4, 24, first), (1, 4, 24, first + 1)]
    assert not client.shard.requests.kind.any()


# Errors


@pytest.mark.parametrize("large", [False, True])
def test_an_error_ends_the_request_it_is_about(large: bool) -> None:
    client = TestClient()
    _, circuit = client.connect(3)
    (read,) = client.read(0)
    written, _ = client.shard.write_one(1, wire.DOUBLE, 1, bytes(8), True)
    (subscription,) = client.shard.subscribe(slots(2), 5, label=55).tolist()
    header = {"data_type": 20, "count": 1, "p1": 100, "large": large}
    client.feed(circuit, wire.error(wire.message(wire.READ_NOTIFY, b"", p2=read, **header), wire.GETFAIL))
    client.feed(circuit, wire.error(wire.message(wire.WRITE_NOTIFY, b"", p2=written, **header), wire.PUTFAIL, 1))
    client.feed(circuit, wire.error(wire.message(wire.EVENT_ADD, b"", p2=subscription, **header), wire.BADTYPE))
    assert failures(client) == [(0, 4, 19, read), (1, 4, 20, written), (2, 10, 14, 55)]
    assert not client.shard.requests.kind.any()
    client.feed(circuit, wire.read_reply(read, 1.0))
    assert client.events() == []


@pytest.mark.parametrize("command", [wire.CREATE_CHAN, wire.CLEAR_CHANNEL, wire.EVENT_CANCEL, wire.ECHO, 999])
def test_an_error_about_anything_else_is_borne(command: int) -> None:
    client = TestClient()
    _, circuit = client.connect(1)
    client.feed_raising(circuit, wire.error(wire.message(command, b"", 0, 0, 100, 0), wire.BADTYPE, 0))
    assert client.events() == []


def test_an_error_without_the_header_of_its_request_is_no_channel_access() -> None:
    client = TestClient()
    _, circuit = client.connect(1)
    with pytest.raises(ProtocolError, match=r"10\.0\.0\.1:5064 sent an error of 8 bytes"):
        client.feed_raising(circuit, wire.message(wire.ERROR, b"oops"))


# Access rights


def test_access_rights_come_with_the_connection_and_change_at_any_time() -> None:
    client = TestClient()
    client.shard.add([f"A{i}" for i in range(10)])
    client.searches()
    circuit = client.found(range(10))
    client.open(circuit)
    client.create(circuit, range(10), rights=1)
    assert [(e.slot, e.kind, e.status) for e in client.events()] == [(i, Kind.CONNECTED, 1) for i in range(10)]
    client.feed(circuit, wire.access(3, 3))
    client.feed(circuit, wire.access(3, 3))
    assert [(e.slot, e.kind, e.status) for e in client.events()] == [(3, Kind.ACCESS, 3)]
    client.feed(circuit, b"".join(wire.access(i, 0xFFFFFFFC) for i in range(10)))
    assert [(e.slot, e.kind, e.status) for e in client.events()] == [(i, Kind.ACCESS, 0) for i in range(10)]
    assert not client.shard.channels.access[:10].any()


def test_access_rights_that_change_twice_in_a_read_are_told_twice() -> None:
    client = TestClient()
    _, circuit = client.connect(3)
    changes = [wire.access(0, 1), wire.access(1, 0), wire.access(0, 3), wire.access(0, 2), wire.access(1, 3)]
    client.feed(circuit, b"".join(changes))
    assert [(e.slot, e.status) for e in client.events()] == [(0, 1), (1, 0), (0, 3), (0, 2), (1, 3)]
    assert client.shard.channels.access[:3].tolist() == [Access.WRITE, 3, 3]


# Names


def test_a_name_server_answers_with_one_message_or_many() -> None:
    client = TestClient(name_servers=(("10.0.0.9", 5064),), addr_list=())
    numbers = client.shard.add([f"A{i}" for i in range(40)])
    client.shard.tick(client.now)
    circuit = client.circuit(("10.0.0.9", 5064))
    client.open(circuit)
    asked = [message for message in wire.parse(sent(circuit)) if message.command == wire.SEARCH]
    assert [(m.data_type, m.count, m.p1, m.p2, m.text) for m in asked] == [(10, 13, i, i, f"A{i}") for i in range(40)]
    ip = 0x0A000001
    client.feed_raising(circuit, wire.tcp_search_reply(0, 5064, ip) + wire.message(wire.NOT_FOUND, b"", 10, 0, 1, 1))
    client.feed_raising(circuit, b"".join(wire.tcp_search_reply(i, 5064, ip) for i in range(1, 20)))
    itself = (0, 0xFFFFFFFF)
    client.feed_raising(circuit, b"".join(wire.tcp_search_reply(i, 5070, itself[i % 2]) for i in range(20, 30)))
    client.feed_raising(circuit, b"".join(wire.search_reply(i, 5070, itself[i % 2]) for i in range(30, 40)))
    states = client.shard.channels.state[numbers]
    assert (states == State.CREATING).all()
    assert (client.shard.channels.circuit[numbers[:20]] == client.circuit(("10.0.0.1", 5064)).index).all()
    assert (client.shard.channels.circuit[numbers[20:]] == client.circuit(("10.0.0.9", 5070)).index).all()


# The clock


def test_a_silent_server_is_asked_for_an_echo_and_then_called_unresponsive() -> None:
    client = TestClient(conn_tmo=30.0)
    numbers, circuit = client.connect(3)
    client.shard.subscribe(numbers, 5)
    sent(circuit)
    start = client.now
    client.wait(29.9)
    assert sent(circuit) == b""
    client.wait(0.2)
    assert [message.command for message in wire.parse(sent(circuit))] == [wire.ECHO]
    client.wait(ECHO_TIMEOUT - 0.3)
    assert client.events() == []
    client.wait(0.3)
    assert client.now - start > 35.0
    assert failures(client) == [(i, Kind.DISCONNECTED, Reason.UNRESPONSIVE, 0) for i in range(3)]
    assert circuit.state == CircuitState.UNRESPONSIVE
    assert (client.shard.channels.state[numbers] == State.UNRESPONSIVE).all()
    client.wait(100.0)
    assert (sent(circuit), client.events()) == (b"", [])


def test_an_echo_keeps_a_circuit_alive() -> None:
    client = TestClient(conn_tmo=30.0)
    _, circuit = client.connect(1)
    for _ in range(5):
        client.wait(30.1)
        assert [message.command for message in wire.parse(sent(circuit))] == [wire.ECHO]
        client.feed(circuit, wire.message(wire.ECHO))
    assert client.events() == []


def test_a_word_brings_an_unresponsive_server_back_with_fresh_values() -> None:
    client = TestClient(conn_tmo=30.0)
    numbers, circuit = client.connect(2)
    (subscription,) = client.shard.subscribe(numbers[:1], 5).tolist()
    client.wait(36.0)
    sent(circuit)
    client.batch()
    # What is asked for meanwhile waits for the server.
    (ioid,) = client.read(1)
    assert sent(circuit) == b""
    assert client.shard.write_one(1, wire.DOUBLE, 1, bytes(8), False)[1] is None
    assert failures(client) == [(1, Kind.FAILED, 24, 0)]
    client.feed(circuit, wire.message(wire.ECHO))
    assert [(e.slot, e.kind, e.count) for e in client.events()] == [(0, Kind.CONNECTED, 1), (1, Kind.CONNECTED, 1)]
    assert [(m.command, m.p1, m.p2) for m in wire.parse(sent(circuit))] == [
        (wire.EVENT_CANCEL, 100, subscription),
        (wire.EVENT_ADD, 100, subscription),
        (wire.READ_NOTIFY, 101, ioid),
    ]
    client.feed(
        circuit, wire.cancelled(subscription, 100) + wire.update(subscription, 8.0) + wire.read_reply(ioid, 9.0)
    )
    assert [(e.kind, e.value) for e in client.events()] == [(Kind.UPDATE, 8.0), (Kind.READ, 9.0)]
    client.wait(29.0)
    assert sent(circuit) == b""


def test_an_unresponsive_server_that_goes_is_not_told_lost_twice() -> None:
    client = TestClient(conn_tmo=30.0)
    _, circuit = client.connect(2)
    (ioid,) = client.read(0)
    client.wait(36.0)
    assert client.kinds() == [(0, Kind.DISCONNECTED), (1, Kind.DISCONNECTED)]
    client.shard.closed(circuit, Reason.CLOSED, client.now)
    assert failures(client) == [(0, Kind.FAILED, 24, ioid)]


def test_a_beacon_counts_as_a_word_unless_an_echo_is_awaited() -> None:
    client = TestClient(conn_tmo=30.0)
    _, circuit = client.connect(1)
    for counter in range(20, 30):
        client.wait(15.0)
        client.reply(wire.beacon(5064, counter, 0x0A000001))
    assert sent(circuit) == b""
    client.wait(30.1)
    assert [message.command for message in wire.parse(sent(circuit))] == [wire.ECHO]
    client.reply(wire.beacon(5064, 30, 0x0A000001))
    client.wait(5.1)
    assert client.kinds() == [(0, Kind.DISCONNECTED)]


def test_a_server_that_knows_no_echo_is_asked_otherwise() -> None:
    client = TestClient(conn_tmo=30.0)
    _, circuit = client.connect(1, minor=2)
    client.wait(30.1)
    assert [message.command for message in wire.parse(sent(circuit))] == [wire.READ_SYNC]


def test_flow_control_is_asked_for_once() -> None:
    client = TestClient()
    _, circuit = client.connect(1)
    for on in (True, False, False, True, True):
        circuit.set_events(on)
    assert [message.command for message in wire.parse(sent(circuit))] == [wire.EVENTS_OFF, wire.EVENTS_ON]


# What is no server's message


@pytest.mark.parametrize("command", [wire.WRITE, wire.EVENTS_OFF, wire.CLIENT_NAME, wire.HOST_NAME, 3, 5, 7, 28, 999])
@pytest.mark.parametrize("n", [1, 5])
def test_messages_that_no_server_sends(command: int, n: int) -> None:
    client = TestClient()
    _, circuit = client.connect(1)
    with pytest.raises(ProtocolError, match=f"10.0.0.1:5064 sent message {command}"):
        client.feed_raising(circuit, wire.message(command) * n)
    client = TestClient()
    _, circuit = client.connect(1)
    with pytest.raises(ProtocolError, match=f"10.0.0.1:5064 sent message {command}"):
        client.feed_raising(circuit, wire.message(command, bytes(16)) * n)


def test_a_circuit_that_is_let_go_is_gone_with_its_buffer() -> None:
    """At once, and not when Python next looks for cycles: a server that comes and goes would fill the memory."""
    circuit = Circuit(0, ("127.0.0.1", 5064), Channels(), Subscriptions(), Requests())
    gone = weakref.ref(circuit)
    gc.disable()
    try:
        del circuit
        assert gone() is None
    finally:
        gc.enable()
