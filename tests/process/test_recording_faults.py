"""Recording in processes that are killed, on disks that are full, in files that others read and move."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.recording import CHAR, DOUBLE, Feed, drained, flushed, numbers

from daqca.errors import RecordingError
from daqca.recording import Recorder, RecordingFile, describe, recover, superblock
from daqca.recording.layout import Origin

TESTS = Path(__file__).parents[1]


@contextmanager
def python(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `script`; killed at the end if it still runs."""
    environ = {**os.environ, "PYTHONPATH": str(TESTS)}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


COUNTER = """
import sys, time, itertools
import numpy as np
from daqca.recording import Recorder
from support.recording import CHAR, Feed, numbers
recorder = Recorder(sys.argv[1], ["a", "b", "cam"], flush_interval=float(sys.argv[2])).start()
recorder.deliver(Feed().connected(0).connected(1).connected(2, CHAR, 100_000).batch())
for i in itertools.count():
    recorder.deliver(numbers([0, 1] * 500, np.arange(i * 1000, i * 1000 + 1000)))
    recorder.deliver(Feed().array(2, np.full(50_000, i % 256), CHAR).batch())
    print(i, time.time_ns(), flush=True)
    time.sleep(0.002)
"""


def test_a_killed_recorder_loses_one_flush_interval_at_most(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    interval = 0.25
    sent = {}
    with python(COUNTER, path, interval) as process:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            number, when = line(process).split()
            sent[int(number)] = int(when)
        killed = time.time_ns()
        process.send_signal(signal.SIGKILL)
        process.wait()
    # What was sent more than an interval (and the writer's pause, and a busy machine's delay) before is there.
    due = max(i for i, when in sent.items() if when < killed - (interval + 0.5) * 1e9)
    with RecordingFile(path) as file:
        assert not file.complete
        rows = file.rows["scalars"]
        assert rows >= (due + 1) * 1000 > 1000
        values = np.concatenate([file.scalars("a").values, file.scalars("b").values])
        assert sorted(values.tolist()) == list(range(rows))
        frames = file.frames("cam")
        assert len(frames) > due
        assert frames.missing == 0
        assert all((frame == i % 256).all() and len(frame) == 50_000 for i, frame in enumerate(frames))
        assert file.counts.written.tolist() == [rows // 2, rows // 2, len(frames)]
        assert file.end_time > killed - 3e9
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(path, "r")
    with Recorder(tmp_path / "waiting.h5", ["a"]), pytest.raises(RecordingError, match="it is being written"):
        recover(tmp_path / "waiting.h5")
    with python(COUNTER, tmp_path / "live.h5", 0.1) as process:
        line(process)
        with pytest.raises(RecordingError, match=r"live\.h5: it is being written"):
            recover(tmp_path / "live.h5")
    found = recover(path, force=True)
    assert found.rows["scalars"] == rows
    with h5py.File(path) as plain:
        assert plain["entry/scalars/value"].shape == (rows,)
        assert plain["entry/arrays/cam/data"][3, 0] == 3
        assert plain["entry/arrays/cam/data"].shape[0] == plain["entry/arrays/cam/time"].shape[0] == len(frames)
        assert plain["entry/end_time"].asstr()[()]
        assert not plain.attrs["complete"]
        assert plain.attrs["written"] == rows + len(frames)
    assert "NOT COMPLETE: the recorder was killed" in describe(path)


KILLED_WHILE_REOPENING = """
import os, signal, sys
from daqca.recording import Recorder, store
from support.recording import *
def die(path):
    file = original(path)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
original = store.open_for_writing
recorder = Recorder(sys.argv[1], ["a", "cam"], flush_interval=0.05).start()
recorder.deliver(numbers([0] * 10, range(10)))
flushed(recorder)
store.open_for_writing = die
recorder.deliver(Feed().array(1, range(100), CHAR).batch())
import time
time.sleep(60)
"""


def test_a_recorder_killed_while_it_makes_a_dataset_leaves_a_file_to_recover(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with python(KILLED_WHILE_REOPENING, path) as process:
        assert process.wait(30) == -signal.SIGKILL
    assert superblock.flags(path) == superblock.WRITING
    with pytest.raises(RecordingError, match=r"daqca\.recording\.recover"):
        RecordingFile(path)
    assert recover(path, force=True).rows["scalars"] == 10
    with RecordingFile(path) as file:
        assert file.scalars("a").values.tolist() == list(range(10))


KILLED_AT_THE_END = """
import os, signal, sys
from daqca.recording import Recorder, finish
from support.recording import *
def die(*arguments, **options):
    result = original(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
original = getattr(finish, sys.argv[2])
setattr(finish, sys.argv[2], die)
recorder = Recorder(sys.argv[1], ["a", "early", "late"], flush_interval=0.05).start()
recorder.deliver(Feed().array(1, range(100), CHAR).batch())
flushed(recorder)
recorder.deliver(numbers([0] * 10, range(10)))
recorder.deliver(Feed().array(2, range(50), CHAR).batch())
recorder.stop()
"""


@pytest.mark.parametrize("step", ["tally", "link_arrays", "beautify", "set_end"])
def test_a_recorder_killed_while_it_ends_loses_nothing(tmp_path: Path, step: str) -> None:
    path = tmp_path / "run.h5"
    with python(KILLED_AT_THE_END, path, step) as process:
        assert process.wait(30) == -signal.SIGKILL
    found = recover(path, force=True)
    assert found.written.tolist() == [10, 1, 1]
    with RecordingFile(path) as file:
        assert not file.complete
        assert file.scalars("a").values.tolist() == list(range(10))
        assert file.frames("late")[0].tolist() == list(range(50))
    with h5py.File(path) as plain:
        assert sorted(plain["entry/arrays"]) == ["early", "late"]
        assert plain["entry/arrays/late/data"][0].tolist() == list(range(50))
        assert "itself" not in plain["entry/arrays/late"]
        assert plain["entry/arrays/early/time"].shape == (1,)


KILLED_AT_ONCE = """
import os, signal, sys
from daqca.recording import Recorder
Recorder(sys.argv[1], ["a"]).start()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_recorder_killed_at_once_leaves_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with python(KILLED_AT_ONCE, path) as process:
        assert process.wait(30) == -signal.SIGKILL
    assert recover(path, force=True).rows == {"scalars": 0, "strings": 0, "frames": 0, "events": 0}
    with RecordingFile(path) as file:
        assert (file.names, file.complete) == (["a"], False)


def test_a_recovered_or_complete_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with Recorder(path, ["a"]) as recorder:
        recorder.deliver(numbers([0], [1]))
    before = path.read_bytes()
    assert recover(path).written.tolist() == [1]
    with RecordingFile(path) as file:
        assert file.complete
    assert len(path.read_bytes()) == len(before)
    path.write_bytes(b"no HDF5")
    with pytest.raises(RecordingError, match="not a recording"):
        recover(path)
    h5py.File(path, "w", libver="v110").close()
    with pytest.raises(RecordingError, match="not a recording"):
        recover(path)
    with pytest.raises(RecordingError, match="not a recording"):
        RecordingFile(path)
    with pytest.raises(RecordingError, match="no such file"):
        RecordingFile(tmp_path / "none.h5")


# Full disks


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(recorder: Recorder, batches: int = 400) -> int:
    """Deliver counted numbers and frames until there is an error, and some more; returns how many."""
    recorder.deliver(Feed().connected(1, CHAR, 100_000).batch())
    rng = np.random.default_rng(0)
    sent = 0
    for i in range(batches):
        recorder.deliver(numbers([0] * 1000, rng.normal(size=1000)))
        recorder.deliver(Feed().array(1, rng.integers(0, 256, 40_000), CHAR).batch())
        sent += 1001
        if i % 5 == 4:
            drained(recorder)
        if recorder.stats.error and i % 10 == 9:
            break
    return sent


def check_full(path: Path, recorder: Recorder, sent: int, word: str, elsewhere: Path) -> None:
    """The error is told, everything is counted, and all that was written is read."""
    with pytest.raises(RecordingError, match=word):
        recorder.stop(timeout=20)
    stats = recorder.stats
    assert word in stats.error
    assert (stats.received, stats.complete) == (sent, False)
    assert stats.written + stats.dropped == sent
    assert stats.written > 10_000
    assert stats.dropped > 0
    rng = np.random.default_rng(0)
    with RecordingFile(path) as file:
        assert not file.complete
        assert word in file.error
        assert file.lost == stats.dropped
        values, frames = file.scalars("a").values, file.frames("cam")
        assert len(values) + len(frames) == stats.written
        for i in range(max(len(values) // 1000, len(frames))):
            expected, frame = rng.normal(size=1000), rng.integers(0, 256, 40_000)
            part = values[i * 1000 : i * 1000 + 1000]
            assert part.tolist() == expected[: len(part)].tolist()
            if i < len(frames):
                assert frames[i].tolist() == frame.tolist()
    with h5py.File(path) as plain:  # and by any other program
        assert plain["entry/scalars/value"].shape[0] >= len(values)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    copy = Path(shutil.copy(path, elsewhere))
    assert int(recover(copy).written.sum()) == stats.written
    with h5py.File(copy) as plain:
        assert plain["entry/scalars/value"].shape[0] == len(values)
        assert plain["entry/arrays/cam/data"].shape[0] == len(frames)
        assert plain.attrs["dropped"] == stats.dropped
    assert f"ended early: {stats.error}" in str(stats)


@pytest.mark.parametrize("margin", [None, 0])
@pytest.mark.parametrize("size", ["6m", "7100k", "8m"])
def test_a_full_disk_ends_the_recording_and_loses_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, margin: int | None
) -> None:
    with small_disk(tmp_path / "disk", size) as folder:
        recorder = Recorder(folder / "run.h5", ["a", "cam"], flush_interval=0.05).start()
        if margin is not None:  # let HDF5 itself run into the end of the disk
            monkeypatch.setattr("daqca.recording.space.MARGIN", -(1 << 40))
        sent = fill(recorder)
        check_full(folder / "run.h5", recorder, sent, "ENOSPC", tmp_path)
        monkeypatch.setattr("daqca.recording.space.MARGIN", 8 << 20)
        with pytest.raises(RecordingError, match="ENOSPC"):
            Recorder(folder / "more.h5", ["a"]).start()
        with pytest.raises(RecordingError, match=r"cannot recover .*ENOSPC"):
            recover(folder / "run.h5", force=True)
        assert sorted(os.listdir(folder)) == ["run.h5"]


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from process import test_recording_faults as test
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[3])
if sys.argv[4] == "unguarded":
    from daqca.recording import space
    space.MARGIN = -(1 << 40)
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
recorder = test.Recorder(path, ["a", "cam"], flush_interval=0.05).start()
sent = test.fill(recorder)
test.check_full(path, recorder, sent, "EFBIG", path.with_name("copy.h5"))
print("fine")
"""


@pytest.mark.parametrize("how", ["guarded", "unguarded"])
@pytest.mark.parametrize("limit", [4_000_000, 4_500_001, 5_555_555])
def test_a_file_that_may_not_grow_ends_the_recording_the_same_way(tmp_path: Path, limit: int, how: str) -> None:
    if how == "unguarded" and h5py.version.hdf5_version_tuple < (1, 14, 0):
        pytest.skip("HDF5 1.12 crashes if it cannot close a file")
    with python(LIMITED, tmp_path / "run.h5", TESTS, limit, how) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        assert output.endswith("fine\n"), output
        assert process.wait(10) == 0


# Others at the same file

READER = """
import faulthandler, sys, time
faulthandler.dump_traceback_later(20, exit=True)
from daqca.recording import RecordingFile
path, end = sys.argv[1], time.monotonic() + 30
seen, reads, rows = set(), 0, 0
while time.monotonic() < end:
    with RecordingFile(path) as file:
        for name in file.names[1:]:
            frames = file.frames(name)
            assert frames.missing == 0
            for i, frame in enumerate(frames):
                assert frame.tolist() == [i] * len(frame), (name, i)
            if len(frames):
                seen.add(name)
        values = file.scalars("a").values
        assert values.tolist() == list(range(len(values)))
        assert len(values) >= rows
        rows, reads = len(values), reads + 1
        complete = file.complete
    if reads == 1:
        print("reading", flush=True)
    if complete:
        break
print(len(seen), rows, reads > 5)
"""


def test_the_file_is_read_while_it_grows_and_gets_new_datasets(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    names = ["a", *(f"w{i}" for i in range(25))]
    recorder = Recorder(path, names, flush_interval=0.02).start()
    with python(READER, path) as process:
        assert line(process) == "reading"
        # Each PV connects late, and has a dataset of its own: the file is closed and opened again for it.
        for i in range(1, len(names)):
            feed = Feed().connected(i, DOUBLE, 50 + i)
            for k in range(5):
                feed.array(i, [k] * (50 + i - k % 2))
            recorder.deliver(feed.batch())
            recorder.deliver(numbers([0] * 100, np.arange((i - 1) * 100, i * 100)))
            flushed(recorder)
        stats = recorder.stop()
        assert stats.reopened >= 20
        assert process.stdout is not None
        assert process.stdout.read() == "25 2500 True\n"


def test_the_recording_process_itself_may_read_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "run.h5"
    names = ["a", "b", "c"]
    recorder = Recorder(path, names, flush_interval=0.02).start()
    recorder.deliver(numbers([0] * 10, range(10)))
    flushed(recorder)
    with RecordingFile(path) as file:
        assert file.scalars("a").values.tolist() == list(range(10))
        recorder.deliver(Feed().array(1, [1.0, 2.0]).batch())
        flushed(recorder)
        assert recorder.stats.reopened == 1
        file.refresh()
        with RecordingFile(path) as second:
            assert len(second.frames("b")) == 1
        assert [f.tolist() for f in file.frames("b")] == [[1.0, 2.0]]
    assert not caplog.records
    # A handle that shares HDF5's file with the recorder is closed rather than getting in its way.
    for swmr in (True, False):
        handle = h5py.File(path, "r", swmr=swmr, locking=False)
        assert handle["entry/scalars/value"].shape[0] >= 10
        recorder.deliver(Feed().array(2, [0.0] * (2 + recorder.stats.reopened)).batch())
        drained(recorder)
        assert not handle
    assert "closing the h5py handles" in caplog.text
    handle = h5py.File(path, "r", locking=False)
    stats = recorder.stop()
    assert not handle
    assert (stats.written, stats.complete) == (13, True)
    with RecordingFile(path) as file:
        assert [len(f) for f in file.frames("c")] == [3, 4]


def test_a_file_that_is_moved_or_deleted_goes_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run.h5", ["a", "w"], flush_interval=0.02).start()
    recorder.deliver(numbers([0], [1]))
    flushed(recorder)
    os.rename(tmp_path / "run.h5", tmp_path / "moved.h5")
    recorder.deliver(Feed().array(1, [1.0, 2.0]).batch())
    assert recorder.stop().written == 2
    with RecordingFile(tmp_path / "moved.h5") as file:
        assert file.complete
        assert file.frames("w")[0].tolist() == [1.0, 2.0]


UNSTOPPED = """
import sys
from daqca.recording import Recorder
from support.recording import numbers
recorder = Recorder(sys.argv[1], ["a"]).start()
recorder.deliver(numbers([0] * 10, range(10)))
if sys.argv[2] == "raise":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("how", ["end", "raise"])
def test_a_program_that_forgets_to_stop_has_a_complete_file(tmp_path: Path, how: str) -> None:
    with python(UNSTOPPED, tmp_path / "run.h5", how) as process:
        assert process.wait(30) == (3 if how == "raise" else 0)
        assert line(process) == ""
    with RecordingFile(tmp_path / "run.h5") as file:
        assert file.complete
        assert file.scalars("a").values.tolist() == list(range(10))


def test_under_pressure_nothing_is_lost_that_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with Recorder(path, ["a", "b"], max_queue_bytes=2 << 20, flush_interval=0.1) as recorder:
        value = 0
        batch = numbers([0, 1] * 2000, np.zeros(4000))
        end = time.monotonic() + 1
        while time.monotonic() < end:
            recorder.deliver(batch)
            value += 4000
    stats = recorder.stats
    assert stats.received == value
    assert stats.written + stats.dropped == value
    assert stats.dropped > 0
    assert stats.queue_high_water <= 2 << 20
    with RecordingFile(path) as file:
        assert len(file.scalars("a").times) + len(file.scalars("b").times) == stats.written
        told = sum(e.count for e in file.events if e.origin == Origin.QUEUE)
        assert told == stats.dropped
