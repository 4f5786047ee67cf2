"""Channels of the low-level interface: how they come and go, what is known of them, and who is told. Manual, 4.3.1."""

from __future__ import annotations

import ctypes
import threading
import time
from contextlib import redirect_stdout
from io import StringIO
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support import ca_records
from support.access import AccessIOC
from support.ca_records import Records, connected, nothing_under_way
from support.recording import eventually

from daqca import dbr
from daqca.errors import CASeverityException, ChannelAccessException, ChannelAccessGetFailure

ca, records = ca_records.ca, ca_records.records
record_server, own_records = ca_records.record_server, ca_records.own_records

TYPES = {
    "double": (dbr.DOUBLE, 1),
    "long": (dbr.LONG, 1),
    "enum": (dbr.ENUM, 1),
    "string": (dbr.STRING, 1),
    "one:float": (dbr.FLOAT, 1),
    "one:short": (dbr.SHORT, 1),
    "one:char": (dbr.CHAR, 1),
    "doubles": (dbr.DOUBLE, 8),
    "strings": (dbr.STRING, 8),
    "text": (dbr.CHAR, 100),
    "large": (dbr.DOUBLE, 200_000),
}
FUNCTIONS = (
    *("name", "host_name", "element_count", "field_type", "read_access", "write_access", "access", "state"),
    *("isConnected", "promote_type", "connect_channel", "clear_channel", "replace_access_rights_event"),
    *("get", "get_complete", "get_with_metadata", "get_complete_with_metadata", "get_ctrlvars", "get_timevars"),
    *("get_timestamp", "get_severity", "get_precision", "get_enum_strings"),
)
"""All that take a channel and nothing else."""


# --- what is known of a channel


@pytest.mark.parametrize("ending", TYPES)
def test_what_is_known_of_a_connected_channel(ca: ModuleType, records: Records, ending: str):
    native, count = TYPES[ending]
    chid = connected(records(ending))
    for channel in (chid, int(chid)):  # its number serves as well
        assert ca.name(channel) == records(ending)
        assert ca.host_name(channel) == f"127.0.0.1:{records.ioc.server_port}"
        assert (ca.field_type(channel), ca.element_count(channel)) == (native, count)
        assert (ca.read_access(channel), ca.write_access(channel), ca.access(channel)) == (1, 1, "read/write")
        assert ca.state(channel) == dbr.CS_CONN
        assert ca.isConnected(channel) is True
        assert ca.promote_type(channel) == native
        assert ca.promote_type(channel, use_time=True) == native + 14
        # Of a string there is no CTRL variant: in PyEpics it is TIME then.
        assert ca.promote_type(channel, use_ctrl=True) == (native + 28 if native else dbr.TIME_STRING)


def test_a_chid_is_a_c_long_and_an_int(ca: ModuleType, records: Records):
    chid = ca.create_channel(records("double"))
    assert isinstance(chid, ctypes.c_long)
    assert isinstance(chid, dbr.chid_t)
    assert int(chid) == chid.value == chid.chid_int > 0
    assert hex(chid) == hex(chid.value)
    assert {chid: 1}[chid] == 1
    other = ca.create_channel(records("long"))
    assert int(other) != int(chid)
    assert ca.name(dbr.chid_t(int(chid))) == records("double")
    assert records("double") in repr(chid)


def test_what_is_known_of_a_channel_that_is_not_there(ca: ModuleType, records: Records, monkeypatch):
    ca.DEFAULT_CONNECTION_TIMEOUT = 0.05
    chid = ca.create_channel(records("nobody has this"))
    assert ca.state(chid) == dbr.CS_NEVER_CONN
    assert ca.isConnected(chid) is False
    assert (ca.field_type(chid), ca.element_count(chid), ca.host_name(chid)) == (-1, 0, "<disconnected>")
    assert (ca.read_access(chid), ca.write_access(chid), ca.access(chid)) == (0, 0, "no access")
    assert ca.name(chid) == records("nobody has this")
    assert ca.get(chid) is None
    assert ca.get(chid, wait=False) is None
    assert ca.get(chid, ftype=dbr.DOUBLE, timeout=0.01) is None
    assert ca.get_complete(chid) is None
    assert ca.get_with_metadata(chid) is None
    assert ca.get_ctrlvars(chid, timeout=0.01) is None
    assert ca.get_timevars(chid, timeout=0.01) is None
    assert ca.get_precision(chid) is None
    assert ca.get_enum_strings(chid) is None
    with pytest.raises(ChannelAccessException, match=r"put\(\) timed out waiting for .*nobody has this.*0\.05 s"):
        ca.put(chid, 1)
    with pytest.raises(LookupError):
        ca.put(chid, 1, wait=True)
    assert ca.clear_channel(chid) == dbr.ECA_NORMAL
    assert nothing_under_way(chid)


