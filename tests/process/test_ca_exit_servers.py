"""Programs with the low-level interface end while a server stands still; and what a server sees of their end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import ca_records
from support.ca_scripts import quiet, running
from support.ioc import IOCFactory

from daqca.sim import SimIOC

ca = ca_records.ca
PointAt = Callable[..., Any]


@pytest.mark.parametrize("preemptive", [True, False])
def test_ctrl_c_while_a_put_is_waited_for(make_ioc: IOCFactory, point_at: PointAt, preemptive: bool):
    ioc = make_ioc(scalars=20, changing=3)
    point_at(ioc)
    body = """
    ca.PREEMPTIVE_CALLBACK = sys.argv[2] == "True"
    keep, chid = watched("calc00001"), connected("ao00001")
    print("ready", flush=True)
    sys.stdin.readline()
    print("waiting", flush=True)
    ca.put(chid, 1.0, wait=True, timeout=60)
    """
    with running(body, ioc.prefix, str(preemptive)) as script:
        script.says("ready")
        ioc.suspend()
        try:
            script.tell()
            script.says("waiting")
            script.process.send_signal(signal.SIGINT)
            done = script.end()
        finally:
            ioc.resume()
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize("end", ["sys.exit(5)", "ca.finalize_libca(1.0); sys.exit(5)", "os._exit(5)"])
@pytest.mark.parametrize("preemptive", [True, False])
def test_while_the_server_stands_still(make_ioc: IOCFactory, point_at: PointAt, preemptive: bool, end: str):
    """With a put that a thread waits for, and with more to be sent than the network takes."""
    ioc = make_ioc(scalars=20, changing=3)
    point_at(ioc)
    body = f"""
    ca.PREEMPTIVE_CALLBACK = sys.argv[2] == "True"
    keep, chid, array = watched("calc00001"), connected("ao00001"), connected("wf:large")
    print("ready", flush=True)
    sys.stdin.readline()
    waiting = [0]
    def wait():
        waiting.append(1)
        try:
            ca.put(chid, 1.0, wait=True, timeout=60)
        except ca.ChannelAccessException:
            pass
    begun(wait)
    until(lambda: len(waiting) > 1)
    ca.put(chid, 2.0, callback=lambda **known: None)
    ca.get(chid, wait=False)
    import numpy
    for i in range(40):
        ca.put(array, numpy.full(100_000, float(i)))
    print("end", flush=True)
    {end}
    """
    with running(body, ioc.prefix, str(preemptive)) as script:
        script.says("ready")
        ioc.suspend()
        try:
            script.tell()
            script.says("end")
            assert quiet(script.end(), 5) == ""
        finally:
            ioc.resume()


@pytest.mark.parametrize(
    "end", ["sys.exit(5)", "ca.finalize_libca(); sys.exit(5)", "ca.destroy_context(); sys.exit(5)"]
)
@pytest.mark.parametrize("preemptive", [True, False])
def test_what_was_put_last_arrives(make_ioc: IOCFactory, point_at: PointAt, ca: Any, preemptive: bool, end: str):
    """Also if it is too much at once for the network, and with updates that nobody has read."""
    ioc = make_ioc(scalars=20, changing=3)
    point_at(ioc)
    body = f"""
    ca.PREEMPTIVE_CALLBACK = sys.argv[2] == "True"
    keep, array = watched("calc00001"), connected("wf:large")
    print("ready", flush=True)
    sys.stdin.readline()
    import numpy
    for i in range(1, 31):
        ca.put(array, numpy.full(100_000, float(i)))
    print("end", flush=True)
    {end}
    """
    with running(body, ioc.prefix, str(preemptive)) as script:
        script.says("ready")
        ioc.suspend()
        try:
            script.tell()
            script.says("end")
        finally:
            ioc.resume()
        quiet(script.end(), 5)
    array = ca.create_channel(ioc.prefix + "wf:large", connect=True)
    assert np.unique(ca.get(array, timeout=20)).tolist() == [30.0]


def test_the_server_sees_the_end_at_once(make_ioc: IOCFactory, point_at: PointAt):
    """A client that has ended is no longer counted by the IOC: it closed its circuits, and nobody has them open."""
    ioc = make_ioc(scalars=20, changing=3)
    point_at(ioc)
    before = _connections(ioc)
    with running("keep = watched('calc00001'); print('ready', flush=True); sys.stdin.readline()", ioc.prefix) as script:
        script.says("ready")
        assert len(_connections(ioc)) == len(before) + 1
        script.tell()
        quiet(script.end())
    end = time.monotonic() + 10
    while len(_connections(ioc)) > len(before):
        assert time.monotonic() < end, "the IOC still has the circuit"
        time.sleep(0.01)


def _connections(ioc: SimIOC) -> set[str]:
    """The descriptors of an IOC's sockets."""
    folder = f"/proc/{ioc.pid}/fd"
    found = set()
    for name in os.listdir(folder):
        try:
            link = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if link.startswith("socket:"):
            found.add(link)
    return found
