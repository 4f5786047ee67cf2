"""Thousands of PVs: begun together, with few requests and little memory."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from support.ca_scripts import quiet, run
from support.engines import MODES, MakeEngine
from support.ioc import MakeSim
from support.recording import eventually

from daqca import Engine
from daqca.link import METADATA
from daqca.pv_proxy import PV
from daqca.sim import SimIOC

COUNT = 2_000
PER_PV = {"no callback": 2_000, "callback": 5_000}
"""Bytes that a PV may take, all told."""


@pytest.fixture
def sim(make_sim: MakeSim) -> SimIOC:
    return make_sim(scalars=COUNT, changing=0, arrays=False)


class Requests:
    """Counts what is asked of the links of an engine."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch):
        self.added: list[int] = []
        self.subscribed: list[tuple[int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.read: list[int] = []
        for link in engine._links:
            self._wrap(link, monkeypatch)

    def _wrap(self, link: Any, patch: pytest.MonkeyPatch) -> None:
        add, subscribe, unsubscribe, read = link.add, link.subscribe, link.unsubscribe, link.read

        def counted_read(slots: Any, *args: Any) -> None:
            self.read.append(len(slots))
            read(slots, *args)

        patch.setattr(link, "add", lambda names: self.added.append(len(names)) or add(names))
        patch.setattr(
            link, "subscribe", lambda slots, mask: self.subscribed.append((mask, len(slots))) or subscribe(slots, mask)
        )
        patch.setattr(
            link, "unsubscribe", lambda slots, mask: self.ended.append((mask, len(slots))) or unsubscribe(slots, mask)
        )
        patch.setattr(link, "read", counted_read)


def all_there(pvs: list[PV], values: list[Any]) -> bool:
    return [pv.get() if pv.connected else None for pv in pvs] == values


def test_many_pvs_begin_together(sim: SimIOC, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch):
    engine = make_engine()
    requests = Requests(engine, monkeypatch)
    records = list(sim.database.by_name.values())
    pvs = engine.pvs([record.name for record in records])
    assert len(pvs) == COUNT
    assert engine.wait_for(lambda: all(pv.connected for pv in pvs), 30)
    values = [record.value for record in records]
    assert engine.wait_for(lambda: all(engine.last(pv._slot) for pv in pvs), 30)
    assert all_there(pvs, values)
    assert [pv.severity for pv in pvs] == [record.severity for record in records]
    assert sum(requests.added) == COUNT
    eventually(lambda: sum(number for _, number in requests.subscribed) >= COUNT, "all are monitored")
    assert {mask for mask, _ in requests.subscribed} == {pvs[0].auto_monitor_mask}
    assert sum(number for _, number in requests.subscribed) == COUNT
    links = len(engine._links)
    assert sum(requests.read) <= COUNT, "no value is asked for twice"
    assert len(requests.read) <= 4 * links, "they are asked for together"
    assert len(requests.added) <= 4 * links, "the names are added together"
    # What is short enough to be monitored is known once it is connected, batch by batch.
    assert len(requests.subscribed) <= 40 * links, requests.subscribed
    again = engine.pvs([record.name for record in records])
    assert engine.wait_for(lambda: all_there(again, values), 30)
    assert sum(requests.added) == sum(number for _, number in requests.subscribed) == COUNT, "nothing is asked twice"
    assert sum(int(shard["subscriptions"]) for shard in engine.stats()["shards"]) == COUNT


def test_many_metadata_are_monitored_together(sim: SimIOC, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch):
    engine = make_engine()
    requests = Requests(engine, monkeypatch)
    records = list(sim.database.by_name.values())
    told: dict[str, dict[str, Any]] = {}
    names = [record.name for record in records]
    pvs = engine.pvs(names, callback=lambda pvname, **kw: told.setdefault(pvname, kw), auto_monitor=True)
    eventually(lambda: len(told) == COUNT, "all first values")
    assert [told[record.name]["value"] for record in records] == [record.value for record in records]
    units = {record.name: record.units for record in records if record.native_type in (1, 2, 4, 5, 6)}
    assert {name: told[name]["units"] for name in units} == units
    states = {record.name: record.enum_strings for record in records if record.native_type == 3}
    assert {name: told[name]["enum_strs"] for name in states} == states
    assert sum(number for _, number in requests.subscribed) == 2 * COUNT
    assert len(requests.subscribed) <= 8 * len(engine._links), requests.subscribed
    assert {mask for mask, _ in requests.subscribed} == {pvs[0].auto_monitor_mask, METADATA}
    assert requests.read == []


def test_many_pvs_that_are_gone_end_together(sim: SimIOC, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch):
    engine = make_engine()
    requests = Requests(engine, monkeypatch)
    pvs = engine.pvs(sim.names)
    kept = pvs[:10]
    eventually(lambda: all(pv.get() is not None for pv in pvs), "all values")  # noqa: F821
    del pvs
    gc.collect()
    assert len(engine.pvs(sim.names[:1])) == 1
    eventually(
        lambda: sum(int(shard["subscriptions"]) for shard in engine.stats()["shards"]) == 10, "monitors have ended"
    )
    assert len(requests.ended) <= 4 * len(engine._links), "they end together"
    assert all(pv.get() is not None for pv in kept)


TAKES = """
import gc, sys, tracemalloc
from daqca import Engine

workers, kind, names = int(sys.argv[1]), sys.argv[2], sys.argv[3].split()
told = dict.fromkeys(names, kind != "callback")

def tell(pvname, **known):
    told[pvname] = True

options = {"callback": tell} if kind == "callback" else {}
with Engine(workers=workers) as engine:
    first = engine.pv(names[0], **options)
    assert first.get(timeout=20) is not None
    gc.collect()
    tracemalloc.start()  # and never stopped: that is not safe beside other threads
    before = tracemalloc.get_traced_memory()[0]
    pvs = engine.pvs(names[1:], **options)
    assert engine.wait_for(lambda: all(told.values()) and all(pv.get() is not None for pv in pvs), 30)
    gc.collect()
    print((tracemalloc.get_traced_memory()[0] - before) / len(pvs))
"""
"""Prints the bytes of Python's memory for a PV, its channel, monitor and last value: workers, kind, names."""


@pytest.mark.parametrize("workers", MODES)
@pytest.mark.parametrize("kind", PER_PV)
def test_what_a_pv_takes(sim: SimIOC, kind: str, workers: int, capsys: pytest.CaptureFixture[str]):
    """In a process of its own."""
    each = float(quiet(run(TAKES, str(workers), kind, " ".join(sim.names), begin="")))
    with capsys.disabled():
        print(f"\na PV with {kind} takes {each:.0f} bytes ({workers} workers)")
    assert 100 < each < PER_PV[kind]
