"""The examples of the manual's chapter 10: large arrays, many PVs, and polling."""

from __future__ import annotations

import numpy as np
import pytest
from support import manual_examples as examples
from support.manual_examples import Bench

import daqca

bench, example_ioc = examples.bench, examples.example_ioc


def test_10_1_large_waveform(bench: Bench):
    daqca.caput(bench.prefix + "LargeWaveform", np.arange(100_000.0), wait=True)
    names = bench.program("import daqca as epics\np = epics.PV('LargeWaveform')\nval = p.get()")
    assert names["val"].tolist() == list(range(100_000))
    assert names["p"].get(timeout=20).shape == (100_000,)


def listed(bench: Bench) -> tuple[list[str], list[float]]:
    endings = {"": 1.0, "Y": 0.0, "Z": 0.0, "m1": 1.2001, "m3": 0.2}
    return [bench.prefix + ending for ending in endings], list(endings.values())


def test_10_2_many_PVs(bench: Bench):
    pvnamelist, values = listed(bench)
    names = bench.program(
        """
import daqca as epics

pvnamelist = read_list_pvs()
pv_vals = {}
for name in pvnamelist:
    pv = epics.PV(name)
    pv_vals[name] = pv.get()
""",
        read_list_pvs=lambda: pvnamelist,
    )
    assert names["pv_vals"] == dict(zip(pvnamelist, values, strict=True))


def test_10_2_many_channels(bench: Bench, capsys: pytest.CaptureFixture[str]):
    """The manual stores into tuples; these are lists."""
    pvnamelist, values = listed(bench)
    try:
        bench.program(
            """
from daqca import ca

pvnamelist = read_list_pvs()

pvdata = {}
for name in pvnamelist:
    chid = ca.create_channel(name, connect=False, auto_cb=False) # note 1
    pvdata[name] = [chid, None]

for name, data in pvdata.items():
    ca.connect_channel(data[0])
ca.poll()
for name, data in pvdata.items():
    ca.get(data[0], wait=False) # note 2

ca.poll()
for name, data in pvdata.items():
    val = ca.get_complete(data[0])
    pvdata[name][1] = val

for name, data in pvdata.items():
    print(name, data[1])
""",
            read_list_pvs=lambda: pvnamelist,
        )
    finally:
        daqca.ca.finalize_libca()
    expected = [f"{name} {value}" for name, value in zip(pvnamelist, values, strict=True)]
    assert capsys.readouterr().out.splitlines() == expected


def test_10_2_many_PVs_at_once(bench: Bench):
    """As daqca has it."""
    pvnamelist, values = listed(bench)
    assert daqca.caget_many(pvnamelist) == values


def test_10_3_poll(bench: Bench):
    names = bench.program(
        """
import daqca as epics
pv = epics.PV('XXX')
turns = 0
while not pv.connected:
    epics.poll(evt=1.e-5, iot=0.1)
    turns += 1
"""
    )
    assert names["pv"].get() == 1.0
