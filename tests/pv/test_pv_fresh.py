"""After a put that was waited for, a PV shows what was put, or what came after it."""

from __future__ import annotations

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
from support.ioc import Servers
from support.pvs import made
from support.recording import eventually

from daqca import Engine
from daqca.pv_proxy import PV


@pytest.fixture
def as_before(engine: Engine, records: Records) -> Iterator[None]:
    """The records of this module's IOC have their values again after the test."""
    yield
    for record, value in (("string", "a string"), ("double.DESC", ""), ("enum", 2)):
        engine.put(records(record), value)


def test_a_put_that_was_waited_for_is_seen(engine: Engine, records: Records):
    """In a monitored PV, though its update may come later than the confirmation, and under load."""
    pv = PV(records("free"))
    busy = [PV(records(name)) for name in ("double", "long", "count")]
    stop = threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for other in busy:
                other.put(number % 40, wait=True)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert pv.wait_for_connection(20)
        for number in range(300):
            assert pv.put(number, wait=True) == 1
            assert pv.get() == number
            assert pv.value == number
    finally:
        stop.set()
        thread.join()


def test_what_stands_beside_the_value_is_as_new(engine: Engine, records: Records):
    """Alarm, time and count are those of the value that was put, or of a later one."""
    pv, array = made(records("alarmed")), made(records("doubles"))
    for number in range(101):
        begin = time.time()
        high = number % 2 == 0
        pv.put(1 if high else 95, wait=True)
        assert pv.timestamp >= begin - 0.001  # type: ignore[operator]
        pv.put(95 if high else 1, wait=True)
        assert (pv.severity, pv.status) == ((2, 3) if high else (0, 0)), number
        assert pv.timestamp >= begin - 0.001  # type: ignore[operator]
        elements = 1 + number % 8
        array.put(np.arange(float(elements)), wait=True)
        assert array.count == elements


def others(first: PV) -> tuple[PV, PV]:
    """Another PV of the name, and one in another form."""
    return made(first.pvname), made(first.pvname, form="native")


def test_arrays_and_texts_are_fresh(engine: Engine, records: Records, as_before: None):
    """After a put that was waited for, no PV of the name shows an older value, of whatever type."""
    rounds = {
        "doubles": lambda i: np.arange(1.0 + i % 8) + i,
        "longs": lambda i: np.arange(1 + i % 8) + i,
        "chars": lambda i: np.arange(1 + i % 8) + i % 100,
        "strings": lambda i: [str(i)] * (1 + i % 8),
        "string": lambda i: f"text {i}",
        "text": lambda i: list(f"text {i}".encode()),
        "enum": lambda i: i % 3,
        "free": float,
        "double.DESC": lambda i: f"description {i}",  # a field whose put does not process the record
        "double.PREC": lambda i: i % 10,
        "count.HIHI": lambda i: i,
    }
    for record, make in rounds.items():
        pv = made(records(record))
        seen = (pv, *others(pv), made(records(record), auto_monitor=False))
        for i in range(40):
            value = make(i)
            assert pv.put(value, wait=True) == 1
            for one in seen:
                found = one.get()
                assert np.array_equal(found, value), (record, i, one is pv)
                assert np.array_equal(one.value, value), (record, i)
    engine.put(records("double.PREC"), 3)
    engine.put(records("count.HIHI"), 0)
    for record, value in (
        ("doubles", [1.5, -2.5, 1e300]),
        ("longs", [-(2**31), 0, 2**31 - 1]),
        ("chars", [0, 127, 255]),
    ):
        engine.put(records(record), value)
    engine.put(records("strings"), ["one", "", " three "])


def test_a_record_and_its_value_are_one(engine: Engine, records: Records):
    """A put to ``X`` is seen in ``X.VAL``, and the other way."""
    for first, second in (("free", "free.VAL"), ("count.VAL", "count")):
        pv, other = made(records(first)), made(records(second))
        eventually(lambda other=other: engine.last(other._slot) is not None, "the first update")
        for i in range(300):
            assert pv.put(i, wait=True) == 1
            assert other.get() == i
            engine.put_many([records(first)], [i + 0.5], wait=True)
            assert other.get() == (i + 0.5 if first == "free" else i)
        pv.put(0, wait=True)
        assert engine.table.doubts.serial(other._slot) is not None


