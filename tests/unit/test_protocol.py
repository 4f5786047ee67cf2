"""The messages a client writes: against the header of caProto.h, one by one and in columns."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import wire

from daqca.ca import protocol
from daqca.ca.circuit import greeting
from daqca.ca.protocol import Command, NameMessages, SearchReply
from daqca.errors import ConfigurationError, ProtocolError

U2, U4 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=80)


# One message


@given(U2, st.binary(max_size=100), U2, U2, U4, U4)
def test_a_message_is_a_header_and_a_padded_payload(
    command: int, payload: bytes, data_type: int, count: int, p1: int, p2: int
) -> None:
    data = protocol.message(command, payload, data_type, count, p1, p2)
    size = (len(payload) + 7) // 8 * 8
    assert data == struct.pack(">HHHHII", command, size, data_type, count, p1, p2) + payload.ljust(size, b"\0")
    assert protocol.unpack_header(data, 0) == (command, size, data_type, count, p1, p2)


@pytest.mark.parametrize(
    ("size", "count", "is_large"),
    [(16_368, 0xFFFF, False), (16_369, 1, True), (0, 0x10000, True), (0, 0, False), (1 << 20, 9, True)],
)
def test_the_large_form_is_for_large_payloads_and_large_counts_only(size: int, count: int, is_large: bool) -> None:
    data = protocol.message(Command.WRITE, b"x" * size, 6, count, 7, 8)
    (message,) = wire.parse(data)
    assert message.is_large == is_large
    assert message[:5] == (4, 6, count, 7, 8)
    assert message.payload.rstrip(b"\0") == b"x" * size
    assert data == wire.message(4, b"x" * size, 6, count, 7, 8)


@given(st.integers(0, 1 << 20))
def test_padding_rounds_up_to_eight(size: int) -> None:
    assert protocol.padded(size) == -(-size // 8) * 8


def test_a_text_ends_with_a_zero_even_if_it_fills_its_eight_bytes() -> None:
    (message,) = wire.parse(protocol.text_message(Command.CREATE_CHAN, "12345678", 3, 13))
    assert message.payload == b"12345678" + bytes(8)
    assert (message.p1, message.p2) == (3, 13)


def test_the_commands_have_the_numbers_of_ca_proto_h() -> None:
    for name, number in vars(wire).items():
        if name in Command.__members__:
            assert Command[name] == number, name
    assert Command.RSRV_IS_UP == wire.BEACON
    assert len(Command) == 23


def test_a_circuit_is_opened_with_version_host_and_user() -> None:
    messages = wire.parse(greeting("me", "there", priority=7))
    assert [message.command for message in messages] == [wire.VERSION, wire.HOST_NAME, wire.CLIENT_NAME]
    assert (messages[0].data_type, messages[0].count) == (7, 13)
    assert [message.text for message in messages[1:]] == ["there", "me"]


def test_a_payload_beyond_the_limit_is_refused() -> None:
    protocol.check_size(1 << 30, "it")
    with pytest.raises(ProtocolError, match="it announces a payload of 1073741825 bytes"):
        protocol.check_size((1 << 30) + 1, "it")


# Columns


@given(st.lists(st.tuples(U4, U4), max_size=20), U2, U2, U2)
def test_headers_in_a_column_are_messages_one_after_the_other(
    pairs: list[tuple[int, int]], command: int, data_type: int, count: int
) -> None:
    p1, p2 = (np.array([pair[i] for pair in pairs], np.uint32) for i in (0, 1))
    column = protocol.headers(command, data_type, count, p1, p2)
    assert column.tobytes() == b"".join(
        wire.message(command, b"", data_type, count, a, b, large=False) for a, b in pairs
    )


def test_the_columns_of_the_other_requests() -> None:
    sids, ids = np.array([5, 0xFFFFFFFF], np.uint32), np.array([0xFFFFFFFE, 1], np.uint32)
    events = protocol.event_add_requests(20, 1, sids, ids, np.array([5, 8], np.uint16))
    limits = struct.pack(">fff", 0, 0, 0)
    assert events.tobytes() == b"".join(
        wire.message(wire.EVENT_ADD, limits + struct.pack(">HH", mask, 0), 20, 1, sid, id_)
        for sid, id_, mask in ((5, 0xFFFFFFFE, 5), (0xFFFFFFFF, 1, 8))
    )
    for command in (wire.WRITE, wire.WRITE_NOTIFY):
        writes = protocol.write_double_requests(command, sids, ids, np.array([1.5, -0.0]))
        assert writes.tobytes() == b"".join(
            wire.message(command, struct.pack(">d", value), 6, 1, sid, id_)
            for sid, id_, value in ((5, 0xFFFFFFFE, 1.5), (0xFFFFFFFF, 1, -0.0))
        )


@given(st.lists(NAMES, max_size=30), st.randoms())
def test_names_written_together_are_those_written_one_by_one(names: list[str], random: object) -> None:
    cids = np.array([random.getrandbits(32) for _ in names], np.uint32)  # type: ignore[attr-defined]
    block = NameMessages(names, cids)
    creates = [
        protocol.text_message(Command.CREATE_CHAN, n, cid, 13) for n, cid in zip(names, cids.tolist(), strict=True)
    ]
    assert block.block == b"".join(creates)
    assert np.diff(block.starts).tolist() == [len(create) for create in creates]
    for i, create in enumerate(creates):
        assert block.creates(i, i + 1) == create
        (message,) = wire.parse(create)
        assert message.text == names[i]
    for reply in SearchReply:
        searches = (
            protocol.text_message(Command.SEARCH, n, cid, cid, reply, 13)
            for n, cid in zip(names, cids.tolist(), strict=True)
        )
        assert block.searches(reply) == b"".join(searches)
    assert block.creates(0, len(names)) == block.block  # the searches were written to a copy


@pytest.mark.parametrize("length", [*range(1, 18), 39, 40, 41, 500, 15_999, 16_000])
def test_names_of_every_length_and_alignment(length: int) -> None:
    names = ["a" * length, "b", "c" * length]
    messages = wire.parse(NameMessages(names, np.arange(3, dtype=np.uint32)).block)
    assert [message.text for message in messages] == names
    assert [message.p1 for message in messages] == [0, 1, 2]


@pytest.mark.parametrize("bad", ["", "x" * 16_001, "\u00e4" * 8_001, "half \ud800 a character"])
def test_what_cannot_be_a_name_is_refused_by_name(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a PV"):
        NameMessages(["good", bad], np.arange(2, dtype=np.uint32))


def test_a_name_with_a_zero_inside_is_refused() -> None:
    """The server would read another name, the part before the zero."""
    with pytest.raises(ConfigurationError, match="cannot be the name of a PV"):
        NameMessages(["good", "a\0b"], np.arange(2, dtype=np.uint32))


@given(st.sets(st.integers(0, 60)).map(sorted))
def test_runs_cover_sorted_integers_and_nothing_else(numbers: list[int]) -> None:
    found = protocol.runs(np.array(numbers, np.uint32))
    assert [n for first, end in found for n in range(first, end)] == numbers
    assert all(end < first for (_, end), (first, _) in pairwise(found))
