"""The simulator as a program, and the check of the tests that nothing is left behind."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import leaks
from support.ioc import SESSION_VARIABLE

from daqca.sim import SimError, Simulation, start_sim
from daqca.sim.ports import child_environ
from daqca.sim.probe import ask

PROGRAM = """
import sys
from daqca.errors import DaqcaError
from daqca.sim import run_sim

def announce(simulation):
    simulation.write_names(sys.argv[1])
    print(simulation.exports, end="")
    print("pids", simulation.ioc.pid, simulation.ioc.camera.pid)
    print("ready", flush=True)

try:
    run_sim(announce, prefix="R:", scalars=50, camera_options={"width": 64, "height": 32})
except DaqcaError as error:
    print(error)
    sys.exit(3)
print("cleaned up")
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str], list[int], Path]]:
    """The running program, what it exports, the processes of its servers, and its file of names."""
    names = tmp_path / "names.txt"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(names)], env=child_environ({}), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        exports: dict[str, str] = {}
        pids: list[int] = []
        for line in process.stdout:
            words = shlex.split(line)
            if words[0] == "export":
                name, _, value = words[1].partition("=")
                exports[name] = value
            elif words[0] == "pids":
                pids = [int(pid) for pid in words[1:]]
            else:
                break
        yield process, exports, pids, names
        process.kill()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_program_serves_until_it_is_told_to_end(program, sign):
    process, exports, pids, names = program
    port = int(exports["EPICS_CA_SERVER_PORT"])
    assert exports["EPICS_CA_ADDR_LIST"].startswith("127.0.0.1 127.0.0.1:")
    listed = names.read_text().splitlines()
    assert len(listed) == 50
    assert all(ask(name, port) is not None for name in listed)
    camera_port = int(exports["EPICS_CA_ADDR_LIST"].rpartition(":")[2])
    assert ask("R:cam1:Acquire", camera_port) is not None
    process.send_signal(sign)
    output, _ = process.communicate(timeout=10)
    assert output == "cleaned up\n"
    assert process.returncode == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_the_program_says_when_a_server_has_ended_by_itself(program):
    process, _, pids, _ = program
    os.kill(pids[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=10)
    assert "CameraIOC" in output
    assert "has ended by itself" in output
    assert process.returncode == 3
    assert not Path(f"/proc/{pids[0]}").exists()


def test_a_simulation_in_a_program_of_ones_own(tmp_path):
    with start_sim("S:", scalars=30, camera=False) as simulation:
        assert isinstance(simulation, Simulation)
        assert simulation.names == simulation.ioc.names
        assert f"export EPICS_CA_SERVER_PORT={simulation.ioc.server_port}\n" in simulation.exports
        assert simulation.write_names(tmp_path / "names") == 30
        with pytest.raises(OSError, match="nowhere"):
            simulation.write_names(tmp_path / "nowhere" / "names")
        simulation.check()
        simulation.ioc.kill()
        with pytest.raises(SimError, match="ended by itself"):
            simulation.check()
    assert not simulation.ioc.alive


def test_what_a_test_leaves_behind_is_found_and_processes_are_ended(scratch: Path):
    session = os.environ[SESSION_VARIABLE]
    before = leaks.Snapshot.take(session, scratch)
    assert leaks.wait_for_none(before, session, scratch, set()) == []
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="left-thread")
    thread.start()
    child = subprocess.Popen(["sleep", "60"])
    # Detached, as a daemon: no longer our child.
    subprocess.run(["setsid", "--fork", "sleep", "61"], check=True)
    connection = socket.socket(socket.AF_UNIX)
    connection.bind(str(scratch / "left.sock"))
    found = leaks.wait_for_none(before, session, scratch, set())
    kinds = sorted(text.partition(":")[0] for text in found)
    assert kinds == ["files", "processes", "processes", "sockets", "threads"]
    assert any("left-thread" in text for text in found)
    assert any("sleep 61" in text for text in found)
    assert child.wait(1) == 0
    connection.close()
    (scratch / "left.sock").unlink()
    end.set()
    thread.join()
    assert leaks.wait_for_none(before, session, scratch, set()) == []


def test_a_server_that_lives_longer_is_allowed(scratch: Path):
    session = os.environ[SESSION_VARIABLE]
    before = leaks.Snapshot.take(session, scratch)
    with subprocess.Popen(["sleep", "60"]) as child:
        assert leaks.wait_for_none(before, session, scratch, {child.pid}) == []
        assert child.poll() is None
        child.kill()
