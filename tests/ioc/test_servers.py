"""An engine with servers that are not EPICS base's: caproto, pcaspy and pythonSoftIOC, with the same PVs each."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import pyepics
from support.engines import MakeEngine, Seen
from support.others import VALUES, OtherServer
from support.raw_client import RawClient

from daqca import Engine
from daqca.events import EPICS_EPOCH_NS, Kind
from daqca.outcome import Outcome

TYPES = {"double": 6, "long": 5, "enum": 3, "string": 0, "char": 4, "waveform": 6, "longstring": 4}
ENDINGS = list(VALUES)
PLAIN = {**VALUES, "enum": VALUES["enum"][0]}  # type: ignore[index]
CHANGED = {
    "double": -2.25,
    "long": 2**31 - 1,
    "enum": 0,
    "string": "bye",
    "char": 255,
    "waveform": [1.0, 2.0, 3.0, 4.0],
    "longstring": "another text that is longer than any string of forty characters",
}


@pytest.fixture
def other(
    other_server: OtherServer, point_at: Callable[..., Any], make_engine: MakeEngine
) -> tuple[OtherServer, Engine]:
    """A server and an engine that reaches it."""
    point_at(other_server)
    return other_server, make_engine()


Other = tuple[OtherServer, Engine]


def plain(reading: Any, ending: str) -> Any:
    """The value as `VALUES` has it."""
    if ending == "longstring":
        return reading.as_text()
    return reading.value.tolist() if isinstance(reading.value, np.ndarray) else reading.value


def test_channels_values_and_metadata(other: Other):
    server, engine = other
    names = {ending: server.name(ending) for ending in ENDINGS}
    found = engine.connect(list(names.values()), timeout=20)
    assert [info.outcome for info in found] == [Outcome.OK] * len(ENDINGS)
    assert [info.native_type for info in found] == [TYPES[ending] for ending in ENDINGS]
    assert [info.native_count for info in found] == [1, 1, 1, 1, 1, 16, 256]
    snap = engine.snapshot([*names.values(), server.name("absent")], timeout=1, form="ctrl")
    assert snap.missing == {server.name("absent"): Outcome.NEVER_FOUND}
    for ending, name in names.items():
        assert plain(snap[name], ending) == PLAIN[ending], ending
        assert plain(engine.get(name, timeout=20), ending) == PLAIN[ending], ending
        assert snap[name].severity == 0, ending
    assert snap[names["double"]].units == "mm"
    assert snap[names["double"]].precision == 3
    assert snap[names["long"]].units == "counts"
    assert snap[names["enum"]].enum_strings == ("zero", "one", "two")


def test_every_client_sees_the_same(other: Other):
    """To the nanosecond: beside PyEpics, and beside what is on the wire for the native type."""
    server, engine = other
    names = [server.name(ending) for ending in ENDINGS]
    snap = engine.snapshot(names, timeout=20, form="ctrl")
    with RawClient(server.server_port) as raw:
        for name, timestamp in zip(names, snap.timestamps.tolist(), strict=True):
            native, _ = raw.connect(name)
            _, _, seconds, nanoseconds = struct.unpack_from(">hhII", raw.get(name, native + 14).payload)
            assert timestamp == EPICS_EPOCH_NS + seconds * 10**9 + nanoseconds, name
    for name, theirs in pyepics.read(names).items():
        mine = snap[name]
        value = mine.value.tolist() if isinstance(mine.value, np.ndarray) else mine.value
        assert value == theirs["value"], name
        assert (mine.status, mine.severity) == (theirs["status"], theirs["severity"]), name
        assert mine.timestamp == theirs["timestamp"], name
        assert mine.units == theirs.get("units", ""), name


def test_subscriptions_see_puts_and_puts_are_read_back(other: Other):
    server, engine = other
    # A put of CHAR, by any client, breaks code of pcaspy itself: it drops the circuit, or answers nobody any more.
    endings = [ending for ending in ENDINGS if (server.kind, ending) != ("pcaspy", "char")]
    names = [server.name(ending) for ending in endings]
    seen = Seen()
    with engine.subscribe(names, seen):
        seen.wait(lambda: {event.slot for event in seen.events(Kind.UPDATE)} == set(range(len(names))), "first values")
        try:
            result = engine.put_many(names, [CHANGED[ending] for ending in endings], wait=True, timeout=20)
            assert result.ok, result.failed
            for ending, name in zip(endings, names, strict=True):
                assert plain(engine.get(name), ending) == CHANGED[ending], ending
            for slot, ending in enumerate(endings):
                number = float(CHANGED[ending]) if isinstance(CHANGED[ending], (int, float)) else None
                seen.wait(
                    lambda slot=slot, number=number: (
                        len(seen.values(slot)) > 1 and number in (None, seen.values(slot)[-1])
                    ),
                    f"an update of {ending}",
                )
            snap = engine.snapshot(names, fresh=False)
            assert [plain(snap[name], ending) for name, ending in zip(names, endings, strict=True)] == [
                CHANGED[ending] for ending in endings
            ]
        finally:
            for ending, name in zip(endings, names, strict=True):
                engine.put(name, PLAIN[ending], timeout=20)
    assert engine.put_many(names, [PLAIN[ending] for ending in endings], wait=False).ok
    snap = engine.snapshot(names, timeout=20)
    assert [plain(snap[name], ending) for name, ending in zip(names, endings, strict=True)] == [
        PLAIN[ending] for ending in endings
    ]
    assert not seen.events(Kind.DISCONNECTED, Kind.LOST, Kind.REFUSED)
