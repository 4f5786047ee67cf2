"""Compiles the yardstick programs in ``c/`` against the libca of `epicscorelibs` into ``build/``."""

from __future__ import annotations

import subprocess
from pathlib import Path

from epicscorelibs import path as epics

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"


def program(name: str) -> str:
    """The path of a compiled program; compiled first if its source is newer."""
    source, target = HERE / "c" / f"{name}.c", BUILD / name
    newest = max(file.stat().st_mtime for file in (source, HERE / "c" / "bench.h"))
    if not target.exists() or target.stat().st_mtime < newest:
        BUILD.mkdir(exist_ok=True)
        include, lib = Path(epics.include_path), epics.lib_path
        includes = [f"-I{folder}" for folder in (include, include / "os" / "Linux", include / "compiler" / "gcc")]
        libraries = [f"-L{lib}", f"-Wl,-rpath,{lib}", "-lca", "-lCom"]
        flags = ["-O2", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-variable"]
        subprocess.run(["gcc", *flags, *includes, str(source), "-o", str(target), *libraries], check=True)
    return str(target)
