"""The examples of the manual's chapter 2, and some of them as a script of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ca_scripts
from support import manual_examples as examples
from support.manual_examples import Bench, make_bench
from support.recording import eventually

import daqca
from daqca import Engine
from daqca.sim import SoftIOC

bench, example_ioc = examples.bench, examples.example_ioc


def test_2_1_1_functional_approach(bench: Bench):
    bench.session(
        """
        >>> from daqca import caget, caput
        >>> m1 = caget('XXX:m1.VAL')
        >>> print(m1)
        1.2001
        >>> caput('XXX:m1.VAL', 1.90)
        1
        >>> print(caget('XXX:m1.VAL'))
        1.9
        """
    )


def test_2_1_2_object_oriented_approach(bench: Bench):
    bench.session(
        """
        >>> from daqca import PV
        >>> pv1 = PV('XXX:m1.VAL')
        >>> print(pv1.get())
        1.2001
        >>> print(pv1.value)
        1.2001
        >>> pv1.put(1.9)
        1
        >>> pv1.value = 1.9
        >>> print(pv1)
        <PV 'XXX:m1.VAL', count=1, type=time_double, access=read/write>
        """
    )
    eventually(lambda: bench.names["pv1"].value == 1.9, "its update came")
    bench.session(
        """
        >>> print(pv1.info)
        == XXX:m1.VAL (time_double) ==
          value      = 1.9
          char_value = '1.90000'
          count      = 1
          nelm       = 1
          type       = time_double
          units      = mm
          precision  = 5
          host       = 127.0.0.1:...
          access     = read/write
          status     = 0
          char_status = NO_ALARM
          severity   = 0
          char_severity = NO_ALARM
          timestamp  = ... (20...-...-... ...:...:...)
          posixseconds = ...
          nanoseconds = ...
          upper_ctrl_limit = 12.5
          lower_ctrl_limit = -12.3
          upper_disp_limit = 12.5
          lower_disp_limit = -12.3
          upper_alarm_limit = nan
          lower_alarm_limit = nan
          upper_warning_limit = nan
          lower_warning_limit = nan
          PV is internally monitored, with 0 user-defined callbacks
        =============================
        """
    )


def test_2_2_1_caget(bench: Bench):
    daqca.caput(bench.prefix + "m1", 0.1, wait=True)
    bench.session(
        r"""
        >>> from daqca import caget, caput, cainfo
        >>> print(caget('XXX:m1.VAL'))      # A double PV
        0.1
        >>> caget('XXX:m1.DESC')    # A string PV
        'Motor 1'
        >>> print(caget('XXX:m1:FOFF'))    # An Enum PV
        1
        >>> caget('XXX:m1.VAL', as_string=True)
        '0.10000'
        >>> caget('XXX:m1:FOFF', as_string=True)
        'Frozen'
        >>> caget('XXX:scan1:P1PA') # A Double Waveform
        array([-0.08      , -0.07895948, -0.07791896, ...,  1.99791896,
                1.99895948,  2.        ]...)
        >>> caget('XXX:scan1:P1PA', as_string=True)
        '<array size=2000, type=time_double>'
        >>> caget('XXX:dir')          # A CHAR waveform
        array([ 84,  58,  92, 120,  97, 115,  95, 117, 115, 101, 114,  92,  77,
                97, 114,  99, 104,  50,  48,  49,  48,  92,  70,  97, 115, 116,
               109,  97, 112...], dtype=uint8)
        >>> caget('XXX:dir',as_string=True)
        'T:\\xas_user\\March2010\\Fastmap'
        """
    )


def test_2_2_2_caput(bench: Bench):
    bench.session(
        """
        >>> from daqca import caget, caput, cainfo
        >>> caput('XXX:m1.VAL',2.30)
        1
        >>> caput('XXX:m1.VAL',-2.30, wait=True)
        1
        >>> caget('XXX:m1.VAL')
        -2.3
        """
    )


def test_2_2_3_cainfo(bench: Bench):
    bench.session(
        """
        >>> from daqca import cainfo
        >>> cainfo('XXX:m1.VAL')
        == XXX:m1.VAL (time_double) ==
          value      = 1.2001
          char_value = '1.20010'
          ...
          lower_warning_limit = nan
          PV is internally monitored, with 0 user-defined callbacks
        =============================
        >>> cainfo('XXX:m1.VAL', print_out=False).splitlines()[1]
        '   value           = 1.2001'
        """
    )


def test_2_2_4_camonitor(bench: Bench, capsys: pytest.CaptureFixture[str]):
    names = bench.program("from daqca import camonitor\nname = 'XXX:m1.VAL'\ncamonitor(name)")
    printed: list[str] = []

    def lines() -> list[str]:
        printed.append(capsys.readouterr().out)
        return "".join(printed).splitlines()

    for value in (1.3, 1.2, 1.1, 1.0):
        daqca.caput(names["name"], value, wait=True)
    eventually(lambda: len(lines()) == 4, "four lines")
    daqca.camonitor_clear(names["name"])
    day_and_time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"
    for line, value in zip(lines(), ("1.30000", "1.20000", "1.10000", "1.00000"), strict=True):
        assert re.fullmatch(rf"{re.escape(names['name'])} {day_and_time} {value}", line), line


def test_2_2_5_camonitor_clear(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names = bench.program(
        """
import daqca as epics
fh = open('PV1.log', 'w')
epics.camonitor('XXX:DMM1Ch2_calc.VAL', writer=fh.write)
wait_for_changes(fh)
epics.camonitor_clear('XXX:DMM1Ch2_calc.VAL')
fh.close()
fh = open('PV1.log', 'r')
lines = [i[:-1] for i in fh.readlines()]
fh.close()
""",
        wait_for_changes=lambda file: eventually(lambda: file.tell() > 200, "it changed"),
    )
    found = [
        re.fullmatch(
            rf"{bench.prefix}DMM1Ch2_calc\.VAL \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{6}} (-\d+\.\d{{4}})", line
        )
        for line in names["lines"]
    ]
    assert len(found) >= 3
    values = [float(match[1]) for match in found if match]
    assert len(values) == len(found), names["lines"]
    assert np.allclose(np.diff(values), -0.0625, atol=1.1e-4)


def test_a_script_of_its_own(example_ioc: tuple[SoftIOC, str], point_at: Callable[..., Any]):
    """With nothing but an import: it starts, works, and ends by itself, without a word of complaint."""
    ioc, prefix = example_ioc
    point_at(ioc)
    with Engine() as engine:
        make_bench(ioc, prefix, engine)
        daqca.use_engine(None)
    done = ca_scripts.run(
        Bench(ioc, prefix).adapt(
            """
from daqca import PV, caget, caput, camonitor, camonitor_clear, caget_many
print(caput('XXX:m1.VAL', 1.90, wait=True))
print(caget('XXX:m1.VAL'), caget('XXX:m1.VAL', as_string=True))
pv1 = PV('XXX:m1.VAL')
pv1.put(2.5, wait=True)
print(pv1.get(), pv1.value)
camonitor('XXX:m1.VAL')
print(caget_many(['XXX:m1.VAL', 'XXX:m1:FOFF'], as_string=True))
print(caget('XXX:missing', timeout=0.1))
"""
        ),
        begin="",
    )
    assert done.stdout == "1\n1.9 1.90000\n2.5 2.5\n['2.50000', 'Frozen']\nNone\n"
    assert done.returncode == 0
    assert done.stderr.startswith(f"caget waited 0.1 s: cannot connect {prefix}missing: no server answered")
    assert done.stderr.count("\n") == 1
