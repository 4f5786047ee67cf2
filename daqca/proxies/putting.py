"""How a PV is written: with or without waiting, and who is told when it is done. Manual, chapter 3.6."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import daqca.ca as ca
from daqca.ca import eca
from daqca.ca.conversion import Encoded, encode_value
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.putting import WriteDeniedError, arguments, encode_states
from daqca.events import Access, Kind
from daqca.operations import One
from daqca.proxies.channel import ChannelProxy

log = logging.getLogger("daqca.pv")

_WRITTEN, _FAILED = int(Kind.WRITTEN), int(Kind.FAILED)
_STRING, _ENUM = 0, 3
_NO_WRITE_ACCESS, _DISCONNECTED = eca.message_number(ECA.NOWTACCESS), eca.message_number(ECA.DISCONN)
TIMED_OUT = -1
DEFAULT_TIMEOUT = 30.0


class WritableProxy(ChannelProxy):
    """See `daqca.pv_proxy.PV`."""

    __slots__ = ("_last_put",)

    _last_put: _Put | None
    """The last put whose end somebody wants to know, if none came after it."""

    def put(
        self,
        value: Any,
        wait: bool = False,
        timeout: float | None = DEFAULT_TIMEOUT,
        use_complete: bool = False,
        callback: Callable[..., Any] | None = None,
        callback_data: Any = None,
    ) -> int | None:
        """Write a value.

        Parameters
        ----------
        value
            A number, a text, bytes, or a sequence or array of them; of an enum also the name of a state.
        wait
            Whether to wait until the record has processed it, at most `timeout` seconds (None: 30).
        use_complete
            Whether `put_complete` tells when it has.
        callback
            Called then, exactly once, with ``pvname`` and what `callback_data` has: see `daqca.ca.put`.

        Returns
        -------
        1 if it was sent, or (with `wait`) processed; -1 if it was not processed in time; None if the PV is not
        connected.

        Raises
        ------
        ChannelAccessException
            The PV may not be written, the server refuses (known only with `wait`), or the value does not fit: then a
            `ConversionError`, and nothing was sent.
        """
        if callback is not None and not callable(callback):
            raise TypeError(f"put to {self.pvname} takes a function as callback, and got {callback!r}")
        if not self.wait_for_connection():
            self._say("put")
            return None
        slot = self._slot
        self.check_writable()
        encoded = self._encode(value)
        self._last_put = None
        if not wait and not use_complete and callback is None:
            self.engine.write(slot, encoded, None)
            return int(ECA.NORMAL)
        operation = _Put(self, callback, callback_data, is_here=wait, is_shown=use_complete)
        if use_complete or callback is not None:
            self._last_put = operation
        limit = DEFAULT_TIMEOUT if timeout is None else timeout
        try:
            self.engine.write(slot, encoded, operation, limit if wait else 0.0)
        except BaseException:  # a Ctrl-C: who gave a callback is told all the same, and nobody else waits
            operation.abandon()
            raise
        if not wait:
            return int(ECA.NORMAL)
        operation.leave()
        row = operation.row
        if row is None:
            if not use_complete and callback is None:
                self.engine.give_up(slot, operation)
            return TIMED_OUT
        if row[1] != _WRITTEN:
            raise self.engine.error(self.pvname, slot, "put", row)
        return int(ECA.NORMAL)

    def check_writable(self) -> None:
        """Raise a `WriteDeniedError` if it may not be written."""
        slot = self._slot
        if not self._table.access.item(slot) & Access.WRITE:
            error = self.engine.error(self.pvname, slot, "put", (slot, _FAILED, 0, _NO_WRITE_ACCESS))
            raise WriteDeniedError(str(error), pvname=self.pvname, fcn="put")

    def was_written(self, operation: One) -> bool:
        """Whether the server has confirmed a put; what monitors told before counts no more then."""
        written = operation.row is not None and operation.row[1] == _WRITTEN
        if written:
            self.engine.confirmed(self._slot)
        return written

    def _encode(self, value: Any) -> Encoded:
        native, most = self._table.native_type.item(self._slot), self._table.native_count.item(self._slot)
        encoded = encode_value(value, native, most, self.pvname, ca.IOENCODING)
        if native == _ENUM and encoded[0] == _STRING:
            states = self._metadata().get("enum_strs")
            return encode_states(value, encoded, most, self.pvname, states, self._ask_states)
        return encoded

    def _ask_states(self) -> tuple[str, ...] | None:
        found = self.get_ctrlvars(warn=False)
        return None if found is None else found.get("enum_strs", ())

    @property
    def put_complete(self) -> bool | None:
        """Whether the last put has ended; None if it did not have `use_complete`, or there was none."""
        put: _Put | None = getattr(self, "_last_put", None)
        return None if put is None else put.is_told or (False if put.is_shown else None)


class _Put(One):
    """A put whose end somebody wants to know, and the call of its callback, once.

    Parameters
    ----------
    is_here
        Whether a thread waits in `put` that will make the call itself.
    is_shown
        Whether ``put_complete`` says from the beginning that it has not ended.
    """

    __slots__ = ("callback", "data", "is_here", "is_shown", "is_told", "pv")

    def __init__(
        self, pv: WritableProxy, callback: Callable[..., Any] | None, data: Any, is_here: bool, is_shown: bool
    ):
        super().__init__()
        self.pv = pv
        self.callback = callback
        self.data = data
        self.is_here = is_here
        self.is_shown = is_shown
        self.is_told = False

    def complete(self) -> None:
        """See `Waiter.complete`."""
        with self.pv.engine.lock:  # so that it is either here or in `leave` that the end is seen
            if self.done:
                return
            self.pv.was_written(self)
            super().complete()
            if not self.is_here:
                self.pv._watch.callbacks.call(self._tell)

    def leave(self) -> None:
        """The thread in `put` makes the call now, or leaves it to the thread of the callbacks."""
        with self.pv.engine.lock:
            self.is_here = False
            done = self.done
        if done:
            self._call()

    def abandon(self) -> None:
        """The thread in `put` was interrupted, and leaves the call to that of the callbacks."""
        with self.pv.engine.lock:
            was_here, self.is_here = self.is_here, False
            done = self.done
        if self.callback is None and not self.is_shown:
            self.pv.engine.give_up(self.pv._slot, self)
        elif was_here and done:
            self.pv._watch.callbacks.call(self._tell)

    @property
    def status(self) -> int:
        """How it ended."""
        row = self.row
        if row is not None and row[1] == _WRITTEN:
            return ECA.NORMAL
        return ECA.DISCONN if row is None else eca.from_number(row[3])

    def _tell(self) -> None:
        """The call, after which nobody raises an error."""
        pv, row = self.pv, self.row
        if self.status != ECA.NORMAL:
            log.warning("%s", pv.engine.error(pv.pvname, pv._slot, "put", row or _lost(pv._slot)))
        self._call()

    def _call(self) -> None:
        pv = self.pv
        self.is_told = True
        if self.callback is not None:
            given = arguments(self.callback, self.data, int(self.status))
            pv._watch.guard(pv, self.callback, pvname=pv.pvname, **given)


def _lost(slot: int) -> tuple[int, ...]:
    return (slot, _FAILED, 0, _DISCONNECTED)
