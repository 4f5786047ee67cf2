"""From the bytes of one message to its event: every DBR type, as a row and in a column."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import wire

from daqca.ca import dbr, decode
from daqca.errors import ProtocolError
from daqca.events import Batch, BatchBuilder, Event, Kind

ALL_TYPES = range(39)
VALUES = {
    wire.STRING: [b"text", b"", b"x" * 40, "\u00b5A".encode(), b"a\0b"],
    wire.SHORT: [-32768, 32767, 0, -1, 258],
    wire.FLOAT: [1.5, -0.0, float("inf"), 2.0**-149, float("nan")],
    wire.ENUM: [0, 65535, 1, 15, 256],
    wire.CHAR: [0, 255, 127, 128, 65],
    wire.LONG: [-(2**31), 2**31 - 1, 0, -1, 0x01020304],
    wire.DOUBLE: [1e308, -0.0, float("-inf"), 5e-324, float("nan")],
}


def row(message: bytes, kind: int = Kind.READ) -> tuple[Event, Batch]:
    """Decode a message as a row; it does not begin at the start of its buffer."""
    (parsed,) = wire.parse(message)
    form = decode.layout(parsed.data_type, parsed.count, len(parsed.payload))
    builder = BatchBuilder()
    builder.store(b"before")
    decode.data_row(bytearray(b"12345" + parsed.payload + b"after"), 5, form, 3, kind, parsed.p2, builder)
    batch = builder.build()
    (event,) = batch
    return event, batch


def column(messages: list[bytes], kind: int = Kind.READ) -> tuple[list[Event], Batch]:
    parsed = [wire.parse(message)[0] for message in messages]
    form = decode.layout(parsed[0].data_type, parsed[0].count, len(parsed[0].payload))
    array = np.frombuffer(b"".join(messages), form.dtype)
    builder = BatchBuilder()
    builder.store(b"before")
    ids = np.array([message.p2 for message in parsed], np.uint32)
    builder.extend(decode.data_records(array, form, np.full(len(ids), 3, np.uint32), kind, ids, builder))
    batch = builder.build()
    return list(batch), batch


def content(event: Event, batch: Batch) -> bytes:
    """The value's bytes as the wire has them, whether it is in the block or a number."""
    if isinstance(event.value, tuple):
        return bytes(batch.data(*event.value))
    return struct.pack(">" + wire.CODES[event.dbr_type], wire_number(event))


def wire_number(event: Event) -> float | int:
    assert isinstance(event.value, float)
    return event.value if event.dbr_type in (wire.FLOAT, wire.DOUBLE) else int(event.value)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("data_type", ALL_TYPES)
def test_every_type_as_a_row_and_in_a_column(data_type: int, count: int) -> None:
    plain = wire.plain(data_type)
    alarm = {"status": 17, "severity": 3, "seconds": 1_000_000_000, "nanoseconds": 123_456_789}
    messages = []
    for i in range(5):
        items = (VALUES[plain][i:] + VALUES[plain][:i])[:count]
        messages.append(wire.value(wire.READ_NOTIFY, data_type, items, 70 + i, **alarm))
    events, batch = column(messages)
    assert len(events) == 5
    is_value = data_type < wire.GR
    for i, (message, event) in enumerate(zip(messages, events, strict=True)):
        payload = wire.parse(message)[0].payload
        size = wire.OFFSETS[data_type] + count * struct.calcsize(wire.CODES[plain])
        expected = payload[wire.OFFSETS[data_type] : size] if is_value else payload
        if plain == wire.FLOAT and is_value and count == 1:
            assert event.value == pytest.approx(struct.unpack(">f", expected)[0], nan_ok=True)
        else:
            assert content(event, batch) == expected
        assert (event.slot, event.kind, event.token, event.count) == (3, Kind.READ, 70 + i, count)
        assert event.dbr_type == (plain if is_value else data_type)
        has_alarm = 7 <= data_type < 35 or data_type == 37
        assert (event.status, event.severity) == ((17, 3) if has_alarm else (0, 0))
        stamp = (wire.UNIX_1990 + 1_000_000_000) * 10**9 + 123_456_789
        assert event.timestamp == (stamp if wire.TIME <= data_type < wire.GR else 0)
        alone, its_batch = row(message)
        assert content(alone, its_batch) == content(event, batch)
        assert alone[:6] + alone[7:] == event[:6] + event[7:]


@pytest.mark.parametrize("data_type", range(21))
def test_the_first_value_is_where_db_access_h_has_it(data_type: int) -> None:
    assert decode.VALUE_OFFSET[data_type] == wire.OFFSETS[data_type] == dbr.value_offset(data_type)


@given(
    st.integers(0, 0xFFFFFFFF), st.integers(0, 999_999_999), st.sampled_from(range(wire.TIME, wire.GR)), st.booleans()
)
def test_timestamps_are_exact_to_the_nanosecond(seconds: int, nanoseconds: int, data_type: int, array: bool) -> None:
    items = VALUES[wire.plain(data_type)][: 2 if array else 1]
    message = wire.value(wire.EVENT_ADD, data_type, items, 0, seconds=seconds, nanoseconds=nanoseconds)
    expected = (wire.UNIX_1990 + seconds) * 10**9 + nanoseconds
    assert row(message)[0].timestamp == expected
    assert [event.timestamp for event in column([message] * 3)[0]] == [expected] * 3


