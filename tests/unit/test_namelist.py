"""Lists of names: what is a name, what is left out and counted, what is refused and where."""

import io
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daqca.errors import NameListError
from daqca.namelist import MAX_NAME_BYTES, NameList, read_names


def write(folder, content):
    path = folder / "names.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_blanks_comments_and_duplicates(tmp_path):
    path = write(
        tmp_path,
        "# beamline 7, Grüße\n\nBL7:m1.RBV\n  BL7:m2.RBV\t# the other, µm\n   # indented\n \t \nBL7:m1.RBV\n"
        "BL7:cam#1\nBL7:m1.RBV\nBL7:m3.VAL monitor 0.5",
    )
    names = read_names(path)
    assert list(names) == ["BL7:m1.RBV", "BL7:m2.RBV", "BL7:cam#1", "BL7:m3.VAL"]
    assert names.duplicates == {"BL7:m1.RBV": 2}
    assert (names.comments, names.blanks) == (2, 2)
    assert names.extra_words == (f"{path}, line 10",)
    assert not names.is_clean
    assert names.summary() == (
        f"4 names from {path}; 2 duplicates left out (first: BL7:m1.RBV); "
        f"1 line with words after the name (first: {path}, line 10)"
    )


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
def test_any_line_ends_with_or_without_a_mark(tmp_path, ends, mark, last):
    text = ends.join(["A:one", "", "A:two", "# done"]) + (ends if last else "")
    names = read_names(str(write(tmp_path, mark + text.encode())))
    assert names.names == ("A:one", "A:two")
    assert (names.comments, names.blanks) == (1, 1)
    assert names.is_clean


def test_comments_in_an_old_encoding(tmp_path):
    names = read_names(write(tmp_path, "A:x # Größe\n# für\n".encode("latin-1")))
    assert names.names == ("A:x",)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("A:größe".encode(), r"'A:größe' cannot be a PV name: character 5 is 'ö', U\+00F6, and only printable ASCII"),
        ("A:größe".encode("latin-1"), r"character 5 is byte 0xF6, which is not UTF-8"),
        ("A:\u00a0x".encode(), r"character 3 is U\+00A0 \(white space\)"),
        ("A:\u2011x".encode(), r"character 3 is '.', U\+2011, and"),
        (b"A:\x0bx", r"character 3 is U\+000B \(white space\)"),
        (b"A:\x1bx", r"character 3 is U\+001B \(control character\)"),
        (b"A:\x7f", r"character 3 is U\+007F \(control character\)"),
        (b"$(P)m1", r"'\$\(P\)m1' has a macro"),
        (b"${P}m1", "has a macro"),
        (b"file motors.req P=X:", "'file motors.req P=X:' includes another list"),
        (b"N" * (MAX_NAME_BYTES + 1), "a name of 992 characters, beginning with 'NNN.*can search for 991 at most"),
    ],
)
def test_lines_that_cannot_be_names(tmp_path, line, why):
    path = write(tmp_path, b"A:good\n# comment\n" + line + b"\nA:more\n")
    with pytest.raises(NameListError, match=f"names.txt, line 3: .*{why}"):
        read_names(path)


def test_the_longest_name_and_odd_ones_are_for_the_server_to_judge(tmp_path):
    odd = ["N" * MAX_NAME_BYTES, 'A:x.{"arr":{"s":1,"e":3}}', "A:x.VAL$", "loc://x", "file", "A,B"]
    assert read_names(write(tmp_path, "\n".join(odd))).names == tuple(odd)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", r"holds no PV names \(0 comments, 0 empty lines\)"),
        (b"\n\n# nothing here\n", r"holds no PV names \(1 comment, 2 empty lines\)"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "is not a text file: byte 8 is zero"),
        (b"A" * 200_000 + b"\0", "is not a text file: byte 200,000 is zero"),
        ("A:x\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
    ],
)
def test_files_that_are_no_lists(tmp_path, content, why):
    with pytest.raises(NameListError, match=f"names.txt {why}"):
        read_names(write(tmp_path, content))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(NameListError, match=r"cannot read the names in .*none\.txt: No such file or directory"):
        read_names(tmp_path / "none.txt")
    with pytest.raises(NameListError, match="Is a directory"):
        read_names(tmp_path)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"A:x\nA:y\n")))
    assert read_names("-") == NameList(("A:x", "A:y"), ("standard input",))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"A:x\n\xc3\xa9")))
    with pytest.raises(NameListError, match="standard input, line 2: 'é'"):
        read_names("-")


def test_names_from_python():
    names = read_names(["A", "B", "A"])
    assert (names.names, names.duplicates, names.sources) == (("A", "B"), {"A": 1}, ())
    assert names.summary() == "2 names; 1 duplicate left out (first: A)"
    assert (len(names), names[1], names[:1], "B" in names) == (2, "B", ("A",), True)
    for bad, why in [(["A", "B C"], "name 2: 'B C' .*white space"), (["", "A"], "name 1 is empty"), ([b"A"], "string")]:
        with pytest.raises(NameListError, match=why):
            read_names(bad)
    assert len(read_names([])) == 0


def test_lists_are_added(tmp_path):
    one, other = read_names(["A", "B", "B"]), read_names(write(tmp_path, "B\nC\nC\n"))
    both = one + other
    assert both.names == ("A", "B", "C")
    assert both.duplicates == {"B": 2, "C": 1}
    assert both.sources == other.sources


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_names_or_a_clear_error(content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        try:
            names = read_names("-")
        except NameListError as error:
            message = str(error)
            assert message.startswith("standard input")
            assert message.isprintable()
        else:
            assert all(name.isascii() and name.isprintable() and " " not in name for name in names)
            assert names
