"""What an engine's table keeps of values that are no numbers."""

from __future__ import annotations

import pytest

from daqca.engine.table import Table
from daqca.events import BatchBuilder, Kind

STRING, DOUBLE = 0, 6


def update(table: Table, *values: tuple[int, bytes]) -> None:
    """Single strings came, by slot, in one batch."""
    builder = BatchBuilder()
    for slot, data in values:
        builder.rows.append((slot, int(Kind.UPDATE), STRING, 0, 0, 1_000, builder.store(data), 1, 1))
    batch = builder.build()
    table.values(batch.records, batch)


@pytest.mark.parametrize("first", [b"whole".ljust(40, b"\0"), b"short\0"])
def test_strings_of_any_length(first: bytes):
    """Some servers do not send all 40 bytes."""
    table = Table()
    update(table, (3, first))
    update(table, (5, b"a\0"), (4, b"b".ljust(40, b"\0")), (6, b""))
    update(table, (5, b"c\0"), (5, b"last\0"))
    found = {slot: table.datum(slot) for slot in (3, 4, 5, 6)}
    assert {slot: datum[:2] for slot, datum in found.items()} == dict.fromkeys(found, (STRING, 1))
    assert [bytes(datum[2]) for datum in found.values()] == [
        first.ljust(40, b"\0"),
        b"b".ljust(40, b"\0"),
        b"last".ljust(40, b"\0"),
        bytes(40),
    ]


def test_a_short_string_takes_the_place_of_a_whole_one():
    table = Table()
    update(table, (1, b"something long".ljust(40, b"\0")))
    update(table, (1, b"x\0"))
    assert bytes(table.datum(1)[2]).rstrip(b"\0") == b"x"
    update(table, (1, b"y\0"), (1, b"something else".ljust(40, b"\0")))
    assert bytes(table.datum(1)[2]).rstrip(b"\0") == b"something else"
