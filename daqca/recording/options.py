"""What a recording can be asked for, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from daqca.errors import ConfigurationError, NameListError

COMPRESSIONS = (None, "deflate")
FRAME_COMPRESSIONS = (None, "deflate", "bslz4")
MAX_FLUSH_INTERVAL = 60.0


@dataclass(frozen=True)
class Options:
    """The options of a `Recorder`, which explains them.

    Raises
    ------
    ConfigurationError
        A value makes no sense; the message names it.
    """

    overwrite: bool = False
    compression: str | None = "deflate"
    frame_compression: str | None = None
    flush_interval: float = 1.0
    max_queue_bytes: int = 512 << 20
    metadata: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise ConfigurationError(f"compression={self.compression!r} is not known: use one of {COMPRESSIONS}")
        if self.frame_compression not in FRAME_COMPRESSIONS:
            raise ConfigurationError(
                f"frame_compression={self.frame_compression!r} is not known: use one of {FRAME_COMPRESSIONS}"
            )
        if not 0.01 <= self.flush_interval <= MAX_FLUSH_INTERVAL:
            raise ConfigurationError(
                f"flush_interval={self.flush_interval!r} must be between 0.01 and {MAX_FLUSH_INTERVAL:g} seconds"
            )
        if self.max_queue_bytes < 1 << 16:
            raise ConfigurationError(f"max_queue_bytes={self.max_queue_bytes!r} is too small: 65536 at least")
        for name, shape in self.shapes.items():
            if not shape or prod(shape) < 1 or any(int(n) != n for n in shape):
                raise ConfigurationError(f"shape {tuple(shape)!r} of {name!r} must be whole numbers above 0")


def unique_names(names: Sequence[str] | str) -> list[str]:
    """The names to record, each once, in order.

    Raises
    ------
    NameListError
        There are none, or one is not text or empty.
    """
    given = [names] if isinstance(names, str) else list(names)
    for name in given:
        if not isinstance(name, str) or not name or "\0" in name:
            raise NameListError(f"cannot record {name!r}: a PV name is text, and not empty")
    if not given:
        raise NameListError("there is nothing to record: the list of PV names is empty")
    return list(dict.fromkeys(given))
