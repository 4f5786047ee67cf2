"""Gets of the low-level interface that are not waited for, or not long enough, or are broken off. Manual, 10.1."""

from __future__ import annotations

import contextlib
import time
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import ca_records
from support.background import Background
from support.ca_records import SLOW_S, Records, connected, is_read_by_who_waits, nothing_under_way
from support.raw_client import RawClient
from support.recording import eventually

from daqca import dbr
from daqca.errors import ChannelAccessException

ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records

VALUES: dict[str, Any] = {
    "double": 1.5,
    "string": "a string",
    "enum": 2,
    "doubles": [1.5, -2.5, 1e300],
    "strings": ["one", "", " three "],
}


def same(actual: Any, expected: Any) -> bool:
    return np.array_equal(actual, expected)


def test_a_get_that_is_not_waited_for(ca: ModuleType, records: Records):
    for ending in ("double", "string", "doubles", "strings", "enum"):
        chid = connected(records(ending))
        assert ca.get_complete(chid) is None
        assert ca.get(chid, wait=False) is None
        assert same(ca.get_complete(chid), VALUES[ending])
        assert ca.get_complete(chid) is None
        assert ca.get(chid, wait=False, ftype=dbr.TIME_STRING) is None
        assert ca.get_complete(chid) is None
        assert ca.get_complete(chid, ftype=dbr.TIME_STRING, timeout=5) is not None
        assert ca.get(chid, wait=False) is None
        assert same(ca.get(chid), VALUES[ending])
        assert ca.get_complete(chid) is None  # the get that was waited for has completed it
        assert nothing_under_way(chid)


def test_gets_see_what_was_put_before(ca: ModuleType, own_records: Records):
    """Also if an earlier one of the same type has not been answered yet."""
    chid = connected(own_records("free"))
    for number in range(1, 200):
        ca.get(chid, wait=False)
        ca.put(chid, number)
        if number % 2:
            ca.get(chid, wait=False)
            assert ca.get_complete(chid) == number
        else:
            assert ca.get(chid) == number
    eventually(lambda: nothing_under_way(chid), "all gets are answered")


def test_a_server_that_does_not_answer_in_time(ca: ModuleType, own_records: Records, caplog):
    chid = connected(own_records("free"))
    ca.put(chid, 1, wait=True)
    assert ca.get(chid) == 1
    own_records.ioc.suspend()
    begin = time.monotonic()
    assert ca.get(chid, timeout=0.2) is None
    assert 0.2 <= time.monotonic() - begin < 1
    assert "no answer within 0.2 s; get_complete() may have it later" in caplog.text
    assert ca.get_complete(chid, timeout=0.05) is None
    own_records.ioc.resume()
    assert ca.get_complete(chid, timeout=20) == 1
    assert ca.get_complete(chid) is None
    assert ca.get(chid) == 1
    assert nothing_under_way(chid)


def test_a_get_leaves_what_another_thread_has_begun(ca: ModuleType, own_records: Records):
    """Whichever way the waited get goes."""
    chid = connected(own_records("free"))
    ca.put(chid, 1, wait=True)
    own_records.ioc.suspend()
    assert ca.get(chid, wait=False) is None
    waiting = Background(ca.get, chid, count=1, timeout=20)
    eventually(lambda: len(chid.client.operations) == 2, "the other get is under way")
    own_records.ioc.resume()
    assert waiting.join().result == 1
    assert ca.get_complete(chid, timeout=20) == 1
    assert ca.get_complete(chid) is None
    assert nothing_under_way(chid)


