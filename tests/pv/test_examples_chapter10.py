"""The examples of the manual's chapter 10: large arrays, many PVs, polling, and processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from types import SimpleNamespace

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


@pytest.fixture
def forks() -> Iterator[None]:
    """A child has the functions of its parent, which are in no file here."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_10_5_multiprocessing(bench: Bench, capfd: pytest.CaptureFixture[str]):
    """The manual waits 0.75 s between two readings, and 0.9 s at the end; here it is until the monitor has told."""
    bench.program(
        """
import daqca as epics
import time
import multiprocessing as mp
import threading

PVN1 = pvnames.double_pv # 'Py:ao2'
PVN2 = pvnames.double_pv2 # 'Py:ao3'

def subprocess(*args):
    print('==subprocess==', args)
    mypvs = [epics.PV(pvname) for pvname in args]

    for i in range(10):
        time.sleep(0.02)
        out = [(p.pvname, p.get(as_string=True)) for p in mypvs]
        out = ', '.join(["%s=%s" % o for o in out])
        print('==sub (%d): %s' % (i, out))

def main_process():
    def monitor(pvname=None, char_value=None, **kwargs):
        print('--main:monitor %s=%s' % (pvname, char_value))
        monitored.set()

    print('--main:')
    pv1 = epics.PV(PVN1)
    print('--main:init %s=%s' % (PVN1, pv1.get()))
    pv1.add_callback(callback=monitor)

    try:
        proc1 = epics.CAProcess(target=subprocess,
                                args=(PVN1, PVN2))
        proc1.start()
        proc1.join()
    except KeyboardInterrupt:
        print('--main: killing subprocess')
        proc1.terminate()

    print('--main: subprocess complete')
    pv1.put(pv1.get() + 1)
    assert monitored.wait(20)
    print('--main:final %s=%s' % (PVN1, pv1.get()))

monitored = threading.Event()
if __name__ == '__main__':
    main_process()
""",
        __name__="__main__",
        pvnames=SimpleNamespace(double_pv=bench.prefix + "m3", double_pv2=bench.prefix + "m1"),
    )
    p = bench.prefix
    assert capfd.readouterr().out.splitlines() == [
        "--main:",
        f"--main:init {p}m3=0.2",
        f"==subprocess== ('{p}m3', '{p}m1')",
        *(f"==sub ({i}): {p}m3=0.200, {p}m1=1.20010" for i in range(10)),
        "--main: subprocess complete",
        f"--main:monitor {p}m3=1.200",
        f"--main:final {p}m3=1.2",
    ]
