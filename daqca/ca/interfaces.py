"""The network interfaces of this host, and the addresses on which a search reaches everybody on their networks.

Asks the operating system only; which addresses are searched is decided in `settings`.
"""

from __future__ import annotations

import array
import socket
import struct
import sys
from dataclasses import dataclass

try:
    from fcntl import ioctl
except ImportError:  # not POSIX: see `interfaces`
    ioctl = None  # type: ignore[assignment]

LOOPBACK = "127.0.0.1"
LIMITED_BROADCAST = "255.255.255.255"

# Linux, <linux/sockios.h> and <linux/if.h>
_SIOCGIFCONF = 0x8912
_SIOCGIFFLAGS = 0x8913
_SIOCGIFDSTADDR = 0x8917
_SIOCGIFBRDADDR = 0x8919
_IFF_UP = 0x1
_IFF_BROADCAST = 0x2
_IFF_LOOPBACK = 0x8
_IFF_POINTOPOINT = 0x10
_IFREQ_SIZE = struct.calcsize("16s24x") if struct.calcsize("P") == 8 else 32


@dataclass(frozen=True, slots=True)
class Interface:
    """One IPv4 address of one network interface.

    ``broadcast`` is where a search on its network is sent: the broadcast address (its own address if none
    is set), or the other end of a point-to-point link; None if it is down or the loopback interface.
    """

    name: str
    address: str
    broadcast: str | None
    is_up: bool = True
    is_loopback: bool = False


def interfaces() -> list[Interface]:
    """The IPv4 addresses of this host's interfaces, those that are down and the loopback included.

    Linux is asked by ``ioctl``. Elsewhere, where there is no call that Python reaches, the answer is one
    nameless interface with the limited broadcast address 255.255.255.255, which reaches the network of
    the default interface.

    Raises
    ------
    OSError
        If the system does not answer.
    """
    if ioctl is None or not sys.platform.startswith("linux"):
        return [Interface("?", "0.0.0.0", LIMITED_BROADCAST)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return [_describe(sock.fileno(), request) for request in _configured(sock.fileno())]


def broadcast_addresses(found: list[Interface] | None = None) -> list[str]:
    """Where to send searches so that every network of this host hears them, each address once.

    As libca has it: the broadcast addresses of the interfaces that are up, without loopback; if there is
    none, 127.0.0.1, so that the servers of this host are found when it has no network.

    Parameters
    ----------
    found
        The interfaces, if they are known already.
    """
    if found is None:
        found = interfaces()
    addresses = dict.fromkeys(interface.broadcast for interface in found if interface.broadcast is not None)
    return list(addresses) or [LOOPBACK]


def _configured(fd: int) -> list[bytes]:
    """The ``ifreq`` of every IPv4 address."""
    size = 4096
    while True:
        buffer = array.array("B", bytes(size))
        answer = ioctl(fd, _SIOCGIFCONF, struct.pack("iP", size, buffer.buffer_info()[0]))
        used = struct.unpack("iP", answer)[0]
        # The kernel fills what it can, and does not say that there was more.
        if used + _IFREQ_SIZE <= size:
            break
        size *= 2
    data = buffer.tobytes()[:used]
    requests = [data[at : at + _IFREQ_SIZE] for at in range(0, used, _IFREQ_SIZE)]
    return [request for request in requests if _family(request) == socket.AF_INET]


def _family(request: bytes) -> int:
    return int(struct.unpack_from("H", request, 16)[0])


def _address(request: bytes) -> str:
    return socket.inet_ntoa(request[20:24])


def _describe(fd: int, request: bytes) -> Interface:
    name = request[:16].split(b"\0", 1)[0].decode(errors="replace")
    flags = struct.unpack_from("H", ioctl(fd, _SIOCGIFFLAGS, request), 16)[0]
    is_up, is_loopback = bool(flags & _IFF_UP), bool(flags & _IFF_LOOPBACK)
    broadcast = None
    if is_up and not is_loopback:
        # Asked with the whole request: an interface may have several addresses, and the one in it selects.
        if flags & _IFF_BROADCAST:
            # None set: its own address, as libca has it, where at least the servers of this host are heard.
            broadcast = _ask(fd, _SIOCGIFBRDADDR, request) or _address(request)
        elif flags & _IFF_POINTOPOINT:
            broadcast = _ask(fd, _SIOCGIFDSTADDR, request)
    return Interface(name, _address(request), broadcast, is_up, is_loopback)


def _ask(fd: int, code: int, request: bytes) -> str | None:
    try:
        answer = ioctl(fd, code, request)
    except OSError:
        return None
    address = _address(answer)
    return address if _family(answer) == socket.AF_INET and address != "0.0.0.0" else None
