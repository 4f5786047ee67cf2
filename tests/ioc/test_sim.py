"""The embedded IOC, seen by clients that are not daqca's own: its records, and its life and death."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.access import VALUE
from support.others import VALUES
from support.raw_client import ACCESS_RIGHTS, EVENT_ADD, RawClient

from daqca.errors import ConfigurationError
from daqca.sim import Ports, SimDatabase, SimError, SimIOC, SoftIOC
from daqca.sim.ports import child_environ
from daqca.sim.specials import SLOW_PUT_S, TEXT, WAVEFORMS

STRING, SHORT, FLOAT, ENUM, CHAR, LONG, DOUBLE = range(7)
FORMATS = {SHORT: "h", FLOAT: "f", ENUM: "H", CHAR: "B", LONG: "i", DOUBLE: "d"}
ECA_NORMAL, ECA_NORDACCESS, ECA_NOWTACCESS = 1, 368, 376
ONE_RECORD = 'record(ao, "X:one") { field(PINI, YES) field(VAL, 3) }'


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.01)


def numbers(data_type: int, count: int, payload: bytes) -> list[float]:
    return list(struct.unpack_from(f">{count}{FORMATS[data_type]}", payload))


def text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode()


def read(client: RawClient, pvname: str) -> object:
    native_type, _ = client.connect(pvname)
    message = client.get(pvname)
    assert message.p1 == ECA_NORMAL
    if native_type == STRING:
        return text(message.payload)
    return numbers(native_type, message.count, message.payload)[0]


@pytest.fixture
def client(ioc: SimIOC):
    with RawClient(ioc.server_port) as client:
        yield client


def test_every_scalar_serves_what_is_documented(ioc: SimIOC, client: RawClient):
    records = [record for record in ioc.database.records if not record.changing]
    assert len(records) == 370
    assert {record.native_type for record in records} == set(range(7))
    assert {record.severity for record in records} == {0, 1, 2}
    for record in records:
        native = client.connect(record.name)
        assert (record.name, *native) == (record.name, record.native_type, 1)
        assert client.rights[record.name] == 3
        message = client.get(record.name, native[0] + 7)
        status, severity = struct.unpack_from(">hh", message.payload)
        assert (record.name, status, severity) == (record.name, record.status, record.severity)
        if native[0] == STRING:
            assert text(message.payload[4:]) == record.value
        else:
            start = {CHAR: 5, DOUBLE: 8}.get(native[0], 4)
            assert numbers(native[0], 1, message.payload[start:]) == [record.value], record.name


def test_metadata_is_what_is_documented(ioc: SimIOC, client: RawClient):
    for record in ioc.database.records[:100]:
        native_type, _ = client.connect(record.name)
        payload = client.get(record.name, native_type + 28).payload
        if native_type == ENUM:
            (count,) = struct.unpack_from(">h", payload, 4)
            states = tuple(text(payload[6 + 26 * index : 32 + 26 * index]) for index in range(count))
            assert states == record.enum_strings, record.name
        elif native_type in (FLOAT, DOUBLE):
            assert struct.unpack_from(">h", payload, 4) == (record.precision,), record.name
            assert text(payload[8:16]) == record.units, record.name
        elif native_type != STRING:
            assert text(payload[4:12]) == record.units, record.name


def test_changing_records_count_up_together_at_their_rate(ioc: SimIOC, client: RawClient):
    assert len(ioc.database.changing_names) == 30
    chain = [f"{ioc.prefix}{family}00010" for family in ("calc", "ramp", "tick")]
    assert set(chain) <= set(ioc.database.changing_names)
    seen: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for number, name in enumerate(chain, 1):
        client.connect(name)
        client.subscribe(name, number, DOUBLE)
    start = time.monotonic()
    for message in client.messages():
        if message.command == EVENT_ADD:
            seen[message.p2] += numbers(DOUBLE, 1, message.payload)
        if all(len(values) >= 21 for values in seen.values()):
            break
    elapsed = time.monotonic() - start
    for values in seen.values():
        assert [b - a for a, b in itertools.pairwise(values)] == [1.0] * (len(values) - 1)
    # Twenty times a second, twice the fastest scan of base; slower only on a machine that has no time.
    assert 0.8 < elapsed < 3.0
    assert abs(seen[1][-1] - seen[3][-1]) <= 1


def test_special_records_serve_what_is_documented(ioc: SimIOC, client: RawClient):
    values = ioc.database.special_values
    assert len(values) == len(WAVEFORMS) + 7
    for name, expected in values.items():
        native_type, _ = client.connect(name)
        message = client.get(name)
        if isinstance(expected, str):
            assert native_type == CHAR
            assert text(message.payload[: message.count]) == expected == TEXT
        elif native_type == STRING:
            strings = [text(message.payload[40 * index : 40 * index + 40]) for index in range(message.count)]
            assert strings == expected
        else:
            got = numbers(native_type, message.count, message.payload)
            wanted = expected if isinstance(expected, list) else [expected]
            # CHAR comes as unsigned, USHORT as LONG, everything wider as DOUBLE: see the native types.
            assert got == [value % 256 if native_type == CHAR else value for value in wanted], name


def test_a_record_without_a_value_is_undefined_and_invalid(ioc: SimIOC, client: RawClient):
    name = f"{ioc.prefix}undefined"
    client.connect(name)
    assert struct.unpack_from(">hh", client.get(name, DOUBLE + 7).payload) == (17, 3)


def test_the_history_is_an_array_that_grows(ioc: SimIOC, client: RawClient):
    name = f"{ioc.prefix}history"
    assert client.connect(name) == (DOUBLE, 100)
    client.subscribe(name, 1)
    counts = []
    for message in client.messages():
        if message.command == EVENT_ADD:
            values = numbers(DOUBLE, message.count, message.payload)
            assert [b - a for a, b in itertools.pairwise(values)] == [1.0] * (len(values) - 1)
            counts.append(values[-1])
            if len(counts) == 4:
                break
    assert counts == [counts[0] + index for index in range(4)]


def test_a_put_to_the_slow_record_completes_when_it_is_done(make_ioc):
    ioc = make_ioc(scalars=0)
    name = f"{ioc.prefix}slow"
    with RawClient(ioc.server_port) as client:
        client.connect(name)
        start = time.monotonic()
        reply = client.put_number(name, 1)
        assert reply is not None
        assert reply.p1 == ECA_NORMAL
        assert time.monotonic() - start >= 0.9 * SLOW_PUT_S
        assert read(client, name) == 0


def test_the_scaler_counts_for_its_preset_time(make_ioc):
    ioc = make_ioc(scalars=0)
    scaler = f"{ioc.prefix}scaler:"
    with RawClient(ioc.server_port) as client:
        for name in ("CNT", "TP"):
            client.connect(scaler + name)
        client.put_number(scaler + "TP", 0.5)
        for _ in range(2):
            client.put_number(scaler + "CNT", 1)
            until(lambda: read(client, scaler + "CNT") == 0)
            # Every count begins at zero.
            assert read(client, scaler + "T") == 0.5
            assert [read(client, f"{scaler}S{index}") for index in (1, 3, 8)] == [50, 150, 400]


def test_libca_reads_the_same(ioc: SimIOC):
    program = """
