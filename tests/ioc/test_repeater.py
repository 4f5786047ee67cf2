from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daqca.ca import repeater as repeater_module
from daqca.ca.beacons import Anomaly, Beacon, BeaconTracker, parse_beacons
from daqca.ca.repeater import ensure_repeater, is_confirmation, registration_message, spawn_repeater
from daqca.ca.settings import Settings
from daqca.sim import Ports, SoftIOC
from daqca.sim.ports import ca_environ, child_environ

LOOPBACK = "127.0.0.1"
NOTHING = struct.pack(">HHHHII", 0, 0, 0, 0, 0, 0)
RECORD = 'record(ao, "T:pv") { field(VAL, "3") field(PINI, "YES") }\n'


def beacon(counter: int, ip: str = "0.0.0.0", port: int = 5064) -> bytes:
    return struct.pack(">HHHHI4s", 13, 0, 13, port, counter, socket.inet_aton(ip))


def wait_until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.005)


def is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as test:
        try:
            test.bind(("", port))
        except OSError:
            return True
    return False


class Client(contextlib.closing[socket.socket]):
    """A UDP socket, and what came to it."""

    def __init__(self, port: int, bound_to: str = ""):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        super().__init__(self.sock)
        self.sock.bind((bound_to, 0))
        self.sock.settimeout(10)
        self.repeater = (LOOPBACK, port)

    def __enter__(self) -> Client:  # type: ignore[override]
        return self

    @property
    def port(self) -> int:
        return self.sock.getsockname()[1]

    def send(self, data: bytes) -> None:
        self.sock.sendto(data, self.repeater)

    def register(self, message: bytes = b"") -> None:
        """Register, and see it confirmed."""
        self.send(message)
        data = b""
        while not is_confirmation(data):  # beacons may come before
            data, sender = self.sock.recvfrom(1000)
        assert data[12:] == socket.inet_aton(LOOPBACK)
        assert sender[0] == LOOPBACK

    def beacons(self) -> Iterator[Beacon]:
        """Beacons as they come; what tells of registrations of others is passed over."""
        while True:
            data, sender = self.sock.recvfrom(1000)
            yield from parse_beacons(data, sender)

    def is_empty(self) -> bool:
        self.sock.settimeout(0)
        try:
            self.sock.recv(1000)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(10)
        return False


OWN_DESCRIPTORS = 4
"""Input, output, errors and the socket."""


