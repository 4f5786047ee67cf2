"""The commands end to end: real processes of the command line against a real soft IOC."""

import json
import os
import re
import signal
import struct
import sys

import numpy as np
import pytest
from support.cli import ctrl_c, daqca, daqca_running, ended
from support.recording import eventually

from daqca.cli.codes import ExitCode
from daqca.outcome import Outcome
from daqca.snapshot import Snapshot


@pytest.fixture
def records(ioc):
    """The scalar records of the session's IOC that keep still, by name."""
    return {record.name: record for record in ioc.database.records if not record.changing}


def test_get_prints_values_as_people_read_them(ioc):
    p = ioc.prefix
    done = daqca("get", f"{p}ao00003", f"{p}mbbi00003", f"{p}stringin00001", f"{p}wf:double", f"{p}longstring")
    assert done.code == 0, done
    assert done.err == ""
    cells = [re.split(r"  +", line.rstrip()) for line in done.out.splitlines()]
    assert cells == [
        [f"{p}ao00003", "0.375", "mA"],
        [f"{p}mbbi00003", "Fault", "MAJOR STATE"],
        [f"{p}stringin00001", "text 1"],
        [f"{p}wf:double", "[-1.5, 0.0, 0.1, 1e+300]", "a.u."],
        [f"{p}longstring", '"The quick brown fox jumps over the lazy dog, and over forty characters too."', "a.u."],
    ]
    assert daqca("get", "-t", "-n", f"{p}mbbi00003", f"{p}ao00003").out == "3\n0.375\n"
    long = daqca("get", "--long", f"{p}mbbi00003").out
    assert re.fullmatch(rf"{p}mbbi00003  \d{{4}}-\d\d-\d\d [\d:]{{8}}\.\d{{6}}  Fault    ENUM  MAJOR STATE\n", long)
    assert daqca("get", "-t", "-e", 2, f"{p}wf:large").out == "[0.0, 1.0, ... 3,000 elements]\n"


def test_get_names_what_is_missing_and_prints_the_rest(ioc):
    p = ioc.prefix
    done = daqca("get", f"{p}nobody", f"{p}ao00008", "-w", 0.5)
    assert (done.code, done.err) == (ExitCode.MISSING, f"daqca: {p}nobody: never found\n")
    assert done.out.split() == [f"{p}ao00008", "1.00", "mA"]


def test_get_json_has_every_type(ioc, records):
    done = daqca("get", "--json", *records)
    assert (done.code, done.err) == (0, "")
    shown = {row["name"]: row for row in done.json}
    assert list(shown) == list(records)
    for name, record in records.items():
        row = shown[name]
        assert row["value"] == record.value, row
        assert type(row["value"]) is type(record.value) or record.native_type in (2, 6), row
        assert row["outcome"] == "ok"
        assert row["severity"] == ("NO_ALARM", "MINOR", "MAJOR")[record.severity]
        assert row["units"] == record.units
        assert row["enum_strings"] == list(record.enum_strings)


def test_the_same_through_workers(ioc, records):
    names = list(records)[:60]
    direct = daqca("get", "--json", *names)
    assert daqca("get", "--json", "--workers", 2, *names).json == direct.json


def test_info_tells_all_that_is_known(ioc):
    p = ioc.prefix
    done = daqca("info", f"{p}ao00010", f"{p}mbbi00003", f"{p}nobody", "-w", 0.5)
    assert done.code == ExitCode.MISSING
    assert done.err == f"daqca: {p}nobody: never found\n"
    first, second = done.out.split("\n\n")
    lines = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in first.splitlines()[1:])
    assert lines.pop("time").endswith("Z")
    assert lines == {
        "server": f"127.0.0.1:{ioc.server_port}",
        "type": "DOUBLE",
        "access": "read and write",
        "outcome": "ok",
        "value": "1.2500",
        "alarm": "MAJOR HIHI",
        "units": "mm",
        "precision": "4",
        "display limits": "-10 to 10",
        "control limits": "-1e+09 to 1e+09",
        "alarm limits": "-1e+07 to -1",
        "warning limits": "-5e+06 to -2",
    }
    assert re.findall(r"state \d +(\w+)", second) == ["Idle", "Moving", "Settling", "Fault", "Homing"]
    row = daqca("info", "--json", f"{p}wf:double").json[0]
    assert (row["type"], row["native_count"], row["access"]) == ("DOUBLE", 16, "read and write")


