"""The table of the low-level interface: every name is there, and the test named beside it speaks of it."""

from __future__ import annotations

import re

import pytest
from support import docs

from daqca import ca

PAGE = docs.page("lowlevel.md")
ROWS = docs.table(PAGE, "## Every name")
OURS = [(row[1], row[3]) for row in ROWS if row[2] == "as in the manual" and "::" in row[3]]


@pytest.mark.parametrize(("names", "where"), OURS, ids=[row[0].strip("`") for row in OURS])
def test_a_name_is_there_and_its_test_speaks_of_it(names: str, where: str) -> None:
    source = docs.body(where)
    assert source, f"there is no test {where}"
    found = re.findall(r"`(\w+)`", names)
    assert any(re.search(rf"\b{name}\b", source) for name in found), f"{where} says nothing of {names}"
    for name in found:
        assert name == "as_numpy" or name in dir(ca), f"daqca.ca has no {name}"
        if name not in ("as_numpy", "libca"):
            assert getattr(ca, name) is not None


@pytest.mark.parametrize("row", ROWS, ids=[row[1][:40] for row in ROWS])
def test_the_files_of_tests_exist(row: list[str]) -> None:
    assert docs.missing_files(row[3]) == []


def test_the_table_has_every_function_that_the_module_offers() -> None:
    told = set(re.findall(r"`(\w+)`", PAGE))
    missing = {name for name in ca.__all__ if name not in told}
    # Beyond the manual, and told in words: see docs/lowlevel.md, Beyond the manual.
    assert missing <= {
        *("AUTO_CLEANUP", "WITH_CA_MESSAGES", "disable_ca_messages", "enable_ca_messages", "get_cache"),
        *("promote_fieldtype", "register_clear_cache", "test_io", "withMaybeConnectedCHID"),
        *("get_complete_with_metadata", "IOENCODING", "get_with_metadata"),
    }
