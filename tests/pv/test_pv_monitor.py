"""Automatic monitoring of PVs: when, with which mask, of what, and how it ends. Manual, chapter 3.3."""

from __future__ import annotations

import gc
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.ca_records import Records
from support.engines import MakeEngine
from support.fakes import CREATE_CHAN, EVENT_ADD, HEADER, FakeServer, created, requests
from support.ioc import IOCFactory, Servers, random_prefix
from support.pvs import made
from support.recording import eventually

from daqca import Engine, ca, dbr
from daqca.errors import ConfigurationError
from daqca.pv_proxy import PV

VALUE, LOG, ALARM, PROPERTY = dbr.DBE_VALUE, dbr.DBE_LOG, dbr.DBE_ALARM, dbr.DBE_PROPERTY


class Values:
    """A callback that keeps the values it is given."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def __call__(self, value: Any = None, **kw: Any) -> None:
        self.values.append(value)

    def wait(self, value: Any) -> list[Any]:
        """Wait for a value; return and forget all that came until then."""
        eventually(lambda: value in self.values, f"{value} among {self.values}")
        found, self.values = self.values, []
        return found


# --- which updates come -------------------------------------------------------------------------


@pytest.fixture
def graded(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine) -> tuple[Engine, str]:
    """A record whose changes by 1 are changes of the value, those by 10 are archived, and above 100 it is in alarm."""
    name = random_prefix() + "x"
    point_at(
        make_ioc(
            f'record(ao, "{name}") {{ field(PINI, YES) field(VAL, 0) field(MDEL, 0.9) field(ADEL, 9.9)'
            "field(HIGH, 100) field(HSV, MINOR) }"
        )
    )
    return make_engine(), name


# What is put one after the other, and to which masks each tells of it; the last is told to all.
STEPS = (
    (0.5, 0),  # within both dead bands
    (2.0, VALUE),
    (4.0, VALUE),
    (20.0, VALUE | LOG),
    (20.5, 0),
    (101.0, VALUE | LOG | ALARM),
    (101.5, 0),
    (103.0, VALUE),
    (1.0, VALUE | LOG | ALARM),
    (200.0, VALUE | LOG | ALARM),
)


def test_each_mask_has_its_updates(graded: tuple[Engine, str]):
    engine, name = graded
    masks: list[Any] = [VALUE, LOG, ALARM, VALUE | ALARM, VALUE | LOG, ALARM | LOG, VALUE | LOG | ALARM, True, None]
    told = [Values() for _ in masks]
    pvs = [engine.pv(name, auto_monitor=mask, callback=each) for mask, each in zip(masks, told, strict=True)]
    for pv, each, mask in zip(pvs, told, masks, strict=True):
        assert pv.wait_for_connection(20)
        assert each.wait(0.0) == [0.0]
        assert pv.auto_monitor_mask == (mask if type(mask) is int else VALUE | ALARM)
    for value, _ in STEPS:
        engine.put(name, value)
    for each, mask in zip(told, masks, strict=True):
        wanted = mask if type(mask) is int else VALUE | ALARM
        assert each.wait(200.0) == [value for value, kinds in STEPS if kinds & wanted], mask
    assert [pv.get(use_monitor=False) for pv in pvs] == [200.0] * len(pvs)


def test_the_default_mask(engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch):
    assert made(records("double")).auto_monitor_mask == ca.DEFAULT_SUBSCRIPTION_MASK == VALUE | ALARM
    monkeypatch.setattr(ca, "DEFAULT_SUBSCRIPTION_MASK", LOG)
    for choice in (True, None):
        assert made(records("double"), auto_monitor=choice).auto_monitor_mask == LOG
    assert made(records("double"), auto_monitor=VALUE).auto_monitor_mask == VALUE


def test_auto_monitor_as_given_and_as_decided(engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch):
    for given, small, large in (
        (None, (True, 5), (False, None)),
        (True, (True, 5), (True, 5)),
        (False, (False, None), (False, None)),
        (VALUE, (VALUE, VALUE), (VALUE, VALUE)),
        (0, (0, None), (0, None)),
    ):
        for record, expected in (("doubles", small), ("large", large)):
            pv = made(records(record), auto_monitor=given)
            assert (pv.auto_monitor, pv.auto_monitor_mask) == expected, (given, record)
    monkeypatch.setattr(ca, "AUTOMONITOR_MAXLENGTH", 8)
    for record, is_monitored in (("doubles", False), ("full", True), ("double", True)):
        pv = made(records(record))
        assert pv.auto_monitor is is_monitored


def test_one_that_is_not_monitored_has_no_updates(engine: Engine, records: Records):
    told, sentinel = Values(), Values()
    pv = made(records("free"), auto_monitor=False, callback=told)
    made(records("free"), callback=sentinel)
    for number in (1.0, 2.0, 3.0):
        engine.put(records("free"), number)
        assert pv.get() == pv.value == number
    sentinel.wait(3.0)
    assert told.values == []


def test_it_may_be_assigned_to(graded: tuple[Engine, str]):
    engine, name = graded
    told = Values()
    pv = engine.pv(name, callback=told)
    assert pv.wait_for_connection(20)
    told.wait(0.0)
    for mask, expected in ((LOG, [20.0, 101.0, 1.0]), (ALARM, [101.0, 1.0]), (VALUE, [2.0, 20.0, 101.0, 103.0, 1.0])):
        pv.auto_monitor = mask
        assert (pv.auto_monitor, pv.auto_monitor_mask) == (mask, mask)
        told.wait(pv.get(use_monitor=False))  # the first value of the new monitor
        for value in (2.0, 20.0, 101.0, 103.0, 1.0):
            engine.put(name, value)
        engine.put(name, 300.0)
        assert told.wait(300.0) == [*expected, 300.0]
        engine.put(name, 0.0)
        told.wait(0.0)
    for off in (False, 0):
        pv.auto_monitor = off
        assert (pv.auto_monitor, pv.auto_monitor_mask) == (off, None)
        engine.put(name, 50.0)
        assert pv.get() == pv.value == 50.0
        pv.auto_monitor = True
        assert (pv.auto_monitor, pv.auto_monitor_mask) == (True, 5)
        engine.put(name, 60.0)
        told.wait(60.0)
    pv.clear_auto_monitor()
    assert (pv.auto_monitor, pv.auto_monitor_mask) == (False, None)
    told.values.clear()
    engine.put(name, 70.0)
    assert pv.get() == 70.0
    assert told.values == []


def test_it_may_be_assigned_to_before_the_pv_is_connected(engine: Engine, records: Records):
    pv = PV(records("free"), auto_monitor=False)
    pv.auto_monitor = LOG
    assert pv.wait_for_connection(20)
    assert (pv.auto_monitor, pv.auto_monitor_mask) == (LOG, LOG)


def test_one_of_two_pvs_is_changed(engine: Engine, records: Records):
    """Each of a name has its own mask."""
    told, other_told = Values(), Values()
    engine.put(records("free"), 0)
    pv, other = made(records("free"), callback=told), made(records("free"), callback=other_told)
    told.wait(0.0)
    other_told.wait(0.0)
    pv.clear_auto_monitor()
    engine.put(records("free"), 1)
    assert other_told.wait(1.0) == [1.0]
    assert (pv.auto_monitor_mask, other.auto_monitor_mask, told.values) == (None, 5, [])
    assert pv.get() == 1.0


def test_what_the_mask_may_be(engine: Engine, records: Records):
    """Rubbish is refused, when it is given."""
    for rubbish in (-1, 1 << 16, "yes", 1.5, PROPERTY << 8):
        with pytest.raises(ConfigurationError, match="the sum of DBE_VALUE"):
            PV(records("double"), auto_monitor=rubbish)  # type: ignore[arg-type]
    pv = made(records("double"))
    with pytest.raises(ConfigurationError, match="auto_monitor=-1"):
        pv.auto_monitor = -1
    assert (pv.auto_monitor, pv.auto_monitor_mask, pv.get()) == (True, 5, 1.5)
    for true, mask in ((np.True_, 5), (np.False_, None), (np.int64(VALUE), VALUE)):
        assert made(records("double"), auto_monitor=true).auto_monitor_mask == mask  # type: ignore[arg-type]


# --- what the server sees -----------------------------------------------------------------------

READ_NOTIFY, EVENT_CANCEL, NAME = 15, 2, "fake:pv"
_TIME, _CTRL, _DOUBLE = 20, 34, 6


class Ledger:
    """A server of one double that notes which monitors there are."""

    def __init__(self) -> None:
        self.monitors: dict[tuple[int, int], tuple[int, int]] = {}
        """(Circuit, id) to (mask, DBR type)."""
        self.begun = 0
        """How many there ever were, those of metadata aside."""
        self._lock = threading.Lock()
        self._circuits: dict[int, socket.socket] = {}

    def tell(self) -> None:
        """Send an update of each monitor, for the value's metadata or itself."""
        with self._lock:
            for (circuit, number), (_, kind) in self.monitors.items():
                self._circuits[circuit].sendall(self._value(EVENT_ADD, kind, number))

    def masks(self) -> list[int]:
        """Those of the values, sorted."""
        with self._lock:
            return sorted(mask for mask, kind in self.monitors.values() if mask != PROPERTY)

    def properties(self) -> int:
        """How many are of metadata."""
        with self._lock:
            return sum(mask == PROPERTY for mask, _ in self.monitors.values())

    def talk(self, connection: socket.socket) -> None:
        """Serve one circuit."""
        circuit = id(connection)
        for command, kind, _, p1, p2, payload in requests(connection):
            if command == CREATE_CHAN:
                connection.sendall(created(p1))
            elif command == EVENT_ADD:
                (mask,) = struct.unpack_from(">H", payload, 12)
                with self._lock:
                    self._circuits[circuit] = connection
                    self.monitors[circuit, p2] = (mask, kind)
                    self.begun += mask != PROPERTY
                    connection.sendall(self._value(EVENT_ADD, kind, p2))
            elif command == EVENT_CANCEL:
                with self._lock:
                    self.monitors.pop((circuit, p2), None)
                    connection.sendall(HEADER.pack(EVENT_ADD, 0, kind, 0, p1, p2))
            elif command == READ_NOTIFY:
                with self._lock:
                    connection.sendall(self._value(READ_NOTIFY, kind, p2))

    @staticmethod
    def _value(command: int, kind: int, p2: int) -> bytes:
        body = {
            _TIME: struct.pack(">HHIIId", 0, 0, 1_000_000, 5, 0, 2.5),
            _CTRL: struct.pack(">HHhH8s8dd", 0, 0, 2, 0, b"mm", *range(8), 2.5),
            _DOUBLE: struct.pack(">d", 2.5),
        }[kind]
        return HEADER.pack(command, len(body), kind, 1, 1, p2) + body