def test_the_names_of_no_pv(ca: ModuleType):
    for name in ("", "a\0b", "x" * 20_000, "half a character \ud800"):
        with pytest.raises(ChannelAccessException, match="cannot be the name of a PV"):
            ca.create_channel(name)
    for name in (None, 5, b"bytes", ["x"]):
        with pytest.raises(TypeError, match="takes the name of a PV"):
            ca.create_channel(name)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_channel(ca: ModuleType, records: Records, function: str):
    chid = connected(records("double"))
    number = int(chid)
    for rubbish in (None, "name", 0, number + 1, -1, 1.5, True, ctypes.c_int(number), object()):
        with pytest.raises(ChannelAccessException, match=r"channel|chid"):
            getattr(ca, function)(rubbish)
    ca.clear_channel(chid)
    for cleared in (chid, number):
        with pytest.raises(ChannelAccessException, match="was cleared"):
            getattr(ca, function)(cleared)


# --- connecting


def test_connecting(ca: ModuleType, records: Records):
    chid = ca.create_channel(records("double"))
    assert ca.connect_channel(chid) is True
    assert ca.connect_channel(chid, timeout=0) is True
    assert ca.isConnected(ca.create_channel(records("long"), connect=True))
    # Where PyEpics 3.5 has its arguments: connect, auto_cb, callback.
    told: list[dict[str, Any]] = []
    ca.create_channel(records("long"), True, True, lambda **given: told.append(given))
    assert [given["conn"] for given in told] == [True]
    ca.create_channel(records("enum"), True, lambda **given: told.append(given), False)
    eventually(lambda: len(told) == 2, "the callback in the manual's place is called")


def test_giving_up_is_counted(ca: ModuleType, records: Records):
    ca.DEFAULT_CONNECTION_TIMEOUT = 0.05
    chid = ca.create_channel(records("nobody has this"))
    begin = time.monotonic()
    assert ca.connect_channel(chid) is False
    assert 0.05 <= time.monotonic() - begin < 2
    begin = time.monotonic()
    assert ca.connect_channel(chid, timeout=0.2) is False
    assert 0.2 <= time.monotonic() - begin < 2
    entry = ca.get_cache(records("nobody has this"))
    assert entry.failures == 2
    assert abs(entry.ts - time.time()) < 5
    assert entry["conn"] is False


def test_what_is_waited_for_is_told_if_asked(ca: ModuleType, records: Records):
    chid = connected(records("double"))
    with redirect_stdout(StringIO()) as out:
        ca.connect_channel(chid, verbose=True)
    assert records("double") in out.getvalue()


def test_a_name_has_one_channel(ca: ModuleType, records: Records):
    """Creating it again, from many threads, gives the same one; the callbacks add up."""
    told: list[tuple[int, dict[str, Any]]] = []
    callbacks = [lambda index=index, **given: told.append((index, given)) for index in range(8)]
    found: list[Any] = []
    barrier = threading.Barrier(8)

    def create(index: int) -> None:
        ca.use_initial_context()
        barrier.wait()
        found.append(ca.create_channel(records("double"), callback=callbacks[index]))

    ca.initialize_libca()
    threads = [threading.Thread(target=create, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(chid) for chid in found}) == 1
    chid = found[0]
    eventually(lambda: len(told) >= 8, "all callbacks are called")
    given = {"pvname": records("double"), "chid": int(chid), "conn": True}
    assert sorted(told, key=lambda each: each[0]) == [(index, given) for index in range(8)]
    assert len(ca._cache[ca.current_context()]) == 1


def test_a_callback_of_a_connected_channel_is_called_at_once_and_once(ca: ModuleType, records: Records):
    """Right after the connection, which is being told on another thread, too."""
    endings = list(TYPES)
    told: dict[str, list[dict[str, Any]]] = {ending: [] for ending in endings}
    for ending in endings:
        chid = ca.create_channel(records(ending))
        assert ca.connect_channel(chid, timeout=20)
        again = ca.create_channel(records(ending), callback=lambda e=ending, **given: told[e].append(given))
        assert again is chid
        assert told[ending] == [{"pvname": records(ending), "chid": int(chid), "conn": True}]
    for ending in endings:  # all that was on its way has been told
        eventually(lambda e=ending: ca.get_cache(records(e)).conn, "the connection is told")
    assert {len(each) for each in told.values()} == {1}


