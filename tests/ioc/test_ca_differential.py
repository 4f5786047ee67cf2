"""The low-level interface beside that of PyEpics: the same calls, made with either against one IOC, have one outcome.

The calls are in ``support/lowlevel``; ``calls.py`` there is a program that makes them with one library.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.ioc import IOCFactory, random_prefix
from support.lowlevel import calls
from support.lowlevel.compare import Difference, compare, table
from support.lowlevel.database import access_rules
from support.lowlevel.describe import Outcome

SIDES = ("epics", "daqca")
_CRASH = "PyEpics crashes"
_ERRORS = "what does not fit, or is refused, is an error of one family (docs/lowlevel.md, Errors)"
_LAST_VALUE = "manual: None after a completed get; PyEpics gives the last value again, however old"
_LOG = "daqca logs, PyEpics warns"
_NOT_CONNECTED = "manual: None when the channel is not connected"
_SPACES = "PyEpics cuts spaces at the end of strings"
_SAYS_NUMBERS = (
    "a text put to numbers says them (docs/lowlevel.md, What can be put); PyEpics puts codes of letters, or zero"
)
_LETTERS = "letters beyond ASCII are encoded, PyEpics puts 253; bytes are put as they are, without a zero at the end"
_UNCLEAR = "rubbish in the place of an argument"
REASONS: dict[str, str] = {
    # --- what is read
    "get*/as_string | str * | str '<array count=*": "manual, get, note 2; PyEpics forgets it where no count is given",
    "AUTOMONITOR_MAXLENGTH/*": "the same",
    "get/*/as_string | str '[0-9]*' | str '[A-Za-z]*": "the same: the name of a state",
    "get/*CHAR/*/as_string | raises TypeError | str '*": "PyEpics has no text for one char",
    "get/*/None/*/as_string | raises TypeError | str '*": "the same",
    "get/one:*/*ENUM/*/as_string | raises TypeError | str '*": "PyEpics has no text for an enum without states",
    "get/*ENUM/*/as_string | raises TypeError | str '*": "the same",
    "get/*/count=1/as_string | str \"[[]'*'[]]\" | str '*'": "the text of one string is the string, not a list of it",
    "get*/wf:string/* | *' spaces'* | *' spaces '*": _SPACES,
    "HAS_NUMPY/wf:string": _SPACES,
    "create_subscription/wf:string/*value | *": _SPACES,
    "get_complete/many": _SPACES,
    "get/ftype * | raises ChannelAccessGetFailure | str *": "beyond the manual: STS, GR, CLASS_NAME",
    "get/ftype 27": "beyond the manual: STS, GR, CLASS_NAME",
    "get/ftype -1": _UNCLEAR,
    "get/ftype '6'": _UNCLEAR,
    "get/scalar/count 3.0": _UNCLEAR,
    "get*/noread | raises CASeverityException | raises ChannelAccessGetFailure": _ERRORS,
    "get*/noread/again": "PyEpics waits for the answer to a get that failed before",
    "get_complete/*-> again | * | None": _LAST_VALUE,
    "get_complete/*/after get": _LAST_VALUE,
    "get_complete/*/waited for by get": _LAST_VALUE,
    "get_complete/stale -> second": _LAST_VALUE,
    "get_*complete*-> warns | UserWarning | -": _LOG,
    "get_*vars/missing*-> warns | UserWarning | -": _LOG,
    "get/missing/*": _NOT_CONNECTED,
    "get_*vars/missing/timeout": _NOT_CONNECTED,
    "get_timestamp/missing": "PyEpics: 0 where there is no time, unless the channel is not connected",
    "get_precision/* | None | int 0": "manual: 0 for other types than float and double",
    "get_*/*-> upper_*_limit | int -1 | int 255": "limits of chars are unsigned, as their values; signed in PyEpics",
    "create_subscription/*-> upper_*_limit | int -1 | int 255": "the same",
    # --- what is put
    "put/* | raises TypeError | raises ConversionError": _ERRORS,
    "put/* | raises KeyError | raises ConversionError": _ERRORS,
    "put/* | raises OverflowError | raises ConversionError": _ERRORS,
    "put/* | raises CASeverityException | raises ConversionError": _ERRORS,
    "sg_put/* | raises TypeError | raises ConversionError": _ERRORS,
    "put/* | status: int 1* | raises ConversionError": "PyEpics cuts off what does not fit, and puts zeros for nothing",
    "put/* | status: int 1* | raises RefusedError": "PyEpics does not hear that the server refuses a put",
    "put/* | raises TypeError | raises RefusedError": "PyEpics does not hear that the server refuses a put",
    "put/disabled/*wait* | list * | raises RefusedError": "PyEpics does not hear that the server refuses a put",
    "put/* | raises *Error | status: int 1*": "more values are understood (docs/lowlevel.md, What can be put)",
    "sg_put/* | raises * | status: int 1*": "more values are understood",
    "put/wf:*[!r]/*'* -> get": _SAYS_NUMBERS,
    "put/*:*/str_ 5 -> get": _SAYS_NUMBERS,
    "put/one:*char/*'* -> get": _SAYS_NUMBERS,
    "put/ao.PROC/* -> get": _SAYS_NUMBERS,
    "put/*/ftype *'* -> get": _SAYS_NUMBERS,
    "put/wf:*char/*'* -> get": _LETTERS,
    "put/text/*'* -> get": _LETTERS,
    "put/text/* bytes in * letters -> get": _LETTERS,
    "put/lso.VAL$/*'* -> get": _LETTERS,
    "put/lso.VAL$/* bytes in * letters -> get": _LETTERS,
    "put/wf:string/*[[]* -> get": "texts of items: bytes as text, no text of a list or of True",
    "put/wf:string/*array* -> get": "texts of items: bytes as text, no text of a list or of True",
    "put/*/a bytearray -> get": "bytes are text, whatever holds them",
    "put/*/a memoryview -> get": "bytes are text, whatever holds them",
    "put/*' -> get | * ' 7'* | * ' 7 '*": _SPACES,
    "put/*/' ' -> get": _SPACES,
    "put/ftype 6.0": _UNCLEAR,
    "put/ftype '6'": _UNCLEAR,
    "put/callback/a dict* -> given.*": "manual: data is what the user gave; PyEpics makes arguments of a dictionary",
    "put/callback/not callable*": "PyEpics ignores it",
    "put/array to scalar/printed": "a number put to an array is one element",
    "sg_put/*-> get": "PyEpics fills arrays with zeros",
    # --- subscriptions
    "create_subscription/*status | - | int 1": "manual, chapter 4.5; PyEpics gives no status of plain values",
    "create_subscription/*/count 1 -> value | ctypes *": "PyEpics forgets NumPy for one char of an array",
    "create_subscription/callback not callable": "PyEpics ignores it",
    "create_subscription/count -1": _UNCLEAR,
    "create_subscription/count '3'": _UNCLEAR,
    "create_subscription/empty:*/plain": "PyEpics does not tell of arrays without elements",
    "clear_subscription/* | crashed | *": _CRASH,
    # --- channels
    "*/keyword/* | crashed | *": _CRASH,
    "create_channel/rubbish/''*": "PyEpics gives None for the second time",
    "create_channel/rubbish/'a?x00b'*": "PyEpics makes a channel of what comes before the zero",
    "create_channel/rubbish/b*": "manual: the name is a string",
    # --- groups
    "sg_get/*": "manual: what sg_get returns is for _unpack; PyEpics returns what was in the memory before, or crashes",
    # --- statuses, messages and what is printed
    "message/* | *specifed* | *specified*": "spelling",
    "message/* | *isnt* | *isn't*": "spelling",
    "message/* | *Reseting* | *Resetting*": "spelling",
    "message/None": _UNCLEAR,
    "message/*'1'": _UNCLEAR,
    "message/1.5": _UNCLEAR,
    "PySEVCHK/* | raises CASeverityException | raises TypeError": _UNCLEAR,
    "withSEVCHK/None": _UNCLEAR,
    "PySEVCHK/what it raises -> text": "PyEpics begins with a space",
    "CASeverityException/text": "the same",
    "get/what it raises -> *": "the message says more",
    "show_cache*": "the number of a channel, without its type",
    "connect_channel/printed": "the channel with its name",
    "client_status": "beyond the manual: it returns what it prints",
    "replace_printf_handler*": "PyEpics returns what a function of C left in a register",
    "detach_context* | int | NoneType": "the same",
    "*Thread*/detach_context | int | NoneType": "the same",
    "pend_io/*": _UNCLEAR,
    # --- contexts
    "attach_context/*": _CRASH,
    "destroy_context/* | crashed | *": _CRASH,
    "finalize_libca/*": "the next call begins anew; PyEpics returns None for ever",
    "script/finalize*": "the same",
    "clear_cache/initial": "PyEpics keeps a context that nobody is attached to",
    "initialize_libca*": "there is no library to load",
    "pend_event/first of all": "PyEpics fails before the first call of another function",
    "detach_context/get": "a thread without a context takes the initial one; PyEpics finds no channel without one",
    "Thread/*": "the same",
    "loss -> *": "manual: None when the channel is not connected; PyEpics then waits for answers that were lost",
    "register_clear_cache/rubbish": _UNCLEAR,
    # --- dbr
    "dbr.* | raises KeyError* | *": "beyond the manual: STS, GR and the others",
    "dbr.Name/* | str 'unknown' | *": "the same",
    "dbr.native_type/*": "the same",
    "dbr.Map/28*": "CTRL_STRING as in db_access.h, without a time",
    "dbr.Map/18/fields": "chars are unsigned, as in db_access.h",
    "dbr.Map/32/fields": "the same",
}
"""Differences that are meant: patterns as of ``support.lowlevel.compare``, and why."""


@pytest.mark.timeout(120)
def test_both_libraries_do_the_same(make_ioc: IOCFactory, point_at: Any, tmp_path: Path):
    prefix = random_prefix()
    point_at(make_ioc(calls.database(prefix, *SIDES), access_security=access_rules()))
    theirs, ours = _outcomes(prefix, tmp_path)
    assert len(theirs) > 20_000
    found = compare(theirs, ours, REASONS)
    everything = [difference for side in (found.surprises, *found.documented.values()) for difference in side]
    report = tmp_path / "differences.txt"
    report.write_text("\n".join(f"{one.name}\n\t{one.theirs}\n\t{one.ours}" for one in everything) + "\n")
    assert not found.surprises, (
        f"{len(found.surprises)} of {found.calls} calls differ, each in {report}:\n{table(found.surprises)}"
    )
    assert not found.stale, "what is listed as a difference is none any more: " + ", ".join(found.stale)


def _outcomes(prefix: str, folder: Path) -> list[dict[str, Outcome]]:
    """Run the program with both libraries, side by side."""
    running = []
    for side in SIDES:
        with (folder / f"{side}.json").open("wb") as out, (folder / f"{side}.err").open("wb") as err:
            command = [sys.executable, "-W", "ignore", calls.__file__, side, prefix]
            running.append(subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True))
    try:
        for side, process in zip(SIDES, running, strict=True):
            assert process.wait(timeout=100) == 0, (folder / f"{side}.err").read_text()
    finally:
        for process in running:
            # With all its children, should it not have come to their end.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return [json.loads((folder / f"{side}.json").read_text()) for side in SIDES]


def test_the_comparison_sees_what_differs():
    theirs: dict[str, Outcome] = {
        "same": "int 1",
        "type": "int 1",
        "value": "float 1.5",
        "key/a": {"status": "int 1", "get": "float 1.0"},
        "raises/other": {"raises": ["ValueError", "ValueError", "Exception"]},
        "raises/heir": {"raises": ["ValueError", "ValueError", "Exception"]},
        "raises/not": {"raises": ["ValueError", "ValueError", "Exception"]},
        "warns": {"": "None", "warns": "UserWarning"},
        "crash": "crashed",
        "left out": "None",
    }
    ours: dict[str, Outcome] = {
        "same": "int 1",
        "type": "bool True",
        "value": "float 2.5",
        "key/a": {"status": "int 1", "get": "float 2.0"},
        "raises/other": {"raises": ["TypeError", "TypeError", "Exception"]},
        "raises/heir": {"raises": ["ConversionError", "ValueError", "Exception"]},
        "raises/not": "None",
        "warns": "None",
        "crash": "None",
    }
    found = compare(theirs, ours, {"crash": "PyEpics crashes", "key/*": "known", "same": "no longer"})
    assert [difference.name for difference in found.surprises] == [
        *("type", "value", "raises/other", "raises/not", "warns -> warns", "left out"),
    ]
    assert found.documented["key/*"] == [Difference("key/a -> get", "float 1.0", "float 2.0")]
    assert found.stale == ["same"]
    text = table(found.surprises)
    assert "raises ValueError" in text
    assert "bool True" in text
    assert compare(theirs, theirs).surprises == []
