"""The requests that a client makes of its worker: their codes, their arguments, and what makes one malformed.

A request carries the client's own slots, which count from 0 in the order in which it added its channels. So a
channel can be read before the worker has said where it keeps it.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from daqca.broker.messages import Buffer, Request
from daqca.errors import TransportError


class Code(IntEnum):
    """What is asked; see `daqca.broker.messages.right_for` for who may."""

    HELLO = 0
    """(): who makes it becomes a client, and is told so with WELCOME."""
    ADD = 1
    """(first slot, [names]): add channels, numbered from `first slot` on. Answered with CHANNELS."""
    READ = 2
    """(token, DBR type, count) + slots: read, the answers having consecutive tokens."""
    READ_ONE = 3
    """(token, slot)"""
    CANCEL = 4
    """(token): give up the request that begins with this token."""
    SUBSCRIBE = 5
    """(mask) + slots"""
    UNSUBSCRIBE = 6
    """(mask) + slots"""
    HOSTS = 7
    """(question) + slots: which server each is on. Answered with ANSWER."""
    STATS = 8
    """(question). Answered with ANSWER."""
    RESYNC = 9
    """(question, whole): tell what has changed since nobody knows when. Answered with STATE if `whole`; then the
    monitored values come as updates."""
    BYE = 10
    """(): the client goes."""
    WRITE_ONE = 64
    """(token or 0, slot, DBR type, count) + payload"""
    WRITE_DOUBLES = 65
    """(token or 0) + slots + values"""
    QUIT = 128
    """(): the worker is to end."""


_INTEGERS = {
    Code.HELLO: 0,
    Code.READ: 3,
    Code.READ_ONE: 2,
    Code.CANCEL: 1,
    Code.SUBSCRIBE: 1,
    Code.UNSUBSCRIBE: 1,
    Code.HOSTS: 1,
    Code.STATS: 1,
    Code.RESYNC: 2,
    Code.BYE: 0,
    Code.WRITE_ONE: 4,
    Code.WRITE_DOUBLES: 1,
    Code.QUIT: 0,
}
_FRAMES = {
    Code.READ: 1,
    Code.SUBSCRIBE: 1,
    Code.UNSUBSCRIBE: 1,
    Code.HOSTS: 1,
    Code.WRITE_ONE: 1,
    Code.WRITE_DOUBLES: 2,
}


def check(request: Request) -> Code:
    """Look whether a request has what its code asks for.

    Raises
    ------
    TransportError
        It has not.
    """
    try:
        code = Code(request.code)
    except ValueError:
        raise TransportError(f"no request has the code {request.code}; it is dropped") from None
    arguments = request.arguments
    if code == Code.ADD:
        fits = (
            len(arguments) == 2
            and _is_u4(arguments[0])
            and isinstance(arguments[1], list)
            and all(type(name) is str for name in arguments[1])
        )
    else:
        fits = len(arguments) == _INTEGERS[code] and all(map(_is_u4, arguments))
    if not fits or len(request.frames) != _FRAMES.get(code, 0):
        raise TransportError(f"a request {code.name} has not the arguments of one; it is dropped")
    return code


def _is_u4(value: object) -> bool:
    return type(value) is int and 0 <= value <= 0xFFFFFFFF


def slots_of(frame: Buffer, end: int) -> npt.NDArray[np.uint32]:
    """The slots in a frame, all of them less than `end`.

    Raises
    ------
    TransportError
        There are others.
    """
    if len(frame) % 4:
        raise TransportError(f"a frame of {len(frame)} bytes holds no slots; the request is dropped")
    slots = np.frombuffer(frame, np.uint32)
    if len(slots) and int(slots.max()) >= end:
        raise TransportError(f"a request names slot {int(slots.max())}, and there are {end}; it is dropped")
    return slots


def doubles_of(frame: Buffer, n: int) -> npt.NDArray[np.float64]:
    """The `n` numbers in a frame.

    Raises
    ------
    TransportError
        There are more or fewer.
    """
    if len(frame) != 8 * n:
        raise TransportError(f"a frame of {len(frame)} bytes does not hold {n} numbers; the request is dropped")
    return np.frombuffer(frame, np.float64)
