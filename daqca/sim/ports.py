"""Free loopback ports, and the EPICS environment that keeps a server and its clients on them.

Reads no ``EPICS_*`` variable of the user: what is here replaces them.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below the range from which Linux hands out ports by itself (32768 and up), so
# that no unrelated connection takes one of ours between the choice and its use.
_LOWEST, _HIGHEST = 10_000, 32_000


@dataclass(frozen=True, slots=True)
class Ports:
    """The two ports of a Channel Access server.

    Parameters
    ----------
    server
        The TCP and UDP port on which the server is found.
    repeater
        The UDP port to which its beacons go.
    """

    server: int
    repeater: int

    @classmethod
    def choose(cls, repeater: int | None = None) -> Ports:
        """Choose free ports at random.

        Parameters
        ----------
        repeater
            A repeater port to share with other servers; chosen too when None.
        """
        server = free_port()
        return cls(server, free_port() if repeater is None else repeater)


def free_port() -> int:
    """Return a port that is free for TCP and for UDP on the loopback address.

    Raises
    ------
    OSError
        No free port was met in a thousand tries.
    """
    for _ in range(1000):
        port = random.randint(_LOWEST, _HIGHEST)
        if _is_free(port):
            return port
    raise OSError(f"no free port between {_LOWEST} and {_HIGHEST} on {LOOPBACK}: is something holding them all?")


def _is_free(port: int) -> bool:
    # Bound to every address: a server on 0.0.0.0 would get our datagrams too.
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True


def ca_environ(ports: Ports, *others: Ports) -> dict[str, str]:
    """Return the EPICS variables for a server on ``ports``, and for a client of it.

    Parameters
    ----------
    ports
        Where the server listens; the client looks there by default.
    others
        More servers that the client shall search.
    """
    addresses = [LOOPBACK, *(f"{LOOPBACK}:{other.server}" for other in others)]
    return {
        "EPICS_CA_ADDR_LIST": " ".join(addresses),
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(ports.server),
        "EPICS_CA_REPEATER_PORT": str(ports.repeater),
        "EPICS_CA_MAX_ARRAY_BYTES": "20000000",
        "EPICS_CAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
    }


def child_environ(epics: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child process: ours, but of ``EPICS_*`` only what ``epics`` says.

    The package is importable there too, however this process found it.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
    environ.update(epics)
    root = str(Path(__file__).resolve().parents[2])
    inherited = environ.get("PYTHONPATH")
    environ["PYTHONPATH"] = root if not inherited else root + os.pathsep + inherited
    environ["PYTHONUNBUFFERED"] = "1"
    return environ