import json, sys, epics
names = json.load(sys.stdin)
print(json.dumps(epics.caget_many(names, timeout=20)))
"""
    records = [record for record in ioc.database.records if not record.changing]
    result = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([record.name for record in records]),
        env=child_environ(ioc.environ),
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert json.loads(result.stdout.splitlines()[-1]) == [record.value for record in records]


def test_names_are_as_many_as_asked_for_and_different():
    database = SimDatabase("P:", 20_000, 1000)
    assert len(database.names) == len(set(database.names)) == 20_000
    assert len(database.changing_names) == 1000
    assert database.names[0] == "P:calc00001"
    assert database.by_name["P:ai00010"].severity == 2
    assert [len(SimDatabase("P:", count).names) for count in (0, 1, 19)] == [0, 1, 19]


def test_the_values_are_those_of_the_documentation():
    def served(ending: str) -> tuple[object, ...]:
        record = by_name[f"P:{ending}"]
        return record.native_type, record.value, record.units, record.severity, record.status

    by_name = SimDatabase("P:", 400, 3).by_name
    assert served("ai00010") == (DOUBLE, 1.25, "mm", 2, 3)
    assert served("ao00003") == (DOUBLE, 0.375, "mA", 0, 0)
    assert by_name["P:ao00003"].precision == 3
    assert served("longin00005") == (LONG, 35, "mm", 1, 4)
    assert served("longout00002") == (LONG, 14, "V", 0, 0)
    assert served("int64in00004") == (DOUBLE, 4_000_012, "counts", 0, 0)
    assert served("bi00007") == (ENUM, 1, "", 1, 7)
    assert served("bo00009") == (ENUM, 1, "", 0, 0)
    assert served("mbbi00008") == (ENUM, 3, "", 2, 7)
    assert by_name["P:mbbo00001"].enum_strings[3] == "Fault"
    assert served("stringin00012")[:2] == (STRING, "text 12")
    assert served("float00003")[:2] == (FLOAT, 0.75)
    assert served("short00003")[:2] == (SHORT, -3)
    assert served("char00019")[:2] == (CHAR, 19)


def test_groups_of_changing_records_have_rates_of_their_own():
    database = SimDatabase("P:", 12, [(4, 1), (0, 5), (2, 50.5), (3, 1.0)], rate_hz=20, arrays=False)
    changing = {name.removeprefix("P:"): database.by_name[name].rate_hz for name in database.changing_names}
    # A group begins with a calc of the next number: what it processes goes at the same rate.
    assert changing == {
        **dict.fromkeys(("calc00001", "ramp00001", "tick00001", "calc00002"), 1),
        **dict.fromkeys(("calc00003", "ramp00003"), 50.5),
        **dict.fromkeys(("calc00004", "ramp00004", "tick00004"), 1),
    }
    assert len(database.names) == 12
    assert database.rates_hz == [1, 50.5]
    assert SimDatabase("P:", 1, 0, 20).rates_hz == [20]
    assert database.text.count('"50.5 Hz"') == 1
    assert 'FLNK,"P:ramp00002"' not in database.text
    assert 'FLNK,"P:tick00003"' not in database.text
    assert 'FLNK,"P:tick00004"' in database.text


@pytest.mark.parametrize(
    "options",
    [
        {"scalars": 5, "changing": 6},
        {"changing": -1},
        {"rate_hz": 0},
        {"scalars": -1},
        {"scalars": 5, "changing": [(3, 1), (3, 1)]},
        {"changing": [(-1, 1), (3, 1)]},
        {"changing": [(1, 0)]},
    ],
)
def test_numbers_that_make_no_sense(options):
    with pytest.raises(ConfigurationError):
        SimDatabase("P:", **options)


def test_restart_on_the_same_ports_with_another_database(make_ioc):
    ioc = make_ioc(ONE_RECORD)
    pid, ports = ioc.pid, ioc.ports
    with RawClient(ioc.server_port) as client:
        assert read(client, "X:one") == 3
        ioc.restart(ONE_RECORD.replace("one", "two").replace("3", "4"))
        # The server closed its circuits.
        assert list(client.messages()) == []
    assert ioc.pid != pid
    assert ioc.ports == ports
    assert ioc.ask("X:one", 0.3) is None
    answer = ioc.ask("X:two")
    assert answer is not None
    assert numbers(DOUBLE, 1, answer.payload) == [4]


def test_a_suspended_server_falls_silent_and_goes_on(make_ioc):
    ioc = make_ioc(ONE_RECORD)
    with RawClient(ioc.server_port, timeout=0.3) as client:
        client.connect("X:one")
        ioc.suspend()
        with pytest.raises(TimeoutError):
            client.get("X:one")
    assert ioc.alive
    ioc.resume()
    until(lambda: ioc.ask("X:one") is not None)


@pytest.mark.parametrize("ending", ["kill", "stop"])
@pytest.mark.parametrize("suspended", [False, True])
def test_a_server_that_was_ended_is_gone_and_starts_again(make_ioc, ending, suspended):
    ioc = make_ioc(ONE_RECORD)
    pid = ioc.pid
    if suspended:
        ioc.suspend()
    getattr(ioc, ending)()
    assert not ioc.alive
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(SimError, match="not running"):
        ioc.suspend()
    assert ioc.ask("X:one", 0.2) is None
    ioc.start()
    assert ioc.ask("X:one") is not None
    with pytest.raises(SimError, match="started already"):
        ioc.start()
    assert ioc.alive


def test_a_server_that_crashed_can_be_started_again(make_ioc):
    ioc = make_ioc(ONE_RECORD)
    os.kill(ioc.pid, signal.SIGKILL)
    until(lambda: not ioc.alive)
    ioc.start()
    assert ioc.ask("X:one") is not None


def test_a_database_that_cannot_be_loaded_is_reported_with_what_the_ioc_says():
    ioc = SoftIOC('record(ao, "X:one") { field(NONSENSE, 3) }')
    with pytest.raises(SimError, match=r"(?s)ended at once.*NONSENSE"):
        ioc.start()
    assert not ioc.alive


def test_the_variables_of_the_user_are_not_read_and_no_other_port_is_opened(make_ioc, monkeypatch):
    ports = Ports.choose()
    foreign = {"EPICS_CAS_SERVER_PORT": str(ports.server), "EPICS_CAS_INTF_ADDR_LIST": "0.0.0.0"}
    foreign |= {"EPICS_CA_SERVER_PORT": str(ports.server), "EPICS_CAS_BEACON_PORT": str(ports.repeater)}
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    ioc = make_ioc(scalars=1, camera=True)
    for server in (ioc, ioc.camera):
        assert server.ask(server.probe) is not None
        assert _listening(server.pid) == {("127.0.0.1", server.server_port)}


def _listening(pid: int) -> set[tuple[str, int]]:
    mine = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
            address, _, port = fields[1].partition(":")
            found.add((socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)))
    return found


def test_a_camera_is_a_second_server_in_the_environment(make_ioc, point_at):
    ioc = make_ioc(scalars=1, camera=True)
    environ = ioc.environ
    assert environ["EPICS_CA_SERVER_PORT"] == str(ioc.server_port)
    assert environ["EPICS_CA_ADDR_LIST"] == f"127.0.0.1 127.0.0.1:{ioc.camera.server_port}"
    point_at(ioc)
    assert os.environ["EPICS_CA_ADDR_LIST"].split()[1] == f"127.0.0.1:{ioc.camera.server_port}"
    ioc.restart()
    assert ioc.camera.ask(f"{ioc.prefix}cam1:Acquire") is not None
    ioc.stop()
    assert not ioc.camera.alive


ORPHAN = """
import os, signal, subprocess, sys
from daqca.sim import CameraIOC, SoftIOC
server = CameraIOC("X:") if "camera" in sys.argv else SoftIOC('record(ao, "X:one") {}')
server.start()
if "suspended" in sys.argv:
    server.suspend()
