"""One honest look at the network: which servers answer for a name, from where, how fast, and what does not answer.

Sockets of its own and no state, so that it sees what a context hides: a second server with the same name, an address
where nothing listens. A context's own search, paced and repeated, is in `search`.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from daqca.ca.interfaces import LIMITED_BROADCAST, Interface, interfaces
from daqca.ca.protocol import (
    HEADER_SIZE,
    MAX_DATAGRAM,
    MINOR_VERSION,
    Command,
    SearchReply,
    message,
    server_address,
    text_message,
    unpack_header,
)
from daqca.ca.repeater import is_confirmation, registration_message
from daqca.ca.settings import Address, Settings

RESEND_AT = (0.0, 0.1, 0.3, 0.6)
"""Seconds after the start at which names without an answer are asked for (again), for a datagram may be lost."""
LINGER = 0.25
"""Seconds to wait for a second server after the last name has been answered."""
NOTHING_LISTENS = "nothing listens there"

_IP_RECVERR = 11  # <linux/in.h>: errors come to sockets that are not connected, too
_LARGEST = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """A server said that it has a name.

    Parameters
    ----------
    name
        The name.
    server
        Where its circuits go: IPv4 address and TCP port.
    delay
        Seconds from the question to the answer.
    minor_version
        13 for a server of version 4.13.
    """

    name: str
    server: Address
    delay: float
    minor_version: int


@dataclass(slots=True)
class Place:
    """What was heard from one address that was searched.

    Parameters
    ----------
    address
        The address, possibly of a whole network.
    transport
        ``"UDP"``, or ``"TCP"`` for a name server.
    is_broadcast
        Whether it is the address of a network, where no server says that it does not have a name.
    answers
        Who has which name, in the order they answered.
    denied
        Names that a server there says it does not have.
    problem
        Why nothing could be heard, as `NOTHING_LISTENS`; ``""`` if there is no known reason.
    """

    address: Address
    transport: str = "UDP"
    is_broadcast: bool = False
    answers: list[Answer] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)
    problem: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether any server there has said anything."""
        return bool(self.answers or self.denied)


def probe_names(names: Sequence[str], settings: Settings, timeout: float = 1.0) -> list[Place]:
    """Search once for each name at every address of `settings`, and collect all that is answered.

    A server keeps silent by UDP about names that it does not have. So a single address (not a broadcast) that was
    silent about a name is asked again by TCP, where servers deny: "not here" is then known from "nobody there".
    Returns early when every name is answered, a quarter of a second after the last answer, so that a second server
    with the same name is heard too.

    Parameters
    ----------
    names
        A few PV names.
    settings
        The addresses to search.
    timeout
        Seconds to wait at most, for UDP together and for each address that is asked by TCP.

    Returns
    -------
    One `Place` for each address, those of UDP first.
    """
    known = interfaces()
    places = [Place(address, is_broadcast=_is_broadcast(address[0], known)) for address in settings.search_addresses()]
    with contextlib.ExitStack() as stack:
        searches = [stack.enter_context(_UDPSearch(place, names)) for place in places]
        _run(searches, timeout)
        silent = [search.place for search in searches if search.open_names() and not search.place.is_broadcast]
    for place in silent:
        by_tcp = Place(place.address, "TCP")
        _ask_by_tcp(by_tcp, names, timeout)
        place.denied |= by_tcp.denied
    servers = [Place(address, "TCP") for address in settings.name_servers]
    for place in servers:
        _ask_by_tcp(place, names, timeout)
    return places + servers


def servers_by_name(names: Iterable[str], places: Iterable[Place]) -> dict[str, list[Answer]]:
    """The fastest answer of each server for each name, in the order of speed.

    A server of this host that answers from several of the host's addresses counts once.
    """
    local = {interface.address for interface in interfaces()}
    best: dict[str, dict[tuple[str, int], Answer]] = {name: {} for name in names}
    for place in places:
        for answer in place.answers:
            ip, port = answer.server
            found = best.setdefault(answer.name, {})
            key = ("this host" if ip in local else ip, port)
            if key not in found or answer.delay < found[key].delay:
                found[key] = answer
    return {name: sorted(found.values(), key=lambda answer: answer.delay) for name, found in best.items()}


