from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqca.ca import dbr
from daqca.ca.dbr import DTYPES, DBRType, Metadata, decode_metadata, text
from daqca.errors import ProtocolError

LIMITS = [name for name in Metadata.__slots__ if name.endswith("_limit")]
WITH_LIMITS = [t for t in DBRType if 21 <= t <= 34 and t % 7 not in (0, 3)]


def structure(dbr_type: DBRType, **members: object) -> bytes:
    record = np.zeros((), DTYPES[dbr_type])
    for name, value in members.items():
        record[name] = value
    return record.tobytes()


@pytest.mark.parametrize("dbr_type", WITH_LIMITS, ids=lambda t: t.name)
def test_units_precision_alarm_and_every_limit(dbr_type):
    names = [name for name in LIMITS if name in DTYPES[dbr_type].names]
    limits = {name: 100 - 10 * i for i, name in enumerate(("upper_disp_limit", "upper_alarm_limit"))}
    limits |= {name: i + 1 for i, name in enumerate(names) if name not in limits}
    is_float = dbr_type % 7 in (2, 6)
    members = {"units": b"mm/s", "status": 4, "severity": 2, **limits, **({"precision": 3} if is_float else {})}
    decoded = decode_metadata(dbr_type, structure(dbr_type, **members))
    assert decoded.dbr_type is dbr_type
    assert (decoded.units, decoded.status, decoded.severity) == ("mm/s", 4, 2)
    assert decoded.precision == (3 if is_float else None)
    assert {name: getattr(decoded, name) for name in names} == limits
    assert all(type(getattr(decoded, name)) is (float if is_float else int) for name in names)
    for name in set(LIMITS) - set(names):
        assert getattr(decoded, name) is None
    assert len(names) == (8 if dbr_type >= 28 else 6)


@pytest.mark.parametrize("dbr_type", [DBRType.GR_ENUM, DBRType.CTRL_ENUM])
def test_enum_strings(dbr_type):
    states = ["Off", "", "a state of 25 characters.", "Wärme"]
    payload = structure(dbr_type, no_str=4, severity=1, status=7, strs=[s.encode() for s in states] + [b"beyond"] * 12)
    decoded = decode_metadata(dbr_type, memoryview(payload + b"values"))
    assert decoded == Metadata(dbr_type, 7, 1, enum_strings=tuple(states))


@pytest.mark.parametrize(("number", "count"), [(-1, 0), (0, 0), (16, 16), (17, 16), (32767, 16)])
def test_a_wrong_number_of_enum_strings_harms_nobody(number, count):
    assert len(decode_metadata(31, structure(DBRType.CTRL_ENUM, no_str=number)).enum_strings) == count


def test_a_string_has_an_alarm_only():
    assert decode_metadata(28, structure(DBRType.CTRL_STRING, status=17, severity=3)) == Metadata(
        DBRType.CTRL_STRING, 17, 3
    )


def char(**limits: int) -> dict[str, float | None]:
    wire = {name: limit & 0xFF for name, limit in limits.items()}
    decoded = decode_metadata(32, structure(DBRType.CTRL_CHAR, **wire))
    return {name: getattr(decoded, name) for name in limits}


@pytest.mark.parametrize(
    "limits",
    [
        {"upper_disp_limit": 127, "lower_disp_limit": -128, "upper_warning_limit": -10, "lower_warning_limit": -20},
        {"upper_disp_limit": 255, "lower_disp_limit": 0, "upper_ctrl_limit": 200, "lower_ctrl_limit": 130},
        {"upper_ctrl_limit": 5, "lower_ctrl_limit": -5},
        {"upper_alarm_limit": 1, "lower_alarm_limit": -1},
    ],
)
def test_limits_of_a_char_keep_their_sign(limits):
    assert char(**limits) == limits


@pytest.mark.parametrize("dbr_type", [t for t in DBRType if 21 <= t <= 34], ids=lambda t: t.name)
def test_a_short_payload_is_a_protocol_error(dbr_type):
    whole = structure(dbr_type)[: dbr.value_offset(dbr_type)]
    assert decode_metadata(dbr_type, whole).status == 0
    with pytest.raises(ProtocolError, match=f"{dbr_type.name} of {len(whole) - 1} bytes is too short"):
        decode_metadata(dbr_type, whole[:-1])


@pytest.mark.parametrize("dbr_type", [-1, 0, 6, 20, 35, 38, 39, 65535])
def test_other_types_have_no_metadata(dbr_type):
    with pytest.raises(ProtocolError, match="carries no metadata"):
        decode_metadata(dbr_type, bytes(1000))


@given(st.sampled_from([t for t in DBRType if 21 <= t <= 34]), st.binary(max_size=500))
def test_garbage_is_metadata_or_a_protocol_error(dbr_type, payload):
    if len(payload) < dbr.value_offset(dbr_type):
        with pytest.raises(ProtocolError):
            decode_metadata(dbr_type, payload)
    else:
        decoded = decode_metadata(dbr_type, payload)
        assert len(decoded.enum_strings) <= 16
        assert "\0" not in decoded.units


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (b"mA\0junk\0", "mA"),
        ("µm".encode().ljust(8, b"\0"), "µm"),
        (b"\xb0C\0\0\0\0\0\0", "°C"),  # Latin-1
        (b"\xc5\0\0\0\0\0\0\0", "Å"),  # Latin-1, though UTF-8 could go on after it
        ("mmmmmm²".encode()[:7] + b"\0", "mmmmmm"),  # UTF-8, cut by the end of the field
        (b"12345678", "12345678"),
        (b"", ""),
    ],
)
def test_text(field, said):
    assert text(field) == said
    assert text(memoryview(field)) == said


@given(st.binary(max_size=40))
def test_any_bytes_are_text(field):
    assert "\0" not in text(field)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=9))
def test_utf8_comes_back(said):
    assert text(said.encode().ljust(40, b"\0")) == said