@pytest.mark.parametrize("ending", ["free", "doubles"])
def test_a_get_gives_no_late_answer_of_an_earlier_one(ca: ModuleType, own_records: Records, ending: str):
    chid = connected(own_records(ending))
    own_records.ioc.suspend()
    for _ in range(3):
        assert ca.get(chid, timeout=0.02) is None
    ca.put(chid, [2.5])  # behind these gets, and before the next
    waiting = Background(ca.get, chid, timeout=20)
    eventually(lambda: len(chid.client.operations) == 4, "the next get is under way")
    own_records.ioc.resume()
    assert waiting.join().result == 2.5
    assert ca.get_complete(chid, timeout=20) is not None
    eventually(lambda: nothing_under_way(chid), "the late answers have come")
    assert ca.get(chid) == 2.5


def test_answers_that_came_late_are_old_when_others_write(ca: ModuleType, own_records: Records):
    chid = connected(own_records("free"))
    with RawClient(own_records.ioc.server_port) as other:
        other.connect(own_records("free"))
        own_records.ioc.suspend()
        assert ca.get(chid, timeout=0.02) is None
        own_records.ioc.resume()
        for number in range(1, 20):
            other.put_number(own_records("free"), number)
            assert ca.get(chid) == number


def test_no_request_is_repeated_for_a_get_that_is_not_waited_for(ca: ModuleType, own_records: Records):
    """Whoever polls with ``wait=False`` a server that is slow does not make it slower; another count is another get."""
    chid = connected(own_records("doubles"))
    own_records.ioc.suspend()
    for _ in range(10):
        ca.get(chid, wait=False)
    assert len(chid.client.operations) == 1
    ca.get(chid, wait=False, count=2)
    ca.get(chid, wait=False, count=2)
    assert len(chid.client.operations) == 2
    own_records.ioc.resume()
    assert same(ca.get_complete(chid, timeout=20), VALUES["doubles"][:2])
    eventually(lambda: nothing_under_way(chid), "the first get is answered too")


def test_a_get_without_waiting_beside_one_that_waits(ca: ModuleType, own_records: Records):
    chid = connected(own_records("free"))
    assert [ca.get(chid) for _ in range(3)] == [0, 0, 0]
    own_records.ioc.suspend()
    waiting = Background(ca.get, chid, timeout=20)
    eventually(lambda: is_read_by_who_waits(chid), "it reads the circuit itself")
    ca.get(chid, wait=False)
    eventually(lambda: len(chid.client.operations) == 2, "both are under way")
    own_records.ioc.resume()
    assert waiting.join().result == 0
    assert ca.get_complete(chid, timeout=20) == 0
    assert nothing_under_way(chid)


def test_a_get_that_threads_share(ca: ModuleType, records: Records):
    endings = ["double", "doubles", "enum"]
    chids = [connected(records(ending)) for ending in endings]

    def many() -> list[Any]:
        ca.use_initial_context()
        return [ca.get(chid) for _ in range(100) for chid in chids]

    threads = [Background(many) for _ in range(4)]
    for thread in threads:
        found = thread.join().result
        assert len(found) == 300
        assert all(same(value, VALUES[ending]) for value, ending in zip(found, endings * 100, strict=True))
    assert nothing_under_way(chids[0])


def test_a_get_that_is_lost_with_its_channel(ca: ModuleType, own_records: Records):
    chid = connected(own_records("free"))
    ca.put(chid, 3, wait=True)
    assert ca.get(chid, wait=False, ftype=dbr.LONG) is None
    eventually(lambda: not len(chid.client.operations), "the answer is here")
    own_records.ioc.suspend()
    assert ca.get(chid, wait=False) is None
    waiting = Background(ca.get, chid, timeout=20, ftype=dbr.TIME_DOUBLE)
    eventually(lambda: len(chid.client.operations) == 2, "both are under way")
    own_records.ioc.kill()
    assert waiting.join().result is None
    assert ca.get_complete(chid) is None
    assert ca.get_complete(chid, ftype=dbr.LONG) == 3  # this one had come before
    assert nothing_under_way(chid)