if "inherited" in sys.argv:
    # A child that keeps the pipe open after we are gone.
    os.set_inheritable(server._process.stdin.fileno(), True)
    keeper = subprocess.Popen(["sleep", "20"], close_fds=False, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    print(keeper.pid)
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("circumstance", ["", "camera", "suspended", "inherited"])
def test_a_server_dies_with_its_parent(circumstance):
    parent = subprocess.run(
        [sys.executable, "-c", ORPHAN, circumstance],
        env=child_environ({}),
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert parent.returncode == -signal.SIGKILL
    *keepers, pid = map(int, parent.stdout.split())
    try:
        until(lambda: not Path(f"/proc/{pid}/exe").exists(), 5)
    finally:
        for keeper in keepers:
            os.kill(keeper, signal.SIGKILL)


def test_a_server_ends_when_its_stdin_closes(make_ioc):
    ioc = make_ioc(ONE_RECORD)
    start = time.monotonic()
    ioc._process.stdin.close()
    until(lambda: not ioc.alive, 5)
    # At once, not when the parent is next looked for.
    assert time.monotonic() - start < 0.4


def test_access_rights_and_their_change(access_ioc):
    with RawClient(access_ioc.server_port) as client, RawClient(access_ioc.server_port) as operator:
        rights = {}
        for ending in ("open", "nowrite", "noread", "sometimes"):
            client.connect(access_ioc.name(ending))
            rights[ending] = client.rights[access_ioc.name(ending)]
        assert rights == {"open": 3, "nowrite": 1, "noread": 0, "sometimes": 1}
        reply = client.get(access_ioc.name("nowrite"), count=1)
        assert (reply.p1, numbers(DOUBLE, 1, reply.payload)) == (ECA_NORMAL, [VALUE])
        assert client.get(access_ioc.name("noread"), count=1).p1 == ECA_NORDACCESS
        assert client.put_number(access_ioc.name("nowrite"), 1).p1 == ECA_NOWTACCESS
        operator.connect(access_ioc.name("switch"))
        for position, expected in ((1, 3), (2, 0), (0, 1)):
            operator.put_number(access_ioc.name("switch"), position)
            message = next(message for message in client.messages() if message.command == ACCESS_RIGHTS)
            assert (message.p1, message.p2) == (4, expected)


def test_other_servers_serve_the_known_values(other_server, point_at):
    environ = point_at(other_server)
    assert environ["EPICS_CA_ADDR_LIST"] == f"127.0.0.1:{other_server.server_port}"
    with RawClient(other_server.server_port) as client:
        for ending in ("double", "long", "string", "char"):
            assert read(client, other_server.name(ending)) == VALUES[ending]
        assert read(client, other_server.name("enum")) == VALUES["enum"][0]
        waveform = other_server.name("waveform")
        assert client.connect(waveform) == (DOUBLE, 16)
        assert np.frombuffer(client.get(waveform).payload, ">f8").tolist() == VALUES["waveform"]
        longstring = other_server.name("longstring")
        assert client.connect(longstring) == (CHAR, 256)
        assert text(client.get(longstring).payload) == VALUES["longstring"]
