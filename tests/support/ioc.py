"""Servers for the tests, and the environment in which clients find them.

Built on ``daqca.sim``; the fixtures are in ``conftest.py``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from daqca.sim import Ports, ServerProcess, SimIOC, SoftIOC
from daqca.sim.ports import LOOPBACK, ca_environ

_Server = TypeVar("_Server", bound=ServerProcess)
MakeSim = Callable[..., SimIOC]
# Every environment of this session carries it, so that whoever is left behind can be known as ours.
SESSION_VARIABLE = "DAQCA_TEST_SESSION"


def random_prefix() -> str:
    """Return the beginning of PV names that no other test uses."""
    return f"T{secrets.token_hex(3).upper()}:"


class Servers:
    """All servers of the session: who runs, and what they printed."""

    def __init__(self, repeater_port: int):
        self.repeater_port = repeater_port
        self._servers: list[ServerProcess] = []

    def ports(self) -> Ports:
        return Ports.choose(repeater=self.repeater_port)

    def add(self, server: ServerProcess) -> None:
        self._servers.append(server)

    def remove(self, server: ServerProcess) -> None:
        server.stop()
        self._servers.remove(server)

    def pids(self) -> set[int]:
        return {server.pid for server in self._everyone() if server.alive}

    def reports(self) -> Iterator[tuple[str, str]]:
        """Yield a title and the output of each server."""
        for server in self._everyone():
            state = f"pid {server.pid}" if server.alive else "not running"
            yield f"{server} on port {server.server_port}, {state}", server.output

    def stop(self) -> None:
        while self._servers:
            self.remove(self._servers[-1])

    def _everyone(self) -> Iterator[ServerProcess]:
        for server in self._servers:
            yield server
            if isinstance(server, SimIOC) and server.camera is not None:
                yield server.camera


class IOCFactory:
    """Starts IOCs, and stops all of them at the end of its test.

    ``make_ioc(scalars=50)`` gives a ``SimIOC`` with a prefix of its own,
    ``make_ioc('record(ao, "X:a") {}')`` a ``SoftIOC`` with these records.
    """

    def __init__(self, servers: Servers):
        self._servers = servers
        self._mine: list[ServerProcess] = []

    def __call__(self, database: str | None = None, *, start: bool = True, **options: object) -> SoftIOC:
        options.setdefault("ports", self._servers.ports())
        if database is not None:
            return self.adopt(SoftIOC(database, **options), start=start)  # type: ignore[arg-type]
        options.setdefault("prefix", random_prefix())
        options.setdefault("scalars", 40)
        return self.adopt(SimIOC(**options), start=start)  # type: ignore[arg-type]

    def adopt(self, server: _Server, *, start: bool = True) -> _Server:
        """Start a server that the test made, and stop it at its end."""
        self._servers.add(server)
        self._mine.append(server)
        if start:
            server.start()
        return server

    def stop(self) -> None:
        for server in reversed(self._mine):
            self._servers.remove(server)


def joint_environ(iocs: Iterable[ServerProcess], repeater_port: int) -> dict[str, str]:
    """Return the variables with which a client finds all these servers."""
    ports = [ioc.ports for ioc in iocs]
    ports += [ioc.camera.ports for ioc in iocs if isinstance(ioc, SimIOC) and ioc.camera is not None]
    environ = ca_environ(Ports(ports[0].server, repeater_port))
    environ["EPICS_CA_ADDR_LIST"] = " ".join(f"{LOOPBACK}:{port.server}" for port in ports)
    return environ


@contextmanager
def clean_epics_environ(environ: dict[str, str]) -> Iterator[None]:
    """Replace every ``EPICS_*`` variable of this process by those given."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("EPICS_")]:
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        yield
