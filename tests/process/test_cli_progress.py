"""Progress bars: on a terminal, for whatever takes long, and nowhere else."""

import re
import sys

import pytest
from support.cli import daqca, daqca_on_terminal

from daqca.cli.codes import ExitCode

# For what takes less than half a second on a fast machine: a bar at once.
AT_ONCE = (
    sys.executable,
    "-c",
    "import daqca.cli, daqca.cli.output\ndaqca.cli.output._PROGRESS_AFTER = 0.0\ndaqca.cli.main()",
)
SLOW_PUT = """
record(bo, "S:slow") { field(ZNAM, "Done") field(ONAM, "Busy") field(FLNK, "S:delay") }
record(seq, "S:delay") { field(SELM, "Mask") field(SELL, "S:slow.VAL") field(DLY1, 1.5) field(DO1, 0)
  field(LNK1, "S:slow.VAL NPP") }
"""


def bars(err: str) -> set[tuple[str, str]]:
    """Title and count of each bar that was drawn."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err)
    return set(re.findall(r"^(\w.*?) +[━╸╺ ]*[━╸╺]+ +(\d+/[\d?]+) \d:\d\d:\d\d", plain.replace("\r", "\n"), re.M))


def test_info_shows_a_bar_while_it_waits(ioc):
    args = ("info", f"{ioc.prefix}ao00001", f"{ioc.prefix}nobody", "-w", 1.5)
    shown = daqca_on_terminal(*args)
    assert (shown.code, shown.out.splitlines()[0]) == (ExitCode.MISSING, f"{ioc.prefix}ao00001")
    assert ("reading", "1/2") in bars(shown.err), shown
    # The bar is gone at the end, and never there without a terminal.
    assert shown.err.endswith(f"daqca: {ioc.prefix}nobody: never found\r\n")
    assert daqca(*args).err == f"daqca: {ioc.prefix}nobody: never found\n"


def test_put_shows_a_bar_until_the_record_has_processed(make_ioc):
    ioc = make_ioc(SLOW_PUT)
    shown = daqca_on_terminal("put", "S:slow", "Busy", env=ioc.environ)
    assert (shown.code, shown.out.split()) == (0, ["S:slow", "Done"]), shown
    assert [title for title, _ in bars(shown.err)] == ["waiting until the record has processed"], shown


def test_sim_shows_a_bar_while_it_starts():
    shown = daqca_on_terminal("sim", "--scalars", 5, "--no-camera", "-d", 0.1, "--json", command=AT_ONCE)
    assert shown.code == 0, shown
    assert {title for title, _ in bars(shown.err)} == {"starting the IOC"}, shown


@pytest.mark.timeout(120)
def test_the_demo_counts_the_seconds_of_its_recording(tmp_path):
    shown = daqca_on_terminal(
        *("demo", "-o", tmp_path, "--scalars", 200, "--workers", 0, "-d", 3, "--rate", 1000, "--frame-rate", 5),
        "--no-picture",
    )
    assert shown.code == 0, shown
    drawn = {(title.split()[0], count) for title, count in bars(shown.err)}
    assert {("recording", "1/3"), ("recording", "2/3")} <= drawn, shown
