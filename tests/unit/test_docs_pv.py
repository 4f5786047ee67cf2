"""The table of PV objects and functions: every name is there, and the test named beside it speaks of it."""

from __future__ import annotations

import inspect
import re

import pytest
from support import docs

import daqca
from daqca import pv_proxy

PAGE = docs.page("pv.md")
ROWS = docs.table(PAGE, "## Every name")
OURS = [row for row in ROWS if row[2] in ("as in the manual", "of PyEpics 3.5")]
ARGUMENTS = {
    *inspect.signature(daqca.PV).parameters,
    *(name for one in ("get", "put", "add_callback") for name in inspect.signature(getattr(daqca.PV, one)).parameters),
    *(name for one in (daqca.caget, daqca.cainfo, daqca.camonitor) for name in inspect.signature(one).parameters),
}
TOLD = {"cb_info", "DEFAULT_SUBSCRIPTION_MASK"}
"""What is neither an argument nor an attribute: a keyword of callbacks, an option of `daqca.ca`."""


@pytest.mark.parametrize("row", OURS, ids=[row[1][:40] for row in OURS])
def test_a_name_is_there_and_its_test_speaks_of_it(row: list[str]) -> None:
    source = docs.body(row[3])
    assert source, f"there is no test {row[3]}"
    names = re.findall(r"`(\w+)`", row[1])
    if "::" not in row[3]:  # a table in it, of all of them
        assert [name for name in names if not re.search(rf"\b{name}\b", source)] == []
    assert any(re.search(rf"\b{name}\b", source) for name in names), f"{row[3]} says nothing of {row[1]}"
    for name in names:
        places = (daqca.PV, pv_proxy, daqca)
        assert name in ARGUMENTS | TOLD or any(hasattr(place, name) for place in places), f"there is no {name}"


@pytest.mark.parametrize("row", ROWS, ids=[row[1][:40] for row in ROWS])
def test_the_files_of_tests_exist(row: list[str]) -> None:
    assert docs.missing_files(row[3]) == []
    if "::" in row[3]:
        assert docs.body(row[3]), row[3]


def test_the_page_has_every_public_name_of_a_pv() -> None:
    told = set(re.findall(r"\b(\w+)\b", PAGE))
    public = {name for name in dir(daqca.PV) if not name.startswith("_")}
    limits = {name for name in public if name.endswith("_limit")}
    # For the parts of a PV among themselves.
    assert public - limits - told <= {"abandon", "check_writable", "keep", "take_metadata", "was_written"}
