"""What the engine answers besides snapshots: channels, and the results of puts. Plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daqca.engine.table import Table
from daqca.events import Access
from daqca.outcome import Outcome
from daqca.reading import UNKNOWN_TYPE, type_name


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """One channel as it is known now.

    ``outcome``: OK if connected, else why not. ``native_type``: DBR type 0 to 6, None if it never
    connected. ``native_count``: the most elements it can have. ``host``: ``address:port`` of its server.
    """

    name: str
    outcome: Outcome
    native_type: int | None
    native_count: int
    access: Access
    host: str

    @property
    def type_name(self) -> str:
        """The native type in EPICS' words."""
        return type_name(self.native_type)

    @property
    def connected(self) -> bool:
        """Whether the channel is connected."""
        return self.outcome is Outcome.OK


_OUTCOMES = (Outcome.NEVER_FOUND, Outcome.OK, Outcome.DISCONNECTED)
"""Of the states of a channel."""


def channel_infos(
    names: Sequence[str], slots: npt.NDArray[np.uint32], table: Table, hosts: Sequence[str]
) -> list[ChannelInfo]:
    """What the table knows of these channels."""
    return [
        ChannelInfo(name, _OUTCOMES[state], None if native == UNKNOWN_TYPE else native, count, Access(access), host)
        for name, state, native, count, access, host in zip(
            names,
            table.state[slots].tolist(),
            table.native_type[slots].tolist(),
            table.native_count[slots].tolist(),
            table.access[slots].tolist(),
            hosts,
            strict=True,
        )
    ]


class PutResult:
    """What became of many puts: parallel columns, shape (n,).

    Parameters
    ----------
    names
        The PVs.
    outcome
        u1, an `Outcome` each: OK (confirmed), SENT (not asked to be confirmed), or why not.
    eca
        u1, the ECA message number where the server refused, else 0.
    errors
        By name: what was wrong with values that were not sent.
    """

    __slots__ = ("eca", "errors", "names", "outcome")

    def __init__(
        self, names: Sequence[str], outcome: npt.NDArray[np.uint8], eca: npt.NDArray[np.uint8], errors: dict[str, str]
    ):
        self.names = list(names)
        self.outcome = outcome
        self.eca = eca
        self.errors = errors

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ok(self) -> bool:
        """Whether every put was confirmed, or sent if that was all that was asked."""
        return bool(((self.outcome == Outcome.OK) | (self.outcome == Outcome.SENT)).all())

    @property
    def failed(self) -> dict[str, Outcome]:
        """The PVs that were not put, and why."""
        bad = np.flatnonzero((self.outcome != Outcome.OK) & (self.outcome != Outcome.SENT))
        return {self.names[i]: Outcome(int(self.outcome[i])) for i in bad.tolist()}

    def __repr__(self) -> str:
        failed = len(self.failed)
        return f"<PutResult of {len(self):,} PVs: {'all well' if not failed else f'{failed:,} failed'}>"
