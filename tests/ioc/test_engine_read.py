"""Reading through an engine: channels, gets and snapshots, against what the IOC says to other clients."""

from __future__ import annotations

import contextlib
import struct
import time
from typing import Any

import numpy as np
import pytest
from support import pyepics
from support.engines import MakeEngine, Seen
from support.ioc import IOCFactory
from support.raw_client import RawClient

from daqca import Engine
from daqca.errors import ConfigurationError, PVNotFoundError, PVTimeoutError
from daqca.events import EPICS_EPOCH_NS, Access, Kind
from daqca.outcome import Outcome
from daqca.sim import SimIOC
from daqca.sim.specials import TEXT
from daqca.snapshot import Snapshot


def plain(value: Any) -> Any:
    """A value as JSON would have it."""
    return value.tolist() if isinstance(value, np.ndarray) else value


# --- connect --------------------------------------------------------------------------------


def test_connect_tells_type_count_access_and_host(engine: Engine, ioc: SimIOC):
    names = [record.name for record in ioc.database.records]
    progress: list[tuple[int, int]] = []
    found = engine.connect(names, timeout=20, progress=lambda done, total: progress.append((done, total)))
    assert [info.name for info in found] == names
    assert [info.native_type for info in found] == [record.native_type for record in ioc.database.records]
    assert {info.native_count for info in found} == {1}
    assert {info.host for info in found} == {f"127.0.0.1:{ioc.server_port}"}
    assert {info.access for info in found} == {Access.READ | Access.WRITE}
    assert all(info.connected for info in found)
    assert progress[-1] == (len(names), len(names))


def test_connect_tells_who_is_missing(engine: Engine, ioc: SimIOC):
    names = [ioc.names[0], "NO:SUCH:PV", ioc.prefix + "wf:large"]
    begin = time.monotonic()
    found = engine.connect(names, timeout=0.5)
    assert time.monotonic() - begin >= 0.5
    assert [info.outcome for info in found] == [Outcome.OK, Outcome.NEVER_FOUND, Outcome.OK]
    assert [info.native_count for info in found] == [1, 0, 100_000]
    assert found[1].native_type is None
    assert found[1].host == ""
    begin = time.monotonic()
    assert engine.channels(names)[1].outcome is Outcome.NEVER_FOUND
    assert time.monotonic() - begin < 0.4
    assert engine.connect([]) == []


def test_names_may_come_from_a_generator(engine: Engine, ioc: SimIOC):
    names = [*ioc.names[:3], "NO:SUCH:PV"]
    expected = [info.name for info in engine.connect((name for name in names), timeout=0.3)]
    assert expected == names
    assert [info.name for info in engine.channels(name for name in names)] == names
    for form in ("time", "ctrl"):
        snapshot = engine.snapshot((name for name in names), timeout=0.3, form=form)
        assert snapshot.names == names
        assert snapshot.ok.tolist() == [True, True, True, False]
    assert snapshot.units == [*(ioc.database.records[i].units for i in range(3)), ""]
    result = engine.put_many((name for name in names[3:]), [1], timeout=0.1)
    assert (result.names, result.failed) == (names[3:], {"NO:SUCH:PV": Outcome.NEVER_FOUND})


def test_one_text_is_no_list_of_names(engine: Engine):
    for call in (engine.connect, engine.channels, engine.snapshot, lambda name: engine.put_many(name, [1])):
        with pytest.raises(TypeError, match="expected a list of names, got the text 'PV'"):
            call("PV")


def test_names_that_no_server_can_have_are_refused_by_name(engine: Engine, ioc: SimIOC):
    for bad in ("", "X" * 20_000):
        with pytest.raises(ConfigurationError, match=repr(bad[:40])):
            engine.snapshot([ioc.names[0], bad])
    for call in (engine.connect, engine.channels, engine.snapshot):
        with pytest.raises(TypeError, match="list of names"):
            call(ioc.names[0])
    with pytest.raises(TypeError, match="list of names"):
        engine.subscribe(ioc.names[0], Seen())
    # Nothing is spoilt by it.
    assert engine.get(ioc.names[0], timeout=20).ok


