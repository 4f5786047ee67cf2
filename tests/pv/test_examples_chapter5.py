"""The examples of the manual's chapter 5, on arrays: what it does at the prompt, on the records of the examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support import manual_examples as examples
from support.ioc import IOCFactory, random_prefix
from support.manual_examples import DIRECTORY, Bench

import daqca
from daqca import Engine, ca
from daqca.pv_proxy import PV

bench, example_ioc = examples.bench, examples.example_ioc


@pytest.fixture(autouse=True)
def low_level(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a session sets is as it was afterwards, and the low-level interface is ended."""
    for name in ("HAS_NUMPY", "AUTOMONITOR_MAXLENGTH"):
        monkeypatch.setattr(ca, name, getattr(ca, name))
    yield
    ca.finalize_libca()


def test_5_1_arrays_without_numpy(bench: Bench):
    """There are lists, and no ctypes arrays to make lists of."""
    bench.session(
        """
        >>> import daqca as epics
        >>> from daqca import ca
        >>> p = epics.PV('XX:scan1:P1PA')
        >>> type(p.get()).__name__, type(p.get(as_numpy=False)).__name__
        ('ndarray', 'list')
        >>> ca.HAS_NUMPY = False # turn numpy off for session
        >>> type(p.get()).__name__, type(epics.caget('XX:scan1:P1PA')).__name__
        ('list', 'list')
        >>> ldat = list(p.get())
        >>> len(ldat), ldat[0], ldat[-1]
        (2000, -0.08, 2.0)
        >>> epics.caget('XX:scan1:P1PA', as_numpy=False) == ldat
        True
        """
    )


def test_5_2_variable_length_arrays(bench: Bench):
    """The put is waited for, so that the monitor has told it."""
    bench.session(
        """
        >>> import daqca as epics
        >>> from daqca import ca
        >>> p = epics.PV('XX:scan1:P1PA')
        >>> p.wait_for_connection(20)
        True
        >>> print(p)
        <PV '...scan1:P1PA', count=2000/2000, type=time_double, access=read/write>
        >>> import numpy
        >>> p.put(numpy.arange(10)/5.0, wait=True)
        1
        >>> p.get()
        array([0. , 0.2, 0.4, 0.6, 0.8, 1. , 1.2, 1.4, 1.6, 1.8])
        >>> p.count, p.nelm
        (10, 2000)
        >>> ca.version() >= '4.13'
        True
        """
    )


def test_5_3_character_arrays(bench: Bench):
    names = bench.program(
        """
from daqca import PV, ca, caget
pvname = 'XXX:dir'
pv = PV(pvname)
info = pv.info
plain_val = pv.get()
char_val = pv.get(as_string=True)
got = caget(pvname, as_string=True)
chid = ca.create_channel(pvname)
ca.connect_channel(chid, timeout=20)
low = ca.get(chid, as_string=True)
arr_data = pv.get()
arr_bytes = bytes(list(arr_data))
arr_string = str(arr_bytes, 'LATIN-1')
"""
    )
    assert names["char_val"] == names["got"] == names["low"] == DIRECTORY
    assert names["arr_string"].rstrip("\0") == DIRECTORY
    assert names["plain_val"].dtype == np.uint8
    assert names["plain_val"][:5].tolist() == [84, 58, 92, 120, 97]
    assert "(time_char)" in names["info"]
    assert "PV is internally monitored" in names["info"]


def test_5_3_1_which_arrays_are_monitored(bench: Bench):
    names = bench.program(
        """
from daqca import PV, ca
pv3 = PV('LargeWaveform')
pv2 = PV('XXX:m1', auto_monitor=True)
pv1 = PV('LargeWaveform', auto_monitor=False)
pv0 = PV('XXX:scan1:P1PA')
connected = [pv.wait_for_connection(20) for pv in (pv0, pv1, pv2, pv3)]
before = ca.AUTOMONITOR_MAXLENGTH
monitored = [pv.auto_monitor for pv in (pv0, pv1, pv2, pv3)]
ca.AUTOMONITOR_MAXLENGTH = 2000
fewer = PV('XXX:scan1:P1PA')
connected.append(fewer.wait_for_connection(20))
"""
    )
    assert names["connected"] == [True] * 5
    assert names["before"] == 65536
    assert names["monitored"] == [True, False, True, False]
    assert names["fewer"].auto_monitor is False


@pytest.mark.parametrize("limit", [None, "16384"])
def test_5_3_1_large_arrays_need_no_variable(bench: Bench, make_engine: Any, limit: str, monkeypatch: Any):
    """``EPICS_CA_MAX_ARRAY_BYTES`` is not needed: an array is as large as it is."""
    if limit is not None:
        monkeypatch.setenv("EPICS_CA_MAX_ARRAY_BYTES", limit)
    numbers = np.random.default_rng(5).normal(size=100_000)
    pv = PV(bench.prefix + "LargeWaveform", engine=make_engine())
    assert pv.put(numbers, wait=True, timeout=20) == 1
    assert np.array_equal(pv.get(timeout=20), numbers)


def test_5_4_an_image(make_ioc: IOCFactory, point_at: Any, make_engine: Any):
    """The value is a buffer, which any library for images takes as it is."""
    prefix = random_prefix()
    ioc = make_ioc(f'record(waveform, "{prefix}image1:ArrayData") {{ field(FTVL, UCHAR) field(NELM, 61200) }}')
    point_at(ioc)
    engine: Engine = make_engine()
    width, height = 170, 120
    sent = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    engine.put(f"{prefix}image1:ArrayData", sent.ravel(), timeout=20)
    img_pv = daqca.PV(f"{prefix}image1:ArrayData", engine=engine)
    raw_image = img_pv.get(timeout=20)
    assert bytes(memoryview(raw_image)) == sent.tobytes()
    assert np.array_equal(np.frombuffer(raw_image, np.uint8).reshape(height, width, 3), sent)
