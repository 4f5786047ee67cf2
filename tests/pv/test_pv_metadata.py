"""Metadata stay fresh: units, precision, limits and states follow the record, wherever a PV shows them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support.ca_records import LIMITS, STATES, Records, database
from support.pvs import made
from support.recording import eventually

from daqca import Engine

FIELDS_OF_LIMITS = {
    "upper_disp_limit": "HOPR",
    "lower_disp_limit": "LOPR",
    "upper_alarm_limit": "HIHI",
    "upper_warning_limit": "HIGH",
    "lower_warning_limit": "LOW",
    "lower_alarm_limit": "LOLO",
    "upper_ctrl_limit": "DRVH",
    "lower_ctrl_limit": "DRVL",
}


@pytest.mark.parametrize("form", ["time", "native", "ctrl"])
def test_they_follow_the_record(own_engine: Engine, own_records: Records, form: str):
    name = own_records("double")
    pvs = [made(name, form=form), made(name, form=form, auto_monitor=False), made(name, form=form)]
    calls: list[dict[str, Any]] = []
    pvs[2].add_callback(lambda **kw: calls.append(kw))
    for pv in pvs:
        assert (pv.units, pv.precision, {limit: getattr(pv, limit) for limit in LIMITS}) == ("mm", 3, LIMITS)
        assert (pv.char_value, pv.get(as_string=True)) == ("1.500", "1.500")
    for round_ in (1, 2):
        units, precision = f"u{round_}", round_
        own_engine.put(f"{name}.EGU", units)
        own_engine.put(f"{name}.PREC", precision)
        for limit, field in FIELDS_OF_LIMITS.items():
            own_engine.put(f"{name}.{field}", LIMITS[limit] + round_)
        expected = {limit: item + round_ for limit, item in LIMITS.items()}
        for pv in pvs:
            eventually(lambda pv=pv, units=units: pv.units == units, "the units")
            eventually(lambda pv=pv, precision=precision: pv.precision == precision, "the precision")
            eventually(
                lambda pv=pv, expected=expected: {limit: getattr(pv, limit) for limit in LIMITS} == expected,
                "the limits",
            )
            text = f"{1.5:.{precision}f}"
            assert (pv.char_value, pv.get(as_string=True)) == (text, text)
            found = pv.get_with_metadata()
            assert (found["units"], found["precision"], found["char_value"]) == (units, precision, text)
            assert {limit: found[limit] for limit in LIMITS} == expected
            assert pv._args["units"] == units
            assert f"units           = {units}\n" in str(pv.info)
            known = pv.get_ctrlvars()
            assert known is not None
            assert {limit: known[limit] for limit in LIMITS} == expected
        calls.clear()
        own_engine.put(name, round_)
        eventually(lambda: calls, "the call")
        assert (calls[0]["units"], calls[0]["precision"]) == (units, precision)
        assert calls[0]["char_value"] == f"{round_:.{precision}f}"
        assert {limit: calls[0][limit] for limit in LIMITS} == expected
        own_engine.put(name, 1.5)
        for pv in pvs:
            eventually(lambda pv=pv: pv.get() == 1.5, "the value")


def test_states_follow_the_record(own_engine: Engine, own_records: Records):
    name = own_records("enum")
    pv, other = made(name), made(name, auto_monitor=False)
    assert (pv.enum_strs, other.enum_strs, pv.char_value) == (STATES, STATES, STATES[2])
    own_engine.put(f"{name}.TWST", "Other")
    own_engine.put(f"{name}.THST", "Fourth")
    expected = (*STATES[:2], "Other", "Fourth")
    for one in (pv, other):
        eventually(lambda one=one: one.enum_strs == expected, "the states")
        assert (one.char_value, one.get(as_string=True)) == ("Other", "Other")
        assert "       3 = Fourth\n" in str(one.info)
    assert pv.put("Fourth", wait=True) == 1
    assert (pv.get(), pv.char_value, other.char_value) == (3, "Fourth", "Fourth")


def test_a_put_knows_new_states(own_engine: Engine, own_records: Records):
    """Though nobody has told the PV of them yet: it asks before it refuses a name."""
    name = own_records("enum")
    pv = made(name)
    assert pv.enum_strs == STATES
    for number in range(20):
        own_engine.put(f"{name}.THST", f"State {number}")
        assert pv.put(f"State {number}", wait=True) == 1
        assert pv.get() == 3


def test_of_arrays(own_engine: Engine, own_records: Records):
    name = own_records("doubles")
    pv = made(name)
    assert (pv.units, pv.precision) == ("V", 2)
    own_engine.put(f"{name}.EGU", "kV")
    own_engine.put(f"{name}.PREC", 1)
    eventually(lambda: (pv.units, pv.precision) == ("kV", 1), "the metadata")
    pv.put([4.25], wait=True)
    assert pv.char_value == pv.get(as_string=True) == "4.2"


def test_after_a_restart(own_engine: Engine, own_records: Records, caplog: pytest.LogCaptureFixture):
    """An IOC that comes back with other records."""
    names = [own_records(record) for record in ("double", "enum", "long")]
    pvs = [made(name) for name in names]
    assert [pv.units for pv in pvs] == ["mm", None, "µs"]
    assert [pv.char_value for pv in pvs] == ["1.500", STATES[2], "7"]
    assert pvs[1].enum_strs == STATES
    caplog.set_level(logging.ERROR, "daqca")
    text = database(own_records.prefix).replace('EGU, "mm"', 'EGU, "km"').replace('(PREC, "3")', '(PREC, "1")')
    text = text.replace(STATES[2], "Another")
    assert "km" in text
    assert "Another" in text
    own_records.ioc.restart(text)
    for pv in pvs:
        assert pv.wait_for_connection(30)
    eventually(lambda: pvs[0].connected and pvs[0].units == "km", "the new units")
    assert (pvs[0].precision, pvs[0].char_value) == (1, "1.5")
    eventually(lambda: pvs[1].connected and pvs[1].enum_strs == (*STATES[:2], "Another"), "the new states")
    assert pvs[1].char_value == "Another"
    assert pvs[2].units == "µs"


def test_they_are_not_asked_for_unless_somebody_wants_them(engine: Engine, records: Records):
    pv = made(records("double"))
    assert pv.get() == 1.5
    found = pv.get_with_metadata()
    assert (found["units"], found["precision"], found["char_value"]) == (None, None, "1.5")
    assert pv._slot not in engine.table.metadata
    assert pv.units == "mm"
    assert pv._slot in engine.table.metadata