def test_puts_of_the_engine_are_seen(engine: Engine, records: Records, as_before: None):
    names = [records(record) for record in ("free", "count", "string", "double.DESC", "longs")]
    pvs = [made(name) for name in names]
    for pv in pvs:
        pv.get()
    for i in range(60):
        values: list[Any] = [float(i), i, f"text {i}", f"about {i}", [i, i + 1]]
        result = engine.put_many(names, values, wait=True)
        assert result.ok
        for pv, value in zip(pvs, values, strict=True):
            assert np.array_equal(pv.get(), value)
        for pv, name, value in zip(pvs, names, values, strict=True):
            engine.put(name, value, wait=True)
            assert np.array_equal(pv.get(), value)
    engine.put(records("longs"), [-(2**31), 0, 2**31 - 1])


def test_where_the_record_tells_nothing(engine: Engine, records: Records):
    """A dead band that is never left: no update ever comes, and what was put is seen all the same."""
    pv, other = made(records("free")), made(records("free"))
    engine.put(f"{records('free')}.MDEL", 1e9)
    try:
        for i in range(1, 5):
            pv.put(i, wait=True)
            assert (pv.get(), other.get(), other.value) == (i, i, i)
            engine.put(records("free"), i + 0.25)
            assert (pv.get(), other.get()) == (i + 0.25, i + 0.25)
            engine.put_many([records("free")], [i + 0.5], wait=True)
            assert (pv.get(), other.get()) == (i + 0.5, i + 0.5)
            pv.put(i + 0.75, use_complete=True)
            eventually(lambda: pv.put_complete, "the end")
            assert (pv.get(), other.get()) == (i + 0.75, i + 0.75)
    finally:
        engine.put(f"{records('free')}.MDEL", 0)


READ_NOTIFY, WRITE_NOTIFY, FAKE = 15, 19, "fake:pv"


class LateServer:
    """A server of one double that confirms a put, answers the get after it, and only then tells what was before."""

    def __init__(self) -> None:
        self.values = [(1.0, 1)]
        """Each with the seconds of its timestamp."""
        self._monitor = 0
        self._connection: socket.socket | None = None

    def talk(self, connection: socket.socket) -> None:
        self._connection = connection
        for command, kind, _, p1, p2, payload in requests(connection):
            if command == CREATE_CHAN:
                connection.sendall(created(p1))
            elif command == EVENT_ADD:
                self._monitor = p2
                self._send(EVENT_ADD, p2, *self.values[-1])
            elif command == WRITE_NOTIFY:
                self.values.append((struct.unpack(">d", payload)[0], self.values[-1][1] + 2))
                connection.sendall(HEADER.pack(WRITE_NOTIFY, 0, kind, 1, 1, p2))
            elif command == READ_NOTIFY:
                value, seconds = self.values[-1]
                self._send(READ_NOTIFY, p2, value, seconds)
                self._send(EVENT_ADD, self._monitor, -value, seconds - 1)

    def tell(self, value: float) -> None:
        """Send an update that is new."""
        self.values.append((value, self.values[-1][1] + 2))
        self._send(EVENT_ADD, self._monitor, *self.values[-1])

    def _send(self, command: int, p2: int, value: float, seconds: int) -> None:
        assert self._connection is not None
        body = struct.pack(">HHIIId", 0, 0, seconds, 0, 0, value)
        self._connection.sendall(HEADER.pack(command, len(body), 20, 1, 1, p2) + body)


def test_updates_that_come_late_are_passed_over(
    servers: Servers, repeater: Any, make_engine: MakeEngine, point_at: Callable[..., Any]
):
    late = LateServer()
    with FakeServer(FAKE, late.talk, servers.ports()) as server:
        point_at(server)
        engine = make_engine()
        pv = engine.pv(FAKE)
        assert pv.wait_for_connection(20)
        eventually(lambda: engine.last(pv._slot), "the first update")
        assert pv.get() == 1.0
        for number in range(2, 30):
            assert pv.put(number, wait=True) == 1
            assert pv.get() == number
            assert engine.ask(pv._slot, 20).row is not None  # by then the late update is here
            assert (pv.get(), pv.value) == (number, number)
        late.tell(50.0)
        eventually(lambda: pv.get() == 50.0, "what is new is not passed over")
        engine.close()


def test_what_is_seen_once_stays(engine: Engine, records: Records):
    """A value that a get has shown is not followed by an older one, though its updates come late; others put too."""
    pv, writer = made(records("count")), made(records("count"), auto_monitor=False)
    last = -1
    stop = threading.Event()
    base = 10_000

    def write() -> None:
        number = base
        while not stop.is_set():
            number += 1
            writer.put(number, wait=number % 5 == 0)

    pv.put(base, wait=True)
    thread = threading.Thread(target=write)
    thread.start()
    try:
        for i in range(3000):
            found = pv.get(use_monitor=i % 7 != 0)
            assert found >= last, i
            last = found
    finally:
        stop.set()
        thread.join()
    assert last > base
    pv.put(0, wait=True)
