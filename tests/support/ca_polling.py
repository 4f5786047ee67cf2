"""The low-level interface without preemptive callbacks, for tests: what lies unread, and where callbacks come."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from daqca.ca.lowlevel.client import Client
from daqca.ca.lowlevel.session import session
from daqca.ca.protocol import Command


def client_of(ca: ModuleType) -> Client:
    return session.contexts[ca.current_context()]


def unread(ca: ModuleType, datagrams: bool = False) -> int:
    """Bytes that the kernel keeps for the circuits of the current context, or of its next datagram."""
    context = client_of(ca).context
    descriptors = [context._udp.fileno()] if datagrams else list(context._by_fd)
    return sum(struct.unpack("i", fcntl.ioctl(each, termios.FIONREAD, bytes(4)))[0] for each in descriptors)


def has_message(ca: ModuleType, command: Command = Command.EVENT_ADD) -> bool:
    """Whether an update (or another message) lies there; answers to echos may, at any time."""
    for link in client_of(ca).context._links.values():
        try:
            data = link.sock.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        while len(data) >= 16:
            found, size = struct.unpack_from(">HH", data)
            if found == command:
                return True
            data = data[16 + size :]
    return False


def lost(ca: ModuleType) -> bool:
    """Whether the server has closed a circuit, and nothing is left to be read on it."""
    for link in client_of(ca).context._links.values():
        try:
            if not link.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return True
        except BlockingIOError:
            continue
    return False


class Calls:
    """Callbacks, and whether each was called in the right thread inside the right function."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.wrong: list[str] = []
        self._inside: str | None = None
        self._thread = threading.current_thread()

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Callbacks may come in here."""
        self._inside = name
        try:
            yield
        finally:
            self._inside = None

    def __call__(self, **known: Any) -> None:
        self.values.append(known.get("value", known))
        if self._inside is None or threading.current_thread() is not self._thread:
            self.wrong.append(f"{threading.current_thread()} in {self._inside}: {known}")


def watched(ca: ModuleType, name: str) -> tuple[Any, Calls, Any]:
    """A channel with all kinds of callbacks, the first of which have been called."""
    calls = Calls()
    with calls.inside("connect_channel"):
        chid = ca.create_channel(name, callback=calls)
        assert ca.connect_channel(chid, timeout=20)
    event_id = ca.create_subscription(chid, callback=calls)[2]
    while len(calls.values) < 2:
        with calls.inside("poll"):
            ca.poll()
    assert calls.wrong == []
    return chid, calls, event_id
