"""Subscriptions of the low-level interface: what they tell of every type, in which order, for which mask, how long."""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.ioc import IOCFactory, random_prefix
from support.lowlevel.database import READ, access_rules, records
from support.lowlevel.watching import Calls, connected, current, read, when_told

from daqca import ca, dbr
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.subscription import Subscription
from daqca.ca.lowlevel.updates import call_back, call_back_all
from daqca.errors import CASeverityException, ChannelAccessException
from daqca.events import EVENT, Batch, Kind
from daqca.sim import SoftIOC

ALARM = {"status", "severity"}
STAMP = {"timestamp", "posixseconds", "nanoseconds"}
GRAPHIC = {f"{edge}_{kind}_limit" for edge in ("upper", "lower") for kind in ("disp", "alarm", "warning")}
CONTROL = GRAPHIC | {"upper_ctrl_limit", "lower_ctrl_limit"}
ALWAYS = {"pvname", "value", "count", "ftype", "status", "chid"}
ROWS = {"plain": 0, "sts": 7, "time": 14, "gr": 21, "ctrl": 28}
FLOATS, STRING, ENUM = (dbr.FLOAT, dbr.DOUBLE), dbr.STRING, dbr.ENUM


def bands(name: str) -> str:
    return (
        f'record(ao, "{name}") {{ field(PINI, "YES") field(MDEL, "5") field(ADEL, "20") '
        'field(HIGH, "50") field(HSV, "MINOR") field(PREC, "1") }'
    )


class Target(SoftIOC):
    """Records of every type, those that tests count up, and one whose updates depend on the mask."""

    def __init__(self, prefix: str, ports: Any):
        self.prefix = prefix
        own = [f'record(ao, "{prefix}count{i}") {{ field(PINI, "YES") }}' for i in range(40)]
        own += [f'record(longout, "{prefix}whole{i}") {{ field(PINI, "YES") }}' for i in range(20)]
        own += [bands(f"{prefix}{name}") for name in ("bands", "default")]
        super().__init__(records(prefix) + "\n".join(own), access_security=access_rules(), ports=ports)

    def __call__(self, ending: str) -> Channel:
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


def watch(chid: Any, **options: Any) -> Calls:
    calls = Calls()
    ca.create_subscription(chid, callback=calls, **options)
    return calls


# --- keywords and values --------------------------------------------------------------------


def keywords(row: str, native: int) -> set[str]:
    """Which keywords a callback has of a variant of a type, by the manual's chapter 4.5 and its table."""
    if row == "plain":
        return ALWAYS
    found = ALWAYS | ALARM
    if row == "time":
        found |= STAMP
    if row in ("gr", "ctrl") and native not in (STRING, ENUM):
        found |= {"units"} | (CONTROL if row == "ctrl" else GRAPHIC)
        if native in FLOATS:
            found |= {"precision"}
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of one kind, element by element."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("row", ROWS)
def test_keywords_and_values_of_every_type(target: Target, row: str):
    """They are those of a get of the same type; the sets of keywords are those of the manual."""
    asked = {}
    for ending in READ:
        chid = target(ending)
        ftype = ca.promote_fieldtype(ca.field_type(chid) + ROWS[row])  # of STRING there is no CTRL variant
        asked[ending] = (chid, ftype, watch(chid, ftype=ftype))
    for ending, (chid, ftype, calls) in asked.items():
        known = dict(calls.wait()[0])
        got = ca.get_with_metadata(chid, ftype=ftype, timeout=15)
        value, expected = known.pop("value"), got.pop("value")
        assert same(value, expected), (ending, value, expected)
        names = keywords("time" if ftype == dbr.TIME_STRING else row, ftype % 7) - {"value"}
        if row in ("gr", "ctrl") and ftype % 7 == ENUM and "enum_strs" in got:
            names |= {"enum_strs"}
        assert known.keys() == names, ending
        count = len(value) if isinstance(value, (np.ndarray, list)) else 1
        own = {"pvname": target.prefix + ending, "chid": int(chid), "ftype": ftype, "count": count}
        for name, item in {"status": 1, **got, **own}.items():
            assert same(known[name], item), (ending, name, known[name], item)
    assert {calls.known[0]["ftype"] % 7 for _, _, calls in asked.values()} == set(range(7))


