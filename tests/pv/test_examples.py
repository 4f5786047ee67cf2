"""The examples of the manual's chapters 2, 3 and 10, in Python 3, on records of these names.

The sessions are as in the manual but for these things: the prompt shows what a function returns, as Python does; the
motor and its fields ``.FOFF`` and ``.P1PA`` are records that every IOC has, which tell a limit of no alarm as NaN;
types are those of PyEpics 3.5, like ``time_double``; and who waits for a minute there waits here for what is to happen.
"""

from __future__ import annotations

import doctest
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ca_scripts
from support.engines import MakeEngine
from support.ioc import IOCFactory, Servers, random_prefix
from support.recording import eventually

import daqca
from daqca import Engine
from daqca.proxies.cache import cache
from daqca.sim import SoftIOC

MOTOR = """
record(ao, "{P}m1") {{
    field(DESC, "Motor 1") field(VAL, 1.2001) field(PINI, YES) field(PREC, 5) field(EGU, mm)
    field(DRVH, 12.5) field(DRVL, -12.3) field(HOPR, 12.5) field(LOPR, -12.3)
}}
record(ao, "{P}m3") {{
    field(VAL, 0.2) field(PINI, YES) field(PREC, 3) field(EGU, mm)
    field(DRVH, 5.49393415451) field(DRVL, -14.5060658455) field(HOPR, 5.49393415451) field(LOPR, -14.5060658455)
}}
record(ao, "{P}") {{ field(VAL, 1) field(PINI, YES) field(PREC, 3) }}
record(ao, "{P}Y") {{ field(VAL, 0) field(PINI, YES) }}
record(ao, "{P}Z") {{ field(VAL, 0) field(PINI, YES) }}
record(bo, "{P}m1:FOFF") {{ field(VAL, 1) field(PINI, YES) field(ZNAM, Variable) field(ONAM, Frozen) }}
record(waveform, "{P}scan1:P1PA") {{ field(FTVL, DOUBLE) field(NELM, 2000) }}
record(waveform, "{P}dir") {{ field(FTVL, CHAR) field(NELM, 256) }}
record(waveform, "{P}LargeWaveform") {{ field(FTVL, DOUBLE) field(NELM, 100000) }}
record(calc, "{P}DMM1Ch2_calc") {{ field(CALC, "VAL-0.0625") field(SCAN, ".1 second") field(PREC, 4) }}
record(bo, "{P}busy") {{ field(FLNK, "{P}delay") }}
record(seq, "{P}delay") {{
    field(SELM, Mask) field(SELL, "{P}busy.VAL") field(DLY1, 0.3) field(DO1, 0) field(LNK1, "{P}busy.VAL NPP")
}}
"""
DIRECTORY = r"T:\xas_user\March2010\Fastmap"


class Bench:
    """The records, and what runs the examples."""

    def __init__(self, ioc: SoftIOC, prefix: str):
        self.ioc = ioc
        self.prefix = prefix
        self.names: dict[str, Any] = {}

    def adapt(self, text: str) -> str:
        """An example with the names that the records have here."""
        for name in ("XXX:", "XXX.", "13IDA:", "xxx.", "XX:"):
            text = text.replace(name, self.prefix + ("" if name[-1] == ":" else "."))
        return re.sub(r"'(LargeWaveform|XXX|AAA|BBB|CCC|YYY|ZZZ)'", self._whole_name, text)

    def _whole_name(self, match: re.Match[str]) -> str:
        endings = {"LargeWaveform": "LargeWaveform", "YYY": "Y", "ZZZ": "Z", "BBB": "Y", "CCC": "Z"}
        return repr(self.prefix + endings.get(match[1], ""))

    def session(self, text: str) -> None:
        """Run a session at the prompt; what it shows must be what it says."""
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        test = doctest.DocTestParser().get_doctest(self.adapt(text), self.names, "example", None, None)
        assert test.examples
        wrong: list[str] = []
        doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=wrong.append, clear_globs=False)
        self.names = test.globs
        assert not wrong, "".join(wrong)

    def program(self, text: str, **names: Any) -> dict[str, Any]:
        """Run a program; returns its names."""
        self.names.update(names)
        exec(compile(self.adapt(text), "<example>", "exec"), self.names)
        return self.names


