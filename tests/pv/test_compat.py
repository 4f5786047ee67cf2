"""`daqca.compat`: ``import epics`` finds daqca, on request. Each test runs a program of its own.

The programs are in ``compat_scripts``; whatever one says on its standard error is a fault.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from support.ca_records import Records
from support.ca_scripts import QUICK, quiet

SCRIPTS = Path(__file__).parent / "compat_scripts"
Done = subprocess.CompletedProcess[str]


def python(*arguments: str, cwd: Path | None = None, flags: tuple[str, ...] = (), timeout: float = 50.0) -> Done:
    return subprocess.run(
        [sys.executable, "-W", "error", *flags, *arguments],
        capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd,
    )  # fmt: skip


def compat(*arguments: str, cwd: Path | None = None, flags: tuple[str, ...] = (), timeout: float = 50.0) -> Done:
    return python("-m", "daqca.compat", *arguments, cwd=cwd, flags=flags, timeout=timeout)


def code(text: str) -> Done:
    return python("-c", textwrap.dedent(text), timeout=QUICK)


@pytest.fixture
def other_epics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another package of the name, as PyEpics would be, that is found before all others."""
    (tmp_path / "epics").mkdir()
    (tmp_path / "epics" / "__init__.py").write_text("who = 'the other one'\n")
    (tmp_path / "epics" / "devices.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


# --- install


def test_importing_it_imports_nothing_and_changes_nothing(other_epics: Path):
    done = code("""
        import sys
        before = set(sys.modules)
        import daqca.compat
        print(sorted(name for name in set(sys.modules) - before if name.startswith(("daqca", "numpy", "zmq"))))
        import epics
        print(epics.who)
    """)
    assert quiet(done) == "['daqca', 'daqca.compat', 'daqca.compat.finder']\nthe other one\n"


def test_every_way_to_import():
    assert quiet(compat(str(SCRIPTS / "imports.py"))) == "all imported\n"


def test_another_one_is_shadowed(other_epics: Path):
    done = code("""
        import daqca.compat
        daqca.compat.install()
        import epics, daqca.ca
        assert epics.ca is daqca.ca and not hasattr(epics, "who")
        try:
            import epics.devices
        except ImportError as error:
            print(error)
    """)
    assert quiet(done) == (
        "epics.devices is not in daqca yet: "
        "daqca.compat has epics.ca, epics.dbr, epics.multiproc, epics.pv, epics.utils of PyEpics\n"
    )


def test_another_one_that_is_imported_already(other_epics: Path):
    done = code("""
        import sys, epics, daqca.compat
        finders = list(sys.meta_path)
        try:
            daqca.compat.install()
        except ImportError as error:
            print(error, error.name, sep="\\n")
        assert sys.meta_path == finders
        assert sys.modules["epics"] is epics
        import epics.devices
        daqca.compat.uninstall()
        assert sys.modules["epics"] is epics
    """)
    assert quiet(done) == (
        "daqca.compat.install() comes too late: epics was imported already, from "
        f"{other_epics / 'epics' / '__init__.py'}. Call it before anything imports epics, or run the program with "
        "python -m daqca.compat\nepics\n"
    )


def test_twice_and_undone(other_epics: Path):
    done = code("""
        import sys
        from daqca import compat, pv_proxy
        compat.uninstall()
        finders = list(sys.meta_path)
        compat.install()
        import epics as first, epics.pv
        compat.install()
        import epics
        assert epics is first and len(sys.meta_path) == len(finders) + 1
        assert pv_proxy.default_pv_class is epics.PV
        class Mine(epics.PV): pass
        epics.pv.default_pv_class = Mine
        assert pv_proxy.default_pv_class is Mine

        compat.uninstall()
        assert sys.meta_path == finders
        assert pv_proxy.default_pv_class is pv_proxy.PV
        import epics
        print(epics.who)
        assert not [name for name in sys.modules if name.startswith("epics.")]
        compat.uninstall()

        del sys.modules["epics"]
        compat.install()
        import epics, epics.ca
        assert epics.ca is first.ca and epics is not first
        assert pv_proxy.default_pv_class is epics.PV is first.PV
    """)
    assert quiet(done) == "the other one\n"


def test_a_module_that_comes_later_is_one_line():
    done = code("""
        import json.decoder
        from daqca import compat
        from daqca.compat.finder import CLASSES, MODULES
        MODULES.update(devices="json", motor="fractions")
        CLASSES["Fraction"] = "motor"
        compat.install()
        import epics.devices, epics.devices.decoder, fractions
        from epics import Fraction, devices
        from epics.devices import loads
        assert epics.devices is json is devices and epics.devices.decoder is json.decoder and loads is json.loads
        assert Fraction is fractions.Fraction is epics.Fraction
        assert "Fraction" in epics.__all__ and "Fraction" in dir(epics)
        import importlib.util
        assert importlib.util.find_spec("epics.Fraction") is None
        print("all there")
    """)
    assert quiet(done) == "all there\n"


# --- python -m daqca.compat

ABOUT = """
import atexit, sys, threading
import epics, helper
def later():
    threading.main_thread().join()
    import __main__
    print("thread", __main__.who, __main__ is sys.modules["__main__"])
who = "me"
threading.Thread(target=later).start()
atexit.register(lambda: print("exit", who))
print(__name__, sys.argv, helper.__file__, globals().get("__file__"), getattr(__spec__, "name", None), sep="|")
print(epics.__version__[:4], sys.modules["__main__"].__dict__ is globals(), "main" in globals())
sys.exit(len(sys.argv))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with a program, as script, module and package, and a module that it needs."""
    folder = tmp_path / "program"
    (folder / "package").mkdir(parents=True)
    text = ABOUT.replace("__spec__", "globals().get('__spec__')")
    for name in ("script.py", "package/__main__.py", "__main__.py"):
        (folder / name).write_text(text)
    (folder / "package" / "__init__.py").write_text("")
    (folder / "helper.py").write_text("")
    return folder


def told(argv: list[str], helper: Path | str, file: Path | str | None, spec: str | None) -> str:
    return f"__main__|{argv}|{helper}|{file}|{spec}\n3.5. True False\nthread me True\nexit me\n"


def test_a_script(program: Path, tmp_path: Path):
    script, helper = program / "script.py", program / "helper.py"
    assert quiet(compat(str(script), "-h", "--x=1", cwd=tmp_path), 3) == told(
        [str(script), "-h", "--x=1"], helper, script, None
    )
    relative = str(script.relative_to(tmp_path))
    assert quiet(compat(relative, cwd=tmp_path), 1) == told([relative], helper, script, None)


def test_a_module_and_a_package(program: Path):
    script, main = program / "script.py", program / "package" / "__main__.py"
    helper = program / "helper.py"
    assert quiet(compat("-m", "script", "a", cwd=program), 2) == told([str(script), "a"], helper, script, "script")
    assert quiet(compat("-m", "package", cwd=program), 1) == told([str(main)], helper, main, "package.__main__")


def test_code(program: Path):
    text = (program / "script.py").read_text()
    done = compat("-c", text, "-m", "x", cwd=program)
    assert quiet(done, 3) == told(["-c", "-m", "x"], program / "helper.py", None, None)


def test_a_folder_and_a_zip_file(program: Path, tmp_path: Path):
    main = program / "__main__.py"
    assert quiet(compat(str(program), "a"), 2) == told([str(program), "a"], program / "helper.py", main, "__main__")
    archive = tmp_path / "program.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(main, "__main__.py")
        file.write(program / "helper.py", "helper.py")
    assert quiet(compat(str(archive)), 1) == told(
        [str(archive)], archive / "helper.py", archive / "__main__.py", "__main__"
    )


def test_the_same_as_python_says(program: Path):
    """But for the version, what a program sees is what it sees under Python itself."""
    (program / "epics.py").write_text("__version__ = '3.5.'\n")
    for arguments in (["script.py", "a"], ["-m", "script", "a"], ["-m", "package"], ["."]):
        ours, theirs = compat(*arguments, cwd=program), python(*arguments, cwd=program)
        assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr)
        # "python FOLDER" and the others have the spec, __main__ and all else alike.
        assert ours.stdout == theirs.stdout


