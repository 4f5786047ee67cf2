"""Synchronous groups of the low-level interface, and `_unpack`."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support.background import Background
from support.ioc import IOCFactory, random_prefix
from support.lowlevel.database import READ, access_rules, records
from support.lowlevel.watching import Calls, connected, current, read, when_told

from daqca import ca, dbr
from daqca.ca.eca import ECA
from daqca.ca.lowlevel.groups import _groups
from daqca.errors import (
    CASeverityException,
    ChannelAccessException,
    ChannelAccessGetFailure,
    ConversionError,
)
from daqca.sim import SoftIOC


class Target(SoftIOC):
    """Records of every type, of which some are written."""

    def __init__(self, prefix: str, ports: Any):
        self.prefix = prefix
        own = [f'record(ao, "{prefix}X{i}") {{ field(PINI, "YES") }}' for i in range(8)]
        super().__init__(records(prefix) + "\n".join(own), access_security=access_rules(), ports=ports)

    def __call__(self, ending: str) -> Any:
        return connected(self.prefix + ending)


@pytest.fixture(scope="module")
def target(servers: Any, repeater: Any) -> Iterator[Target]:
    factory = IOCFactory(servers)
    yield factory.adopt(Target(random_prefix(), servers.ports()))
    factory.stop()


@pytest.fixture(autouse=True)
def _library(target: Target, point_at: Any) -> Iterator[None]:
    point_at(target)
    yield
    ca.finalize_libca()


@pytest.fixture
def xs(target: Target) -> list[Any]:
    """The channels of the manual's example, at 0."""
    chids = [target(f"X{i}") for i in range(3)]
    for chid in chids:
        ca.put(chid, 0, wait=True)
    return chids


def in_flight() -> int:
    """Requests that have no answer yet, of the current context."""
    return len(current().operations)


# --- the manual's examples ------------------------------------------------------------------


def test_the_example_of_sg_get(target: Target):
    chid1 = target("ai")
    sg = ca.sg_create()
    data = ca.sg_get(sg, chid1)
    ca.sg_block(sg)
    assert ca._unpack(data, chid=chid1) == 12.3456
    assert ca._unpack(chid1, data) == 12.3456
    assert ca._unpack(data) == 12.3456


def test_the_long_example(xs: list[Any]):
    """What is got is what is there when the group is blocked on; what is put arrives then, and not before."""
    sg = ca.sg_create()
    data = [ca.sg_get(sg, chid) for chid in xs]
    for i, chid in enumerate(xs):
        ca.put(chid, i + 1, wait=True)
    assert [ca._unpack(dat, chid=chid) for dat, chid in zip(data, xs, strict=True)] == [None] * 3
    assert ca.sg_block(sg) == dbr.ECA_NORMAL
    assert [ca._unpack(dat, chid=chid) for dat, chid in zip(data, xs, strict=True)] == [1, 2, 3]
    assert ca.sg_reset(sg) == dbr.ECA_NORMAL
    for chid in xs:
        assert ca.sg_put(sg, chid, 0) == dbr.ECA_NORMAL
    assert [read(chid) for chid in xs] == [1, 2, 3]
    ca.sg_block(sg)
    assert [read(chid) for chid in xs] == [0, 0, 0]
    assert ca.sg_delete(sg) == dbr.ECA_NORMAL


def test_gets_and_puts_go_out_in_their_order(xs: list[Any]):
    sg = ca.sg_create()
    first = ca.sg_get(sg, xs[0])
    ca.sg_put(sg, xs[0], 5)
    second = ca.sg_get(sg, xs[0])
    ca.sg_put(sg, xs[0], 6)
    ca.sg_put(sg, xs[1], 7)
    ca.sg_block(sg)
    assert [ca._unpack(first), ca._unpack(second), read(xs[0]), read(xs[1])] == [0, 5, 6, 7]
    assert in_flight() == 0


# --- values ---------------------------------------------------------------------------------


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, (np.ndarray, ctypes.Array)):
        same_kind = type(one) is type(other) and getattr(one, "dtype", None) == getattr(other, "dtype", None)
        return same_kind and np.array_equal(np.array(one), np.array(other), equal_nan=np.array(one).dtype.kind == "f")
    return type(one) is type(other) and (one == other or one != one)


