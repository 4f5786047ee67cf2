"""Servers that stop, die, come back as others, or send garbage: each channel says so, and the others live on."""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest
from support.background import Background
from support.engines import MakeEngine, Seen
from support.fakes import CREATE_CHAN, EVENT_ADD, HEADER, FakeServer, created, messages, silence, until_create
from support.ioc import IOCFactory, Servers
from support.recording import eventually

from daqca import Engine
from daqca.errors import PVDisconnectedError, PVNotFoundError, PVTimeoutError
from daqca.events import Kind, Reason
from daqca.outcome import Outcome
from daqca.sim import SimIOC

PointAt = Callable[..., dict[str, str]]


def waiting(engine: Engine) -> int:
    """How many operations wait for answers."""
    return sum(len(link.operations) for link in engine._links)


def shards(engine: Engine, counter: str) -> int:
    total = sum(shard[counter] for shard in engine.stats()["shards"])
    assert isinstance(total, int)
    return total


# --- suspended, and back --------------------------------------------------------------------


def test_a_suspended_ioc_is_told_and_comes_back(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, ioc: SimIOC
):
    text = 'record(ao, "F:a") { field(VAL, "5") field(PINI, "YES") } record(calc, "F:count") { field(CALC, "VAL+1") }'
    frozen = make_ioc(text + 'record(stringout, "F:never") { }')
    point_at(frozen, ioc)
    monkeypatch.setenv("EPICS_CA_CONN_TMO", "0.5")
    engine = make_engine()
    healthy = ioc.prefix + "calc00001"
    names = ["F:a", healthy]
    seen = Seen()
    with engine.subscribe(names, seen):
        seen.wait(lambda: seen.values(0) == [5.0] and seen.values(1), "first values")
        frozen.suspend()
        begin = time.monotonic()
        # At first it is only silent: the answer does not come in time.
        with pytest.raises(PVTimeoutError):
            engine.get("F:a", timeout=0.2)
        assert engine.snapshot(names, timeout=0.2).outcome.tolist() == [Outcome.TIMEOUT, Outcome.OK]
        (event,) = seen.wait_kind(Kind.DISCONNECTED)
        assert 5 < time.monotonic() - begin < 9  # 0.5 s of silence, and 5 s for the echo
        assert (event.slot, event.status) == (0, Reason.UNRESPONSIVE)
        assert shards(engine, "unresponsive") == 1
        assert engine.channels(names)[0].outcome is Outcome.DISCONNECTED
        snap = engine.snapshot(names, timeout=0.2)
        assert snap.outcome.tolist() == [Outcome.DISCONNECTED, Outcome.OK]
        stale = engine.snapshot(names, timeout=0.2, fresh=False)
        assert stale.outcome.tolist() == [Outcome.STALE, Outcome.OK]
        assert stale.values[0] == 5.0
        with pytest.raises(PVDisconnectedError, match="F:a"):
            engine.get("F:a", timeout=0.2)
        with pytest.raises(PVDisconnectedError, match="F:a"):
            engine.put("F:a", 1, timeout=0.2)
        late = Background(engine.get, "F:a", timeout=20)
        eventually(lambda: waiting(engine) == 1, "the get is under way")
        frozen.resume()
        assert late.join().result.value == 5.0
        assert len(seen.wait_kind(Kind.CONNECTED, 2, slot=0)) == 2
        seen.wait(lambda: seen.values(0) == [5.0, 5.0], "a fresh reading")
        engine.put("F:a", 6, timeout=20)
        seen.wait(lambda: seen.values(0)[-1] == 6.0, "the update")
        assert engine.snapshot(names, fresh=False).outcome.tolist() == [Outcome.OK, Outcome.OK]
        assert engine.get("F:count", timeout=20).value == 0
    assert not seen.events(Kind.DISCONNECTED, slot=1)
    counts = seen.values(1)
    assert counts == list(range(int(counts[0]), int(counts[0]) + len(counts)))
    assert waiting(engine) == 0


# --- killed, and back -----------------------------------------------------------------------


