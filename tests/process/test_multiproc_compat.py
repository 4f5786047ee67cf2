"""`CAProcess` and `CAPool` for programs that say ``import epics``: whatever starts a child, it finds daqca, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import multiproc
from support.multiproc import BEGIN, COMMAND, METHODS, run

import daqca
from daqca.sim import SimIOC

command = multiproc.command

ALL_METHODS = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
COMPAT = BEGIN.replace("import daqca as epics\nfrom daqca import ca", "import epics\nfrom epics import ca")
NAMED = """
assert epics.__version__.startswith("3.5."), epics

def child(queue, ending, more):
    pv = epics.PV(prefix + ending)
    pv.put(os.getpid(), wait=True)
    queue.put((ending, pv.get() == os.getpid(), type(mp.current_process()) is epics.CAProcess, epics.PV.__module__))
    if more:
        process = epics.CAProcess(target=child, args=(queue, "ao00019", False))
        process.start()
        joined(process)

def plain(queue):
    import epics.multiproc
    queue.put(epics.multiproc.CAPool is epics.CAPool)

def value(ending):
    return epics.caget(prefix + ending)
"""
NAMED_MAIN = """
queue = mp.Queue()
process = epics.CAProcess(target=child, args=(queue, "ao00018", True))
process.start()
for ending in ("ao00018", "ao00019"):
    got = queue.get(timeout=40)
    assert got == (ending, True, True, "daqca.compat.pv"), got
joined(process)
process = mp.Process(target=plain, args=(queue,))
process.start()
assert queue.get(timeout=40)
joined(process)
with epics.CAPool(1) as pool:
    assert pool.map(value, ["ai00001", "longin00003"]) == [0.125, 21]
    pool.close()
    pool.join()
print("well")
"""


@pytest.fixture
def other_epics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package of the name, as PyEpics would be."""
    (tmp_path / "other" / "epics").mkdir(parents=True)
    (tmp_path / "other" / "epics" / "__init__.py").write_text("__version__ = 'the other one'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))


@ALL_METHODS
@pytest.mark.parametrize("way", ["script", "module", "install"])
def test_under_compat(ioc: SimIOC, command: COMMAND, other_epics: None, method: str, way: str, tmp_path: Path):
    """Children and theirs find daqca, whatever starts them, though the script says no more than ``import epics``."""
    if way == "install":
        begin = "import daqca.compat\ndaqca.compat.install()\n" + COMPAT
        assert run(command(NAMED, NAMED_MAIN, ioc.prefix, method, begin=begin)) == "well\n"
        return
    made = command(NAMED, NAMED_MAIN, ioc.prefix, method, begin=COMPAT, flags=("-m", "daqca.compat"))
    if way == "module":
        position = made.index(str(tmp_path / "script.py"))
        made[position : position + 1] = ["-m", "script"]
    assert run(made, cwd=tmp_path) == "well\n"


@METHODS
def test_compat_that_is_found_nowhere_but_in_the_parents_path(
    ioc: SimIOC, command: COMMAND, other_epics: None, method: str, tmp_path: Path
):
    """As when daqca is not installed, and its folder is put into `sys.path` by the program."""
    folder = str(Path(daqca.__file__).parent.parent)
    begin = f"""
import os, sys
if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != {folder!r}] + [{folder!r}]
    import daqca.compat
    daqca.compat.install()
"""
    assert run(command(NAMED, NAMED_MAIN, ioc.prefix, method, begin=begin + COMPAT), cwd=tmp_path) == "well\n"


def test_compat_undone_is_undone_for_children(command: COMMAND, other_epics: None):
    begin = """
import multiprocessing as mp
import sys

def child():
    import epics
    print(epics.__version__, flush=True)
"""
    main = """
    from multiprocessing import spawn
    original = spawn.get_preparation_data
    from daqca import compat
    for _ in range(2):
        compat.install()
        compat.install()
        compat.uninstall()
    assert spawn.get_preparation_data is original
    process = mp.Process(target=child)
    process.start()
    process.join()
    """
    assert run(command("", main, "", "spawn", begin=begin)) == "the other one\n"


NEWER = """
from multiprocessing import spawn
today = spawn.get_preparation_data

def newer(name):
    data = today(name)
    if name == "ignore" and "init_main_from_path" in data:
        data["main_path"] = data["init_main_from_path"]
    return data

spawn.get_preparation_data = newer
"""


def test_a_fork_server_that_imports_the_main_module_ahead(ioc: SimIOC, command: COMMAND, other_epics: None):
    """As that of Python 3.14 does, which does not know of daqca; older ones look for the path where there is none."""
    made = command(NAMED, NEWER + NAMED_MAIN, ioc.prefix, "forkserver", begin=COMPAT, flags=("-m", "daqca.compat"))
    assert run(made) == "well\n"


def test_the_fork_server_does_not_import_the_main_module_itself(command: COMMAND):
    """Newer ones import it ahead, without knowing of daqca; what they ask for says nothing of it."""
    begin = "import multiprocessing as mp\nimport sys\n"
    main = """
    from multiprocessing import spawn
    assert spawn.get_preparation_data("child")["init_main_from_path"] == __file__
    asked = spawn.get_preparation_data("ignore")
    assert not [key for key in asked if key.startswith(("init_main", "daqca"))] and asked["sys_path"] == sys.path
    print("well")
    """
    assert run(command("", main, "", "spawn", begin=begin, flags=("-m", "daqca.compat"))) == "well\n"
