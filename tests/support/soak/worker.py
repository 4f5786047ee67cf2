"""A thread of the soak: it does one thing after another, at random, and looks at what comes of it."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from daqca import ca
from daqca.ca.eca import ECA, message
from daqca.errors import ChannelAccessException

from .callbacks import PutCallbacks, Watch
from .records import FIXED_VALUES, MISSING, PLAIN, SCANNED, Ledger
from .watch import Doing, starved
from .weather import Weather

LONG_S = 10.0
"""Who waits for so long must succeed, if nothing happened to the IOC meanwhile."""
LIMITS = (0.05, 0.5, LONG_S)
SLOW_S = 5.0
"""Nothing takes so long in calm, whatever its limit."""
BUSY = 0.8
"""Where somebody waited for a processor for more than this part of the time, nothing is said of how long calls take."""
PAUSE_S = 0.001
FIRST_STS = 7
MAX_EVENTS = 50
EXPECTED = (
    "timed out waiting",
    "was cleared",
    "is not connected",
    *(message(each) for each in (ECA.DISCONN, ECA.CHANDESTROY, ECA.TIMEOUT)),
)
"""What errors may say while the IOC is away, or others clear channels."""
FAILED = object()


@dataclass
class Common:
    """What all threads share."""

    prefix: str
    weather: Weather
    problem: Callable[[str], None]
    puts: PutCallbacks
    ledgers: list[Ledger] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)


class Place:
    """A context, and the subscriptions in it."""

    def __init__(self, number: int):
        self.number = number
        self.watches: set[Watch] = set()
        self.lock = threading.Lock()


class Worker(threading.Thread):
    """A thread that uses one context.

    Parameters
    ----------
    place
        None: see `Visitor`.
    ledgers
        Of the records that only this one writes.
    """

    def __init__(
        self, name: str, common: Common, place: Place | None, ledgers: list[Ledger], doing: Doing, seed: object
    ):
        super().__init__(name=name, daemon=True)
        self.place = place
        self.ledgers = ledgers
        self.counts: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self.updates = 0
        self._common = common
        self._doing = doing
        self._chance = random.Random(f"{seed} {name}")
        self._chids: dict[str, Any] = {}
        self._events: list[tuple[Watch, Any]] = []
        self._preemptive = True
        things = (
            *((self.get, 30), (self.get_typed, 8), (self.get_later, 6), (self.get_fixed, 4)),
            *((self.put, 10), (self.put_waiting, 10), (self.put_called, 14), (self.group, 3)),
            *((self.subscribe, 6), (self.unsubscribe, 5), (self.create, 8), (self.clear, 6), (self.ask, 6)),
        )
        self._things, self._weights = zip(*things, strict=True)

    def run(self) -> None:
        assert self.place is not None
        try:
            ca.attach_context(self.place.number)
            while not self._common.ending.is_set():
                self.turn()
        except BaseException:
            self._common.problem(f"{self.name} ended: {traceback.format_exc()}")

    def turn(self) -> None:
        """Do something."""
        (thing,) = self._chance.choices(self._things, self._weights)
        thing()
        if not self._preemptive:
            self._do("poll", 0.1, lambda: ca.poll(1e-3))
        time.sleep(self._chance.uniform(0.0, 2 * PAUSE_S))

    def forget(self) -> None:
        """Let go of all channels and subscriptions, which were cleared by others."""
        self._chids.clear()
        self.updates += sum(watch.updates for watch, _ in self._events)
        self._events.clear()

    # --- one call -------------------------------------------------------------------------------

    def _do(self, what: str, limit: float, call: Callable[[], Any], *chids: Any) -> Any:
        """Make a call that waits at most so many seconds, for these channels; returns what it returned, or FAILED."""
        begin, busy = time.monotonic(), starved()
        why: object = "it did not happen in time"
        with self._doing.step(what, limit):
            try:
                result = call()
            except ChannelAccessException as error:
                result, why = FAILED, error
                if not any(words in str(error) for words in EXPECTED):
                    self._common.problem(f"{what} of {chids}: {error!r}")
            except Exception:
                result, why = FAILED, traceback.format_exc()
                self._common.problem(f"{what} of {chids}: {why}")
        took = time.monotonic() - begin
        self.counts[what] += 1
        self.longest[what] = max(self.longest.get(what, 0.0), took)
        if result is None or result is False:
            result = FAILED
        self.misses[what] += result is FAILED
        if (result is FAILED and limit >= LONG_S) or took > SLOW_S:
            was_calm = self._common.weather.was_calm(begin) and starved() - busy < BUSY * took
            if was_calm and not any(chid.is_cleared for chid in chids):
                how = f"failed: {why}" if result is FAILED else "took too long"
                self._common.problem(f"{self.name}: {what} of {chids}, {took:.2f} s in calm: {how}")
        return result

    def _limit(self) -> float:
        return self._chance.choice(LIMITS)

    def _channel(self, pvname: str) -> Any:
        chid = self._chids.get(pvname)
        if chid is None or chid.is_cleared:
            chid = self._chids[pvname] = self._do("create", 0.0, lambda: ca.create_channel(pvname))
        return chid

    def _ledger(self) -> Ledger:
        """Of a record to read: one of its own, or anybody's."""
        return self._chance.choice(self.ledgers if self._chance.random() < 0.6 else self._common.ledgers)

    # --- reading --------------------------------------------------------------------------------

    def _read(self, what: str, call: Callable[[Any, float], Any], ledger: Ledger, is_new: bool = True) -> None:
        limit, weather = self._limit(), self._common.weather
        chid = self._channel(ledger.pvname)
        epoch = weather.epoch
        least = ledger.least(epoch) if ledger in self.ledgers else 0
        before = ledger.before(epoch)
        value = self._do(what, limit, lambda: call(chid, limit), chid)
        if value is FAILED:
            return
        if epoch % 2 or weather.epoch != epoch or not is_new:
            least = before = 0
        ledger.check(value, least, before, f"{self.name}: {what}")

    def get(self) -> None:
        self._read("get", lambda chid, limit: ca.get(chid, timeout=limit), self._ledger())

    def get_typed(self) -> None:
        """With what comes beside the value."""
        use_time = self._chance.random() < 0.5

        def call(chid: Any, limit: float) -> Any:
            if not ca.connect_channel(chid, limit):
                return None
            ftype = ca.promote_type(chid, use_time=use_time, use_ctrl=not use_time)
            if ftype < 0 or ftype in (13, 27):  # the channel was lost right now
                return None
            found = ca.get_with_metadata(chid, ftype=ftype, timeout=limit)
            return None if found is None else found["value"]

        self._read("get_with_metadata", call, self._ledger())

    def get_later(self) -> None:
        """Asked for now, and taken later, or never."""
        if self._chance.random() < 0.2:
            chid, limit = self._channel(self._ledger().pvname), self._limit()
            self._do("get without waiting", limit, lambda: (ca.get(chid, wait=False, timeout=limit),), chid)
            return

        def call(chid: Any, limit: float) -> Any:
            if not ca.connect_channel(chid, limit):
                return None
            ftype = ca.field_type(chid) + FIRST_STS
            if ftype < FIRST_STS:  # the channel was lost right now
                return None
            ca.get(chid, ftype=ftype, wait=False, timeout=limit)
            return ca.get_complete(chid, ftype=ftype, timeout=limit)

        # What one thread has asked for another may take: so it is a type that nobody else asks for. It may still be
        # the value of an earlier get, which was not taken in time.
        self._read("get_complete", call, self._chance.choice(self.ledgers), is_new=False)

    def get_fixed(self) -> None:
        """A record that never changes."""
        name, limit = self._chance.choice(PLAIN), self._limit()
        chid = self._channel(self._common.prefix + name)
        value = self._do("get", limit, lambda: ca.get(chid, timeout=limit), chid)
        if value is not FAILED and not np.array_equal(value, FIXED_VALUES[name]):
            self._common.problem(f"{self.name}: get of {name} gave {value!r}")

    # --- writing --------------------------------------------------------------------------------

    def _written(self) -> tuple[Ledger, Any, int, Any]:
        ledger = self._chance.choice(self.ledgers)
        chid = self._channel(ledger.pvname)
        if self._chance.random() < 0.7:
            limit = self._limit()
            self._do("connect", limit, lambda: ca.connect_channel(chid, limit), chid)
        number = ledger.next()
        return ledger, chid, number, ledger.value(number)

    def put(self) -> None:
        """Nobody is told what comes of it."""
        ledger, chid, number, value = self._written()
        self._do("put", ca.DEFAULT_CONNECTION_TIMEOUT, lambda: ca.put(chid, value), chid)
        ledger.returned(number, self._common.weather.epoch)

    def put_waiting(self) -> None:
        ledger, chid, number, value = self._written()
        limit, weather = self._limit(), self._common.weather
        begun = weather.epoch

        def call() -> Any:
            return ca.put(chid, value, wait=True, timeout=limit) == 1 or None

        done = self._do("put and wait", limit, call, chid)
        if done is not FAILED:
            ledger.confirm(number, begun, weather.epoch)
        ledger.returned(number, weather.epoch)

    def put_called(self) -> None:
        """With a callback; often the channel is cleared before that is called."""
        ledger, chid, number, value = self._written()
        callback = self._common.puts.new(ledger, number, self.name)
        limit = ca.DEFAULT_CONNECTION_TIMEOUT
        result = self._do(
            "put with callback", limit, lambda: ca.put(chid, value, callback=callback, callback_data=callback), chid
        )
        if result is FAILED:
            self._common.puts.withdraw(callback)
        ledger.returned(number, self._common.weather.epoch)
        if self._chance.random() < 0.1:
            self._clear(ledger.pvname)

    def group(self) -> None:
        """Gets and a put that go out together."""
        limit = self._limit()
        chids = [self._channel(self._ledger().pvname) for _ in range(3)]
        ledger, chid, number, value = self._written()
        longest = limit + 4 * ca.DEFAULT_CONNECTION_TIMEOUT
        self._do("group", longest, lambda: _in_a_group(chids, chid, value, limit), chid, *chids)
        ledger.returned(number, self._common.weather.epoch)

    # --- subscriptions --------------------------------------------------------------------------

    def subscribe(self) -> None:
        ledger: Ledger | None = self._ledger()
        assert ledger is not None
        assert self.place is not None
        if len(self._events) > MAX_EVENTS:  # most of them went with their channels
            self.updates += sum(watch.updates for watch, _ in self._events if not watch.is_live)
            self._events = [each for each in self._events if each[0].is_live]
        pvname = ledger.pvname
        if self._chance.random() < 0.3:
            ledger, pvname = None, self._common.prefix + self._chance.choice((*SCANNED, *PLAIN))
        chid, limit, chance = self._channel(pvname), self._limit(), self._chance.random()
        watch = Watch(chid, ledger, self._common.problem, asks=self._preemptive and self._chance.random() < 0.1)
        with self.place.lock:
            self.place.watches.add(watch)
        made = self._do(
            "subscribe",
            limit,
            lambda: ca.create_subscription(
                chid, use_time=chance < 0.4, use_ctrl=chance > 0.9, callback=watch, timeout=limit
            ),
            chid,
        )
        if made is FAILED:
            watch.end()
            with self.place.lock:
                self.place.watches.discard(watch)
        else:
            # What is not kept lives on too.
            self._events.append((watch, made[2] if self._chance.random() < 0.8 else None))

    def unsubscribe(self) -> None:
        while self._events:
            place = self._chance.randrange(len(self._events))
            watch, event = self._events[place]
            if event is None and watch.is_live:
                return
            del self._events[place]
            self.updates += watch.updates
            if event is not None:
                self._do("unsubscribe", 0.0, partial(ca.clear_subscription, event))
                self._ended(watch)
                return

    def _ended(self, watch: Watch) -> None:
        assert self.place is not None
        watch.end()
        with self.place.lock:
            self.place.watches.discard(watch)

    # --- channels -------------------------------------------------------------------------------

    def create(self) -> None:
        """Also of what does not exist, and with a wait."""
        common, chance = self._common, self._chance
        names = [ledger.pvname for ledger in common.ledgers]
        names += [common.prefix + name for name in (*PLAIN, *SCANNED, *MISSING)]
        pvname, wait = chance.choice(names), chance.random() < 0.3

        def connected(pvname: str = "", chid: int = 0, conn: bool | None = None, wanted: str = pvname) -> None:
            self.counts["connection callback"] += 1
            if pvname != wanted or conn is None:
                common.problem(f"the connection callback of {wanted} got pvname={pvname!r}, conn={conn!r}")

        callback = connected if chance.random() < 0.3 else None
        limit = ca.DEFAULT_CONNECTION_TIMEOUT if wait else 0.0
        chid = self._do("create", limit, lambda: ca.create_channel(pvname, connect=wait, callback=callback))
        if chid is not FAILED:  # as it is if another thread clears it while this one waits
            self._chids[pvname] = chid

    def clear(self) -> None:
        if self._chids:
            self._clear(self._chance.choice(list(self._chids)))

    def _clear(self, pvname: str) -> None:
        assert self.place is not None
        chid = self._chids.pop(pvname, None)
        if chid is None:
            return
        self._do("clear", 0.0, lambda: ca.clear_channel(chid), chid)
        with self.place.lock:
            watches = [watch for watch in self.place.watches if watch.chid is chid]
        for watch in watches:
            self._ended(watch)

    def ask(self) -> None:
        """What needs no server, and what lets things happen."""
        assert self.place is not None
        chid = self._channel(self._ledger().pvname)
        functions = (ca.state, ca.isConnected, ca.element_count, ca.field_type, ca.access, ca.host_name, ca.name)
        function = self._chance.choice(functions)
        self._do("ask", 0.0, lambda: (function(chid),), chid)
        what = self._chance.randrange(5)
        if what == 0:
            self._do("ask", 1.0, lambda: ca.get_ctrlvars(chid, timeout=0.5), chid)
        elif what == 1:
            self._do("ask", 0.0, lambda: ca.show_cache(print_out=False))
        elif what == 2:
            self._do("poll", 1.0, lambda: ca.poll(1e-3, 0.1))
        elif what == 3:
            self._do("poll", 0.0, ca.flush_io)
        elif (number := ca.current_context()) != self.place.number:
            self._common.problem(f"{self.name} is in context {number}, and attached itself to {self.place.number}")


