"""A PV beside that of PyEpics: the same script against the same records has the same outcome, or a reason is given.

Run as a program this is the script on PyEpics: the prefixes of the records on its command line, JSON on its output.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    # Run as a program, the folder of the tests is not on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from support.lowlevel.compare import compare, table
from support.lowlevel.describe import Outcome, outcome

Call = tuple[str, Callable[[], Any]]

SCALARS = ("double", "free", "long", "count", "enum", "stateless", "string", "alarmed", "disabled", "slow")
FIELDS = ("double.DESC", "double.PREC", "double.EGU", "double.SCAN", "double.HHSV", "double.UDF", "double.TPRO")
ARRAYS = ("doubles", "floats", "longs", "shorts", "chars", "enums", "strings", "full", "text", "large")
ONES = ("one:double", "one:float", "one:short", "one:char", "one:string")
EMPTY = ("no:doubles", "no:chars", "no:strings", "no:enums")
RECORDS = (*SCALARS, *FIELDS, *ARRAYS, *ONES, *EMPTY)
FORMS = ("time", "native", "ctrl")

ATTRIBUTES = (
    *("pvname", "value", "char_value", "status", "type", "typefull", "ftype", "count", "nelm", "read_access"),
    *("write_access", "access", "severity", "char_status", "char_severity", "timestamp", "posixseconds"),
    *("nanoseconds", "precision", "units", "enum_strs", "put_complete", "connected", "auto_monitor"),
    *("auto_monitor_mask", "monitor_delta", "form", "host", "callbacks", "connection_callbacks", "access_callbacks"),
    *("upper_disp_limit", "lower_disp_limit", "upper_alarm_limit", "lower_alarm_limit", "lower_warning_limit"),
    *("upper_warning_limit", "upper_ctrl_limit", "lower_ctrl_limit"),
)
GETS: dict[str, dict[str, Any]] = {
    "": {},
    "again": {},
    "server": {"use_monitor": False},
    "text": {"as_string": True},
    "server text": {"as_string": True, "use_monitor": False},
    "list": {"as_numpy": False},
    "one": {"count": 1},
    "two": {"count": 2},
    "server two": {"count": 2, "use_monitor": False},
    "many": {"count": 1000},
    "ctrlvars": {"with_ctrlvars": True},
}


def reads(PV: Any, prefix: str) -> Iterator[Call]:
    """Attributes and gets of records that nobody writes."""
    for record in RECORDS:
        for form in FORMS:
            pv = PV(prefix + record, form=form)
            assert pv.wait_for_connection(20), record
            pv.get()
            yield f"{record}/{form}/repr", lambda pv=pv: repr(pv)
            for name in ATTRIBUTES:
                if form == "time" or name not in ("timestamp", "posixseconds", "nanoseconds"):
                    yield f"{record}/{form}/{name}", lambda pv=pv, name=name: plain(getattr(pv, name))
            for name, how in GETS.items():
                yield f"{record}/{form}/get {name}", lambda pv=pv, how=how: pv.get(**how)
            for other in (None, *FORMS):
                yield (
                    f"{record}/{form}/get_with_metadata {other}",
                    lambda pv=pv, other=other, form=form: known(
                        pv.get_with_metadata(form=other, use_monitor=False), (other or form) == "time"
                    ),
                )
            yield f"{record}/{form}/get_ctrlvars", pv.get_ctrlvars
            yield f"{record}/{form}/get_timevars", pv.get_timevars
            yield f"{record}/{form}/info", lambda pv=pv, form=form: paragraph(pv.info, form)
            yield f"{record}/{form}/_set_charval", lambda pv=pv: pv._set_charval(pv.value)
            pv.disconnect()
        for limit in (0, 1, 2, 100):
            few = PV(prefix + record, count=limit)
            assert few.wait_for_connection(20), record
            for name in ("value", "count", "nelm", "char_value"):
                yield f"{record}/PV(count={limit})/{name}", lambda pv=few, name=name: getattr(pv, name)
            yield f"{record}/PV(count={limit})/get server", lambda pv=few: pv.get(use_monitor=False)
            yield f"{record}/PV(count={limit})/get 3", lambda pv=few: pv.get(count=3)
            few.disconnect()
        alone = PV(prefix + record, auto_monitor=False)
        assert alone.wait_for_connection(20), record
        for name in ("count", "value", "char_value", "status", "severity", "auto_monitor", "auto_monitor_mask"):
            yield f"{record}/auto_monitor=False/{name}", lambda pv=alone, name=name: getattr(pv, name)
        alone.disconnect()


def known(found: Any, has_time: bool) -> Any:
    """What `get_with_metadata` gave, without what names the channel; the time, if it is the record's."""
    if found is None:
        return None
    left_out = ("chid", "host", *(() if has_time else ("timestamp", "posixseconds", "nanoseconds")))
    return {name: item for name, item in sorted(found.items()) if name not in left_out}


