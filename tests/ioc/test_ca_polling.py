"""Letting things happen: ``flush_io``, ``pend_io``, ``pend_event`` and ``poll``. Manual, chapter 4.3."""

from __future__ import annotations

import time
from types import ModuleType

import pytest
from support import ca_records
from support.background import Background
from support.ca_records import Records, connected
from support.recording import eventually

from daqca.ca.eca import ECA
from daqca.errors import CASeverityException

ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records

BOTH = pytest.mark.parametrize("preemptive", [True, False], ids=["preemptive", "polling"])
ALARMED = 95.0
"""What the record ``alarmed`` has; nobody writes it."""


@pytest.fixture
def preemptive(request: pytest.FixtureRequest, ca: ModuleType) -> bool:
    ca.PREEMPTIVE_CALLBACK = request.param
    return bool(request.param)


@BOTH
def test_flush_io(preemptive: bool, ca: ModuleType, own_records: Records):
    """Gets that are not waited for go out with it, though nothing is read."""
    chid = connected(own_records("alarmed"))
    requests = chid.client.context.shard.circuits
    assert ca.get(chid, wait=False) is None
    assert ca.flush_io() == 1
    assert not any(circuit.out for circuit in requests.values())
    assert ca.get_complete(chid, timeout=20) == ALARMED


@BOTH
def test_pend_io_sends_what_groups_wait_with(preemptive: bool, ca: ModuleType, records: Records):
    """As the manual warns; `poll` does it, and `pend_event` does not."""
    count = connected(records("count"))
    for call, sends in ((ca.pend_event, False), (ca.flush_io, False), (ca.pend_io, True), (ca.poll, True)):
        ca.put(count, 1, wait=True)
        group = ca.sg_create()
        ca.sg_put(group, count, 2)
        call()
        poll = ca.pend_event if not sends else ca.poll
        if sends:
            eventually(lambda poll=poll: (poll(), ca.get(count))[1] == 2, "it went out")  # type: ignore[misc]
            assert ca.sg_block(group) == 1
        else:
            ca.pend_event(0.02)
            assert ca.get(count) == 1
        ca.sg_delete(group)


def test_groups_of_what_has_ended(ca: ModuleType, records: Records):
    """What they wait with cannot go out any more: polling does not stumble over it, and nothing comes of it."""
    group = ca.sg_create()
    chid, count = connected(records("alarmed")), connected(records("count"))
    data = ca.sg_get(group, chid)
    ca.sg_put(group, count, 3)
    ca.finalize_libca()
    assert (ca.poll(), ca.pend_io()) == (1, 1)
    ca.initialize_libca()
    assert (ca.poll(), ca.pend_io()) == (1, 1)
    for function in (ca.sg_block, ca.sg_delete):  # it has ended with its context
        with pytest.raises(CASeverityException, match="Invalid synchronous group"):
            function(group)
    assert ca._unpack(data) is None


@BOTH
def test_how_long_polling_takes(preemptive: bool, ca: ModuleType, records: Records):
    """Also in a thread without a context, which gets none by it."""
    connected(records("alarmed"))

    def polls() -> None:
        for seconds in (0.0, 0.2):
            begin = time.monotonic()
            assert ca.pend_event(seconds) == int(ECA.TIMEOUT)
            assert seconds <= time.monotonic() - begin < seconds + 2
        begin = time.monotonic()
        assert ca.poll(evt=0.1, iot=30) == 1
        assert 0.1 <= time.monotonic() - begin < 2

    polls()
    done = Background(polls).join()
    assert done.error is None, done.error
    ca.finalize_libca()
    polls()
    assert ca.current_context() is None