@pytest.mark.parametrize(
    "options", [{}, {"as_string": True}, {"as_numpy": False}, {"row": dbr.TIME_STRING}, {"ftype": dbr.STRING}]
)
def test_a_get_of_a_group_gives_what_a_get_gives(target: Target, options: dict[str, Any]):
    """Of every record, all at once."""
    sg, added = ca.sg_create(), []
    for ending in READ:
        chid, how = target(ending), dict(options)
        if (row := how.pop("row", None)) is not None:
            how["ftype"] = ca.field_type(chid) + row
        added.append((chid, how, ca.sg_get(sg, chid, **how)))
    ca.sg_block(sg)
    for chid, how, data in added:
        try:
            expected = read(chid, **how)
        except ChannelAccessGetFailure as error:
            with pytest.raises(ChannelAccessGetFailure, match=str(error)):
                ca._unpack(data, chid=chid)
            continue
        value = ca._unpack(data, chid=chid)
        assert equal(value, expected), (chid.pvname, value, expected)


def test_options_of_unpack(target: Target):
    wave, ai, text = target("wf:long"), target("ai"), target("text")
    sg = ca.sg_create()
    data, string, number = ca.sg_get(sg, wave), ca.sg_get(sg, text, as_string=True), ca.sg_get(sg, ai)
    assert "to come" in repr(data)
    ca.sg_block(sg)
    assert repr(data) == f"<data of '{target.prefix}wf:long', here>"
    full = [-(2**31), -1, 0, 1, 2**31 - 1]
    assert ca._unpack(data).tolist() == full
    assert ca._unpack(data, count=2).tolist() == full[:2]
    assert ca._unpack(wave, data, 3).tolist() == full[:3]
    found = ca._unpack(data, as_numpy=False)
    assert isinstance(found, ctypes.Array)
    assert list(found) == full
    assert ca._unpack(string).startswith("A text that is longer")
    assert ca._unpack(int(ai), number) == 12.3456
    assert ca._unpack(None, None) is None
    assert ca._unpack(ai, None) is None


def test_unpack_of_ctypes_data(target: Target):
    """As a program has them that speaks with libca itself."""
    doubles = (dbr.Map[dbr.DOUBLE] * 3)(1.5, 2.5, 3.5)
    assert ca._unpack(None, doubles, ftype=dbr.TIME_DOUBLE).tolist() == [1.5, 2.5, 3.5]
    assert ca._unpack(None, doubles, ftype=dbr.DOUBLE, count=2).tolist() == [1.5, 2.5]
    assert ca._unpack(None, doubles, ftype=dbr.DOUBLE, count=1) == 1.5
    assert ca._unpack(target("wf:double"), doubles).dtype == np.float64
    numbers = ca._unpack(None, (dbr.Map[dbr.SHORT] * 2)(-1, 2))
    assert (numbers.tolist(), numbers.dtype) == ([-1, 2], np.int16)
    assert ca._unpack(target("ai"), (dbr.Map[dbr.DOUBLE] * 1)(7.0)) == 7.0
    texts = (dbr.Map[dbr.STRING] * 2)()
    texts[0].value, texts[1].value = b"one", "µ".encode()
    assert ca._unpack(None, texts, ftype=dbr.STRING) == ["one", "µ"]
    assert ca._unpack(target("stringin"), texts, count=1) == "one"
    assert ca._unpack(target("wf:string"), texts, count=1) == ["one"]
    chars = (dbr.Map[dbr.CHAR] * 3)(65, 66, 0)
    assert ca._unpack(target("text"), chars, count=1).tolist() == [65]
    kept = ca._unpack(None, doubles, ftype=dbr.DOUBLE, as_numpy=False, count=2)
    assert isinstance(kept, ctypes.Array)
    assert list(kept) == [1.5, 2.5]


@pytest.mark.parametrize(
    ("ending", "value", "expected"),
    [
        ("ao", "2.5", 2.5),
        ("longout", 7.0, 7),
        ("mbbo", "state TW", 2),
        ("stringout", "text", "text"),
        ("wf:double", [1, 2.5], [1.0, 2.5]),
        ("wf:string", ["a", "b"], ["a", "b"]),
        ("text", "a long text", "a long text"),
    ],
)
def test_puts_of_every_kind(target: Target, ending: str, value: Any, expected: Any):
    chid, sg = target(ending), ca.sg_create()
    ca.sg_put(sg, chid, value)
    ca.sg_block(sg)
    found = read(chid, as_string=ending == "text")
    assert (found.tolist() if isinstance(found, np.ndarray) else found) == expected


