"""``camonitor`` and ``camonitor_clear``: what is printed, written or called, and how it ends."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from typing import Any

import pytest
from support.ca_records import Records
from support.pv_functions import changes, spent
from support.recording import eventually

import daqca
from daqca import Engine, caget, camonitor, camonitor_clear, caput, get_pv


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


def test_writers_and_callbacks_are_functions(engine: Engine, records: Records):
    with pytest.raises(TypeError, match=r"takes a function as writer, and got 'PV1\.log'"):
        camonitor(records("free"), writer="PV1.log")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes a function as callback, and got 1"):
        camonitor(records("free"), callback=1)  # type: ignore[arg-type]
    assert not get_pv(records("free")).callbacks
