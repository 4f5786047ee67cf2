"""The engine: names become channels on shards, batches land in one place, and requests get answers.

It works the same over a shard in this process and over worker processes; which it is, only `_links` knows.
Recording is in `daqca.recording`, what snapshots are in `daqca.snapshot`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daqca.ca.dbr import Mask
from daqca.ca.protocol import name_bytes
from daqca.ca.settings import Settings
from daqca.dispatcher import Dispatcher
from daqca.engine.deliver import Delivery, assign_shards
from daqca.engine.info import ChannelInfo, PutResult, channel_infos
from daqca.engine.local import LocalLink
from daqca.engine.monitors import Monitors
from daqca.engine.puts import put_many, put_one
from daqca.engine.sinks import Feed, Sink, Subscription
from daqca.engine.slotwise import Slotwise
from daqca.engine.snapshots import Partial, Taking
from daqca.engine.table import ChannelState, Table
from daqca.engine.waits import Progress
from daqca.errors import ConfigurationError, RecordingError
from daqca.events import Batch
from daqca.link import Link
from daqca.reading import Reading
from daqca.snapshot import Snapshot

if TYPE_CHECKING:
    from daqca.pv_proxy import PV
    from daqca.recording import Recording

Slots = npt.NDArray[np.uint32]
VALUE_AND_ALARM = Mask.VALUE | Mask.ALARM
MAX_WORKERS = 255
"""The number of a channel's worker is one byte."""


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
"""The open engines, only for the child of a fork, which must not use them."""


