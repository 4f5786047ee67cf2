"""The functions for one PV: ``caget``, ``caput`` and ``cainfo``, with every argument, on every kind of PV."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.ca_records import SLOW_S, STATES, TEXT, Records
from support.pv_functions import TEXTS, VALUES, same, spent
from support.recording import eventually

from daqca import Engine, ca, caget, caget_many, cainfo, caput, caput_many, get_pv
from daqca.errors import ChannelAccessException, ConversionError
from daqca.pv_proxy import _PVcache_


@pytest.fixture
def numpyless() -> Iterator[None]:
    """As if there were no NumPy."""
    ca.HAS_NUMPY = False
    yield
    ca.HAS_NUMPY = True


# --- caget --------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_monitor", [False, True])
def test_caget_of_every_kind(engine: Engine, records: Records, use_monitor: bool):
    for ending, value in VALUES.items():
        same(caget(records(ending), use_monitor=use_monitor, timeout=20, connection_timeout=20), value)


@pytest.mark.parametrize("use_monitor", [False, True])
def test_caget_of_texts(engine: Engine, records: Records, use_monitor: bool):
    """At the first time too, when nothing is known of the PV."""
    got = {ending: caget(records(ending), as_string=True, use_monitor=use_monitor) for ending in TEXTS}
    assert got == TEXTS
    assert {ending: caget(records(ending), True) for ending in TEXTS} == TEXTS


def test_caget_of_a_long_string(engine: Engine, records: Records):
    assert caput(records("text"), TEXT, wait=True) == 1
    assert caget(records("text"), as_string=True) == TEXT
    assert caget(records("text"), as_string=True, count=4) == TEXT[:4]
    assert bytes(caget(records("text"))).rstrip(b"\0").decode() == TEXT


def test_caget_of_some_elements(engine: Engine, records: Records):
    same(caget(records("longs"), count=2), np.array([-2147483648, 0], np.int32))
    same(caget(records("longs"), count=2, use_monitor=True), np.array([-2147483648, 0], np.int32))
    same(caget(records("longs"), count=100), VALUES["longs"])
    same(caget(records("longs"), count=0), VALUES["longs"])
    same(caget(records("double"), count=2), 1.5)
    assert caget(records("longs"), count=2, as_string=True) == "<array size=2, type=time_long>"


def test_caget_of_lists(engine: Engine, records: Records):
    assert caget(records("shorts"), as_numpy=False) == [-32768, 0, 32767]
    assert caget(records("strings"), as_numpy=False, count=1) == ["one"]
    assert caget(records("no:doubles"), as_numpy=False) == []
    same(caget(records("double"), as_numpy=False), 1.5)


def test_caget_without_numpy(engine: Engine, records: Records, numpyless: None):
    assert caget(records("shorts")) == [-32768, 0, 32767]
    assert caget_many([records("shorts")]) == [[-32768, 0, 32767]]


def test_caget_asks_the_server_unless_told(engine: Engine, records: Records):
    """What the monitor does not tell, within the deadband of the record, is seen by asking only."""
    name = records("free")
    eventually(lambda: engine.last(get_pv(name)._begun()), "its monitor has told something")
    caput(name, 0, wait=True)
    assert caput(f"{name}.MDEL", 100, wait=True) == 1
    assert caget(name, use_monitor=True) == 0
    other = Engine()
    try:
        other.put(name, 5, timeout=20)
        assert caget(name, use_monitor=True) == 0
        assert caget(name) == 5
    finally:
        other.close()
        caput(f"{name}.MDEL", 0, wait=True)


def test_caget_uses_the_cache(engine: Engine, records: Records):
    pv = get_pv(records("double"))
    assert caget(records("double")) == 1.5
    assert caget(pv) == 1.5
    assert list(_PVcache_.values()) == [pv]
    caput(records("long"), 7)
    cainfo(records("enum"), print_out=False)
    assert [key[0] for key in _PVcache_] == [records("double"), records("long"), records("enum")]


# --- caput --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "value", "expected"),
    [
        ("free", 2.5, 2.5),
        ("free", np.float32(0.25), 0.25),
        ("free", "3.5", 3.5),
        ("count", 12, 12),
        ("enum", 1, 1),
        ("enum", "Idle", 0),
        ("enum", "1", 1),
        ("enum", "Wait for ever", 2),
        ("string", "other", "other"),
        ("string", "a string", "a string"),
        ("full", [3, 4], np.array([3.0, 4.0])),
        ("full", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])),
        ("strings", ["a", "bc"], np.array(["a", "bc"])),
        ("strings", ["one", "", " three "], np.array(["one", "", " three "])),
    ],
    ids=str,
)
def test_caput_of_every_kind(engine: Engine, records: Records, ending: str, value: Any, expected: Any):
    name = records(ending)
    assert caput(name, value, wait=True, timeout=20, connection_timeout=20) == 1
    same(caget(name), expected)
    # The same for many.
    assert caput(name, expected, wait=True) == 1
    assert caput_many([name], [value], wait="all", connection_timeout=20, put_timeout=20) == [1]
    same(caget(name), expected)


def test_caput_does_not_wait_unless_asked(engine: Engine, records: Records):
    name = records("slow")
    assert caget(name) == 0
    status, took = spent(caput, name, 1)
    assert status == 1
    assert took < SLOW_S
    eventually(lambda: caget(name) == 0, "it has ended")
    status, took = spent(caput, name, 1, wait=True)
    assert status == 1
    assert took >= SLOW_S
    assert caget(name) == 0


def test_caput_is_negative_when_the_time_is_over(engine: Engine, records: Records, caplog: pytest.LogCaptureFixture):
    name = records("slow")
    assert caget(name) == 0
    status, took = spent(caput, name, 1, wait=True, timeout=0.1)
    assert status == -1
    assert took < SLOW_S
    assert f"caput: the value was sent to {name}" in caplog.text
    eventually(lambda: caget(name) == 0, "it has ended")


def test_caput_of_what_does_not_fit(engine: Engine, records: Records):
    with pytest.raises(ConversionError, match="'Nowhere' is none of its states"):
        caput(records("enum"), "Nowhere")
    with pytest.raises(ConversionError, match="double"):
        caput(records("double"), "much")
    with pytest.raises(ChannelAccessException, match="server answered"):
        caput(records("disabled"), 3, wait=True)
    assert caget(records("enum")) == 2
    assert caget(records("disabled")) == 7


# --- cainfo -------------------------------------------------------------------------------------


def test_cainfo_prints(engine: Engine, records: Records, capsys: pytest.CaptureFixture[str]):
    assert cainfo(records("double")) is None
    printed = capsys.readouterr().out
    assert printed.startswith(f"== {records('double')}  (time_double) ==\n   value           = 1.5\n")
    assert printed.endswith("=============================\n")
    assert re.search(r"upper_ctrl_limit +=? ?= 50", printed)
    text = cainfo(records("double"), print_out=False)
    assert capsys.readouterr().out == ""
    assert text is not None
    assert text + "\n" == printed


@pytest.mark.parametrize("ending", VALUES)
def test_cainfo_of_every_kind(engine: Engine, records: Records, ending: str):
    text = cainfo(records(ending), print_out=False, timeout=20, connection_timeout=20)
    assert text is not None
    assert text.startswith(f"== {records(ending)}  (time_")
    assert f"host            = 127.0.0.1:{records.ioc.server_port}" in text
    if ending == "enum":
        assert all(f"       {number} = {state}\n" in text for number, state in enumerate(STATES))
