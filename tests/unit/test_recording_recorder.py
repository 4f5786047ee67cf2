"""The recorder as a sink: what is delivered is in the file, or counted."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.recording import CHAR, DOUBLE, LONG, STRING, T0, Feed, eventually, flushed, numbers, record

from daqca.errors import RecordingError
from daqca.events import ALL_SLOTS, EVENT_BLOCK, Access, Kind, Reason
from daqca.recording import Recorder, RecordingFile, describe, layout, summary
from daqca.recording.store import Store


def test_numbers_strings_and_arrays_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    feed = Feed().connected(0).connected(1, STRING).connected(2, DOUBLE, 5).connected(3, CHAR, 100_000)
    for i in range(50):
        feed.number(0, i / 2, T0 + i, status=i % 3, severity=i % 2).text(1, f"text {i} µ", T0 + i)
        feed.array(2, np.arange(i % 6) + i, when=T0 + i).array(3, np.full(70_000, i), CHAR, T0 + i)
    stats = record(path, ["a", "b", "c", "d"], feed.batch())
    assert (stats.received, stats.written, stats.lost, stats.control, stats.complete) == (200, 200, 0, 4, True)
    assert (stats.scalars, stats.strings, stats.frames) == (50, 50, 100)
    with RecordingFile(path) as file:
        assert file.complete
        assert file.error == ""
        numeric = file.scalars("a")
        assert numeric.values.tolist() == [i / 2 for i in range(50)]
        assert numeric.times.tolist() == list(range(T0, T0 + 50))
        assert numeric.status.tolist() == [i % 3 for i in range(50)]
        assert numeric.severity.tolist() == [i % 2 for i in range(50)]
        assert file.scalars("b").values.tolist() == [f"text {i} µ" for i in range(50)]
        assert [a.tolist() for a in file.frames("c")] == [(np.arange(i % 6) + i).tolist() for i in range(50)]
        frames = file.frames("d")
        assert frames.stack().tolist() == [[i] * 70_000 for i in range(50)]
        assert frames[-1].dtype == np.uint8
        assert frames.times.tolist() == numeric.times.tolist()
        assert file.counts.of("d") == counts_of(50, 50)


def counts_of(received: int, written: int) -> dict[str, int]:
    """The counts of a PV that lost nothing but in the recorder."""
    lost = received - written
    return {"received": received, "written": written, "dropped": lost, "missed": 0, "lost": lost, "interruptions": 0}


def test_one_element_of_an_array_stays_with_its_array(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    feed = Feed().connected(0, LONG, 10).array(0, [1, 2, 3], LONG).array(0, [-7], LONG).array(0, [], LONG)
    record(path, ["w"], feed.array(0, [4, 5], LONG).batch())
    with RecordingFile(path) as file:
        frames = file.frames("w")
        assert [a.tolist() for a in frames] == [[1, 2, 3], [-7], [], [4, 5]]
        assert frames[1].dtype == np.int32
        assert len(file.scalars("w").times) == 0


def test_a_pv_that_comes_back_with_another_type_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    # All in one batch, and therefore in one pass of the writer.
    feed = Feed().connected(0, DOUBLE, 1).number(0, 1.5).disconnected(0).connected(0, DOUBLE, 3).array(0, [7.0])
    feed.array(0, [1.0, 2.0]).disconnected(0).connected(0, LONG, 40).array(0, [5], LONG).array(0, range(30), LONG)
    feed.disconnected(0).connected(0, STRING).text(0, "now text").disconnected(0).connected(0).number(0, 2.5)
    stats = record(path, ["a"], feed.batch())
    assert (stats.received, stats.written) == (7, 7)
    with RecordingFile(path) as file:
        assert file.scalars("a").values.tolist() == [1.5, 2.5]
        assert [a.tolist() for a in file.frames("a")] == [[7.0], [1.0, 2.0], [5], list(range(30))]
        assert [a.dtype.str[1:] for a in file.frames("a")] == ["f8", "f8", "i4", "i4"]
        assert file.strings("a").values.tolist() == ["now text"]
        kinds = [(e.kind, e.dbr_type, e.count) for e in file.events if e.kind == Kind.CONNECTED]
        assert kinds == [(Kind.CONNECTED, t, n) for t, n in ((6, 1), (6, 3), (5, 40), (0, 1), (6, 1))]
        assert list(file.h5["entry/arrays"]) == ["a", "a~2"]


def test_frames_of_changing_size_lose_nothing_and_waste_little(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    sizes = [50_000, 200_000, 50_000, 120_000, 1, 200_000, 0, 60_000]
    feed = Feed().connected(0, CHAR, 10_000_000)
    for i, size in enumerate(sizes):
        feed.array(0, np.full(size, i + 1), CHAR)
    record(path, ["cam"], feed.batch())
    assert path.stat().st_size < sum(sizes) + 800_000
    with RecordingFile(path) as file:
        assert [(len(f), f[:1].tolist()) for f in file.frames("cam")] == [
            (size, [i + 1] if size else []) for i, size in enumerate(sizes)
        ]


def test_ever_new_sizes_do_not_make_ever_new_datasets(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    feed = Feed().connected(0, CHAR, 100_000).connected(1, DOUBLE, 1000)
    for i in range(200):
        feed.array(0, np.full(40_000 + i, i % 256), CHAR).array(1, np.arange(800 + i))
    record(path, ["a", "b"], feed.batch())
    with RecordingFile(path) as file:
        assert len(file.h5["entry/arrays"]) < 20
        assert [len(f) for f in file.frames("a")] == [40_000 + i for i in range(200)]
        assert all((f == i % 256).all() for i, f in enumerate(file.frames("a")))
        assert [f.tolist() for f in file.frames("b")] == [list(range(800 + i)) for i in range(200)]


def test_many_small_arrays_share_datasets(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    names = [f"w{i}" for i in range(600)]
    feed = Feed()
    for i in range(600):
        feed.connected(i, DOUBLE, 4)
    for k in range(3):
        for i in range(600):
            feed.array(i, [i, k, 1.0], when=T0 + k)
    record(path, names, feed.batch())
    with RecordingFile(path) as file:
        assert len(file.h5["entry/arrays"]) <= 257
        for i in (0, 255, 256, 599):
            assert [f.tolist() for f in file.frames(f"w{i}")] == [[i, k, 1.0] for k in range(3)]


def test_shapes_make_images(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    image = np.arange(300 * 200) % 251
    feed = Feed().connected(0, CHAR, 1_000_000).array(0, image, CHAR).array(0, image[:100], CHAR)
    record(path, ["cam"], feed.batch(), shapes={"cam": (300, 200)})
    with RecordingFile(path) as file:
        assert file.frames("cam")[0].tolist() == image.reshape(300, 200).tolist()
        assert file.frames("cam")[1].tolist() == image[:100].tolist()
        assert file.h5["entry"].attrs["default"] == "arrays/cam"


@pytest.mark.parametrize("frame_compression", [None, "deflate", "bslz4"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_every_compression_gives_the_same_data(
    tmp_path: Path, compression: str | None, frame_compression: str | None
) -> None:
    path = tmp_path / "run.h5"
    frame = np.arange(100_000) // 100
    slots = np.arange(40_000) % 2
    feed = Feed().connected(2, LONG, 200_000)
    for i in range(5):
        feed.array(2, frame + i, LONG)
    record(
        path,
        ["a", "b", "cam"],
        numbers(slots, np.arange(40_000)),
        feed.batch(),
        compression=compression,
        frame_compression=frame_compression,
    )
    with RecordingFile(path) as file:
        assert file.scalars("b").values.tolist() == list(range(1, 40_000, 2))
        assert file.frames("cam").stack().tolist() == [(frame + i).tolist() for i in range(5)]
    size = path.stat().st_size
    assert size < (600_000 if compression else 1_500_000) + (500_000 if frame_compression else 2_100_000)
    if not frame_compression:
        assert size > 2_000_000


def test_connections_and_losses_are_data(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    feed = Feed().connected(0).disconnected(0, Reason.UNRESPONSIVE).lost(5, slot=1).lost(7)
    feed.other(Kind.ACCESS, 1).other(Kind.REFUSED, 1).other(Kind.WRITTEN).other(Kind.FAILED)
    stats = record(path, ["a", "b"], feed.batch())
    assert (stats.received, stats.missed, stats.lost, stats.control, stats.ignored) == (0, 12, 12, 6, 2)
    with RecordingFile(path) as file:
        assert file.lost == 12
        assert file.counts.missed.tolist() == [0, 5]
        assert [(e.name, e.kind, e.count, e.code) for e in file.events] == [
            ("a", Kind.CONNECTED, 1, int(Access.READ | Access.WRITE)),
            ("a", Kind.DISCONNECTED, 0, Reason.UNRESPONSIVE),
            ("b", Kind.LOST, 5, 0),
            ("", Kind.LOST, 7, 0),
            ("b", Kind.ACCESS, 1, 0),
            ("b", Kind.REFUSED, 1, 0),
        ]
        assert {e.origin for e in file.events} == {layout.Origin.UPSTREAM}


def test_what_a_lost_worker_held_is_not_counted_but_told(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    names = ["a", "b", "c"]
    feed = Feed().connected(0).connected(1).disconnected(0, Reason.WORKER_LOST).disconnected(1, Reason.CLOSED)
    feed.disconnected(9, Reason.WORKER_LOST)  # of nobody that is recorded
    stats = record(path, names, feed.connected(0).number(0, 1).disconnected(0, Reason.WORKER_LOST).batch())
    assert (stats.complete, stats.lost, stats.interruptions, stats.control) == (True, 0, 2, 7)
    assert "0 before) and an unknown number in 2 interruptions of PVs whose worker was lost; complete" in str(stats)
    with RecordingFile(path) as file:
        assert file.counts.interruptions.tolist() == [2, 0, 0]
        assert file.counts.of("a")["interruptions"] == 2
        assert file.totals["interruptions"] == 2
        assert file.h5.attrs["interruptions"] == 2
        assert [(e.name, e.time) for e in file.interruptions] == [("a", T0 + 1), ("", T0 + 1), ("a", T0 + 1)]
    assert summary(path)["interruptions"] == 2
    assert "2 interruptions of PVs whose worker was lost" in describe(path)
    assert "unknown" not in str(record(tmp_path / "other.h5", names, Feed().connected(0).disconnected(0).batch()))


def test_units_come_with_metadata_events(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    double = bytes(8) + b"mm\0\0\0\0\0\0" + bytes(64)
    short = bytes(4) + b"counts\0x" + bytes(20)
    feed = Feed().number(0, 1).other(Kind.PROPERTY, 0, 34, double).other(Kind.PROPERTY, 1, 29, short)
    stats = record(path, ["a", "b", "c"], feed.batch())
    assert stats.ignored == 2
    with RecordingFile(path) as file:
        assert [file.units(name) for name in "abc"] == ["mm", "counts", ""]


def test_events_of_no_pv_and_broken_places_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    batch = Feed().number(0, 1).number(9, 2).text(0, "x").array(0, range(10)).text(0, "kept").batch()
    places = batch.records.view(EVENT_BLOCK)
    places["offset"][2] = 10_000
    places["length"][3] -= 1
    stats = record(path, ["a"], batch, numbers([0, 5, ALL_SLOTS], [1, 2, 3]))
    assert (stats.received, stats.written, stats.dropped, stats.ignored) == (5, 3, 2, 3)
    with RecordingFile(path) as file:
        assert [(e.name, e.count, e.origin) for e in file.events] == [("a", 2, layout.Origin.MALFORMED)]
        assert file.strings("a").values.tolist() == ["kept"]


def test_garbage_behind_the_end_of_a_string_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    record(path, ["a"], Feed().text(0, b"end\0garbage").text(0, b"\xb5m").text(0, b"x" * 40).batch())
    with RecordingFile(path) as file:
        assert file.strings("a").values.tolist() == ["end", "µm", "x" * 40]


def test_small_batches_of_single_events(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    batches = [Feed().number(i % 3, i, T0 + i).batch() for i in range(300)]
    batches.insert(7, Feed().connected(3, DOUBLE, 4).array(3, []).batch())
    batches.insert(9, Feed().array(3, [1.0, 2.0]).batch())
    stats = record(path, ["a", "b", "c", "d"], *batches)
    assert stats.written == 302
    with RecordingFile(path) as file:
        assert file.scalars("b").values.tolist() == list(range(1, 300, 3))
        assert [f.tolist() for f in file.frames("d")] == [[], [1.0, 2.0]]
        index = file.h5["entry/pvs"]
        assert index["first_time"][:3].tolist() == [T0, T0 + 1, T0 + 2]
        assert index["last_time"][:3].tolist() == [T0 + 297, T0 + 298, T0 + 299]
        assert index["native_type"][:].tolist() == [255, 255, 255, DOUBLE]


# What cannot be written


class Gate:
    """Holds the writer thread where it would write, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self._open = threading.Event()
        self.waiting = threading.Event()
        original = Store.require_space

        def require_space(store: Store, size: int) -> None:
            if size:
                self.waiting.set()
                assert self._open.wait(30)
            original(store, size)

        monkeypatch.setattr(Store, "require_space", require_space)

    def open(self) -> None:
        self._open.set()