class Engine(Slotwise):
    """What a client program holds: channels of PVs, their last values, and what waits for them.

    Parameters
    ----------
    workers
        0: Channel Access is spoken in this process. N: by N worker processes, 255 at most, which spare this
        process the decoding.
    settings
        Where to search and how long to wait; by default from the ``EPICS_CA_*`` environment.

    Raises
    ------
    ConfigurationError
        The environment or the number of workers makes no sense.
    WorkerError
        A worker did not start.

    Notes
    -----
    Every method may be called from any thread, and from callbacks. Use it as a context manager, or
    call `close`.
    """

    def __init__(self, workers: int = 0, *, settings: Settings | None = None):
        if not isinstance(workers, int | np.integer) or not 0 <= workers <= MAX_WORKERS:
            raise ConfigurationError(
                f"workers={workers!r}: expected a number from 0 (none: in this process) to {MAX_WORKERS}"
            )
        self.workers = workers
        self.is_closed = False
        self._is_forked = False
        self.lock = threading.RLock()
        self._adding = threading.Lock()
        self._names: list[str] = []
        self._slots: dict[str, int] = {}
        self._shard_of: npt.NDArray[np.uint8] = np.zeros(64, np.uint8)
        self._local: Slots = np.zeros(64, np.uint32)
        self.table = Table()
        self._last_names: tuple[list[str], Slots] = ([], np.empty(0, np.uint32))
        self.dispatcher = Dispatcher()
        self._delivery = Delivery(self.lock, self.table)
        self._monitors = Monitors(self, self._delivery, self.dispatcher)
        self.watch: Any = None
        self._pool: Any = None
        links: list[Link]
        if workers:
            from daqca.workers import WorkerPool

            self._pool = WorkerPool(workers, self._delivery.deliver, settings)
            links = list(self._pool.links)
        else:
            links = [LocalLink(self._delivery.deliver, settings)]
        self._links = links
        self._shards = [self._delivery.add_link(link, identity=not workers) for link in links]
        _engines.add(self)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- names and channels ---------------------------------------------------------------------

    def slots(self, names: Iterable[str]) -> Slots:
        """The engine's slots of these names, shape (n,); new names are searched from now on.

        Raises
        ------
        EngineClosedError
            The engine is closed.
        TypeError
            `names` is one text.
        ConfigurationError
            A name that none can have.
        """
        names = listed(names)
        self.check_open()
        last_names, last_slots = self._last_names
        if len(names) == len(last_names) and names == last_names:
            return last_slots
        with self._adding:
            self.check_open()
            new = [name for name in dict.fromkeys(names) if name not in self._slots]
            if new:
                self._add(new)
        slots = np.fromiter(map(self._slots.__getitem__, names), np.uint32, len(names))
        if len(names) > 100:
            self._last_names = (list(names), slots)
        return slots

    def _add(self, names: list[str]) -> None:
        name_bytes(names)  # refused before any shard has taken a part of them
        first = len(self._names)
        end = first + len(names)
        slots = np.arange(first, end, dtype=np.uint32)
        shard_of = assign_shards(names, len(self._links))
        with self.lock:
            self.table.grow(end)
            if end > len(self._shard_of):
                self._shard_of = np.resize(self._shard_of, self.table.capacity)
                self._local = np.resize(self._local, self.table.capacity)
        # Whatever happens to the rest of this call, these slots are never given to other names.
        self._names.extend(names)
        for number, shard in enumerate(self._shards):
            mine = np.flatnonzero(shard_of == number)
            if len(mine):
                part = names if len(mine) == len(names) else [names[i] for i in mine.tolist()]
                self._local[slots[mine]] = shard.add(part, slots[mine])
        self._shard_of[slots] = shard_of
        self._slots.update(zip(names, slots.tolist(), strict=True))

    def connect(
        self, names: Iterable[str], timeout: float = 5.0, progress: Progress | None = None
    ) -> list[ChannelInfo]:
        """Connect channels, and wait until all are connected or the time is over.

        Parameters
        ----------
        names
            The PVs.
        timeout
            In seconds.
        progress
            Called now and then as ``progress(done, total)``, on the calling thread.

        Returns
        -------
        What is known of each channel; those not connected say why.
        """
        names = listed(names)
        self.wait_connected(self.slots(names), timeout, progress)
        return self.channels(names)

    def channels(self, names: Iterable[str]) -> list[ChannelInfo]:
        """What is known of these channels now, without waiting for any to connect."""
        names = listed(names)
        slots = self.slots(names)
        return channel_infos(names, slots, self.table, self.hosts(slots))

    def hosts(self, slots: Slots) -> list[str]:
        """``address:port`` of the server of each slot, ``""`` where it is on none, length n."""
        hosts = [""] * len(slots)
        for shard, positions, local in self._by_shard(slots):
            for position, host in zip(positions.tolist(), shard.link.hosts(local), strict=True):
                hosts[position] = host
        return hosts

    # --- reading --------------------------------------------------------------------------------

    def snapshot(
        self,
        names: Iterable[str],
        timeout: float = 5.0,
        form: str = "time",
        fresh: bool = True,
        progress: Progress | None = None,
        partial: Partial | None = None,
    ) -> Snapshot:
        """Read many PVs at once.

        Parameters
        ----------
        names
            The PVs; a name may occur more than once.
        timeout
            In seconds. A PV that does not exist delays no other, but the call waits for it until then.
        form
            ``"time"``: values, alarms and timestamps. ``"ctrl"``: also units, limits and enum states.
        fresh
            True: ask the servers. False: take PVs that are monitored from the table, and ask for the rest.
        progress
            Called now and then as ``progress(done, total)``, on the calling thread.
        partial
            Called with a snapshot of what there is so far whenever more came, on the calling thread.

        Returns
        -------
        Columns with an outcome for each PV.
        """
        if form not in ("time", "ctrl"):
            raise ValueError(f"form={form!r}: a snapshot is of form 'time' or 'ctrl'")
        return Taking(self, listed(names), form, fresh).run(timeout, progress, partial)

    def get(self, name: str, timeout: float = 5.0) -> Reading:
        """Read one PV from its server.

        Raises
        ------
        PVNotFoundError, PVDisconnectedError, PVTimeoutError
            No server has it; it was connected once; or its server does not answer in time.
        AccessRightsError, RefusedError
            The server does not let us read it, or answered with an error.
        """
        slot = self._slots.get(name)
        if slot is None:
            slot = int(self.slots([name])[0])
        return self._delivery.reading(name, slot, self.ask(slot, timeout))

    # --- writing --------------------------------------------------------------------------------

    def put(self, name: str, value: Any, wait: bool = True, timeout: float = 5.0) -> None:
        """Write one PV.

        Parameters
        ----------
        name, value
            The PV and what to write: a number, a text, a sequence or an array.
        wait
            Whether the server is to confirm that the record has processed the value.
        timeout
            In seconds, for connecting and for the confirmation.

        Raises
        ------
        ConversionError
            The value does not fit the PV; nothing was sent.
        ChannelError
            One of its other leaves: not found, disconnected, no answer in time, no access, refused.
        """
        slot = int(self.slots([name])[0])
        put_one(self, name, slot, value, wait, timeout)

    def put_many(
        self, names: Iterable[str], values: Sequence[Any] | npt.NDArray[Any], wait: bool = False, timeout: float = 5.0
    ) -> PutResult:
        """Write many PVs, together; one that cannot be written keeps no other from it.

        They are written in their order, except that those which connect later are written then, and that
        the PVs of different workers know no order.

        Parameters
        ----------
        names, values
            The PVs and as many values.
        wait
            Whether the servers are to confirm that the records have processed the values.
        timeout
            In seconds, for connecting and for the confirmations.

        Returns
        -------
        An outcome for each PV.
        """
        names = listed(names)
        if len(names) != len(values):
            raise ValueError(f"put_many got {len(names)} names, but {len(values)} values")
        return put_many(self, names, self.slots(names), values, wait, timeout)

    # --- watching -------------------------------------------------------------------------------

    def subscribe(
        self,
        names: Sequence[str],
        sink: Sink | Callable[[Batch], Any],
        mask: int = VALUE_AND_ALARM,
        metadata: bool = False,
    ) -> Subscription:
        """Monitor PVs.

        Parameters
        ----------
        names
            The PVs; repetitions are left out (see `Subscription.names`).
        sink
            A function, called with each batch on the dispatcher thread; or an object with a method
            ``deliver(batch)``, called on the thread that reads, which must not block (see `Sink`).
            The slots in its batches are indices into the subscription's names.
        mask
            What to be told of: `daqca.ca.dbr.Mask`.
        metadata
            Whether to be told of units, limits and the names of states too, now and whenever they change: PROPERTY
            events.
        """
        unique = names if isinstance(names, str) else list(dict.fromkeys(names))
        return self._monitors.subscribe(unique, self.slots(unique), sink, int(mask), metadata)

    def feed(self, sink: Sink) -> Feed:
        """A feed: channels that come and go, for a sink that knows them by the engine's slots (see `slots`)."""
        return Feed(sink, self._monitors)

    def record(
        self, path: str | os.PathLike[str], names: Sequence[str], *, connect_timeout: float = 5.0, **options: Any
    ) -> Recording:
        """Record PVs to an HDF5 file until the end of the ``with`` block.

        On leaving, what is queued is written and the counts are verified.

        Parameters
        ----------
        path, names, options
            See `daqca.recording.Recorder`.
        connect_timeout
            Seconds to wait until all channels are connected. What comes meanwhile is recorded, and so are those
            that connect later.

        Raises
        ------
        RecordingError
            The file exists or cannot be written; nothing is monitored then.
        EngineClosedError
            The engine was closed; the recording is stopped.
        """
        # The one import upwards: the method belongs here, what it does belongs there.
        from daqca.recording import Recorder, Recording

        def subscribe(unique: Sequence[str], recorder: Recorder) -> Subscription:
            return self.subscribe(unique, recorder, metadata=True)

        recording = Recording(subscribe, path, names, **options)
        try:
            self.wait_connected(self.slots(recording.names), connect_timeout)
        except BaseException:  # a Ctrl-C too: nobody else could stop it
            with contextlib.suppress(RecordingError):  # the file says what is wrong with it
                recording.stop()
            raise
        return recording

    # --- PV objects -----------------------------------------------------------------------------

    # What these make stands above the engine: imported when they are called.

    def pv(self, name: str, **options: Any) -> PV:
        """A PV object of this engine; for options see `daqca.PV`."""
        from daqca.pv_proxy import PV

        return PV(name, engine=self, **options)

    def pvs(self, names: Sequence[str], **options: Any) -> list[PV]:
        """PV objects of this engine, begun together."""
        from daqca.pv_proxy import PV

        if isinstance(names, str):
            raise TypeError(f"expected a list of names, got the text {names!r}; for one PV say pv({names!r})")
        return [PV(name, engine=self, **options) for name in names]

    def wait_for(self, condition: Callable[[], Any], timeout: float) -> Any:
        """Wait until ``condition()`` is true, looking whenever something is heard of a PV object of this engine.

        Parameters
        ----------
        condition
            A function without arguments, called on this thread: say ``lambda: pv.value > 3 and other.connected``.
        timeout
            In seconds.

        Returns
        -------
        What it returned last: something false, if the time is over.
        """
        from daqca.proxies.watch import watch_of

        return watch_of(self).wait_for(condition, timeout)

    # --- the engine itself ----------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counters since the start, plain numbers and texts, nested by part."""
        with self.lock:
            state = np.bincount(self.table.state[: len(self._names)], minlength=3).tolist()
            own = {
                "pvs": len(self._names),
                "connected": state[ChannelState.CONNECTED],
                "lost": state[ChannelState.LOST],
                "never_found": state[ChannelState.NEVER],
                "events": self._delivery.events,
                "batches": self._delivery.batches,
                "events_lost": self._delivery.lost,
                "puts_refused": self._delivery.puts_refused,
                "sink_errors": self._delivery.sink_errors,
                "callback_errors": self.dispatcher.errors,
                "callback_events_waiting": self.dispatcher.waiting,
                "callback_events_dropped": self.dispatcher.dropped,
            }
        return {**own, "shards": [link.stats() for link in self._links]}

    def close(self) -> None:
        """Close every channel and end the threads and workers. Callbacks that wait are run first."""
        with self._adding:
            if self.is_closed:
                return
            self.is_closed = True
        _engines.discard(self)
        if self.watch is not None:
            self.watch.close()
        for link in self._links:
            link.close()
        if self._pool is not None:
            self._pool.close()
        self._disconnect_all()
        self._delivery.close()
        with self.lock:
            self.table.disconnect()
        self.dispatcher.close()

    def _disconnect_all(self) -> None:
        with self.lock:
            self.table.disconnect()

    def _forked(self) -> None:
        """In the child of a fork: closed, with locks that no thread of the parent holds."""
        self.is_closed = self._is_forked = True
        self.lock = self._delivery.renew_lock()
        self._adding = threading.Lock()
        self._disconnect_all()
        self._monitors.forked()
        self.dispatcher.forked()
        if self.watch is not None:
            self.watch.forked()


def listed(names: Iterable[str]) -> list[str]:
    """Names as a list, to go through more than once; TypeError for one text."""
    if isinstance(names, str):
        raise TypeError(f"expected a list of names, got the text {names!r}; for one PV say [{names!r}]")
    return names if isinstance(names, list) else list(names)


def close_all() -> None:
    """Close every engine of this process, which ends, and ends without exit handlers."""
    for engine in list(_engines):
        engine.close()


def _forget_engines() -> None:
    for engine in list(_engines):
        engine._forked()
    _engines.clear()


os.register_at_fork(after_in_child=_forget_engines)
