"""Messages between processes: what is written is read, and whatever else comes is a TransportError."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqca.broker.messages import (
    INLINE,
    MessageKind,
    Right,
    client_topic,
    decode_message,
    decode_request,
    encode_message,
    encode_request,
    request_code,
    right_for,
    shard_topic,
)
from daqca.errors import TransportError
from daqca.events import EVENT

STREAM = b"stream-1"
ids = st.binary(min_size=8, max_size=8)
counters = st.integers(0, 2**64 - 1)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary(), inner, max_size=4),
    max_leaves=10,
)


def records(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n * EVENT.itemsize, np.uint8).tobytes()


@given(
    topic=st.one_of(ids.map(shard_topic), ids.map(client_topic)),
    stream=ids,
    kind=st.integers(0, 200),
    number=counters,
    span=st.integers(1, 2**32),
    before=counters,
    body=plain,
    counts=st.lists(st.integers(0, 40), max_size=3),
    block=st.binary(max_size=200) | st.integers(INLINE - 1, INLINE + 1).map(bytes),
)
def test_a_message_survives_its_way(topic, stream, kind, number, span, before, body, counts, block):
    pieces = [records(n, i) for i, n in enumerate(counts)]
    frames = encode_message(topic, stream, kind, number, span, before, body, pieces, block)
    assert len(frames) == (2 if len(block) >= INLINE else 1)
    message = decode_message([bytes(frame) for frame in frames])
    assert (message.topic, message.stream, message.kind) == (topic, stream, kind)
    assert (message.number, message.span, message.before, message.body) == (number, span, before, body)
    assert bytes(message.records) == b"".join(pieces)
    assert bytes(message.block) == block
    assert message.events == sum(counts)
    assert message.size == 32 * sum(counts) + len(block)


def test_records_begin_where_numpy_reads_them_fast():
    for body in (None, "x", [1, b"yy"], {"a": 1.5}, ["127.0.0.1:5064"] * 20_000):
        data = records(3)
        (frame,) = encode_message(shard_topic(STREAM), STREAM, 0, 1, 1, 2, body, [data], b"block")
        assert frame.index(data) % 8 == 0
        batch = decode_message([frame]).batch()
        assert batch.records.tobytes() == data
        assert bytes(batch.block) == b"block"


@given(frames=st.lists(st.binary(max_size=300), max_size=4))
def test_rubbish_is_a_transport_error(frames):
    with pytest.raises(TransportError):
        decode_message(frames)
    # What msgpack reads as a list that begins with a small number is a request; nothing else is.
    try:
        request = decode_request(frames)
    except TransportError:
        return
    assert msgpack.unpackb(frames[1]) == [request.code, *request.arguments]
    assert 0 <= request.code <= 255
    assert request.client == frames[0]
    assert len(request.client) == 8


@given(data=st.data())
def test_a_damaged_message_is_read_or_refused_and_nothing_else(data):
    body = data.draw(plain)
    (frame,) = encode_message(shard_topic(STREAM), STREAM, MessageKind.BATCH, 5, 1, 7, body, [records(3)], b"abc")
    damaged = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    try:
        message = decode_message([bytes(damaged)])
    except TransportError:
        return
    assert len(message.records) == 32 * message.events
    assert message.events + message.number + message.before >= 0
    assert message.span >= 1


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ([0, 1, 1, 2], "four items"),
        ([0, 1, 1, 2, None, None], "six items"),
        ({}, "a map"),
        ([0, -1, 1, 2, None], "a negative number"),
        ([0, 1, 0, 2, None], "a span of none"),
        ([0, 1, 1, 2.0, None], "a float"),
        ([True, 1, 1, 2, None], "a boolean"),
        ([0, "1", 1, 2, None], "a text"),
    ],
)
def test_a_header_that_is_none_is_refused(header, why):
    (frame,) = encode_message(shard_topic(STREAM), STREAM, 0, 1, 1, 2)
    packed = msgpack.packb(header)
    prefix = frame[:12] + len(packed).to_bytes(4, "little") + frame[16:32]
    with pytest.raises(TransportError, match="header"):
        decode_message([prefix + packed + bytes(-len(packed) & 7)])


def test_the_cases_that_are_refused_say_why():
    (frame,) = encode_message(shard_topic(STREAM), STREAM, 0, 1, 1, 2, None, [records(2)], b"small")
    with pytest.raises(TransportError, match="two blocks"):
        decode_message([frame, b"another"])
    with pytest.raises(TransportError, match="not 0"):
        decode_message([])
    with pytest.raises(TransportError, match="not 3"):
        decode_message([frame, b"", b""])
    with pytest.raises(TransportError, match="too short"):
        decode_message([frame[:20]])
    with pytest.raises(TransportError, match="should have"):
        decode_message([frame[:60]])
    with pytest.raises(TransportError, match="not daqca"):
        decode_message([b"X" + frame[1:]])
    with pytest.raises(TransportError, match="not daqca"):
        decode_message([frame[:9] + b"\2" + frame[10:]])
    unhashable = frame[:12] + (3).to_bytes(4, "little") + frame[16:32] + b"\x81\x90\x01" + bytes(5)
    with pytest.raises(TransportError):
        decode_message([unhashable])
    deep = b"\x91" * 5000
    nested = frame[:12] + len(deep).to_bytes(4, "little") + frame[16:32] + deep
    with pytest.raises(TransportError):
        decode_message([nested])


@given(client=ids, code=st.integers(0, 255), arguments=st.lists(plain, max_size=4), frames=st.lists(st.binary()))
def test_a_request_survives_its_way(client, code, arguments, frames):
    sent = encode_request(code, arguments, frames)
    assert request_code(sent[0]) == code
    request = decode_request([client, *sent])
    assert (request.client, request.code, request.arguments) == (client, code, arguments)
    assert list(request.frames) == frames


@given(code=st.integers(0, 255))
def test_the_code_tells_the_right_that_is_needed(code):
    expected = Right.READER if code < 64 else Right.WRITER if code < 128 else Right.OWNER
    assert right_for(code) is expected


def test_a_request_of_nobody_is_refused():
    with pytest.raises(TransportError, match="no client"):
        decode_request([b"short", *encode_request(1)])
    with pytest.raises(TransportError, match="two frames"):
        decode_request([b"12345678"])
    for header in (b"", b"\xc1", msgpack.packb([]), msgpack.packb([256]), msgpack.packb(["1"]), msgpack.packb({1: 2})):
        with pytest.raises(TransportError):
            decode_request([b"12345678", header])
        with pytest.raises(TransportError):
            request_code(header)