def test_help():
    done = compat("--help")
    assert quiet(done).startswith("usage: python -m daqca.compat SCRIPT [ARGUMENT]...\n")
    assert quiet(compat("-h")) == done.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "what is to be run?"),
        (["-m"], "-m needs a module"),
        (["-c"], "-c needs code"),
        (["-x"], "unknown option -x"),
        (["nowhere.py"], "there is no file nowhere.py"),
        (["-m", "nowhere"], "there is no module nowhere that can be run"),
        (["-m", "json.nowhere.more"], "cannot find the module json.nowhere.more: No module named 'json.nowhere'"),
        (["-m", "daqca.ca"], "there is no module daqca.ca that can be run"),
        (["-m", "sys"], "sys is not written in Python"),
        (["."], "there is no __main__.py in ."),
    ],
    ids=" ".join,
)
def test_what_cannot_be_run(arguments: list[str], why: str, tmp_path: Path):
    done = compat(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"daqca.compat: {why}\nusage: python -m daqca.compat SCRIPT")


def test_an_error_of_the_program(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text("import epics\n\nepics.nothing\n")
    done = compat(str(script))
    assert done.returncode == 1
    assert f'  File "{script}", line 3, in <module>\n    epics.nothing\n' in done.stderr
    assert done.stderr.endswith("AttributeError: module 'epics' has no attribute 'nothing'\n")
    script.write_text("1 +\n")
    done = compat(str(script))
    assert f'File "{script}", line 1' in done.stderr
    assert done.stderr.endswith("SyntaxError: invalid syntax\n")


def test_no_folder_is_searched_unasked(program: Path):
    """With ``-P``, as in Python itself, the script's folder is not."""
    if sys.version_info < (3, 11):
        pytest.skip("this Python has no -P")
    done = compat(str(program / "script.py"), cwd=program, flags=("-P",))
    assert done.returncode == 1
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'helper'\n")


# --- programs


@pytest.mark.parametrize("workers", [0, 2], ids=["here", "workers"])
@pytest.mark.parametrize(
    ("script", "says"),
    [("names.py", "written\nall as said\n"), ("derived.py", "all honoured\n"), ("layer.py", "all passed on\n")],
    ids=["names", "derived", "layer"],
)
def test_programs(own_records: Records, script: str, says: str, workers: int):
    assert quiet(compat(str(SCRIPTS / script), own_records.prefix, str(workers))) == says
