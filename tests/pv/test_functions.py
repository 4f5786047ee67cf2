"""The functions of the manual's chapter 2.2, and those for many PVs: every argument, on every kind of PV."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.ca_records import SLOW_S, STATES, TEXT, Records
from support.recording import eventually

import daqca
from daqca import (
    PV,
    Engine,
    ca,
    caget,
    caget_many,
    cainfo,
    camonitor,
    camonitor_clear,
    caput,
    caput_many,
    get_pv,
    poll,
)
from daqca.errors import ChannelAccessException, ConfigurationError, ConversionError
from daqca.pv_proxy import _PVcache_

VALUES: dict[str, Any] = {
    "double": 1.5,
    "long": 7,
    "enum": 2,
    "string": "a string",
    "doubles": np.array([1.5, -2.5, 1e300]),
    "floats": np.array([1.5, -2.5, 0.25], np.float32),
    "longs": np.array([-2147483648, 0, 2147483647], np.int32),
    "shorts": np.array([-32768, 0, 32767], np.int16),
    "chars": np.array([0, 127, 255], np.uint8),
    "enums": np.array([0, 1, 65535], np.uint16),
    "strings": np.array(["one", "", " three "]),
    "one:double": 4.5,
    "one:short": -3,
    "one:char": 200,
    "one:string": "only",
    "no:doubles": np.zeros(0),
    "no:chars": np.zeros(0, np.uint8),
    "full": np.array([1.0, 2.0, 3.0]),
}
TEXTS = {
    "double": "1.500",
    "long": "7",
    "enum": "Wait for ever",
    "string": "a string",
    "doubles": "<array size=3, type=time_double>",
    "longs": "<array size=3, type=time_long>",
    "strings": "<array size=3, type=time_string>",
    "chars": "",
    "one:double": "4",  # with no decimals, as its record says
    "one:short": "-3",
    "no:doubles": "<array size=0, type=time_double>",
    "no:chars": "",
}


def same(value: Any, expected: Any) -> None:
    """Assert that a value is as expected, its type too."""
    assert type(value) is type(expected)
    if isinstance(expected, np.ndarray):
        assert value.dtype.kind == expected.dtype.kind
        assert expected.dtype.kind == "U" or value.dtype == expected.dtype
        assert value.tolist() == expected.tolist()
    else:
        assert value == expected


@pytest.fixture
def numpyless() -> Iterator[None]:
    """As if there were no NumPy."""
    ca.HAS_NUMPY = False
    yield
    ca.HAS_NUMPY = True


# --- caget --------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_monitor", [False, True])
def test_caget_of_every_kind(engine: Engine, records: Records, use_monitor: bool):
    for ending, value in VALUES.items():
        same(caget(records(ending), use_monitor=use_monitor, timeout=20, connection_timeout=20), value)


@pytest.mark.parametrize("use_monitor", [False, True])
def test_caget_of_texts(engine: Engine, records: Records, use_monitor: bool):
    """At the first time too, when nothing is known of the PV."""
    got = {ending: caget(records(ending), as_string=True, use_monitor=use_monitor) for ending in TEXTS}
    assert got == TEXTS
    assert {ending: caget(records(ending), True) for ending in TEXTS} == TEXTS


def test_caget_of_a_long_string(engine: Engine, records: Records):
    assert caput(records("text"), TEXT, wait=True) == 1
    assert caget(records("text"), as_string=True) == TEXT
    assert caget(records("text"), as_string=True, count=4) == TEXT[:4]
    assert bytes(caget(records("text"))).rstrip(b"\0").decode() == TEXT


def test_caget_of_some_elements(engine: Engine, records: Records):
    same(caget(records("longs"), count=2), np.array([-2147483648, 0], np.int32))
    same(caget(records("longs"), count=2, use_monitor=True), np.array([-2147483648, 0], np.int32))
    same(caget(records("longs"), count=100), VALUES["longs"])
    same(caget(records("longs"), count=0), VALUES["longs"])
    same(caget(records("double"), count=2), 1.5)
    assert caget(records("longs"), count=2, as_string=True) == "<array size=2, type=time_long>"


def test_caget_of_lists(engine: Engine, records: Records):
    assert caget(records("shorts"), as_numpy=False) == [-32768, 0, 32767]
    assert caget(records("strings"), as_numpy=False, count=1) == ["one"]
    assert caget(records("no:doubles"), as_numpy=False) == []
    same(caget(records("double"), as_numpy=False), 1.5)


def test_caget_without_numpy(engine: Engine, records: Records, numpyless: None):
    assert caget(records("shorts")) == [-32768, 0, 32767]
    assert caget_many([records("shorts")]) == [[-32768, 0, 32767]]


def test_caget_asks_the_server_unless_told(engine: Engine, records: Records):
    """What the monitor does not tell, within the deadband of the record, is seen by asking only."""
    name = records("free")
    caput(name, 0, wait=True)
    assert caput(f"{name}.MDEL", 100, wait=True) == 1
    eventually(lambda: get_pv(name).auto_monitor_mask, "it is monitored")
    assert caget(name, use_monitor=True) == 0
    other = Engine()
    try:
        other.put(name, 5, timeout=20)
        assert caget(name, use_monitor=True) == 0
        assert caget(name) == 5
    finally:
        other.close()
        caput(f"{name}.MDEL", 0, wait=True)


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


def test_caget_uses_the_cache(engine: Engine, records: Records):
    pv = get_pv(records("double"))
    assert caget(records("double")) == 1.5
    assert caget(pv) == 1.5
    assert list(_PVcache_.values()) == [pv]
    caput(records("long"), 7)
    cainfo(records("enum"), print_out=False)
    assert [key[0] for key in _PVcache_] == [records("double"), records("long"), records("enum")]


# --- what does not connect ----------------------------------------------------------------------


def spent(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """What a function returns, and how long it took."""
    begin = time.monotonic()
    return function(*args, **kwargs), time.monotonic() - begin


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


# --- caput --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "value", "expected"),
    [
        ("free", 2.5, 2.5),
        ("free", np.float32(0.25), 0.25),
        ("free", "3.5", 3.5),
        ("count", 12, 12),
        ("enum", 1, 1),
        ("enum", "Idle", 0),
        ("enum", "1", 1),
        ("enum", "Wait for ever", 2),
        ("string", "other", "other"),
        ("string", "a string", "a string"),
        ("full", [3, 4], np.array([3.0, 4.0])),
        ("full", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])),
        ("strings", ["a", "bc"], np.array(["a", "bc"])),
        ("strings", ["one", "", " three "], np.array(["one", "", " three "])),
    ],
    ids=str,
)
def test_caput_of_every_kind(engine: Engine, records: Records, ending: str, value: Any, expected: Any):
    name = records(ending)
    assert caput(name, value, wait=True, timeout=20, connection_timeout=20) == 1
    same(caget(name), expected)
    # The same for many.
    assert caput(name, expected, wait=True) == 1
    assert caput_many([name], [value], wait="all", connection_timeout=20, put_timeout=20) == [1]
    same(caget(name), expected)


def test_caput_does_not_wait_unless_asked(engine: Engine, records: Records):
    name = records("slow")
    assert caget(name) == 0
    status, took = spent(caput, name, 1)
    assert status == 1
    assert took < SLOW_S
    eventually(lambda: caget(name) == 0, "it has ended")
    status, took = spent(caput, name, 1, wait=True)
    assert status == 1
    assert took >= SLOW_S
    assert caget(name) == 0


def test_caput_is_negative_when_the_time_is_over(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    name = records("slow")
    assert caget(name) == 0
    status, took = spent(caput, name, 1, wait=True, timeout=0.1)
    assert status == -1
    assert took < SLOW_S
    assert f"caput: the value was sent to {name}" in caplog.text
    eventually(lambda: caget(name) == 0, "it has ended")


def test_caput_of_what_does_not_fit(engine: Engine, records: Records):
    with pytest.raises(ConversionError, match="'Nowhere' is none of its states"):
        caput(records("enum"), "Nowhere")
    with pytest.raises(ConversionError, match="double"):
        caput(records("double"), "much")
    with pytest.raises(ChannelAccessException, match="server answered"):
        caput(records("disabled"), 3, wait=True)
    assert caget(records("enum")) == 2
    assert caget(records("disabled")) == 7


# --- cainfo -------------------------------------------------------------------------------------


def test_cainfo_prints(engine: Engine, records: Records, capsys: pytest.CaptureFixture[str]):
    assert cainfo(records("double")) is None
    printed = capsys.readouterr().out
    assert printed.startswith(f"== {records('double')}  (time_double) ==\n   value           = 1.5\n")
    assert printed.endswith("=============================\n")
    assert re.search(r"upper_ctrl_limit +=? ?= 50", printed)
    text = cainfo(records("double"), print_out=False)
    assert capsys.readouterr().out == ""
    assert text is not None
    assert text + "\n" == printed


@pytest.mark.parametrize("ending", VALUES)
def test_cainfo_of_every_kind(engine: Engine, records: Records, ending: str):
    text = cainfo(records(ending), print_out=False, timeout=20, connection_timeout=20)
    assert text is not None
    assert text.startswith(f"== {records(ending)}  (time_")
    assert f"host            = 127.0.0.1:{records.ioc.server_port}" in text
    if ending == "enum":
        assert all(f"       {number} = {state}\n" in text for number, state in enumerate(STATES))


# --- camonitor ----------------------------------------------------------------------------------


def changes(name: str, *values: Any) -> None:
    """Write values, each processed before the next."""
    for value in values:
        assert caput(name, value, wait=True) == 1


def test_camonitor_prints(engine: Engine, records: Records, capsys: pytest.CaptureFixture[str]):
    name = records("double")
    pv = get_pv(name, connect=True)
    camonitor(name)
    changes(name, 2, 3.25, 1.5)
    printed: list[str] = []

    def lines() -> list[str]:
        printed.append(capsys.readouterr().out)
        return "".join(printed).splitlines(keepends=True)

    eventually(lambda: len(lines()) == 3, "three lines")
    camonitor_clear(name)
    found = [re.fullmatch(rf"{name} (\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{6}}) (\S+)\n", line) for line in lines()]
    assert [match and match[2] for match in found] == ["2.000", "3.250", "1.500"]
    assert found[2] is not None
    seconds = time.mktime(time.strptime(found[2][1][:19], "%Y-%m-%d %H:%M:%S"))
    assert seconds == pv.posixseconds


def test_camonitor_finds_standard_output_when_it_prints(
    engine: Engine, records: Records, monkeypatch: pytest.MonkeyPatch
):
    name = records("free")
    changes(name, 0)
    camonitor(name)
    other = io.StringIO()
    monkeypatch.setattr(sys, "stdout", other)
    changes(name, 5)
    eventually(lambda: other.getvalue().endswith(" 5\n"), "it is printed there")
    camonitor_clear(name)


@pytest.mark.parametrize(
    ("ending", "value", "back", "shown"),
    [
        ("enum", 1, 2, "Run"),
        ("string", "some thing", "a string", "some thing"),
        ("count", 41, 0, "41"),
        ("full", [5.0, 6.0], [1.0, 2.0, 3.0], "<array size=2, type=time_double>"),
        ("text", "long " * 19, "", "long long"),
    ],
)
def test_camonitor_of_every_kind(engine: Engine, records: Records, ending: str, value: Any, back: Any, shown: str):
    name = records(ending)
    changes(name, back)
    lines: list[str] = []
    camonitor(name, writer=lines.append)
    changes(name, value)
    eventually(lambda: lines, "a line")
    assert lines[0].startswith(f"{name} 20")
    assert lines[0].split(" ", 3)[3].startswith(shown)
    assert lines[0].endswith("\n")
    camonitor_clear(name)
    changes(name, back)


def test_camonitor_does_not_tell_what_was_before(engine: Engine, records: Records):
    """Whether the PV is a new one, or in use already."""
    name = records("free")
    for number in range(20):
        other = Engine()
        daqca.use_engine(other)
        other.put(name, -1, timeout=20)
        lines: list[str] = []
        camonitor(name, writer=lines.append)
        changes(name, number)
        eventually(lambda: lines, "a line")  # noqa: B023
        assert [line.split()[-1] for line in lines] == [str(number)]
        camonitor_clear(name)
        other.close()
    daqca.use_engine(engine)


def test_camonitor_does_not_tell_what_its_monitor_begins_with(engine: Engine, records: Records):
    """Of a PV of which all is known, but which was not monitored until then."""
    for number, ending in enumerate(("free", "count") * 10, 1):
        name = records(ending)
        pv = get_pv(name, auto_monitor=False, connect=True, timeout=20)
        pv.auto_monitor = False
        assert pv.get_with_metadata(with_ctrlvars=True)
        lines: list[str] = []
        camonitor(name, writer=lines.append)
        changes(name, -number)
        eventually(lambda: lines, "a line")  # noqa: B023
        assert [line.split()[-1] for line in lines] == [str(-number)]
        camonitor_clear(name)


def test_camonitor_with_a_callback(engine: Engine, records: Records, capsys: pytest.CaptureFixture[str]):
    name = records("double")
    told: list[dict[str, Any]] = []
    lines: list[str] = []
    camonitor(name, writer=lines.append, callback=lambda **known: told.append(known))
    changes(name, 2, 1.5)
    eventually(lambda: len(told) == 2, "two calls")
    assert [(one["pvname"], one["value"], one["char_value"]) for one in told] == [
        (name, 2.0, "2.000"),
        (name, 1.5, "1.500"),
    ]
    assert told[0]["units"] == "mm"
    assert lines == []
    assert capsys.readouterr().out == ""
    camonitor_clear(name)


def test_a_second_camonitor_replaces_the_first(engine: Engine, records: Records):
    name = records("free")
    changes(name, 0)
    first: list[str] = []
    second: list[str] = []
    camonitor(name, writer=first.append)
    changes(name, 1)
    eventually(lambda: first, "the first is told")
    camonitor(name, writer=second.append)
    changes(name, 2, 3)
    eventually(lambda: len(second) == 2, "the second is told")
    assert len(first) == 1
    assert len(get_pv(name).callbacks) == 1
    camonitor_clear(name)
    assert not get_pv(name).callbacks


def test_camonitor_leaves_other_callbacks(engine: Engine, records: Records):
    name = records("free")
    changes(name, 0)
    told: list[Any] = []
    get_pv(name, callback=lambda value, **_: told.append(value))
    camonitor(name, writer=lambda line: None)
    camonitor_clear(name)
    changes(name, 8)
    eventually(lambda: told[-1] == 8, "the other one is called")


def test_camonitor_clear_ends_it(engine: Engine, records: Records):
    """A file may be closed right after it: nothing is written any more."""
    name = records("free")
    stop = threading.Event()

    def put() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            caput(name, number, wait=True)

    caput(name, 0, wait=True)
    thread = threading.Thread(target=put)
    thread.start()
    try:
        for _ in range(20):
            file = io.StringIO()
            camonitor(name, writer=file.write)
            eventually(lambda: file.getvalue(), "a line")  # noqa: B023
            camonitor_clear(name)
            file.close()
    finally:
        stop.set()
        thread.join()
    told: list[Any] = []
    get_pv(name).add_callback(lambda value, **_: told.append(value))
    changes(name, -1)
    eventually(lambda: told, "the last update was told")
    assert engine.dispatcher.errors == 0


def test_camonitor_clear_waits_for_a_line_that_is_being_written(engine: Engine, records: Records):
    name = records("free")
    changes(name, 0)
    entered, go = threading.Event(), threading.Event()
    lines: list[str] = []

    def write(line: str) -> None:
        entered.set()
        go.wait(20)
        lines.append(line)

    camonitor(name, writer=write)
    changes(name, 1, 2)
    assert entered.wait(20)
    clearing = threading.Thread(target=camonitor_clear, args=(name,))
    clearing.start()
    clearing.join(0.2)
    assert clearing.is_alive()
    go.set()
    clearing.join()
    assert [line.split()[-1] for line in lines] == ["1"]
    told: list[Any] = []
    get_pv(name).add_callback(lambda value, **_: told.append(value))
    changes(name, 3)
    eventually(lambda: 3 in told, "the others are told")
    assert len(lines) == 1


def test_camonitor_clear_of_what_is_not_monitored(engine: Engine, records: Records):
    camonitor_clear(records("double"))
    camonitor_clear("nowhere")
    camonitor(records("double"))
    camonitor_clear(records("double"))
    camonitor_clear(records("double"))


def test_a_writer_may_end_it(engine: Engine, records: Records):
    name = records("free")
    changes(name, 0)
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        camonitor_clear(name)

    camonitor(name, writer=write)
    changes(name, 1)
    eventually(lambda: lines, "a line")
    told: list[Any] = []
    get_pv(name).add_callback(lambda value, **_: told.append(value))
    changes(name, 2, 3)
    eventually(lambda: 3 in told, "the others are told")
    assert len(lines) == 1


def test_a_writer_that_fails_is_logged_and_stays(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    name = records("free")
    changes(name, 0)
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        raise OSError("the disk is full")

    camonitor(name, writer=write)
    changes(name, 1, 2)
    eventually(lambda: len(lines) == 2 and engine.dispatcher.errors == 2, "two lines")
    assert f"<camonitor> of {name} raised" in caplog.text
    camonitor_clear(name)


def test_camonitor_of_what_connects_later(own_engine: Engine, own_records: Records, caplog: pytest.LogCaptureFixture):
    name = own_records("double")
    own_records.ioc.stop()
    lines: list[str] = []
    _, took = spent(camonitor, name, writer=lines.append, connection_timeout=0.2)
    assert 0.2 <= took < 5
    assert f"camonitor waited 0.2 s: cannot connect {name}: no server" in caplog.text
    own_records.ioc.start()
    eventually(lambda: lines, "its first value", 50)
    assert lines[0].endswith(" 1.500\n")
    camonitor_clear(name)


def test_camonitor_leaves_out_small_changes(engine: Engine, records: Records):
    name = records("free")
    changes(name, 0)
    lines: list[str] = []
    camonitor(name, writer=lines.append, monitor_delta=10)
    assert caget(f"{name}.MDEL") == 10
    changes(name, 1, 2, 20, 21, 40)
    eventually(lambda: len(lines) >= 2, "two lines")
    assert [line.split()[-1] for line in lines] == ["20", "40"]
    camonitor_clear(name)
    changes(f"{name}.MDEL", 0)


def test_camonitor_of_a_large_array(engine: Engine, records: Records):
    """Which a PV does not monitor unless it is told to."""
    name = records("large")
    lines: list[str] = []
    changes(name, [1.0])
    assert get_pv(name, connect=True).auto_monitor is False
    camonitor(name, writer=lines.append)
    changes(name, [1.0, 2.0])
    eventually(lambda: lines, "a line")
    assert lines[0].endswith("<array size=2, type=time_double>\n")
    camonitor_clear(name)


# --- many ---------------------------------------------------------------------------------------


def test_caget_many_of_every_kind(engine: Engine, records: Records):
    names = [records(ending) for ending in VALUES]
    for value, expected in zip(caget_many(names, timeout=20, connection_timeout=20), VALUES.values(), strict=True):
        same(value, expected)
    # As a PV gives them.
    for name, value in zip(names, caget_many(iter(names)), strict=True):
        same(value, PV(name).get())
    assert len(_PVcache_) == 0


def test_caget_many_of_texts(engine: Engine, records: Records):
    names = [records(ending) for ending in TEXTS]
    assert caget_many(names, as_string=True) == list(TEXTS.values())
    assert caget_many(names, True) == [PV(name).get(as_string=True, with_ctrlvars=True) for name in names]
    assert caput(records("text"), TEXT, wait=True) == 1
    assert caget_many([records("text"), records("longs")], as_string=True, count=2) == [
        TEXT[:2],
        "<array size=2, type=time_long>",
    ]


def test_caget_many_of_some_elements_and_of_lists(engine: Engine, records: Records):
    names = [records("longs"), records("double"), records("strings"), records("no:doubles")]
    assert caget_many(names, as_numpy=False, count=2) == [[-2147483648, 0], 1.5, ["one", ""], []]
    first, *_ = caget_many(names, count=1)
    same(first, np.array([-2147483648], np.int32))


def test_caget_many_of_a_name_twice_and_of_none(engine: Engine, records: Records):
    assert caget_many([records("double"), records("long"), records("double")]) == [1.5, 7, 1.5]
    assert caget_many([]) == []
    assert caget_many([get_pv(records("double"))]) == [1.5]


def test_caget_many_with_some_missing(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    names = [records("double"), records("missing"), records("long"), records("gone")]
    for times in ({"connection_timeout": 0.3}, {"conn_timeout": 0.3}, {"conn_timeout": 0.3, "connection_timeout": 20}):
        engine.connect([names[0], names[2]], 20)
        caplog.clear()
        values, took = spent(caget_many, names, timeout=20, **times)
        assert values == [1.5, None, 7, None]
        assert 0.3 <= took < 5
        (text,) = caplog.messages
        assert text == f"caget_many: 2 of 4 PVs failed: {names[1]} (never found); {names[3]} (never found)"
    caplog.clear()
    names = [records(f"missing{number}") for number in range(15)]
    assert caget_many(names, connection_timeout=0) == [None] * 15
    assert caplog.messages[0].endswith("missing9 (never found); and 5 more")


def test_caput_many(engine: Engine, records: Records):
    names = [records(ending) for ending in ("free", "count", "enum", "string", "full")]
    values = [1.25, 3, "Run", "text", [7.0, 8.0]]
    assert caput_many(names, values, wait="all") == [1] * 5
    assert caget_many(names, as_numpy=False) == [1.25, 3, 1, "text", [7.0, 8.0]]
    before = [0, 0, 2, "a string", [1.0, 2.0, 3.0]]
    assert caput_many(iter(names), tuple(before), wait="each") == [1] * 5
    assert caget_many(names, as_numpy=False) == before
    assert caput_many(names[:2], np.array([4, 5])) == [1, 1]
    eventually(lambda: caget_many(names[:2]) == [4, 5], "both are written")
    assert caput_many(names[:2], [6, 7], wait=True) == [1, 1]
    assert caget_many(names[:2]) == [6, 7]
    assert caput_many([], []) == []
    assert caput_many([names[0]] * 3, [1, 2, 3], wait="all") == [1] * 3
    assert caget(names[0]) == 3
    assert caput_many(names[:2], [0, 0], wait="all") == [1, 1]


@pytest.mark.parametrize("wait", [False, "all", "each"])
def test_caput_many_waits_as_told(engine: Engine, records: Records, wait: Any):
    names = [records("slow"), records("free")]
    assert caget_many(names, connection_timeout=20)[0] == 0
    status, took = spent(caput_many, names, [1, 4], wait=wait)
    assert status == [1, 1]
    assert took >= SLOW_S if wait else took < SLOW_S
    eventually(lambda: caget(names[0]) == 0, "it has ended")
    assert caget(names[1]) == 4
    caput(names[1], 0, wait=True)


@pytest.mark.parametrize(("wait", "meanwhile"), [("each", 0), ("all", 5)])
def test_caput_many_each_writes_one_after_the_other(engine: Engine, records: Records, wait: str, meanwhile: int):
    """The second is written when the first is processed; with ``"all"`` it is written at once."""
    names = [records("slow"), records("free")]
    assert caput_many(names, [0, 0], wait="all", connection_timeout=20) == [1, 1]
    status: list[Any] = []
    thread = threading.Thread(target=lambda: status.extend(caput_many(names, [1, 5], wait=wait)))
    thread.start()
    try:
        eventually(lambda: caget_many(names) == [1, meanwhile], "the second is as it should be meanwhile")
    finally:
        thread.join()
    assert status == [1, 1]
    assert caget_many(names) == [0, 5]
    assert caput(names[1], 0, wait=True) == 1


def test_caput_many_when_the_time_is_over(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    names = [records("slow"), records("free")]
    for wait in ("all", "each"):
        caplog.clear()
        assert caget(names[0]) == 0
        status, took = spent(caput_many, names, [1, 4], wait=wait, put_timeout=0.1)
        assert status == [-1, 1]
        assert took < SLOW_S
        assert caplog.messages == [f"caput_many: 1 of 2 PVs failed: {names[0]} (timeout)"]
        eventually(lambda: caget(names[0]) == 0, "it has ended")


@pytest.mark.parametrize("wait", [False, "all", "each"])
def test_caput_many_with_some_that_fail(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture, wait: Any):
    names = [records(ending) for ending in ("free", "missing", "enum", "double", "count")]
    engine.connect([name for name in names if name != names[1]], 20)
    caplog.clear()
    status, took = spent(caput_many, names, [9, 1, "Nowhere", "much", 9], wait=wait, connection_timeout=0.2)
    assert status == [1, None, -1, -1, 1]
    assert took < 5
    (text,) = caplog.messages
    assert text.startswith(f"caput_many: 3 of 5 PVs failed: {names[1]} (never found); ")
    assert "'Nowhere' is none of its states, which are 'Idle', 'Run', 'Wait for ever'" in text
    eventually(lambda: caget_many([names[0], *names[2:]]) == [9, 2, 1.5, 9], "the others are written")
    assert caput_many([names[0], names[4]], [0, 0], wait="all") == [1, 1]


def test_caput_many_of_what_a_server_refuses(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    names = [records("disabled"), records("free")]
    assert caput_many(names, [1, 2], wait="all") == [-1, 1]
    assert caplog.messages == [f"caput_many: 1 of 2 PVs failed: {names[0]} (refused)"]
    assert caget(names[0]) == 7


# --- arguments that make no sense ---------------------------------------------------------------


@pytest.mark.parametrize("function", [caget, cainfo, camonitor, camonitor_clear, lambda name: caput(name, 1)])
@pytest.mark.parametrize("name", [["a", "b"], None, 7, b"a"], ids=str)
def test_what_is_no_name_is_refused(engine: Engine, function: Any, name: Any):
    with pytest.raises(TypeError, match="expected the name of a PV, and got"):
        function(name)


def test_what_is_no_list_of_names_is_refused(engine: Engine, records: Records):
    name = records("double")
    with pytest.raises(TypeError, match=f"expected a list of names, got the text '{name}'; for one PV say"):
        caget_many(name)
    with pytest.raises(TypeError, match="expected a list of names, got the text"):
        caput_many(name, [1])
    with pytest.raises(TypeError, match="expected a list of names, and got 7"):
        caget_many(7)
    with pytest.raises(TypeError, match="expected the name of a PV, and got None"):
        caget_many([name, None])
    with pytest.raises(ConfigurationError, match="name"):
        caget("")


def test_values_that_are_no_list_are_refused(engine: Engine, records: Records):
    names = [records("free"), records("count")]
    with pytest.raises(ConfigurationError, match="as many values as names, and got 1 and 2"):
        caput_many(names, [1])
    with pytest.raises(TypeError, match="takes a list of values, and got '12'"):
        caput_many(names, "12")
    with pytest.raises(TypeError, match="takes a list of values, and got 3"):
        caput_many(names, 3)
    with pytest.raises(ConfigurationError, match=r"caput_many\(wait='some'\): it is 'each', 'all' or False"):
        caput_many(names, [1, 2], wait="some")


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


def test_writers_and_callbacks_are_functions(engine: Engine, records: Records):
    with pytest.raises(TypeError, match=r"takes a function as writer, and got 'PV1\.log'"):
        camonitor(records("free"), writer="PV1.log")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a function as callback, and got 1"):
        camonitor(records("free"), callback=1)  # type: ignore[arg-type]
    assert not get_pv(records("free")).callbacks


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
