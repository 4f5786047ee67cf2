"""The recorder for its users: the file that it makes, its numbers, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.recording import T0, Feed, drained, flushed, numbers, record

from daqca.errors import ConfigurationError, NameListError, RecordingError
from daqca.recording import Recorder, Recording, RecordingFile, layout
from daqca.recording.store import Store

# The file


def test_an_existing_file_is_refused_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_text("precious")
    with pytest.raises(RecordingError, match=r"run\.h5: it exists already; .*overwrite=True"):
        Recorder(path, ["a"]).start()
    assert path.read_text() == "precious"
    assert record(path, ["a"], numbers([0], [1]), overwrite=True).written == 1
    assert os.listdir(tmp_path) == ["run.h5"]


@pytest.mark.parametrize("where", ["missing/run.h5", "file/run.h5", "."])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_cannot_be_made_is_an_error_before_anything_begins(
    tmp_path: Path, where: str, overwrite: bool
) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / where, ["a"], overwrite=overwrite)
    with pytest.raises(RecordingError, match="cannot record to"):
        recorder.start()
    assert os.listdir(tmp_path) == ["file"]
    assert recorder.stop().received == 0


def test_a_directory_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        tmp_path.chmod(0o500)
    else:  # nothing is forbidden to root: let the system call say what it would to others

        def refuse(*args: Any, **options: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(RecordingError, match=r"cannot record to .*EACCES, Permission denied"):
        Recorder(tmp_path / "run.h5", ["a"]).start()
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


def test_when_the_new_file_fails_the_old_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    path.write_text("precious")

    def full(store: Store, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "require_space", full)
    with pytest.raises(RecordingError, match="ENOSPC, No space left on device"):
        Recorder(path, ["a"], overwrite=True).start()
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["run.h5"]


def test_the_file_explains_itself(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    metadata = {
        "operator": "A. Nobody",
        "run": 17,
        "positions": np.arange(3),
        "sample": {"name": "µ/x", "tags": ["a", 1]},
    }
    record(path, ["x:a", "ü/b"], numbers([0, 1], [1, 2]), metadata=metadata)
    with h5py.File(path) as file:
        assert bool(file.attrs["complete"])
        assert file.attrs["creator"] == "daqca"
        assert file.attrs["daqca_layout"] == layout.LAYOUT_VERSION
        assert {key: int(file.attrs[key]) for key in ("received", "written", "dropped", "missed")} == {
            "received": 2,
            "written": 2,
            "dropped": 0,
            "missed": 0,
        }
        assert file["entry/start_time"].asstr()[()] < file["entry/end_time"].asstr()[()]
        assert file["entry/start_time"].asstr()[()].endswith("+00:00")
        assert file["entry/pvs/name"].asstr()[:].tolist() == ["x:a", "ü/b"]
        assert file["entry/scalars/slot"].attrs["description"]
    with RecordingFile(path) as recording:
        assert {**recording.metadata, "positions": 0} == {
            "operator": "A. Nobody",
            "run": 17,
            "positions": 0,
            "sample": {"name": "µ/x", "tags": json.dumps(["a", 1])},
        }
        assert recording.metadata["positions"].tolist() == [0, 1, 2]


def test_viewers_find_something_to_plot(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    times = np.arange(30_000) * 1000 + T0
    record(
        path, ["a", "b/c", "s"], numbers(np.arange(30_000) % 2, np.arange(30_000), times), Feed().text(2, "x").batch()
    )
    with h5py.File(path) as file:
        entry = file[file.attrs["default"]]
        overview = entry[entry.attrs["default"]]
        data = overview[overview.attrs["default"]]
        assert data.attrs["NX_class"] == "NXdata"
        assert data[data.attrs["signal"]].shape == data[data.attrs["axes"][0]].shape
        every = int(data.attrs["every"])
        assert data["value"][:].tolist() == list(range(0, 30_000, 2 * every))
        assert 3 <= every <= 4
        assert list(overview) == ["a", "b|c"]
        seconds = overview["a/time"][:] + file.attrs["start_time_ns"] / 1e9
        assert abs(seconds[1] - seconds[0] - every * 2e-6) < 1e-6


# Using it


def test_the_numbers_while_recording(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run.h5", ["a", "b"], flush_interval=0.05) as recorder:
        recorder.deliver(numbers([0, 0, 1], [1, 2, 3]))
        flushed(recorder)
        stats = recorder.stats
        assert (stats.received, stats.written, stats.scalars, stats.complete) == (3, 3, 3, False)
        assert stats.bytes_in == 3 * 32 + 256
        assert stats.event_rate == stats.received / stats.seconds
        assert recorder.counts().received.tolist() == [2, 1]
        with pytest.raises(KeyError):
            recorder.counts().of("c")
    assert recorder.stats.complete
    assert recorder.stats.as_dict()["lost"] == 0
    assert "3 updates of 2 PVs" in str(recorder.stats)
    assert "3 written, 0 lost" in str(recorder.stats)


def test_what_comes_too_late_is_counted_as_such(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run.h5", ["a"]) as recorder:
        recorder.deliver(numbers([0], [1]))
    recorder.deliver(numbers([0, 0], [2, 3]))
    assert (recorder.stats.received, recorder.stats.late) == (1, 2)
    assert recorder.stop().written == 1
    with pytest.raises(RecordingError, match="twice"):
        recorder.start()


def test_an_error_in_the_block_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("daqca.recording.columns.Table.append", fail)
    recorder = Recorder(tmp_path / "run.h5", ["a"]).start()
    recorder.deliver(numbers([0], [1]))
    drained(recorder)
    with pytest.raises(ZeroDivisionError), recorder:
        raise ZeroDivisionError
    assert "EIO" in recorder.stats.error
    assert (recorder.stats.written, recorder.stats.lost) == (0, 1)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"compression": "blosc"}, "compression='blosc'"),
        ({"frame_compression": "zip"}, "frame_compression"),
        ({"flush_interval": 0}, "flush_interval"),
        ({"max_queue_bytes": 10}, "max_queue_bytes"),
        ({"shapes": {"a": ()}}, "shape"),
        ({"shapes": {"a": (3, -1)}}, "shape"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Recorder(tmp_path / "run.h5", ["a"], **options)


@pytest.mark.parametrize("names", [[], [""], ["a", 3], ["a\0b"]])
def test_names_that_make_no_sense(tmp_path: Path, names: list[Any]) -> None:
    with pytest.raises(NameListError):
        Recorder(tmp_path / "run.h5", names)


def test_names_count_once(tmp_path: Path) -> None:
    assert Recorder(tmp_path / "run.h5", ["b", "a", "b"]).names == ["b", "a"]
    assert Recorder(tmp_path / "run.h5", "abc").names == ["abc"]


class FakeSubscription:
    def __init__(self, names: list[str]):
        self.names = names
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_a_recording_ends_its_subscription_first(tmp_path: Path) -> None:
    made = []

    def subscribe(names: Any, recorder: Recorder) -> FakeSubscription:
        recorder.deliver(numbers([0, 1], [1, 2]))
        made.append(FakeSubscription(list(names)))
        return made[-1]

    with Recording(subscribe, tmp_path / "run.h5", ["a", "b", "a"]) as recording:
        assert recording.names == ["a", "b"]
    assert made[0].closed
    assert (recording.stats.written, recording.stats.complete) == (2, True)
    assert recording.counts().received.tolist() == [1, 1]
    assert recording.path == str(tmp_path / "run.h5")


def test_a_subscription_that_fails_or_numbers_otherwise_leaves_nothing_running(tmp_path: Path) -> None:
    before = threading.active_count()

    def refuse(names: Any, recorder: Recorder) -> FakeSubscription:
        raise ConnectionError("no")

    with pytest.raises(ConnectionError):
        Recording(refuse, tmp_path / "a.h5", ["a"])
    with pytest.raises(RecordingError, match="another order"):
        Recording(lambda names, recorder: FakeSubscription(["b", "a"]), tmp_path / "b.h5", ["a", "b"])
    assert threading.active_count() == before