def test_a_killed_ioc_comes_back_with_other_records(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine):
    first = """
record(ao, "F:same") { field(VAL, "1.5") field(PINI, "YES") }
record(ao, "F:type") { field(VAL, "2.5") field(PINI, "YES") }
record(waveform, "F:count") { field(FTVL, "LONG") field(NELM, "3") field(INP, [1,2,3]) }
record(ao, "F:gone") { field(VAL, "3.5") field(PINI, "YES") }
"""
    second = """
record(ao, "F:same") { field(VAL, "7.5") field(PINI, "YES") }
record(stringout, "F:type") { field(VAL, "a text now") field(PINI, "YES") }
record(waveform, "F:count") { field(FTVL, "SHORT") field(NELM, "9") field(INP, [9,8,7,6]) }
"""
    ioc = make_ioc(first)
    point_at(ioc)
    engine = make_engine()
    names = ["F:same", "F:type", "F:count", "F:gone"]
    seen, late = Seen(), Seen()
    with engine.subscribe(names, seen):
        seen.wait(lambda: len(seen.events(Kind.UPDATE)) == 4, "first values")
        before = engine.snapshot(names, fresh=False)
        assert before.values[0] == 1.5
        pid = ioc.pid
        ioc.kill()
        assert {event.slot for event in seen.wait_kind(Kind.DISCONNECTED, 4)} == {0, 1, 2, 3}
        assert {event.status for event in seen.events(Kind.DISCONNECTED)} == {Reason.CLOSED}
        stale = engine.snapshot(names, timeout=0.2, fresh=False)
        assert stale.outcome.tolist() == [Outcome.STALE] * 4
        assert stale.values[0] == 1.5
        assert stale.values[2].tolist() == [1, 2, 3]
        assert stale.timestamps.tolist() == before.timestamps.tolist()
        assert engine.snapshot(names, timeout=0.2).outcome.tolist() == [Outcome.DISCONNECTED] * 4
        with pytest.raises(PVDisconnectedError, match="F:same"):
            engine.put("F:same", 1, timeout=0.2)
        result = engine.put_many(names, [1, 2, [3], 4], wait=True, timeout=0.2)
        assert result.failed == dict.fromkeys(names, Outcome.DISCONNECTED)
        assert [info.outcome for info in engine.channels(names)] == [Outcome.DISCONNECTED] * 4
        with engine.subscribe(names, late):
            assert late.rows == []  # what is not connected has no present value
            ioc.restart(second)
            assert ioc.pid != pid
            for sink in (seen, late):
                sink.wait(lambda sink=sink: len({event.slot for event in sink.events(Kind.UPDATE)[-3:]}) == 3, "values")
            assert [(event.dbr_type, event.count) for event in late.events(Kind.CONNECTED, slot=1)] == [(0, 1)]
            assert [(event.dbr_type, event.count) for event in late.events(Kind.CONNECTED, slot=2)] == [(1, 9)]
            seen.wait(lambda: len(seen.events(Kind.UPDATE)) == 7, "fresh values")
            snap = engine.snapshot(names, timeout=0.2, fresh=False)
            assert snap.outcome.tolist() == [Outcome.OK] * 3 + [Outcome.STALE]
            assert snap.values[:2] == [7.5, "a text now"]
            assert snap.values[2].tolist() == [9, 8, 7, 6]
            assert snap.values[3] == 3.5
            assert snap.native_type.tolist() == [6, 0, 1, 6]
            assert engine.get("F:type").value == "a text now"
            engine.put("F:type", "put")
            assert engine.snapshot(["F:type"]).values == ["put"]
            info = engine.channels(names)
            assert [(i.native_type, i.native_count) for i in info[:3]] == [(6, 1), (0, 1), (1, 9)]
            assert info[3].outcome is Outcome.DISCONNECTED


def test_an_ioc_that_dies_during_a_snapshot_or_puts_lets_nobody_hang(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine
):
    ioc = make_ioc(scalars=20_000, changing=0)
    point_at(ioc)
    engine = make_engine()
    names = ioc.names
    assert engine.snapshot(names, timeout=30).missing == {}
    # With nothing answered yet.
    ioc.suspend()
    calls = [
        Background(engine.snapshot, names, timeout=30),
        Background(engine.snapshot, names, timeout=30, form="ctrl"),
        Background(engine.put_many, names, np.ones(len(names)), wait=True, timeout=30),
        Background(engine.put, ioc.prefix + "ao00001", 1, timeout=30),
        Background(engine.get, ioc.prefix + "ao00001", timeout=30),
    ]
    eventually(lambda: waiting(engine) >= 5, "all are under way")
    ioc.kill()
    begin = time.monotonic()
    for call in calls:
        call.join()
    assert time.monotonic() - begin < 10
    assert calls[0].result.outcomes == {Outcome.DISCONNECTED: 20_000}
    assert calls[1].result.outcomes == {Outcome.DISCONNECTED: 20_000}
    put = calls[2].result
    texts = put.outcome == Outcome.BAD_VALUE
    assert (put.outcome[~texts] == Outcome.DISCONNECTED).all()
    assert isinstance(calls[3].error, PVDisconnectedError)
    assert isinstance(calls[4].error, PVDisconnectedError)
    assert waiting(engine) == 0
    # In the middle of the answers: at some moment of some snapshot.
    ioc.start()
    eventually(lambda: engine.stats()["connected"] == 20_000, "all are connected again", 30)
    killer = threading.Timer(0.15, ioc.kill)
    killer.start()
    outcomes = {Outcome.OK: 20_000}
    while outcomes == {Outcome.OK: 20_000}:
        begin = time.monotonic()
        snap = engine.snapshot(names, timeout=1.0)
        outcomes = snap.outcomes
    killer.join()
    assert set(outcomes) <= {Outcome.OK, Outcome.DISCONNECTED}
    assert sum(outcomes.values()) == 20_000
    assert np.isnan(snap.number[~snap.ok]).all()
    assert waiting(engine) == 0


