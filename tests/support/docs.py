"""Tables in the documentation that name a test for each thing: read, and looked up."""

from __future__ import annotations

import ast
import re
import textwrap
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


def tests(cell: str) -> list[str]:
    """Return the tests that a cell names."""
    return re.findall(r"`([\w/]+\.py(?:::\w+)?)`", cell)


def uses(where: str) -> set[str]:
    """Return what a test uses, with the functions and tables of its module that it names.

    Attributes are ``.name``, those of a package ``epics.name``; keyword arguments are ``name=``; texts, as tables of
    arguments and attributes have them, ``'name'``; and names are ``name``.
    """
    path, _, name = where.strip("`").partition("::")
    parts: dict[str, ast.stmt] = {}
    for node in ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            parts[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts |= {one.id: node for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
    found: set[str] = set()
    todo = {name}
    while todo:
        part = todo.pop()
        found |= {one for node in ast.walk(parts.pop(part)) for one in _used(node)}
        todo |= found & parts.keys()
    return found


def _used(node: ast.AST) -> set[str]:
    """What one node of a program uses; a text of several lines is a program, as the examples of manuals are."""
    if isinstance(node, ast.Attribute):
        is_package = isinstance(node.value, ast.Name) and node.value.id in ("daqca", "epics")
        return {f"epics.{node.attr}" if is_package else f".{node.attr}"}
    if isinstance(node, ast.keyword):
        return {f"{node.arg}="}
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        return set()
    if "\n" not in text:
        return {f"'{text}'"}
    session = re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", text, re.MULTILINE)
    try:
        program = ast.parse("\n".join(session) if session else textwrap.dedent(text))
    except SyntaxError:
        return set()
    return {one for inner in ast.walk(program) for one in _used(inner)}


def missing_files(cell: str) -> list[str]:
    """Return the files that a cell names and that are not there."""
    return [path for path in re.findall(r"`([\w/]+\.py)", cell) if not (ROOT / "tests" / path).exists()]
