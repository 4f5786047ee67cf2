"""``daqca record`` and ``daqca demo`` end to end, with Ctrl-C, a full disk, and files that are read back."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from support.cli import ctrl_c, daqca, daqca_running, ended
from support.recording import eventually

from daqca.cli.codes import ExitCode
from daqca.recording import RecordingFile
from daqca.snapshot import Snapshot


def numbers_of(out: str) -> dict[str, str]:
    """The rows of the table at the end."""
    return dict(re.findall(r"^([a-zP][a-zA-Z ]+?) {2,}(\S.*)$", out, re.MULTILINE))


@pytest.mark.parametrize("workers", [0, 1])
def test_everything_that_changes_is_in_the_file(ioc, tmp_path, workers):
    path, names = tmp_path / "run.h5", ioc.database.changing_names
    done = daqca("record", *names, "-o", path, "-d", 2.5, "--workers", workers)
    assert (done.code, done.err) == (0, ""), done
    table = numbers_of(done.out)
    assert table["PVs"] == str(len(names))
    assert table["updates lost"] == "0"
    assert table["file read back and compared"] == "yes"
    assert table["updates received"] == table["updates in the file"]
    with RecordingFile(path) as file:
        assert file.complete
        series = file.all_scalars(names)
        for name in names:
            # 20 updates per second for two and a half seconds, less the time to connect, and the first value.
            assert len(series[name].values) >= 20, name
            assert np.all(np.diff(series[name].values) == 1), name
        assert sum(len(one.values) for one in series.values()) == int(table["updates in the file"].replace(",", ""))


@pytest.mark.parametrize(
    ("signum", "code", "workers"), [(signal.SIGINT, 130, 0), (signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0)]
)
def test_a_signal_stops_cleanly_and_keeps_what_was_recorded(ioc, tmp_path, signum, code, workers):
    path, name = tmp_path / "run.h5", f"{ioc.prefix}tick00001"
    with daqca_running("record", name, "-o", path, "--json", "--workers", workers) as process:
        wait_for_updates(path, name, 5)
        ctrl_c(process, signum)
        done = ended(process)
    assert done.code == code, done
    assert done.err.strip() == f"daqca: stopped by request; what was recorded is kept in {path}"
    stats = done.json
    assert (stats["complete"], stats["lost"], stats["interrupted"]) == (True, 0, True)
    with RecordingFile(path) as file:
        values = file.scalars(name).values
        assert len(values) == stats["written"] >= 5
        assert np.all(np.diff(values) == 1)


def wait_for_updates(path, name: str, count: int) -> None:
    """Wait until so many updates of a PV can be read from a file that is being written."""
    import time

    from daqca.errors import RecordingError

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with RecordingFile(path) as file:
                if len(file.scalars(name).values) >= count:
                    return
        except RecordingError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{count} updates of {name} did not come into {path}")


def test_a_missing_pv_is_named_and_the_rest_recorded(ioc, tmp_path):
    path, name = tmp_path / "run.h5", f"{ioc.prefix}tick00001"
    done = daqca("record", name, f"{ioc.prefix}nobody", "-o", path, "-d", 0.5, "-w", 0.3)
    assert done.code == ExitCode.MISSING
    assert done.err == (
        f"daqca: {ioc.prefix}nobody: never found\n"
        "daqca: 1 of 2 PVs are missing; they are recorded from when they come\n"
    )
    with RecordingFile(path) as file:
        assert len(file.scalars(name).values) > 3


def test_the_duration_begins_with_the_recording_whatever_is_missing(ioc, tmp_path):
    path, name = tmp_path / "run.h5", ioc.database.changing_names[0]
    done = daqca("record", name, f"{ioc.prefix}nobody", "-o", path, "-d", 2, "-w", 40, "--json")
    assert done.code == ExitCode.MISSING
    assert done.err.startswith(f"daqca: {ioc.prefix}nobody: never found\n")
    stats = done.json
    assert 2 <= stats["seconds"] < 20
    with RecordingFile(path) as file:
        values = file.scalars(name).values
        assert len(values) == stats["written"] > 10
        assert np.all(np.diff(values) == 1)


def test_a_signal_while_it_waits_for_a_missing_pv_stops_cleanly(ioc, tmp_path):
    path, name = tmp_path / "run.h5", ioc.database.changing_names[0]
    with daqca_running("record", name, f"{ioc.prefix}nobody", "-o", path, "--json", "-w", 60) as process:
        wait_for_updates(path, name, 5)
        ctrl_c(process)
        done = ended(process)
    assert done.code == 130, done
    assert done.err.strip() == f"daqca: stopped by request; what was recorded is kept in {path}"
    stats = done.json
    assert (stats["complete"], stats["lost"], stats["interrupted"]) == (True, 0, True)
    with RecordingFile(path) as file:
        assert len(file.scalars(name).values) == stats["written"] >= 5


def test_a_worker_that_is_lost_is_told(ioc, tmp_path):
    path, name = tmp_path / "run.h5", ioc.database.changing_names[0]
    with daqca_running("record", name, "-o", path, "--workers", 1) as process:
        wait_for_updates(path, name, 5)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (worker,) = (int(pid) for pid in children if b"daqca.workers" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: interrupted(path), "the interruption is in the file")
        ctrl_c(process)
        done = ended(process)
    assert done.code == 130, done
    assert numbers_of(done.out)["lost with a worker"] == "unknown; interruptions: 1"
    assert interrupted(path) == [name]


def interrupted(path) -> list[str]:
    with RecordingFile(path) as file:
        return [event.name for event in file.interruptions]


def test_no_room_ends_the_recording_and_says_what_is_there(make_ioc, tmp_path):
    """A limit on the size of files stands in for a full disk: the system refuses to write either way."""
    ioc = make_ioc(scalars=2000, changing=2000, rate_hz=50.0)
    path, names = tmp_path / "run.h5", tmp_path / "names.txt"
    names.write_text("\n".join(ioc.names))
    done = daqca("record", "-f", names, "-o", path, "-d", 40, file_limit=3_200_000, env=ioc.environ)
    assert done.code == ExitCode.OUTPUT, done
    last = done.err.splitlines()[-1]
    assert str(path) in last
    assert "EFBIG" in last
    table = {label: text.replace(",", "") for label, text in numbers_of(done.out).items()}
    assert table["file read back and compared"] == "no"
    assert int(table["updates in the file"]) > 1000
    assert int(table["updates received"]) == int(table["updates in the file"]) + int(table["updates lost"])
    with RecordingFile(path) as file:
        assert sum(len(one.values) for one in file.all_scalars().values()) == int(table["updates in the file"])


def test_the_demo_in_small(tmp_path):
    done = daqca(
        *("demo", "-o", tmp_path / "out", "--scalars", 300, "--workers", 1, "-d", 1, "--rate", 5000),
        *("--frame-rate", 20),
        cwd=tmp_path,
        env={"MPLCONFIGDIR": str(tmp_path / "mpl")},
    )
    assert done.code == 0, done
    rows = [re.split(r" *│ *", line)[1:-1] for line in done.out.splitlines() if line.startswith("│")]
    assert [(row[0], row[-1]) for row in rows] == [
        ("snapshot, cold, in process", "0"),
        ("snapshot, warm, in process", "0"),
        ("snapshot, cold, 1 workers", "0"),
        ("snapshot, warm, 1 workers", "0"),
        ("scalar updates in the file", "0"),
        ("frames of 1024 x 1024 in the file", "0"),
        ("the recorder's own count", "0"),
    ]
    assert int(rows[4][1].replace(",", "")) > 3000
    assert int(rows[5][1]) >= 15
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["demo.png", "recording.h5", "snapshot.csv", "snapshot.h5"]
    assert Snapshot.load(out / "snapshot.csv").ok.sum() == 300
    assert (out / "demo.png").read_bytes()[:4] == b"\x89PNG"
    # The filter that compresses the frames is known to HDF5 when this is imported.
    import hdf5plugin  # noqa: F401

    with RecordingFile(out / "recording.h5") as file:
        assert file.complete
        assert file.frames("DEMO:image1:ArrayData")[-1].shape == (1024, 1024)


def test_the_check_of_the_demo_finds_what_is_missing(tmp_path):
    from daqca.cli.demo_check import check
    from daqca.events import EVENT, BatchBuilder, Kind
    from daqca.recording import Recorder
    from daqca.sim.frames import FramePattern

    pattern = FramePattern(64, 64)
    path = tmp_path / "run.h5"

    def batch(slot, values, frame=None):
        builder = BatchBuilder()
        records = np.zeros(len(values), EVENT)
        records["slot"], records["kind"], records["dbr_type"], records["count"] = slot, Kind.UPDATE, 6, 1
        records["value"], records["timestamp"] = values, 1_700_000_000_000_000_000
        builder.extend(records)
        if frame is not None:
            place = builder.store(frame.tobytes())
            builder.rows.append((1, Kind.UPDATE, 4, 0, 0, 1_700_000_000_000_000_000, place, frame.size, 0))
        return builder.build()

    torn = pattern.frame(5)
    torn[40, 40] += 1
    with Recorder(path, ["C", "IMAGE"], shapes={"IMAGE": (64, 64)}).start() as recorder:
        for values, frame in [
            ([1, 2, 3], pattern.frame(1)),
            ([5], pattern.frame(2)),
            ([6], torn),
            ([7], pattern.frame(6)),
        ]:
            recorder.deliver(batch(0, values, frame))
    found = check(str(path), "IMAGE", ["C"], pattern, made=6)
    # The number 4; the frames 3, 4 and 5, the last of which is there but torn.
    assert (found.scalars, found.scalars_lost, found.frames, found.frames_lost) == (6, 1, 3, 4)
    assert check(str(path), "IMAGE", ["C"], pattern, made=9).frames_lost == 6
