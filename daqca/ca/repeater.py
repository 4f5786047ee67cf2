"""The CA repeater of a host as a script, and what its clients need: registration, confirmation, starting one.

`Registration` in `registration` drives this for a context; beacons are understood in `beacons`. The script is run by
its path, ``python -I -S repeater.py --port 5065 --linger 60``, so this module imports the standard library only.

Servers send their beacons to one UDP port of each host, which one process can own. That is the repeater: it
forwards what it hears to the clients of its host that have registered. Any client may start it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
import time

TYPE_CHECKING = False  # importing typing would take as long as all the rest
if TYPE_CHECKING:
    from daqca.ca.settings import Settings

Address = tuple[str, int]

DEFAULT_PORT = 5065
DEFAULT_LINGER = 60.0
"""Seconds without a client after which a repeater ends by itself."""
VERIFY_PERIOD = 15.0
"""Seconds between looks at whether the clients still exist (less if the repeater lingers for less)."""

_VERSION, _RSRV_IS_UP, _CONFIRM, _REGISTER = 0, 13, 17, 24
_HEADER = struct.Struct(">HHHHI4s")
_NOTHING = _HEADER.pack(_VERSION, 0, 0, 0, 0, b"\0\0\0\0")
_LARGEST = 0xFFFF + 16


def registration_message(ip: str = "127.0.0.1") -> bytes:
    """What a client sends to the repeater port of its host to be registered.

    Parameters
    ----------
    ip
        The client's address; the repeater goes by the one the datagram comes from.
    """
    return _HEADER.pack(_REGISTER, 0, 0, 0, 0, socket.inet_aton(ip))


def is_confirmation(datagram: bytes) -> bool:
    """Whether a datagram confirms a registration. Repeaters send it from another port than their own."""
    return len(datagram) >= _HEADER.size and _HEADER.unpack_from(datagram)[0] == _CONFIRM


def spawn_repeater(port: int, linger: float = DEFAULT_LINGER) -> bool:
    """Start a repeater that outlives this process, quietly and without waiting for it.

    If there is one already it ends at once. It has a session of its own, so it is not reached by Ctrl-C, nothing of it
    appears in a terminal, and it is not a child of this process, which need not wait for it.

    Parameters
    ----------
    port
        The repeater port.
    linger
        Seconds without a client after which it ends by itself.

    Returns
    -------
    Whether it could be started; if not, new servers are noticed later, and all else works.
    """
    import subprocess  # not at the top: the script starts faster without

    script = os.path.abspath(__file__)
    if os.name != "posix" or not sys.executable or not os.path.isfile(script):
        return False
    # The shell starts it and ends: its child, left alone, is adopted by init and leaves no zombie to us.
    command = ["/bin/sh", "-c", '"$0" "$@" &', sys.executable, "-I", "-S", script]
    try:
        done = subprocess.run(
            [*command, "--port", str(port), "--linger", str(linger)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def ensure_repeater(settings: Settings, timeout: float = 5.0) -> bool:
    """Make sure that this host has a repeater, and wait until it answers.

    For programs that have no context, as ``daqca doctor``; a context registers for itself, without waiting.

    Parameters
    ----------
    settings
        Its repeater port, and how long a repeater lingers that is started here.
    timeout
        Seconds to wait at most.

    Returns
    -------
    Whether a repeater answers.
    """
    end = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        wait = 0.05
        for attempt in range(1000):
            if attempt == 2:
                spawn_repeater(settings.repeater_port, settings.repeater_linger)
            left = end - time.monotonic()
            if left <= 0:
                break
            sock.settimeout(min(wait, left))
            wait = min(2 * wait, 0.5)
            with contextlib.suppress(OSError):
                sock.sendto(registration_message(), ("127.0.0.1", settings.repeater_port))
                while not is_confirmation(sock.recv(_LARGEST)):
                    pass
                return True
    return False


class _Client:
    """A client of this host, and the socket connected to it, through which the kernel tells us that it is gone."""

    def __init__(self, address: Address):
        self.address = address
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._sock.setblocking(False)
            self._sock.connect(address)
        except OSError:
            self._sock.close()
            raise

    def close(self) -> None:
        self._sock.close()

    def exists(self) -> bool:
        """Whether its port is still taken (not every system tells a sender that nobody receives)."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as test:
            try:
                test.bind(("", self.address[1]))
            except OSError as error:
                return error.errno == errno.EADDRINUSE
        return False

    def send(self, data: bytes) -> bool:
        """Send a datagram; returns False if the client is gone."""
        for _ in range(2):
            try:
                self._sock.send(data)
            except BlockingIOError:
                return True  # its queue is full: lost, as UDP may lose any
            except OSError:
                # Refused was an earlier datagram. A new client may have the port of one that is gone.
                if not self.exists():
                    return False
            else:
                return True
        return True


