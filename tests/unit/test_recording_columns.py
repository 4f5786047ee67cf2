"""Chunks and tables: what is written is what HDF5 reads, and rewriting does not make the file grow."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daqca.recording.blank import deflate_options
from daqca.recording.columns import Chunks, Packer, Table
from daqca.recording.layout import LIBVER, TableSpec

SPEC = TableSpec("t", "a table", (("a", "<u4"), ("b", "<f8"), ("c", "u1"), ("d", "S40")), 64)


def attach(table: Table, file: h5py.File, packed: bool) -> None:
    for (name, code), chunks in zip(table.spec.columns, table.chunks, strict=True):
        filters = deflate_options(np.dtype(code).itemsize) if packed else {}
        dataset = file.create_dataset(name, (0,), code, chunks=(SPEC.chunk,), maxshape=(None,), **filters)
        chunks.attach(dataset.id)


def columns(rows: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 1000, rows).astype("u4"),
        rng.normal(size=rows),
        (rng.random(rows) < 0.1).astype("u1"),
        rng.integers(0, 10**9, rows).astype("S40"),
    ]


@pytest.mark.parametrize("packed", [False, True])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pieces=st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=8), last=st.booleans())
def test_rows_come_back_however_they_are_cut_and_flushed(
    tmp_path: Path, packed: bool, pieces: list[tuple[int, bool]], last: bool
) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver=LIBVER) as file:
        table = Table(SPEC, packed)
        attach(table, file, packed)
        written = []
        for seed, (rows, flush) in enumerate(pieces):
            written.append(columns(rows, seed))
            table.append(written[-1])
            if flush:
                table.flush()
                assert table.committed == table.rows
        table.flush(final=last)
        total = sum(rows for rows, _ in pieces)
        assert table.rows == table.committed == total
    # HDF5 does not see the filter mask of a chunk it has just written directly: so through a new handle.
    with h5py.File(tmp_path / "a.h5") as file:
        for i, (name, _) in enumerate(SPEC.columns):
            expected = np.concatenate([w[i] for w in written]) if written else []
            assert file[name].shape == (total,)
            assert file[name][:].tolist() == list(expected)


def test_a_chunk_that_is_flushed_half_full_again_and_again_takes_its_space_once(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=LIBVER) as file:
        table = Table(SPEC, True)
        attach(table, file, True)
        file.swmr_mode = True
        sizes = []
        for seed in range(SPEC.chunk):
            table.append(columns(1, seed))
            table.flush()
            file.flush()
            sizes.append(path.stat().st_size)
        assert sizes[-1] == sizes[0]
        table.append(columns(SPEC.chunk, 7))
        file.flush()
        assert file["a"].id.get_chunk_info(0).filter_mask == 0b11  # as it is
        assert file["a"].id.get_chunk_info(1).filter_mask == 0  # compressed
        assert file["c"].id.get_chunk_info(0).filter_mask == 0b1


def test_time_pressure_leaves_out_compression_and_nothing_else(tmp_path: Path) -> None:
    data = columns(SPEC.chunk)
    with h5py.File(tmp_path / "a.h5", "w", libver=LIBVER) as file:
        table = Table(SPEC, True)
        attach(table, file, True)
        for chunks in table.chunks:
            chunks.hurried = True
        table.append(data)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["b"].id.get_chunk_info(0).filter_mask == 0b11
        assert file["b"][:].tolist() == data[1].tolist()


def test_the_packer_takes_what_pays() -> None:
    rng = np.random.default_rng(1)
    noise = rng.bytes(1 << 16)
    rising = np.arange(1 << 13, dtype="f8").tobytes()
    steady_each = np.tile(rng.normal(size=1000), 9)[: 1 << 13].tobytes()  # 1,000 PVs in turn
    sizes = {}
    for name, data in {"noise": noise, "rising": rising, "steady": steady_each}.items():
        packer = Packer(8)
        results = [packer.pack(np.frombuffer(data, "u1")) for _ in range(3)]
        sizes[name] = [None if r is None else len(r) for r in results]
    assert sizes["noise"] == [None, None, None]
    assert max(sizes["rising"]) < 10_000
    assert max(sizes["steady"]) < 20_000


def test_a_failed_write_leaves_the_rows_uncommitted() -> None:
    class Broken:
        def set_extent(self, shape: tuple[int, ...]) -> None:
            raise OSError(28, "No space left on device")

    table = Table(SPEC, False)
    for chunks in table.chunks:
        chunks.attach(Broken())
    table.append(columns(10))
    with pytest.raises(OSError, match="No space"):
        table.append(columns(60))
    assert (table.rows, table.committed) == (64, 0)


def test_frames_are_written_from_where_they_lie() -> None:
    seen = []

    class Spy:
        def set_extent(self, shape: tuple[int, ...]) -> None:
            seen.append(shape)

        def write_direct_chunk(self, offsets: tuple[int, ...], data: memoryview, mask: int) -> None:
            seen.append((offsets, data.obj, data.nbytes, mask))

    block = bytes(1000)
    chunks = Chunks(1, np.dtype("u1"), (10, 20), False)
    chunks.attach(Spy())
    assert chunks.write(3, memoryview(block)[100:300], 1, True) == 200
    assert seen == [(4, 10, 20), ((3, 0, 0), block, 200, 0)]
    assert seen[1][1] is block