def test_names_beyond_ascii_and_beyond_a_datagram_are_searched(engine: Engine, ioc: SimIOC):
    names = ["TEMPÉRATURE:µ", "L" * 3000, ioc.names[0]]
    snap = engine.snapshot(names, timeout=1)
    assert snap.outcome.tolist() == [Outcome.NEVER_FOUND, Outcome.NEVER_FOUND, Outcome.OK]


# --- values ---------------------------------------------------------------------------------


def test_snapshot_has_every_value_alarm_and_type(engine: Engine, ioc: SimIOC):
    records = [record for record in ioc.database.records if not record.changing]
    snap = engine.snapshot([record.name for record in records], timeout=20)
    assert snap.missing == {}
    assert snap.values == [record.value for record in records]
    assert [type(value) for value in snap.values] == [
        float if record.native_type in (2, 6) else type(record.value) for record in records
    ]
    assert snap.severity.tolist() == [record.severity for record in records]
    assert snap.status.tolist() == [record.status for record in records]
    assert snap.native_type.tolist() == [record.native_type for record in records]
    assert (np.abs(snap.timestamps - time.time_ns()) < 3600 * 10**9).all()


def test_snapshot_has_every_array_and_long_string(engine: Engine, ioc: SimIOC):
    expected = ioc.database.special_values
    snap = engine.snapshot(list(expected), timeout=20)
    assert snap.missing == {}
    for name, value in expected.items():
        reading = snap[name]
        if isinstance(value, str):
            assert reading.as_text() == value == TEXT
        elif name.endswith("wf:char"):
            assert reading.value.astype(np.int8).tolist() == value  # the sign is not on the wire
        else:
            assert (
                plain(reading.value) == pytest.approx(value)
                if name.endswith("float")
                else plain(reading.value) == value
            )
    assert snap[ioc.prefix + "undefined"].severity == 3
    assert snap[ioc.prefix + "undefined"].timestamp == EPICS_EPOCH_NS


def test_timestamps_are_the_server_s_to_the_nanosecond(engine: Engine, ioc: SimIOC):
    changing = set(ioc.database.changing_names)
    names = [name for name in (*ioc.names, *ioc.database.special_values) if name not in changing]
    snap = engine.snapshot(names, timeout=20)
    with RawClient(ioc.server_port) as raw:
        for name, timestamp in zip(names, snap.timestamps.tolist(), strict=True):
            native, _ = raw.connect(name)
            _, _, seconds, nanoseconds = struct.unpack_from(">hhII", raw.get(name, native + 14).payload)
            assert timestamp == EPICS_EPOCH_NS + seconds * 10**9 + nanoseconds, name


def test_values_and_metadata_are_those_that_pyepics_sees(engine: Engine, ioc: SimIOC):
    changing = set(ioc.database.changing_names)
    names = [name for name in ioc.names if name not in changing][:60] + list(ioc.database.special_values)
    theirs = pyepics.read(names)
    snap = engine.snapshot(names, timeout=20, form="ctrl")
    assert snap.missing == {}
    limits = [f"{side}_{kind}_limit" for kind in ("disp", "alarm", "warning", "ctrl") for side in ("upper", "lower")]
    for name in names:
        reading, their = snap[name], theirs[name]
        assert plain(reading.value) == their["value"], name
        assert (reading.status, reading.severity) == (their["status"], their["severity"]), name
        assert reading.timestamp == their["timestamp"], name
        assert reading.units == their.get("units", ""), name
        assert list(reading.enum_strings) == their.get("enum_strs", []), name
        assert reading.precision == their.get("precision"), name
        for limit in limits:
            expected = their.get(limit)
            actual = getattr(reading.metadata, limit)
            assert np.array_equal(actual, np.nan if expected is None else expected, equal_nan=True), (name, limit)


