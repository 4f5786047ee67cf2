"""The first 48 bytes of an HDF5 file: is it marked as being written, and how to take that mark off.

HDF5 refuses to open a file whose writer was killed, because its mark stayed. The tool h5clear takes it
off; h5py does not bring that tool, so here is what it does. Format: HDF5 File Format Specification 3.0, II.A.
"""

from __future__ import annotations

import os
import struct

from daqca.errors import RecordingError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
WRITING = 0x01
"""Marked: open for writing."""
SWMR = 0x04
"""Marked: open for writing while others read."""

_SIZE = 48
_FLAGS = 11
_END_OF_FILE = 28
_CHECKSUM = 44
_MASK = 0xFFFFFFFF


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def lookup3(data: bytes) -> int:
    """Bob Jenkins' lookup3 hash (``hashlittle``, start value 0), the checksum of HDF5's metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    blocks = max(1, -(-len(data) // 12))
    for i in range(blocks):
        x, y, z = struct.unpack("<3I", data[12 * i : 12 * i + 12].ljust(12, b"\0"))
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        if i == blocks - 1:
            break
        a, b, c = _mix(a, b, c)
    return _final(a, b, c) if data else c


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for first, second, third in ((4, 6, 8), (16, 19, 4)):
        a, c = ((a - c) & _MASK) ^ _rotate(c, first), (c + b) & _MASK
        b, a = ((b - a) & _MASK) ^ _rotate(a, second), (a + c) & _MASK
        c, b = ((c - b) & _MASK) ^ _rotate(b, third), (b + a) & _MASK
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _rotate(b, 14)) & _MASK
    a = ((a ^ c) - _rotate(c, 11)) & _MASK
    b = ((b ^ a) - _rotate(a, 25)) & _MASK
    c = ((c ^ b) - _rotate(b, 16)) & _MASK
    a = ((a ^ c) - _rotate(c, 4)) & _MASK
    b = ((b ^ a) - _rotate(a, 14)) & _MASK
    return ((c ^ b) - _rotate(b, 24)) & _MASK


def flags(path: str | os.PathLike[str]) -> int:
    """The marks of the file at `path`: `WRITING`, `SWMR`, or 0 if it was closed properly.

    Raises
    ------
    RecordingError
        It is not an HDF5 file as we write them.
    """
    with open(path, "rb") as file:
        return _checked(file.read(_SIZE), path)[_FLAGS]


def mend(path: str | os.PathLike[str]) -> bool:
    """Take the marks off, and let the file end where it really ends, so that everything opens it.

    HDF5 writes where the file ends before it has written so far: a writer that was killed, or whose
    disk is full, leaves a file that seems cut off. Only for a file that nobody writes any more.

    Returns
    -------
    Whether there was anything to mend.

    Raises
    ------
    RecordingError
        It is not an HDF5 file as we write them.
    """
    with open(path, "r+b") as file:
        block = bytearray(_checked(file.read(_SIZE), path))
        size = os.fstat(file.fileno()).st_size
        told = int.from_bytes(block[_END_OF_FILE : _END_OF_FILE + 8], "little")
        if not block[_FLAGS] and told <= size:
            return False
        block[_FLAGS] = 0
        block[_END_OF_FILE : _END_OF_FILE + 8] = size.to_bytes(8, "little")
        block[_CHECKSUM:] = lookup3(bytes(block[:_CHECKSUM])).to_bytes(4, "little")
        file.seek(0)
        file.write(block)
        return True


def _checked(block: bytes, path: str | os.PathLike[str]) -> bytes:
    version_and_sizes = block[8:11]
    if len(block) < _SIZE or not block.startswith(SIGNATURE) or version_and_sizes not in (b"\2\x08\x08", b"\3\x08\x08"):
        raise RecordingError(f"{os.fspath(path)} is not a recording: it does not begin as an HDF5 file of ours")
    return block
