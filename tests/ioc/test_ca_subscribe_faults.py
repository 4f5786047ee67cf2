"""Subscriptions when something happens to the server, to the access, or to who should be told: too slow to hear all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.access import VALUE, AccessIOC
from support.ioc import IOCFactory
from support.lowlevel.watching import Calls, Gate, connected, current, read, when_told

from daqca import ca, dbr
from daqca.ca.eca import ECA
from daqca.dispatcher import Dispatcher


@pytest.fixture(autouse=True)
def _library() -> Iterator[None]:
    yield
    ca.finalize_libca()


def watch(chid: Any, **options: Any) -> Calls:
    calls = Calls()
    ca.create_subscription(chid, callback=calls, **options)
    return calls


def record(kind: str, **fields: object) -> str:
    texts = [f'field({name}, "{value}")' for name, value in {"PINI": "YES", **fields}.items()]
    return f'record({kind}, "R:x") {{ {" ".join(texts)} }}'


NUMBER = record("ao", VAL=1.5, PREC=3, EGU="mm")
ENUM = record("mbbo", VAL=1, ZRST="off", ONST="on")
TEXT = record("stringout", VAL="12")
WAVE = record("waveform", FTVL="SHORT", NELM=5)
CHAR = record("waveform", FTVL="CHAR", NELM=5)


# --- another server -------------------------------------------------------------------------


def test_a_reconnection(make_ioc: IOCFactory, point_at: Callable[..., Any]):
    ioc = make_ioc(NUMBER)
    point_at(ioc)
    chid = connected("R:x")
    ca.put(chid, 2.5, wait=True)
    seen = [watch(chid), watch(chid, use_time=True), watch(chid, use_ctrl=True), watch(chid, ftype=dbr.TIME_STRING)]
    for calls in seen:
        calls.wait()
    ioc.restart()
    for calls in seen:
        calls.wait(2)
    ca.put(chid, 7, wait=True)
    for calls in seen:
        calls.wait(3)
    assert [calls.values for calls in seen[:3]] == [[2.5, 1.5, 7]] * 3
    assert seen[3].values == ["2.500", "1.500", "7.000"]


@pytest.mark.parametrize(
    ("database", "native", "value"),
    [
        (ENUM, dbr.ENUM, 1),
        (TEXT, dbr.STRING, "12"),
        (WAVE, dbr.SHORT, [3, 2]),
        (CHAR, dbr.CHAR, [3, 2]),
    ],
    ids=["enum", "string", "array", "characters"],
)
def test_a_reconnection_with_another_type(
    make_ioc: IOCFactory, point_at: Callable[..., Any], database: str, native: int, value: Any
):
    """What was asked for without a type follows the channel's; a type that was given stays; and back again."""
    ioc = make_ioc(NUMBER)
    point_at(ioc)
    chid = connected("R:x")
    plain, timed, ctrl = watch(chid), watch(chid, use_time=True), watch(chid, use_ctrl=True)
    given = watch(chid, ftype=dbr.TIME_STRING)
    refusals = Calls()
    ca.add_exception_event(refusals)
    following = {0: plain, 14: timed, 28: ctrl}
    for calls in (*following.values(), given):
        calls.wait()
    ioc.restart(database)
    for calls in (*following.values(), given):
        calls.wait(2)
    if isinstance(value, list):
        ca.put(chid, value, wait=True)
        for calls in (*following.values(), given):
            calls.wait(3)
    for row, calls in following.items():
        known = calls.known[-1]
        assert known["ftype"] == (dbr.TIME_STRING if native == dbr.STRING and row == 28 else native + row)
        assert type(known["value"]) is (np.ndarray if isinstance(value, list) else type(value))
        assert np.array_equal(known["value"], value)
        assert {known["ftype"] for known in calls.known[1:]} == {known["ftype"]}
    assert "timestamp" in timed.known[-1]
    if native == dbr.ENUM:
        assert ctrl.known[-1]["enum_strs"] == ("off", "on")
    assert {known["ftype"] for known in given.known} == {dbr.TIME_STRING}
    ioc.restart(NUMBER)
    for row, calls in following.items():
        calls.wait_for(lambda calls=calls, row=row: calls.known[-1]["ftype"] == dbr.DOUBLE + row, "a number again")
        assert calls.values[-1] == 1.5
    assert ctrl.known[-1]["units"] == "mm"
    assert not refusals.known


def test_an_end_while_the_server_is_away(make_ioc: IOCFactory, point_at: Callable[..., Any]):
    ioc = make_ioc(NUMBER)
    point_at(ioc)
    chid = connected("R:x")
    calls, lost = Calls(), Calls()
    event_id = ca.create_subscription(chid, callback=calls)[2]
    other = watch(chid)
    calls.wait()
    other.wait()
    ca.create_channel("R:x", callback=lost)
    ioc.stop()
    lost.wait_for(lambda: not lost.known[-1]["conn"], "the loss")
    ca.clear_subscription(event_id)
    ioc.start()
    other.wait(2)
    when_told()
    assert len(calls) == 1


# --- access rights --------------------------------------------------------------------------


@pytest.fixture
def rights(access_ioc: AccessIOC, point_at: Callable[..., Any]) -> AccessIOC:
    point_at(access_ioc)
    return access_ioc