def plain(value: Any) -> Any:
    """A list or a dictionary of a class of its own is what it is made of."""
    for kind in (list, dict):
        if isinstance(value, kind):
            return kind(value)
    return value


def paragraph(text: str | None, form: str) -> Any:
    """The lines of `info`, without the times of a form that has none of the record; they are rounded in one line."""
    lines = {}
    for number, line in enumerate((text or "").splitlines()):
        name, equals, rest = line.partition(" = ")
        lines[name.strip() if equals else f"line {number}"] = rest if equals else line
    for name in ("timestamp",) if form == "time" else ("timestamp", "posixseconds", "nanoseconds"):
        lines.pop(name, None)
    return lines


VALUES: dict[str, tuple[Any, ...]] = {
    "double": (2, 2.5, True, "3.5", np.float32(1.25), np.int64(9), [4.0], np.array(5.0), 1e-30, 12345678.0, -1e22),
    "long": (2, 3.9, -3.9, "12", np.int16(-7), np.uint8(200), True),
    "enum": ("Run", 0, "Wait for ever", 1.0, np.int8(2), "1"),
    "string": ("text", "", "thirty-nine characters are the most....", b"bytes", "ä", 5),
    "doubles": ([1, 2], (3.5,), np.arange(4.0), np.arange(8), 6.5, [True, False], np.float32([1.5])),
    "shorts": ([1, 2], np.arange(3, dtype=np.int8), 5),
    "longs": (np.array([2**31 - 1, -5]), [7]),
    "chars": ([1, 2, 255], np.array([65, 66], np.uint8), "AB", b"xy"),
    "text": ("a long text that is more than forty characters long", "", "x", "trailing  "),
    "strings": (["a", "b"], ["one"], "single", np.array(["n", "p"])),
    "double.DESC": ("a description", ""),
}