@pytest.fixture(scope="module")
def example_ioc(servers: Servers, repeater: Any) -> Iterator[tuple[SoftIOC, str]]:
    factory, prefix = IOCFactory(servers), random_prefix()
    yield factory(MOTOR.format(P=prefix)), prefix
    factory.stop()


def make_bench(ioc: SoftIOC, prefix: str, engine: Engine) -> Bench:
    values = {"m1": 1.2001, "m3": 0.2, "": 1.0, "Y": 0.0, "Z": 0.0, "m1:FOFF": 1, "dir": DIRECTORY}
    values["scan1:P1PA"] = np.linspace(-0.08, 2, 2000)
    result = engine.put_many([prefix + ending for ending in values], list(values.values()), wait=True, timeout=20)
    assert result.ok, result.failed
    eventually(lambda: engine.get(prefix + "busy").value == 0, "what another test began has ended")
    daqca.use_engine(engine)
    return Bench(ioc, prefix)


@pytest.fixture
def bench(example_ioc: tuple[SoftIOC, str], point_at: Callable[..., Any], make_engine: MakeEngine) -> Iterator[Bench]:
    """The records with their values of the beginning, and an engine of each mode."""
    point_at(example_ioc[0])
    yield make_bench(*example_ioc, make_engine())
    cache.clear()
    daqca.use_engine(None)


@pytest.fixture
def own_bench(make_ioc: IOCFactory, point_at: Callable[..., Any], make_engine: MakeEngine) -> Iterator[Bench]:
    """As ``bench``, with an IOC that the test may stop."""
    prefix = random_prefix()
    ioc = make_ioc(MOTOR.format(P=prefix))
    point_at(ioc)
    yield make_bench(ioc, prefix, make_engine())
    cache.clear()
    daqca.use_engine(None)


# --- chapter 2 ----------------------------------------------------------------------------------


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


# --- chapter 3 ----------------------------------------------------------------------------------


def test_3_1_the_class(bench: Bench):
    bench.session(
        """
        >>> from daqca import PV
        >>> p = PV('XX:m1.VAL')
        >>> print(p.get())
        1.2001
        >>> print(p.count, p.type)
        1 time_double
        """
    )


def test_3_2_character_arrays(bench: Bench):
    names = bench.program(
        """
from daqca import caget, PV
val = caget('XXX:dir', as_numpy=False) + [0]
firstnull = val.index(0)
if firstnull == -1: firstnull = len(val)
char_value = ''.join([chr(i) for i in val[:firstnull]]).rstrip()
pv = PV('XXX:dir')
"""
    )
    assert names["char_value"] == DIRECTORY
    assert names["pv"].char_value == DIRECTORY


def test_3_3_masks(bench: Bench):
    names = bench.program(
        """
from daqca import PV, dbr
pv1 = PV('AAA', auto_monitor=dbr.DBE_VALUE)
pv2 = PV('BBB', auto_monitor=dbr.DBE_VALUE|dbr.DBE_ALARM)
pv3 = PV('CCC', auto_monitor=dbr.DBE_VALUE|dbr.DBE_ALARM|dbr.DBE_LOG)
"""
    )
    for number, mask in ((1, 1), (2, 5), (3, 7)):
        pv = names[f"pv{number}"]
        assert pv.wait_for_connection(20)
        eventually(lambda pv=pv: pv.auto_monitor_mask is not None, "it is monitored")
        assert pv.auto_monitor_mask == mask
        told: list[Any] = []
        pv.add_callback(lambda value, told=told, **_: told.append(value))
        pv.put(4, wait=True)
        eventually(lambda told=told: told and told[-1] == 4, "its callback was called")


def test_3_6_wait(bench: Bench):
    bench.session(
        """
        >>> import daqca as epics
        >>> p = epics.PV('XXX:busy')
        >>> p.put(1.0, wait=True)
        1
        >>> print('Done', p.get())
        Done 0
        >>> p.put(1.0, wait=True, timeout=30)
        1
        >>> p.put(1.0, wait=True, timeout=0.01)
        -1
        """
    )


