"""What the tests of PV objects share: each runs over an engine in this process and over one with two workers.

PVs and functions that name no engine use that of the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.ca_records import Records, own_records, record_server, records
from support.engines import MakeEngine, make_engine
from support.ioc import IOCFactory, MakeSim

from daqca import Engine
from daqca.engine.default import use_engine
from daqca.proxies.cache import cache
from daqca.sim import SimIOC

__all__ = ["make_engine", "own_records", "record_server", "records"]


@pytest.fixture
def make_sim(make_ioc: IOCFactory, point_at: Callable[..., Any]) -> MakeSim:
    """Start an IOC with generated records, which clients find: ``make_sim(scalars=100)``."""

    def make(**options: Any) -> SimIOC:
        ioc = make_ioc(**options)
        assert isinstance(ioc, SimIOC)
        point_at(ioc)
        return ioc

    return make


@pytest.fixture
def engine(records: Records, make_engine: MakeEngine) -> Iterator[Engine]:
    """The engine of the test; it reaches ``records``."""
    yield from _default(make_engine())


@pytest.fixture
def own_engine(own_records: Records, make_engine: MakeEngine) -> Iterator[Engine]:
    """The engine of the test; it reaches ``own_records``, whose IOC the test may stop."""
    yield from _default(make_engine())


def _default(engine: Engine) -> Iterator[Engine]:
    use_engine(engine)
    yield engine
    cache.clear()
    use_engine(None)
