"""A call on a thread of its own, with its result or its error, and how long it took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


class Background:
    """Calls ``function(*args, **options)`` at once on a new thread."""

    def __init__(self, function: Callable[..., Any], *args: Any, **options: Any):
        self.result: Any = None
        self.error: BaseException | None = None
        self.took = 0.0
        self._call = lambda: function(*args, **options)
        self._thread = threading.Thread(target=self._run, name=f"background {function}")
        self._thread.start()

    def _run(self) -> None:
        begin = time.monotonic()
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error
        self.took = time.monotonic() - begin

    def join(self, timeout: float = 30.0) -> Background:
        """Wait for its end; fail if it hangs."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"{self._thread.name} hangs"
        return self
