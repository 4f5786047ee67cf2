"""Synchronous groups: gets and puts that go out together and are waited for together. Manual, chapter 4.3.3."""

from __future__ import annotations

import itertools
from typing import Any

import daqca.ca as surface
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.channels import Chid
from daqca.ca.lowlevel.checks import PySEVCHK
from daqca.ca.lowlevel.getting import answered
from daqca.ca.lowlevel.operations import Get, Put
from daqca.ca.lowlevel.putting import encode, ready
from daqca.ca.lowlevel.raw import Raw
from daqca.ca.lowlevel.session import session
from daqca.dbr import ulong_t
from daqca.errors import ChannelAccessException

_numbers = itertools.count(1)


class Group(ulong_t):
    """A synchronous group: the ``gid`` that the functions take.

    Attributes
    ----------
    waiting
        What was added and has not gone out.
    under_way
        What has gone out and was not answered when it was looked at last.
    """

    def __init__(self) -> None:
        ulong_t.__init__(self, next(_numbers))
        self.waiting: list[Data | _Write] = []
        self.under_way: list[Get | Put] = []

    __hash__ = object.__hash__

    def send(self) -> None:
        """Send what waits."""
        waiting, self.waiting = self.waiting, []
        self.under_way += [request.send() for request in waiting]

    def test(self) -> bool:
        """Whether all was sent and answered."""
        self.under_way = [operation for operation in self.under_way if not operation.done]
        return not self.waiting and not self.under_way


class Data:
    """The result of `sg_get`, for `_unpack`, once the group has been blocked on."""

    def __init__(self, channel: Channel, ftype: int, as_numpy: bool, as_string: bool):
        self.channel = channel
        self.ftype = ftype
        self.as_numpy = as_numpy
        self.as_string = as_string
        self.operation: Get | None = None

    def send(self) -> Get:
        """Ask for it."""
        self.operation = Get(self.channel, self.ftype)
        self.channel.client.read(self.operation, 0, None)
        return self.operation

    @property
    def raw(self) -> Raw | None:
        """What came; None if nothing has."""
        return answered(self.operation) if self.operation is not None and self.operation.done else None

    def __repr__(self) -> str:
        state = "here" if self.raw is not None else "to come: sg_block waits for it"
        return f"<data of {self.channel.pvname!r}, {state}>"


class _Write:
    """A put that waits in its group."""

    def __init__(self, channel: Channel, encoded: tuple[int, int, bytes]):
        self.channel = channel
        self.encoded = encoded

    def send(self) -> Put:
        operation = Put(self.channel)
        self.channel.client.write(self.channel, self.encoded, operation, None)
        return operation


_groups: dict[int, Group] = {}


def _group(gid: Any) -> Group:
    found = gid if isinstance(gid, Group) else _groups.get(gid if isinstance(gid, int) else getattr(gid, "value", -1))
    if found is None or found.value not in _groups:
        raise ChannelAccessException(f"{gid!r} is no synchronous group, or one that was deleted")
    return found


def send_all() -> None:
    """Send what waits in all groups: `pend_io` does that, as the manual warns."""
    for group in list(_groups.values()):
        group.send()


def sg_create() -> Group:
    """A new synchronous group."""
    session.needed()
    group = Group()
    _groups[group.value] = group
    return group


def sg_delete(gid: Group) -> int:
    """Delete a group; what waits in it does not go out. Returns ECA_NORMAL."""
    del _groups[_group(gid).value]
    return int(ECA.NORMAL)


def sg_block(gid: Group, timeout: float = 10.0) -> int:
    """Send what a group waits with, and wait until all is answered; returns ECA_NORMAL.

    Raises
    ------
    CASeverityException
        It was not in `timeout` seconds.
    """
    import time

    group = _group(gid)
    group.send()
    deadline = time.monotonic() + timeout
    client = session.needed()
    client.context.flush()
    for operation in group.under_way:
        operation.channel.client.context.flush()
        operation.channel.client.wait(operation, max(deadline - time.monotonic(), 0.0))
    return PySEVCHK("sg_block", ECA.NORMAL if group.test() else ECA.TIMEOUT)


def sg_get(gid: Group, chid: Chid, ftype: int | None = None, as_numpy: bool = True, as_string: bool = False) -> Data:
    """Add a get to a group; options as in `get`.

    Returns
    -------
    What `_unpack` makes the value of, after `sg_block`.
    """
    group = _group(gid)
    channel = session.channel(chid, "sg_get")
    if not channel.client.connect(channel, surface.DEFAULT_CONNECTION_TIMEOUT):
        raise ChannelAccessException(f"sg_get() timed out waiting for {channel.pvname!r} to connect")
    data = Data(channel, channel.native_type if ftype is None else int(ftype), as_numpy, as_string)
    group.waiting.append(data)
    return data


def sg_put(gid: Group, chid: Chid, value: Any) -> int:
    """Add a put to a group, which waits for its completion when it is blocked on; returns ECA_NORMAL.

    Raises
    ------
    ChannelAccessException, ConversionError
        As `put`; nothing is added then.
    """
    group = _group(gid)
    channel = session.channel(chid, "sg_put")
    ready(channel, "sg_put")
    group.waiting.append(_Write(channel, encode(channel, value)))
    return int(ECA.NORMAL)


def sg_test(gid: Group) -> int:
    """ECA_IODONE if all of a group is answered.

    Raises
    ------
    CASeverityException
        It is not: ECA_IOINPROGRESS.
    """
    return PySEVCHK("sg_test", ECA.IODONE if _group(gid).test() else ECA.IOINPROGRESS, ECA.IODONE)


def sg_reset(gid: Group) -> int:
    """Forget what a group waits with and waits for; returns ECA_NORMAL."""
    group = _group(gid)
    group.waiting, group.under_way = [], []
    return int(ECA.NORMAL)