def test_put_confirms_with_the_value_that_is_there_then(make_ioc):
    ioc = make_ioc(scalars=60)
    p, env = ioc.prefix, ioc.environ
    for name, words, shown in [
        ("ao00001", ["-3.5"], "-3.5"),
        ("ao00001", ["0x10"], "16.0"),
        ("mbbo00002", ["Moving"], "Moving"),
        ("mbbo00002", ["4"], "Homing"),
        ("stringout00001", ["two words"], "two words"),
        ("wf:double", ["1", "2", "3e3"], "[1.0, 2.0, 3000.0]"),
        ("longstring", ["a text of its own that is longer than forty characters"], None),
        ("wf:string", ["one", "2"], '["one", "2"]'),
    ]:
        done = daqca("put", f"{p}{name}", *words, env=env)
        assert (done.code, done.err) == (0, ""), done
        assert re.split(r"  +", done.out.strip())[1] == (shown or f'"{words[0]}"'), done
    assert daqca("get", "-t", f"{p}ao00001", env=env).out == "16.0\n"


def test_put_says_what_was_refused(make_ioc):
    ioc = make_ioc(
        'record(ao, "X:a") {} record(mbbo, "X:m") { field(ZRST, "Off") } record(ao, "X:locked") { field(ASG, "R") }',
        access_security="ASG(DEFAULT) { RULE(1, READ) RULE(1, WRITE) } ASG(R) { RULE(1, READ) }",
    )
    for words, code, message in [
        (["X:a", "abc"], 1, "daqca: cannot put 'abc' to X:a (DOUBLE): not a number\ndaqca: X:a: bad value\n"),
        (["X:m", "Fly"], 1, "daqca: X:m: its server says: Channel write request failed\ndaqca: X:m: refused\n"),
        (["X:locked", "1"], 1, "daqca: X:locked: no write access\n"),
        (["X:nobody", "1", "-w", "0.5"], 1, "daqca: X:nobody: never found\n"),
    ]:
        done = daqca("put", *words, env=ioc.environ)
        assert (done.code, done.err, done.out) == (code, message, ""), done


def test_put_to_a_list(make_ioc, tmp_path):
    ioc = make_ioc(scalars=60)
    names = [name for name in ioc.names if ":ao" in name]
    path = tmp_path / "names.txt"
    path.write_text("\n".join([*names, f"{ioc.prefix}nobody"]))
    done = daqca("put", "--json", "-w", 1, "-f", path, 7, env=ioc.environ)
    assert done.code == ExitCode.MISSING
    assert done.json == [
        *({"name": name, "outcome": "ok", "value": 7.0} for name in names),
        {"name": f"{ioc.prefix}nobody", "outcome": "never found", "value": None},
    ]
    done = daqca("put", "--no-wait", "-f", path, 8, "-w", 1, env=ioc.environ)
    assert done.out.splitlines() == [f"{name}  sent" for name in names]
    assert [float(word) for word in daqca("get", "-t", *names, env=ioc.environ).out.split()] == [8.0] * 8


def test_monitor_prints_updates_without_gaps(ioc):
    name = f"{ioc.prefix}tick00001"
    done = daqca("monitor", name, "--count", 5)
    assert (done.code, done.err) == (0, ""), done
    values = [
        int(re.fullmatch(rf"[\d-]{{10}} [\d:.]{{15}}  {name}  (\d+)  counts", line)[1])
        for line in done.out.splitlines()
    ]
    assert np.diff(values).tolist() == [1, 1, 1, 1]
    # The first values of many come together, and no more are printed than asked for.
    assert daqca("monitor", *ioc.names, "--count", 3).out.count("\n") == 3
    lines = [json.loads(line) for line in daqca("monitor", name, "--json", "-c", 3, "--workers", 1).out.splitlines()]
    updates = [line for line in lines if line["event"] == "update"]
    assert np.diff([line["value"] for line in updates]).tolist() == [1, 1]
    assert lines[0] == {"event": "connected", "name": name, "text": "connected"}