def test_a_channel_that_is_lost_while_it_is_told_to_be_there(ca: ModuleType, own_records: Records):
    """What is told last is how it is."""
    told: list[bool] = []
    chid = connected(own_records("double"))

    def callback(conn: bool, **given: Any) -> None:
        if conn:
            own_records.ioc.kill()
            eventually(lambda: False in told, "the loss is told on the other thread")
        told.append(conn)

    ca.create_channel(own_records("double"), callback=callback)
    assert not ca.isConnected(chid)
    assert told[-1] is False


def test_the_same_callback_is_installed_once(ca: ModuleType, records: Records):
    told: list[dict[str, Any]] = []

    def callback(**given: Any) -> None:
        told.append(given)

    chid = connected(records("double"))
    for _ in range(3):
        ca.create_channel(records("double"), callback=callback)
    assert len(told) == len(chid.callbacks) == 1


def test_callbacks_are_told_of_every_change(ca: ModuleType, own_records: Records):
    told: list[Any] = []
    rights: list[tuple[bool, bool]] = []
    chid = ca.create_channel(own_records("double"), callback=lambda conn, **given: told.append(conn))
    ca.replace_access_rights_event(chid, lambda read, write: rights.append((read, write)))
    eventually(lambda: told == [True], "it connects")
    own_records.ioc.stop()
    eventually(lambda: told == [True, False], "it is lost")
    assert ca.state(chid) == dbr.CS_PREV_CONN
    assert (ca.field_type(chid), ca.element_count(chid), ca.access(chid)) == (-1, 0, "no access")
    assert ca.get(chid, timeout=0.01) is None
    ca.DEFAULT_CONNECTION_TIMEOUT = 0.01
    with pytest.raises(ConnectionError, match="is its IOC running"):
        ca.put(chid, 1)
    own_records.ioc.start()
    eventually(lambda: told == [True, False, True], "it is there again", 30)
    assert rights == [(True, True)] * 2
    assert ca.get(chid) == 1.5


def test_a_callback_that_fails_stays_alone_with_it(ca: ModuleType, records: Records, caplog):
    told: list[Any] = []

    def fail(**given: Any) -> None:
        raise ValueError("on purpose")

    chid = ca.create_channel(records("double"), callback=fail)
    ca.create_channel(records("double"), callback=lambda **given: told.append(given))
    eventually(lambda: told, "the other callback is called")
    assert ca.get(chid) == 1.5
    assert "on purpose" in caplog.text


def test_a_callback_may_use_channels(ca: ModuleType, records: Records):
    """The manual's warning against it does not hold here."""
    found: list[Any] = []

    def callback(pvname: str, chid: int, conn: bool) -> None:
        other = ca.create_channel(records("long"), connect=True)
        found.extend((ca.get(chid), ca.get(other), ca.put(other, 7, wait=True)))

    ca.create_channel(records("double"), callback=callback)
    eventually(lambda: len(found) == 3, "the callback comes to its end")
    assert found == [1.5, 7, 1]


# --- clearing


def test_a_cleared_channel_is_gone(ca: ModuleType, records: Records):
    told: list[Any] = []
    chid = connected(records("double"))
    assert ca.clear_channel(chid) == dbr.ECA_NORMAL
    assert ca.get_cache(records("double")) is None
    assert chid.chid is None
    assert nothing_under_way(chid)
    again = ca.create_channel(records("double"), callback=lambda **given: told.append(given))
    assert int(again) != int(chid)
    assert ca.get(again) == 1.5
    eventually(lambda: told, "the new channel connects")
    assert told[0]["chid"] == int(again)


def test_channels_that_come_and_go_leave_nothing(ca: ModuleType, records: Records):
    ca.initialize_libca()
    for _ in range(20):
        chids = [ca.create_channel(records(ending)) for ending in TYPES]
        assert ca.get(chids[0]) == 1.5
        for chid in chids:
            ca.clear_channel(chid)
            assert nothing_under_way(chid)
    context = chids[0].client.context
    eventually(lambda: len(context.shard.channels) == 0, "no channel is left in the tables")
    assert not len(context.shard.subscriptions)
    assert chids[0].client.columns.state.any() == np.False_
    assert ca.show_cache(print_out=False).count("\n") == 1


# --- caches