def test_what_the_queue_cannot_hold_is_counted_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    gate = Gate(monkeypatch)
    recorder = Recorder(path, ["a", "b"], max_queue_bytes=1 << 16).start()
    recorder.deliver(numbers([0], [0.0]))
    assert gate.waiting.wait(10)
    batch = numbers([0, 1, 1, 7], [1, 2, 3, 4])  # 7 is nobody
    size = 4 * 32 + 256
    fit = ((1 << 16) - recorder.stats.queue_bytes) // size
    began = time.monotonic()
    for _ in range(fit + 100):
        recorder.deliver(batch)
    recorder.deliver(Feed().disconnected(1).lost(3, slot=0).number(1, 5).number(1, 6).batch())
    assert time.monotonic() - began < 5
    assert recorder.stats.dropped == 302
    assert recorder.counts().of("b")["dropped"] == 202
    gate.open()
    stats = recorder.stop()
    assert (stats.received, stats.written, stats.dropped, stats.missed) == (3 * fit + 303, 3 * fit + 1, 302, 3)
    assert stats.lost == 305
    assert stats.queue_high_water <= (1 << 16) + 1000
    with RecordingFile(path) as file:
        assert file.lost == 305
        assert file.counts.dropped.tolist() == [100, 202]
        losses = [(e.name, e.kind, e.count, e.origin) for e in file.events]
        assert losses == [
            ("b", Kind.DISCONNECTED, 0, layout.Origin.UPSTREAM),
            ("a", Kind.LOST, 3, layout.Origin.UPSTREAM),
            ("a", Kind.LOST, 100, layout.Origin.QUEUE),
            ("b", Kind.LOST, 202, layout.Origin.QUEUE),
            ("", Kind.LOST, 100, layout.Origin.QUEUE),
        ]
        assert len(file.scalars("a").times) == fit + 1