@pytest.fixture
def ledger(
    servers: Servers, repeater: Any, make_engine: MakeEngine, point_at: Callable[..., Any]
) -> Iterator[tuple[Ledger, Engine]]:
    """Such a server, and an engine that reaches it."""
    ledger = Ledger()
    with FakeServer(NAME, ledger.talk, servers.ports()) as server:
        point_at(server)  # type: ignore[arg-type]
        engine = make_engine()
        yield ledger, engine
        engine.close()


def test_one_monitor_serves_all_pvs_of_a_name(ledger: tuple[Ledger, Engine]):
    server, engine = ledger
    pvs = [engine.pv(NAME) for _ in range(5)]
    assert [pv.get(timeout=20) for pv in pvs] == [2.5] * 5
    eventually(lambda: server.masks() == [5], "one monitor")
    del pvs[1:]
    gc.collect()
    assert pvs[0].get() == 2.5
    server.tell()
    assert pvs[0].get(use_monitor=False) == 2.5
    assert (server.masks(), server.begun) == ([5], 1)  # the last one has it still
    pvs.clear()
    gc.collect()
    server.tell()
    eventually(lambda: server.masks() == [], "no monitor")


def test_each_mask_is_one_monitor(ledger: tuple[Ledger, Engine]):
    server, engine = ledger
    pvs = [engine.pv(NAME, auto_monitor=mask) for mask in (VALUE, LOG, LOG, True, None, False)]
    eventually(lambda: server.masks() == [VALUE, LOG, VALUE | ALARM], "three monitors")
    pvs[0].auto_monitor = LOG
    eventually(lambda: server.masks() == [LOG, VALUE | ALARM], "two monitors")
    for pv in pvs:
        pv.clear_auto_monitor()
    eventually(lambda: server.masks() == [], "no monitor")
    pvs[0].auto_monitor = True
    eventually(lambda: server.masks() == [5], "one again")
    assert pvs[0].get(timeout=20) == 2.5


