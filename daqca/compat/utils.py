"""``epics.utils``: text and bytes. ``IOENCODING`` is ``ca.IOENCODING``, and may be assigned to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import daqca.ca as ca


def str2bytes(st1: str | bytes) -> bytes:
    """A text in the encoding `IOENCODING`; bytes as they are."""
    return st1 if isinstance(st1, bytes) else str(st1).encode(ca.IOENCODING)


def bytes2str(st1: Any) -> str:
    """The text in bytes, in the encoding `IOENCODING`, or else Latin-1; the text of anything else."""
    if not isinstance(st1, bytes):
        return str(st1)
    try:
        return st1.decode(ca.IOENCODING)
    except UnicodeDecodeError:
        return st1.decode("latin-1")


def strjoin(sep: str | bytes, seq: Sequence[Any]) -> str:
    """Join texts; of bytes those before the first that is a zero."""
    if len(seq) and isinstance(seq[0], bytes):
        items = list(seq)
        seq = items[: items.index(b"\0")] if b"\0" in items else items
    return bytes2str(sep).join(bytes2str(item) for item in seq)


class _Utils(ModuleType):
    @property
    def IOENCODING(self) -> str:
        """The encoding of text that is written and read."""
        return ca.IOENCODING

    @IOENCODING.setter
    def IOENCODING(self, encoding: str) -> None:
        ca.IOENCODING = encoding


sys.modules[__name__].__class__ = _Utils