# --- names that two servers have, and servers of servers ------------------------------------


def test_two_iocs_with_one_name(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
):
    text = 'record(ao, "F:both") { field(VAL, "%d") field(PINI, "YES") }'
    one, two = make_ioc(text % 1), make_ioc(text % 2)
    point_at(one, two)
    with caplog.at_level(logging.WARNING):
        engine = make_engine()
        found = engine.connect(["F:both"], timeout=20)[0]
        eventually(lambda: shards(engine, "duplicate_names") == 1, "the second answer")
        value = engine.get("F:both").value
        assert found.host == f"127.0.0.1:{one.server_port if value == 1 else two.server_port}"
        for _ in range(20):
            assert engine.get("F:both").value == value
        eventually(lambda: "two servers have it" in caplog.text, "the warning")
    warnings = [record.getMessage() for record in caplog.records if "two servers have it" in record.getMessage()]
    assert len(warnings) == 1
    other = two if value == 1 else one
    assert f"using {found.host}, ignoring 127.0.0.1:{other.server_port}" in warnings[0]
    # The one that is used dies: the other takes over.
    (one if value == 1 else two).kill()
    assert eventually(lambda: engine.get("F:both", timeout=20).value == 3 - value, "the other one's value")


def test_name_servers_find_over_tcp_alone(
    make_ioc: IOCFactory, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, servers: Servers
):
    near = make_ioc(scalars=1000, changing=0)
    far = make_ioc('record(ao, "F:far") { field(VAL, "4") field(PINI, "YES") }')
    absent = servers.ports().server
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", "")
    addresses = f"127.0.0.1:{near.server_port} 127.0.0.1:{absent} 127.0.0.1:{far.server_port}"
    monkeypatch.setenv("EPICS_CA_NAME_SERVERS", addresses)
    engine = make_engine()
    names = [*near.names, "F:far", "NO:SUCH:PV"]
    snap = engine.snapshot(names, timeout=2)
    assert snap.missing == {"NO:SUCH:PV": Outcome.NEVER_FOUND}
    assert snap["F:far"].value == 4.0
    # Lost, and found again without UDP.
    far.restart()
    assert eventually(lambda: engine.snapshot(["F:far"], timeout=5).ok.all(), "it is found again")
    # New names are asked for on the circuits that are there.
    assert engine.get(near.prefix + "wf:string", timeout=20).ok