def repeater_answers(port: int, timeout: float = 0.5) -> bool:
    """Whether a CA repeater confirms a registration on this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.sendto(registration_message(), ("127.0.0.1", port))
            return is_confirmation(sock.recv(_LARGEST))
        except OSError:
            return False


def _is_broadcast(ip: str, known: Iterable[Interface]) -> bool:
    first = int(ip.split(".")[0])
    return (
        ip == LIMITED_BROADCAST
        or 224 <= first < 240
        or any(interface.broadcast == ip != interface.address for interface in known)
        or ip.endswith(".255")
    )


class _UDPSearch:
    """The search at one address, on a socket of its own, so that an error tells which address it is about."""

    def __init__(self, place: Place, names: Sequence[str]):
        self.place = place
        self._names = names
        self._sent: list[float] = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        with contextlib.suppress(OSError):  # not Linux: an address where nothing listens is then one without answers
            self.sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)

    def __enter__(self) -> _UDPSearch:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def open_names(self) -> list[int]:
        """The indices of the names that this address has not said anything about."""
        heard = {answer.name for answer in self.place.answers}
        return [] if self.place.problem else [i for i, name in enumerate(self._names) if name not in heard]

    def send(self) -> None:
        """Ask for all names that are open."""
        searches = [
            text_message(Command.SEARCH, self._names[i], i, i, SearchReply.DONT_REPLY, MINOR_VERSION)
            for i in self.open_names()
        ]
        for body in _datagrams(searches):
            # The number comes back with the answers, and tells which of several questions they answer.
            version = message(Command.VERSION, data_type=1, count=MINOR_VERSION, p1=len(self._sent))
            self._sent.append(time.monotonic())
            try:
                self.sock.sendto(version + body, self.place.address)
            except OSError as error:
                self._failed(error)
                return

    def receive(self) -> None:
        """Take in all that has come."""
        while True:
            try:
                data, sender = self.sock.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error)
                return
            self._understand(data, sender[0], time.monotonic())

    def _understand(self, data: bytes, sender: str, now: float) -> None:
        asked = self._sent[0]
        for command, data_type, p1, cid, payload in _messages(data):
            if command == Command.VERSION and data_type == 1 and p1 < len(self._sent):
                asked = self._sent[p1]
            elif command == Command.SEARCH and cid < len(self._names):
                version = int.from_bytes(payload[:2], "big")
                server = server_address(p1, data_type, sender, version)
                answer = Answer(self._names[cid], server, now - asked, version)
                if all((other.name, other.server) != (answer.name, answer.server) for other in self.place.answers):
                    self.place.answers.append(answer)

    def _failed(self, error: OSError) -> None:
        if not self.place.is_alive:
            refused = isinstance(error, ConnectionRefusedError)
            self.place.problem = NOTHING_LISTENS if refused else error.strerror or str(error)


def _run(searches: list[_UDPSearch], timeout: float) -> None:
    """Ask and listen until all is answered or the time is over."""
    start = last = time.monotonic()
    resend = [at for at in RESEND_AT if at < timeout]
    with selectors.DefaultSelector() as selector:
        for search in searches:
            selector.register(search.sock, selectors.EVENT_READ, search)
        while True:
            now = time.monotonic()
            if resend and now - start >= resend[0]:
                del resend[0]
                for search in searches:
                    search.send()
            deadline = start + timeout
            if not any(search.open_names() for search in searches):
                deadline = min(deadline, last + LINGER)
            if now >= deadline:
                return
            next_send = start + resend[0] if resend else deadline
            for key, _ in selector.select(max(0.0, min(deadline, next_send) - now)):
                key.data.receive()
                last = time.monotonic()


def _ask_by_tcp(place: Place, names: Sequence[str], timeout: float) -> None:
    """Ask a name server, or any server that may be one, for all names on one circuit."""
    searches = b"".join(
        text_message(Command.SEARCH, name, i, i, SearchReply.DO_REPLY, MINOR_VERSION) for i, name in enumerate(names)
    )
    deadline = time.monotonic() + timeout
    try:
        with socket.create_connection(place.address, timeout) as sock:
            start = time.monotonic()
            sock.sendall(message(Command.VERSION, count=MINOR_VERSION) + searches)
            data = b""
            heard: set[int] = set()
            while len(heard) < len(names) and (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                received = sock.recv(_LARGEST)
                if not received:
                    place.problem = "it closed the circuit"
                    return
                data += received
                for command, data_type, p1, cid, payload in _messages(data):
                    if cid >= len(names) or cid in heard or command not in (Command.SEARCH, Command.NOT_FOUND):
                        continue
                    heard.add(cid)
                    if command == Command.NOT_FOUND:
                        place.denied.add(names[cid])
                    else:
                        delay = time.monotonic() - start
                        server = server_address(p1, data_type, place.address[0])
                        version = int.from_bytes(payload[:2], "big")
                        place.answers.append(Answer(names[cid], server, delay, version))
    except TimeoutError:
        if not place.is_alive:
            place.problem = "it does not answer in time"
    except OSError as error:
        place.problem = NOTHING_LISTENS if isinstance(error, ConnectionRefusedError) else error.strerror or str(error)


def _datagrams(searches: Iterable[bytes]) -> Iterator[bytes]:
    """Searches, as many to a datagram as fit in beside the VERSION message."""
    body = b""
    for search in searches:
        if body and len(body) + len(search) > MAX_DATAGRAM - HEADER_SIZE:
            yield body
            body = b""
        body += search
    if body:
        yield body


def _messages(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """The complete messages of a datagram or a stream: command, data type, p1, p2 and payload."""
    while len(data) >= HEADER_SIZE:
        command, size, data_type, _, p1, p2 = unpack_header(data)
        if len(data) < HEADER_SIZE + size:
            return
        yield command, data_type, p1, p2, data[HEADER_SIZE : HEADER_SIZE + size]
        data = data[HEADER_SIZE + size :]
