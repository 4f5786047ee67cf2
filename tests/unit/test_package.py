"""The package as a whole: its public names, its docstrings and size, and the layers it promises."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import types
from pathlib import Path

import pytest

import daqca
from daqca.outcome import Outcome

PACKAGE = Path(daqca.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = sorted(
    info.name for info in pkgutil.walk_packages(daqca.__path__, "daqca.") if not info.name.endswith("__main__")
)
PACKAGES = [daqca.__name__] + [name for name in MODULES if (ROOT / name.replace(".", "/")).is_dir()]


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Public names


@pytest.mark.parametrize("name", PACKAGES)
def test_all_of_a_package_is_what_it_hands_on(name: str) -> None:
    module = importlib.import_module(name)
    names = list(getattr(module, "__all__", []))
    assert names == sorted(set(names)), "sorted, each once"
    for public in names:
        assert getattr(module, public) is not None
        assert public in dir(module)
    bound = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and not isinstance(value, types.ModuleType)
        and key not in ("annotations", "TYPE_CHECKING")
    }
    foreign = {key for key in bound if not str(getattr(vars(module)[key], "__module__", "daqca")).startswith("daqca")}
    assert bound - foreign <= set(names), "a name is there that __all__ does not list"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=where)
def test_the_init_of_a_package_only_hands_names_on(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert ast.get_docstring(ast.parse(path.read_text())), "says in two lines what lives here"
    lazily = {"__getattr__", "__dir__"}
    for node in body[1:]:
        if isinstance(node, ast.FunctionDef):
            assert node.name in lazily
        elif isinstance(node, ast.If):
            assert ast.unparse(node.test) == "TYPE_CHECKING"
        else:
            assert isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)), ast.unparse(node)


# Every module (ruff sees to the docstrings)


@pytest.mark.parametrize("path", SOURCES, ids=where)
def test_a_module_is_not_too_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500, "split it, or say in docs/decisions why not"


def test_the_version_is_the_one_of_the_changelog() -> None:
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    released = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert declared is not None
    assert released[0] == "Unreleased" or released[0] == declared[1]


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=where)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_begins_with_what_to_type() -> None:
    title, what, how, code, *_ = (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")
    assert title == "# daqca"
    assert what.startswith("Data acquisition")
    assert how.endswith(":")
    assert re.findall(r"^(make \w+) +# ", code, re.MULTILINE) == ["make demo", "make test"]


def test_the_readme_explains_every_outcome() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    words = {word for row in rows for word in row.split(", ")}
    assert {outcome.text for outcome in Outcome} <= words
