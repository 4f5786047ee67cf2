"""The CA repeater of the session, a process: libca's own. Without it a client would start one that outlives the tests.

Run as a program it is the repeater; ``RepeaterProcess`` is its parent's side.
"""

from __future__ import annotations

import socket
import struct
import sys

from daqca.sim import Ports, ServerProcess
from daqca.sim.ports import LOOPBACK

_REPEATER_CONFIRM, _REPEATER_REGISTER = 17, 24
_HEADER = struct.Struct(">HHHHII")


class RepeaterProcess(ServerProcess):
    """A repeater: ready when it confirms a client's registration."""

    def __init__(self, port: int):
        super().__init__((sys.executable, __file__), {}, "", ports=Ports(server=port, repeater=port))

    def answers(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.05)
            address = int.from_bytes(socket.inet_aton(LOOPBACK), "big")
            try:
                # Not connected: the repeater confirms from a socket made for this client.
                sock.sendto(_HEADER.pack(_REPEATER_REGISTER, 0, 0, 0, 0, address), (LOOPBACK, self.repeater_port))
                return _HEADER.unpack(sock.recv(_HEADER.size))[0] == _REPEATER_CONFIRM
            except OSError:
                return False


def main() -> None:
    from daqca.sim.lifeline import adopt

    adopt()
    import ctypes

    from epicscorelibs.path import get_lib

    ctypes.CDLL(get_lib("ca")).caRepeaterThread(None)


if __name__ == "__main__":
    main()