def _in_a_group(chids: list[Any], written: Any, value: Any, limit: float) -> bool:
    gid = ca.sg_create()
    try:
        found = [ca.sg_get(gid, chid) for chid in chids]
        ca.sg_put(gid, written, value)
        ca.sg_block(gid, limit)
        for chid, data in zip(chids, found, strict=True):
            ca._unpack(chid, data)
    finally:
        ca.sg_delete(gid)
    return True


class Visitor(Worker):
    """A thread that makes contexts of its own, with and without preemption, and destroys them amid everything."""

    def run(self) -> None:
        try:
            while not self._common.ending.is_set():
                self._visit()
        except BaseException:
            self._common.problem(f"{self.name} ended: {traceback.format_exc()}")

    def _visit(self) -> None:
        self._preemptive = self._chance.random() < 0.5
        self._do("create a context", 1.0, lambda: ca.context_create(int(self._preemptive)))
        number = ca.current_context()
        assert number is not None
        self.place = Place(number)
        end = time.monotonic() + self._chance.uniform(0.2, 5.0)
        while time.monotonic() < end and not self._common.ending.is_set():
            self.turn()
        self._do("destroy a context", 5.0, ca.context_destroy)
        for watch in list(self.place.watches):
            self._ended(watch)
        self.forget()