class Script:
    """Our repeater, run as its clients run it, but as a child of the test."""

    def __init__(self, port: int, linger: float = 60.0):
        self.port = port
        command = [sys.executable, "-I", "-S", repeater_module.__file__, "--port", str(port), "--linger", str(linger)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self) -> Script:
        wait_until(lambda: is_taken(self.port) or self.process.poll() is not None)
        assert self.process.poll() is None
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        output, _ = self.process.communicate(timeout=10)
        assert output == ""

    def client(self, bound_to: str = "") -> Client:
        return Client(self.port, bound_to)

    def descriptors(self) -> int:
        """How many files and sockets it has open: one more for each client, and now and then one to try a port with."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def wait_clients(self, n: int) -> None:
        """Wait until it has so many clients."""
        wait_until(lambda: self.descriptors() == OWN_DESCRIPTORS + n)


@pytest.fixture
def script() -> Iterator[Script]:
    with Script(Ports.choose().repeater) as script:
        yield script


def test_beacons_of_an_ioc_reach_every_client(script, make_ioc):
    with script.client() as one, script.client(LOOPBACK) as two:
        one.register()
        two.register(registration_message())
        ioc: SoftIOC = make_ioc(RECORD, ports=Ports.choose(repeater=script.port))
        heard = {}
        for client in (one, two):
            beacons = client.beacons()
            heard[client] = [next(beacons) for _ in range(6)]
            # It said nothing of its address: the repeater wrote it in.
            assert {b.server for b in heard[client]} == {(LOOPBACK, ioc.server_port)}
            # An IOC of EPICS 7 says 0 twice when it starts.
            assert sorted({b.counter for b in heard[client]}) == [0, 1, 2, 3, 4]
        assert heard[one] == heard[two]


def test_a_restarted_ioc_is_told_of(script, make_ioc):
    ioc: SoftIOC = make_ioc(RECORD, ports=Ports.choose(repeater=script.port), start=False)
    tracker = BeaconTracker(time.monotonic())
    anomalies = []
    with script.client() as client:
        client.register()
        for start in (ioc.start, ioc.restart):
            start()
            beacons = client.beacons()
            for _ in range(6):
                heard = next(beacons)
                anomalies.append(tracker.received(heard.server, heard.counter, time.monotonic()))
    told = [anomaly for anomaly in anomalies if anomaly is not None]
    assert told == [Anomaly.NEW, Anomaly.RESTARTED]
    assert anomalies[0] is Anomaly.NEW


PYEPICS = """
import sys
import epics
pv = epics.PV("T:pv")
assert pv.wait_for_connection(10), "not connected"
print(pv.get())
print("ready", flush=True)
sys.stdin.readline()
epics.ca.client_status(epics.ca.current_context(), 10)
"""


def test_a_pyepics_client_registers_and_is_dropped_when_it_ends(script, make_ioc):
    ioc: SoftIOC = make_ioc(RECORD, ports=Ports.choose(repeater=script.port))
    with script.client() as watch:
        watch.register()
        script.wait_clients(1)
        environ = child_environ(ca_environ(ioc.ports))
        client = subprocess.Popen(
            [sys.executable, "-c", PYEPICS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environ,
        )
        try:
            # libca registers 10 s after it started. The others are told nothing, so that the dead are noticed.
            while watch.sock.recv(1000) != NOTHING:
                pass
            lines = []
            while lines[-1:] != ["ready\n"]:
                lines.append(client.stdout.readline())
                assert lines[-1], lines
            assert lines == ["3.0\n", "ready\n"]
            output, _ = client.communicate("\n", timeout=20)
        finally:
            client.kill()
            client.communicate()
        assert "registered=1" in output, output
        assert client.returncode == 0
        watch.register(registration_message())  # whoever registers has the dead found, with the next datagram
        watch.register(registration_message())
        script.wait_clients(1)


def test_other_clients_are_told_nothing_when_one_registers(script):
    with script.client() as one, script.client() as two:
        one.register()
        two.register()
        assert one.sock.recv(1000) == NOTHING
        two.register()  # again: no harm
        assert one.sock.recv(1000) == NOTHING
        one.send(beacon(7))
        assert next(two.beacons()).counter == 7
        assert two.is_empty()  # once each, though it registered twice
        assert one.is_empty()  # not back to where it came from


def test_a_datagram_goes_on_as_it_came_but_for_the_address(script):
    with script.client() as one, script.client() as two:
        one.register()
        for sent, received in [
            (beacon(1, port=0), beacon(1, LOOPBACK, port=0)),
            (beacon(2, "10.1.2.3"), beacon(2, "10.1.2.3")),
            (NOTHING + beacon(3), NOTHING + beacon(3)),
            (registration_message() + beacon(4), beacon(4)),
        ]:
            two.send(sent)
            data = one.sock.recv(1000)
            while data == NOTHING:  # two has registered with the last one
                data = one.sock.recv(1000)
            assert data == received


def test_garbage_is_survived(script):
    with script.client() as one, script.client() as two:
        one.register()
        for data in (b"x", bytes(15), b"\xff" * 15, os.urandom(3)):
            two.send(data)
        two.send(bytes(range(200)))  # not CA, but EPICS' repeater forwards it too
        assert one.sock.recv(1000) == bytes(range(200))
        two.send(b"\xff" * 65_000)
        assert one.sock.recv(70_000) == b"\xff" * 65_000
        two.register()


def test_a_client_that_is_gone_is_dropped(script):
    with script.client() as one:
        one.register()
        gone = [script.client() for _ in range(20)]
        for client in gone:
            client.register()
        script.wait_clients(21)
        for client in gone:
            client.sock.close()
        with script.client() as sender:
            sender.send(beacon(1))
            sender.send(beacon(2))
            assert next(one.beacons()).counter == 1
        script.wait_clients(1)


def test_the_second_repeater_ends_at_once_and_quietly(script):
    with script.client() as client:
        client.register()
        second = Script(script.port)
        output, _ = second.process.communicate(timeout=10)
        assert (second.process.returncode, output) == (0, "")
        client.send(beacon(1))
        client.register()
        assert script.process.poll() is None


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--port", "70000"], ["--port"], ["--linger", "x"], ["-h"]])
def test_options_that_make_no_sense(arguments):
    command = [sys.executable, "-I", "-S", repeater_module.__file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: repeater.py [--port N] [--linger SECONDS], not -")


def test_without_clients_it_ends():
    with Script(Ports.choose().repeater, linger=0.3) as script:
        assert script.process.wait(10) == 0
        assert not is_taken(script.port)


def test_with_clients_it_stays_until_they_are_gone():
    with Script(Ports.choose().repeater, linger=0.8) as script:
        with script.client() as one:
            one.register()
            with pytest.raises(subprocess.TimeoutExpired):
                script.process.wait(1.5)
            one.register()
        gone = time.monotonic()
        assert script.process.wait(10) == 0
        assert time.monotonic() - gone > 0.4  # it lingers from the last client on, not from its start


def test_clients_of_this_host_only():
    port = Ports.choose().repeater
    with contextlib.closing(repeater_module.Repeater(port)) as mine:
        mine.register((LOOPBACK, port))  # itself: it would forward to itself without end
        assert mine.clients == {}
        with Client(port) as client:
            mine.register(("203.0.113.5", client.port))
            assert mine.clients == {}
            mine.register((LOOPBACK, client.port))
            assert list(mine.clients) == [client.port]
            client.sock.recv(1000)
        mine.verify()
        assert mine.clients == {}


def test_multicast_groups_are_those_epics_looks_at(monkeypatch):
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", "10.0.0.255 224.0.2.9:5064 239.1.1.1 host.example")
    monkeypatch.delenv("EPICS_CAS_BEACON_ADDR_LIST", raising=False)
    assert repeater_module._groups() == ["224.0.2.9", "239.1.1.1"]
    monkeypatch.setenv("EPICS_CAS_BEACON_ADDR_LIST", "225.0.0.1 127.0.0.1")
    assert repeater_module._groups() == ["225.0.0.1"]


def processes(port: int) -> list[int]:
    """The repeaters of this port, by their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if repeater_module.__file__ in words and str(port) in words:
                    found.append(int(entry.name))
    return found


