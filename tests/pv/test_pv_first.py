"""Many PVs made together: their values are read first, and their monitors begin after that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.calls import Calls
from support.engines import MakeEngine
from support.ioc import MakeSim
from support.recording import eventually

from daqca import Engine
from daqca.dbr import DBE_LOG
from daqca.proxies.first import MANY
from daqca.pv_proxy import PV
from daqca.sim import SimIOC

COUNT = 300
assert COUNT >= MANY


@pytest.fixture
def sim(make_sim: MakeSim) -> SimIOC:
    return make_sim(scalars=COUNT, changing=0, arrays=True)


@pytest.fixture
def writer(sim: SimIOC, make_engine: MakeEngine) -> Engine:
    """Another client."""
    return make_engine()


class Held:
    """An engine whose monitors begin when they are let."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch):
        from daqca.proxies.watch import watch_of

        self.engine = engine
        self.let = threading.Event()
        self.watch = watch_of(engine)
        has_paused = self.watch.wishes.first.has_paused
        monkeypatch.setattr(self.watch.wishes.first, "has_paused", lambda: has_paused() and self.let.is_set())

    def subscriptions(self) -> int:
        return sum(int(shard["subscriptions"]) for shard in self.engine.stats()["shards"])

    def are_read(self, pvs: list[PV]) -> None:
        eventually(lambda: all(pv.connected and self.engine.last(pv._slot) for pv in pvs), "the first values")

    def go_on(self) -> None:
        self.let.set()
        eventually(lambda: not self.watch.wishes.first.is_awaited.any(), "monitors have begun")