def test_3_6_put_complete(bench: Bench):
    names = bench.program(
        """
import time
import daqca as epics
p = epics.PV('XXX:busy')
begin = time.monotonic()
p.put(1.0, use_complete=True)
waiting = True
turns = 0
while waiting:
    time.sleep(0.001)
    waiting = not p.put_complete
    turns += 1
took = time.monotonic() - begin
"""
    )
    assert names["took"] >= 0.3
    assert names["turns"] > 1


def test_3_6_put_complete_of_many(bench: Bench, capsys: pytest.CaptureFixture[str]):
    bench.program(
        """
import time
import daqca as epics
pvgroup = (epics.PV('XXX'), epics.PV('YYY'), epics.PV('ZZZ'))
newvals = (1.0, 2.0, 3.0)
for pv, val in zip(pvgroup, newvals):
    pv.put(val, use_complete=True)

waiting = True
while waiting:
    time.sleep(0.001)
    waiting = not all([pv.put_complete for pv in pvgroup])
print('All puts are done!')
"""
    )
    assert capsys.readouterr().out == "All puts are done!\n"
    assert [pv.get() for pv in bench.names["pvgroup"]] == [1.0, 2.0, 3.0]


def test_3_6_put_callback(bench: Bench, capsys: pytest.CaptureFixture[str]):
    bench.program(
        """
import daqca as epics
pv = epics.PV('XXX')
def onPutComplete(pvname=None, **kws):
    print('Put done for %s' % pvname)
pv.put(1.0, callback=onPutComplete)
"""
    )
    printed: list[str] = []

    def text() -> str:
        printed.append(capsys.readouterr().out)
        return "".join(printed)

    eventually(text, "it was called")
    assert text() == f"Put done for {bench.prefix}\n"


def test_3_7_get_pv(bench: Bench):
    bench.session(
        """
        >>> from daqca.pv_proxy import get_pv, _PVcache_
        >>> p = get_pv('XXX:m1.VAL', form='time', connect=True, timeout=20, context=None)
        >>> p.get()
        1.2001
        >>> get_pv('XXX:m1.VAL') is p
        True
        >>> [name for name, form, context in _PVcache_]
        ['XXX:m1.VAL']
        """
    )


def test_3_8_1_basic_use(bench: Bench):
    bench.session(
        """
        >>> from daqca import PV
        >>> p1 = PV('xxx.VAL')
        >>> print(p1.value)
        1.0
        >>> p1.value = 2.00
        >>> from daqca import PV
        >>> p1 = PV('xxx.VAL')
        >>> print(p1.get(use_monitor=False))
        2.0
        >>> p1.put(value = 1.00, wait=True)
        1
        >>> p1.get(as_string=True)
        '1.000'
        >>> p1.char_value
        '1.000'
        """
    )


def test_3_8_2_info_and_properties(bench: Bench):
    bench.session(
        """
        >>> import daqca as epics
        >>> p = epics.PV('13IDA:m3')
        >>> print(p.info)
        == 13IDA:m3 (time_double) ==
        value      = 0.2
        char_value = '0.200'
        count      = 1
        nelm       = 1
        type       = time_double
        units      = mm
        precision  = 3
        host       = 127.0.0.1:...
        access     = read/write
        status     = 0
        char_status = NO_ALARM
        severity   = 0
        char_severity = NO_ALARM
        timestamp  = ... (20...)
        posixseconds = ...
        nanoseconds = ...
        upper_ctrl_limit = 5.49393415451
        lower_ctrl_limit = -14.5060658455
        upper_disp_limit = 5.49393415451
        lower_disp_limit = -14.5060658455
        upper_alarm_limit = nan
        lower_alarm_limit = nan
        upper_warning_limit = nan
        lower_warning_limit = nan
        PV is internally monitored, with 0 user-defined callbacks
        =============================
        >>> print(p.type)
        time_double
        >>> print(p.units, p.precision, p.lower_disp_limit)
        mm 3 -14.5060658455
        """
    )


