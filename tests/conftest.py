"""Fixtures for all tests: the environment of the session, its servers, and the check that nothing is left behind.

Every test runs with ``EPICS_*`` variables that lead to the ports of this session and nowhere else.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import leaks
from support.access import AccessIOC
from support.ioc import (
    SESSION_VARIABLE,
    IOCFactory,
    Servers,
    clean_epics_environ,
    joint_environ,
    random_prefix,
)
from support.others import KINDS, OtherServer
from support.repeater import RepeaterProcess

from daqca.sim import Ports, ServerProcess, SimIOC
from daqca.sim.ports import ca_environ

_SERVERS = pytest.StashKey[Servers]()


@pytest.fixture(scope="session")
def session_ports() -> Ports:
    """The ports of the session: those of ``ioc``, and of the one repeater."""
    return Ports.choose()


@pytest.fixture(scope="session", autouse=True)
def session_environ(session_ports: Ports) -> Iterator[dict[str, str]]:
    """Lead clients to the session's ``ioc``, whether it runs or not; mark all child processes."""
    environ, session = ca_environ(session_ports), secrets.token_hex(8)
    with clean_epics_environ(environ), pytest.MonkeyPatch.context() as patch:
        patch.setenv(SESSION_VARIABLE, session)
        yield environ
    # All fixtures have ended: what a module's fixture forgot is found only now.
    left = leaks.end_processes(session)
    if left:
        pytest.fail("processes left behind by the session:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for the temporary files of the session; its path is short, as socket files need."""
    # Decided before TMPDIR changes: what tests write to tmp_path stays for the developer.
    tmp_path_factory.getbasetemp()
    path = Path(tempfile.mkdtemp(prefix="dq"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(path))
        patch.setenv("XDG_RUNTIME_DIR", str(path))
        patch.setattr(tempfile, "tempdir", str(path))
        yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(session_ports: Ports, session_environ: dict[str, str], pytestconfig: pytest.Config) -> Iterator[Servers]:
    """Every server that a fixture or a test has started."""
    servers = Servers(session_ports.repeater)
    pytestconfig.stash[_SERVERS] = servers
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def repeater(servers: Servers, session_ports: Ports) -> RepeaterProcess:
    """The CA repeater of the session."""
    repeater = RepeaterProcess(session_ports.repeater)
    servers.add(repeater)
    return repeater.start()


@pytest.fixture(scope="module")
def ioc(servers: Servers, session_ports: Ports, repeater: RepeaterProcess) -> Iterator[SimIOC]:
    """A simulated IOC for the tests of one module, with records of every type; the environment leads to it.

    Its values are those that ``daqca.sim.SimDatabase`` documents. A test that
    stops it, or that puts to it what others of its module would notice, takes ``make_ioc``.
    """
    ioc = SimIOC(random_prefix(), scalars=400, changing=30, rate_hz=20, ports=session_ports)
    servers.add(ioc)
    yield ioc.start()
    servers.remove(ioc)


@pytest.fixture
def make_ioc(servers: Servers, repeater: RepeaterProcess) -> Iterator[IOCFactory]:
    """Start IOCs for one test: ``make_ioc(scalars=100)`` or ``make_ioc(database_text)``.

    Clients do not look for them until ``point_at(ioc)`` is called, or get ``ioc.environ``.
    """
    factory = IOCFactory(servers)
    yield factory
    factory.stop()


@pytest.fixture(scope="session", params=KINDS)
def other_server(request: pytest.FixtureRequest, servers: Servers, repeater: RepeaterProcess) -> OtherServer:
    """A server that is not EPICS base's, one after the other: caproto, pcaspy, pythonSoftIOC; see ``support.others``.

    It lives as long as the session; ``point_at(other_server)`` leads clients to it.
    """
    server = OtherServer(request.param, random_prefix(), servers.ports())
    servers.add(server)
    return server.start()


@pytest.fixture
def access_ioc(make_ioc: IOCFactory, servers: Servers) -> AccessIOC:
    """An IOC with records that may not be read, or not written, or only sometimes; see ``support.access``."""
    return make_ioc.adopt(AccessIOC(random_prefix(), servers.ports()))


@pytest.fixture
def point_at(monkeypatch: pytest.MonkeyPatch, session_ports: Ports) -> Callable[..., dict[str, str]]:
    """Lead the clients of one test to these servers: ``point_at(ioc, other)``."""

    def point(*iocs: ServerProcess) -> dict[str, str]:
        environ = joint_environ(iocs, session_ports.repeater)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return environ

    return point


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, scratch: Path) -> Iterator[None]:
    """Fail a test that leaves a thread, a process, a socket or a socket file behind."""
    session = os.environ[SESSION_VARIABLE]
    before = leaks.Snapshot.take(session, scratch)
    yield
    servers = request.config.stash.get(_SERVERS, None)
    left = leaks.wait_for_none(before, session, scratch, servers.pids() if servers else set())
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show what the servers printed beside a failure."""
    report = yield
    servers = item.config.stash.get(_SERVERS, None)
    if report.failed and servers is not None:
        report.sections.extend((f"output of {title}", output) for title, output in servers.reports() if output)
    return report
