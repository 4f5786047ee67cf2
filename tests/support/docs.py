"""Tables in the documentation that name a test for each thing: read, and looked up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def page(name: str) -> str:
    """Return a page of the documentation."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the rows below a heading whose first cell begins with a digit."""
    lines = text[text.index(heading) :].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d", line)]


def body(where: str) -> str:
    """Return the source of a test (``file.py::name`` below ``tests``), with its decorators; empty if there is none.

    Of a file alone it is all of it.
    """
    path, _, name = where.strip("`").partition("::")
    source = (ROOT / "tests" / path).read_text(encoding="utf-8")
    if not name:
        return source
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            parts = [node, *node.decorator_list]
            return "".join(ast.get_source_segment(source, part) or "" for part in parts)
    return ""


def missing_files(cell: str) -> list[str]:
    """Return the files that a cell names and that are not there."""
    return [path for path in re.findall(r"`([\w/]+\.py)", cell) if not (ROOT / "tests" / path).exists()]