def test_get_reads_each_type(engine: Engine, ioc: SimIOC):
    seen = set()
    for record in ioc.database.records:
        if record.changing or record.record_type in seen:
            continue
        seen.add(record.record_type)
        reading = engine.get(record.name, timeout=20)
        assert (reading.value, reading.severity, reading.status) == (record.value, record.severity, record.status)
        assert reading.native_type == record.native_type
        assert reading.timestamp == engine.get(record.name).timestamp
    assert len(seen) == 12
    for name, value in ioc.database.special_values.items():
        reading = engine.get(name, timeout=20)
        if isinstance(value, list) and not name.endswith(("char", "float")):
            assert plain(reading.value) == value
            assert isinstance(reading.value, np.ndarray)
    assert engine.get(ioc.prefix + "longstring").as_text() == TEXT


def test_get_of_an_unknown_pv_says_so_after_its_timeout(engine: Engine, ioc: SimIOC):
    begin = time.monotonic()
    with pytest.raises(PVNotFoundError, match=r"NO:SUCH:PV.*no server answered") as caught:
        engine.get("NO:SUCH:PV", timeout=0.3)
    assert 0.3 <= time.monotonic() - begin < 5
    assert (caught.value.pvname, caught.value.operation) == ("NO:SUCH:PV", "get")
    assert isinstance(caught.value, LookupError)


def test_gets_given_up_leave_nothing_behind(engine: Engine, ioc: SimIOC):
    """What was given up is answered never, later, or while giving it up; all are forgotten."""
    for _ in range(20):
        with pytest.raises(PVNotFoundError):
            engine.get("NO:SUCH:PV", timeout=0.001)
    name = ioc.names[40]
    engine.get(name, timeout=20)
    for timeout in (0.0, 1e-6, 1e-5, 1e-4) * 20:
        with contextlib.suppress(PVTimeoutError):
            assert engine.get(name, timeout=timeout).value == ioc.database.by_name[name].value
    engine.get(name, timeout=20)
    assert [len(link.operations) for link in engine._links] == [0] * len(engine._links)


# --- the shape of a snapshot ----------------------------------------------------------------


def test_a_name_asked_for_twice_is_there_twice(engine: Engine, ioc: SimIOC):
    names = [
        ioc.names[50],
        ioc.prefix + "wf:string",
        "NO:SUCH:PV",
        ioc.names[50],
        ioc.prefix + "wf:string",
        "NO:SUCH:PV",
    ]
    for _ in range(2):
        snap = engine.snapshot(names, timeout=0.5)
        assert snap.names == names
        assert snap.outcome.tolist() == [1, 1, 4, 1, 1, 4]
        assert plain(snap.values[0]) == plain(snap.values[3]) == ioc.database.by_name[names[0]].value
        assert plain(snap.values[1]) == plain(snap.values[4]) == ioc.database.special_values[names[1]]


def test_a_snapshot_of_nothing_is_empty(engine: Engine):
    snap = engine.snapshot([], timeout=5)
    assert (len(snap), snap.values, snap.missing) == (0, [], {})
    assert len(engine.snapshot([], form="ctrl", fresh=False)) == 0
    with pytest.raises(ValueError, match="'time' or 'ctrl'"):
        engine.snapshot([], form="native")


def test_missing_pvs_delay_no_other(make_ioc: IOCFactory, point_at: Any, make_engine: MakeEngine):
    """Of 3,030 names 1 % do not exist: the others are at hand long before the timeout."""
    ioc = make_ioc(scalars=3000, changing=0)
    point_at(ioc)
    missing = [f"{ioc.prefix}absent{i}" for i in range(30)]
    names = list(ioc.names)
    for i, name in enumerate(missing):
        names.insert(i * 101, name)
    engine = make_engine()
    begin = time.monotonic()
    parts: list[tuple[float, Snapshot]] = []
    progress: list[tuple[int, int]] = []
    snap = engine.snapshot(
        names,
        timeout=2.5,
        partial=lambda part: parts.append((time.monotonic() - begin, part)),
        progress=lambda done, total: progress.append((done, total)),
    )
    elapsed = time.monotonic() - begin
    assert snap.missing == dict.fromkeys(missing, Outcome.NEVER_FOUND)
    assert 2.5 <= elapsed < 3.5
    complete = [when for when, part in parts if part.ok.sum() == 3000]
    assert complete
    assert complete[0] < 2
    _, part = parts[-1]
    assert part.missing == dict.fromkeys(missing, Outcome.PENDING)
    assert part.to_dict() == snap.to_dict()
    counts = [part.ok.sum() for _, part in parts]
    assert counts == sorted(set(counts))
    assert progress[-1] == (3000, 3030)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)


