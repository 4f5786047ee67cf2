"""One context of the low-level interface: its channels, subscriptions and requests on one Channel Access client.

What comes from the network is sorted here, under the lock; users' callbacks run on the dispatcher's thread, or,
without preemption, in `process`. The functions of the manual are in the modules beside this one.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from daqca.ca.context import NUMBERS, Context
from daqca.ca.eca import ECA, from_number, message
from daqca.ca.leading import Fields
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.operations import Connected, Get, Put
from daqca.ca.lowlevel.subscription import Subscription
from daqca.ca.lowlevel.updates import FAILURES, are_updates, call_back, call_back_all
from daqca.ca.protocol import Command, name_bytes
from daqca.dispatcher import Dispatcher
from daqca.errors import ChannelAccessException, ContextClosedError
from daqca.events import Batch, Kind
from daqca.operations import Operations, Waiter

log = logging.getLogger("daqca.ca")

_UPDATE, _READ, _WRITTEN, _FAILED = int(Kind.UPDATE), int(Kind.READ), int(Kind.WRITTEN), int(Kind.FAILED)
_CONNECTED, _DISCONNECTED, _ACCESS = int(Kind.CONNECTED), int(Kind.DISCONNECTED), int(Kind.ACCESS)
_LOST, _REFUSED = int(Kind.LOST), int(Kind.REFUSED)
_ANSWERS = frozenset((_READ, _WRITTEN, _FAILED))
_IS_ANSWER = np.isin(np.arange(256), list(_ANSWERS))
_READ_NOTIFY = int(Command.READ_NOTIFY)
_LONGEST_TURN, _MOMENT = 0.1, 0.01
_SHORTEST = 0.1


class Client:
    """One CA context.

    Parameters
    ----------
    number
        What `current_context` returns for it.
    preemptive
        Whether threads read the network and run callbacks by themselves; else both happens in `process` only.
    say
        Writes messages for people.

    Attributes
    ----------
    channels
        By name.
    exception_callbacks
        Whom to tell of what fails without anybody waiting for it.
    """

    def __init__(self, number: int, preemptive: bool, say: Callable[[str], None]):
        self.number = number
        self.preemptive = preemptive
        self._say = say
        self.channels: dict[str, Channel] = {}
        self.operations = Operations()
        self.exception_callbacks: list[Callable[..., Any]] = []
        self.dispatcher = Dispatcher(threaded=preemptive)
        self.is_closed = False
        self._by_slot: dict[int, Channel] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._new: list[Channel] = []
        self._waits: list[Connected] = []
        self._owner = threading.current_thread()
        self._reading = threading.Lock()
        self._calling = threading.Lock()
        self._sending = False
        self.context = Context(self._deliver, threaded=preemptive)
        self.context.before_turn = self.begin
        self.context.closed_error = ContextClosedError
        self.columns = self.context.shard.channels
        self.lock = self.context.lock

    # --- channels -------------------------------------------------------------------------------

    def channel(self, pvname: str) -> tuple[Channel, bool]:
        """The channel of this name, and whether it is new; it is searched soon.

        Raises
        ------
        ConfigurationError
            No PV can have this name.
        """
        found = self.channels.get(pvname)
        if found is not None:
            return found, False
        name_bytes([pvname])
        with self.lock:
            if self.is_closed:
                raise ContextClosedError(f"create_channel({pvname!r}): the context was closed, just now")
            found = self.channels.get(pvname)
            if found is not None:
                return found, False
            channel = self.channels[pvname] = Channel(pvname, self)
            self._new.append(channel)
            is_first = len(self._new) == 1
        if is_first:
            self.context.wake()
        return channel, True

    def begin(self) -> None:
        """Search the channels that are new: all that were created since the last time go out together."""
        self._sending = False
        if not self._new:
            return
        with self.lock:
            new = [channel for channel in self._new if not channel.is_cleared]
            self._new = []
            slots = self.context.add([channel.pvname for channel in new])
            for channel, slot in zip(new, slots.tolist(), strict=True):
                channel.slot = slot
                channel.begun = time.time_ns()
                self._by_slot[slot] = channel

    def connect(self, channel: Channel, timeout: float) -> bool:
        """Wait until a channel is connected, at most `timeout` seconds; returns whether it is."""
        if channel.is_connected:
            return True
        self.begin()
        wait = Connected(channel)
        with self.lock:
            self._waits.append(wait)
            wait.look()
        try:
            self.wait(wait, timeout)
        finally:
            with self.lock:
                self._waits.remove(wait)
        return channel.is_connected

    def clear(self, channel: Channel) -> None:
        """Clear a channel: what it is asked for ends now, with ECA_CHANDESTROY, and nothing more is told of it."""
        with self.lock:
            subscriptions = list(channel.subscriptions)
            if not channel.is_cleared:
                self._forget(channel)
                if channel.slot >= 0 and not self.context.is_closed:
                    self.context.remove(np.array([channel.slot], np.uint32))
        for subscription in subscriptions:  # without the lock, which a callback may want
            subscription.wait_for_caller()

    def _forget(self, channel: Channel) -> None:
        """Clear a channel on our side. The caller holds the lock, and has the context remove it."""
        for subscription in channel.subscriptions:
            subscription.is_ended = True
            self._subscriptions.pop(subscription.number, None)
        channel.subscriptions.clear()
        channel.is_cleared = True
        self.channels.pop(channel.pvname, None)
        self._by_slot.pop(channel.slot, None)
        for operation in (*channel.unanswered, *channel.puts):
            self.operations.discard(operation)
            operation.fail(ECA.CHANDESTROY)
        channel.gets.clear()
        for wait in self._waits:
            wait.look()

    def subscribe(self, subscription: Subscription) -> None:
        """Begin to watch what `subscription` says."""
        self.begin()
        channel = subscription.channel
        with self.lock:
            if channel.is_cleared:
                raise ChannelAccessException(f"create_subscription: {channel.pvname} was cleared; create it again")
            self._subscriptions[subscription.number] = subscription
            channel.subscriptions.add(subscription)
            ids = self.context.subscribe(
                np.array([channel.slot], np.uint32),
                subscription.mask,
                subscription.dbr_type,
                label=subscription.number,
                count=subscription.count,
            )
            subscription.id = int(ids[0])

    def unsubscribe(self, subscription: Subscription) -> None:
        """Watch it no more. What waits to be told of it is not told; a call under way is: see `wait_for_caller`."""
        with self.lock:
            if self._subscriptions.pop(subscription.number, None) is None:
                return
            subscription.is_ended = True
            subscription.channel.subscriptions.discard(subscription)
            if not self.context.is_closed:
                self.context.unsubscribe(np.array([subscription.id], np.uint32))

    # --- reading and writing --------------------------------------------------------------------

    def read_number(self, channel: Channel, timeout: float) -> Fields | Waiter | None:
        """Read a channel that has one number, the quick way (see `Leading.exchange`).

        Returns
        -------
        The fields of the answer, the number behind the six of the header; or the get that it became (done, or not in
        time); None if it has no quick way, and nothing was asked.
        """
        slot = channel.slot
        if slot < 0 or channel.gets or channel.is_cleared or not self.preemptive or sys.is_finalizing():
            return None
        columns = self.columns
        dbr_type = columns.native_type.item(slot)
        answer = NUMBERS.get(dbr_type)
        if answer is None or columns.native_count.item(slot) != 1:
            return None

        def register(id_: int) -> Get:
            operation = Get(channel, dbr_type)
            if not self._is_over(operation):
                operation.writes = -1  # it was sent before
                earlier = channel.gets.get(dbr_type)
                if earlier is None or earlier.done:  # else another thread's, which `get_complete` is to find
                    channel.gets[dbr_type] = operation
                self.operations.add(id_, operation)
            return operation

        found: Any = self.context.exchange(slot, _READ_NOTIFY, dbr_type, 1, b"", answer, register, timeout)
        return found  # type: ignore[no-any-return]

    def read(self, operation: Get, count: int, timeout: float | None) -> None:
        """Ask for what `operation` wants, and wait for it at most `timeout` seconds; None: not at all."""
        context, slot, dbr_type = self.context, operation.channel.slot, operation.dbr_type

        def register(id_: int) -> None:
            self.operations.add(id_, operation)

        def send(at_once: bool = True) -> None:
            with self.lock:
                if not self._is_over(operation):
                    context.read_one(slot, register, dbr_type, count, at_once)

        if timeout is None:
            send(at_once=False)
            self._send_soon()
        elif self.preemptive:
            context.ask(slot, send, operation, timeout)
        else:
            send()
            self.wait(operation, timeout)

    def write(
        self, channel: Channel, encoded: tuple[int, int, bytes], operation: Put | None, timeout: float | None
    ) -> None:
        """Write a value; with an operation the server confirms it, and this waits at most `timeout` seconds for it."""
        context, slot = self.context, channel.slot
        if operation is None:
            with self.lock:
                if channel.is_cleared:
                    raise ChannelAccessException(f"put: the channel {channel.pvname} was cleared; create it again")
                context.write_one(slot, *encoded, None)
            return
        put = operation
        with self.lock:
            channel.puts.add(put)

        def register(id_: int) -> Put:
            if not self._is_over(put):
                self.operations.add(id_, put)
            return put

        def send() -> None:
            with self.lock:
                if not self._is_over(put):
                    context.write_one(slot, *encoded, register)

        if timeout is None:
            send()
        elif not self.preemptive:
            send()
            self.wait(put, timeout)
        else:
            answer = context.write_now(slot, *encoded, register, timeout)
            if type(answer) is tuple:
                with self.lock:
                    if not put.done:  # else the channel was cleared meanwhile, and the put's callback told so
                        put.answer(answer)
            elif answer is None:
                context.ask(slot, send, put, timeout)

    def _is_over(self, operation: Get | Put) -> bool:
        """Whether nothing is to be done any more: another thread cleared the channel. The caller holds the lock."""
        if operation.channel.is_cleared:
            operation.fail(ECA.CHANDESTROY)
        return operation.done

    def host(self, channel: Channel) -> str:
        """The server of a channel, ``address:port``; empty if it is not connected."""
        if not channel.is_connected:
            return ""
        return self.context.hosts(np.array([channel.slot], np.uint32))[0]

    def _send_soon(self) -> None:
        """Have what waits to be sent go out, together with what comes until then."""
        if not self._sending:
            self._sending = True
            self.context.wake()

    # --- waiting --------------------------------------------------------------------------------

    def wait(self, waiter: Waiter, timeout: float) -> bool:
        """Wait for something that the network brings, at most `timeout` seconds."""
        if self.preemptive:
            return waiter.wait(timeout)
        deadline = time.monotonic() + timeout
        while not waiter.done and not self.is_closed:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if not self._read(min(left, _LONGEST_TURN)):
                waiter.wait(min(left, _MOMENT))
            self._run_callbacks()
        return waiter.done

    def process(self, seconds: float) -> None:
        """Let things happen for so long. Without preemption this is where everything happens."""
        self.begin()
        if self.preemptive:
            self.context.flush()
            if seconds > 0:
                time.sleep(seconds)
            return
        deadline = time.monotonic() + seconds
        while not self.is_closed:
            left = max(deadline - time.monotonic(), 0.0)
            if not self._read(min(left, _LONGEST_TURN)):
                time.sleep(min(left, _MOMENT))
            self._run_callbacks()
            if time.monotonic() >= deadline:
                return

    def _read(self, longest: float) -> bool:
        """Read for one turn; False if another thread does."""
        if not self._reading.acquire(blocking=False):
            return False
        try:
            self.context.turn(longest)
        finally:
            self._reading.release()
        return True

    def _run_callbacks(self) -> None:
        """Run callbacks, if they are this thread's: without preemption, that of the thread that made the context.

        A callback that waits runs no other callbacks.
        """
        is_ours = threading.current_thread() is self._owner or not self._owner.is_alive()
        if is_ours and self._calling.acquire(blocking=False):
            try:
                self.dispatcher.run_waiting()
            finally:
                self._calling.release()

    # --- what comes from the network ------------------------------------------------------------

    def _deliver(self, batch: Batch) -> None:
        """Under the lock: end what is waited for, and pass the rest on to those who want to be called."""
        if batch.is_small:
            rest = []
            for row in batch.rows():
                if row[1] in _ANSWERS and row[8]:
                    self.operations.answer_row(row, batch)
                else:
                    rest.append(row)
            if not rest:
                return
            batch = Batch(None, batch.block, rest)
            connected = any(row[1] == _CONNECTED for row in rest)
        else:
            kinds = batch.records["kind"]
            answers = _IS_ANSWER[kinds] & (batch.records["token"] != 0)
            if answers.any():
                for row in batch.select(answers):
                    self.operations.answer_row(row, batch)
                if answers.all():
                    return
                batch = batch.select(~answers)
            connected = bool((kinds == _CONNECTED).any())
        if connected:
            for wait in self._waits:
                wait.look()
        if are_updates(batch):
            self.dispatcher.put(self._run, batch)
        else:  # with connections, rights and failures, which are told however slow callbacks are
            self.dispatcher.call(lambda: self._run(batch))

    def _run(self, batch: Batch) -> None:
        """Call who wants to be called; on the dispatcher's thread."""
        if are_updates(batch):
            call_back_all(batch, self._subscriptions, self.failed)
            return
        for event in batch:
            kind = event.kind
            if kind == _UPDATE:
                subscription = self._subscriptions.get(event.token)
                if subscription is not None:
                    data = batch.data(*event.value) if isinstance(event.value, tuple) else b""
                    call_back(subscription, event, data, self.failed)
            elif kind in (_CONNECTED, _DISCONNECTED, _ACCESS):
                self._connection(event.slot, kind, event.status, event.timestamp)
            else:
                self._exception(kind, event.slot, event.status, event.count, event.token)

    def _connection(self, slot: int, kind: int, status: int, timestamp: int) -> None:
        channel = self._by_slot.get(slot)
        if channel is None or timestamp < channel.begun:  # its slot had another channel then
            return
        if kind != _DISCONNECTED:
            channel.run_access_event_callbacks(bool(status & 1), bool(status & 2))
        if kind != _ACCESS:
            channel.run_connection_callbacks(kind == _CONNECTED, time.time())

    def _exception(self, kind: int, slot: int, number: int, count: int, token: int) -> None:
        if kind == _LOST:
            self.tell_exception(
                "event", ECA.OVEVFAIL, None, f"{count} updates were dropped, because callbacks were too slow"
            )
            return
        channel = self._by_slot.get(slot)
        if kind == _REFUSED and token not in self._subscriptions:  # it has ended
            return
        status = from_number(number)
        if channel is not None and kind in (_FAILED, _REFUSED):
            what = "put" if kind == _FAILED else "create_subscription"
            self.tell_exception(what, status, channel, f"{what} {channel.pvname}: {message(status)}")

    def tell_exception(self, op: str, status: int, channel: Channel | None, text: str) -> None:
        """Something failed that nobody waits for: tell who wants to know of it, and the log."""
        self.guard(self._say, text + "\n")
        log.warning("%s", text)
        for callback in list(self.exception_callbacks):
            pvname, chid = (None, None) if channel is None else (channel.pvname, int(channel))
            self.guard(callback, op=op, status=status, message=text, pvname=pvname, chid=chid, context=self.number)

    def guard(self, callback: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        """Call a user's function; if it raises, that is logged and counted."""
        try:
            callback(*args, **kwargs)
        except FAILURES:
            self.failed(callback, kwargs.get("pvname"))

    def failed(self, callback: Callable[..., Any], pvname: str | None) -> None:
        """A user's function has raised: to be called while the exception is being handled."""
        if isinstance(sys.exc_info()[1], SystemExit) and not self.dispatcher.is_mine:
            raise
        self.dispatcher.raised(
            f"the callback {callback} for {pvname or 'nobody in particular'} raised; it stays installed"
        )

    # --- the end --------------------------------------------------------------------------------

    def close(self, timeout: float = 5.0) -> None:
        """Clear all channels, when what waits to be sent has gone out; callbacks of puts that end by this are called.

        Parameters
        ----------
        timeout
            Seconds for what is to be sent, and for callbacks that run.
        """
        deadline = time.monotonic() + timeout
        self.context.drain(timeout)
        with self.lock:
            if self.is_closed:
                return
            self.is_closed = True
            for channel in list(self.channels.values()):
                self._forget(channel)
        self.context.close()
        with self.lock:
            for operation in self.operations:
                operation.complete()
        if not self.preemptive:
            self.dispatcher.run_waiting()
        self.dispatcher.close(max(deadline - time.monotonic(), _SHORTEST))

    def rest(self, timeout: float) -> None:
        """The interpreter ends: run no callbacks any more, and send what waits to be sent."""
        deadline = time.monotonic() + timeout
        self.context.drain(timeout)
        self.dispatcher.close(max(deadline - time.monotonic(), _SHORTEST), quietly=True)
        self.context.drain(_SHORTEST)  # what callbacks have put meanwhile
