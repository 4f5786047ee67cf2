"""Synchronous groups: gets and puts that go out together and are waited for together. Manual, chapter 4.3.3."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import daqca.ca as surface
from daqca.ca.eca import ECA, message
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.channels import Chid
from daqca.ca.lowlevel.checks import PySEVCHK
from daqca.ca.lowlevel.client import Client
from daqca.ca.lowlevel.getting import answered, type_of
from daqca.ca.lowlevel.operations import Get, Put
from daqca.ca.lowlevel.putting import encode, ready
from daqca.ca.lowlevel.raw import Raw
from daqca.ca.lowlevel.session import session
from daqca.dbr import CLASS_NAME, ulong_t
from daqca.errors import CASeverityException, ChannelAccessException

_numbers = itertools.count(1)
_MANY = 10


class Group(ulong_t):
    """A synchronous group: the ``gid`` that the functions take.

    Attributes
    ----------
    client
        The context it was created in, and ends with.
    waiting
        What was added and has not gone out.
    under_way
        What has gone out and was not answered when it was looked at last.
    """

    def __init__(self, client: Client) -> None:
        ulong_t.__init__(self, next(_numbers))
        self.client = client
        self.waiting: list[Data | _Write] = []
        self.under_way: list[Get | Put] = []
        self._sending = threading.Lock()

    __hash__ = object.__hash__

    def send(self) -> None:
        """Send what waits."""
        with self._sending:
            waiting, self.waiting = self.waiting, []
            self.under_way += [operation for request in waiting if (operation := request.send()) is not None]
        for client in {operation.channel.client for operation in self.under_way}:
            if not client.is_closed:
                client.context.flush()

    def test(self) -> bool:
        """Whether all was sent and answered."""
        self.under_way = [operation for operation in self.under_way if not operation.done]
        return not self.waiting and not self.under_way

    def forget(self) -> None:
        """Nothing waits any more, and nobody waits for what is under way."""
        under_way, self.waiting, self.under_way = self.under_way, [], []
        for operation in under_way:
            client = operation.channel.client
            with client.lock:
                if not operation.done:
                    client.operations.discard(operation)
                    client.context.cancel(operation.first)
                    operation.fail(0)

    def __repr__(self) -> str:
        return f"<Group {self.value}: {len(self.waiting)} to be sent, {len(self.under_way)} under way>"


class Data:
    """The result of `sg_get`, for `_unpack`, once the group has been blocked on.

    Attributes
    ----------
    most
        How many elements the channel can have.
    operation
        The get, once it has gone out.
    """

    def __init__(self, channel: Channel, ftype: int, as_numpy: bool, as_string: bool):
        self.channel = channel
        self.ftype = ftype
        self.as_numpy = as_numpy
        self.as_string = as_string
        self.most = channel.last_count
        self.operation: Get | None = None

    def send(self) -> Get | None:
        """Ask for it; None if there is no channel any more."""
        channel = self.channel
        count = 1 if self.ftype == CLASS_NAME else 0
        with channel.lock:
            if channel.is_cleared:
                return None
            self.operation = operation = Get(channel, self.ftype, count)
            channel.client.read(operation, count, None)
        return operation

    @property
    def raw(self) -> Raw | None:
        """What came; None if nothing has.

        Raises
        ------
        ChannelAccessGetFailure
            The server answered with an error.
        """
        return answered(self.operation) if self.operation is not None and self.operation.done else None

    def __repr__(self) -> str:
        done = self.operation is not None and self.operation.done
        return f"<data of {self.channel.pvname!r}, {'here' if done else 'to come: sg_block waits for it'}>"


class _Write:
    """A put that waits in its group."""

    def __init__(self, channel: Channel, encoded: tuple[int, int, bytes]):
        self.channel = channel
        self.encoded = encoded

    def send(self) -> Put | None:
        channel = self.channel
        with channel.lock:
            if channel.is_cleared:
                self._ended(ECA.CHANDESTROY)
                return None
            operation = Put(channel, self._ended)
            channel.client.write(channel, self.encoded, operation, None)
        return operation

    def _ended(self, status: int) -> None:
        if status == ECA.NORMAL or not status:
            return
        client, channel = self.channel.client, self.channel
        text = f"sg_put {channel.pvname}: {message(status)}"
        client.dispatcher.call(lambda: client.tell_exception("sg_put", status, channel, text))


_groups: dict[int, Group] = {}


def _group(gid: Any, function: str) -> Group:
    found = gid if isinstance(gid, Group) else _groups.get(gid if isinstance(gid, int) else getattr(gid, "value", -1))
    if found is None or found.value not in _groups or found.client.is_closed:
        raise CASeverityException(function, f"{message(ECA.BADSYNCGRP)}: {gid!r}, if it was one, was deleted")
    return found


def send_all() -> None:
    """Send what waits in all groups: `pend_io` does that, as the manual warns."""
    for group in list(_groups.values()):
        if not group.client.is_closed:
            group.send()


def sg_create() -> Group:
    """A new synchronous group, of the current context. It may have channels of others too."""
    client = session.needed()
    for old in [group for group in list(_groups.values()) if group.client.is_closed]:
        _groups.pop(old.value, None)
    group = Group(client)
    _groups[group.value] = group
    return group


def sg_delete(gid: Group | int) -> int:
    """Delete a group; what waits in it does not go out. Returns ECA_NORMAL."""
    group = _group(gid, "sg_delete")
    group.forget()
    del _groups[group.value]
    return int(ECA.NORMAL)


def sg_block(gid: Group | int, timeout: float = 10.0) -> int:
    """Send what a group waits with, and wait until all is answered; returns ECA_NORMAL.

    What is not answered in time is given up: the group can be used for something new (in C: ca_sg_block). A put that
    the server refuses, or that is lost with its channel, is told by an exception event (see `add_exception_event`); a
    get that is refused, by `_unpack`.

    Raises
    ------
    CASeverityException
        It was not all answered in `timeout` seconds; the message names the PVs.
    """
    group = _group(gid, "sg_block")
    deadline = time.monotonic() + timeout
    group.send()
    for operation in group.under_way:
        operation.channel.client.wait(operation, max(deadline - time.monotonic(), 0.0))
    if group.test():
        return int(ECA.NORMAL)
    names = list(dict.fromkeys(operation.channel.pvname for operation in group.under_way))
    group.forget()
    missing = ", ".join(names[:_MANY]) + (f" and {len(names) - _MANY} more" if len(names) > _MANY else "")
    raise CASeverityException("sg_block", f"{message(ECA.TIMEOUT)}: no answer from {missing} in {timeout:g} s")


def sg_get(
    gid: Group | int, chid: Chid, ftype: int | None = None, as_numpy: bool = True, as_string: bool = False
) -> Data:
    """Add a get to a group; options as in `get`.

    Returns
    -------
    What `_unpack` makes the value of, after `sg_block`.

    Raises
    ------
    ChannelAccessException
        The channel does not connect in time, or there is no such type; nothing is added then.
    """
    group = _group(gid, "sg_get")
    channel = session.channel(chid, "sg_get")
    if not channel.client.connect(channel, surface.DEFAULT_CONNECTION_TIMEOUT):
        raise ChannelAccessException(
            f"sg_get() timed out waiting for {channel.pvname!r} to connect "
            f"({surface.DEFAULT_CONNECTION_TIMEOUT:g} seconds)"
        )
    wanted = type_of(channel, "sg_get") if ftype is None else ftype
    if not isinstance(wanted, int) or not 0 <= wanted <= CLASS_NAME:
        raise CASeverityException("sg_get", f"{message(ECA.BADTYPE)}: {wanted!r} for {channel.pvname}")
    data = Data(channel, wanted, as_numpy, as_string)
    group.waiting.append(data)
    return data


def sg_put(gid: Group | int, chid: Chid, value: Any) -> int:
    """Add a put to a group, which waits for its completion when it is blocked on; returns ECA_NORMAL.

    Raises
    ------
    ChannelAccessException, ConversionError
        As `put`; nothing is added then.
    """
    group = _group(gid, "sg_put")
    channel = session.channel(chid, "sg_put")
    ready(channel, "sg_put", value)
    group.waiting.append(_Write(channel, encode(channel, value)))
    return int(ECA.NORMAL)


def sg_test(gid: Group | int) -> int:
    """ECA_IODONE if all of a group is answered.

    Raises
    ------
    CASeverityException
        It is not: ECA_IOINPROGRESS.
    """
    return PySEVCHK("sg_test", ECA.IODONE if _group(gid, "sg_test").test() else ECA.IOINPROGRESS, ECA.IODONE)


def sg_reset(gid: Group | int) -> int:
    """Forget what a group waits with and waits for; returns ECA_NORMAL."""
    _group(gid, "sg_reset").forget()
    return int(ECA.NORMAL)