@pytest.mark.parametrize("ending", ["ai", "longin", "mbbi", "stringin", "wf:double", "empty:double", "empty:string"])
@pytest.mark.parametrize(("options", "row"), [({}, 0), ({"use_time": True}, 14), ({"use_ctrl": True}, 28)])
def test_the_variant_of_the_native_type(target: Target, ending: str, options: dict[str, bool], row: int):
    chid = target(ending)
    expected = ca.promote_type(chid, **options)
    assert expected == (14 if row == 28 and ca.field_type(chid) == STRING else ca.field_type(chid) + row)
    known = watch(chid, **options).wait()[0]
    assert known["ftype"] == expected
    got = ca.get_with_metadata(chid, ftype=expected, timeout=15)
    assert same(known["value"], got["value"])
    if ending == "mbbi" and row == 28:
        assert known["enum_strs"] == ("state ZR", "state ON", "state TW", "state TH")
    if ending == "ai" and row == 28:
        assert (known["units"], known["precision"], known["upper_alarm_limit"]) == ("mm", 3, 90.0)


def test_types_that_the_manual_leaves_out(target: Target):
    chid = target("hihi")
    assert watch(chid, ftype=dbr.CLASS_NAME).wait()[0]["value"] == "ai"
    known = watch(chid, ftype=dbr.STSACK_STRING).wait()[0]
    assert known.keys() == ALWAYS | {"severity", "ackt", "acks"}
    assert (known["value"], known["severity"], known["ackt"], known["acks"]) == ("95", 2, 1, 2)


@pytest.mark.parametrize("ending", ["ai", "mbbi", "wf:short"])
def test_another_type_than_the_native_one(target: Target, ending: str):
    chid = target(ending)
    for ftype in range(dbr.STRING, dbr.DOUBLE + 1):
        known = watch(chid, ftype=ftype, use_time=True).wait()[0]
        assert known["ftype"] == ftype + 14
        assert same(known["value"], read(chid, ftype=ftype + 14))


def test_count(target: Target):
    chid = target("wf:long")
    full = read(chid)
    assert len(full) == 5
    for count, expected in ((0, 5), (1, 1), (3, 3), (5, 5), (8, 8), (100, 8)):
        known = watch(chid, count=count).wait()[0]
        assert known["count"] == expected
        filled = [*full.tolist(), 0, 0, 0][:expected]
        assert np.atleast_1d(known["value"]).tolist() == filled
    assert watch(target("ai"), count=3).wait()[0]["value"] == 12.3456
    with pytest.raises(CASeverityException, match=f"Invalid element count requested: -1 for {target.prefix}wf:long"):
        ca.create_subscription(chid, count=-1)


def test_without_numpy(target: Target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ca, "HAS_NUMPY", False)
    value = watch(target("wf:double")).wait()[0]["value"]
    assert isinstance(value, ctypes.Array)
    assert list(value) == [-1.5, 0.0, 0.1, 1e300, 1.0]
    assert bytes(watch(target("one:char")).wait()[0]["value"].to_bytes(1, "big")) == b"\xff"
    assert list(watch(target("wf:char"), count=1).wait()[0]["value"]) == [128]


# --- many numbers at once -------------------------------------------------------------------

_EXTREMES = {
    dbr.SHORT: [-32768, -1, 0, 32767],
    dbr.FLOAT: [math.nan, math.inf, -0.0, float(np.float32(0.1))],
    dbr.ENUM: [0, 1, 65535],
    dbr.CHAR: [0, 127, 128, 255],
    dbr.LONG: [-(2**31), -1, 0, 2**31 - 1],
    dbr.DOUBLE: [math.nan, -math.inf, -0.0, 1e300, 12.3456],
}