def test_monitor_of_a_missing_pv_ends_with_the_duration(ioc):
    done = daqca("monitor", f"{ioc.prefix}nobody", f"{ioc.prefix}mbbo00001", "-w", 0.3, "-d", 0.3)
    assert (done.code, done.err) == (ExitCode.MISSING, f"daqca: {ioc.prefix}nobody: never found\n")
    assert done.out.count("\n") == 1
    assert "Moving" in done.out


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_monitor_ends_with_a_signal(ioc, signum, code):
    with daqca_running("monitor", f"{ioc.prefix}tick00001") as process:
        first = process.stdout.readline()
        ctrl_c(process, signum)
        done = ended(process)
    assert "counts" in first
    assert done.code == code
    assert done.err.strip() == ("daqca: interrupted" if code == 130 else "daqca: terminated")


def test_monitor_ends_when_nobody_reads_any_more(ioc):
    with daqca_running("monitor", f"{ioc.prefix}tick00001") as process:
        assert process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        done = ended(process)
    assert (done.code, done.err) == (ExitCode.BROKEN_PIPE, "")


_SMALL_INBOX = """
import daqca.cli.inbox, daqca.cli
daqca.cli.inbox.MAX_EVENTS = 500
daqca.cli.main()
"""


def test_monitor_counts_what_it_cannot_print(make_ioc):
    """The output is not read until far more has come than its pipe and what may wait can hold."""
    ioc = make_ioc(scalars=60, changing=60, rate_hz=50)
    names = [f"{ioc.prefix}calc{number:05d}" for number in range(1, 21)]
    command = (sys.executable, "-c", _SMALL_INBOX)
    with daqca_running("monitor", "--json", *names, command=command, env=ioc.environ) as process:
        first = json.loads(process.stdout.readline())
        begin = scans(ioc, names[0])
        # A line has some 200 bytes: 1 MB of them, where a pipe holds 64 kB.
        eventually(lambda: scans(ioc, names[0]) > begin + 250, "250 updates of each PV")
        lines = (json.loads(line) for line in process.stdout)
        last: dict[str, float] = {}
        skipped = lost = 0
        quiet: set[str] = set()
        while not lost or len(quiet) < len(names):
            line = next(lines)
            if line["event"] == "lost":
                assert (line["name"], line["text"]) == ("all", f"{line['count']:,} updates were lost")
                lost += line["count"]
                quiet = set()
            elif line["event"] == "update":
                name, value = line["name"], line["value"]
                skipped += value - last.get(name, value - 1) - 1
                last[name] = value
                quiet.add(name)
        ctrl_c(process)
        done = ended(process)
    assert first["event"] == "connected"
    assert lost > 1000
    assert skipped == lost
    assert done.code == 130


def scans(ioc, name: str) -> float:
    """How often a counter has counted, read by another client than daqca's."""
    answer = ioc.ask(name)
    assert answer is not None
    return float(struct.unpack(">d", answer.payload)[0])


def test_snapshot_saves_all_and_counts(ioc, tmp_path):
    names, path = tmp_path / "names.txt", tmp_path / "snap.h5"
    names.write_text("# all of them\n" + "\n".join(ioc.names) + "\n" + ioc.names[0] + "\n")
    done = daqca("snapshot", "-f", names, "-o", path, "--workers", 2)
    assert done.code == 0, done
    assert done.err == f"daqca: 400 names from {names}; 1 duplicate left out (first: {ioc.names[0]})\n"
    assert re.search(r"^PVs +400$", done.out, re.MULTILINE)
    assert re.search(r"^ok +400$", done.out, re.MULTILINE)
    assert f"saved to {path} (" in done.out
    snapshot = Snapshot.load(path)
    assert snapshot.names == ioc.names
    assert snapshot.ok.all()
    for record in ioc.database.records:
        if not record.changing:
            assert snapshot[record.name].value == record.value
    again = daqca("snapshot", "-f", names, "-o", path)
    assert again.code == ExitCode.OUTPUT
    assert f"daqca: {path} exists" in again.err
    assert daqca("snapshot", "-f", names, "-o", path, "--overwrite").code == 0