def test_ten_iocs_at_once(make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine):
    iocs = [make_ioc(scalars=50, changing=0, start=False) for _ in range(10)]
    for ioc in iocs:
        ioc.launch()
    for ioc in iocs:
        ioc.wait_ready()
    point_at(*iocs)
    engine = make_engine()
    names = [name for ioc in iocs for name in ioc.names]
    snap = engine.snapshot(names, timeout=20)
    assert snap.missing == {}
    assert snap.values == [record.value for ioc in iocs for record in ioc.database.records]
    assert {info.host for info in engine.channels(names)} == {f"127.0.0.1:{ioc.server_port}" for ioc in iocs}
    seen = Seen()
    with engine.subscribe(names, seen):
        seen.wait(lambda: len(seen.events(Kind.UPDATE)) == 500, "first values")
        for ioc in iocs[::2]:
            ioc.kill()
        lost = {event.slot for event in seen.wait_kind(Kind.DISCONNECTED, 250)}
        assert lost == {slot for slot in range(500) if slot // 50 % 2 == 0}
        snap = engine.snapshot(names, timeout=0.5)
        assert (snap.outcome == np.where(np.arange(500) // 50 % 2, Outcome.OK, Outcome.DISCONNECTED)).all()


def test_a_value_from_before_the_connection_is_lost_never_passes_for_a_present_one(
    point_at: PointAt, make_engine: MakeEngine, servers: Servers
):
    """A server that comes back, and is connected, but does not send the first value of the subscription."""
    hang_up = threading.Event()

    def talk(connection: socket.socket) -> None:
        data = b""
        while more := connection.recv(65536):
            data += more
            for command, data_type, count, p1, p2, payload in messages(data):
                if command == CREATE_CHAN:
                    connection.sendall(created(p1))
                elif command == EVENT_ADD and not hang_up.is_set():
                    value = struct.pack(">hhII4xd", 0, 0, 1000, 0, 7.5)
                    connection.sendall(HEADER.pack(EVENT_ADD, len(value), data_type, count, 1, p2) + value)
                    assert hang_up.wait(20)
                    return
                data = data[HEADER.size + len(payload) :]

    with FakeServer("BACK:AGAIN", talk, servers.ports()) as fake:
        point_at(fake)
        engine = make_engine()
        seen = Seen()
        with engine.subscribe(["BACK:AGAIN"], seen):
            seen.wait(lambda: seen.values() == [7.5], "the value")
            assert engine.snapshot(["BACK:AGAIN"], fresh=False).values == [7.5]
            hang_up.set()
            seen.wait_kind(Kind.CONNECTED, 2)
            kinds = [event.kind for event, _ in seen.rows]
            assert kinds == [Kind.CONNECTED, Kind.UPDATE, Kind.DISCONNECTED, Kind.CONNECTED]
            snap = engine.snapshot(["BACK:AGAIN"], timeout=0.2, fresh=False)
            assert (snap.outcome.tolist(), snap.values) == ([Outcome.TIMEOUT], [None])


# --- servers that are none ------------------------------------------------------------------


def garbage(connection: socket.socket) -> None:
    """What no server sends, after a channel that is well."""
    cid = until_create(connection)
    # Not by chance a command that exists: then more bytes might be waited for.
    connection.sendall(created(cid) + b"\xee" + os.urandom(4096))
    silence(connection)


def truncated(connection: socket.socket) -> None:
    """Half a message, and the end."""
    cid = until_create(connection)
    connection.sendall(created(cid)[:24])


def enormous(connection: socket.socket) -> None:
    """A message that says it is of four gigabytes."""
    cid = until_create(connection)
    connection.sendall(created(cid) + HEADER.pack(15, 0xFFFF, 20, 0, 1, 1) + b"\xff" * 8)
    silence(connection)


def misfit(connection: socket.socket) -> None:
    """A channel of a type that does not exist."""
    cid = until_create(connection)
    connection.sendall(created(cid, data_type=77))
    silence(connection)


def hangs_up(connection: socket.socket) -> None:
    """It takes the connection, and drops it at once."""


FAKES = {
    "garbage": garbage,
    "truncated": truncated,
    "enormous": enormous,
    "misfit": misfit,
    "hangs_up": hangs_up,
    "silent": silence,
    "refuses": None,
}


def test_servers_that_send_garbage_harm_nobody_else(
    ioc: SimIOC,
    point_at: PointAt,
    make_engine: MakeEngine,
    servers: Servers,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.CRITICAL)
    with ExitStack() as stack:
        fakes = {
            kind: stack.enter_context(FakeServer(f"BAD:{kind}", talk, servers.ports())) for kind, talk in FAKES.items()
        }
        point_at(ioc, *fakes.values())
        engine = make_engine()
        seen = Seen()
        names = [*ioc.database.changing_names, *(fake.name for fake in fakes.values())]
        good = len(ioc.database.changing_names)
        begin = time.monotonic()
        with engine.subscribe(names, seen):
            snap = engine.snapshot([*ioc.names, *(fake.name for fake in fakes.values())], timeout=1)
            assert snap.ok[: len(ioc.names)].all()
            assert not snap.ok[len(ioc.names) :].any()
            allowed = {Outcome.NEVER_FOUND, Outcome.DISCONNECTED}
            assert {Outcome(value) for value in snap.outcome[len(ioc.names) :].tolist()} <= allowed
            for kind, fake in fakes.items():
                with pytest.raises((PVNotFoundError, PVDisconnectedError), match=f"BAD:{kind}"):
                    engine.get(fake.name, timeout=0.05)
                with pytest.raises((PVNotFoundError, PVDisconnectedError), match=f"BAD:{kind}"):
                    engine.put(fake.name, 1, timeout=0.05)
            seen.wait(lambda: all(len(seen.values(slot)) > 25 for slot in range(good)), "updates of the healthy ones")
        took = time.monotonic() - begin
        # They are tried again, but ever more rarely: nobody is kept busy by them.
        for kind, fake in fakes.items():
            workers = max(engine.workers, 1)
            assert fake.searches, kind
            assert fake.accepted <= workers * (2 + took), (kind, fake.accepted, took)
            assert fake.searches <= workers * 4 * (2 + took), (kind, fake.searches, took)
        assert shards(engine, "protocol_errors") >= 3
        assert not [event for event in seen.events(Kind.DISCONNECTED) if event.slot < good]
        for slot in range(good):
            values = seen.values(slot)
            assert values == list(range(int(values[0]), int(values[0]) + len(values)))
