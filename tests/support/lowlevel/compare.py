"""Compares the outcomes of the same calls with two libraries; what is documented is no surprise.

A difference is documented by a pattern, with the reason: ``call``, or ``call | theirs | ours``, with ``*`` and ``?``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .describe import Outcome

_WIDTH = 70
_ROWS = 200


@dataclass(frozen=True)
class Difference:
    """A call, or a part of its outcome after ``->``, and what came of it with either library."""

    name: str
    theirs: str
    ours: str

    def matches(self, pattern: str) -> bool:
        """Whether a pattern tells of this difference."""
        if " | " not in pattern:
            pattern += " | *"
        return fnmatchcase(f"{self.name} | {self.theirs} | {self.ours}", pattern)


@dataclass
class Comparison:
    """What differs.

    Parameters
    ----------
    calls
        How many calls were compared.
    surprises
        Differences that no pattern tells of.
    documented
        The others, by pattern.
    stale
        Patterns for which nothing differs.
    """

    calls: int = 0
    surprises: list[Difference] = field(default_factory=list)
    documented: dict[str, list[Difference]] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)


def compare(
    theirs: Mapping[str, Outcome], ours: Mapping[str, Outcome], reasons: Mapping[str, str] | None = None
) -> Comparison:
    """Compare all calls; each is in both, or differs."""
    found = Comparison(len(theirs.keys() | ours.keys()), documented={pattern: [] for pattern in reasons or ()})
    for difference in differences(theirs, ours):
        patterns = [pattern for pattern in found.documented if difference.matches(pattern)]
        for pattern in patterns:
            found.documented[pattern].append(difference)
        if not patterns:
            found.surprises.append(difference)
    found.stale = [pattern for pattern, matched in found.documented.items() if not matched]
    return found


def differences(theirs: Mapping[str, Outcome], ours: Mapping[str, Outcome]) -> Iterator[Difference]:
    """Yield the differences, in the order of the calls."""
    for name in {**theirs, **ours}:
        if name not in theirs or name not in ours:
            yield Difference(name, *("made" if name in side else "not made" for side in (theirs, ours)))
            continue
        left, right = _parts(theirs[name]), _parts(ours[name])
        if ("raises" in left) != ("raises" in right) or ("" in left) != ("" in right):
            yield Difference(name, _text(left), _text(right))
            continue
        for key in {**left, **right}:
            if not _same(left.get(key), right.get(key)):
                whole = f"{name} -> {key}" if key and key != "raises" else name
                yield Difference(whole, _shown(left.get(key)), _shown(right.get(key)))


def _parts(outcome: Outcome) -> dict[str, Any]:
    """Return the parts of an outcome by name; a value that is no dictionary has an empty one."""
    if not isinstance(outcome, dict):
        return {"": outcome}
    parts: dict[str, Any] = {}
    for key, value in outcome.items():
        if isinstance(value, dict):
            parts |= {f"{key}.{inner}".rstrip("."): item for inner, item in _parts(value).items()}
        else:
            parts[key] = value
    return parts


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, list) and isinstance(ours, list):
        # A program that catches their exception by its name catches ours.
        return theirs[1] in ours[1:]
    return bool(theirs == ours)


def _shown(part: Any) -> str:
    if isinstance(part, list):
        return f"raises {part[0]}"
    return "-" if part is None else str(part)


def _text(parts: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}: {_shown(part)}" if key and key != "raises" else _shown(part) for key, part in parts.items()
    )


def table(found: Iterable[Difference], heads: tuple[str, str, str] = ("call", "PyEpics", "daqca")) -> str:
    """Return the differences as text in columns, those of one kind in one row with the number of the others."""
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for difference in found:
        groups[difference.name.partition("/")[0], difference.theirs, difference.ours].append(difference.name)
    rows = [
        (names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)", theirs, ours)
        for (_, theirs, ours), names in groups.items()
    ]
    left = len(rows) - _ROWS
    rows = [tuple(_cut(cell) for cell in row) for row in (heads, *rows[:_ROWS])]  # type: ignore[misc]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *([f"... and {left} more rows"] if left > 0 else [])])


def _cut(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."
