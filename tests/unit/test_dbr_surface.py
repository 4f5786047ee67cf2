"""`daqca.dbr` against the C headers of EPICS, and against the module of PyEpics whose place it takes."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import operator
import pickle
import re
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from epicscorelibs.path import include_path
from hypothesis import given
from hypothesis import strategies as st
from support.c.program import run_c

from daqca import dbr, events
from daqca.ca import dbr as ca_dbr
from daqca.ca.dbr import DBRType

Lines = dict[str, list[list[str]]]

NO_STRUCTURE = (dbr.GR_STRING, dbr.CTRL_STRING)
STRUCTURES = sorted(t for t, ctype in dbr.Map.items() if issubclass(ctype, ctypes.Structure))


def _module_of_pyepics() -> ModuleType:
    # The file alone: importing its package would look for libca.
    package = importlib.util.find_spec("epics")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "dbr.py"
    spec = importlib.util.spec_from_file_location("dbr_of_pyepics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PYEPICS = _module_of_pyepics()
THEIRS = {
    name: value
    for name, value in vars(PYEPICS).items()
    if not name.startswith("_") and not isinstance(value, ModuleType)
}


def of_kind(kind: type | tuple[type, ...]) -> list[str]:
    """The public names of PyEpics whose values are of this type."""
    return sorted(name for name, value in THEIRS.items() if isinstance(value, kind))


def members(structure: Any) -> dict[str, tuple[int, int]]:
    """Offset and size of each member, without padding; a stamp by its two halves, as C is asked for it."""
    found = {}
    for name, ctype in structure._fields_:
        member = getattr(structure, name)
        if name == "stamp":
            for half in ("secs", "nsec"):
                inner = getattr(ctype, half)
                found[f"stamp.{half}"] = (member.offset + inner.offset, inner.size)
        elif "pad" not in name:
            found[name] = (member.offset, member.size)
    return found


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    """What the C program says: its lines by their first word."""
    lines: Lines = {}
    for line in run_c("dbr_layout.c", tmp_path_factory.mktemp("c")).splitlines():
        kind, *words = line.split()
        lines.setdefault(kind, []).append(words)
    return lines


# Against C


def test_numbers_sizes_and_value_offsets_are_those_of_libca(in_c: Lines) -> None:
    assert len(in_c["type"]) == 40  # 39 types, and INT for SHORT
    assert sorted(dbr.Map) == list(range(39))
    for name, number, size, offset, value_size in in_c["type"]:
        ftype = getattr(dbr, name)
        assert ftype == int(number), name
        assert ctypes.sizeof(dbr.Map[ftype]) == int(size), name
        assert dbr.value_offset[ftype] == int(offset), name
        if ftype < dbr.PUT_ACKT:
            assert ctypes.sizeof(dbr.Map[dbr.native_type(ftype)]) == int(value_size), name


def test_every_structure_has_the_members_that_the_compiler_gives_it(in_c: Lines) -> None:
    theirs: dict[str, dict[str, tuple[int, int]]] = {}
    for name, member, offset, size in in_c["member"]:
        theirs.setdefault(name, {})[member.replace("secPastEpoch", "secs")] = (int(offset), int(size))
    assert sorted(theirs) == sorted(dbr.Name(t) for t in STRUCTURES)
    for name, size in in_c["size"]:
        ctype = dbr.Map[getattr(dbr, name)]
        assert ctypes.sizeof(ctype) == int(size), name
        assert members(ctype) == theirs[name], name


def test_structures_are_offered_under_their_names_in_c(in_c: Lines) -> None:
    named = {name for name, _ in in_c["size"]} - {"GR_STRING", "CTRL_STRING"}
    assert len(named) == 27
    for name in named:
        structure = getattr(dbr, name.lower())
        assert structure is dbr.Map[getattr(dbr, name)]
        assert structure.__name__ == name.lower()
        assert f"dbr_{name.lower()}" in structure.__doc__
        assert pickle.loads(pickle.dumps(structure)) is structure
    assert {dbr.Map[ftype] for ftype in NO_STRUCTURE} == {dbr.sts_string}


@pytest.mark.parametrize("ftype", STRUCTURES, ids=dbr.Name)
@given(data=st.data())
def test_a_structure_reads_what_came_from_the_network_in_the_order_of_this_machine(ftype: int, data: Any) -> None:
    layout = ca_dbr.DTYPES[DBRType(ftype)]
    raw = data.draw(st.binary(min_size=layout.itemsize, max_size=layout.itemsize))
    native = bytearray(raw)
    for dtype, offset, *_ in (layout.fields or {}).values():
        place = slice(offset, offset + dtype.itemsize)
        native[place] = np.frombuffer(raw[place], dtype.base).astype(dtype.base.newbyteorder("=")).tobytes()
    theirs = np.frombuffer(raw, layout)[0]
    ours = dbr.Map[ftype].from_buffer(native)
    for name in (name for name in layout.names or () if "pad" not in name):
        if name in ("seconds", "nanoseconds"):
            value = ours.stamp.secs if name == "seconds" else ours.stamp.nsec
        else:
            value = getattr(ours, name)
        if name == "strs":
            assert [state.value for state in value] == [state.split(b"\0")[0] for state in theirs[name].tolist()]
        elif isinstance(value, bytes):
            assert value == theirs[name].split(b"\0")[0]
        else:
            np.testing.assert_equal(value, theirs[name].item())


def test_masks_are_those_of_caeventmask_h(in_c: Lines) -> None:
    assert {name: int(mask) for name, mask in in_c["mask"]} == {
        name.removeprefix("DBE_"): value for name, value in vars(dbr).items() if name.startswith("DBE_")
    }


def test_status_codes_are_those_of_caerr_h(tmp_path: Path) -> None:
    lines = (line.split(" ", 2) for line in run_c("eca_messages.c", tmp_path).splitlines())
    theirs = {f"ECA_{name}": int(number) for name, number, _ in lines if name != "unknown"}
    assert "ECA_16KARRAYCLIENT" in theirs
    assert {name: value for name, value in vars(dbr).items() if name.startswith("ECA_")} == theirs


def test_states_of_a_channel_are_those_of_cadef_h() -> None:
    header = (Path(include_path) / "cadef.h").read_text()
    states = re.search(r"enum channel_state \{(.*?)\};", header, re.DOTALL)
    assert states is not None
    words = re.findall(r"^\s*(cs_\w+)", states[1], re.MULTILINE)
    assert [getattr(dbr, word.upper()) for word in words] == list(range(4))
    for name, number in re.findall(r"#define CA_(OP_CONN_\w+)\s+(\d+)", header):
        assert getattr(dbr, name) == int(number)


# Against the tables of the client


def test_constants_are_those_of_the_client_and_print_as_numbers() -> None:
    types = dict(DBRType.__members__)
    types.update({f"{row}_INT": types[f"{row}_SHORT"] for row in ("STS", "TIME", "GR", "CTRL")})
    assert len(types) == 44
    for name, ftype in types.items():
        assert getattr(dbr, name) == ftype, name
    assert ca_dbr.MAX_ENUM_STATES == dbr.MAX_ENUMS
    assert events.EPICS_EPOCH_NS / 1e9 == dbr.EPICS2UNIX_EPOCH
    numbers = [value for name, value in vars(dbr).items() if name.isupper() and isinstance(value, int)]
    assert len(numbers) > 120
    assert {type(value) for value in numbers} == {int, bool}


def test_numpy_types_hold_the_values_of_ctypes_arrays() -> None:
    for ftype, scalar in dbr.NP_Map.items():
        array = (dbr.Map[ftype] * 3)(1, 2, 3)
        assert np.ctypeslib.as_array(array).dtype == np.dtype(scalar)


# Against PyEpics


def test_pyepics_has_no_public_name_that_is_missing_here() -> None:
    assert len(THEIRS) > 90
    assert set(THEIRS) - set(vars(dbr)) == set()


@pytest.mark.parametrize("name", of_kind((int, float, tuple)))
def test_a_constant_has_the_value_that_it_has_in_pyepics(name: str) -> None:
    ours = getattr(dbr, name)
    assert ours == THEIRS[name]
    assert type(ours) is type(THEIRS[name])


@pytest.mark.parametrize("name", [name for name in of_kind(type(ctypes.c_long)) if name != "chid_t"])
def test_a_c_type_is_that_of_pyepics(name: str) -> None:
    assert getattr(dbr, name) is THEIRS[name]


@pytest.mark.parametrize("name", of_kind(type(ctypes.Structure)))
def test_a_structure_has_the_members_that_it_has_in_pyepics(name: str) -> None:
    ours = getattr(dbr, name)
    assert list(members(ours)) == list(members(THEIRS[name])), "in their order"
    assert members(ours) == members(THEIRS[name])
    assert ctypes.sizeof(ours) == ctypes.sizeof(THEIRS[name])


@pytest.mark.parametrize("name", of_kind(type(_module_of_pyepics)))
def test_a_function_takes_the_arguments_that_it_takes_in_pyepics(name: str) -> None:
    ours, theirs = (inspect.signature(function).parameters.values() for function in (getattr(dbr, name), THEIRS[name]))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


def test_tables_have_what_they_have_in_pyepics() -> None:
    assert dbr.NP_Map.keys() == PYEPICS.NP_Map.keys()
    assert all(dbr.NP_Map[ftype] is scalar for ftype, scalar in PYEPICS.NP_Map.items())
    for ftype, ctype in PYEPICS.Map.items():
        if issubclass(ctype, ctypes.Structure):
            # There it maps CTRL_STRING to the structure of TIME, which is not what a server sends.
            assert dbr.Map[ftype].__name__ == ("sts_string" if ftype == dbr.CTRL_STRING else ctype.__name__)
        else:
            assert dbr.Map[ftype] is ctype


@pytest.mark.parametrize("ftype", range(-1, 45))
def test_name_and_native_type_are_those_of_pyepics(ftype: int) -> None:
    theirs = PYEPICS.Name(ftype)
    ours = dbr.Name(ftype)
    if theirs != "unknown":
        assert ours == theirs
        assert dbr.native_type(ftype) == PYEPICS.native_type(ftype)
        assert PYEPICS.Name(theirs, reverse=True) == dbr.Name(ours, reverse=True)
    elif ftype in dbr.Map:
        assert ours == DBRType(ftype).name
    else:
        assert ours == "unknown"
        assert dbr.native_type(ftype) == ftype


@pytest.mark.parametrize("ftype", range(39))
def test_a_name_leads_back_to_its_type(ftype: int) -> None:
    assert dbr.Name(dbr.Name(ftype), reverse=True) == ftype
    assert dbr.Name(dbr.Name(ftype).lower(), reverse=True) == ftype


def test_both_spellings_of_a_short_are_known() -> None:
    for row in ("", "STS_", "TIME_", "GR_", "CTRL_"):
        short, integer = (dbr.Name(row + word, reverse=True) for word in ("SHORT", "INT"))
        assert short == integer == getattr(dbr, f"{row}SHORT")
    assert dbr.Name("NOTHING", reverse=True) == "unknown"
    assert dbr.Name("DOUBLE") == "unknown", "a name is looked for only in reverse"


def test_types_without_a_name_in_pyepics_have_their_plain_type() -> None:
    for row in (dbr.STS_STRING, dbr.GR_STRING):
        assert [dbr.native_type(row + plain) for plain in range(7)] == list(range(7))
    assert type(dbr.native_type(dbr.STS_DOUBLE)) is int


@given(secs=st.integers(0, 2**32 - 1), nsec=st.integers(0, 999_999_999))
def test_a_stamp_is_the_time_that_pyepics_makes_of_it(secs: int, nsec: int) -> None:
    stamp = dbr.TimeStamp(secs, nsec)
    assert dbr.make_unixtime(stamp) == PYEPICS.make_unixtime(stamp)


def test_a_stamp_is_in_seconds_since_the_unix_epoch() -> None:
    assert dbr.make_unixtime(dbr.TimeStamp(0, 0)) == 631152000.0
    assert dbr.make_unixtime(dbr.TimeStamp(secs=10, nsec=500_000_999)) == 631152010.5


# Alarms


@pytest.mark.parametrize("name", ["AlarmStatus", "AlarmSeverity"])
def test_alarm_words_are_those_of_pyepics(name: str) -> None:
    ours, theirs = getattr(dbr, name), THEIRS[name]
    assert [(str(word), repr(word), word.name, int(word)) for word in ours] == [
        (str(word), repr(word), word.name, int(word)) for word in theirs
    ]
    assert len(ours) == len(getattr(ca_dbr, name))
    for word in getattr(ca_dbr, name):
        assert ours[word.name] == ours(word) == word


@pytest.mark.parametrize("words", [dbr.AlarmStatus, dbr.AlarmSeverity])
@pytest.mark.parametrize("number", [99, -1, np.int16(99)])
def test_an_alarm_without_a_word_keeps_its_number(words: type[IntEnum], number: int) -> None:
    word = words(number)
    assert isinstance(word, words)
    assert (word.name, repr(word), word.value, int(word)) == ("UNKNOWN", "UNKNOWN", number, number)
    assert type(word.value) is int
    assert pickle.loads(pickle.dumps([word, words(2)])) == [number, words(2)]
    assert number not in list(words)


def test_what_is_no_number_is_no_alarm() -> None:
    with pytest.raises(ValueError, match="'HIHI' is not a valid"):
        dbr.AlarmStatus("HIHI")


# Channels and callbacks


class Channel(dbr.chid_t):
    __slots__ = ("pvname",)

    pvname: str


@pytest.mark.parametrize("kind", [dbr.chid_t, Channel])
def test_a_chid_is_a_c_long_and_an_index(kind: type[dbr.chid_t]) -> None:
    chid = kind(12)
    assert isinstance(chid, ctypes.c_long)
    assert isinstance(chid, PYEPICS.chid_t)
    assert chid.value == int(chid) == operator.index(chid) == 12
    assert hex(chid) == "0xc"
    assert repr(chid) == f"{kind.__name__}(12)"
    assert kind(dbr.chid_t(12)).value == 12, "from another chid"
    assert chid
    assert not kind()


def test_a_subclass_of_chid_may_carry_attributes_in_slots() -> None:
    chid = Channel(1)
    chid.pvname = "a:pv"
    assert chid.pvname == "a:pv"
    assert vars(chid) == {}


def test_a_callback_gets_its_structure_with_numbers() -> None:
    got = []
    callback = dbr.make_callback(lambda args: got.append((args.chid, args.op)), dbr.connection_args)
    callback(dbr.connection_args(5, dbr.OP_CONN_UP))
    assert got == [(5, 6)]


@pytest.mark.parametrize("ftype", range(39), ids=dbr.Name)
def test_the_memory_of_a_callback_is_read_as_its_type(ftype: int, monkeypatch: pytest.MonkeyPatch) -> None:
    size, native = ca_dbr.payload_size(ftype, 3), dbr.native_type(ftype)
    memory = (ctypes.c_char * size).from_buffer_copy(bytes(range(256)) * 6)
    args = dbr.event_handler_args(type=ftype, count=3, raw_dbr=ctypes.addressof(memory))
    structure, values = dbr.cast_args(args)
    assert bytes(values) == memory.raw[dbr.value_offset[ftype] :]
    assert values._type_ is dbr.Map[native]
    assert len(values) == 3
    assert (structure is None) == (ftype not in STRUCTURES)
    if structure is not None:
        assert isinstance(structure, dbr.Map[ftype])
        assert ctypes.addressof(structure) == ctypes.addressof(memory)
    if ftype in PYEPICS.Map and ftype not in NO_STRUCTURE:
        monkeypatch.setattr(PYEPICS, "value_offset", dbr.value_offset)  # as it is once libca is loaded
        their_structure, their_values = PYEPICS.cast_args(args)
        assert bytes(values) == bytes(their_values)
        assert (structure is None) == (their_structure is None)


def test_memory_of_an_unknown_type_is_not_touched() -> None:
    assert dbr.cast_args(dbr.event_handler_args(type=39, count=1, raw_dbr=8)) == [None, None]