def numbers(subscriptions: list[Subscription], types: dict[int, int], n: int) -> Batch:
    """Updates of these subscriptions in a random order, with values and times at the limits; two are of nobody."""
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, len(subscriptions), n)
    events = np.zeros(n, EVENT)
    events["kind"], events["count"] = Kind.UPDATE, 1
    for i, at in enumerate(chosen.tolist()):
        dbr_type = types[at]
        events[i]["dbr_type"] = dbr_type
        events[i]["value"] = rng.choice(_EXTREMES[dbr_type])
        events[i]["token"] = subscriptions[at].number
    events["token"][[3, n - 1]] = 0xFFFFFFF0
    events["status"], events["severity"] = rng.integers(0, 22, n), rng.integers(0, 4, n)
    # As of double precision: a timestamp of the columns and of the single way must not differ in the last bit.
    events["timestamp"] = rng.integers(0, 2**62, n)
    events["timestamp"][:3] = [0, 631_152_000_000_000_000, 1_700_000_000_999_999_999]
    return Batch(events)


def same_calls(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        assert all(same(first[key], second[key]) for key in first), (first, second)


def told(tell: Any, calls: Calls) -> list[dict[str, Any]]:
    calls.known.clear()
    tell()
    return list(calls.known)


@pytest.mark.parametrize("only", [None, (dbr.DOUBLE,), (dbr.LONG, dbr.SHORT), (dbr.CHAR, dbr.FLOAT)])
def test_columns_rows_and_single_updates_say_the_same(target: Target, only: tuple[int, ...] | None):
    """Of each number type and variant, also of an array of characters of which one came: it is an array."""
    endings = {1: "one:short", 2: "one:float", 3: "mbbi", 4: "one:char", 5: "longin", 6: "ai"}
    calls = Calls()
    subscriptions, types = [], {}
    for dbr_type, ending in (*endings.items(), (4, "wf:char")):
        for row in (0, 7, 14):
            if only is None or dbr_type in only:
                types[len(subscriptions)] = dbr_type
                subscriptions.append(Subscription(target(ending), calls, dbr_type + row, 0, 1))
    known = {subscription.number: subscription for subscription in subscriptions}
    batch = numbers(subscriptions, types, 500)
    assert not batch.is_small

    def fail(*_: Any) -> None:
        raise  # the one that is being handled

    def one_by_one() -> None:
        for event in batch:
            if event.token in known:
                call_back(known[event.token], event, b"", fail)

    columns = told(lambda: call_back_all(batch, known, fail), calls)
    rows = told(lambda: call_back_all(Batch(None, b"", [tuple(event) for event in batch]), known, fail), calls)
    single = told(one_by_one, calls)
    assert len(single) > 480
    same_calls(columns, single)
    same_calls(rows, single)
    whole = [known["value"] for known in columns if known["ftype"] % 7 not in FLOATS]
    assert all(type(value) in (int, np.ndarray) for value in whole)
    assert only is not None or sum(isinstance(value, np.ndarray) for value in whole) > 10


def test_columns_with_arrays_and_strings_between(target: Target):
    """What is no number is told in its turn."""
    calls = Calls()
    chids = [target(ending) for ending in ("ai", "wf:double", "longin", "stringin")]
    subscriptions = [Subscription(chid, calls, ca.field_type(chid) + 14, 0, 1) for chid in chids]
    block = np.arange(3.0).astype(">f8").tobytes() + b"text".ljust(40, b"\0")
    rows = []
    for i in range(400):
        token = subscriptions[i % 7 % 4].number
        value = {0: float(i), 1: (0, 24), 2: float(i), 3: (24, 40)}[i % 7 % 4]
        rows.append((0, 1, (6, 6, 5, 0)[i % 7 % 4], 0, 0, 10**18 + i, value, 3 if i % 7 % 4 == 1 else 1, token))
    batch = Batch(Batch(None, block, rows).records, block)
    assert not batch.is_small
    known = {subscription.number: subscription for subscription in subscriptions}
    call_back_all(batch, known, lambda *_: pytest.fail("raised"))
    assert [known["nanoseconds"] for known in calls.known] == list(range(400))
    assert [known["pvname"] for known in calls.known] == [chids[i % 7 % 4].pvname for i in range(400)]
    for i, known in enumerate(calls.known):
        kind = i % 7 % 4
        assert np.array_equal(known["value"], (i, [0.0, 1.0, 2.0], i, "text")[kind])
        assert type(known["value"]) is (float, np.ndarray, int, str)[kind]


def test_updates_of_many_pvs_keep_their_order(target: Target):
    """Floods of single puts to PVs of two types: each number in its order, each as its type."""
    chids = [target(f"count{i}") for i in range(1, 40)] + [target(f"whole{i}") for i in range(20)]
    for chid in chids:
        ca.put(chid, -1, wait=True)
    seen = [watch(chid, use_time=i % 2 == 0) for i, chid in enumerate(chids)]
    for calls in seen:
        calls.wait_value(-1)
    sizes: list[int] = []
    deliver = current().context._deliver
    current().context._deliver = lambda batch: (sizes.append(0 if batch.is_small else len(batch)), deliver(batch))[1]
    # More on their way than two of each, and the IOC, if it lags, may leave some out.
    for start in range(0, 100, 2):
        for value in (start, start + 1):
            for chid in chids:
                ca.put(chid, value)
        for calls in seen:
            calls.wait_value(start + 1)
    for chid, calls in zip(chids, seen, strict=True):
        assert calls.values == list(range(-1, 100)), chid
        kind = float if ca.field_type(chid) == dbr.DOUBLE else int
        assert {type(value) for value in calls.values} == {kind}
    assert max(sizes) > 20, "no batch went through the columns"


# --- masks ----------------------------------------------------------------------------------


def test_masks(target: Target):
    chid, prec = target("bands"), target("bands.PREC")
    value, log, alarm, prop = dbr.DBE_VALUE, dbr.DBE_LOG, dbr.DBE_ALARM, dbr.DBE_PROPERTY
    seen = {mask: watch(chid, mask=mask) for mask in (value, log, alarm, prop, value | prop, log | alarm, 15)}
    properties = watch(chid, mask=prop, use_ctrl=True)
    for calls in (*seen.values(), properties):
        calls.wait()
    for number in (3, 10, 30, 52, 53):
        ca.put(chid, number, wait=True)
    ca.put(prec, 4, wait=True)
    ca.put(chid, 0, wait=True)
    ca.put(prec, 1, wait=True)
    expected = {
        value: [0, 10, 30, 52, 0],
        log: [0, 30, 52, 0],
        alarm: [0, 52, 0],
        prop: [0, 53, 0],
        value | prop: [0, 10, 30, 52, 53, 0, 0],
        log | alarm: [0, 30, 52, 0],
        15: [0, 10, 30, 52, 53, 0, 0],
    }
    for mask, values in expected.items():
        seen[mask].wait(len(values))
    when_told()
    assert {mask: calls.values for mask, calls in seen.items()} == expected
    assert [known["precision"] for known in properties.known] == [1, 4, 1]


def test_the_default_mask(target: Target, monkeypatch: pytest.MonkeyPatch):
    assert ca.DEFAULT_SUBSCRIPTION_MASK == dbr.DBE_VALUE | dbr.DBE_ALARM
    chid = target("default")
    before, zero = watch(chid), watch(chid, mask=0)
    monkeypatch.setattr(ca, "DEFAULT_SUBSCRIPTION_MASK", dbr.DBE_LOG)
    after = watch(chid)
    for calls in (before, zero, after):
        calls.wait()
    for number in (10, 40):
        ca.put(chid, number, wait=True)
    for calls in (before, zero, after):
        calls.wait_value(40)
    assert before.values == zero.values == [0, 10, 40]
    assert after.values == [0, 40]


@pytest.mark.parametrize("mask", [-1, 256, 1.5, "VALUE"])
def test_what_is_no_mask(target: Target, mask: Any):
    with pytest.raises(CASeverityException, match=f"Invalid event selection mask: .* for {target.prefix}ai"):
        ca.create_subscription(target("ai"), mask=mask, callback=print)


# --- how long they live ---------------------------------------------------------------------


def test_what_is_returned(target: Target):
    chid, calls = target("count0"), Calls()
    result = ca.create_subscription(chid, callback=calls)
    assert isinstance(result, tuple)
    callback, argument, event_id = result
    assert callback is argument is calls
    assert isinstance(event_id, ctypes.c_void_p)
    assert event_id.value != ca.create_subscription(chid, callback=calls)[2].value
    assert repr(event_id) == f"<Subscription {event_id.value} of '{target.prefix}count0', active>"
    calls.wait(2)
    assert ca.clear_subscription(event_id) == dbr.ECA_NORMAL
    assert ca.clear_subscription(event_id) == dbr.ECA_NORMAL
    assert "ended" in repr(event_id)
    ca.put(chid, 17, wait=True)
    calls.wait(3)
    when_told()
    assert len(calls) == 3
    assert ca.clear_subscription(result) == dbr.ECA_NORMAL


def test_dropped_results_do_no_harm(target: Target):
    calls = Calls()
    for i in range(40):
        ca.create_subscription(target(f"count{i}"), callback=calls)
    gc.collect()
    calls.wait(40)
    for i in range(40):
        ca.put(ca.create_channel(f"{target.prefix}count{i}"), 1000 + i)
    gc.collect()
    calls.wait(80)
    assert sorted(calls.values[40:]) == list(range(1000, 1040))
    assert current().context.stats()["subscriptions"] == 40


def test_arguments_that_make_no_sense(target: Target):
    chid = target("ai")
    with pytest.raises(TypeError, match="takes a function as callback, and got 'print'"):
        ca.create_subscription(chid, callback="print")
    for ftype in (-1, 39, 99, "6", 6.0):
        with pytest.raises(CASeverityException, match=f"The data type specified is invalid: .* for {target.prefix}ai"):
            ca.create_subscription(chid, ftype=ftype, callback=print)
    with pytest.raises(CASeverityException, match="The data type specified is invalid: 48 for"):
        ca.create_subscription(chid, ftype=20, use_ctrl=True, callback=print)
    for event_id in (None, 5, "event", chid):
        with pytest.raises(ChannelAccessException, match="clear_subscription: expected an event id"):
            ca.clear_subscription(event_id)
    with pytest.raises(ChannelAccessException, match="expected a channel id"):
        ca.create_subscription("a name", callback=print)
    ca.clear_channel(chid)
    with pytest.raises(ChannelAccessException, match="was cleared; create it again"):
        ca.create_subscription(chid, callback=print)
    assert not current()._subscriptions
    assert current().context.stats()["subscriptions"] == 0


def test_without_a_callback(target: Target):
    _, _, event_id = ca.create_subscription(target("ai"))
    watch(target("ai")).wait()
    assert ca.clear_subscription(event_id) == dbr.ECA_NORMAL


def test_a_channel_that_does_not_connect(target: Target):
    chid = ca.create_channel(target.prefix + "none")
    with pytest.raises(ChannelAccessException, match=rf"timed out waiting for '{chid.pvname}' to connect \(0\.1 sec"):
        ca.create_subscription(chid, callback=print, timeout=0.1)
    assert not chid.subscriptions


def test_a_type_that_is_given_needs_no_connection(make_ioc: IOCFactory, point_at: Any):
    prefix = random_prefix()
    ioc = make_ioc(f'record(ao, "{prefix}late") {{ field(VAL, "3") field(PINI, "YES") }}', start=False)
    point_at(ioc)
    ca.finalize_libca()
    chid = ca.create_channel(prefix + "late")
    calls = watch(chid, ftype=dbr.TIME_DOUBLE)
    assert not ca.isConnected(chid)
    ioc.start()
    assert calls.wait()[0]["value"] == 3.0
    assert calls.known[0]["ftype"] == dbr.TIME_DOUBLE
