"""Any stream of events, cut into any batches: the file tells what a simple model tells."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.recording import CHAR, DOUBLE, LONG, STRING, T0, Feed

from daqca.recording import Recorder, RecordingFile, summary

NAMES = ["n0", "n1", "s0", "w0", "w1", "c0"]

slots = st.integers(0, len(NAMES) - 1)
events = st.one_of(
    st.tuples(st.just("number"), slots, st.floats(allow_nan=False, width=32)),
    st.tuples(st.just("text"), slots, st.text("aµ0 ", max_size=12).map(str.strip)),
    st.tuples(st.just("doubles"), slots, st.lists(st.integers(-9, 9), min_size=2, max_size=9)),
    st.tuples(st.just("longs"), slots, st.sampled_from([[], [1, 2], list(range(700))])),
    st.tuples(st.just("bytes"), slots, st.integers(32_769, 70_000)),
    st.tuples(st.just("array"), slots, st.integers(2, 1000)),
    st.tuples(st.just("scalar"), slots, st.just(0)),
    st.tuples(st.just("lost"), slots, st.integers(1, 1000)),
    st.tuples(st.just("cut"), st.just(0), st.just(0)),
)


class Model:
    """What ought to be in the file."""

    def __init__(self) -> None:
        self.is_array: dict[int, bool] = defaultdict(bool)
        self.numbers: dict[int, list[Any]] = defaultdict(list)
        self.texts: dict[int, list[str]] = defaultdict(list)
        self.arrays: dict[int, list[list[Any]]] = defaultdict(list)
        self.missed: dict[int, int] = defaultdict(int)

    def apply(self, feed: Feed, kind: str, slot: int, what: Any, when: int) -> None:
        if kind == "number":
            feed.number(slot, what, when)
            (self.arrays[slot] if self.is_array[slot] else self.numbers[slot]).append(
                [what] if self.is_array[slot] else what
            )
        elif kind == "text":
            feed.text(slot, what, when)
            if self.is_array[slot]:
                self.arrays[slot].append([what.encode()])
            else:
                self.texts[slot].append(what)
        elif kind in ("doubles", "longs"):
            feed.array(slot, what, DOUBLE if kind == "doubles" else LONG, when)
            self.arrays[slot].append(what)
        elif kind == "bytes":
            feed.array(slot, np.full(what, what % 256), CHAR, when)
            self.arrays[slot].append([what % 256] * what)
        elif kind == "lost":
            feed.lost(what, slot)
            self.missed[slot] += what
        else:
            feed.connected(slot, DOUBLE if kind == "array" else STRING, what or 1)
            self.is_array[slot] = kind == "array"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=st.lists(events, max_size=60))
def test_the_file_tells_what_came(tmp_path: Path, stream: list[tuple[str, int, Any]]) -> None:
    model, feed = Model(), Feed()
    for slot in range(len(NAMES)):
        feed.connected(slot)
    with Recorder(tmp_path / "run.h5", NAMES, overwrite=True) as recorder:
        for i, (kind, slot, what) in enumerate(stream):
            if kind == "cut":
                recorder.deliver(feed.batch())
            else:
                model.apply(feed, kind, slot, what, T0 + i)
        recorder.deliver(feed.batch())
    assert recorder.stats.complete
    with RecordingFile(tmp_path / "run.h5") as file:
        for slot, name in enumerate(NAMES):
            assert file.all_scalars()[name].values.tolist() == model.numbers[slot]
            assert file.strings(name).values.tolist() == model.texts[slot]
            assert [a.tolist() for a in file.frames(name)] == model.arrays[slot]
            times = [t for s in (file.all_scalars()[name], file.strings(name)) for t in s.times.tolist()]
            assert sorted(times + file.frames(name).times.tolist()) == [
                T0 + i
                for i, (kind, s, _) in enumerate(stream)
                if s == slot and kind in ("number", "text", "doubles", "longs", "bytes")
            ]
        assert file.counts.missed.tolist() == [model.missed[slot] for slot in range(len(NAMES))]
    told = summary(tmp_path / "run.h5")
    assert told["complete"]
    assert (
        told["received"]
        == told["written"]
        == sum(len(v) for kind in (model.numbers, model.texts, model.arrays) for v in kind.values())
    )