def test_a_partial_snapshot_comes_soon_after_the_last_answer(engine: Engine, ioc: SimIOC):
    """Not only at the end, and not at the next of some long steps."""
    engine.connect(ioc.names, timeout=20)
    names = [*ioc.names, "NO:SUCH:PV"]
    delays = []
    for _ in range(5):
        begin = time.monotonic()
        first: list[float] = []

        def look(part: Snapshot, begin: float = begin, first: list[float] = first) -> None:
            if part.ok.sum() == len(names) - 1:
                first.append(time.monotonic() - begin)

        engine.snapshot(names, timeout=0.2, partial=look)
        assert first
        delays.append(first[0])
    assert min(delays) < 0.06


# --- not fresh: from the table --------------------------------------------------------------


def test_not_fresh_takes_monitored_pvs_from_the_table_and_asks_for_the_rest(engine: Engine, ioc: SimIOC):
    monitored = [name for name in ioc.names if not ioc.database.by_name[name].changing][:20]
    monitored += [ioc.prefix + "wf:string", ioc.prefix + "wf:large", ioc.prefix + "longstring"]
    others = [name for name in ioc.names if name not in monitored][:50]
    fresh = engine.snapshot(monitored, timeout=20)
    engine.connect(others, timeout=20)
    seen = Seen()
    with engine.subscribe(monitored, seen):
        seen.wait(lambda: len({e.slot for e in seen.events(Kind.UPDATE)}) == len(monitored), "all first values")
        events = engine.stats()["events"]
        snap = engine.snapshot(monitored, timeout=20, fresh=False)
        assert engine.stats()["events"] == events  # nobody was asked
        assert snap.missing == {}
        assert [plain(value) for value in snap.values] == [plain(value) for value in fresh.values]
        assert snap.timestamps.tolist() == fresh.timestamps.tolist()
        assert snap.severity.tolist() == fresh.severity.tolist()
        both = engine.snapshot([*others, *monitored, monitored[0]], timeout=20, fresh=False)
        assert both.missing == {}
        assert [plain(value) for value in both.values[len(others) :]] == [
            plain(value) for value in [*fresh.values, fresh.values[0]]
        ]
    # Nobody watches any more: the table grows old, so the server is asked again.
    events = engine.stats()["events"]
    assert engine.snapshot(monitored, timeout=20, fresh=False).missing == {}
    assert engine.stats()["events"] >= events + len(monitored)


def test_not_fresh_never_shows_a_value_from_an_earlier_subscription(engine: Engine, ioc: SimIOC):
    """Between subscribing again and the first update the table holds a value that nobody kept up to date."""
    name = ioc.prefix + "ao00001"
    before = engine.get(name, timeout=20).value
    with engine.subscribe([name], Seen()) as _:
        while not engine.snapshot([name], fresh=False).ok.all():
            pass
    try:
        for value in range(100, 130):
            seen = Seen()
            with engine.subscribe([name], seen):
                seen.wait_kind(Kind.UPDATE)
            engine.put(name, float(value))
            with engine.subscribe([name], Seen()):
                assert engine.snapshot([name], timeout=20, fresh=False)[name].value == value
    finally:
        engine.put(name, before)


def test_ctrl_of_a_missing_pv_has_no_metadata(engine: Engine, ioc: SimIOC):
    names = [ioc.prefix + "ai00003", "NO:SUCH:PV"]
    snap = engine.snapshot(names, timeout=0.5, form="ctrl")
    assert snap[names[0]].units == "mA"
    assert snap[names[0]].precision == 3
    assert snap[names[1]].value is None
    assert snap[names[1]].units == ""
    assert snap.missing == {names[1]: Outcome.NEVER_FOUND}
