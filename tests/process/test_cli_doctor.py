"""``daqca doctor`` against what goes wrong: nobody there, the wrong address, two servers with one name."""

import struct
import time

import pytest
from support.cli import daqca
from support.fakes import CREATE_CHAN, HEADER, FakeServer, created, requests, silence, until_create

from daqca.cli.codes import ExitCode
from daqca.sim import free_port


def line_of(out: str, word: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(word))


def test_a_name_that_is_found(ioc):
    name = f"{ioc.prefix}ao00001"
    done = daqca("doctor", name)
    assert (done.code, done.err) == (0, ""), done
    assert f"127.0.0.1:{ioc.server_port} has it: found in " in done.out
    assert ", CA 4.13" in done.out
    assert "It is read in " in done.out
    assert line_of(done.out, "EPICS_CA_AUTO_ADDR_LIST").split()[1] == "NO"
    assert line_of(done.out, "EPICS_CA_CONN_TMO").split()[1:4] == ["30", "(not", "set)"]
    assert f"Repeater: one answers on port {ioc.repeater_port}." in done.out


def test_a_name_that_nobody_has_where_a_server_listens(ioc):
    # A name that would be colour and emoji if it were taken for markup.
    name = f"{ioc.prefix}[red]:b:nobody"
    done = daqca("doctor", name, "-w", 0.5)
    assert done.code == ExitCode.MISSING
    assert f"\n{name}: never found\n" in done.out
    address = f"127.0.0.1:{ioc.server_port}"
    assert f"Servers answer at {address}, but not for this name." in done.out
    assert line_of(done.out, address).split("UDP")[1].strip() == "a server that has none of the names"


def test_nothing_listens_at_the_address(session_environ):
    port = free_port()
    done = daqca("doctor", "T:any", "-w", 0.3, env={"EPICS_CA_ADDR_LIST": f"127.0.0.1:{port}"})
    assert done.code == ExitCode.MISSING
    assert f"Nobody can answer (127.0.0.1:{port}: nothing listens there)." in done.out


def test_a_name_server_that_is_not_there(ioc):
    port = free_port()
    env = {"EPICS_CA_ADDR_LIST": "", "EPICS_CA_NAME_SERVERS": f"127.0.0.1:{port} 127.0.0.1:{ioc.server_port}"}
    done = daqca("doctor", f"{ioc.prefix}ao00001", "-w", 0.5, env=env)
    assert done.code == 0, done
    assert line_of(done.out, f"127.0.0.1:{port}").split("TCP")[1].strip() == "nothing listens there"
    assert line_of(done.out, f"127.0.0.1:{ioc.server_port} ").split("TCP")[1].split(" after")[0].strip() == (
        f"127.0.0.1:{ioc.server_port}"
    )


def test_no_address_at_all():
    done = daqca("doctor", "T:any", "-w", 0.3, env={"EPICS_CA_ADDR_LIST": ""})
    assert done.code == ExitCode.MISSING
    assert "No address is searched: set EPICS_CA_ADDR_LIST, or EPICS_CA_AUTO_ADDR_LIST=YES." in done.out


def test_two_servers_with_one_name(make_ioc, point_at):
    database = 'record(ao, "SAME:x") { field(VAL, "1") }'
    one, other = make_ioc(database), make_ioc(database)
    point_at(one, other)
    done = daqca("doctor", "--json", "SAME:x", "-w", 0.5)
    assert done.code == 0, done
    said = done.json["names"][0]
    servers = {server["server"] for server in said["servers"]}
    assert servers == {f"127.0.0.1:{one.server_port}", f"127.0.0.1:{other.server_port}"}
    assert all(0 < server["milliseconds"] < 1000 for server in said["servers"])
    assert said["explanation"].startswith("2 servers have this name: ")


def test_a_server_that_answers_but_hangs(make_ioc, point_at):
    ioc = make_ioc('record(ao, "H:x") { field(VAL, "1") }')
    point_at(ioc)
    ioc.suspend()
    done = daqca("doctor", "H:x", "-w", 0.5)
    assert done.code == ExitCode.MISSING
    assert "No server answered at any address." in done.out


READ_NOTIFY = 15


def late(connection):
    """Answer each read of a double (DBR_TIME) after 0.3 s."""
    for command, kind, _count, p1, p2, _ in requests(connection):
        if command == CREATE_CHAN:
            connection.sendall(created(p1))
        elif command == READ_NOTIFY:
            time.sleep(0.3)
            body = struct.pack(">HHIIId", 0, 0, 1_000_000, 0, 0, 2.5)
            connection.sendall(HEADER.pack(READ_NOTIFY, len(body), kind, 1, 1, p2) + body)


def mute(connection):
    """Create channels, and answer nothing else."""
    connection.sendall(created(until_create(connection)))
    silence(connection)


def test_a_server_that_answers_reads_late_is_waited_for(servers, repeater, point_at):
    with FakeServer("L:x", late, servers.ports()) as server:
        point_at(server)
        done = daqca("doctor", "--json", "L:x", "-w", 3)
    assert done.code == 0, done
    said = done.json["names"][0]
    assert said["outcome"] == "ok"
    assert said["explanation"].startswith("It is read in "), said
    # At least what the server waits for, and not what three reads take together.
    assert 300 <= float(said["explanation"].split()[4]) < 900


def test_a_server_that_never_answers_reads_is_told_so(servers, repeater, point_at):
    with FakeServer("M:x", mute, servers.ports()) as server:
        point_at(server)
        done = daqca("doctor", "M:x", "-w", 0.5)
    assert done.code == ExitCode.MISSING, done
    assert "\nM:x: timeout\n" in done.out
    assert f"127.0.0.1:{server.ports.server} has it: found in " in done.out
    assert "is connected, but did not answer a read within 0.5 s: it hangs, or is slow." in done.out


def test_a_server_that_cannot_be_connected_to_may_be_behind_a_firewall(servers, repeater, point_at):
    with FakeServer("R:x", None, servers.ports()) as server:
        point_at(server)
        done = daqca("doctor", "R:x", "-w", 0.5)
    assert done.code == ExitCode.MISSING, done
    assert "The server answers the search, but reading it ends with: never found." in done.out


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EPICS_CA_SERVER_PORT", "many", "EPICS_CA_SERVER_PORT='many' should be a whole number"),
        ("EPICS_CA_CONN_TMO", "0", "EPICS_CA_CONN_TMO='0' should be a positive number of seconds"),
    ],
)
def test_variables_that_make_no_sense(name, value, message):
    done = daqca("doctor", env={name: value})
    assert done.code == ExitCode.USAGE
    assert done.err.startswith(f"daqca: {message}")
    assert done.err.count("\n") == 1


def test_variables_that_are_corrected_are_shown():
    done = daqca("doctor", "-w", 0.2, env={"EPICS_CA_MAX_SEARCH_PERIOD": "5", "EPICS_CA_ADDR_LIST": "127.0.0.1 a:b:c"})
    assert "problem: EPICS_CA_MAX_SEARCH_PERIOD is 5 s; 60 s is used" in done.out
    assert "'a:b:c' is left out" in done.out
