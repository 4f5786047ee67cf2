"""Arguments, their order and their defaults: of `daqca.compat` beside PyEpics, of daqca beside the manual."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pytest
from support import docs
from support.signatures import Arguments, arguments, of

import daqca

# --- daqca.compat beside PyEpics ----------------------------------------------------------------

NONE_THERE = "there is no C library"
GET_PV = (
    "pvname, form='time', connect=False, context=None, timeout=5, connection_callback=None, access_callback=None, "
    "callback=None, verbose=False, count=None, auto_monitor=None, monitor_delta=None, **kws"
)
OTHERWISE = {
    "epics.PV.__init__": (
        "self, pvname, callback=None, form='time', verbose=False, auto_monitor=None, count=None, "
        "connection_callback=None, connection_timeout=None, access_callback=None, monitor_delta=None, *, engine=None",
        "an engine may be named",
    ),
    "epics.get_pv": (GET_PV, "the manual, chapter 3.7: more keywords are for PV"),
    "epics.pv.get_pv": (GET_PV, "the manual, chapter 3.7: more keywords are for PV"),
    "epics.caget": (
        "pvname, as_string=False, count=None, as_numpy=True, use_monitor=False, timeout=5, connection_timeout=5",
        "the manual, chapter 2.2.1: the server is asked",
    ),
    "epics.ca.client_status": ("context=None, level=0", "may be called without"),
    "epics.ca.create_channel": ("pvname, connect=False, callback=None, auto_cb=True", "the manual's, chapter 4.3.1"),
    "epics.ca.replace_printf_handler": ("fcn=None", "the manual's, chapter 4.3"),
    "epics.ca.sg_get": ("gid, chid, ftype=None, as_numpy=True, as_string=False", "the manual's default, chapter 4.3.3"),
    "epics.ca.find_lib": (None, NONE_THERE),
    "epics.ca.find_libCom": (None, NONE_THERE),
    "epics.utils.clib_search_path": (None, NONE_THERE),
}
"""On purpose other than in PyEpics: the arguments (None: there is no such function), and why."""


def written(text: str) -> Arguments:
    """Arguments as they are written in a definition."""
    return arguments(eval(f"lambda {text}: None"))


@pytest.fixture(scope="module")
def theirs() -> dict[str, Arguments]:
    return of("pyepics")


@pytest.fixture(scope="module")
def ours() -> dict[str, Arguments]:
    return of("daqca")


def test_every_function_and_method_of_PyEpics_has_its_arguments(
    theirs: dict[str, Arguments], ours: dict[str, Arguments]
):
    assert len(theirs) > 100
    assert {"epics.caget", "epics.PV.get", "epics.ca.put", "epics.dbr.Name", "epics.utils.strjoin"} <= theirs.keys()
    alike = {name: each for name, each in theirs.items() if name not in OTHERWISE}
    assert {name: ours.get(name) for name in alike} == alike
    for name, (text, _) in OTHERWISE.items():
        assert ours.get(name) == (None if text is None else written(text)), name
        assert ours.get(name) != theirs[name], f"{name} differs no more"


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_differs_is_told(name: str):
    page, short = docs.page("compat.md"), name.removeprefix("epics.").removesuffix(".__init__")
    assert f"`{short}`" in page[page.index("## What differs") :]


# --- daqca beside the manual --------------------------------------------------------------------

MANUAL = {
    "caget": "pvname, as_string=False, count=None, as_numpy=True, timeout=None, use_monitor=False",
    "caput": "pvname, value, wait=False, timeout=60",
    "cainfo": "pvname, print_out=True",
    "camonitor": "pvname, writer=None, callback=None",
    "camonitor_clear": "pvname",
    "PV": "pvname, callback=None, form='time', auto_monitor=None, connection_callback=None, connection_timeout=None, "
    "verbose=False",
    "PV.get": "self, count=None, as_string=False, as_numpy=True, timeout=None, use_monitor=True",
    "PV.put": "self, value, wait=False, timeout=30.0, use_complete=False, callback=None, callback_data=None",
    "PV.get_ctrlvars": "self",
    "PV.poll": "self, evt=1.e-4, iot=1.0",
    "PV.connect": "self, timeout=None",
    "PV.wait_for_connection": "self, timeout=None",
    "PV.disconnect": "self",
    "PV.add_callback": "self, callback=None, index=None, with_ctrlvars=True, **kw",
    "PV.remove_callback": "self, index=None",
    "PV.clear_callbacks": "self",
    "PV.run_callbacks": "self",
    "PV.run_callback": "self, index",
    "get_pv": "pvname, form='time', connect=False, timeout=5, context=None, **kws",
}
"""The manual's chapters 2 and 3."""
BETWEEN = {
    "PV.get": ("with_ctrlvars=False", "use_monitor"),
    "PV.add_callback": ("run_now=False", "with_ctrlvars"),
}
"""What the manual does not have, and before what of the manual it stands, as in PyEpics 3.5."""


def function(name: str) -> Callable[..., Any]:
    return attrgetter(name)(daqca)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", MANUAL)
def test_the_manual_has_these_arguments_in_this_order(name: str):
    manual, ours = MANUAL[name], arguments(function(name))
    if name in BETWEEN:
        more, before = BETWEEN[name]
        manual = manual.replace(f"{before}=", f"{more}, {before}=")
        row = next(line for line in docs.page("pv.md").splitlines() if line.startswith(f"| order of `{name}`"))
        assert f"`{more.partition('=')[0]}`" in row
    told = written(manual)
    last = [each for each in told if each[0].startswith("**")]
    told = told[: len(told) - len(last)]
    assert ours[: len(told)] == told
    assert ours[len(ours) - len(last) :] == last
    assert all(each[1] or each in last for each in ours[len(told) :]), "what is added has a default"