def test_3_8_2_properties_without_info(bench: Bench):
    """They are asked for when they are read."""
    bench.session(
        """
        >>> import daqca as epics
        >>> p = epics.PV('13IDA:m3')
        >>> print(p.units, p.precision, p.lower_disp_limit)
        mm 3 -14.5060658455
        """
    )


def test_3_8_4_put(bench: Bench):
    bench.session(
        """
        >>> import daqca as epics
        >>> p = epics.PV('XXX')
        >>> p.put(1.5)
        1
        >>> p.get(use_monitor=False)
        1.5
        >>> p = epics.PV('XXX')
        >>> p.value = 1.0
        >>> p.get(use_monitor=False)
        1.0
        >>> p.units = 'mm'
        Traceback (most recent call last):
        AttributeError: ...
        """
    )


def test_3_8_5_callback(bench: Bench, capsys: pytest.CaptureFixture[str]):
    pvname = bench.prefix + "m1"
    told = threading.Event()

    def change() -> None:
        daqca.caput(pvname, 1.25, wait=True)
        told.wait(20)

    changer = threading.Thread(target=change)
    bench.program(
        """
import daqca as epics
import time
def onChanges(pvname=None, value=None, char_value=None, **kw):
    print('PV Changed! ', pvname, char_value, time.ctime())
    if value == 1.25:
        told.set()

mypv = epics.PV(pvname)
mypv.add_callback(onChanges)

print('Now wait for changes')
changer.start()

t0 = time.time()
while time.time() - t0 < 60.0 and not told.is_set():
    time.sleep(1.e-3)
print('Done.')
""",
        pvname=pvname,
        told=told,
        changer=changer,
    )
    changer.join()
    *changes, last = capsys.readouterr().out.splitlines()
    assert last == "Done."
    changes.remove("Now wait for changes")  # the first callback may come before it
    values = [re.fullmatch(rf"PV Changed!  {re.escape(pvname)} (\S+) (.+)", line) for line in changes]
    assert [match and match[1] for match in values][-1] == "1.25000"
    for match in values:
        assert match is not None
        assert abs(time.mktime(time.strptime(match[2])) - time.time()) < 60


def test_3_8_6_connection_callback(own_bench: Bench, capsys: pytest.CaptureFixture[str]):
    names = own_bench.program(
        """
import daqca as epics
import time
import sys

write = sys.stdout.write
def onConnectionChange(pvname=None, conn=None, **kws):
    write('PV connection status changed: %s %s\\n' % (pvname, repr(conn)))
    sys.stdout.flush()

def onValueChange(pvname=None, value=None, host=None, **kws):
    write('PV value changed: %s (%s) %s\\n' % (pvname, host, repr(value)))
    sys.stdout.flush()

mypv = epics.PV(motor1,
                connection_callback= onConnectionChange,
                callback= onValueChange)

mypv.get()
""",
        motor1=own_bench.prefix + "m1",
    )
    name, host = names["motor1"], f"127.0.0.1:{own_bench.ioc.server_port}"
    printed: list[str] = []

    def lines() -> list[str]:
        printed.append(capsys.readouterr().out)
        return "".join(printed).splitlines()

    eventually(lambda: len(lines()) == 2, "connected, with its value")
    daqca.caput(name, 3.5, wait=True)
    eventually(lambda: len(lines()) == 3, "another value")
    own_bench.ioc.stop()
    eventually(lambda: len(lines()) == 4, "it is lost")
    own_bench.ioc.start()
    eventually(lambda: len(lines()) == 6, "it is back", 50)
    assert lines() == [
        f"PV connection status changed: {name} True",
        f"PV value changed: {name} ({host}) 1.2001",
        f"PV value changed: {name} ({host}) 3.5",
        f"PV connection status changed: {name} False",
        f"PV connection status changed: {name} True",
        f"PV value changed: {name} ({host}) 1.2001",
    ]


# --- chapter 10 ---------------------------------------------------------------------------------


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


# --- as scripts ---------------------------------------------------------------------------------


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
