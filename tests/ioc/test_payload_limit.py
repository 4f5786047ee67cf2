"""EPICS_CA_AUTO_ARRAY_BYTES=NO: larger values are refused by name, and the circuit goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.engines import MakeEngine, Seen
from support.ioc import IOCFactory

from daqca.ca.eca import ECA
from daqca.errors import RefusedError
from daqca.events import Kind

RECORDS = """
record(waveform, "L:large") { field(FTVL, "DOUBLE") field(NELM, "100000") }
record(waveform, "L:medium") { field(FTVL, "DOUBLE") field(NELM, "20000") }
record(ao, "L:number") { field(VAL, "4.5") field(PINI, "YES") }
"""
"""Of 800 kB, which has a buffer of its own; of 160 kB, which fits into the usual one; and a number."""


@pytest.mark.parametrize("name", ["L:large", "L:medium"])
def test_a_value_beyond_the_limit_is_refused(
    name: str, make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
):
    point_at(make_ioc(RECORDS))
    size = 100_000 if name == "L:large" else 20_000
    whole = make_engine()
    whole.put(name, np.arange(size, dtype=float), timeout=20)
    assert whole.get(name).value[-1] == size - 1
    monkeypatch.setenv("EPICS_CA_AUTO_ARRAY_BYTES", "NO")
    monkeypatch.setenv("EPICS_CA_MAX_ARRAY_BYTES", "100000")
    engine, seen = make_engine(), Seen()
    with pytest.raises(RefusedError, match="EPICS_CA_MAX_ARRAY_BYTES") as caught:
        engine.get(name)
    assert caught.value.eca == ECA.TOLARGE
    assert engine.get("L:number").value == 4.5
    with engine.subscribe([name, "L:number"], seen):
        seen.wait_kind(Kind.REFUSED)
        # What follows on the circuit is whole.
        engine.put("L:number", 5.5)
        seen.wait(lambda: 5.5 in seen.values(1), "the number's update")
        whole.put(name, np.arange(3.0))
        seen.wait(lambda: seen.events(Kind.UPDATE, slot=0), "an array that is small enough")
    assert np.array_equal(engine.get(name).value, [0.0, 1.0, 2.0])
    assert [event.status for event in seen.events(Kind.REFUSED)] == [ECA.TOLARGE >> 3] * len(seen.events(Kind.REFUSED))
