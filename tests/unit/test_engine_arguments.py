"""What an engine refuses to be made of, before anything is begun."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daqca import Engine
from daqca.engine.deliver import assign_shards
from daqca.engine.engine import MAX_WORKERS
from daqca.errors import ConfigurationError


@pytest.mark.parametrize("workers", [-1, MAX_WORKERS + 1, 1 << 40, 1.0, "2", None])
def test_a_number_of_workers_that_makes_no_sense_is_refused_by_name(workers: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^workers={workers!r}: expected a number from 0 .* to 255$"):
        Engine(workers=workers)


def test_a_number_of_numpy_is_a_number() -> None:
    with Engine(workers=np.int64(0)) as engine:  # type: ignore[arg-type]
        assert len(engine.stats()["shards"]) == 1


def test_as_many_workers_as_are_allowed_all_have_numbers() -> None:
    """More would share them without a word."""
    numbers = assign_shards([f"PV:{i}" for i in range(20_000)], MAX_WORKERS)
    assert set(numbers.tolist()) == set(range(MAX_WORKERS))