@pytest.mark.parametrize("data_type", [wire.STRING, wire.STS, wire.TIME])
@pytest.mark.parametrize("text", [b"", b"a", b"1234567", b"12345678", b"a longer string, of 33 characters"])
def test_a_string_may_come_without_its_trailing_zeros(data_type: int, text: bytes) -> None:
    """As pcaspy sends it; the block keeps 40 bytes all the same."""
    head = wire.head(data_type, 1, 2, 3, 4)
    message = wire.message(wire.READ_NOTIFY, head + text + b"\0", data_type, 1, 1, 9)
    for event, batch in [
        row(message),
        *((event, batch) for events, batch in [column([message] * 4)] for event in events),
    ]:
        assert event.value[1] == 40
        assert bytes(batch.data(*event.value)) == text.ljust(40, b"\0")


def test_a_string_of_no_bytes_is_empty_and_not_what_lies_elsewhere() -> None:
    message = wire.message(wire.READ_NOTIFY, wire.head(wire.TIME, 0, 0, 5, 6), wire.TIME, 1, 1, 9)
    message = struct.pack(">HHHHII", 15, 12, 14, 1, 1, 9) + wire.head(wire.TIME, 0, 0, 5, 6)
    form = decode.layout(14, 1, 12)
    builder = BatchBuilder()
    builder.store(b"of somebody else".ljust(80, b"!"))
    array = np.frombuffer(message * 4, form.dtype)
    zeros = np.zeros(4, np.uint32)
    builder.extend(decode.data_records(array, form, zeros, int(Kind.READ), zeros, builder))
    batch = builder.build()
    assert [bytes(batch.data(*event.value)) for event in batch] == [bytes(40)] * 4


@pytest.mark.parametrize("count", [1, 2, 1000, 0xFFFFFFFF])
@pytest.mark.parametrize("data_type", ALL_TYPES)
def test_values_that_do_not_fit_are_no_channel_access(data_type: int, count: int) -> None:
    plain = wire.plain(data_type)
    needed = wire.OFFSETS[data_type] + count * struct.calcsize(wire.CODES[plain])
    shorter = min(needed - 1, 1 << 20)
    if plain == wire.STRING and count == 1:
        shorter = wire.OFFSETS[data_type] - 1
    if shorter < 0:
        return
    with pytest.raises(ProtocolError, match=r"do(es)? not fit into a payload"):
        decode.layout(data_type, count, shorter)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF) | st.integers(0, 50), st.integers(0, 2000))
def test_a_layout_exists_or_is_refused_and_never_reaches_beyond_its_payload(
    data_type: int, count: int, size: int
) -> None:
    try:
        form = decode.layout(data_type, count, size)
    except ProtocolError:
        return
    assert form.dtype.itemsize == 16 + size
    assert form.data_offset + form.data_length <= size
    payload = bytearray(size)
    builder = BatchBuilder()
    decode.data_row(payload, 0, form, 0, int(Kind.READ), 0, builder)
    assert len(builder.build()) == 1


@pytest.mark.parametrize("data_type", [39, 40, 255, 0xFFFF])
def test_a_type_that_does_not_exist(data_type: int) -> None:
    with pytest.raises(ProtocolError, match=f"DBR type {data_type} does not exist"):
        decode.layout(data_type, 1, 1000)


def test_chars_above_127_are_mended_where_the_channel_is_a_char_and_nowhere_else() -> None:
    numbers = [-128.0, -1.0, 0.0, 127.0, -1.0, float("nan")]
    messages = [wire.read_reply(i, number) for i, number in enumerate(numbers)]
    events, batch = column(messages)
    records = batch.records.copy()
    decode.unsigned_chars(records, np.array([True, True, True, True, False, True]))
    assert records["value"].tolist()[:5] == [128.0, 255.0, 0.0, 127.0, -1.0]
    assert np.isnan(records["value"][5])
    assert len(events) == 6


def test_failed_answers_carry_their_error_and_nothing_else() -> None:
    messages = [wire.value(wire.READ_NOTIFY, 20, [1.0], i, status=3, severity=2, seconds=5) for i in range(4)]
    _, batch = column(messages)
    records = batch.records.copy()
    eca = np.array([wire.NORMAL, wire.NORDACCESS, wire.GETFAIL, 0xFFFFFFFF], np.uint32)
    decode.failed_rows(records, eca, Kind.FAILED)
    failed = records[1:]
    assert records["kind"].tolist() == [Kind.READ, *[Kind.FAILED] * 3]
    assert failed["status"].tolist() == [46, 19, 255]
    assert not failed["severity"].any()
    assert not failed["dbr_type"].any()
    assert not failed["count"].any()
    assert not failed["value"].any()
    assert (failed["timestamp"] > 1_600_000_000 * 10**9).all()  # by our clock, for the payload has none
    assert records[0].tolist() == batch.records[0].tolist()
