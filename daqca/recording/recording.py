"""A recording under way: a recorder and the subscription that feeds it, stopped in the right order.

Knows no engine: it is handed the function that subscribes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

from daqca.errors import RecordingError
from daqca.recording.recorder import Progress, Recorder
from daqca.recording.stats import PVCounts, RecordingStats


class Subscription(Protocol):
    """What a recording needs of a subscription."""

    @property
    def names(self) -> Sequence[str]:
        """The PVs, each once; the slots of the batches are indices into it."""

    def close(self) -> None:
        """Deliver nothing more."""


Subscribe = Callable[[Sequence[str], Recorder], Subscription]


class Recording:
    """What ``engine.record`` returns: updates go to the file until `stop`, or the end of the ``with`` block.

    Parameters
    ----------
    subscribe
        Called with the names and the recorder; returns the subscription.
    path, names, options
        As `Recorder` wants them.

    Raises
    ------
    RecordingError
        The file cannot be made. Nothing was subscribed then.
    """

    def __init__(self, subscribe: Subscribe, path: str | os.PathLike[str], names: Sequence[str], **options: Any):
        self.recorder = Recorder(path, names, **options).start()
        try:
            self._subscription = subscribe(self.recorder.names, self.recorder)
            if list(self._subscription.names) != self.recorder.names:
                self._subscription.close()
                raise RecordingError("cannot record: the subscription numbers the PVs in another order")
        except BaseException:
            self.recorder.stop()
            raise

    @property
    def path(self) -> str:
        """The file."""
        return self.recorder.path

    @property
    def names(self) -> list[str]:
        """The PVs."""
        return self.recorder.names

    @property
    def stats(self) -> RecordingStats:
        """The numbers as they stand."""
        return self.recorder.stats

    def counts(self) -> PVCounts:
        """The counts of each PV as they stand."""
        return self.recorder.counts()

    def stop(self, timeout: float = 60.0, progress: Progress | None = None) -> RecordingStats:
        """End the subscription, then the file: see `Recorder.stop`."""
        self._subscription.close()
        return self.recorder.stop(timeout, progress)

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except RecordingError:
            if error is None:
                raise
