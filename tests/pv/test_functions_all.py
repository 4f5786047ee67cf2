"""What holds for all the functions: times, what does not connect, arguments that make no sense, callbacks, threads."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
from support.ca_records import Records
from support.pv_functions import changes, spent
from support.recording import eventually

import daqca
from daqca import Engine, caget, caget_many, cainfo, camonitor, camonitor_clear, caput, caput_many, get_pv, poll
from daqca.errors import ConfigurationError
from daqca.pv_proxy import _PVcache_

# --- what does not connect ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [
        ({"timeout": 0.2}, 0.2),
        ({"connection_timeout": 0.2}, 0.2),
        ({"timeout": 0.2, "connection_timeout": 20}, 0.2),
        ({"timeout": 20, "connection_timeout": 0.2}, 0.2),
        ({"timeout": 0}, 0),
    ],
    ids=str,
)
def test_what_does_not_connect_in_time_is_None_and_logged(
    engine: Engine, records: Records, caplog: pytest.LogCaptureFixture, timeouts: dict[str, float], seconds: float
):
    name = records("missing")
    for function, args in ((caget, ()), (caput, (1,)), (cainfo, ())):
        caplog.clear()
        found, took = spent(function, name, *args, **timeouts)
        assert found is None
        assert seconds <= took < seconds + 5
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"{function.__name__} waited {seconds:g} s: cannot connect {name}: no server" in record.getMessage()


def test_the_times_when_none_is_said():
    """As the manual says; what it does not know, as PyEpics does it."""

    def defaults(function: Any) -> dict[str, Any]:
        code, values = function.__code__, function.__defaults__
        return dict(zip(code.co_varnames[code.co_argcount - len(values) : code.co_argcount], values, strict=True))

    assert defaults(caget) == {
        "as_string": False,
        "count": None,
        "as_numpy": True,
        "timeout": None,
        "use_monitor": False,
        "connection_timeout": 5.0,
    }
    assert defaults(caput) == {"wait": False, "timeout": 60.0, "connection_timeout": 5.0}
    assert defaults(cainfo) == {"print_out": True, "timeout": 5.0, "connection_timeout": 5.0}
    assert defaults(camonitor) == {
        "writer": None,
        "callback": None,
        "connection_timeout": 5.0,
        "monitor_delta": None,
    }
    assert defaults(caget_many) == {
        "as_string": False,
        "as_numpy": True,
        "count": None,
        "timeout": 1.0,
        "connection_timeout": 5.0,
        "conn_timeout": None,
    }
    assert defaults(caput_many) == {"wait": False, "connection_timeout": 5.0, "put_timeout": 60.0}


def test_None_as_a_time_is_the_usual_one(engine: Engine, records: Records):
    assert caget(records("double"), timeout=None, connection_timeout=None) == 1.5
    assert caput(records("free"), 1, wait=True, timeout=None, connection_timeout=None) == 1
    assert cainfo(records("double"), print_out=False, timeout=None, connection_timeout=None)
    assert caget_many([records("double")], timeout=None, connection_timeout=None) == [1.5]
    names = [records("free")]
    assert caput_many(names, [2], wait="all", connection_timeout=None, put_timeout=None) == [1]


def test_a_lost_PV_is_None_and_logged_each_time(
    own_engine: Engine, own_records: Records, caplog: pytest.LogCaptureFixture
):
    name = own_records("double")
    assert caget(name, connection_timeout=20) == 1.5
    own_records.ioc.stop()
    eventually(lambda: not get_pv(name).connected, "the loss is known")
    for _ in range(2):
        caplog.clear()
        assert caget(name, timeout=0.1) is None
        assert caget(name, timeout=0.1, use_monitor=True) is None
        assert caput(name, 3, timeout=0.1) is None
        assert cainfo(name, timeout=0.1) is None
        assert [f"{name}: its channel was connected, and is not now" in text for text in caplog.messages] == [True] * 4
        assert caget_many([name], timeout=0.1, connection_timeout=0.1) == [None]
        assert caput_many([name], [3], connection_timeout=0.1) == [None]
        assert caplog.messages[4:] == [
            f"caget_many: 1 of 1 PVs failed: {name} (disconnected)",
            f"caput_many: 1 of 1 PVs failed: {name} (disconnected)",
        ]
    own_records.ioc.start()
    assert caget(name, timeout=50, connection_timeout=50) == 1.5


def test_a_server_that_does_not_answer(own_engine: Engine, own_records: Records, caplog: pytest.LogCaptureFixture):
    """It is connected, but says nothing: the time is kept, and the log tells it from what is not connected."""
    name = own_records("double")
    assert caget(name, connection_timeout=20) == 1.5
    eventually(lambda: own_engine.last(get_pv(name)._slot), "its monitor has told it too")
    own_records.ioc.suspend()
    try:
        caplog.clear()
        found, took = spent(caget, name, timeout=0.3)
        assert found is None
        assert 0.3 <= took < 5
        assert caget(name, use_monitor=True) == 1.5
        assert caput(name, 2, wait=True, timeout=0.3) == -1
        assert caget_many([name], timeout=0.3) == [None]
        assert caput_many([name], [2], wait="all", put_timeout=0.3) == [-1]
        assert cainfo(name, timeout=0.3) is None
    finally:
        own_records.ioc.resume()
    assert f"get({name!r}): its server is connected but did not answer" in caplog.messages[0]
    assert f"caput: the value was sent to {name}, but its server did not confirm it in time" in caplog.messages[1]
    assert caplog.messages[2] == f"caget_many: 1 of 1 PVs failed: {name} (timeout)"
    assert caplog.messages[3] == f"caput_many: 1 of 1 PVs failed: {name} (timeout)"
    assert f"get_ctrlvars({name!r}): no answer" in caplog.messages[4]


# --- arguments ----------------------------------------------------------------------------------


def test_the_arguments_of_the_manual_have_its_order(engine: Engine, records: Records):
    assert caget(records("longs"), False, 2, False, 20, True) == [-2147483648, 0]
    assert caput(records("free"), 1, True, 20) == 1
    assert cainfo(records("free"), False)
    lines: list[str] = []
    values: list[Any] = []
    camonitor(records("free"), lines.append, None)
    camonitor(records("count"), None, lambda value, **_: values.append(value))
    caput(records("free"), 2, wait=True)
    caput(records("count"), caget(records("count")) + 1, wait=True)
    eventually(lambda: lines and values, "both monitors are told")
    for name in ("free", "count"):
        camonitor_clear(records(name))


@pytest.mark.parametrize("function", [caget, cainfo, camonitor, camonitor_clear, lambda name: caput(name, 1)])
@pytest.mark.parametrize("name", [["a", "b"], None, 7, b"a"], ids=str)
def test_what_is_no_name_is_refused(engine: Engine, function: Any, name: Any):
    with pytest.raises(TypeError, match="expected the name of a PV, and got"):
        function(name)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
@pytest.mark.parametrize(
    ("function", "times"),
    [
        (caget, ("timeout", "connection_timeout")),
        (caput, ("timeout", "connection_timeout")),
        (cainfo, ("timeout", "connection_timeout")),
        (camonitor, ("connection_timeout",)),
        (caget_many, ("timeout", "connection_timeout", "conn_timeout")),
        (caput_many, ("put_timeout", "connection_timeout")),
    ],
)
def test_times_that_make_no_sense_are_refused(
    engine: Engine, records: Records, function: Any, times: tuple[str, ...], seconds: float
):
    name = records("free")
    args: Any = {caput: (name, 5), caget_many: ([name],), caput_many: ([name], [5])}.get(function, (name,))
    before = caget(name, connection_timeout=20)
    for time_ in times:
        with pytest.raises(ConfigurationError, match=f"^{time_}={seconds}: expected seconds, 0 or more"):
            function(*args, **{time_: seconds})
        with pytest.raises(TypeError, match=f"^{time_}='1': expected a number of seconds"):
            function(*args, **{time_: "1"})
    assert caget(name) == before


# --- the rest -----------------------------------------------------------------------------------


def test_functions_in_callbacks(engine: Engine, records: Records):
    """Which they could not do in the C library."""
    told: list[Any] = []
    changes(records("free"), 0)

    def follow(value: Any, **_: Any) -> None:
        told.append((caput(records("count"), value, wait=True), caget(records("count")), caget_many([records("long")])))

    camonitor(records("free"), callback=follow)
    changes(records("free"), 3)
    eventually(lambda: told, "it was called")
    assert told == [(1, 3, [7])]
    camonitor_clear(records("free"))


def test_functions_in_many_threads(engine: Engine, records: Records):
    got: list[Any] = []

    def work() -> None:
        got.extend(caget(records(ending)) for ending in ("double", "long", "string") for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, got)) == sorted(["1.5", "7", "a string"] * 160)
    assert len(_PVcache_) == 3


def test_poll_pauses(engine: Engine, records: Records):
    assert daqca.poll is poll
    pv = get_pv(records("double"))
    end = time.monotonic() + 20
    while not pv.connected:
        poll(evt=1e-3, iot=0.1)
        assert time.monotonic() < end
    assert spent(poll, 0.05)[1] >= 0.05
    assert spent(poll)[1] < 1


def test_the_constants():
    assert (daqca.NO_ALARM, daqca.MINOR_ALARM, daqca.MAJOR_ALARM, daqca.INVALID_ALARM) == (0, 1, 2, 3)


def test_alarms_are_told_by_the_constants(engine: Engine, records: Records):
    assert get_pv(records("alarmed"), connect=True).severity == daqca.MAJOR_ALARM
    assert get_pv(records("long"), connect=True).severity == daqca.NO_ALARM
