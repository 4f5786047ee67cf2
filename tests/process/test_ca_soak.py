"""A minute of everything at once on the low-level interface: see ``support/lowlevel_soak.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from daqca.ca.eca import ECA, message

SOAK = Path(__file__).resolve().parents[1] / "support" / "lowlevel_soak.py"
SECONDS = 60
# A tenth of what an idle machine does.
LEAST = {
    "create": 700,
    "clear": 250,
    "connect": 800,
    "get": 1000,
    "get_with_metadata": 250,
    "get_complete": 150,
    "get without waiting": 30,
    "put": 300,
    "put and wait": 300,
    "put with callback": 400,
    "subscribe": 200,
    "unsubscribe": 100,
    "group": 80,
    "ask": 250,
    "poll": 150,
    "connection callback": 80,
    "create a context": 3,
    "destroy a context": 3,
}


@pytest.mark.timeout(200)
def test_a_minute_of_everything_while_the_ioc_is_stopped_and_killed():
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SOAK), "--seconds", str(SECONDS)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == [], f"with the seed {report['seed']}; {done.stderr}"
    assert (done.returncode, done.stderr) == (0, "")
    operations = report["operations"]
    assert {what: operations.get(what, 0) for what, least in LEAST.items() if operations.get(what, 0) < least} == {}
    assert report["updates"] > 1500
    assert report["live subscriptions"] > 0
    puts, faults = report["put callbacks"], report["faults"]
    assert puts["issued"] == puts["received"] + puts["not sent"]
    # Where the server was killed, and where the channel was cleared.
    assert set(puts["of failed puts"]) == {message(ECA.DISCONN), message(ECA.CHANDESTROY)}
    assert sum(puts["of failed puts"].values()) < puts["received"] / 2
    assert faults["stops"] >= 3
    assert faults["restarts"] >= 2
    assert faults["kills"] == faults["restarts"]
    assert set().union(*report["left in tables"].values()) == set()
    assert report["objects left"] == {}
