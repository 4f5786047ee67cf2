"""HDF5's marks of being written, and taking them off."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from daqca.errors import RecordingError
from daqca.recording import superblock
from daqca.recording.layout import LIBVER


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"", 0xDEADBEEF), (b"Four score and seven years ago", 0x17770551)],  # from the comments of lookup3.c
)
def test_the_checksum_is_lookup3(text: bytes, expected: int) -> None:
    assert superblock.lookup3(text) == expected


def test_the_checksum_is_that_of_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    h5py.File(path, "w", libver=LIBVER).close()
    block = path.read_bytes()[:48]
    assert superblock.lookup3(block[:44]) == int.from_bytes(block[44:], "little")


@pytest.mark.parametrize("swmr", [False, True])
def test_a_file_that_was_never_closed_opens_again(tmp_path: Path, swmr: bool) -> None:
    writing, copy = tmp_path / "a.h5", tmp_path / "b.h5"
    with h5py.File(writing, "w", libver=LIBVER) as file:
        file["x"] = np.arange(1000)
        file.flush()
        if swmr:
            file.swmr_mode = True
        copy.write_bytes(writing.read_bytes())
    assert superblock.flags(writing) == 0
    assert superblock.flags(copy) == superblock.WRITING | (superblock.SWMR if swmr else 0)
    with pytest.raises(OSError, match="already open"):
        h5py.File(copy, "r")
    assert superblock.mend(copy)
    assert superblock.flags(copy) == 0
    assert not superblock.mend(copy)
    with h5py.File(copy, "r+") as file:
        assert file["x"][:].tolist() == list(range(1000))


@pytest.mark.parametrize("content", [b"", b"not HDF5" * 10, b"\x89HDF\r\n\x1a\n\x00" + bytes(60)])
def test_what_is_not_ours_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match="not a recording"):
        superblock.flags(path)
    with pytest.raises(RecordingError, match="not a recording"):
        superblock.mend(path)
    assert path.read_bytes() == content


def test_a_file_that_ends_before_it_should_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=LIBVER) as file:
        file["x"] = np.arange(10)
        file["y"] = np.zeros(100_000, "u1")
    with open(path, "r+b") as raw:
        raw.truncate(path.stat().st_size - 50_000)
    with pytest.raises(OSError, match="truncated"):
        h5py.File(path, "r")
    assert superblock.mend(path)
    with h5py.File(path) as file:
        assert file["x"][:].tolist() == list(range(10))
