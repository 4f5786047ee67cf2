"""The lists of callbacks of a PV, which programs may change directly: a PV that gets its first one begins to listen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, SupportsIndex


class Callbacks(dict[Any, tuple[Callable[..., Any], dict[str, Any]]]):
    """``PV.callbacks``: index to (callback, its keywords).

    Parameters
    ----------
    changed
        Called when there may be more of them.
    """

    __slots__ = ("_changed",)

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self._changed = changed

    def in_order(self) -> list[Any]:
        """The indices as they are now, in the order of the calls: callbacks may add and remove callbacks."""
        indices = list(self)
        if len(indices) > 1:
            indices.sort(key=_order)
        return indices

    def __setitem__(self, index: Any, callback: Any) -> None:
        super().__setitem__(index, callback)
        self._changed()

    def setdefault(self, index: Any, default: Any = None) -> Any:
        """As of a dictionary."""
        found = super().setdefault(index, default)
        self._changed()
        return found

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dictionary."""
        super().update(*args, **kwargs)
        self._changed()


def _order(index: Any) -> tuple[bool, Any]:
    """Numbers first, in their order."""
    return (False, index) if isinstance(index, int) else (True, str(index))


class Listeners(list[Callable[..., Any]]):
    """``PV.connection_callbacks`` and ``PV.access_callbacks``.

    Parameters
    ----------
    changed
        Called when there may be more of them.
    """

    __slots__ = ("_changed",)

    def __init__(self, changed: Callable[[], None], items: Iterable[Callable[..., Any]] = ()) -> None:
        super().__init__(items)
        self._changed = changed

    def append(self, item: Callable[..., Any]) -> None:
        """As of a list."""
        super().append(item)
        self._changed()

    def extend(self, items: Iterable[Callable[..., Any]]) -> None:
        """As of a list."""
        super().extend(items)
        self._changed()

    def insert(self, place: SupportsIndex, item: Callable[..., Any]) -> None:
        """As of a list."""
        super().insert(place, item)
        self._changed()

    def __setitem__(self, place: Any, item: Any) -> None:
        """As of a list."""
        super().__setitem__(place, item)
        self._changed()

    def __iadd__(self, items: Iterable[Callable[..., Any]]) -> Listeners:  # type: ignore[override,misc]
        self.extend(items)
        return self
