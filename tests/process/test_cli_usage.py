"""The command line before it touches the network: help, options, lists of names, output files, exit codes."""

import os
import subprocess
import sys
import time

import pytest
from support.cli import COMMAND, daqca, environ

from daqca.cli.app import cli
from daqca.cli.codes import ExitCode, Terminated, code_of
from daqca.errors import (
    ConfigurationError,
    NameListError,
    PVNotFoundError,
    RecordingError,
    WorkerError,
)

COMMANDS = ["get", "put", "monitor", "info", "snapshot", "record", "sim", "doctor", "demo"]


def test_the_help_names_all_commands_and_exit_codes():
    shown = daqca("--help")
    assert shown.code == 0
    assert shown.err == ""
    listed = [
        line.split()[0] for line in shown.out.split("Commands:")[1].split("Exit codes")[0].splitlines() if line.strip()
    ]
    assert listed == COMMANDS
    for code in ExitCode:
        if code != ExitCode.BROKEN_PIPE:
            assert str(int(code)) in shown.out
    assert daqca().code == 2
    assert daqca().out == shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_examples(command):
    shown = daqca(command, "--help")
    assert shown.code == 0
    assert "Examples:" in shown.out
    assert f"daqca {command}" in shown.out.split("Examples:")[1]


def test_commands_that_read_share_their_options():
    for command in ("get", "monitor", "info", "snapshot", "record"):
        options = {name for parameter in cli.commands[command].params for name in parameter.opts}
        assert {"--file", "-f", "--json", "--workers", "--timeout"} <= options, command


def test_version():
    assert daqca("--version").out.split()[0] == "daqca"


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys, daqca.cli\n"
        "heavy = {'numpy', 'rich', 'h5py', 'zmq', 'matplotlib', 'logging', 'asyncio', 'daqca.engine', 'daqca.ca'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["get"],
            "daqca get: no PV names: give them as arguments, or a file of them with --file (see daqca get --help)",
        ),
        (["fly"], "daqca: No such command 'fly' (see daqca --help)"),
        (["get", "--fly", "A"], "daqca get: No such option"),
        (["get", "-w", "0", "A"], "'-w' / '--timeout': 0.0 is not a number above zero"),
        (["get", "-w", "nan", "A"], "'-w' / '--timeout': nan is not a number above zero"),
        (["get", "--workers", "-1", "A"], "'--workers': -1 is not in the range x>=0"),
        (["put", "A"], "daqca put: no value to write"),
        (["put"], "daqca put: no value to write"),
        (["record", "A"], "Missing option '-o' / '--output'"),
        (["record", "-o", "x.h5", "--shape", "A=3y", "A"], "'--shape': 'A=3y' is not of the form NAME=HEIGHTxWIDTH"),
        (["monitor", "-d", "-3", "A"], "'-d' / '--duration': -3.0 is not a number above zero"),
        (["sim", "--camera-size", "big"], "'big' is not of the form WIDTHxHEIGHT"),
        (["sim", "--camera-type", "UInt7"], "no camera of data type 'UInt7'"),
        (["get", "Grün"], "daqca: name 1: 'Grün' cannot be a PV name: character 3 is 'ü', U+00FC"),
        (["get", "A B"], "daqca: name 1: 'A B' cannot be a PV name: character 2 is U+0020 (white space)"),
        (["get", "-f", "none.txt"], "daqca: cannot read the names in none.txt: No such file or directory"),
        (["snapshot", "A", "-o", "a.xlsx"], "daqca: cannot tell the format of a.xlsx from its suffix '.xlsx'"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, args, message):
    done = daqca(*args, cwd=tmp_path)
    assert done.code == ExitCode.USAGE, done
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert os.listdir(tmp_path) == []


def test_lists_of_names_are_told_by_file_and_line(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"# good\nA:x\nA:\xc3\xb6\n")
    done = daqca("get", "-f", path)
    assert (done.code, done.err.count("\n")) == (ExitCode.USAGE, 1)
    assert f"daqca: {path}, line 3: 'A:ö' cannot be a PV name: character 3 is 'ö', U+00F6" in done.err
    done = daqca("get", "-f", "-", stdin=b"\x00\x01")
    assert (done.code, done.err) == (ExitCode.USAGE, "daqca: standard input is not a text file: byte 0 is zero\n")
    done = daqca("snapshot", "-f", "-", stdin=b"# nothing\n")
    assert done.err == "daqca: standard input holds no PV names (1 comment, 0 empty lines)\n"


@pytest.mark.parametrize("command", ["snapshot", "record"])
def test_output_files_are_refused_before_anything_is_read(tmp_path, command):
    """The timeout would be a minute: who answers at once has not looked for the PV."""
    there = tmp_path / "there.h5"
    there.write_text("precious")
    start = time.monotonic()
    for path, message in [
        (there, f"daqca: {there} exists: choose another name, or ask to overwrite it\n"),
        (tmp_path / "no" / "a.h5", f"daqca: cannot write {tmp_path / 'no' / 'a.h5'}: No such file or directory\n"),
        (there / "a.h5", f"daqca: cannot write {there / 'a.h5'}: Not a directory\n"),
    ]:
        done = daqca(command, "T:nobody", "-w", 60, "-o", path)
        assert (done.code, done.err, done.out) == (ExitCode.OUTPUT, message, "")
    assert time.monotonic() - start < 30
    assert there.read_text() == "precious"
    assert os.listdir(tmp_path) == ["there.h5"]


def test_a_reader_that_goes_away_is_no_mistake():
    process = subprocess.Popen(
        [*COMMAND, "snapshot", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ()
    )
    with process:
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (ExitCode.BROKEN_PIPE, b"")


def test_errors_have_their_exit_codes():
    missing = PVNotFoundError("x", pvname="x", operation="get")
    for error, code in [
        (missing, 1),
        (NameListError("x"), 2),
        (ConfigurationError("x"), 2),
        (RecordingError("x"), 3),
        (WorkerError("x"), 4),
        (ZeroDivisionError("x"), 4),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
        (BrokenPipeError(), 141),
    ]:
        assert code_of(error) == code
