"""Reading recordings: series, frames, summaries, plots, and files that are something else."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.recording import CHAR, DOUBLE, STRING, T0, Feed, numbers

from daqca.errors import RecordingError
from daqca.recording import Recorder, RecordingFile, describe, layout, plot, recover, summary


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recording of two numbers, a string, a waveform, an image and a silent PV."""
    path = tmp_path / "run.h5"
    names = ["a", "b", "s", "w", "cam", "silent"]
    with Recorder(path, names, shapes={"cam": (40, 50)}, metadata={"run": 3}) as recorder:
        feed = Feed().connected(2, STRING).connected(3, DOUBLE, 8).connected(4, CHAR, 10_000).lost(2, slot=1)
        for i in range(6):
            feed.array(3, np.arange(8.0) * i, when=T0 + i).array(4, np.full(2000, i), CHAR, when=T0 + i, severity=2)
        recorder.deliver(feed.text(2, "on").text(2, "").batch())
        recorder.deliver(numbers([0, 1] * 50, np.arange(100), np.arange(100) + T0))
    return path


def test_several_series_in_one_reading(path: Path) -> None:
    with RecordingFile(path) as file:
        assert list(file) == file.names
        every = file.all_scalars()
        assert sorted(every) == sorted(file.names)
        some = file.all_scalars(["b", "a"])
        assert some["a"].values.tolist() == every["a"].values.tolist() == list(range(0, 100, 2))
        assert some["b"].times.tolist() == list(range(T0 + 1, T0 + 100, 2))
        assert every["silent"].values.tolist() == []
        assert file.scalars("s").values.tolist() == ["on", ""]
        with pytest.raises(KeyError, match="nobody is not in"):
            file.scalars("nobody")


def test_frames_are_a_sequence(path: Path) -> None:
    with RecordingFile(path) as file:
        frames = file.frames("cam")
        assert len(frames) == 6
        assert frames[2].tolist() == [[2] * 50] * 40
        assert [f[0, 0] for f in frames[1:5:2]] == [1, 3]
        assert frames[-1][0, 0] == 5
        assert frames.severity.tolist() == [2] * 6
        assert frames.stack().shape == (6, 40, 50)
        assert file.frames("w").stack().tolist() == [(np.arange(8.0) * i).tolist() for i in range(6)]
        assert file.frames("w")[1].dtype == np.dtype("=f8")
        assert len(file.frames("silent")) == 0
        assert file.frames("silent").stack().shape == (0, 0)
        with pytest.raises(IndexError):
            frames[6]


def test_arrays_that_differ_are_not_stacked(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with Recorder(path, ["w", "v"]) as recorder:
        recorder.deliver(Feed().connected(0, DOUBLE, 4).array(0, [1.0, 2.0]).array(0, [1.0, 2.0, 3.0]).batch())
        # Between each other, in a dataset that they share with nobody.
        recorder.deliver(Feed().connected(1, DOUBLE, 4).array(1, [1.0, 2.0]).array(1, [3.0, 4.0]).batch())
    with RecordingFile(path) as file:
        with pytest.raises(ValueError, match="differ"):
            file.frames("w").stack()
        assert file.frames("v").stack().tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_summary_in_numbers_and_in_words(path: Path) -> None:
    told = summary(path)
    assert json.loads(json.dumps(told)) == told
    assert told["rows"] == {"scalars": 100, "strings": 2, "frames": 12, "events": 4}
    assert (told["received"], told["written"], told["lost"], told["losses"]) == (114, 114, 2, {"b": 2})
    assert told["silent"] == ["silent"]
    assert told["arrays"] == {
        "w": {"shape": [6, 8], "dtype": ">f8"},
        "cam": {"shape": [6, 40, 50], "dtype": "uint8"},
    }
    assert told["metadata"] == {"run": 3}
    words = describe(path)
    for part in ("complete", "6 PVs, 1 of them without", "114 written, 2 lost (0 in the recorder, 2 before it)"):
        assert part in words
    assert "cam: 6 x 40 x 50 uint8" in words
    assert "lost of b: 2" in words


def test_a_plot_is_a_picture(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plot(path, tmp_path / "all.png") == ["a", "b", "w", "cam"]
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    assert plot(path, tmp_path / "one.png", ["b", "silent"]) == ["b"]
    with pytest.raises(KeyError):
        plot(path, tmp_path / "none.png", ["nobody"])


def test_a_user_s_own_handle_is_no_hindrance(path: Path) -> None:
    with h5py.File(path, "r") as plain, RecordingFile(path) as file:
        assert file.scalars("a").values.tolist() == plain["entry/scalars/value"][::2].tolist()


def test_a_newer_layout_is_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["daqca_layout"] = layout.LAYOUT_VERSION + 1
    with pytest.raises(RecordingError, match="newer than this daqca"):
        RecordingFile(path)
    with h5py.File(path, "r+") as file:  # and let go of
        assert file.attrs["daqca_layout"] == layout.LAYOUT_VERSION + 1


def test_a_file_of_layout_1_is_read_and_recovered(path: Path) -> None:
    with RecordingFile(path) as recording:
        totals = recording.totals
    with h5py.File(path, "r+") as file:
        file.attrs["daqca_layout"] = 1
        file.attrs.modify("complete", False)
        del file["entry/pvs/interruptions"], file["entry/state/totals"]
        old = layout.TOTALS[: layout.TOTALS.index("interruptions")]
        file["entry/state/totals"] = [totals[name] for name in old]
    recover(path, force=True)
    with RecordingFile(path) as recording:
        assert recording.totals == totals
        assert recording.counts.interruptions.tolist() == [0] * 6
        assert recording.counts.written.tolist() == [50, 50, 2, 6, 6, 0]
        assert recording.lost == 2


def test_rows_that_were_not_committed_do_not_count(path: Path) -> None:
    # As after a kill between the growing of a column and the flush of what is in it.
    with h5py.File(path, "r+") as file:
        file["entry/state/rows"][0] = 61
        file.attrs.modify("complete", False)
    with RecordingFile(path) as recording:
        assert recording.rows["scalars"] == 61
        assert recording.scalars("b").values.tolist() == list(range(1, 61, 2))
    assert recover(path, force=True).written.tolist() == [31, 30, 2, 6, 6, 0]
    with h5py.File(path) as file:
        assert file["entry/scalars/value"].shape == (61,)
        assert file["entry/pvs/written"][:].tolist() == [31, 30, 2, 6, 6, 0]
        assert file["entry/pvs/dropped"][:].tolist() == [19, 20, 0, 0, 0, 0]
        assert (file.attrs["written"], file.attrs["dropped"]) == (75, 39)