@pytest.mark.parametrize("suffix", [".csv", ".json", ".h5"])
def test_snapshot_saves_what_there_is_when_some_is_missing(ioc, tmp_path, suffix):
    path = tmp_path / f"snap{suffix}"
    missing = [f"{ioc.prefix}nobody{number}" for number in range(25)]
    stdin = "\n".join([*ioc.names[-50:], *missing])
    done = daqca("snapshot", "-f", "-", "-o", path, "--ctrl", "-w", 1, "--json", stdin=stdin)
    assert done.code == ExitCode.MISSING
    assert done.json["outcomes"] == {"ok": 50, "never found": 25}
    assert list(done.json["missing"]) == missing
    snapshot = Snapshot.load(path)
    assert snapshot.missing == dict.fromkeys(missing, Outcome.NEVER_FOUND)
    record = ioc.database.records[-1]
    assert snapshot[record.name].units == record.units
    text = daqca("snapshot", "-f", "-", "-w", 0.5, stdin=stdin)
    assert re.search(r"^never found +25$", text.out, re.MULTILINE)
    assert text.err.count(": never found\n") == 20
    assert "daqca: ... and 5 more are missing\n" in text.err


def test_snapshot_that_cannot_be_saved_tells_what_was_read(ioc, tmp_path):
    """A limit on the size of files stands in for a full disk; some names are missing."""
    path, missing = tmp_path / "snap.csv", [f"{ioc.prefix}nobody1", f"{ioc.prefix}nobody2"]
    stdin = "\n".join([*ioc.names[-50:], *missing])
    refused = f"daqca: cannot write {path}: File too large\n"
    done = daqca("snapshot", "-f", "-", "-o", path, "-w", 1, stdin=stdin, file_limit=500)
    assert done.code == ExitCode.OUTPUT, done
    assert done.err == "".join(f"daqca: {name}: never found\n" for name in missing) + refused
    assert re.search(r"^ok +50$", done.out, re.MULTILINE)
    assert re.search(r"^never found +2$", done.out, re.MULTILINE)
    assert "saved" not in done.out
    # For a program: all of it, as without a file.
    done = daqca("snapshot", "-f", "-", "-o", path, "-w", 1, "--json", stdin=stdin, file_limit=500)
    assert (done.code, done.err) == (ExitCode.OUTPUT, refused)
    rows = {row["name"]: row for row in done.json["pvs"]}
    assert [name for name, row in rows.items() if row["outcome"] != "ok"] == missing
    record = ioc.database.records[-1]
    assert rows[record.name]["value"] == record.value
    # A few are printed with their values.
    done = daqca("snapshot", f"{ioc.prefix}stringout00001", "-o", path, file_limit=20)
    assert (done.code, done.err) == (ExitCode.OUTPUT, refused)
    assert "text 1" in done.out
    assert list(tmp_path.iterdir()) == []


def test_snapshot_without_a_file_prints_a_table_or_json(ioc):
    names = ioc.names[-3:]
    table = daqca("snapshot", *names).out
    assert all(name in table for name in names)
    assert [row["name"] for row in daqca("snapshot", "--json", *names).json["pvs"]] == names


def test_sim_prints_how_to_find_it_and_ends_with_ctrl_c(tmp_path):
    names, env_file = tmp_path / "names.txt", tmp_path / "sim.sh"
    with daqca_running(
        "sim", "--prefix", "Q:", "--scalars", 30, "--no-camera", "--json", "--names", names, "--env", env_file
    ) as process:
        said = json.loads(process.stdout.readline())
        assert (said["prefix"], said["scalars"], said["camera"]) == ("Q:", 30, None)
        exports = dict(re.findall(r"export (\w+)='?(.*?)'?\n", env_file.read_text()))
        assert exports == said["environ"]
        # The repeater that a client starts shall not outlive the test.
        exports["DAQCA_REPEATER_LINGER"] = "0.3"
        done = daqca("snapshot", "-f", names, "-o", tmp_path / "snap.json", env=exports)
        assert (done.code, done.err) == (0, ""), done
        ctrl_c(process)
        result = ended(process)
    assert (result.code, result.err.strip()) == (130, "daqca: stopped")
    assert len(Snapshot.load(tmp_path / "snap.json")) == 30
    gone = daqca("get", "Q:calc00001", "-w", 0.3, env=exports)
    assert gone.code == ExitCode.MISSING


def test_sim_ends_after_its_duration_and_says_exports():
    done = daqca("sim", "--scalars", 5, "--no-camera", "--no-arrays", "-d", 0.1)
    assert done.code == 0
    assert "export EPICS_CA_SERVER_PORT=" in done.out
    assert "5 records from SIM:" in done.err
    assert os.environ["EPICS_CA_SERVER_PORT"] not in done.out