@pytest.fixture
def held(sim: SimIOC, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(make_engine(), monkeypatch)
    yield held
    held.let.set()


def numbers(sim: SimIOC) -> list[str]:
    return [name for name in sim.names if ":ao" in name or ":longout" in name]


def test_values_are_there_before_monitors(sim: SimIOC, held: Held, writer: Engine, monkeypatch: pytest.MonkeyPatch):
    records = list(sim.database.by_name.values())
    pvs = held.engine.pvs([record.name for record in records])
    scalars = [pv for pv in pvs if pv.wait_for_connection(20) and pv.nelm == 1]
    assert len(scalars) >= COUNT
    held.are_read(scalars)
    with monkeypatch.context() as patch:
        patch.setattr(held.engine, "ask", None)
        for record, pv in zip(records, pvs, strict=True):
            if pv.nelm == 1:
                assert pv.get() == record.value, record
                assert (pv.severity, pv.status) == (record.severity, record.status), record
    assert held.subscriptions() <= len(pvs) - len(scalars)
    held.go_on()
    name = numbers(sim)[0]
    (pv,) = [pv for pv in pvs if pv.pvname == name]
    writer.put(name, 17, timeout=20)
    eventually(lambda: pv.get() == 17, "it is monitored")


def test_a_callback_waits_for_nobody(sim: SimIOC, held: Held, writer: Engine):
    """The PV that gets one is monitored at once, and each value is told once."""
    name, *_ = numbers(sim)
    pvs = {pv.pvname: pv for pv in held.engine.pvs(sim.names)}
    held.are_read([pvs[name]])
    calls = Calls()
    pvs[name].add_callback(calls)
    calls.wait()
    writer.put(name, 19, timeout=20)
    calls.wait_last(19)
    held.go_on()
    writer.put(name, 20, timeout=20)
    calls.wait_last(20)
    assert calls.all() == [sim.database.by_name[name].value, 19, 20]


def test_a_second_pv_of_the_name_waits_for_nobody(sim: SimIOC, held: Held, writer: Engine):
    """With another mask, and one that comes and goes: each has its first value, and all go when nobody wants them."""
    name, other, *_ = numbers(sim)
    pvs = {pv.pvname: pv for pv in held.engine.pvs(sim.names)}
    held.are_read([pvs[name], pvs[other]])
    calls = Calls()
    log = PV(name, auto_monitor=DBE_LOG, callback=calls, engine=held.engine)
    calls.wait()
    again = held.engine.pv(other)
    assert again.wait_for_connection(20)
    again.disconnect()
    log.disconnect()
    held.go_on()
    writer.put(name, 24, timeout=20)
    eventually(lambda: pvs[name].get() == 24, "it is monitored")
    assert calls.all() == [sim.database.by_name[name].value]
    for pv in pvs.values():
        pv.disconnect()
    eventually(lambda: held.subscriptions() == 0, "nothing is monitored")


def test_one_that_is_never_answered_is_monitored_all_the_same(
    sim: SimIOC, make_engine: MakeEngine, writer: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Its read is lost."""
    engine = make_engine()
    name = numbers(sim)[0]
    begin = engine.begin_reads

    def begin_reads(slots: Any, *args: Any) -> None:
        begin(slots[slots != engine._slots[name]], *args)

    monkeypatch.setattr(engine, "begin_reads", begin_reads)
    pvs = {pv.pvname: pv for pv in engine.pvs(sim.names)}
    eventually(lambda: engine.last(pvs[name]._slot) is not None if pvs[name].connected else False, "its monitor tells")
    writer.put(name, 25, timeout=20)
    eventually(lambda: pvs[name].get() == 25, "it is monitored")


def test_what_was_read_does_not_count_for_ever(
    sim: SimIOC, held: Held, writer: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Where the monitor tells nothing the server is asked."""
    name = numbers(sim)[0]
    pvs = {pv.pvname: pv for pv in held.engine.pvs(sim.names)}
    held.are_read([pvs[name]])
    monkeypatch.setattr(held.watch.feed, "monitor", lambda slots, mask: None)
    monkeypatch.setattr("daqca.proxies.first.HOLD", 0.0)
    held.go_on()
    writer.put(name, 26, timeout=20)
    assert pvs[name].get() == 26


def test_deltas_that_cannot_be_set_keep_nobody_up(sim: SimIOC, make_engine: MakeEngine, writer: Engine):
    """Records without MDEL: it is searched until the time is over."""
    engine = make_engine()
    without = [name for name in sim.names if ":short" in name][:4]
    slow = [PV(name, engine=engine, monitor_delta=1, connection_timeout=20.0) for name in without]
    pvs = {pv.pvname: pv for pv in engine.pvs([name for name in sim.names if name not in without])}
    assert all(pv.wait_for_connection(20) for pv in slow)
    name = numbers(sim)[0]
    eventually(lambda: engine.watch.wishes.was_told(pvs[name]._slot), "it is monitored")
    writer.put(name, 27, timeout=20)
    eventually(lambda: pvs[name].get() == 27, "its update")


def test_a_callback_that_comes_before_the_value_hears_it_once(
    sim: SimIOC, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
):
    """Whether it is there when its PV is made, or added before the server has answered."""
    first, second, *_ = numbers(sim)
    engine, calls, early = make_engine(), Calls(), Calls()
    held = Held(engine, monkeypatch)
    with held.watch.beginning:
        pvs = engine.pvs(sim.names)
        told = [PV(each, engine=engine, callback=early) for each in [first]]
        begin = engine.begin_reads

        def begin_reads(*args: Any) -> None:
            pvs[sim.names.index(second)].add_callback(calls)
            begin(*args)

        monkeypatch.setattr(engine, "begin_reads", begin_reads)
    early.wait()
    calls.wait()
    held.go_on()
    eventually(lambda: all(pv.get() is not None for pv in pvs), "all values")
    assert told[0].get() == sim.database.by_name[first].value
    assert early.all() == [sim.database.by_name[first].value]
    assert calls.all() == [sim.database.by_name[second].value]


def test_a_monitor_that_is_not_wanted_after_all_leaves_nothing(sim: SimIOC, held: Held, writer: Engine):
    name = numbers(sim)[0]
    pvs = {pv.pvname: pv for pv in held.engine.pvs(sim.names)}
    pv = pvs[name]
    held.are_read([pv])
    pv.auto_monitor = False
    writer.put(name, 21, timeout=20)
    held.go_on()
    assert pv.get() == 21
    assert held.engine.last(pv._slot) is None
    calls = Calls()
    pv.add_callback(calls)
    pv.auto_monitor = True
    calls.wait_last(21)
    assert calls.all() == [21]


def test_another_mask_is_told_its_first_value(sim: SimIOC, held: Held, writer: Engine):
    name = numbers(sim)[0]
    pvs = held.engine.pvs(sim.names)
    held.are_read([pv for pv in pvs if pv.pvname == name])
    held.go_on()
    calls = Calls()
    log = PV(name, auto_monitor=DBE_LOG, callback=calls, engine=held.engine)
    calls.wait()
    writer.put(name, 22, timeout=20)
    calls.wait_last(22)
    assert calls.all() == [sim.database.by_name[name].value, 22]
    assert log.get() == 22


def test_a_put_that_is_waited_for_is_seen(sim: SimIOC, held: Held):
    pvs = {pv.pvname: pv for pv in held.engine.pvs(sim.names)}
    held.are_read([pvs[name] for name in numbers(sim)])
    for number, name in enumerate(numbers(sim)):
        assert pvs[name].put(number + 100, wait=True) == 1
        assert pvs[name].get() == number + 100
    held.go_on()
    assert [pvs[name].get() for name in numbers(sim)] == [number + 100 for number in range(len(numbers(sim)))]


def test_a_pv_that_is_missing_holds_up_nobody(sim: SimIOC, make_engine: MakeEngine, writer: Engine):
    name = numbers(sim)[0]
    engine = make_engine()
    pvs = engine.pvs([*sim.names, "NO:SUCH:PV"])
    calls = Calls()
    (pv,) = [pv for pv in pvs if pv.pvname == name]
    assert pv.wait_for_connection(20)
    eventually(lambda: engine.last(pv._slot), "its value")
    eventually(lambda: engine.watch.wishes.first.but(engine.slots([name])).size, "its monitor begins")
    pv.add_callback(calls)
    writer.put(name, 23, timeout=20)
    calls.wait_last(23)
    assert not pvs[-1].connected
    assert pvs[-1].get(timeout=0.01) is None


def test_a_server_that_restarts_meanwhile(sim: SimIOC, held: Held):
    name = numbers(sim)[0]
    pvs = held.engine.pvs(sim.names)
    (pv,) = [pv for pv in pvs if pv.pvname == name]
    held.are_read([pv])
    calls = Calls()
    pv.add_callback(calls)
    sim.kill()
    eventually(lambda: not pv.connected, "it is lost")
    sim.start()
    assert pv.wait_for_connection(30)
    held.go_on()
    calls.wait_last(sim.database.by_name[name].value)
    assert pv.get() == sim.database.by_name[name].value
