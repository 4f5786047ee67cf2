from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.c.program import run_c

from daqca.ca import dbr
from daqca.ca.dbr import DTYPES, DBRType


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """What the C program says: its lines by their first word."""
    folder: Path = tmp_path_factory.mktemp("c")
    lines: dict[str, list[list[str]]] = {}
    for line in run_c("dbr_layout.c", folder).splitlines():
        kind, *words = line.split()
        lines.setdefault(kind, []).append(words)
    return lines


def test_numbers_sizes_and_value_offsets_are_those_of_libca(in_c):
    ours = [
        [name, int(t), DTYPES[t].itemsize, dbr.value_offset(t), dbr.element(t).itemsize]
        for name, t in DBRType.__members__.items()
    ]
    theirs = [[name, *map(int, numbers)] for name, *numbers in in_c["type"]]
    assert len(theirs) == 40  # 39 types, and INT for SHORT
    assert sorted(ours) == sorted(theirs)


def test_structures_are_as_large_as_the_compiler_makes_them(in_c):
    assert len(in_c["size"]) == 29
    for name, size in in_c["size"]:
        assert DTYPES[DBRType[name]].itemsize == int(size), name


def test_every_member_is_where_the_compiler_puts_it(in_c):
    stamp = {"stamp.secPastEpoch": "seconds", "stamp.nsec": "nanoseconds"}
    theirs: dict[str, dict[str, tuple[int, int]]] = {}
    for name, member, offset, size in in_c["member"]:
        theirs.setdefault(name, {})[stamp.get(member, member)] = (int(offset), int(size))
    assert len(theirs) == 29
    for name, members in theirs.items():
        fields = DTYPES[DBRType[name]].fields
        ours = {field: (place[1], place[0].itemsize) for field, place in fields.items() if "pad" not in field}
        assert ours == members, name


def test_the_wire_order_is_big_endian_throughout():
    for dtype in DTYPES.values():
        fields = [dtype] if dtype.fields is None else [place[0].base for place in dtype.fields.values()]
        assert all(field.newbyteorder(">") == field for field in fields)


def test_alarm_words_and_masks(in_c):
    ours = [[status.name, str(int(status))] for status in dbr.AlarmStatus]
    assert ours == in_c["alarm"]
    assert [[severity.name, str(int(severity))] for severity in dbr.AlarmSeverity] == in_c["severity"]
    assert [[name, str(int(mask))] for name, mask in dbr.Mask.__members__.items()] == in_c["mask"]


@pytest.mark.parametrize("native", range(7))
def test_types_of_a_row_and_payload_sizes(native):
    rows = [DBRType(native + 7 * row) for row in range(5)]
    assert {dbr.plain(t) for t in rows} == {native}
    assert {dbr.time_type(t) for t in rows} == {native + 14}
    assert {dbr.ctrl_type(t) for t in rows} == {native + 28}
    for t in rows:
        assert dbr.element(t) == DTYPES[DBRType(native)]
        assert dbr.payload_size(t, 1) == DTYPES[t].itemsize
        assert dbr.payload_size(t, 5) - dbr.payload_size(t, 1) == 4 * dbr.element(t).itemsize
        assert dbr.payload_size(t, 0) == dbr.value_offset(t)


def test_acknowledgements_and_the_class_name_are_no_numbers_of_a_row():
    assert dbr.plain(DBRType.PUT_ACKT) == dbr.plain(DBRType.PUT_ACKS) == DBRType.ENUM
    assert dbr.plain(DBRType.STSACK_STRING) == dbr.plain(DBRType.CLASS_NAME) == DBRType.STRING
    assert dbr.element(DBRType.STSACK_STRING) == np.dtype("S40")


def test_padding_is_what_no_member_covers(in_c):
    for name in {member[0] for member in in_c["member"]}:
        members = [(int(offset), int(size)) for owner, _, offset, size in in_c["member"] if owner == name]
        used = {at for offset, size in members for at in range(offset, offset + size)}
        t = DBRType[name]
        assert dbr.padding(t) == tuple(at for at in range(dbr.value_offset(t)) if at not in used), name
    assert {t.name: dbr.padding(t) for t in DBRType if t >= DBRType.GR_STRING and dbr.padding(t)} == {
        "GR_FLOAT": (6, 7),
        "GR_CHAR": (18,),
        "GR_DOUBLE": (6, 7),
        "CTRL_FLOAT": (6, 7),
        "CTRL_CHAR": (20,),
        "CTRL_DOUBLE": (6, 7),
    }
