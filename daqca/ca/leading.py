"""Leader and follower: a thread that waits for an answer reads the socket itself when nobody else does.

Otherwise the I/O thread of `loop` reads. How long a leader looks before it sleeps is in `patience`.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable
from typing import Any

from daqca.ca import protocol
from daqca.ca.channels import State
from daqca.ca.circuit import CircuitState
from daqca.ca.loop import Loop
from daqca.ca.protocol import HEADER_SIZE
from daqca.ca.replies import ECA_DISCONN
from daqca.ca.requests import RequestKind
from daqca.ca.sockets import Link
from daqca.events import Kind
from daqca.link import AUTO
from daqca.operations import Waiter

_CONNECTED = int(State.CONNECTED)
_READ_NOTIFY = int(protocol.Command.READ_NOTIFY)
_READ, _WRITE, _FAILED = int(RequestKind.READ), int(RequestKind.WRITE), int(Kind.FAILED)
_IN = select.EPOLLIN
_NORMAL, _UP = 1, CircuitState.UP
_OURS = 20
"""Who asks for DBR_TIME_DOUBLE in this way, does so because it is the form that we choose for numbers."""

Fields = tuple[Any, ...]
"""A whole message, unpacked: command, size, data type, count, p1 and p2, and then its payload."""


class Leading(Loop):
    """A `Loop` whose sockets are read by the threads that wait for what comes there."""

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
        link = self._links.get(self.shard.channels.circuit.item(slot))
        if link is None or link.circuit.state == CircuitState.CONNECTING:
            send()
            return waiter.wait(timeout)
        deadline = time.monotonic() + timeout
        try:
            if not link.take_lead():
                send()
                return waiter.wait(timeout)
            with self.lock:
                self._listen_no_more(link)
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

    def exchange(
        self,
        slot: int,
        command: int,
        data_type: int,
        count: int,
        payload: bytes,
        answer: struct.Struct,
        register: Callable[[int], Waiter],
        timeout: float,
    ) -> Fields | Waiter | None:
        """`ask` for the usual case: one request, and its answer alone is what the server sends next.

        Then neither a request nor an operation is registered, and nothing is delivered: the answer goes straight
        to who asked. Whatever else comes first takes the usual way, and so does the answer then.

        Parameters
        ----------
        command, data_type, count, payload
            The request: READ_NOTIFY or WRITE_NOTIFY.
        answer
            The whole message that answers it, if it does so with success.
        register
            Called with the id of the request if the answer did not come alone; returns who waits for it.
        timeout
            In seconds.

        Raises
        ------
        EngineClosedError
            The context was closed meanwhile.

        Returns
        -------
        The fields of the answer, or what `register` returned (done, or not in time); None if this is not the
        usual case, and nothing was sent.
        """
        shard = self.shard
        channels = shard.channels
        link = self._links.get(channels.circuit.item(slot))
        if link is None or not link.reader.acquire(blocking=False):
            return None
        circuit, counts = link.circuit, link.counts
        patience = link.read_patience if command == _READ_NOTIFY else link.write_patience
        try:
            with self.lock:
                if (
                    self.is_closed
                    or counts
                    or link.ahead.chunks
                    or circuit.out
                    or channels.state.item(slot) != _CONNECTED
                    or channels.circuit.item(slot) != circuit.index
                    or self._by_fd.get(link.fd) is not link
                    or not circuit.is_between_messages()
                ):
                    return None
                id_ = shard.requests.take_id()
                sid = channels.sid.item(slot)
                self._listen_no_more(link)
                if payload:
                    circuit.queue(protocol.message(command, payload, data_type, count, sid, id_))
                else:
                    circuit.queue_header(protocol.pack_header(command, 0, data_type, count, sid, id_))
                if not link.flush() or circuit.out:
                    self._flush(link)
            start = time.monotonic()
            in_vain = patience.is_awake() and not link.receive_awake()
            if not counts:
                link.receive_within(timeout)
            now = time.monotonic()
            patience.learn(now - start, in_vain)
            if counts and counts[0] == answer.size:
                fields: Fields = answer.unpack_from(circuit.get_buffer())
                if (
                    fields[0] == command
                    and fields[5] == id_
                    and fields[4] == _NORMAL
                    and fields[2] == data_type
                    and fields[1] == answer.size - HEADER_SIZE  # else its rest is still to come
                    and circuit.state is _UP  # else it is also a word of life, which is told
                ):
                    counts.clear()
                    circuit.heard(answer.size, now)
                    return fields
            waiter = self._answered_otherwise(link, slot, command, data_type, count, id_, register)
            self._lead(link, waiter, start + timeout)
        except BaseException as error:
            with self.lock:
                if link.at_risk:
                    self._abandon(link, error)
            raise
        finally:
            try:
                self._stop_leading(link)
            except BaseException:
                self._stop_leading(link)
                raise
        if not waiter.done:
            waiter.wait(start + timeout - time.monotonic())
        return waiter

    def _answered_otherwise(
        self,
        link: Link,
        slot: int,
        command: int,
        data_type: int,
        count: int,
        id_: int,
        register: Callable[[int], Waiter],
    ) -> Waiter:
        """The answer did not come, or not alone: from here on it is waited for in the usual way."""
        shard = self.shard
        with self.lock:
            self._check_open()
            waiter = register(id_)
            if waiter.done:  # nobody wants it any more
                return waiter
            if self._by_fd.get(link.fd) is link:
                kind = _READ if command == _READ_NOTIFY else _WRITE
                asked = AUTO if data_type == _OURS else data_type
                shard.requests.adopt(id_, slot, kind, link.circuit.index, asked, count)
            else:  # closed by another thread, before it could know of this request
                shard.builder.rows.append((slot, _FAILED, 0, ECA_DISCONN, 0, time.time_ns(), 0.0, 0, id_))
                self._pump()
            return waiter

    def _lead(self, link: Link, waiter: Waiter, deadline: float) -> None:
        while not waiter.done and not self.is_closed and self._by_fd.get(link.fd) is link:
            if link.counts:
                self._received(link)
                continue
            now = time.monotonic()
            if now >= deadline:
                return
            link.receive_within(deadline - now)

    def _stop_leading(self, link: Link) -> None:
        """Leave the link to the I/O thread, or to the next leader, if this thread leads."""
        if link.is_mine():
            if link.counts:
                self._received(link)
            with self.lock:
                mask = link.mask
                if not mask & _IN and self._by_fd.get(link.fd) is link:
                    link.mask = mask = mask | _IN
                    self._epoll.modify(link.fd, mask)
            # Last, and in one step: who leads next has the I/O thread not listen.
            link.reader.release()
        if link.closed:
            link.close()

    def _listen_no_more(self, link: Link) -> None:
        """Have the I/O thread leave a link to its leader. The caller holds the lock."""
        mask = link.mask
        if mask & _IN and self._by_fd.get(link.fd) is link:
            link.mask = mask = mask & ~_IN
            self._epoll.modify(link.fd, mask)
