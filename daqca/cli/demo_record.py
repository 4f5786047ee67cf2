"""The recording of the demo: a detector, and scalars as fast as nothing is lost, which is tried out first."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from daqca.cli.demo_steps import Serve, Step, settings_of
from daqca.errors import ChannelError

if TYPE_CHECKING:
    from rich.console import Console

    from daqca.cli.demo_check import Check
    from daqca.engine import Engine
    from daqca.recording import Recording, RecordingStats
    from daqca.sim import SimIOC

PREFIX = "DEMO:"
SIDE = 1024
FAST = 1000
RATES = (1_000_000.0, 700_000.0, 500_000.0, 350_000.0)
"""Scalar updates per second that are tried, in this order, until nothing is lost."""
CAREFUL = 200_000.0
"""What is recorded if each of those was too fast for this machine."""
MARGIN = 0.8
"""So much of what was reached without a loss is recorded: the recording is longer than the trial."""
TRIAL_S = 2.0
_TICK_S = 0.5
_POLL_S = 0.02
_PATIENCE_S = 3.0
_BUSY, _MADE = f"{PREFIX}cam1:AcquireBusy", f"{PREFIX}cam1:ArrayCounter_RBV"

Progress = Callable[[int, int], None]
_MakeStep = Callable[[str], AbstractContextManager[Progress]]


class Recorded(NamedTuple):
    """What the recorder counted, and what is in its file."""

    stats: RecordingStats
    check: Check

    @property
    def lost(self) -> int:
        """Updates and frames that are missing, by whichever count finds more."""
        return max(self.stats.lost, self.check.lost)

    @property
    def is_well(self) -> bool:
        """Whether nothing is."""
        return not self.lost and self.stats.complete

    @property
    def rate(self) -> float:
        """Scalar updates per second in the file, by the clock of the IOC."""
        return self.check.scalars / max(self.check.seconds, 1e-9)


@dataclass(frozen=True)
class Pace:
    """What is recorded, and how fast.

    Parameters
    ----------
    rate
        Scalar updates per second; None for as many as come without a loss.
    frame_rate
        Frames per second.
    duration
        Seconds to record.
    workers
        Worker processes.
    """

    rate: float | None
    frame_rate: float
    duration: float
    workers: int


def record(screen: Console, path: str, pace: Pace) -> Recorded:
    """Record what changes, and the detector, and read the file back.

    Parameters
    ----------
    screen
        Where the steps are told.
    path
        The file; one that exists is replaced.
    pace
        How fast, and how long.
    """

    def attempt(rate: float) -> Recorded:
        return _attempt(path, pace, rate, pace.duration, lambda title: Step(screen, title), screen)

    def trial(rate: float) -> Recorded | None:
        # That a server of the demo does not answer in time is how a trial that is too fast may end.
        late = contextlib.suppress(ChannelError)
        with Step(screen, f"trying {rate:,.0f} scalar updates/s beside the detector"), late:
            return _attempt(path, pace, rate, TRIAL_S, lambda _: contextlib.nullcontext(_silent), None)
        return None

    def say(text: str) -> None:
        screen.print(f"  [dim]{text}[/]")

    return attempt(pace.rate) if pace.rate is not None else at_full_speed(trial, attempt, say)


def at_full_speed(
    trial: Callable[[float], Recorded | None], attempt: Callable[[float], Recorded], say: Callable[[str], None]
) -> Recorded:
    """Try rates, the highest first, until nothing is lost, and record somewhat below.

    Parameters
    ----------
    trial
        Records for a moment at a rate; None if that did not come to its end.
    attempt
        Records all of it at a rate.
    say
        Told what came of each.
    """
    for rate in RATES:
        tried = trial(rate)
        if tried is None or not tried.is_well:
            say("too fast for this machine" + (f": {tried.lost:,} lost" if tried is not None else ""))
            continue
        # Where the IOC is saturated it makes fewer than it was asked for.
        reached = min(rate, tried.rate)
        say(f"{reached:,.0f}/s came, and nothing was lost; {MARGIN:.0%} of this is recorded")
        recorded = attempt(MARGIN * reached)
        if recorded.is_well:
            return recorded
        say(f"{recorded.lost:,} lost: once more, and slower")
    return attempt(CAREFUL)


def _attempt(path: str, pace: Pace, rate: float, duration: float, step: _MakeStep, screen: Console | None) -> Recorded:
    """Record at one rate, on an IOC for this alone: its records change as fast as its database says."""
    from daqca.sim import SimIOC

    camera = {"width": SIDE, "height": SIDE, "rate_hz": pace.frame_rate}
    server = SimIOC(PREFIX, FAST, FAST, rate / FAST, camera=True, camera_options=camera, arrays=False)
    title = f"starting an IOC of {FAST:,} counters and a camera"
    with Serve(screen, title, server) if screen is not None else server:
        return _take(server, path, pace.workers, duration, step)


def _take(server: SimIOC, path: str, workers: int, duration: float, step: _MakeStep) -> Recorded:
    from daqca.cli.demo_check import check
    from daqca.engine import Engine

    assert server.camera is not None
    image, counters = server.camera.image, server.database.changing_names
    names, acquire = [*counters, image], f"{PREFIX}cam1:Acquire"
    options: dict[str, Any] = {"overwrite": True, "shapes": {image: (SIDE, SIDE)}, "frame_compression": "bslz4"}
    with Engine(workers, settings=settings_of(server)) as engine:
        engine.connect([*names, acquire, _BUSY, _MADE], timeout=20.0)
        with engine.record(path, names, **options) as recording:
            with step(f"recording {len(counters):,} scalars and {SIDE} x {SIDE} frames") as progress:
                engine.put(acquire, 1, wait=False)
                _let_pass(duration, progress)
                engine.put(acquire, 0, wait=True, timeout=20.0)
                made = _await_frames(engine, recording, image)
            with step("writing what is queued, and verifying the counts") as progress:
                stats = recording.stop(progress=progress)
    with step("reading the recording back, every value and pixel"):
        return Recorded(stats, check(path, image, counters, server.camera.pattern, made))


def _await_frames(engine: Engine, recording: Recording, image: str) -> int:
    """Wait for the end of the acquisition, and for its last frame; returns how many the camera says it has made.

    The frame that is being made when the acquisition is stopped is still counted and sent; and a server may answer a
    read before it sends the update that came first.
    """
    end = time.monotonic() + _PATIENCE_S
    while engine.get(_BUSY, timeout=20.0).value and time.monotonic() < end:
        time.sleep(_POLL_S)
    made = int(engine.get(_MADE, timeout=20.0).value)  # type: ignore[arg-type]
    # One more than there are frames: subscribing has brought an array without elements.
    while recording.counts().of(image)["received"] <= made and time.monotonic() < end:
        time.sleep(_POLL_S)
    return made


def _let_pass(duration: float, progress: Progress) -> None:
    """Wait so many seconds, and show them as they go by."""
    end = time.monotonic() + duration
    while (left := end - time.monotonic()) > 0:
        progress(int(duration - left), math.ceil(duration))
        time.sleep(min(left, _TICK_S))


def _silent(done: int, total: int) -> None:
    """A progress that nobody sees: that of a trial, which is one step in all."""
