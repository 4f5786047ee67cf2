"""The examples of the manual's chapter 3, on PV objects."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import pytest
from support import manual_examples as examples
from support.manual_examples import DIRECTORY, Bench
from support.recording import eventually

import daqca

bench, own_bench, example_ioc = examples.bench, examples.own_bench, examples.example_ioc


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
