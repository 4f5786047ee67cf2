"""The sockets, the I/O thread and the lock of one CA client; what the bytes mean is decided in `shard`.

What a program may ask for is in `context`, how a thread that waits reads the socket itself in `leading`. Batches go
to one function, under the lock, in order.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from daqca.ca.ahead import AGAIN
from daqca.ca.circuit import Circuit, CircuitState
from daqca.ca.registration import Registration
from daqca.ca.settings import Settings
from daqca.ca.shard import Address, Shard
from daqca.ca.sockets import Link, udp_socket, user_name
from daqca.errors import EngineClosedError, ProtocolError
from daqca.events import Batch, Reason

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("daqca.ca")

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_MAX_READS = 8
_MAX_DATAGRAMS = 64
_LOOK_AGAIN = 1e-3
_GATHER = 1e-3
"""Seconds for which the I/O thread lets updates gather, when they come in a dense trickle: each time it wakes costs as
much as some hundred events. It is also the longest time that this delays them. Who waits for an answer reads itself."""
_PROMPT, _LITTLE, _MANY_TRICKLES = 2e-4, 4096, 8
"""It is a trickle if little came, and nearly at once, so many times in a row: seconds, bytes, times."""

_loops: weakref.WeakSet[Loop] = weakref.WeakSet()
"""The live ones, only for the child of a fork, which must drop their sockets."""


class Loop:
    """The input and output of one shard; see `daqca.ca.context.Context`.

    Parameters
    ----------
    deliver, settings
        See there.
    threaded
        Whether an I/O thread reads; else nothing is read but in `turn`.

    Attributes
    ----------
    before_turn
        Called at the beginning of each turn of the I/O thread, under the lock, if set.
    closed_error
        What is raised for what is asked of it when it is closed.
    """

    def __init__(self, deliver: Callable[[Batch], None], settings: Settings | None = None, threaded: bool = True):
        self.settings = settings if settings is not None else Settings.from_environ()
        self.lock = threading.RLock()
        self.shard = Shard(self.settings, user_name(), socket.gethostname())
        self.batches = 0
        self.events = 0
        self.is_closed = False
        self._deliver = deliver
        self._links: dict[int, Link] = {}
        self._by_fd: dict[int, Link] = {}
        self._epoll = select.epoll()
        self._turning = threading.RLock()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._udp = udp_socket(self.settings)
        self._addresses = self.settings.search_addresses()
        self.shard.searcher.use_window = bool(self._addresses)
        self._registration = Registration(self.settings)
        self._epoll.register(self._wake_read, _IN)
        self._epoll.register(self._udp.fileno(), _IN)
        self._sleeps_until = 0.0
        self._received_bytes = self._trickles = 0
        self._behind: set[Link] = set()
        self.before_turn: Callable[[], None] | None = None
        self.closed_error = EngineClosedError
        self._thread = threading.Thread(target=self._run, name="daqca-ca", daemon=True) if threaded else None
        _loops.add(self)
        if self._thread is not None:
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the I/O thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.is_closed:
            try:
                self.turn()
                if self._trickles >= _MANY_TRICKLES:
                    time.sleep(_GATHER)
            except Exception:
                if self.is_closed:
                    return
                log.exception("the I/O thread met an error and goes on")

    def turn(self, longest: float = 60.0) -> None:
        """Do what is due, wait for the network (at most so many seconds) and read what is there: for the I/O thread.

        Without such a thread, for whoever wants something to happen; one thread at a time.
        """
        with self._turning:
            if not self.is_closed:
                self._turn(longest)

    def _turn(self, longest: float) -> None:
        with self.lock:
            if self.before_turn is not None:
                self.before_turn()
            now = time.monotonic()
            due = min(self.shard.tick(now), self._registration.check(now, self._udp))
            due = min(due, self._check_connecting(now))
            self._pump()
            search = self.shard.searcher.next_time(now)
            self._sleeps_until = due if search is None else min(due, search)
            timeout = 0.0 if self._behind else min(max(self._sleeps_until - now, 0.0), longest)
        before, received = time.monotonic(), self._received_bytes
        ready = self._epoll.poll(timeout)
        is_prompt = time.monotonic() - before < _PROMPT
        for late in self._behind.copy():
            self._serve(late, _IN)
        for fd, mask in ready:
            link = self._by_fd.get(fd)
            if link is not None:
                self._serve(link, mask)
            elif fd == self._udp.fileno():
                self._read_udp()
            elif fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
        is_trickle = is_prompt and 0 < self._received_bytes - received < _LITTLE
        self._trickles = self._trickles + 1 if is_trickle else 0

    def _serve(self, link: Link, mask: int) -> None:
        if link.circuit.state == CircuitState.CONNECTING:
            self._finish_connecting(link)
            return
        if mask & _OUT:
            with self.lock:
                self._flush(link)
        if not mask & ~_OUT or not link.reader.acquire(blocking=False):
            return
        try:
            for _ in range(_MAX_READS):
                is_large = link.circuit.is_in_large_value()
                more = link.receive()
                if link.counts:
                    self._received_bytes += link.counts[-1]
                    self._received(link)
                if not more:
                    return
                is_large |= link.circuit.is_in_large_value()
                if not is_large and self._thread is not None:
                    link.ahead.read(link.sock)
        finally:
            if link.ahead.chunks and self._by_fd.get(link.fd) is link:
                self._behind.add(link)
            else:
                self._behind.discard(link)
            link.release()

    def _received(self, link: Link) -> None:
        """Bytes were read, or the server closed the circuit. The caller holds the link's reader."""
        with self.lock:
            try:
                while link.counts:
                    n = link.counts.pop(0)
                    if self.is_closed or self._by_fd.get(link.fd) is not link:
                        return
                    if n == 0:
                        self._close_link(link, Reason.CLOSED)
                    else:
                        self._decode(link, n)
                self._pump()
            except BaseException as error:
                self._abandon(link, error)
                raise

    def _decode(self, link: Link, n: int) -> None:
        try:
            self.shard.bytes_received(link.circuit, n, time.monotonic())
        except ProtocolError as error:
            log.error("closing the circuit to %s: %s", link.circuit.name, error)
            self._close_link(link, Reason.PROTOCOL_ERROR)

    def _abandon(self, link: Link, error: BaseException) -> None:
        """A Ctrl-C (or a mistake of ours) broke off work on a circuit.

        What of its messages was lost nobody knows: it is closed, which is told, and everything begins anew.
        """
        self._close_link(link, Reason.CLEARED if isinstance(error, KeyboardInterrupt) else Reason.PROTOCOL_ERROR)
        self._pump()

    def _read_udp(self) -> None:
        replies: list[tuple[bytes, Address]] = []
        for _ in range(_MAX_DATAGRAMS):
            try:
                replies.append(self._udp.recvfrom(16384))
            except OSError as error:
                # ECONNREFUSED and the like tell of an earlier datagram that nobody wanted.
                if error.errno in AGAIN:
                    break
        if not replies:
            return
        with self.lock:
            now = time.monotonic()
            for data, _ in replies:
                self._registration.received(data)
            self.shard.replies(replies, now)
            self._pump()

    def _pump(self) -> None:
        """Send what is to be sent and deliver what was decoded. The caller holds the lock."""
        shard = self.shard
        if not shard.searcher.idle:
            self._search(time.monotonic())
        while shard.to_open:
            self._open(shard.to_open.pop(), time.monotonic())
        self._flush_all()
        if shard.builder:
            self._deliver_batch(shard.builder.build())

    def _flush_all(self) -> None:
        for link in [link for link in self._links.values() if link.circuit.out]:
            self._flush(link)

    def _deliver_batch(self, batch: Batch) -> None:
        self.batches += 1
        self.events += len(batch)
        try:
            self._deliver(batch)
        except Exception:
            log.exception("delivering a batch of %d events failed", len(batch))

    def _search(self, now: float) -> None:
        """Send the searches that are due, and have the I/O thread wake up for the next."""
        searcher = self.shard.searcher
        due = searcher.next_time(now)
        if due is not None and due <= now:
            self._send_searches(now)
            due = searcher.next_time(now)
        if due is not None and due < self._sleeps_until:
            self.wake()

    def _send_searches(self, now: float) -> None:
        for data in self.shard.datagrams(now):
            for address in self._addresses:
                try:
                    self._udp.sendto(data, address)
                except OSError as error:
                    # The window and the back-off treat it as a lost datagram.
                    if error.errno not in AGAIN:
                        log.debug("a search to %s:%d failed: %s", *address, error)

    def wake(self) -> None:
        """Have the I/O thread begin a new turn."""
        if self._thread is not None and threading.current_thread() is not self._thread:
            with self.lock, contextlib.suppress(BlockingIOError):
                if not self.is_closed:  # else the descriptor may be somebody else's
                    self._sleeps_until = 0.0
                    os.write(self._wake_write, b"!")

    # --- connections ----------------------------------------------------------------------------

    def _open(self, circuit: Circuit, now: float) -> None:
        try:
            link = Link(circuit, now)
        except OSError as error:  # no file descriptor left, say
            log.error("cannot connect to %s: %s", circuit.name, error)
            self.shard.closed(circuit, Reason.CLOSED, now)
            return
        self._links[circuit.index] = self._by_fd[link.fd] = link
        started = link.connect()
        self._epoll.register(link.fd, link.mask)
        if not started:
            self._close_link(link, Reason.CLOSED)
        self.wake()

    def _finish_connecting(self, link: Link) -> None:
        with self.lock:
            if self._by_fd.get(link.fd) is not link:
                return
            if not link.finish_connecting():
                self._close_link(link, Reason.CLOSED)
                return
            self.shard.opened(link.circuit, time.monotonic())
            link.mask = _IN
            self._epoll.modify(link.fd, _IN)
            self._flush(link)
            self._pump()

    def _check_connecting(self, now: float) -> float:
        due = now + 60.0
        for link in list(self._links.values()):
            if link.circuit.state == CircuitState.CONNECTING:
                limit = link.since + self.settings.conn_tmo
                if now >= limit:
                    self._close_link(link, Reason.CLOSED)
                else:
                    due = min(due, limit)
        return due

    def _flush(self, link: Link) -> None:
        """Send what the circuit has to send, as much as the socket takes. The caller holds the lock."""
        if link.circuit.state == CircuitState.CONNECTING:
            return
        try:
            works = link.flush()
        except BaseException as error:
            if link.at_risk:
                self._abandon(link, error)
            raise
        if not works:
            self._close_link(link, Reason.CLOSED)
            return
        mask = link.mask | _OUT if link.circuit.out else link.mask & ~_OUT
        if mask != link.mask:
            link.mask = mask
            self._epoll.modify(link.fd, mask)

    def _close_link(self, link: Link, reason: Reason) -> None:
        if self._by_fd.get(link.fd) is not link:
            return
        del self._by_fd[link.fd], self._links[link.circuit.index]
        self._epoll.unregister(link.fd)
        link.close()
        self.shard.closed(link.circuit, reason, time.monotonic())

    # --- the end --------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.is_closed:
            raise self.closed_error("this Channel Access context is closed; make a new one")

    def drain(self, timeout: float) -> bool:
        """Wait until all that was to be sent has left this host; returns whether it has.

        Without that, a socket that is closed with something unread drops what it has not sent.

        Parameters
        ----------
        timeout
            In seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self.lock:
                if self.is_closed:
                    return False
                self._pump()
                # Nothing was put to a server that has not answered yet.
                links = [link for link in self._links.values() if link.circuit.state != CircuitState.CONNECTING]
                done = all(link.has_sent() for link in links)
            left = deadline - time.monotonic()
            if done or left <= 0:
                return done
            time.sleep(min(_LOOK_AGAIN, left))

    def close(self) -> None:
        """Close every circuit and end the I/O thread. What was asked for and not answered stays so."""
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
            for link in self._links.values():
                link.shutdown()
            os.write(self._wake_write, b"!")
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()
        # Without a thread of its own another may be in the middle of a turn.
        with self._turning if self._thread is None else contextlib.nullcontext(), self.lock:
            self._release()
        _loops.discard(self)

    def _release(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._by_fd.clear()
        self._epoll.close()
        self._udp.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _forked(self) -> None:
        """In the child of a fork: let go of the parent's sockets, without a word on them."""
        self.lock, self._turning = threading.RLock(), threading.RLock()
        if not self.is_closed:
            self.is_closed = True
            for link in self._links.values():
                link.sock.close()  # without a shutdown, which the parent would feel
            self._links.clear()
            self._release()


def _forget_loops() -> None:
    for loop in list(_loops):
        loop._forked()
    _loops.clear()


os.register_at_fork(after_in_child=_forget_loops)
