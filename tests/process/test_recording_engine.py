"""`Engine.record` from an IOC to the file: every type of value, and what happens when servers and workers go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support.engines import MakeEngine
from support.ioc import IOCFactory
from support.recording import eventually, flushed

from daqca import Engine
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