def puts(PV: Any, prefix: str) -> Iterator[Call]:
    """Puts, and what is read after them."""
    for record, values in VALUES.items():
        pv, reader = PV(prefix + record), PV(prefix + record, auto_monitor=False)
        assert pv.wait_for_connection(20), record
        assert reader.wait_for_connection(20), record
        pv.get()
        for place, value in enumerate(values):
            name = f"put/{record}/{place} {value!r}".replace("\n", " ")
            yield name, lambda pv=pv, value=value: pv.put(value, wait=True)
            yield f"{name} -> get", lambda pv=reader: pv.get()
            yield f"{name} -> text", lambda pv=reader: pv.get(as_string=True)
            yield f"{name} -> count", lambda pv=pv, reader=reader: settled(pv, reader).count
        pv.disconnect()
        reader.disconnect()
    pv = PV(prefix + "long")
    calls: list[dict[str, Any]] = []
    assert pv.wait_for_connection(20)
    yield "put_complete/before", lambda: pv.put_complete
    yield "put_complete/put", lambda: pv.put(3, use_complete=True)
    yield "put_complete/after", lambda: until(lambda: pv.put_complete)
    yield "put_complete/plain put", lambda: (pv.put(4), pv.put_complete)
    yield "put_complete/wait", lambda: (pv.put(5, wait=True), pv.put_complete)
    yield (
        "put_complete/wait and use_complete",
        lambda: (pv.put(5, wait=True, use_complete=True), pv.put_complete),
    )
    yield (
        "callback/wait",
        lambda: (pv.put(6, wait=True, callback=lambda **kw: calls.append(kw), callback_data=5), told(calls, prefix)),
    )
    yield (
        "callback/data dict",
        lambda: (
            pv.put(6, wait=True, callback=lambda **kw: calls.append(kw), callback_data={"a": 1}),
            told(calls, prefix),
        ),
    )
    yield (
        "callback/later",
        lambda: (pv.put(7, callback=lambda **kw: calls.append(kw)), until(lambda: calls), told(calls, prefix)),
    )
    slow = PV(prefix + "slow")
    assert slow.wait_for_connection(20)
    yield "slow/timeout", lambda: slow.put(1, wait=True, timeout=0.1)
    pv.disconnect()
    slow.disconnect()


def told(calls: list[dict[str, Any]], prefix: str) -> Any:
    found = [{name: str(item).removeprefix(prefix) for name, item in call.items()} for call in calls]
    calls.clear()
    return str(found)


