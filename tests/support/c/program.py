"""Compiles a C program of this folder against EPICS base (the headers and libraries in epicscorelibs) and runs it.

Only for checks against C; the programs are beside this file.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from epicscorelibs.path import include_path, lib_path

HERE = Path(__file__).parent


def compile_c(source: str, folder: Path) -> Path:
    """Compile `source` of this folder into `folder`, and return the program.

    Raises
    ------
    AssertionError
        If there is no gcc (these checks are part of the tests, never left out), or it does not compile.
    """
    compiler = shutil.which("gcc")
    assert compiler, "gcc is missing: daqca is checked against EPICS' own C headers. Install it (apt install gcc)."
    program = folder / Path(source).stem
    options = [f"-I{include_path}", f"-L{lib_path}", f"-Wl,-rpath,{lib_path}", "-lca", "-lCom"]
    built = subprocess.run([compiler, "-Wall", "-o", program, HERE / source, *options], capture_output=True, text=True)
    assert built.returncode == 0, f"{source} does not compile:\n{built.stderr}"
    return program


def run_c(source: str, folder: Path) -> str:
    """Compile `source` of this folder into `folder`, run it, and return what it printed."""
    return run_program(compile_c(source, folder))


def run_program(program: Path, environ: dict[str, str] | None = None) -> str:
    """Run a compiled program, and return what it printed."""
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=30, env=environ)
    return done.stdout
