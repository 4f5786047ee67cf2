"""The pace of the demo's recording: as fast as nothing is lost, found out by trials, and told."""

import dataclasses
import re
import sys

import pytest
from support.cli import daqca_running, ended

from daqca.cli.demo_check import Check
from daqca.cli.demo_record import CAREFUL, MARGIN, RATES, Recorded, at_full_speed
from daqca.recording import RecordingFile, RecordingStats


def recorded(rate: float, lost: int = 0, complete: bool = True) -> Recorded:
    """What a second at this rate might leave."""
    numbers = {field.name: 0 for field in dataclasses.fields(RecordingStats)}
    stats = RecordingStats(**{**numbers, "complete": complete})
    return Recorded(stats, Check(int(rate), lost, 1.0, 100, 0, 1.0))


@pytest.mark.parametrize(
    ("fastest", "saturated", "asked"),
    [
        # Nothing is lost at the highest rate.
        (2e6, 2e6, [("trial", RATES[0]), ("all", MARGIN * RATES[0])]),
        # The IOC makes fewer than it is asked for: of these a part is recorded.
        (2e6, 900_000, [("trial", RATES[0]), ("all", MARGIN * 900_000)]),
        (600_000, 2e6, [("trial", RATES[0]), ("trial", RATES[1]), ("trial", RATES[2]), ("all", MARGIN * RATES[2])]),
        (0, 2e6, [*(("trial", rate) for rate in RATES), ("all", CAREFUL)]),
    ],
)
def test_the_highest_rate_without_a_loss_is_recorded(fastest, saturated, asked):
    done, said = [], []

    def run(kind, rate):
        done.append((kind, rate))
        return recorded(min(rate, saturated), lost=7 if rate > fastest else 0)

    result = at_full_speed(lambda rate: run("trial", rate), lambda rate: run("all", rate), said.append)
    assert done == asked
    assert result.rate == asked[-1][1]
    assert said[: len(said) - 1] == ["too fast for this machine: 7 lost"] * (len(said) - 1)


def test_a_recording_that_lost_something_is_made_again_and_told():
    done, said = [], []

    def attempt(rate):
        done.append(rate)
        return recorded(rate, lost=3) if rate > 500_000 else recorded(rate)

    def trial(rate):
        return None if rate == RATES[1] else recorded(rate)

    result = at_full_speed(trial, attempt, said.append)
    assert done == [MARGIN * RATES[0], MARGIN * RATES[2]]
    assert result.is_well
    assert said == [
        "1,000,000/s came, and nothing was lost; 80% of this is recorded",
        "3 lost: once more, and slower",
        "too fast for this machine",
        "500,000/s came, and nothing was lost; 80% of this is recorded",
    ]
    # A file that did not read back is no better.
    assert not recorded(1000, complete=False).is_well


def test_the_demo_tries_before_it_records(tmp_path):
    code = "import daqca.cli, daqca.cli.demo_record as d\nd.RATES, d.TRIAL_S = (20_000.0,), 0.5\ndaqca.cli.main()"
    options = ("--scalars", 100, "--workers", 0, "-d", 2, "--frame-rate", 10, "--no-picture", "-o", tmp_path)
    with daqca_running("demo", *options, command=(sys.executable, "-c", code)) as process:
        done = ended(process, timeout=50)
    assert (done.code, done.err) == (0, ""), done
    lines = done.out.splitlines()
    tried = next(
        i for i, line in enumerate(lines) if line.startswith("trying 20,000 scalar updates/s beside the detector")
    )
    said = re.fullmatch(r"  ([\d,]+)/s came, and nothing was lost; 80% of this is recorded", lines[tried + 1])
    assert said is not None, done
    reached = int(said[1].replace(",", ""))
    assert 10_000 < reached <= 20_000
    row = next(re.split(r" *│ *", line)[1:-1] for line in lines if "scalar updates in the file" in line)
    assert (row[0], row[-1]) == ("scalar updates in the file", "0")
    with RecordingFile(tmp_path / "recording.h5") as file:
        written = sum(len(one.values) for one in file.all_scalars().values())
    assert int(row[1].replace(",", "")) == written
    assert 0.5 * MARGIN * reached < int(row[3].replace(",", "").removesuffix("/s")) < 1.2 * MARGIN * reached