def until(condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds."""
    end = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.002)
    return bool(found)


def settled(pv: Any, reader: Any) -> Any:
    """Wait until its monitor has told a PV what the server has; return the PV."""
    end = time.monotonic() + 20
    while not np.array_equal(pv.get(), reader.get()):
        assert time.monotonic() < end
        time.sleep(0.002)
    return pv


def outcomes(PV: Any, ca: ModuleType, shared: str, own: str) -> dict[str, Outcome]:
    """Run the script."""
    found: dict[str, Outcome] = {}
    for script, prefix in ((reads, shared), (puts, own)):
        for name, call in script(PV, prefix):
            found[name] = outcome(call, ca)
    return found


def main() -> None:
    epics, ca = importlib.import_module("epics"), importlib.import_module("epics.ca")
    json.dump(outcomes(epics.PV, ca, *sys.argv[1:]), sys.stdout)
    sys.stdout.flush()
    ca.finalize_libca()


if __name__ == "__main__":
    main()
else:
    import pytest
    from support.ca_records import database
    from support.engines import MakeEngine
    from support.ioc import IOCFactory, random_prefix

    from daqca import ca
    from daqca.engine.default import use_engine
    from daqca.pv_proxy import PV

    _HOST = "address and port: no waiting for a name server"
    _CHAR_TEXT = "manual, table of string representations: that of one char is its value, as of a short"
    _ENUM_INFO = "PyEpics has no info of an enum without states, of one char or of an array without elements"
    _LIST = "as_numpy=False gives a list of any array; PyEpics gives a ctypes array now and then"
    _MORE = "more values are understood (docs/lowlevel.md, What can be put)"
    _NORD = "manual, 5.2: as many elements as there are; PyEpics adds zeros, or texts without a letter"
    _ONE = "the value of an array is an array of its type, whatever its length"
    _SPACES = "PyEpics cuts spaces at the end of strings"
    _TEXT = "manual, table of string representations: of several it says how many there are, and of which type"
    REASONS: dict[str, str] = {
        "*/host | str 'localhost*": _HOST,
        "*/info -> host | str 'localhost*": _HOST,
        "*get_with_metadata* | - | *": "all that is known is given, whatever the form",
        "*upper_*_limit | int -1 | int 255": "limits of chars are unsigned, as their values; signed in PyEpics",
        "*get_ctrlvars -> *s | * | -": "a string has no control values; PyEpics tells its time instead",
        "*get_ctrlvars -> timestamp | * | -": "the same",
        # --- texts
        "*string*/* | list (*) | str '*": _TEXT,
        "*/info -> char_value | *[[]*'* | str *": _TEXT,
        "no:*/* | str '[[][]]' | str '<array size=0, *": _TEXT,
        "one:char/*": _CHAR_TEXT,
        "double.UDF/*": _CHAR_TEXT,
        "double.TPRO/*": _CHAR_TEXT,
        "*strings/* ' three'* | *' three '*": _SPACES,
        "strings/*/info -> value": _SPACES,
        # --- elements
        "*strings/*value | list (*) | ndarray *": _ONE,
        "*/get* | ndarray float64 (0,) * | ndarray <U1 (0,) *": _ONE,
        "*/*with_metadata * -> value | ndarray float64 (0,) * | ndarray <U1 (0,) *": _ONE,
        "*/*count=*/value | * | ndarray * (1,)*": _ONE,
        "*/* | ndarray int64 (1,) * | ndarray *int* (1,)*": _ONE,
        "*/* | ndarray float64 (1,) * | ndarray float32 (1,)*": _ONE,
        "*/* | ndarray * | ndarray * (0,) *": _NORD,
        "*/* | ndarray *(8,) * | ndarray * (3,) *": _NORD,
        "strings/* | ndarray <U3 * | ndarray <U7 *": "PyEpics cuts first, and then looks for the longest",
        "strings/* | ndarray <U6 * | ndarray <U7 *": _SPACES,
        "*/PV(count=*)/* | * | ndarray * (0,) *": _NORD,
        "*/PV(count=*)/count | int * | int [03]": _NORD,
        "*/PV(count=*)/char_value | str '<array size=*'* | str '<array size=*": _NORD,
        "*/PV(count=1)/char_value | str '0' | str '<array size=0*": _NORD,
        "*/count | int * | int 0": _NORD,
        "*/repr | *count=* | *count=[03]/*": _NORD,
        "*/get list | ctypes * | list *": _LIST,
        "*/info | raises *": _ENUM_INFO,
        "chars/*/info -> value | *np.uint8* | *[[]0,127,255[]]*": "numbers are shown alike",
        # --- puts
        "put/* | raises TypeError | int 1": _MORE,
        "put/double/6 * -> *": _MORE,
        "put/doubles/4 * -> *": _MORE,
        "put/shorts/2 * -> *": _MORE,
        "put/string/5 * -> *": _MORE,
        "put/* -> text | str '<array size=1, * | str '*": "the table's count is NORD; in PyEpics what was known before",
        "put/chars/3 b'xy' -> *": "bytes are put as they are, without a zero at the end",
        "put/text/1 '' -> *": "a zero is put; PyEpics puts a hundred",
        "callback/data dict": "manual: data is what the user gave; PyEpics makes arguments of a dictionary",
    }
    """Differences that are meant: patterns as of ``support.lowlevel.compare``, and why."""

    @pytest.mark.timeout(240)
    def test_a_pv_does_the_same(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
        shared, theirs_own, ours_own = (random_prefix() for _ in range(3))
        point_at(make_ioc("\n".join(map(database, (shared, theirs_own, ours_own)))))
        command = [sys.executable, "-W", "ignore", __file__, shared, theirs_own]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                use_engine(make_engine())
                try:
                    ours = outcomes(PV, ca, shared, ours_own)
                finally:
                    use_engine(None)
                printed, errors = process.communicate(timeout=100)
            finally:
                process.kill()
        assert process.returncode == 0, errors
        theirs = json.loads(printed.splitlines()[-1])  # after the warnings that PyEpics prints
        assert len(theirs) > 7_000
        found = compare(theirs, ours, REASONS)
        assert not found.surprises, table(found.surprises)
        assert not found.stale, f"what is listed as a difference is none any more: {found.stale}"