def test_a_spawned_repeater_is_nobodys_child_and_ends_by_itself():
    port = Ports.choose().repeater
    assert spawn_repeater(port, linger=0.3)
    with Client(port) as client:
        wait_until(lambda: is_taken(port))
        client.register(registration_message(LOOPBACK))
        (pid,) = processes(port)
        parent, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1:4:2]
        assert int(parent) != os.getpid()
        assert int(session) != os.getsid(0)
        assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {os.devnull}
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert spawn_repeater(port, linger=0.3)  # a second one ends at once
        wait_until(lambda: processes(port) == [pid])
    wait_until(lambda: not processes(port))
    assert not is_taken(port)


def test_a_repeater_that_cannot_be_started_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert not spawn_repeater(Ports.choose().repeater)


def test_ensure_repeater_starts_one_and_finds_the_one_that_is_there():
    port = Ports.choose().repeater
    settings = Settings(repeater_port=port, repeater_linger=0.5)
    assert ensure_repeater(settings, timeout=10)
    assert len(processes(port)) == 1
    assert ensure_repeater(settings, timeout=10)
    assert len(processes(port)) == 1
    wait_until(lambda: not processes(port))


def test_ensure_repeater_gives_up(monkeypatch):
    monkeypatch.setattr(repeater_module, "spawn_repeater", lambda *_: False)
    assert not ensure_repeater(Settings(repeater_port=Ports.choose().repeater), timeout=0.3)


def test_epics_own_repeater_confirms_us(repeater):
    with Client(repeater.repeater_port) as client:
        client.register(registration_message(LOOPBACK))
    assert ensure_repeater(Settings(repeater_port=repeater.repeater_port))
    assert processes(repeater.repeater_port) == []
