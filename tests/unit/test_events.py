"""The batch: rows and records are two forms of the same events, and offsets stay true through the builder."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqca import events
from daqca.events import EVENT, EVENT_BLOCK, Batch, BatchBuilder, Event, Kind, different

U1 = st.integers(0, 0xFF)
U4 = st.integers(0, 0xFFFFFFFF)
NUMBERS = st.floats(allow_nan=False)
ARRAY_TYPES = st.sampled_from([1, 2, 3, 4, 5, 6])


@st.composite
def valid_rows(draw: st.DrawFn) -> tuple:
    """Any event as its producer writes it: (offset, length) where its data is in the block, else a number."""
    kind = draw(st.sampled_from(list(Kind)))
    dbr_type, count = draw(U1), draw(st.sampled_from([0, 1, 2, 1000]) | U4)
    if kind in events.VALUE_KINDS:
        dbr_type = draw(st.integers(0, 6))
    placed = kind == Kind.PROPERTY or (kind in events.VALUE_KINDS and not events.is_number(kind, dbr_type, count))
    value = draw(st.tuples(U4, U4) if placed else NUMBERS)
    timestamp = draw(st.integers(-(2**63), 2**63 - 1))
    return (draw(U4), int(kind), dbr_type, draw(U1), draw(U1), timestamp, value, count, draw(U4))


def update(slot: int, value: float | tuple[int, int], dbr_type: int = 6, count: int = 1) -> tuple:
    return (slot, int(Kind.UPDATE), dbr_type, 0, 0, 1_700_000_000_000_000_000, value, count, 0)


# The record


def test_a_record_is_32_bytes_without_holes_and_the_overlay_agrees() -> None:
    assert EVENT.itemsize == EVENT_BLOCK.itemsize == 32
    assert sum(EVENT[name].itemsize for name in EVENT.names) == 32
    for name in set(EVENT.names) - {"value"}:
        assert EVENT.fields[name] == EVENT_BLOCK.fields[name], name
    assert EVENT.fields["value"][1] == EVENT_BLOCK.fields["offset"][1] == 16
    assert Event._fields == EVENT.names


def test_the_bytes_of_a_record_are_those_of_the_documented_layout() -> None:
    row = (7, Kind.UPDATE, 6, 3, 2, -5, 1.25, 1, 9)
    assert events.records_from_rows([row]).tobytes() == struct.pack("<IBBBBqdII", *row)
    placed = (7, Kind.READ, 4, 3, 2, 5, (40, 12), 12, 9)
    expected = struct.pack("<IBBBBqIIII", *placed[:6], 40, 12, 12, 9)
    assert events.records_from_rows([placed]).tobytes() == expected


def test_the_epoch_of_epics_is_1990() -> None:
    assert np.datetime64(events.EPICS_EPOCH_NS, "ns") == np.datetime64("1990-01-01T00:00:00", "ns")


# Rows and records


@given(st.lists(valid_rows(), max_size=20))
def test_rows_survive_the_way_through_records(rows: list[tuple]) -> None:
    small = Batch(rows=rows)
    large = Batch(small.records)
    assert list(large.rows()) == rows
    assert list(large) == list(small) == [Event(*row) for row in rows]
    assert len(small) == len(large) == len(rows)


@given(st.binary(max_size=32 * 20))
def test_records_survive_the_way_through_rows_whatever_their_bytes(data: bytes) -> None:
    records = np.frombuffer(data[: len(data) // 32 * 32], EVENT)
    again = events.records_from_rows(Batch(records).rows())
    for name in EVENT.names:
        column, copy = records[name], again[name]
        if name == "value":  # the payload of a NaN that nobody wrote is not kept, any other bit is
            column, copy = np.where(np.isnan(column), np.nan, column), np.where(np.isnan(copy), np.nan, copy)
        assert column.tobytes() == copy.tobytes(), name


@given(st.binary(max_size=32 * 20))
def test_the_predicates_for_columns_agree_with_those_for_one_event(data: bytes) -> None:
    records = np.frombuffer(data[: len(data) // 32 * 32], EVENT).copy()
    records["kind"] %= 12
    records["dbr_type"] %= 9
    records["count"] %= 3
    number, block = events.has_number(records), events.has_block(records)
    assert number.shape == block.shape == records.shape
    for i, record in enumerate(records):
        kind, dbr_type, count = int(record["kind"]), int(record["dbr_type"]), int(record["count"])
        assert number[i] == events.is_number(kind, dbr_type, count)
        assert block[i] == (kind == Kind.PROPERTY or (kind in events.VALUE_KINDS and not number[i]))


@pytest.mark.parametrize(
    ("dbr_type", "count", "number"),
    [(0, 1, False), (1, 1, True), (3, 1, True), (6, 1, True), (7, 1, False), (6, 0, False), (6, 2, False)],
)
def test_which_events_keep_a_number(dbr_type: int, count: int, number: bool) -> None:
    row = update(0, 1.5 if number else (0, 8), dbr_type, count)
    records = events.records_from_rows([row])
    assert events.has_number(records).tolist() == [number]
    assert events.has_block(records).tolist() == [not number]
    assert Batch(records).rows() == [row]


def test_an_event_without_data_has_neither_number_nor_block() -> None:
    records = np.zeros(12, EVENT)
    records["kind"] = np.arange(12)
    records["dbr_type"], records["count"] = 6, 1
    assert np.flatnonzero(events.has_number(records)).tolist() == [Kind.UPDATE, Kind.READ]
    assert np.flatnonzero(events.has_block(records)).tolist() == [Kind.PROPERTY]


def test_a_batch_knows_which_form_is_at_hand() -> None:
    row = update(3, 2.5)
    small = Batch(rows=[row])
    large = Batch(small.records)
    assert small.is_small
    assert not large.is_small
    assert large.rows() == [row]
    assert large.is_small
    assert small.records is small.records  # made once
    assert len(Batch()) == len(Batch().records) == len(Batch().rows()) == 0


def test_select_takes_events_by_mask_or_index_and_shares_the_block() -> None:
    batch = Batch(rows=[update(0, 1.0), update(1, (0, 2), 4, 2), update(2, 3.0)], block=b"\x01\x02")
    taken = batch.select(np.array([False, True, True]))
    assert [event.slot for event in taken] == [1, 2]
    assert taken.block is batch.block
    assert batch.select(np.array([2, 0])).records["value"].tolist() == [3.0, 1.0]
    offset, length = next(iter(taken)).value
    assert bytes(taken.data(offset, length)) == b"\x01\x02"


# The builder

PIECES = st.lists(st.tuples(st.binary(max_size=12), st.booleans(), st.booleans()), max_size=12)


@given(PIECES)
def test_offsets_point_to_the_stored_bytes_in_the_order_of_collection(pieces: list[tuple[bytes, bool, bool]]) -> None:
    builder = BatchBuilder()
    for slot, (data, as_records, as_view) in enumerate(pieces):
        place = builder.store(memoryview(data) if as_view else data)
        assert place[1] == len(data)
        row = update(slot, place, dbr_type=0, count=1)
        if as_records:
            builder.extend(events.records_from_rows([row]))
        else:
            builder.rows.append(row)
    assert bool(builder) == bool(pieces)
    batch = builder.build()
    assert [event.slot for event in batch] == list(range(len(pieces)))
    assert [bytes(batch.data(*event.value)) for event in batch] == [data for data, _, _ in pieces]
    assert bytes(batch.block) == b"".join(data for data, _, _ in pieces)
    assert len(batch.records) == len(batch) == len(pieces)


def test_the_builder_is_empty_after_build_and_offsets_start_again() -> None:
    builder = BatchBuilder()
    assert not builder
    builder.rows.append(update(0, builder.store(b"first"), 0))
    first = builder.build()
    assert not builder
    assert len(builder.build()) == 0
    assert builder.store(b"second") == (0, 6)
    builder.rows.append(update(1, (0, 6), 0))
    second = builder.build()
    assert (bytes(first.block), bytes(second.block)) == (b"first", b"second")
    assert first.rows() == [update(0, (0, 5), 0)]


def test_a_batch_of_rows_alone_stays_small_and_one_piece_is_not_copied() -> None:
    builder = BatchBuilder()
    builder.rows.append(update(0, 1.0))
    assert builder.build().is_small
    records, data = events.records_from_rows([update(0, 1.0)]), bytearray(b"frame")
    builder.extend(records)
    builder.store(memoryview(data))
    batch = builder.build()
    assert batch.records is records
    assert np.shares_memory(np.frombuffer(batch.block, "u1"), np.frombuffer(data, "u1"))


# The data


@given(ARRAY_TYPES, st.data())
def test_arrays_of_every_numeric_type_are_decoded_from_network_order(dbr_type: int, data: st.DataObject) -> None:
    code = {1: "h", 2: "f", 3: "H", 4: "B", 5: "i", 6: "d"}[dbr_type]
    size = struct.calcsize(">" + code)
    raw = data.draw(st.binary(max_size=size * 9))
    count = len(raw) // size
    array = events.decode(raw, dbr_type, count)
    expected = struct.unpack(f">{count}{code}", raw[: count * size])
    assert array.shape == (count,)
    assert array.dtype == np.dtype(code)
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, np.array(expected, code))


@given(st.lists(st.binary(max_size=40).map(lambda text: text.rstrip(b"\0")), max_size=5), st.booleans())
def test_strings_are_decoded_also_when_the_last_is_cut_short(texts: list[bytes], cut: bool) -> None:
    raw = b"".join(text.ljust(40, b"\0") for text in texts)
    if cut and texts:  # a server sends one string without the zeros that fill it up
        raw = raw[: (len(texts) - 1) * 40 + len(texts[-1])]
    array = events.decode(memoryview(raw), 0, len(texts))
    assert array.dtype == np.dtype("S40")
    assert array.tolist() == texts


def test_decoding_takes_count_elements_and_refuses_too_few_bytes() -> None:
    assert events.decode(struct.pack(">4h", 1, -2, 3, 4), 1, 2).tolist() == [1, -2]
    assert events.decode(b"", 6, 0).tolist() == []
    with pytest.raises(ValueError, match="buffer"):
        events.decode(b"\0" * 15, 6, 2)


def test_byte_arrays_are_not_copied() -> None:
    frame = bytes(range(256))
    array = events.decode(frame, 4, 256)
    assert array.tolist() == list(frame)
    assert np.shares_memory(array, np.frombuffer(frame, "u1"))
    assert not array.flags.writeable


@pytest.mark.parametrize("values", [[], [3], [1, 2, 3], [3, 1, 3, 2, 1], [5, 5, 5]])
def test_different_values_are_those_of_numpy(values):
    column = np.array(values, np.uint32)
    found = different(column)
    assert found.tolist() == np.unique(column).tolist()
    assert found.dtype == column.dtype
