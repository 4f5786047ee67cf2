"""The sockets of a context: the TCP connection of a circuit, and the UDP socket of its searches.

No threads and no policy; when to read and what to do with it is in `context`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable

from daqca.ca.ahead import AGAIN, Ahead
from daqca.ca.circuit import Circuit
from daqca.ca.patience import LOOKS, Patience
from daqca.ca.settings import Settings

log = logging.getLogger("daqca.ca")

_FLAGS = (socket.MSG_DONTWAIT,)
_WHOLE = (0,)
_NO_ANCILLARY: tuple[tuple[()], ...] = ((),)
_TICK = 0.05
"""Seconds that a leader blocks in one recv before it looks at its deadline."""
_MAX_BUFFERS = 64
RECEIVE_BUFFER = 4 << 20
"""Bytes that the kernel keeps for us while we are busy. What does not fit waits in the server, which merges it."""
_WORTH_SETTING = 1 << 20
_SIOCOUTQNSD = 0x894B
"""Asks how many bytes the kernel has not sent yet (``linux/sockios.h``)."""


class Link:
    """A circuit with its socket.

    Attributes
    ----------
    reader, is_mine
        Whoever holds this lock may read; whether the calling thread does.
    mask
        What the epoll waits for.
    since
        When it began to connect.
    read_patience, write_patience
        How its leaders wait for values, and for puts to be confirmed.
    counts
        Bytes that were read into the circuit's buffer and not decoded yet; 0: the server closed.
    ahead
        Bytes that were read and are not in the circuit's buffer yet. While there are any, only the I/O thread reads.
    at_risk
        Whether what was sent is being accounted for. A Ctrl-C in between leaves it unknown.

    Notes
    -----
    A Ctrl-C can come between any two steps of the main thread's Python code. Therefore what the system says of the
    bytes it took or gave goes straight into a list, by `map`, without such a step.
    """

    __slots__ = (
        "_poll",
        "_sent",
        "ahead",
        "at_risk",
        "circuit",
        "closed",
        "counts",
        "fd",
        "is_mine",
        "mask",
        "read_patience",
        "reader",
        "since",
        "sock",
        "write_patience",
    )

    def __init__(self, circuit: Circuit, now: float):
        self.circuit = circuit
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        size = receive_buffer()
        if size >= _WORTH_SETTING:  # else the kernel's own choice, which grows with need, is the better one
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        self.fd = self.sock.fileno()
        self.reader = threading.RLock()
        self.is_mine: Callable[[], bool] = self.reader._is_owned  # type: ignore[attr-defined]
        self.mask = select.EPOLLOUT
        self.read_patience, self.write_patience = Patience(), Patience()
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self.since = now
        self.closed = False
        self.counts: list[int] = []
        self.ahead = Ahead()
        self.at_risk = False
        self._sent: list[int] = []

    def connect(self) -> bool:
        """Begin to connect; returns whether that was possible."""
        return self.sock.connect_ex(self.circuit.address) in (0, errno.EINPROGRESS)

    def finish_connecting(self) -> bool:
        """The socket became writable; returns whether it is connected."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            log.debug("cannot connect to %s: %s", self.circuit.name, os.strerror(error))
            return False
        # From here on the socket blocks, for a leader; everybody else says MSG_DONTWAIT.
        self.sock.setblocking(True)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, int(_TICK * 1e6)))
        return True

    def flush(self) -> bool:
        """Send what the circuit has to send, as much as the socket takes; returns False if it is broken."""
        circuit, sent = self.circuit, self._sent
        out = circuit.out
        try:
            while out:
                if sent:
                    pass  # a Ctrl-C came when it was sent
                elif len(out) == 1:
                    sent.extend(map(self.sock.send, (out[0],), _FLAGS))
                else:
                    buffers = [out[i] for i in range(min(len(out), _MAX_BUFFERS))]
                    sent.extend(map(self.sock.sendmsg, (buffers,), _NO_ANCILLARY, _FLAGS))
                self.at_risk = True
                circuit.was_sent(sent.pop())
                self.at_risk = False
        except OSError as error:
            return error.errno in AGAIN
        return True

    def has_sent(self) -> bool:
        """Whether all that was to be sent has left this host."""
        if self.circuit.out:
            return False
        try:
            left = fcntl.ioctl(self.fd, _SIOCOUTQNSD, bytes(4))
        except OSError:  # closed
            return True
        return not any(left)

    def take_lead(self) -> bool:
        """Become its reader, to wait for an answer, if nobody reads and nothing was read ahead; returns whether."""
        if not self.reader.acquire(blocking=False):
            return False
        if self.ahead.chunks:
            self.reader.release()
            return False
        return True

    def receive(self) -> bool:
        """Read what is there, if anything, what was read ahead first; returns whether there may be more."""
        buffer = self.circuit.get_buffer()
        if self.ahead.chunks:
            self.counts.append(self.ahead.take(buffer))
            return self.counts[-1] > 0
        try:
            self.counts.extend(map(self.sock.recv_into, (buffer,), _WHOLE, _FLAGS))
        except OSError as error:
            if error.errno not in AGAIN:
                self.counts.append(0)
            return False
        return self.counts[-1] == len(buffer)

    def receive_awake(self) -> bool:
        """Look for something to read a few times without going to sleep; returns whether there was something."""
        buffers, counts, receive = (self.circuit.get_buffer(),), self.counts, self.sock.recv_into
        for _ in range(LOOKS):
            try:
                counts.extend(map(receive, buffers, _WHOLE, _FLAGS))
            except BlockingIOError:
                continue
            except OSError:  # said again, and dealt with, by whoever reads next
                return False
            return True
        return False

    def receive_within(self, timeout: float) -> None:
        """Wait for something to read, at most for a moment."""
        if timeout < 2 * _TICK and not self._poll.poll(max(int(timeout * 1000), 0) + 1):
            return
        try:
            self.counts.extend(map(self.sock.recv_into, (self.circuit.get_buffer(),)))
        except OSError as error:
            if error.errno not in AGAIN:
                self.counts.append(0)

    def release(self) -> None:
        """Stop reading. Whoever reads closes the socket of a closed link, so that no fd is reused under it."""
        self.reader.release()
        if self.closed:
            self.close()

    def shutdown(self) -> None:
        """Wake whoever blocks in a read."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, now or as soon as its reader is done."""
        self.closed = True
        self.shutdown()
        if self.reader.acquire(blocking=False):
            self.sock.close()
            self.reader.release()


def receive_buffer() -> int:
    """How large a receive buffer this host lets us have, in bytes (``net.core.rmem_max``), `RECEIVE_BUFFER` at most."""
    try:
        with open("/proc/sys/net/core/rmem_max") as file:
            return min(int(file.read()), RECEIVE_BUFFER)
    except (OSError, ValueError):
        return 0


def user_name() -> str:
    """Who we are, for servers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a name for its user
        return str(os.getuid())


def udp_socket(settings: Settings) -> socket.socket:
    """A socket for searches, that may broadcast."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, settings.mcast_ttl)
    sock.bind(("0.0.0.0", 0))
    return sock