# --- life of a group ------------------------------------------------------------------------


def test_the_gid_as_object_and_as_number(xs: list[Any]):
    sg = ca.sg_create()
    assert isinstance(sg, dbr.ulong_t)
    for gid in (sg, sg.value, dbr.ulong_t(sg.value)):
        data = ca.sg_get(gid, xs[0])
        ca.sg_put(gid, xs[1], 4)
        with pytest.raises(CASeverityException, match="IO operations are in progress"):
            ca.sg_test(gid)
        assert ca.sg_block(gid) == dbr.ECA_NORMAL
        assert ca.sg_test(gid) == dbr.ECA_IODONE
        assert ca._unpack(data) == 0
        ca.sg_reset(gid)
    assert ca.sg_create().value != sg.value
    assert repr(sg) == f"<Group {sg.value}: 0 to be sent, 0 under way>"
    ca.sg_delete(sg.value)
    assert sg.value not in _groups


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sg_get": lambda gid, chid: ca.sg_get(gid, chid),
    "sg_put": lambda gid, chid: ca.sg_put(gid, chid, 1),
    "sg_block": lambda gid, chid: ca.sg_block(gid),
    "sg_test": lambda gid, chid: ca.sg_test(gid),
    "sg_reset": lambda gid, chid: ca.sg_reset(gid),
    "sg_delete": lambda gid, chid: ca.sg_delete(gid),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_group(xs: list[Any], function: str):
    deleted = ca.sg_create()
    ca.sg_delete(deleted)
    for gid in (deleted, deleted.value, 10**9, None, "group", xs[0]):
        with pytest.raises(CASeverityException, match=f"{function} returned 'Invalid synchronous group identifier: "):
            FUNCTIONS[function](gid, xs[0])


def test_a_group_ends_with_its_context(xs: list[Any]):
    sg = ca.sg_create()
    ca.sg_get(sg, xs[0])
    ca.finalize_libca()
    with pytest.raises(CASeverityException, match="Invalid synchronous group identifier"):
        ca.sg_block(sg)
    ca.pend_io()
    ca.sg_create()
    assert sg.value not in _groups


def test_reset_and_delete_forget_what_waits(xs: list[Any]):
    sg = ca.sg_create()
    data = ca.sg_get(sg, xs[0])
    ca.sg_put(sg, xs[1], 9)
    ca.sg_reset(sg)
    assert ca.sg_test(sg) == dbr.ECA_IODONE
    ca.sg_block(sg)
    ca.sg_put(sg, xs[2], 9)
    ca.sg_delete(sg)
    ca.pend_io()
    assert [read(chid) for chid in xs] == [0, 0, 0]
    assert ca._unpack(data) is None


def test_pend_io_sends_what_waits(xs: list[Any]):
    """As the manual warns."""
    sg = ca.sg_create()
    data = ca.sg_get(sg, xs[0])
    ca.sg_put(sg, xs[0], 8)
    read(xs[1])
    assert read(xs[0]) == 0
    ca.pend_io()
    deadline = time.monotonic() + 15
    while in_flight():
        assert time.monotonic() < deadline
    assert read(xs[0]) == 8
    assert ca.sg_test(sg) == dbr.ECA_IODONE
    assert ca._unpack(data) == 0
    ca.sg_block(sg)
    assert read(xs[0]) == 8


def test_poll_sends_what_waits(xs: list[Any]):
    sg = ca.sg_create()
    ca.sg_put(sg, xs[0], 18)
    ca.poll()
    ca.sg_block(sg)
    assert read(xs[0]) == 18


