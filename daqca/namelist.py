"""Lists of PV names, from files, standard input and Python: what is a name, and what was left out.

Says nothing of whether the PVs exist: that is for the servers.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

from daqca.errors import NameListError

MAX_NAME_BYTES = 991
"""The longest name that can be searched for: with its zero byte it must fit into a UDP datagram of 1,024 bytes
after the two headers of 16. (Records of EPICS base have 60 characters at most, before field and filters.)"""

STDIN = "-"

_NAME = re.compile(r"[!-~]+")
_GAP = re.compile(r"[ \t]+")
_LINE_END = re.compile(r"\r\n|\n|\r")
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


@dataclass(frozen=True)
class NameList(Sequence[str]):
    """PV names in the order they came, each once.

    Parameters
    ----------
    names
        The names.
    sources
        Where they came from: file names, or ``"names"`` for those given directly.
    duplicates
        The names that came more than once, with the number of times they came again.
    comments, blanks
        How many lines were comments, and how many were empty.
    extra_words
        The places (``"file, line 3"``) of lines with more words after the name; only the first word is taken.
    """

    names: tuple[str, ...]
    sources: tuple[str, ...] = ()
    duplicates: dict[str, int] = field(default_factory=dict)
    comments: int = 0
    blanks: int = 0
    extra_words: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.names[index]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __add__(self, other: NameList) -> NameList:
        """Both lists, one after the other, each name once."""
        again = Counter(self.duplicates)
        again.update(other.duplicates)
        names = dict.fromkeys(self.names)
        again.update(name for name in other.names if name in names)
        names.update(dict.fromkeys(other.names))
        return NameList(
            tuple(names),
            self.sources + other.sources,
            dict(again),
            self.comments + other.comments,
            self.blanks + other.blanks,
            self.extra_words + other.extra_words,
        )

    @property
    def is_clean(self) -> bool:
        """Whether every line was a name of its own, a comment or empty."""
        return not self.duplicates and not self.extra_words

    def summary(self) -> str:
        """What was taken and what was left out, on one line."""
        parts = [_count(len(self), "name")]
        if self.sources:
            parts[0] += f" from {', '.join(self.sources)}"
        if self.duplicates:
            first = next(iter(self.duplicates))
            parts.append(f"{_count(sum(self.duplicates.values()), 'duplicate')} left out (first: {first})")
        if self.extra_words:
            lines = _count(len(self.extra_words), "line")
            parts.append(f"{lines} with words after the name (first: {self.extra_words[0]})")
        return "; ".join(parts)


def read_names(source: str | os.PathLike[str] | Iterable[str]) -> NameList:
    """Read PV names from a file, from standard input, or from Python.

    In a file each line holds one name. Empty lines are skipped, and so is everything from a ``#`` at the
    beginning of a line or after white space. A second word on the line is not part of the name, and is reported.
    The file is UTF-8 (with or without a byte order mark) with any line ends; only comments may hold more than ASCII.

    Parameters
    ----------
    source
        The path of a file, ``"-"`` for standard input, or an iterable of names.

    Raises
    ------
    NameListError
        If it cannot be read, is not text, holds no names, or has a line that cannot be a name: the message
        tells the file, the line and the character.
    """
    if isinstance(source, str | os.PathLike):
        return _from_text(*_read(source))
    return _from_items(source)


def _read(source: str | os.PathLike[str]) -> tuple[bytes, str]:
    """The bytes of a file or of standard input, and how to call it."""
    try:
        if source == STDIN:
            return sys.stdin.buffer.read(), "standard input"
        path = os.fspath(source)
        with open(path, "rb") as file:
            head = file.read(65_536)
            # Known from its beginning, so that a large file given by mistake is not read.
            return head if b"\0" in head else head + file.read(), path
    except OSError as error:
        raise NameListError(f"cannot read the names in {source}: {error.strerror}") from error


def _from_text(content: bytes, title: str) -> NameList:
    encoding = _BYTE_ORDER_MARKS.get(content[:2])
    if encoding:
        raise NameListError(f"{title} is {encoding} text: save it as UTF-8")
    if b"\0" in content:
        raise NameListError(f"{title} is not a text file: byte {content.index(0):,} is zero")
    # Comments in an old encoding are no reason to refuse a list: what cannot be decoded only matters in names.
    lines = _LINE_END.split(content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"))
    if lines[-1] == "":
        del lines[-1]
    comments = blanks = 0
    extra: list[str] = []
    names: list[str] = []
    for number, line in enumerate(lines, 1):
        words = _GAP.split(line.strip(" \t"))
        if not words[0]:
            blanks += 1
        elif words[0].startswith("#"):
            comments += 1
        else:
            _check_line(words, line, f"{title}, line {number}")
            names.append(words[0])
            if len(words) > 1 and not words[1].startswith("#"):
                extra.append(f"{title}, line {number}")
    if not names:
        raise NameListError(
            f"{title} holds no PV names ({_count(comments, 'comment')}, {_count(blanks, 'empty line')})"
        )
    return _once(names, title, comments, blanks, tuple(extra))


def _from_items(source: Iterable[str]) -> NameList:
    names = []
    for number, name in enumerate(source, 1):
        if not isinstance(name, str):
            raise NameListError(f"name {number} is no string but {name!r}")
        if not name.strip():
            raise NameListError(f"name {number} is empty")
        check_name(name, f"name {number}")
        names.append(name)
    return _once(names, "", 0, 0, ())


def _once(names: list[str], title: str, comments: int, blanks: int, extra: tuple[str, ...]) -> NameList:
    duplicates: dict[str, int] = {}
    kept = dict.fromkeys(names)
    if len(kept) != len(names):
        duplicates = {name: count - 1 for name, count in Counter(names).items() if count > 1}
    return NameList(tuple(kept), (title,) if title else (), duplicates, comments, blanks, extra)


def _check_line(words: list[str], line: str, where: str) -> None:
    if words[0] == "file" and len(words) > 1 and not words[1].startswith("#"):
        raise NameListError(
            f"{where}: {line.strip()!r} includes another list, as autosave does: give that list too, or expand it first"
        )
    check_name(words[0], where)


def check_name(name: str, where: str = "the name") -> None:
    """Make sure that `name` can be asked for over Channel Access; whether it exists is for the servers to say.

    Raises
    ------
    NameListError
        If it has characters other than printable ASCII, a macro that nobody will expand, or too many bytes.
    """
    if not _NAME.fullmatch(name):
        bad = next(index for index, character in enumerate(name) if not "!" <= character <= "~")
        raise NameListError(
            f"{where}: {_shown(name)!r} cannot be a PV name: character {bad + 1} is {_character(name[bad])}, "
            "and only printable ASCII without spaces can be asked for"
        )
    if "$(" in name or "${" in name:
        raise NameListError(f"{where}: {name!r} has a macro: put its value in its place, daqca expands none")
    if len(name) > MAX_NAME_BYTES:
        raise NameListError(
            f"{where}: a name of {len(name):,} characters, beginning with {name[:40]!r}: "
            f"Channel Access can search for {MAX_NAME_BYTES} at most"
        )


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def _shown(name: str) -> str:
    short = name if len(name) <= 60 else name[:57] + "..."
    return short.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"byte 0x{code - 0xDC00:02X}, which is not UTF-8"
    kind = " (white space)" if character.isspace() else " (control character)" if code < 32 or code == 127 else ""
    shown = f"{character!r}, " if character.isprintable() and not kind else ""
    return f"{shown}U+{code:04X}{kind}"