def test_caches(ca: ModuleType, records: Records):
    assert ca.get_cache(records("double")) is None
    chid = connected(records("double"))
    missing = ca.create_channel(records("nobody has this"))
    eventually(lambda: chid.conn, "the connection is told")
    cache = ca._cache[ca.current_context()]
    assert set(cache) == {records("double"), records("nobody has this")}
    entry = ca.get_cache(records("double"))
    assert entry is cache[records("double")]
    assert (entry.pvname, entry["pvname"]) == (records("double"), records("double"))
    assert entry.chid is chid
    assert (entry.conn, entry.failures, entry.context) == (True, 0, ca.current_context())
    assert entry.callbacks == entry.access_event_callback == []
    assert entry.get_results == {}
    assert abs(entry.ts - time.time()) < 20

    listing = ca.show_cache(print_out=False)
    with redirect_stdout(StringIO()) as out:
        assert ca.show_cache() is None
    assert out.getvalue().strip() == listing.strip()
    lines = listing.splitlines()
    assert lines[0].split() == ["#", "PVName", "ChannelID/Context", "Connected?"]
    assert [line.split() for line in lines[2:]] == [
        [records("double"), f"{int(chid)}/{ca.current_context()}", "True"],
        [*records("nobody has this").split(), f"{int(missing)}/{ca.current_context()}", "False"],
    ]


def test_clearing_all_caches(ca: ModuleType, records: Records):
    order: list[str] = []
    chid = connected(records("double"))
    context = ca.current_context()

    def callback() -> None:
        order.append("cleared" if chid.is_cleared else "not yet")

    ca.register_clear_cache(callback)
    ca.register_clear_cache(callback)
    with pytest.raises(TypeError):
        ca.register_clear_cache("rubbish")
    ca.clear_cache()
    assert order == ["not yet"]
    assert chid.is_cleared
    assert ca.current_context() not in (None, context)
    assert list(ca._cache) == [ca.current_context()]
    assert ca._cache[ca.current_context()] == {}
    with pytest.raises(ChannelAccessException, match="was cleared"):
        ca.get(chid)
    assert ca.get(ca.create_channel(records("double"))) == 1.5


# --- access rights


def test_access_rights(ca: ModuleType, access_ioc: AccessIOC, point_at):
    point_at(access_ioc)
    rights = {"open": "read/write", "nowrite": "read-only", "noread": "no access", "sometimes": "read-only"}
    chids = {ending: connected(access_ioc.name(ending)) for ending in rights}
    for ending, words in rights.items():
        assert ca.access(chids[ending]) == words
        assert ca.read_access(chids[ending]) == int("read" in words)
        assert ca.write_access(chids[ending]) == int("write" in words)
    for asked in ({}, {"ftype": dbr.TIME_DOUBLE}, {"count": 1}):
        with pytest.raises(ChannelAccessGetFailure, match=r"noread.*Read access denied") as failed:
            ca.get(chids["noread"], **asked)
        assert (failed.value.chid, failed.value.status) == (chids["noread"], dbr.ECA_NORDACCESS)
        assert nothing_under_way(chids["noread"])
    with pytest.raises(ChannelAccessGetFailure):
        ca.get_ctrlvars(chids["noread"])
    ca.get(chids["noread"], wait=False)
    with pytest.raises(ChannelAccessGetFailure):
        ca.get_complete(chids["noread"])
    for wait in (False, True):
        with pytest.raises(ChannelAccessException) as denied:
            ca.put(chids["nowrite"], 8.5, wait=wait)
        assert isinstance(denied.value, CASeverityException)
        assert isinstance(denied.value, PermissionError)
        assert denied.value.fcn == "put"
        assert denied.value.msg == ca.message(dbr.ECA_NOWTACCESS)
        assert str(denied.value).startswith(f"cannot put 8.5 to {access_ioc.name('nowrite')} (DOUBLE): ")
    assert ca.get(chids["nowrite"]) == 7


def test_access_rights_that_change(ca: ModuleType, access_ioc: AccessIOC, point_at):
    point_at(access_ioc)
    told: list[tuple[bool, bool]] = []
    later: list[tuple[bool, bool]] = []
    chid = ca.create_channel(access_ioc.name("sometimes"))
    ca.replace_access_rights_event(chid, lambda read, write: told.append((read, write)))
    switch = connected(access_ioc.name("switch"))
    eventually(lambda: told == [(True, False)], "the rights are told with the connection")
    ca.replace_access_rights_event(chid, lambda read, write: later.append((read, write)))
    assert later == [(True, False)]
    ca.put(switch, 1, wait=True)
    eventually(lambda: told[1:] == [(True, True)], "it may be written")
    assert ca.access(chid) == "read/write"
    assert ca.put(chid, 3.5, wait=True) == 1
    ca.put(switch, 2, wait=True)
    eventually(lambda: told[2:] == [(False, False)], "nothing is allowed")
    assert ca.access(chid) == "no access"
    with pytest.raises(ChannelAccessGetFailure):
        ca.get(chid)
    ca.put(switch, 0, wait=True)
    eventually(lambda: told[3:] == [(True, False)], "it may be read")
    assert ca.get(chid) == 3.5
    eventually(lambda: later == told, "the other callback knows all of it")
