"""``daqca sim``: groups of records that change at rates of their own, and the lists of names."""

import json

import numpy as np
import pytest
from support.cli import ctrl_c, daqca, daqca_running, ended

from daqca.cli.codes import ExitCode
from daqca.sim import SimDatabase


def period(name: str, count: int, env: dict[str, str]) -> float:
    """Seconds from one update of a PV to the next, by the clock of the IOC."""
    done = daqca("monitor", name, "--json", "-c", count, env=env)
    assert done.code == 0, done
    lines = [json.loads(line) for line in done.out.splitlines()]
    updates = [line for line in lines if line["event"] == "update"]
    assert np.diff([line["value"] for line in updates]).tolist() == [1] * (count - 1)
    # The first was made before it was asked for.
    times = np.array([line["time"].rstrip("Z") for line in updates[1:]], "datetime64[ns]")
    return float(np.median(np.diff(times).astype(float))) / 1e9


def test_groups_change_at_their_own_rates_and_arrays_have_a_list(tmp_path):
    names, arrays = tmp_path / "names.txt", tmp_path / "arrays.txt"
    options = ("--scalars", 20, "--changing", "4@4", "--changing", "3@40", "--changing", 1, "--rate", 15)
    files = ("--names", names, "--array-names", arrays)
    with daqca_running("sim", "--prefix", "G:", *options, *files, "--camera-size", "64x64", "--json") as process:
        said = json.loads(process.stdout.readline())
        env = {**said["environ"], "DAQCA_REPEATER_LINGER": "0.3"}
        assert 0.2 < period("G:calc00002", 5, env) < 0.4
        assert 0.02 < period("G:tick00003", 15, env) < 0.04
        assert 0.05 < period("G:calc00004", 10, env) < 0.09
        done = daqca("get", "--json", "-e", 0, "-f", arrays, env=env)
        ctrl_c(process)
        ended(process)
    database = SimDatabase("G:", 20, [(4, 4), (3, 40), (1, 15)])
    assert names.read_text().split() == database.names
    assert arrays.read_text().split() == [*database.array_names, "G:image1:ArrayData"]
    assert done.code == 0, done
    rows = {row["name"]: row for row in done.json}
    assert rows["G:wf:ushort"]["value"] == database.special_values["G:wf:ushort"]
    assert len(rows["G:wf:large"]["value"]) == 3000
    assert all(rows[name]["native_count"] > 1 for name in rows), rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--changing", "5@"], "'5@' is not of the form N or N@HZ"),
        (["--changing", "-5"], "'-5' is not of the form N or N@HZ"),
        (["--changing", "5@fast"], "'5@fast' is not of the form N or N@HZ"),
        (["--changing", "5@0"], "0.0 is not a number above zero"),
        (["--scalars", 9, "--changing", 5, "--changing", "5@2"], "10 of 9 records cannot be changing ones"),
    ],
)
def test_groups_that_make_no_sense(words, message):
    done = daqca("sim", *words)
    assert done.code == ExitCode.USAGE, done
    assert message in done.err
    assert done.err.count("\n") == 1