def test_stop_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    recorder = Recorder(tmp_path / "run.h5", ["a"]).start()
    for i in range(100):
        recorder.deliver(numbers([0] * 1000, np.full(1000, i)))
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        gate.open()

    recorder.stop(progress=progress)
    assert calls[-1] == (200_000, 200_000)
    assert all(0 <= done <= total for done, total in calls)
    assert calls[0][0] < calls[-1][0]


def test_a_stop_without_time_counts_what_it_could_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daqca.recording.writer.PASS_BYTES", 1)
    gate = Gate(monkeypatch)
    recorder = Recorder(tmp_path / "run.h5", ["a"]).start()
    recorder.deliver(numbers([0], [0.0]))
    assert gate.waiting.wait(10)
    for i in range(10):
        recorder.deliver(numbers([0] * 5, [i] * 5))
    threading.Timer(0.3, gate.open).start()
    with pytest.raises(RecordingError, match=r"no time to write .*1 updates written, 50 lost"):
        recorder.stop(timeout=0.05)
    assert (recorder.stats.written, recorder.stats.lost, recorder.stats.complete) == (1, 50, False)
    with RecordingFile(tmp_path / "run.h5") as file:
        assert not file.complete
        assert "no time" in file.error
        assert (file.lost, len(file.scalars("a").times)) == (50, 1)


