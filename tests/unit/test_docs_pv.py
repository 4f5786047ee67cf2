"""The table of PV objects and functions: every name is there, and the tests named beside it use it."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from support import docs

import daqca
from daqca import ca, pv_proxy

PAGE = docs.page("pv.md")
ROWS = docs.table(PAGE, "## Every name")
OURS = [row for row in ROWS if row[2] in ("as in the manual", "differ: see above", "of PyEpics 3.5")]
ARGUMENTS = {
    *inspect.signature(daqca.PV).parameters,
    *(name for one in ("get", "put", "add_callback") for name in inspect.signature(getattr(daqca.PV, one)).parameters),
    *(name for one in (daqca.caget, daqca.cainfo, daqca.camonitor) for name in inspect.signature(one).parameters),
}
TOLD = {"cb_info", "EPICS_CA_MAX_ARRAY_BYTES"}
"""What is neither an argument nor an attribute: a keyword of callbacks, a variable of the environment."""


@pytest.mark.parametrize("row", ROWS, ids=[row[1][:40] for row in ROWS])
def test_every_name_of_a_row_is_used_by_its_tests(row: list[str]) -> None:
    wheres = docs.tests(row[3])
    assert wheres
    assert [where for where in wheres if "::" in where and not docs.body(where)] == [], "there are no such tests"
    names = re.findall(r"`(\w+)`", row[1])
    if names:
        used = set().union(*(docs.uses(where) for where in wheres))
        assert [name for name in names if not used & shown(name, row[0])] == []


def shown(name: str, chapter: str) -> set[str]:
    """How a test may use a name: what is of a PV as an attribute or an argument, never as a function of the package."""
    ways = {f".{name}", f"{name}=", f"'{name}'"}
    return ways if chapter in ("3.1.1", "3.1.2") else ways | {name, f"epics.{name}"}


def test_what_counts_as_use() -> None:
    """As it is written below; `epics.poll` is not `PV.poll`."""
    used = docs.uses("unit/test_docs_pv.py::example")
    assert {"epics.poll", ".units", "timeout=", "'char_value'", ".severity", ".precision", ".access_callbacks"} <= used
    assert not used & (shown("poll", "3.1.1") | shown("status", "3.1.2"))
    assert used & shown("poll", "10.3")
    assert not used & shown("host", "2")


TABLE = {"char_value": "1.500"}
PROGRAM = f"""
    for number in range({len(TABLE)}):
        pv.access_callbacks
"""


def example() -> None:
    """
    >>> pv.severity
    """
    pv: Any = daqca.PV
    epics: Any = daqca
    epics.poll(pv.units, timeout=1, what=helper(TABLE), program=PROGRAM)


def helper(what: Any) -> Any:
    return what.precision


@pytest.mark.parametrize("row", OURS, ids=[row[1][:40] for row in OURS])
def test_a_name_is_there(row: list[str]) -> None:
    for name in re.findall(r"`(\w+)`", row[1]):
        places = (daqca.PV, pv_proxy, daqca, ca)
        assert name in ARGUMENTS | TOLD or any(hasattr(place, name) for place in places), f"there is no {name}"


def test_the_page_has_every_public_name_of_a_pv() -> None:
    told = set(re.findall(r"\b(\w+)\b", PAGE))
    public = {name for name in dir(daqca.PV) if not name.startswith("_")}
    limits = {name for name in public if name.endswith("_limit")}
    # For the parts of a PV among themselves.
    assert public - limits - told <= {"abandon", "check_writable", "keep", "take_metadata", "was_written"}