def test_channels_of_several_contexts(xs: list[Any], target: Target):
    def other() -> Any:
        ca.create_context()
        return ca.current_context(), target("X4")

    context, far = Background(other).join().result
    assert far.context == context != xs[0].context
    ca.put(far, 40, wait=True)
    sg = ca.sg_create()
    data = [ca.sg_get(sg, chid) for chid in (xs[0], far, xs[1])]
    ca.sg_put(sg, far, 41)
    ca.sg_put(sg, xs[0], 1)
    ca.sg_block(sg)
    assert [ca._unpack(dat) for dat in data] == [0, 40, 0]
    assert [read(far), read(xs[0])] == [41, 1]
    # In this thread, whose context it is not, and without the other.
    again = ca.sg_get(sg, far)
    assert Background(ca.sg_block, sg).join().result == 1
    assert ca._unpack(again) == 41


@pytest.mark.parametrize("preemptive", [True, False])
def test_many_at_once(target: Target, monkeypatch: pytest.MonkeyPatch, preemptive: bool):
    ca.finalize_libca()
    monkeypatch.setattr(ca, "PREEMPTIVE_CALLBACK", preemptive)
    chids, sg = [target(f"X{i}") for i in range(8)], ca.sg_create()
    for round_ in range(5):
        for i, chid in enumerate(chids):
            ca.sg_put(sg, chid, round_ * 10 + i)
        data = [ca.sg_get(sg, chid) for chid in chids for _ in range(10)]
        ca.sg_block(sg)
        assert [ca._unpack(dat) for dat in data] == [round_ * 10 + i for i in range(8) for _ in range(10)]
    assert in_flight() == 0
    assert not any(chid.puts for chid in chids)


# --- what goes wrong ------------------------------------------------------------------------


@pytest.fixture
def stopped(make_ioc: IOCFactory, point_at: Any) -> Iterator[tuple[SoftIOC, Any, Any]]:
    """An IOC that does not answer, and two channels of it."""
    prefix = random_prefix()
    ioc = make_ioc("\n".join(f'record(ao, "{prefix}{name}") {{ field(PINI, "YES") }}' for name in ("a", "b")))
    point_at(ioc)
    ca.finalize_libca()
    one, other = connected(f"{prefix}a"), connected(f"{prefix}b")
    ioc.suspend()
    yield ioc, one, other
    ioc.resume()


def test_a_server_that_does_not_answer_in_time(stopped: tuple[SoftIOC, Any, Any]):
    ioc, one, other = stopped
    sg = ca.sg_create()
    data = ca.sg_get(sg, one)
    ca.sg_put(sg, other, 3)
    begin = time.monotonic()
    with pytest.raises(CASeverityException) as info:
        ca.sg_block(sg, timeout=0.3)
    assert 0.25 < time.monotonic() - begin < 5
    text = f"User specified timeout on IO operation expired: no answer from {one.pvname}, {other.pvname} in 0.3 s"
    assert str(info.value) == f"sg_block returned '{text}'"
    assert info.value.fcn == "sg_block"
    assert ca._unpack(data) is None
    # It is given up: nothing is left, and the group is as new.
    assert in_flight() == 0
    assert not other.puts
    assert ca.sg_block(sg, timeout=0.01) == dbr.ECA_NORMAL
    ioc.resume()
    data = ca.sg_get(sg, other)
    ca.sg_block(sg)
    assert ca._unpack(data) == 3  # it had been sent, and arrived


def test_a_reset_forgets_what_is_under_way(stopped: tuple[SoftIOC, Any, Any]):
    _, one, other = stopped
    sg = ca.sg_create()
    data = ca.sg_get(sg, one)
    ca.sg_put(sg, other, 3)
    ca.pend_io()
    assert in_flight() == 2
    with pytest.raises(CASeverityException, match="IO operations are in progress"):
        ca.sg_test(sg)
    ca.sg_reset(sg)
    assert in_flight() == 0
    assert ca.sg_test(sg) == dbr.ECA_IODONE
    assert ca._unpack(data) is None
    assert not other.puts


def test_the_end_of_a_channel_ends_what_waits_for_it(stopped: tuple[SoftIOC, Any, Any]):
    _, one, other = stopped
    sg, failures = ca.sg_create(), Calls()
    ca.add_exception_event(failures)
    data = ca.sg_get(sg, one)
    ca.sg_put(sg, other, 3)
    blocking = Background(ca.sg_block, sg, timeout=20)
    while in_flight() < 2:
        time.sleep(0.001)
    ca.clear_channel(one)
    ca.clear_channel(other)
    blocking.join()
    assert blocking.error is None
    assert blocking.took < 10
    assert ca._unpack(data) is None
    known = failures.wait()[0]
    assert (known["op"], known["status"], known["pvname"]) == ("sg_put", ECA.CHANDESTROY, other.pvname)
    assert in_flight() == 0


