"""`Engine.record` from an IOC to the file: every type of value, and what happens when servers and workers go."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.background import Background
from support.engines import MakeEngine
from support.ioc import IOCFactory, Servers
from support.pools import stopped
from support.recording import eventually, flushed

from daqca import Engine
from daqca.engine.deliver import assign_shards
from daqca.errors import EngineClosedError
from daqca.events import Kind, Reason
from daqca.recording import Recording, RecordingFile, layout
from daqca.sim import SimIOC

PointAt = Callable[..., dict[str, str]]


# Values

RECORDS = """
record(ao, "R:ao") { field(VAL, "0.5") field(PINI, "YES") field(HIGH, "5") field(HSV, "MINOR") }
record(longout, "R:long") { field(VAL, "-1") field(PINI, "YES") }
record(stringout, "R:text") { field(VAL, "first") field(PINI, "YES") }
record(mbbo, "R:enum") { field(ZRST, "Idle") field(ONST, "Moving") field(TWST, "Fault") field(PINI, "YES") }
record(waveform, "R:doubles") { field(FTVL, "DOUBLE") field(NELM, "5") field(INP, [0.5, 1.5]) }
record(waveform, "R:bytes") { field(FTVL, "CHAR") field(NELM, "50000") field(INP, [1, 2, 3]) }
record(waveform, "R:texts") { field(FTVL, "STRING") field(NELM, "3") field(INP, ["one", "two"]) }
"""
SCALARS = {"R:ao": [0.5, 1.25, 6.0, 2.0], "R:long": [-1, 7, -8, 2**31 - 1], "R:enum": [0, 2, 1, 0]}
TEXTS = ["first", "second", "", "a text of thirty-nine characters, long."]
ARRAYS = {
    "R:doubles": [[0.5, 1.5], [1.0, 2.0, 3.0, 4.0, 5.0], [-0.125], [7.0, 8.0]],
    "R:bytes": [[1, 2, 3], list(range(256)), [9] * 50_000, [5, 4]],
    "R:texts": [[b"one", b"two"], [b"a", b"b", b"c"], [b"x"], [b"last", b"of all"]],
}


def test_every_value_of_every_type_is_in_the_file(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, tmp_path: Path
) -> None:
    point_at(make_ioc(RECORDS))
    engine = make_engine()
    names = [*SCALARS, "R:text", *ARRAYS]
    with engine.record(tmp_path / "run.h5", [*names, "R:nobody"], connect_timeout=0.5) as recording:
        came(recording, dict.fromkeys(names, 1))
        for turn in range(1, 4):
            values = [*(column[turn] for column in SCALARS.values()), TEXTS[turn], *(a[turn] for a in ARRAYS.values())]
            for name, value in zip(names, values, strict=True):
                engine.put(name, value, timeout=20)
        came(recording, dict.fromkeys(names, 4))
    stats = recording.stats
    assert (stats.complete, stats.received, stats.written, stats.lost) == (True, 28, 28, 0)
    assert (stats.scalars, stats.strings, stats.frames, stats.interruptions) == (12, 4, 12, 0)
    with RecordingFile(tmp_path / "run.h5") as file:
        for name, column in SCALARS.items():
            assert file.scalars(name).values.tolist() == column, name
        assert file.scalars("R:ao").severity.tolist() == [0, 0, 1, 0]
        assert file.strings("R:text").values.tolist() == TEXTS
        for name, arrays in ARRAYS.items():
            assert [array.tolist() for array in file.frames(name)] == arrays, name
        for name in names:
            times = (file.frames(name) if name in ARRAYS else file.scalars(name)).times
            assert (np.diff(times) > 0).all(), name
            assert file.start_time - 60e9 < times[-1] <= file.end_time + 1e9, name
        types = dict(zip(file.names, file.h5["entry/pvs/native_type"][:].tolist(), strict=True))
        assert list(types.values()) == [6, 5, 3, 0, 6, 4, 0, layout.UNKNOWN_TYPE]
        assert file.counts.of("R:nobody")["received"] == 0
        assert sorted(e.name for e in file.events if e.kind == Kind.CONNECTED) == sorted(names)


def came(recording: Recording, wanted: dict[str, int]) -> None:
    """Wait until so many updates of each PV reached the recorder."""
    places = {name: recording.names.index(name) for name in wanted}

    def have() -> bool:
        received = recording.counts().received
        return all(received[place] >= wanted[name] for name, place in places.items())

    eventually(have, f"{wanted} updates", timeout=40)


# Metadata


def test_units_are_in_the_file(ioc: SimIOC, engine: Engine, tmp_path: Path) -> None:
    expected = {name: record.units for name, record in ioc.database.by_name.items()}
    with engine.record(tmp_path / "run.h5", list(expected)) as recording:
        eventually(lambda: units(tmp_path / "run.h5", recording.names) == expected, "all units")
        # A second recording asks no server again, and has them all the same.
        with engine.record(tmp_path / "second.h5", ioc.names):
            pass
    for path, names in ((tmp_path / "run.h5", list(expected)), (tmp_path / "second.h5", ioc.names)):
        assert units(path, names) == {name: expected[name] for name in names}
    assert {"mm", "deg", "counts", ""} <= set(expected.values())


def units(path: Path, names: list[str]) -> dict[str, str]:
    with RecordingFile(path) as file:
        return {name: file.units(name) for name in names}


def test_units_that_change_are_those_of_the_end(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, tmp_path: Path
) -> None:
    text = 'record(ao, "R:a") { field(VAL, "1") field(PINI, "YES") field(EGU, "%s") }'
    ioc = make_ioc(text % "mm")
    point_at(ioc)
    engine = make_engine()
    with engine.record(tmp_path / "run.h5", ["R:a"]) as recording:
        eventually(lambda: units(tmp_path / "run.h5", ["R:a"]) == {"R:a": "mm"}, "the units")
        engine.put("R:a.EGU", "km", timeout=20)
        eventually(lambda: units(tmp_path / "run.h5", ["R:a"]) == {"R:a": "km"}, "other units")
        ioc.restart('record(stringout, "R:a") { field(VAL, "a text") field(PINI, "YES") }')
        eventually(lambda: recording.stats.strings == 1, "the text")
        flushed(recording.recorder)
        eventually(lambda: units(tmp_path / "run.h5", ["R:a"]) == {"R:a": ""}, "a text has none")
    assert recording.stats.complete
    # Nobody is told of metadata any more, so nobody keeps them.
    assert not engine.table.metadata


# PVs that are missing


def test_what_comes_while_it_waits_for_a_missing_pv_is_recorded(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, servers: Servers, tmp_path: Path
) -> None:
    ticking = make_ioc(TICKING)
    late = make_ioc('record(stringout, "R:late") { field(VAL, "at last") field(PINI, "YES") }', start=False)
    point_at(ticking, late)
    path = tmp_path / "run.h5"
    call = Background(make_engine().record, path, ["R:tick", "R:late"], connect_timeout=60)
    eventually(lambda: path.exists() and count(path, "R:tick") >= 5, "updates, before the call returns")
    assert call.took == 0
    late.start()
    recording = call.join(60).result
    eventually(lambda: recording.stats.strings == 1, "the value of the late one")
    stats = recording.stop()
    assert (stats.complete, stats.lost) == (True, 0)
    with RecordingFile(path) as file:
        consecutive(file.scalars("R:tick").values)
        assert file.strings("R:late").values.tolist() == ["at last"]


TICKING = 'record(calc, "R:tick") { field(CALC, "VAL+1") field(SCAN, ".1 second") }'


def count(path: Path, name: str) -> int:
    """How many updates of a scalar PV can be read by now."""
    with RecordingFile(path) as file:
        return len(file.scalars(name).values)


def consecutive(values: np.ndarray) -> None:
    """Nothing is missing in between."""
    assert len(values) > 1
    assert values.tolist() == np.arange(values[0], values[0] + len(values)).tolist()


def test_a_recording_that_is_given_up_while_it_waits_is_stopped(
    ioc: SimIOC, make_engine: MakeEngine, tmp_path: Path
) -> None:
    path, name = tmp_path / "run.h5", ioc.database.changing_names[0]
    engine = make_engine()
    call = Background(engine.record, path, [name, "R:nobody"], connect_timeout=60)
    eventually(lambda: path.exists() and count(path, name) >= 5, "updates, before the call returns")
    engine.close()
    assert isinstance(call.join().error, EngineClosedError)
    with RecordingFile(path) as file:
        assert (file.complete, file.lost) == (True, 0)
        consecutive(file.scalars(name).values)
        assert file.counts.of("R:nobody")["received"] == 0


# Servers that go and come back


def test_an_ioc_that_is_killed_and_comes_back(
    make_ioc: IOCFactory, point_at: PointAt, make_engine: MakeEngine, ioc: SimIOC, tmp_path: Path
) -> None:
    text = 'record(ao, "R:a") {{ field(VAL, "{}") field(PINI, "YES") }}'
    text += 'record(waveform, "R:w") {{ field(FTVL, "{}") field(NELM, "{}") field(INP, {}) }}'
    mortal = make_ioc(text.format(1.5, "LONG", 3, [1, 2, 3]))
    point_at(mortal, ioc)
    engine = make_engine()
    other = ioc.database.changing_names[0]
    with engine.record(tmp_path / "run.h5", ["R:a", "R:w", other]) as recording:
        came(recording, {"R:a": 1, "R:w": 1, other: 1})
        engine.put("R:a", 2.5, timeout=20)
        came(recording, {"R:a": 2})
        mortal.kill()
        told(recording, "R:a", Kind.DISCONNECTED)
        mortal.restart(text.format(7.5, "DOUBLE", 9, [9, 8, 7, 6]))
        came(recording, {"R:a": 3, "R:w": 2})
        engine.put("R:a", 8.5, timeout=20)
        came(recording, {"R:a": 4})
    assert (recording.stats.complete, recording.stats.lost, recording.stats.interruptions) == (True, 0, 0)
    with RecordingFile(tmp_path / "run.h5") as file:
        assert file.scalars("R:a").values.tolist() == [1.5, 2.5, 7.5, 8.5]
        assert [(array.dtype.kind, array.tolist()) for array in file.frames("R:w")] == [
            ("i", [1, 2, 3]),
            ("f", [9, 8, 7, 6]),
        ]
        for name, natives in {"R:a": [6, 0, 6], "R:w": [5, 0, 6]}.items():
            changes = [e for e in file.events if e.name == name]
            assert [(e.kind, e.dbr_type) for e in changes] == list(
                zip((Kind.CONNECTED, Kind.DISCONNECTED, Kind.CONNECTED), natives, strict=True)
            )
            assert changes[1].code == Reason.CLOSED
            assert file.start_time <= changes[0].time <= changes[1].time <= changes[2].time <= file.end_time
        consecutive(file.scalars(other).values)


def told(recording: Recording, name: str, kind: Kind, number: int = 1) -> None:
    """Wait until so many events of a kind of a PV are in the file."""

    def found() -> bool:
        with RecordingFile(recording.path) as file:
            return sum(e.name == name and e.kind == kind for e in file.events) >= number

    eventually(found, f"{number} times {kind.name} of {name}", timeout=40)


def test_an_ioc_that_is_suspended_and_goes_on(
    make_ioc: IOCFactory,
    point_at: PointAt,
    make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    ioc: SimIOC,
    tmp_path: Path,
) -> None:
    frozen = make_ioc('record(ao, "R:a") { field(VAL, "5") field(PINI, "YES") }' + TICKING)
    point_at(frozen, ioc)
    monkeypatch.setenv("EPICS_CA_CONN_TMO", "0.5")
    engine = make_engine()
    other = ioc.database.changing_names[0]
    with engine.record(tmp_path / "run.h5", ["R:a", "R:tick", other]) as recording:
        came(recording, {"R:a": 1, "R:tick": 5, other: 1})
        frozen.suspend()
        told(recording, "R:a", Kind.DISCONNECTED)
        before = recording.counts().received[1]
        frozen.resume()
        came(recording, {"R:a": 2, "R:tick": before + 5})
        engine.put("R:a", 6, timeout=20)
        came(recording, {"R:a": 3})
    assert (recording.stats.complete, recording.stats.lost, recording.stats.interruptions) == (True, 0, 0)
    with RecordingFile(tmp_path / "run.h5") as file:
        # The value is told anew when the connection is back.
        assert file.scalars("R:a").values.tolist() == [5, 5, 6]
        changes = [e for e in file.events if e.name == "R:a"]
        assert [e.kind for e in changes] == [Kind.CONNECTED, Kind.DISCONNECTED, Kind.CONNECTED]
        assert changes[1].code == Reason.UNRESPONSIVE
        ticks = file.scalars("R:tick")
        consecutive(ticks.values[:before])
        assert (np.diff(ticks.values) >= 0).all()
        assert (ticks.times[-5:] > changes[1].time).all()
        consecutive(file.scalars(other).values)


# Workers that are lost


def test_a_worker_that_is_killed_is_told_with_what_it_held(
    make_ioc: IOCFactory, point_at: PointAt, tmp_path: Path, ioc: SimIOC
) -> None:
    """What the worker had not handed on is gone, and nobody can count it: the file says when, and of which PVs."""
    point_at(make_ioc("".join(f'record(ao, "R:a{i}") {{ field(VAL, "0") field(PINI, "YES") }}' for i in range(8))), ioc)
    steady, changing = [f"R:a{i}" for i in range(8)], ioc.database.changing_names
    # Nothing is under way from the one that is killed when it is.
    theirs = [name for name, shard in zip(steady, assign_shards(steady, 2), strict=True) if shard == 1]
    ticks = [name for name, shard in zip(changing, assign_shards(changing, 2), strict=True) if shard == 0]
    names, mine = steady + ticks, theirs[0]
    with Engine(workers=2) as engine, Engine() as putter:
        with engine.record(tmp_path / "run.h5", names) as recording:
            came(recording, dict.fromkeys(names, 1))
            pid = engine._pool.pids[1]
            with stopped(pid):
                os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                for value in (1, 2, 3):
                    putter.put(mine, value, timeout=20)
                os.kill(pid, signal.SIGKILL)
            told(recording, mine, Kind.CONNECTED, 2)
            came(recording, {mine: 2})
            # What comes then is recorded as ever.
            putter.put(mine, 4, timeout=20)
            came(recording, {mine: 3, **dict.fromkeys(ticks, 10)})
        counts, stats = recording.counts(), recording.stats
    assert (stats.complete, stats.lost, stats.interruptions) == (True, 0, len(theirs))
    assert f"0 before) and an unknown number in {len(theirs)} interruptions" in str(stats)
    expected = [int(name in theirs) for name in names]
    assert ticks
    assert counts.interruptions.tolist() == expected
    with RecordingFile(tmp_path / "run.h5") as file:
        assert (file.complete, file.lost, file.totals["interruptions"]) == (True, 0, len(theirs))
        assert file.counts.interruptions.tolist() == expected
        assert sorted(e.name for e in file.interruptions) == sorted(theirs)
        values = file.scalars(mine)
        assert values.values.tolist() == [0, 3, 4]
        (when,) = (e.time for e in file.interruptions if e.name == mine)
        assert file.start_time < when < values.times[2] < file.end_time
        for name in ticks:
            consecutive(file.scalars(name).values)