@pytest.mark.parametrize("end", ["del", "disconnect", "cycle"])
def test_monitors_end_with_their_pv(ledger: tuple[Ledger, Engine], end: str):
    """Those of metadata too, with the next that comes."""
    server, engine = ledger
    pv = engine.pv(NAME)
    assert (pv.get(timeout=20), pv.units) == (2.5, "mm")
    eventually(lambda: (server.masks(), server.properties()) == ([5], 1), "both monitors")
    if end == "disconnect":
        pv.disconnect()
    else:
        if end == "cycle":
            pv.myself = pv  # type: ignore[attr-defined]
        del pv
        gc.collect()
    if end != "disconnect":
        server.tell()
    eventually(lambda: (server.masks(), server.properties()) == ([], 0), "both have ended")


def test_metadata_are_monitored_once_and_only_if_asked_for(ledger: tuple[Ledger, Engine]):
    server, engine = ledger
    pvs = [engine.pv(NAME, auto_monitor=False) for _ in range(4)]
    assert [pv.get(timeout=20) for pv in pvs] == [2.5] * 4
    assert (server.masks(), server.properties()) == ([], 0)
    assert [(pv.units, pv.precision, pv.char_value) for pv in pvs] == [("mm", 2, "2.50")] * 4
    eventually(lambda: server.properties() == 1, "one monitor of metadata")
    assert server.masks() == []