def test_channels_that_are_cleared_before_it_goes_out(xs: list[Any]):
    sg, failures = ca.sg_create(), Calls()
    ca.add_exception_event(failures)
    data = [ca.sg_get(sg, chid) for chid in xs]
    ca.sg_put(sg, xs[1], 5)
    ca.clear_channel(xs[1])
    ca.sg_block(sg, timeout=10)
    assert [ca._unpack(dat) for dat in data] == [0, None, 0]
    assert failures.wait()[0]["message"] == f"sg_put {xs[1].pvname}: User destroyed channel"


def test_a_server_that_goes_away(make_ioc: IOCFactory, point_at: Any):
    prefix = random_prefix()
    ioc = make_ioc(f'record(ao, "{prefix}a") {{ field(PINI, "YES") }}')
    point_at(ioc)
    ca.finalize_libca()
    chid, sg = connected(prefix + "a"), ca.sg_create()
    failures = Calls()
    ca.add_exception_event(failures)
    ioc.suspend()
    data = ca.sg_get(sg, chid)
    ca.sg_put(sg, chid, 3)
    blocking = Background(ca.sg_block, sg, timeout=20)
    while in_flight() < 2:
        time.sleep(0.001)
    ioc.kill()
    blocking.join()
    assert blocking.error is None
    assert blocking.took < 15
    assert ca._unpack(data) is None
    assert failures.wait()[0]["message"] == f"sg_put {chid.pvname}: Virtual circuit disconnect"


def test_what_the_server_refuses(target: Target):
    """A get raises in `_unpack`, a put is told by an exception event; what else is in the group is done."""
    noread, disabled, ao = target("noread"), target("mbbo"), target("ao")
    failures = Calls()
    ca.add_exception_event(failures)
    sg = ca.sg_create()
    data = [ca.sg_get(sg, noread), ca.sg_get(sg, target("ai"))]
    ca.sg_put(sg, disabled, 15)
    ca.sg_put(sg, ao, 2)
    ca.put(target("mbbo.DISP"), 1, wait=True)
    assert ca.sg_block(sg) == dbr.ECA_NORMAL
    ca.put(target("mbbo.DISP"), 0, wait=True)
    with pytest.raises(ChannelAccessGetFailure, match=f"cannot get {noread.pvname}: .*Read access denied|request fail"):
        ca._unpack(data[0])
    assert ca._unpack(data[1]) == 12.3456
    assert read(ao) == 2
    when_told()
    assert [(known["op"], known["pvname"]) for known in failures.known] == [("sg_put", disabled.pvname)]


def test_what_cannot_be_added(target: Target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ca, "DEFAULT_CONNECTION_TIMEOUT", 0.1)
    sg = ca.sg_create()
    with pytest.raises(ConversionError, match=f"{target.prefix}longout"):
        ca.sg_put(sg, target("longout"), float("nan"))
    with pytest.raises(ChannelAccessException, match=f"cannot put 1 to {target.prefix}nowrite"):
        ca.sg_put(sg, target("nowrite"), 1)
    missing = ca.create_channel(target.prefix + "none")
    with pytest.raises(ChannelAccessException, match=f"sg_put.*timed out waiting for '{missing.pvname}'"):
        ca.sg_put(sg, missing, 1)
    with pytest.raises(ChannelAccessException, match=rf"sg_get\(\) timed out waiting for '{missing.pvname}'.*0.1 sec"):
        ca.sg_get(sg, missing)
    for ftype in (-1, 39, "6"):
        with pytest.raises(CASeverityException, match=f"The data type specified is invalid: .* for {target.prefix}ai"):
            ca.sg_get(sg, target("ai"), ftype=ftype)
    with pytest.raises(ChannelAccessException, match="sg_get: expected a channel id"):
        ca.sg_get(sg, "name")
    assert ca.sg_test(sg) == dbr.ECA_IODONE
    assert ca.sg_block(sg) == dbr.ECA_NORMAL
