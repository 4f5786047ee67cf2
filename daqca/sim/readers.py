"""Which circuits of this process take the frames, and whether they have taken the last one.

EPICS base keeps no copies of arrays for its monitors: posted again before the last one
was sent, the older frame is gone and nobody is told. The camera uses this to wait.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import time

# struct tcp_info of linux/tcp.h: tcpi_bytes_acked, an unsigned 64-bit number.
_BYTES_ACKED_OFFSET = 120
_POLL_S = 0.0005
_UNKNOWN_LIMIT_S = 0.05


class Readers:
    """Watches how many bytes each TCP circuit of this process was given to send.

    A circuit that was given a whole frame since the last one was posted is a
    reader, and the next frame waits until it has been given this one too.
    """

    def __init__(self) -> None:
        self._given: dict[int, int] = {}
        self._expected: set[int] = set()
        self._unknown: set[int] = set()

    def wait(self, size: int, limit: float) -> bool:
        """Wait until every reader was given the frame that was posted last; the next one may follow at once.

        Parameters
        ----------
        size
            Bytes of that frame; 0 when there was none.
        limit
            Seconds to wait at most.

        Returns
        -------
        bool
            False when a reader is still behind.
        """
        start = time.monotonic()
        while True:
            now = _given_by_circuit()
            taken = {inode for inode, given in now.items() if given - self._given.get(inode, given) >= max(size, 1)}
            # A circuit that is closed is waited for no longer.
            behind = (self._expected & now.keys()) - taken
            unknown = (self._unknown & now.keys()) - taken
            waited = time.monotonic() - start
            in_time = waited < limit
            if not (behind and in_time) and not (unknown and in_time and waited < _UNKNOWN_LIMIT_S):
                break
            time.sleep(_POLL_S)
        self._given, self._expected, self._unknown = now, taken, set()
        return not behind

    def expect_anybody(self) -> None:
        """Wait a little for every circuit that there is, once: after the first frame it is not known who reads."""
        self._unknown = set(self._given)


def _given_by_circuit() -> dict[int, int]:
    """Return the bytes given to the kernel so far, by the inode of each connected TCP socket."""
    given = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
            if not target.startswith("socket:"):
                continue
            # The server owns the descriptor and may close it at any time: look through a copy.
            with socket.socket(fileno=os.dup(int(entry))) as circuit:
                if circuit.type != socket.SOCK_STREAM:
                    continue
                info = circuit.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                (waiting,) = struct.unpack("i", fcntl.ioctl(circuit.fileno(), termios.TIOCOUTQ, bytes(4)))
                (acked,) = struct.unpack_from("Q", info, _BYTES_ACKED_OFFSET)
        except (OSError, struct.error):
            # Closed meanwhile, listening, or a kernel that does not tell: nothing to wait for.
            continue
        given[int(target[8:-1])] = acked + waiting
    return given