@pytest.mark.parametrize("is_alone", [True, False], ids=["one that waits alone for its answer", "many"])
def test_clearing_a_channel_with_gets_under_way(ca: ModuleType, own_records: Records, is_alone: bool):
    """They end at once, or when the server says that the channel is cleared, and nothing is left of them."""
    other, chid = connected(own_records("long")), connected(own_records("free"))
    operations = chid.client.operations
    assert [ca.get(chid) for _ in range(3)] == [0, 0, 0]
    own_records.ioc.suspend()
    if is_alone:
        waiting = [Background(ca.get, chid, timeout=20)]
        eventually(lambda: is_read_by_who_waits(chid), "it reads the circuit itself")
    else:
        waiting = [Background(ca.get, chid, timeout=20, ftype=ftype) for ftype in (dbr.DOUBLE, dbr.STRING, dbr.STRING)]
        for _ in range(2):
            ca.get(chid, wait=False, ftype=dbr.LONG)
            ca.put(chid, 1)
        eventually(lambda: len(operations) == 5, "all are under way")
    ca.clear_channel(chid)
    assert not len(operations)
    own_records.ioc.resume()
    for thread in waiting:
        assert thread.join().result in ((None, 0.0) if is_alone else (None,))
        assert thread.took < 10
    assert nothing_under_way(chid)
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.get_complete(chid, ftype=dbr.LONG)
    assert ca.get(other) == 7


def test_clearing_a_channel_while_a_thread_waits_in_vain(ca: ModuleType, own_records: Records):
    """The server stays silent: what the thread waited for is given up with its wait."""
    chid = connected(own_records("free"))
    assert [ca.get(chid) for _ in range(3)] == [0, 0, 0]
    own_records.ioc.suspend()
    waiting = Background(ca.get, chid, timeout=0.5)
    eventually(lambda: is_read_by_who_waits(chid), "it reads the circuit itself")
    ca.clear_channel(chid)
    assert waiting.join().result is None
    assert nothing_under_way(chid)
    own_records.ioc.resume()
    assert ca.get(connected(own_records("long"))) == 7


def test_clearing_a_channel_with_a_group_under_way(ca: ModuleType, own_records: Records):
    chid, other = connected(own_records("doubles")), connected(own_records("long"))
    group = ca.sg_create()
    ca.sg_get(group, chid)
    ca.sg_put(group, chid, [1.5])
    own_records.ioc.suspend()
    blocking = Background(ca.sg_block, group, 20)
    eventually(lambda: len(chid.client.operations) == 2, "both are under way")
    ca.clear_channel(chid)
    assert nothing_under_way(chid)
    assert blocking.join().took < 10
    own_records.ioc.resume()
    assert ca.get(other, timeout=20) == 7


def test_the_time_that_is_given(ca: ModuleType, own_records: Records):
    """By default 1 + log10 of the number of elements, in seconds."""
    double, doubles = connected(own_records("double")), connected(own_records("doubles"))
    own_records.ioc.suspend()
    threads = {
        1.0: Background(ca.get, double),
        1.9: Background(ca.get, doubles),
        1.3: Background(ca.get, doubles, dbr.FLOAT, 2),
        0.1: Background(ca.get, double, dbr.LONG, timeout=0.1),
        0.0: Background(ca.get, double, dbr.SHORT, timeout=0),
    }
    for limit, thread in threads.items():
        assert thread.join().result is None
        assert limit <= thread.took < limit + 0.8
    own_records.ioc.resume()


def test_gets_while_a_put_is_processed(ca: ModuleType, records: Records):
    """A slow record does not hold up what is read from its server."""
    slow, double = connected(records("slow")), connected(records("double"))
    writing = Background(ca.put, slow, 1, wait=True)
    with contextlib.suppress(AssertionError):
        eventually(lambda: ca.get(slow) == 1, "the record is busy", SLOW_S)
    begin = time.monotonic()
    assert ca.get(double) == 1.5
    assert time.monotonic() - begin < SLOW_S / 2
    assert writing.join().result == 1
    assert writing.took > SLOW_S * 0.9
    assert ca.get(slow) == 0
