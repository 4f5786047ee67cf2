"""One PV for each name: `get_pv`, its cache, and what it does with a PV that there is (manual, chapter 3.7)."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.ca_records import Records
from support.engines import MakeEngine
from support.recording import eventually

import daqca
import daqca.pv_proxy as pv_module
from daqca import Engine, ca
from daqca.errors import ConfigurationError
from daqca.pv_proxy import PV, _PVcache_, clear_pvcache, fmt_time, get_pv

DBE_LOG = 2


@pytest.fixture
def low_level() -> Iterator[None]:
    """What a test does with `daqca.ca` is ended after it."""
    yield
    ca.finalize_libca()


class MyPV(PV):
    """As programs make their own."""


# --- which PV it is -----------------------------------------------------------------------------


def test_of_one_name_there_is_one(engine: Engine, records: Records):
    pv = get_pv(records("double"))
    assert type(pv) is PV
    assert get_pv(records("double")) is pv
    assert get_pv(f" {records('double')} ") is pv
    assert get_pv(records("double"), form="TIME") is pv
    assert get_pv(pv) is pv
    assert get_pv(records("double"), context=12345) is pv
    assert pv.engine is engine
    assert daqca.get_pv is get_pv
    other = get_pv(records("long"))
    assert other is not pv
    assert other.pvname == records("long")


def test_a_PV_that_is_made_is_another_one(engine: Engine, records: Records):
    made, pv = PV(records("double")), get_pv(records("double"))
    assert made is not pv
    assert PV(records("double")) is not pv
    assert get_pv(records("double")) is pv
    assert list(_PVcache_.values()) == [pv]


def test_each_form_is_one(engine: Engine, records: Records):
    pvs = {form: get_pv(records("double"), form=form, connect=True, timeout=20) for form in ("time", "native", "ctrl")}
    assert {form: pv.form for form, pv in pvs.items()} == {"time": "time", "native": "native", "ctrl": "ctrl"}
    assert [pv.type for pv in pvs.values()] == ["time_double", "double", "ctrl_double"]
    assert len(_PVcache_) == 3
    assert get_pv(records("double"), form="ctrl") is pvs["ctrl"]
    with pytest.raises(ConfigurationError, match="a form is one of native, time, ctrl"):
        get_pv(records("double"), form="other")
    assert len(_PVcache_) == 3


def test_its_class_may_be_said(engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pv_module, "default_pv_class", MyPV)
    pv = get_pv(records("double"))
    assert type(pv) is MyPV
    assert daqca.caget(records("double")) == 1.5
    assert get_pv(records("double")) is pv
    assert list(_PVcache_.values()) == [pv]


def test_threads_get_the_same(engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch):
    class Slow(PV):
        def __init__(self, *args: Any, **kwargs: Any):
            time.sleep(0.01)  # so that all others come while it is made
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(pv_module, "default_pv_class", Slow)
    start, got = threading.Barrier(8), []

    def get() -> None:
        start.wait()
        got.append(get_pv(records("double")))

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len({id(pv) for pv in got}) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (["a", "b"], r"expected the name of a PV, and got \['a', 'b'\]; for many PVs there are caget_many"),
        (b"abc", "expected the name of a PV, and got b'abc'$"),
        (None, "expected the name of a PV, and got None$"),
    ],
)
def test_what_is_no_name_is_refused(engine: Engine, name: Any, message: str):
    with pytest.raises(TypeError, match=message):
        get_pv(name)
    assert len(_PVcache_) == 0


# --- a new one ----------------------------------------------------------------------------------


def test_a_new_one_gets_all_that_is_said(engine: Engine, records: Records, capsys: pytest.CaptureFixture[str]):
    told: list[Any] = []
    pv = get_pv(
        records("doubles"),
        form="native",
        connect=True,
        timeout=19.5,
        connection_callback=lambda conn, **_: told.append(("conn", conn)),
        access_callback=lambda read, write, pv: told.append(("access", read, write)),
        callback=[lambda value, **_: told.append(("value", len(value))), lambda **_: None],
        verbose=True,
        count=2,
        auto_monitor=DBE_LOG,
        monitor_delta=None,
    )
    assert pv.connected
    assert (pv.form, pv.connection_timeout, pv.auto_monitor, pv.verbose) == ("native", 19.5, DBE_LOG, True)
    assert pv.get().tolist() == [1.5, -2.5]
    eventually(lambda: len(told) >= 3, "all were called")
    assert sorted(told, key=str) == [("access", True, True), ("conn", True), ("value", 2)]
    assert sorted(pv.callbacks) == [0, 1]
    eventually(lambda: records("doubles") in capsys.readouterr().out, "it was printed")


def test_other_keywords_are_handed_on(engine: Engine, records: Records):
    with Engine() as other:
        pv = get_pv(records("double"), engine=other)
        assert pv.engine is other
        assert get_pv(records("double"), engine=other) is pv
        with pytest.raises(TypeError, match="nonsense"):
            get_pv(records("long"), nonsense=1)


def test_one_that_does_not_connect_is_given_and_logged(
    engine: Engine, records: Records, caplog: pytest.LogCaptureFixture
):
    name = records("missing")
    begin = time.monotonic()
    pv = get_pv(name, connect=True, timeout=0.2)
    assert 0.2 <= time.monotonic() - begin < 5
    assert not pv.connected
    assert get_pv(name) is pv
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"cannot connect {name}: no server answered for this name" in record.getMessage()


def test_it_does_not_wait_unless_asked(engine: Engine, records: Records):
    begin = time.monotonic()
    assert not get_pv(records("missing")).connected
    assert time.monotonic() - begin < 1


# --- one that there is --------------------------------------------------------------------------


def test_connection_and_access_callbacks_are_added_and_called(own_engine: Engine, own_records: Records):
    name = own_records("double")
    pv = get_pv(name, connect=True, timeout=20)
    told: list[Any] = []
    get_pv(name, connection_callback=lambda pvname, conn, pv: told.append((pvname, conn, pv)))
    assert told == [(name, True, pv)]
    get_pv(name, access_callback=lambda read, write, pv: told.append((read, write, pv)))
    assert told[1:] == [(True, True, pv)]
    own_records.ioc.stop()
    eventually(lambda: len(told) > 2, "the loss was told")
    assert told[2:] == [(name, False, pv)]


def test_callbacks_of_one_that_is_not_connected_wait(own_engine: Engine, own_records: Records):
    name = own_records("double")
    own_records.ioc.stop()
    pv = get_pv(name)
    told: list[Any] = []
    get_pv(
        name,
        connection_callback=lambda conn, **_: told.append(conn),
        access_callback=lambda read, write, pv: told.append((read, write)),
        callback=lambda value, **_: told.append(value),
    )
    assert told == []
    own_records.ioc.start()
    eventually(lambda: len(told) >= 3, "all were called", 50)
    assert pv.connected
    assert told == [True, (True, True), 1.5]


def test_a_value_callback_is_added_and_run(engine: Engine, records: Records):
    name = records("free")
    pv = get_pv(name, connect=True, timeout=20)
    pv.put(3, wait=True)
    first: list[Any] = []
    second: list[Any] = []
    get_pv(name, callback=lambda value, **_: first.append(value))
    assert first == [3]
    get_pv(name, callback=[lambda value, **_: second.append(value), lambda value, **_: second.append(-value)])
    assert second[:2] == [3, -3]
    assert len(pv.callbacks) == 3
    pv.put(4, wait=True)
    eventually(lambda: first[-1] == 4 and second[-2:] == [4, -4], "all are called")


def test_one_that_was_not_monitored_is(engine: Engine, records: Records):
    name = records("free")
    pv = get_pv(name, auto_monitor=False, connect=True, timeout=20)
    assert get_pv(name).auto_monitor is False
    get_pv(name, auto_monitor=True)
    assert pv.auto_monitor is True
    assert pv.auto_monitor_mask == ca.DEFAULT_SUBSCRIPTION_MASK
    get_pv(name, auto_monitor=DBE_LOG)
    assert pv.auto_monitor is True


def test_its_monitor_delta_is_as_said_last(engine: Engine, records: Records):
    name = records("free")
    pv = get_pv(name, connect=True, timeout=20)
    assert pv.monitor_delta is None
    get_pv(name, monitor_delta=5)
    assert pv.monitor_delta == 5
    assert daqca.caget(f"{name}.MDEL") == 5
    get_pv(name, monitor_delta=0)
    assert pv.monitor_delta == 0
    assert daqca.caget(f"{name}.MDEL") == 0


# --- one that is of no use ----------------------------------------------------------------------


def test_one_of_a_closed_engine_is_replaced(engine: Engine, records: Records):
    first = get_pv(records("double"), connect=True, timeout=20)
    engine.close()
    second = get_pv(records("double"), connect=True, timeout=20)
    try:
        assert second is not first
        assert second.engine is daqca.default_engine()
        assert second.get() == 1.5
        assert list(_PVcache_.values()) == [second]
        assert daqca.caget(records("double")) == 1.5
    finally:
        daqca.default_engine().close()


def test_one_of_another_engine_is_replaced(engine: Engine, records: Records, make_engine: MakeEngine):
    first = get_pv(records("double"), connect=True, timeout=20)
    other = make_engine()
    daqca.use_engine(other)
    second = get_pv(records("double"), connect=True, timeout=20)
    assert second is not first
    assert second.engine is other
    assert first.get() == second.get() == 1.5


def test_one_that_was_disconnected_is_replaced(engine: Engine, records: Records):
    first = get_pv(records("double"), connect=True, timeout=20)
    first.disconnect()
    assert len(_PVcache_) == 0
    second = get_pv(records("double"))
    assert second is not first
    assert second.get(timeout=20) == 1.5
    first.disconnect()
    assert get_pv(records("double")) is second


# --- the cache ----------------------------------------------------------------------------------


def test_the_cache_is_a_dictionary(engine: Engine, records: Records, low_level: None):
    pv = get_pv(records("double"))
    assert pv_module._PVcache_ is _PVcache_
    assert list(_PVcache_.items()) == [((records("double"), "time", None), pv)]
    assert _PVcache_[records("double"), "time", None] is pv
    assert (records("double"), "time", 99) in _PVcache_
    assert (records("double"), "ctrl", None) not in _PVcache_
    assert _PVcache_.get((records("long"), "time", None)) is None
    context = pv.context
    assert list(_PVcache_) == [(records("double"), "time", context)]
    assert _PVcache_.pop((records("double"), "time", context)) is pv
    assert len(_PVcache_) == 0
    mine = _PVcache_[records("long"), "time", None] = PV(records("long"))
    assert get_pv(records("long")) is mine


@pytest.mark.parametrize("clear", [clear_pvcache, ca.clear_cache], ids=["clear_pvcache", "clear_cache"])
def test_clearing_disconnects_all(engine: Engine, records: Records, low_level: None, clear: Any):
    told: list[Any] = []
    pv = get_pv(records("free"), callback=lambda value, **_: told.append(value), connect=True, timeout=20)
    daqca.camonitor(records("count"), writer=told.append)
    kept = PV(records("free"))
    assert kept.wait_for_connection(20)
    eventually(lambda: told, "its value was told")
    clear()
    assert len(_PVcache_) == 0
    assert not pv.connected
    assert not pv.callbacks
    assert kept.connected
    told.clear()
    kept.put(kept.get() + 1, wait=True)
    again = get_pv(records("count"), connect=True, timeout=20)
    again.put(again.get() + 1, wait=True)
    seen: list[Any] = []
    again.add_callback(lambda value, **_: seen.append(value))
    again.put(again.get() + 1, wait=True)
    eventually(lambda: seen, "the next update of another")
    assert told == []
    daqca.camonitor_clear(records("count"))


def test_clearing_after_the_engine_is_closed(engine: Engine, records: Records):
    get_pv(records("double"), connect=True, timeout=20)
    engine.close()
    clear_pvcache()
    assert len(_PVcache_) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_fork_makes_its_own(engine: Engine, records: Records):
    parents = get_pv(records("double"), connect=True, timeout=20)
    held = threading.Event()
    done = threading.Event()

    def hold() -> None:
        with _PVcache_.lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(40)  # if it waits for a lock that nobody will give back
        try:
            pv = get_pv(records("double"), engine=Engine())
            status = 0 if pv is not parents and pv.get(timeout=20) == 1.5 else 2
        finally:
            os._exit(status)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_times_as_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert fmt_time(1_265_996_457.212) == "2010-02-12 17:40:57.21200"
        assert fmt_time(0) == "1970-01-01 00:00:00.00000"
        assert fmt_time()[:4] == time.strftime("%Y")
    finally:
        monkeypatch.undo()
        time.tzset()