def test_a_write_that_fails_ends_the_writing_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    recorder = Recorder(path, ["a", "cam"], flush_interval=0.02).start()
    recorder.deliver(numbers([0] * 10, range(10)))
    flushed(recorder)

    def fail(*args: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("daqca.recording.arrays.Segment.put", fail)
    recorder.deliver(Feed().connected(1, CHAR, 100_000).number(0, 10).array(1, np.zeros(50_000), CHAR).batch())
    eventually(lambda: recorder.stats.error, "the error is known")
    recorder.deliver(numbers([0] * 5, range(5)))
    with pytest.raises(RecordingError, match=r"failed: EIO, Input/output error .*11 updates written, 6 lost"):
        recorder.stop()
    with RecordingFile(path) as file:
        assert not file.complete
        assert "EIO" in file.error
        assert file.scalars("a").values.tolist() == list(range(11))  # what was in memory was saved
        assert file.counts.of("cam") == counts_of(1, 0)
        assert file.counts.of("a")["dropped"] == 5
    with h5py.File(path) as plain:
        assert plain["entry/scalars/value"].shape[0] == 11


def test_a_file_that_does_not_hold_what_was_counted_is_not_called_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Store.close

    def lossy(store: Store) -> None:
        store.scalars.chunks[0].truncate(7)  # three slots get lost
        original(store)

    monkeypatch.setattr(Store, "close", lossy)
    recorder = Recorder(tmp_path / "run.h5", ["a", "b"]).start()
    recorder.deliver(numbers([0] * 5 + [1] * 5, range(10)))
    with pytest.raises(RecordingError, match="does not hold what was counted: the counts of 1 PVs differ, first b"):
        recorder.stop()
    assert (recorder.stats.written, recorder.stats.lost, recorder.stats.complete) == (7, 3, False)
    with RecordingFile(tmp_path / "run.h5") as file:
        assert (file.complete, file.lost) == (False, 3)
