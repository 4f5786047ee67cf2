"""Which last values are in doubt after a put, and which late updates are passed over."""

from __future__ import annotations

import numpy as np
import pytest

from daqca.engine import doubts
from daqca.engine.table import Table
from daqca.events import Batch, Kind, records_from_rows


def row(slot: int, timestamp: int, value: float, kind: Kind = Kind.UPDATE) -> tuple:
    return (slot, int(kind), 6, 0, 0, timestamp, value, 1, 5)


@pytest.fixture
def table() -> Table:
    """A table with a value of slots 0 to 2, of the time 100."""
    table = Table()
    update(table, *(row(slot, 100, slot) for slot in range(3)))
    return table


def update(table: Table, *rows: tuple) -> None:
    table.values(records_from_rows(rows), Batch(rows=rows))


def value(table: Table, slot: int) -> float:
    return table.numbers.item(slot)


def asked(table: Table, slot: int, timestamp: int, number: float) -> None:
    """A get has brought this, that began just now."""
    serial = table.doubts.serial(slot)
    table.refresh(row(slot, timestamp, number, Kind.READ), Batch(), serial)


def test_a_put_puts_the_last_value_in_doubt_until_it_was_asked_for(table: Table):
    assert table.doubts.serial(1) is None
    table.doubts.doubt(1)
    assert table.doubts.serial(1) is not None
    assert table.doubts.doubted(np.arange(3, dtype=np.uint32)).tolist() == [False, True, False]
    asked(table, 1, 200, 7.0)
    assert table.doubts.serial(1) is None
    assert value(table, 1) == 7.0
    assert table.kinds.item(1) == Kind.UPDATE


def test_a_put_that_ends_while_it_is_asked_leaves_it_in_doubt(table: Table):
    table.doubts.doubt(1)
    before = table.doubts.serial(1)
    table.doubts.doubt(1)
    table.refresh(row(1, 200, 7.0, Kind.READ), Batch(), before)
    assert table.doubts.serial(1) is not None


def test_late_updates_do_not_count_and_others_do(table: Table):
    table.doubts.doubt(1)
    asked(table, 1, 200, 7.0)
    update(table, row(1, 150, 5.0), row(2, 150, 6.0))
    assert (value(table, 1), value(table, 2)) == (7.0, 6.0)
    update(table, row(1, 201, 8.0))
    assert value(table, 1) == 8.0


def test_of_the_same_time_only_the_server_knows_which_is_newer(table: Table):
    table.doubts.doubt(1)
    asked(table, 1, 100, 7.0)
    assert table.doubts.serial(1) is None
    update(table, row(1, 100, 5.0))
    assert table.doubts.serial(1) is not None
    asked(table, 1, 100, 7.0)
    assert value(table, 1) == 7.0
    assert table.doubts.serial(1) is None


def test_an_answer_older_than_what_a_monitor_told_meanwhile_is_not_taken(table: Table):
    table.doubts.doubt(1)
    serial = table.doubts.serial(1)
    update(table, row(1, 300, 9.0))
    table.refresh(row(1, 200, 7.0, Kind.READ), Batch(), serial)
    assert value(table, 1) == 9.0


def test_late_updates_are_looked_for_for_a_while_only(table: Table, monkeypatch: pytest.MonkeyPatch):
    """A clock that was set back hides nothing for long."""
    table.doubts.doubt(1)
    asked(table, 1, 200, 7.0)
    monkeypatch.setattr(doubts, "GUARD", -1.0)
    asked(table, 1, 200, 7.0)
    update(table, row(1, 150, 5.0))
    assert value(table, 1) == 5.0
    assert not table.doubts.guards


def test_a_channel_that_connects_anew_has_no_past(table: Table):
    table.doubts.doubt(1)
    asked(table, 1, 200, 7.0)
    table.doubts.doubt(1)
    connected = (1, int(Kind.CONNECTED), 6, 3, 0, 400, 0.0, 1, 0)
    table.connections(records_from_rows([connected]))
    assert table.doubts.serial(1) is None
    update(table, row(1, 150, 5.0))
    assert value(table, 1) == 5.0