class Repeater:
    """The repeater: owns the port, knows the clients, forwards.

    It behaves as EPICS' own, except that it ends when it was without a client for long enough.

    Parameters
    ----------
    port
        The UDP port, on all addresses of the host.
    linger
        Seconds without a client after which `run` returns.

    Raises
    ------
    OSError
        With errno EADDRINUSE, if the port is taken: a repeater is there.
    """

    def __init__(self, port: int, linger: float = DEFAULT_LINGER):
        self.port = port
        self.linger = linger
        self.clients: dict[int, _Client] = {}
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            # Without SO_REUSEADDR: two on one port would take each other's datagrams.
            self._sock.bind(("", port))
        except OSError:
            self._sock.close()
            raise
        for group in _groups():
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + bytes(4))

    def run(self) -> None:
        """Forward until there was no client for `linger` seconds."""
        period = max(min(VERIFY_PERIOD, self.linger / 4), 0.01)
        now = time.monotonic()
        last_client, next_look = now, now + period
        while self.clients or now - last_client < self.linger:
            self._sock.settimeout(max(next_look - now, 0.001))
            # ECONNREFUSED and the like tell of an earlier datagram; a timeout is one, too.
            with contextlib.suppress(OSError):
                self.received(*self._sock.recvfrom(_LARGEST))
            now = time.monotonic()
            if now >= next_look:
                self.verify()
                next_look = now + period
            if self.clients:
                last_client = now

    def close(self) -> None:
        """Give the port back."""
        for client in self.clients.values():
            client.close()
        self.clients.clear()
        self._sock.close()

    def received(self, data: bytes, sender: Address) -> None:
        """Register a client, or forward a datagram."""
        if not data:  # how clients of EPICS register
            self.register(sender)
            return
        if len(data) < _HEADER.size:
            return
        command, *middle, ip = _HEADER.unpack_from(data)
        if command == _REGISTER:
            self.register(sender)
            data = data[_HEADER.size :]
        elif command == _RSRV_IS_UP and ip == b"\0\0\0\0":
            # Clients see us as the sender, so where it came from must be said in it.
            data = _HEADER.pack(command, *middle, socket.inet_aton(sender[0])) + data[_HEADER.size :]
        if data:
            self.forward(data, sender)

    def register(self, address: Address) -> None:
        """Take a client of this host in, confirm it, and see whether the others are still there."""
        ip, port = address
        if port == self.port or not _is_local(ip):
            return  # of another host, or ourselves, who would forward without end
        is_new = port not in self.clients
        if is_new:
            try:
                self.clients[port] = _Client(address)
            except OSError:
                return  # out of file descriptors: it will ask again
        self._send(self.clients[port], _HEADER.pack(_CONFIRM, 0, 0, 0, 0, socket.inet_aton(ip)))
        # Where no beacons come nobody would notice that clients are gone, and they would add up.
        self.forward(_NOTHING, address)
        if is_new:
            self.verify()

    def forward(self, data: bytes, sender: Address) -> None:
        """Send a datagram to all clients but the one it came from."""
        for client in list(self.clients.values()):
            if client.address != sender:
                self._send(client, data)

    def verify(self) -> None:
        """Drop the clients that are gone."""
        for client in list(self.clients.values()):
            if not client.exists():
                self._drop(client)

    def _send(self, client: _Client, data: bytes) -> None:
        if not client.send(data):
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        del self.clients[client.address[1]]
        client.close()


def _is_local(ip: str) -> bool:
    """Whether an address is one of this host: only such can be bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as test:
        try:
            test.bind((ip, 0))
        except OSError:
            return False
    return True


def _groups() -> list[str]:
    """The multicast groups to which the servers of this site may send beacons, by the variables EPICS looks at."""
    said = os.environ.get("EPICS_CAS_BEACON_ADDR_LIST", "").split() or os.environ.get("EPICS_CA_ADDR_LIST", "").split()
    hosts = (entry.partition(":")[0] for entry in said)
    return [host for host in hosts if host.partition(".")[0].isdecimal() and 224 <= int(host.partition(".")[0]) < 240]


def main(arguments: list[str]) -> int:
    """Run a repeater with the options ``--port N`` and ``--linger SECONDS``; returns 0, also if one is there."""
    options = {"--port": DEFAULT_PORT, "--linger": DEFAULT_LINGER}
    try:
        for name, value in zip(arguments[::2], arguments[1::2], strict=True):
            options[name] = type(options[name])(value)
        struct.pack("H", options["--port"])
    except (KeyError, ValueError, struct.error):
        print(f"usage: repeater.py [--port N] [--linger SECONDS], not {' '.join(arguments)}", file=sys.stderr)
        return 2
    port = int(options["--port"])
    try:
        repeater = Repeater(port, options["--linger"])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return 0
        print(f"CA repeater: cannot use UDP port {port}: {error}", file=sys.stderr)
        return 1
    with contextlib.closing(repeater), contextlib.suppress(KeyboardInterrupt):
        repeater.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
