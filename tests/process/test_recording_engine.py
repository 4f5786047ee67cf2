"""`Engine.record` from an IOC to the file: every type of value, and what happens when servers and workers go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from support.background import Background
from support.engines import MakeEngine
from support.ioc import IOCFactory, Servers
from support.recording import eventually, flushed

from daqca import Engine
from daqca.errors import EngineClosedError
from daqca.recording import RecordingFile
from daqca.sim import SimIOC

PointAt = Callable[..., dict[str, str]]


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