@pytest.mark.parametrize("ftype", [None, 0, 6, 13, 20, 34])
def test_what_may_not_be_read(rights: AccessIOC, ftype: int | None, caplog: pytest.LogCaptureFixture):
    chid = connected(rights.name("noread"))
    refusals = Calls()
    ca.add_exception_event(refusals)
    calls = watch(chid, ftype=ftype)
    text = f"create_subscription {chid.pvname}: Read access denied"
    assert refusals.wait() == [
        {
            "op": "create_subscription",
            "status": ECA.NORDACCESS,
            "message": text,
            "pvname": chid.pvname,
            "chid": int(chid),
            "context": ca.current_context(),
        }
    ]
    when_told()
    assert not calls.known
    assert text in caplog.messages


@pytest.mark.parametrize("options", [{}, {"use_time": True}, {"use_ctrl": True}])
def test_access_that_is_taken_and_given_again(rights: AccessIOC, options: dict[str, bool]):
    chid, switch = connected(rights.name("sometimes")), connected(rights.name("switch"))
    refusals = Calls()
    ca.add_exception_event(refusals)
    granted = Calls()
    ca.replace_access_rights_event(chid, lambda read, write: granted(read=read, write=write))
    calls = watch(chid, **options)
    calls.wait()
    ca.put(switch, 2, wait=True)
    assert refusals.wait()[0]["status"] == ECA.NORDACCESS
    ca.put(switch, 1, wait=True)
    granted.wait_for(lambda: granted.known[-1]["write"], "write access")
    calls.wait(2)
    ca.put(chid, 9, wait=True)
    calls.wait_value(9)
    assert calls.values == [VALUE, VALUE, 9]
    assert len(refusals) == 1


def test_a_refusal_of_what_has_ended_is_not_told(rights: AccessIOC):
    refusals, gate = Calls(), Gate()
    ca.add_exception_event(refusals)
    ca.create_subscription(connected(rights.name("open")), callback=gate)
    gate.wait()
    event_id = ca.create_subscription(connected(rights.name("noread")), callback=refusals)[2]
    assert read(connected(rights.name("nowrite"))) == VALUE  # by now the refusal is here, and waits
    ca.clear_subscription(event_id)
    gate.open()
    when_told()
    assert not refusals.known


def test_what_the_server_refuses(make_ioc: IOCFactory, point_at: Callable[..., Any]):
    """A type that can be written only."""
    point_at(make_ioc(NUMBER))
    refusals = Calls()
    ca.add_exception_event(refusals)
    chid = connected("R:x")
    calls = watch(chid, ftype=dbr.PUT_ACKS)
    known = refusals.wait()[0]
    assert (known["op"], known["pvname"]) == ("create_subscription", "R:x")
    assert known["status"] in (ECA.GETFAIL, ECA.BADTYPE)
    assert watch(chid).wait()[0]["value"] == 1.5
    assert not calls.known


# --- callbacks that are too slow ------------------------------------------------------------


def test_what_is_dropped_is_counted_and_told(
    make_ioc: IOCFactory, point_at: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    """Connections and the end of puts are told even then."""
    ioc = make_ioc(NUMBER + '\nrecord(ao, "R:y") { field(PINI, "YES") }\nrecord(ao, "R:z") { field(PINI, "YES") }')
    point_at(ioc)
    one, other = connected("R:x"), connected("R:y")
    drops, ended, lost = Calls(), Calls(), Calls()
    ca.add_exception_event(drops)
    current().dispatcher.limit = 20
    gate = Gate()
    ca.create_subscription(other, callback=gate)
    gate.wait()
    calls = watch(one)
    for number in range(60):
        ca.put(one, number, wait=True)
    ca.put(one, 500, callback=ended, callback_data="data")
    ca.create_channel("R:z", callback=lost)
    connected("R:z")
    dropped = current().dispatcher.dropped
    assert dropped >= 60 + 2 - 20 - 1
    gate.open()
    assert ended.wait()[0]["data"] == "data"
    assert lost.wait()[0]["conn"]
    known = drops.wait()[0]
    assert known["op"] == "event"
    assert known["status"] == ECA.OVEVFAIL
    assert (known["pvname"], known["chid"], known["context"]) == (None, None, ca.current_context())
    ca.put(one, 600, wait=True)
    calls.wait_value(600)
    when_told()
    # In one place or several, wherever there was no room; what was told is in its order, and nothing else is missing.
    assert sum(int(known["message"].split(" updates were dropped")[0]) for known in drops.known) == dropped
    assert {known["message"] for known in drops.known} <= set(caplog.messages)
    assert calls.values[0] == 1.5
    assert calls.values[1:] == sorted(calls.values[1:])
    assert len(calls) + dropped == 1 + 60 + 1 + 1
    status = ca.client_status()
    assert status["callback_events_dropped"] == dropped
    assert status["callback_events_waiting"] == 0


def test_the_log_has_what_nobody_listens_to(rights: AccessIOC, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "daqca.ca"):
        watch(connected(rights.name("noread")))
        watch(connected(rights.name("open"))).wait()
        when_told()
    assert [record.getMessage() for record in caplog.records] == [
        f"create_subscription {rights.name('noread')}: Read access denied"
    ]


def test_the_limit_is_generous():
    assert Dispatcher(threaded=False).limit >= 1_000_000
