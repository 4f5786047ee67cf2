"""Who gets which answer, what is waited for, what is missing of a stream: the bookkeeping, without sockets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daqca.broker.messages import Request, decode_message, encode_message, shard_topic
from daqca.broker.positions import Follower, Gap, Position
from daqca.errors import TransportError
from daqca.events import ALL_SLOTS, EVENT, Access, Kind, Reason
from daqca.workers.channels import LinkChannels, lost_event
from daqca.workers.pending import Pending
from daqca.workers.requests import Code, check, doubles_of, slots_of
from daqca.workers.routes import EVERYBODY, Route, Routes, is_answer
from daqca.workers.sharing import NONE, Client, SharedNames, SharedSubscriptions

STREAM = b"stream-1"


def events(*rows):
    """Records from (kind, slot, token) tuples."""
    records = np.zeros(len(rows), EVENT)
    for record, (kind, slot, token) in zip(records, rows, strict=True):
        record["kind"], record["slot"], record["token"] = kind, slot, token
    return records


def told(records):
    return [(int(r["kind"]), int(r["slot"]), int(r["token"])) for r in records]


def array(*values):
    return np.array(values, np.uint32)


# --- gaps -------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 3), st.booleans()), min_size=1, max_size=30),
    start=st.integers(0, 2**40),
)
def test_every_gap_is_found_and_counted(sizes, start):
    follower = Follower(Position(start, 3 * start))
    number, before, lost, messages = start, 3 * start, 0, 0
    gaps = []
    for n, span, arrives in sizes:
        frames = encode_message(shard_topic(STREAM), STREAM, 0, number, span, before, None, [bytes(32 * n)])
        if arrives:
            gaps.append(follower.follow(decode_message(frames)))
        else:
            lost, messages = lost + n, messages + span
        number, before = number + span, before + n
    gaps.append(follower.reach(Position(number, before)))
    found = [gap for gap in gaps if gap is not None]
    assert sum(gap.events for gap in found) == lost
    assert sum(gap.messages for gap in found) == messages
    assert (not found) == (messages == 0)
    assert follower.reach(Position(number, before)) is None


def test_a_gap_of_messages_without_events_is_one_too():
    follower = Follower(Position(0, 0))
    assert follower.reach(Position(2, 0)) == Gap(2, 0)


# --- whose answer -----------------------------------------------------------------------------------


def test_a_batch_of_one_clients_answers_gets_its_tokens():
    routes = Routes()
    routes.add(Route(100, 3, b"one", 7))
    batch = events((Kind.READ, 5, 102), (Kind.READ, 6, 100), (Kind.FAILED, 7, 101))
    records, owners, clients = routes.resolve(batch, is_answer(batch))
    assert told(records) == [(Kind.READ, 5, 9), (Kind.READ, 6, 7), (Kind.FAILED, 7, 8)]
    assert owners.tolist() == [0, 0, 0]
    assert clients == [b"one"]
    assert len(routes) == 0


def test_answers_of_several_clients_keep_their_place_among_updates():
    routes = Routes()
    routes.add(Route(10, 2, b"one", 1))
    routes.add(Route(12, 1, b"two", 0xFFFFFF00))
    batch = events(
        (Kind.UPDATE, 1, 5),
        (Kind.READ, 2, 12),
        (Kind.WRITTEN, 3, 11),
        (Kind.FAILED, 4, 0),  # of a put that nobody waits for
        (Kind.READ, 5, 99),  # of a request that was given up
        (Kind.READ, 6, 10),
        (Kind.UPDATE, 2, 5),
    )
    records, owners, clients = routes.resolve(batch, is_answer(batch))
    by_client = {client: index for index, client in enumerate(clients)}
    assert told(records) == [
        (Kind.UPDATE, 1, 5),
        (Kind.READ, 2, 0xFFFFFF00),
        (Kind.WRITTEN, 3, 2),
        (Kind.FAILED, 4, 0),
        (Kind.READ, 6, 1),
        (Kind.UPDATE, 2, 5),
    ]
    one, two = by_client[b"one"], by_client[b"two"]
    assert owners.tolist() == [EVERYBODY, two, one, EVERYBODY, one, EVERYBODY]
    assert routes.strays == 1
    assert len(routes) == 0


@pytest.mark.parametrize("others", [0, 1])
def test_a_reading_again_looks_like_updates(others):
    routes = Routes()
    routes.add(Route(50, 3, b"one", 0, mask=5))
    rows = [(Kind.READ, 1, 50), (Kind.FAILED, 2, 51), (Kind.READ, 3, 52)]
    if others:
        routes.add(Route(60, 1, b"two", 4))
        rows.append((Kind.READ, 9, 60))
    batch = events(*rows)
    records, owners, clients = routes.resolve(batch, is_answer(batch))
    assert told(records)[:2] == [(Kind.UPDATE, 1, 5), (Kind.UPDATE, 3, 5)]
    assert [clients[owner] for owner in owners.tolist()] == [b"one", b"one", b"two"][: 2 + others]
    assert routes.strays == 0
    assert len(routes) == 0


def test_what_was_cancelled_or_forgotten_has_no_owner():
    routes = Routes()
    routes.add(Route(10, 2, b"one", 1))
    routes.add(Route(20, 2, b"one", 3))
    routes.add(Route(30, 2, b"two", 1))
    assert routes.cancel(b"one", 1).first == 10
    assert routes.cancel(b"one", 1) is None
    assert routes.pending(b"one").tolist() == [[3, 2]]
    assert [route.first for route in routes.forget(b"one")] == [20]
    batch = events((Kind.READ, 0, 10), (Kind.READ, 0, 21), (Kind.READ, 0, 31))
    records, owners, clients = routes.resolve(batch, is_answer(batch))
    assert told(records) == [(Kind.READ, 0, 2)]
    assert (owners.tolist(), clients) == ([0], [b"two"])
    assert routes.strays == 2
    assert routes.pending(b"two").tolist() == [[1, 1]]


@settings(max_examples=60)
@given(data=st.data())
def test_every_answer_finds_its_client(data):
    """Routes of many sizes, ids that wrap round, answers shuffled into batches."""
    routes, expected = Routes(), {}
    id_ = data.draw(st.sampled_from([1, 1000, 2**32 - 200]))
    for number in range(data.draw(st.integers(1, 8))):
        n = data.draw(st.integers(1, 20))
        if id_ + n > 0xFFFFFFFF:
            id_ = 1
        client, token = b"AB"[number % 2 :][:1], 1000 * number + 1
        routes.add(Route(id_, n, client, token))
        expected.update({id_ + i: (client, token + i) for i in range(n)})
        id_ += n
    ids = data.draw(st.permutations(sorted(expected)))
    while ids:
        size = data.draw(st.integers(1, len(ids)))
        part, ids = ids[:size], ids[size:]
        batch = events(*[(Kind.READ, i, id_) for i, id_ in enumerate(part)])
        records, owners, clients = routes.resolve(batch, is_answer(batch))
        got = [(clients[o], int(t)) for o, t in zip(owners.tolist(), records["token"], strict=True)]
        assert got == [expected[id_] for id_ in part]
    assert len(routes) == 0


# --- what is waited for -----------------------------------------------------------------------------


def test_only_what_was_not_answered_fails():
    pending = Pending()
    pending.add(1, array(10, 11, 12), 0)
    pending.add(4, array(20), 0)
    pending.add(5, array(30, 31), 0)
    pending.answered(array(2, 5, 6))
    failed = pending.fail_all(24)
    assert told(failed) == [(Kind.FAILED, 10, 1), (Kind.FAILED, 12, 3), (Kind.FAILED, 20, 4)]
    assert failed["status"].tolist() == [24, 24, 24]
    assert len(pending) == 0
    assert len(pending.fail_all(24)) == 0


def test_what_the_worker_still_works_at_does_not_fail():
    pending = Pending()
    pending.add(1, array(10, 11, 12), 0)  # one answer lost
    pending.add(4, array(20), 0)  # its answer lost
    pending.add(5, array(30, 31), 0)  # under way
    pending.add(7, array(40), 0)  # under way
    pending.add(8, array(50), 1)  # asked after the question
    pending.answered(array(2))
    failed = pending.compare(np.array([[1, 1], [5, 2], [7, 1]], np.uint32), 1, 10)
    assert told(failed) == [(Kind.FAILED, 10, 1), (Kind.FAILED, 12, 3), (Kind.FAILED, 20, 4)]
    assert told(pending.fail_all(24)) == [
        (Kind.FAILED, 30, 5),
        (Kind.FAILED, 31, 6),
        (Kind.FAILED, 40, 7),
        (Kind.FAILED, 50, 8),
    ]


def test_what_was_sent_late_is_judged_late():
    pending = Pending()
    pending.add(1, array(10), 0)
    pending.asked_after(1, 3)
    assert len(pending.compare(np.zeros((0, 2), np.uint32), 3, 10)) == 0
    assert told(pending.compare(np.zeros((0, 2), np.uint32), 4, 10)) == [(Kind.FAILED, 10, 1)]


def test_what_was_given_up_is_not_waited_for():
    pending = Pending()
    pending.add(1, array(10, 11), 0)
    pending.add(3, array(12), 0)
    pending.discard(1)
    pending.answered(array(1, 2, 3, 99))
    assert len(pending) == 0


# --- the link's channels ----------------------------------------------------------------------------


def test_slots_that_agree_are_not_touched():
    channels = LinkChannels()
    assert channels.add(["a", "b"]).tolist() == [0, 1]
    assert channels.add(["c"]).tolist() == [2]
    channels.locate(0, array(0, 1))
    channels.locate(2, array(2))
    batch = events((Kind.UPDATE, 2, 5), (Kind.UPDATE, 0, 5))
    assert channels.ours(batch, is_shared=False) is batch


def test_slots_that_differ_are_mapped_and_those_of_others_left_out():
    channels = LinkChannels()
    channels.add(["a", "b", "c"])
    channels.locate(0, array(7, 3, 100))
    batch = events((Kind.UPDATE, 3, 1), (Kind.UPDATE, 5, 2), (Kind.UPDATE, 100, 3), (Kind.UPDATE, 5000, 4))
    assert told(channels.ours(batch, is_shared=True)) == [(Kind.UPDATE, 1, 1), (Kind.UPDATE, 2, 3)]
    assert told(batch)[0] == (Kind.UPDATE, 3, 1)
    channels.forget_worker()
    assert len(channels.ours(batch, is_shared=False)) == 0
    channels.locate(0, array(0, 1, 2))
    same = events((Kind.UPDATE, 1, 9))
    assert channels.ours(same, is_shared=False) is same
    # Equal slots, but somebody else has channels there too.
    assert told(channels.ours(events((Kind.UPDATE, 1, 9), (Kind.UPDATE, 3, 9)), is_shared=True)) == [(1, 1, 9)]


def state(kind, slot, native=0, count=0, status=0):
    record = np.zeros(1, EVENT)
    record["kind"], record["slot"], record["dbr_type"], record["count"] = kind, slot, native, count
    record["status"] = status
    return record


def test_a_lost_worker_loses_what_was_connected():
    channels = LinkChannels()
    channels.add(["a", "b", "c", "d"])
    batch = np.concatenate(
        [
            state(Kind.CONNECTED, 1, 6, 1, Access.READ),
            state(Kind.CONNECTED, 3, 4, 100, Access.READ | Access.WRITE),
            state(Kind.CONNECTED, 2, 1, 1, Access.READ),
            state(Kind.DISCONNECTED, 2, status=Reason.CLOSED),
            state(Kind.DISCONNECTED, 0, status=Reason.CLOSED),  # which never was connected
            state(Kind.ACCESS, 1, status=Access.NONE),
        ]
    )
    kept = channels.take_states(batch)
    assert [(int(r["kind"]), int(r["slot"])) for r in kept] == [(5, 1), (5, 3), (5, 2), (6, 2), (7, 1)]
    slots, lost = channels.disconnect(Reason.WORKER_LOST)
    assert slots.tolist() == [1, 3]
    assert told(lost) == [(Kind.DISCONNECTED, 1, 0), (Kind.DISCONNECTED, 3, 0)]
    assert lost["status"].tolist() == [Reason.WORKER_LOST] * 2
    assert len(channels.disconnect(Reason.WORKER_LOST)[1]) == 0
    back = channels.reconnect(slots)
    assert told(back) == [(Kind.CONNECTED, 1, 0), (Kind.CONNECTED, 3, 0)]
    assert back["dbr_type"].tolist() == [6, 4]
    assert back["count"].tolist() == [1, 100]
    assert back["status"].tolist() == [Access.NONE, Access.READ | Access.WRITE]


def test_a_loss_is_told_of_all_slots():
    (record,) = lost_event(12345)
    assert (record["kind"], record["slot"], record["count"]) == (Kind.LOST, ALL_SLOTS, 12345)
    assert lost_event(2**40)["count"] == 0xFFFFFFFF


# --- the worker's books -----------------------------------------------------------------------------


def test_a_name_is_open_as_long_as_somebody_uses_it():
    names = SharedNames()
    assert names.missing(["a", "b", "a"]) == ["a", "b"]
    names.opened(["a", "b"], array(4, 9))
    assert names.use(["b", "a"]).tolist() == [9, 4]
    assert names.missing(["a", "c"]) == ["c"]
    names.opened(["c"], array(200))
    assert names.use(["a", "c"]).tolist() == [4, 200]
    by_slot = {4: "a", 9: "b", 200: "c"}
    assert names.release(array(9, 4), by_slot).tolist() == [9]
    assert names.release(array(4, 200), by_slot).tolist() == [4, 200]
    assert len(names) == 0


def test_a_subscription_is_made_once():
    shared = SharedSubscriptions()
    new, there = shared.use(array(3, 500))
    assert (new.tolist(), there.tolist()) == ([3, 500], [])
    shared.opened(new, array(70, 71))
    new, there = shared.use(array(500, 6))
    assert (new.tolist(), there.tolist()) == ([6], [500])
    shared.opened(new, array(72))
    assert shared.release(array(3, 500)).tolist() == [70]
    assert shared.release(array(500, 6)).tolist() == [71, 72]
    assert shared.use(array(3))[0].tolist() == [3]


def test_a_client_counts_its_own_channels():
    client = Client(b"12345678")
    client.add(0, array(5, 6))
    client.add(2, array(100))
    assert client.known().tolist() == [5, 6, 100]
    client.is_subscribed(5)[[0, 2]] = True
    assert client.subscribed(5).tolist() == [5, 100]
    client.add(3, np.arange(200, dtype=np.uint32))
    assert client.subscribed(5).tolist() == [5, 100]
    assert client.slots[client.end :].tolist() == [NONE] * (len(client.slots) - 203)


# --- requests ---------------------------------------------------------------------------------------


def request(code, arguments, *frames):
    return Request(b"12345678", code, arguments, frames)


@pytest.mark.parametrize(
    "made",
    [
        request(Code.ADD, [0, ["a", "b"]]),
        request(Code.READ, [1, 255, 0], b"1234"),
        request(Code.WRITE_ONE, [0, 3, 6, 1], b"payload"),
        request(Code.WRITE_DOUBLES, [0], b"", b""),
        request(Code.HELLO, []),
    ],
)
def test_a_request_with_all_it_needs_passes(made):
    assert check(made) == made.code


@pytest.mark.parametrize(
    "made",
    [
        request(200, []),
        request(Code.HELLO, [1]),
        request(Code.HELLO, [], b""),
        request(Code.ADD, [0, ["a", 1]]),
        request(Code.ADD, [-1, ["a"]]),
        request(Code.ADD, [0, "a"]),
        request(Code.READ, [1, 255], b"1234"),
        request(Code.READ, [1, 255, 2**32], b"1234"),
        request(Code.READ, [1, 255, "x"], b"1234"),
        request(Code.READ, [True, 255, 0], b"1234"),
        request(Code.READ, [1, 255, 0]),
        request(Code.WRITE_DOUBLES, [0], b""),
    ],
)
def test_a_request_without_it_does_not(made):
    with pytest.raises(TransportError):
        check(made)


def test_slots_and_numbers_are_checked():
    assert slots_of(array(1, 2).tobytes(), 3).tolist() == [1, 2]
    assert slots_of(b"", 0).tolist() == []
    with pytest.raises(TransportError, match="slot 3"):
        slots_of(array(1, 3).tobytes(), 3)
    with pytest.raises(TransportError, match="5 bytes"):
        slots_of(b"12345", 3)
    assert doubles_of(np.array([1.5]).tobytes(), 1).tolist() == [1.5]
    with pytest.raises(TransportError, match="8 bytes"):
        doubles_of(bytes(8), 2)
