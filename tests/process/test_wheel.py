"""The wheel: pure Python, typed, complete, and light to import in an environment that has nothing else of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"h5py", "hdf5plugin", "rich", "click", "zmq", "msgpack", "matplotlib", "multiprocessing", "asyncio", "epics"}

pytestmark = pytest.mark.timeout(300)


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: what an earlier build left in the working tree must not get into it."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (
        "daqca",
        "tests",
        "benchmarks",
        "docs",
    ):  # as in the tree, so that discovery has something to leave out
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    # Without isolation, so that the test needs no network: setuptools is one of the test dependencies.
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", made, source, cwd=made)
    (built,) = made.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and from outside only the dependencies."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    # A folder named by a .pth file is searched, but its own .pth files are not read: the tree under test,
    # installed there in editable form, cannot be what is imported.
    outside = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(outside)) + "\n")
    return python


def test_the_wheel_is_pure_python(wheel: Path) -> None:
    assert wheel.name.startswith("daqca-")
    assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path.relative_to(ROOT) for path in (ROOT / "daqca").rglob("*") if path.is_file())
    assert names == {path.as_posix() for path in files if path.suffix != ".pyc"}
    assert "daqca/py.typed" in names


def test_the_wheel_carries_licence_and_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    meta = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "Redistribution and use in source and binary forms" in archive.read(meta["licenses/LICENSE"]).decode()
    assert "daqca = daqca.cli:main" in archive.read(meta["entry_points.txt"]).decode()
    text = archive.read(meta["METADATA"]).decode()
    assert "License-Expression: BSD-3-Clause" in text
    assert "Requires-Python: >=3.10" in text
    assert "Description-Content-Type: text/markdown" in text


def test_the_installed_package_is_light_to_import(installed: Path) -> None:
    program = "import sys, json, daqca; print(json.dumps([daqca.__file__, sorted(sys.modules)]))"
    file, modules = json.loads(run(installed, "-I", "-W", "error", "-c", program, cwd=installed.parent))
    assert Path(file).is_relative_to(installed.parents[1])
    assert HEAVY & {name.partition(".")[0] for name in modules} == set()


def test_importing_starts_nothing(installed: Path) -> None:
    program = (
        "import os, threading, daqca\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "print(sorted(os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if fd > '2'"
        " and os.path.exists(f'/proc/self/fd/{fd}')))"
    )
    assert "socket:" not in run(installed, "-I", "-c", program, cwd=installed.parent)
