"""Record a conversation of daqca's CA client with a soft IOC, for the tests that have it again.

``python scripts/capture.py`` writes ``tests/data/softioc.capture.gz``; what is said is in ``tests/support/replay.py``.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import replay

from daqca.ca.circuit import Circuit
from daqca.sim import SoftIOC

PATIENCE_S = 10.0
QUIET_S = 0.3
"""So long the server must be silent before its answer counts as complete."""


class Network:
    """Sockets to a server, and the record of what passes through them."""

    def __init__(self, port: int):
        self.parts: list[tuple[bytes, bytes]] = []
        self._address = ("127.0.0.1", port)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp = socket.create_connection(self._address)

    def close(self) -> None:
        """Close the sockets."""
        self._udp.close()
        self._tcp.close()

    def ask(self, datagrams: list[bytes]) -> list[bytes]:
        """See `support.replay.Line`. The server's port is written into the answers as the usual one."""
        answers = []
        for data in datagrams:
            self._udp.sendto(data, self._address)
            self.parts.append((replay.QUERY, data))
        while select.select([self._udp], [], [], QUIET_S)[0]:
            data = self._udp.recv(65536)
            data = data.replace(self._address[1].to_bytes(2, "big"), replay.ADDRESS[1].to_bytes(2, "big"))
            answers.append(data)
            self.parts.append((replay.REPLY, data))
        return answers

    def exchange(self, circuit: Circuit, feed: Callable[[bytes], None], until: Callable[[], bool]) -> None:
        """See `support.replay.Line`."""
        said = b"".join(bytes(view) for view in circuit.out)
        circuit.out.clear()
        self._tcp.sendall(said)
        self.parts.append((replay.CLIENT, said))
        end = time.monotonic() + PATIENCE_S
        while True:
            wait = QUIET_S if until() else end - time.monotonic()
            if not select.select([self._tcp], [], [], max(wait, 0.0))[0]:
                break
            data = self._tcp.recv(1 << 20)
            self.parts.append((replay.SERVER, data))
            feed(data)
        if not until():
            raise TimeoutError(f"the server did not answer in {PATIENCE_S:g} s to {said[:200]!r}")


def main() -> None:
    """Have the conversation, and write it down."""
    with SoftIOC(replay.database(), access_security=replay.RULES) as ioc:
        network = Network(ioc.ports.server)
        try:
            replay.converse(network)
        finally:
            network.close()
    replay.save(network.parts)
    print(f"{replay.CAPTURE}: {len(network.parts)} parts, {replay.CAPTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