# --- monitor_delta ------------------------------------------------------------------------------


def test_monitor_delta_sets_mdel(engine: Engine, records: Records):
    """And so the record itself tells less."""
    engine.put(records("free"), 0)
    told = Values()
    pv = made(records("free"), callback=told, monitor_delta=5)
    assert pv.monitor_delta == 5
    eventually(lambda: engine.get(f"{records('free')}.MDEL").value == 5, "MDEL")
    told.wait(0.0)
    other = Values()
    made(records("free"), callback=other)
    other.wait(0.0)
    for value in (1, 2, 5, 6, 4, 12):
        engine.put(records("free"), value)
    assert told.wait(12.0) == [6.0, 12.0]
    assert other.wait(12.0) == [6.0, 12.0]
    assert pv.get() == 12
    engine.put(f"{records('free')}.MDEL", 0)


def test_monitor_delta_where_mdel_cannot_be_set(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
    """Its fields of level 1, MDEL among them, may not be written: what is small is left out here."""
    name = random_prefix() + "x"
    rules = "ASG(DEFAULT) { RULE(1, READ) RULE(0, WRITE) }"
    point_at(make_ioc(f'record(ao, "{name}") {{ field(PINI, YES) field(VAL, 0) }}', access_security=rules))
    engine = make_engine()
    told, other = Values(), Values()
    pv = engine.pv(name, callback=told, monitor_delta=5)
    assert pv.wait_for_connection(20)
    told.wait(0.0)
    engine.pv(name, callback=other)
    other.wait(0.0)
    for value in (1, 4.9, 5, 6, 9, 0.5, 12):
        engine.put(name, value)
    assert other.wait(12.0) == [1, 4.9, 5, 6, 9, 0.5, 12]
    assert told.wait(12.0) == [5, 12]
    assert engine.get(f"{name}.MDEL").value == 0
    assert pv.get() == 12
    engine.put(name, 13)
    eventually(lambda: pv.get() == 13, "the attribute is not filtered")


def test_monitor_delta_of_what_has_no_mdel(engine: Engine, records: Records):
    """Texts, states and arrays are told as ever, and nobody waits for an MDEL that is not there."""
    for record, values in (("string", ["a", "b", "a string"]), ("enum", [0, 1, 2])):
        told = Values()
        begin = time.monotonic()
        pv = made(records(record), callback=told, monitor_delta=1)
        told.wait(pv.get())
        assert time.monotonic() - begin < 1.5
        for value in values:
            engine.put(records(record), value)
        assert told.wait(values[-1])[-3:] == values


def test_updates_of_arrays(engine: Engine, records: Records):
    told: list[Any] = []
    pv = made(records("doubles"), callback=lambda value, count, **kw: told.append((value.tolist(), count)))
    eventually(lambda: told, "the first update")
    for length in (1, 0, 8, 3):
        if length:
            engine.put(records("doubles"), np.arange(float(length)))
    eventually(lambda: len(told) == 4, "all updates")
    assert told == [([1.5, -2.5, 1e300], 3), ([0.0], 1), (list(map(float, range(8))), 8), ([0.0, 1.0, 2.0], 3)]
    assert pv.get().tolist() == [0.0, 1.0, 2.0]
    engine.put(records("doubles"), [1.5, -2.5, 1e300])
