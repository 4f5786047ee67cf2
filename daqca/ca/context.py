"""The sockets, the I/O thread and the lock of one CA client; what the bytes mean is decided in `shard`.

A thread that waits for an answer reads the socket itself when nobody else does (the leader); otherwise
the I/O thread reads. Batches go to one function, under the context's lock, in order.
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
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from daqca.ca.channels import NO_CIRCUIT, Slots, State
from daqca.ca.circuit import Circuit, CircuitState
from daqca.ca.registration import Registration
from daqca.ca.settings import Settings
from daqca.ca.shard import Address, Register, Shard
from daqca.ca.sockets import AGAIN, Link, udp_socket, user_name
from daqca.errors import EngineClosedError, ProtocolError
from daqca.events import Batch, Kind, Reason
from daqca.link import AUTO
from daqca.operations import Waiter

log = logging.getLogger("daqca.ca")

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
ADD_PART = 4096
"""So many names are searched before the messages of the next are made."""
_MAX_READS = 8
_MAX_DATAGRAMS = 64

_contexts: weakref.WeakSet[Context] = weakref.WeakSet()
"""The live contexts, only for the child of a fork, which must drop their sockets."""


class Context:
    """One Channel Access client: a shard, its sockets and its I/O thread.

    Parameters
    ----------
    deliver
        Called with every batch, in order, under the context's lock, by the thread that read it. It must
        be quick and must not call back into the context.
    settings
        Default: from the environment.

    Notes
    -----
    Every method may be called from any thread. After a fork the child's copy is closed.
    """

    def __init__(self, deliver: Callable[[Batch], None], settings: Settings | None = None):
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
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._udp = udp_socket(self.settings)
        self._addresses = self.settings.search_addresses()
        self.shard.searcher.use_window = bool(self._addresses)
        self._registration = Registration(self.settings)
        self._epoll.register(self._wake_read, _IN)
        self._epoll.register(self._udp.fileno(), _IN)
        self._sleeps_until = 0.0
        self._thread = threading.Thread(target=self._run, name="daqca-ca", daemon=True)
        _contexts.add(self)
        self._thread.start()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- what a client asks for -----------------------------------------------------------------

    def add(self, names: Sequence[str]) -> Slots:
        """Add channels and begin to search them; returns their slots, shape (n,)."""
        with self.lock:
            self._check_open()
            parts = []
            for start in range(0, len(names), ADD_PART):
                parts.append(self.shard.add(names[start : start + ADD_PART]))
                self._pump()
            return np.concatenate(parts) if parts else np.empty(0, np.uint32)

    def remove(self, slots: Slots) -> None:
        """Clear channels."""
        with self.lock:
            self._check_open()
            self.shard.remove(slots)
            self._pump()

    def read(self, slots: Slots, register: Register, dbr_type: int = AUTO, count: int = 0) -> None:
        """See `Shard.read`. ``register(first id)`` is called before any answer can come."""
        with self.lock:
            self._check_open()
            self.shard.read(slots, register, dbr_type, count, self._flush_all)
            self._pump()

    def read_one(self, slot: int, register: Register) -> None:
        """See `Shard.read_one`; ``register(id)`` is called before the answer can come."""
        with self.lock:
            self._check_open()
            id_, circuit = self.shard.read_one(slot)
            register(id_)
            self._send_on(circuit)

    def _send_on(self, circuit: Circuit | None) -> None:
        """Send what was just put on one circuit, without looking at the others."""
        if circuit is None:
            self._pump()
            return
        self._flush(self._links[circuit.index])
        if self.shard.builder:
            self._deliver_batch(self.shard.builder.build())

    def cancel(self, first: int, n: int = 1) -> None:
        """Give up requests."""
        with self.lock:
            self.shard.cancel(first, n)

    def subscribe(
        self, slots: Slots, mask: int, dbr_type: int = AUTO, kind: int = Kind.UPDATE, label: int | None = None
    ) -> npt.NDArray[np.uint32]:
        """See `Shard.subscribe`."""
        with self.lock:
            self._check_open()
            ids = self.shard.subscribe(slots, mask, dbr_type, kind, label)
            self._pump()
            return ids

    def unsubscribe(self, ids: npt.NDArray[np.uint32]) -> None:
        """See `Shard.unsubscribe`."""
        with self.lock:
            if not self.is_closed:
                self.shard.unsubscribe(ids)
                self._pump()

    def write_one(self, slot: int, dbr_type: int, count: int, payload: bytes, register: Register | None) -> None:
        """See `Shard.write_one`; with `register` the server confirms the write."""
        with self.lock:
            self._check_open()
            id_, circuit = self.shard.write_one(slot, dbr_type, count, payload, register is not None)
            if register is not None:
                register(id_)
            self._send_on(circuit)

    def write_doubles(self, slots: Slots, values: npt.NDArray[np.float64], register: Register | None) -> None:
        """See `Shard.write_doubles`; with `register` the server confirms the writes."""
        with self.lock:
            self._check_open()
            first = self.shard.write_doubles(slots, values, register is not None)
            if register is not None:
                register(first)
            self._pump()

    def hosts(self, slots: Slots) -> list[str]:
        """``address:port`` of the server of each channel, ``""`` where it is on none, length n."""
        with self.lock:
            circuits = self.shard.circuits
            names = {index: circuit.name for index, circuit in circuits.items()}
            connected = self.shard.channels.state[slots] >= State.CONNECTED
            indices = np.where(connected, self.shard.channels.circuit[slots], NO_CIRCUIT)
            return [names.get(index, "") for index in indices.tolist()]

    def set_events(self, on: bool) -> None:
        """Flow control: have the servers hold back and merge updates, or resume."""
        with self.lock:
            for circuit in self.shard.circuits.values():
                circuit.set_events(on)
            self._pump()

    def stats(self) -> dict[str, Any]:
        """Counters since the start."""
        with self.lock:
            shard, searcher = self.shard, self.shard.searcher
            states = np.bincount(shard.channels.state[: len(shard.channels.names)], minlength=5)
            return {
                "channels": len(shard.channels),
                "searching": int(states[State.SEARCHING]),
                "connected": int(states[State.CONNECTED]),
                "unresponsive": int(states[State.UNRESPONSIVE]),
                "circuits": len(shard.circuits),
                "subscriptions": len(shard.subscriptions),
                "batches": self.batches,
                "events": self.events,
                "bytes_received": sum(circuit.received for circuit in shard.circuits.values()),
                "stray_messages": sum(circuit.stray for circuit in shard.circuits.values()),
                "protocol_errors": shard.protocol_errors,
                "searches_sent": searcher.sent,
                "searches_answered": searcher.answered,
                "malformed_datagrams": searcher.malformed,
                "duplicate_names": len(shard.duplicates),
                "repeater": self._registration.confirmed,
                "beacons": shard.beacons_heard,
                "beacon_anomalies": shard.beacon_anomalies,
            }

    # --- leader and follower --------------------------------------------------------------------

    def ask(self, slot: int, send: Callable[[], Any], waiter: Waiter, timeout: float) -> bool:
        """Send a request for one channel and wait until `waiter` is done.

        The calling thread reads the channel's circuit itself if nobody else does. It takes that role before
        it sends: else the I/O thread would be woken by an answer that comes at once.

        Parameters
        ----------
        send
            Called once; sends the request.
        timeout
            In seconds.

        Returns
        -------
        Whether it is done; False after `timeout` seconds.
        """
        link = self._links.get(int(self.shard.channels.circuit[slot]))
        if link is None or link.circuit.state == CircuitState.CONNECTING:
            send()
            return waiter.wait(timeout)
        deadline = time.monotonic() + timeout
        try:
            if not link.reader.acquire(blocking=False):
                send()
                return waiter.wait(timeout)
            with self.lock:
                self._listen(link, False)
                send()
            self._lead(link, waiter, deadline)
        finally:
            try:
                self._stop_leading(link)
            except BaseException:
                self._stop_leading(link)  # a Ctrl-C came right here, and comes only once
                raise
        # The circuit may have been closed, or the answer may come on another one.
        return waiter.done or waiter.wait(deadline - time.monotonic())

    def _lead(self, link: Link, waiter: Waiter, deadline: float) -> None:
        while not waiter.done and not self.is_closed and self._by_fd.get(link.fd) is link:
            now = time.monotonic()
            if now >= deadline:
                return
            link.receive_within(deadline - now)
            if link.counts:
                self._received(link)

    def _stop_leading(self, link: Link) -> None:
        """Leave the link to the I/O thread, or to the next leader, if this thread leads."""
        if link.is_mine():
            if link.counts:
                self._received(link)
            with self.lock:
                self._listen(link, True)
            # Last, and in one step: who leads next has the I/O thread not listen.
            link.reader.release()
        if link.closed:
            link.close()

    def _listen(self, link: Link, on: bool) -> None:
        """Have the I/O thread listen to a link, or leave it to a leader."""
        mask = link.mask | _IN if on else link.mask & ~_IN
        if mask != link.mask and self._by_fd.get(link.fd) is link:
            link.mask = mask
            self._epoll.modify(link.fd, mask)

    # --- the I/O thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.is_closed:
            try:
                self._turn()
            except Exception:
                if self.is_closed:
                    return
                log.exception("the I/O thread met an error and goes on")

    def _turn(self) -> None:
        with self.lock:
            now = time.monotonic()
            due = min(self.shard.tick(now), self._registration.check(now, self._udp))
            due = min(due, self._check_connecting(now))
            self._pump()
            search = self.shard.searcher.next_time(now)
            self._sleeps_until = due if search is None else min(due, search)
            timeout = max(self._sleeps_until - now, 0.0)
        ready = self._epoll.poll(timeout)
        for fd, mask in ready:
            link = self._by_fd.get(fd)
            if link is not None:
                self._serve(link, mask)
            elif fd == self._udp.fileno():
                self._read_udp()
            elif fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)

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
                more = link.receive()
                if link.counts:
                    self._received(link)
                if not more:
                    return
        finally:
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
            self._wake()

    def _send_searches(self, now: float) -> None:
        for data in self.shard.datagrams(now):
            for address in self._addresses:
                try:
                    self._udp.sendto(data, address)
                except OSError as error:
                    # The window and the back-off treat it as a lost datagram.
                    if error.errno not in AGAIN:
                        log.debug("a search to %s:%d failed: %s", *address, error)

    def _wake(self) -> None:
        if threading.current_thread() is not self._thread:
            self._sleeps_until = 0.0
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"!")

    # --- connections ----------------------------------------------------------------------------

    def _open(self, circuit: Circuit, now: float) -> None:
        link = Link(circuit, now)
        self._links[circuit.index] = self._by_fd[link.fd] = link
        started = link.connect()
        self._epoll.register(link.fd, link.mask)
        if not started:
            self._close_link(link, Reason.CLOSED)
        self._wake()

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
            raise EngineClosedError("this Channel Access context is closed; make a new one")

    def close(self) -> None:
        """Close every circuit and end the I/O thread. What was asked for and not answered stays so."""
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
            for link in self._links.values():
                link.shutdown()
            os.write(self._wake_write, b"!")
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self.lock:
            self._release()
        _contexts.discard(self)

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
        self.lock = threading.RLock()
        if not self.is_closed:
            self.is_closed = True
            for link in self._links.values():
                link.sock.close()  # without a shutdown, which the parent would feel
            self._links.clear()
            self._release()


def _forget_contexts() -> None:
    for context in list(_contexts):
        context._forked()
    _contexts.clear()


os.register_at_fork(after_in_child=_forget_contexts)
