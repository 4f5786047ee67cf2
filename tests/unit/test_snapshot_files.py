"""Snapshot files: what is written is read back, and nothing that was there is damaged."""

import csv
import io
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.snapshots import every_kind, same_value, with_metadata

from daqca.errors import ConfigurationError, RecordingError
from daqca.outcome import Outcome
from daqca.snapshot import Snapshot
from daqca.snapshot.files import check_target
from daqca.snapshot.hdf5 import dump_hdf5, parse_hdf5
from daqca.snapshot.text import dump_csv, dump_json, parse_csv, parse_json

FORMATS = {".h5": (dump_hdf5, parse_hdf5), ".csv": (dump_csv, parse_csv), ".json": (dump_json, parse_json)}
SUFFIXES = sorted(FORMATS)
TESTS = str(Path(__file__).parents[1])


def assert_same(one, other, exact=False):
    assert other.names == one.names
    for i, (mine, yours) in enumerate(zip(one.values, other.values, strict=True)):
        assert same_value(mine, yours), (one.names[i], mine, yours)
    shown = one.has_value
    for column in ("outcome", "native_type", "count", "native_count", "timestamps"):
        assert np.array_equal(getattr(one, column), getattr(other, column)), column
    for column in ("severity", "status"):
        mine, yours = getattr(one, column), getattr(other, column)
        # The text formats do not claim an alarm for what has no value.
        assert np.array_equal(mine if exact else mine[shown], yours if exact else yours[shown]), column
    if one.metadata is None:
        assert other.metadata is None
    else:
        for mine, yours in zip(one, other, strict=True):
            assert repr(mine.metadata) == repr(yours.metadata), mine.name


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", [every_kind, with_metadata])
def test_what_is_saved_is_loaded(tmp_path, suffix, make):
    snapshot = make()
    path = tmp_path / f"snap{suffix}"
    snapshot.save(path)
    again = Snapshot.load(path)
    assert_same(snapshot, again, exact=suffix == ".h5")
    assert again.missing == snapshot.missing
    if suffix != ".csv":
        assert (again.started, again.elapsed) == (snapshot.started, snapshot.elapsed)
    assert os.listdir(tmp_path) == [path.name]


@st.composite
def snapshots(draw):
    """Snapshots of any types, values and texts."""
    size = draw(st.integers(0, 6))
    native_type = draw(st.lists(st.integers(0, 6), min_size=size, max_size=size))
    ranges = {1: (-(2**15), 2**15 - 1), 3: (0, 2**16 - 1), 4: (0, 255), 5: (-(2**31), 2**31 - 1)}
    codes = {1: ">i2", 2: ">f4", 3: ">u2", 4: "u1", 5: ">i4", 6: ">f8"}
    text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40).filter(
        lambda item: len(item.encode()) <= 40
    )
    number, outcome, native_count, data = np.full(size, np.nan), [], [], {}
    for i, kind in enumerate(native_type):
        outcome.append(draw(st.sampled_from([1, 1, 3, 4, 8])))
        native_count.append(draw(st.sampled_from([1, 1, 4])))
        count = draw(st.integers(0, 4)) if native_count[i] > 1 else 1
        if outcome[i] > 3:
            continue
        if kind == 0:
            items = [draw(text).encode() for _ in range(count)]
            data[i] = (0, count, b"".join(item.ljust(40, b"\0") for item in items))
            continue
        one = st.floats(width=32 if kind == 2 else 64) if kind in (2, 6) else st.integers(*ranges[kind])
        items = [draw(one) for _ in range(count)]
        if count == 1:
            number[i] = items[0]
        else:
            data[i] = (kind, count, np.array(items, codes[kind]).tobytes())
    u1 = st.integers(0, 255)
    return Snapshot(
        draw(
            st.lists(
                st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=5),
                min_size=size,
                max_size=size,
            )
        ),
        number,
        status=draw(st.lists(u1, min_size=size, max_size=size)),
        severity=draw(st.lists(u1, min_size=size, max_size=size)),
        timestamps=draw(st.lists(st.integers(0, 2**62), min_size=size, max_size=size)),
        outcome=outcome,
        native_type=native_type,
        native_count=native_count,
        data=data,
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None)
@given(snapshot=snapshots())
def test_any_snapshot_survives_its_file(suffix, snapshot):
    dump, parse = FORMATS[suffix]
    assert_same(snapshot, parse(dump(snapshot)), exact=suffix == ".h5")


def test_json_is_json_for_everybody():
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    content = json.loads(dump_json(with_metadata()), parse_constant=refuse)
    by_name = {pv["name"]: pv for pv in content["pvs"]}
    assert content["size"] == 16
    assert by_name["T:nan"]["value"] == "NaN"
    assert by_name["T:wave"]["value"] == [1.5, -2.5, "Infinity"]
    assert by_name["T:short"] == {
        "name": "T:short",
        "value": -5,
        "outcome": "ok",
        "severity": "MINOR",
        "status": "READ",
        "time": "2023-11-14T22:13:20.123456790Z",
        "timestamp": 1_700_000_000_123_456_790,
        "type": "SHORT",
        "count": 1,
        "native_count": 1,
        "units": "",
        "precision": None,
        "enum_strings": [],
        **{key: None for key in by_name["T:short"] if key.endswith("_limit")},
    }
    missing = by_name["T:missing"]
    assert (missing["value"], missing["severity"], missing["outcome"]) == (None, None, "never found")


def test_csv_is_a_table_for_everybody():
    snapshot = every_kind(text=b'say "hi", all\nof you')
    rows = list(csv.DictReader(io.StringIO(dump_csv(snapshot).decode(), newline="")))
    assert len(rows) == 16
    assert rows[0]["value"] == 'say "hi", all\nof you'
    assert (rows[1]["value"], rows[1]["severity"], rows[1]["timestamp"]) == ("-5", "MINOR", "1700000000123456790")
    assert rows[7]["value"] == "nan"
    assert (rows[14]["value"], rows[14]["severity"], rows[14]["outcome"]) == ("", "", "never found")


def test_hdf5_is_a_few_columns_with_words(tmp_path):
    path = tmp_path / "snap.h5"
    with_metadata().save(path)
    with h5py.File(path) as file:
        assert file.attrs["format"] == "daqca-snapshot"
        assert file["names"].asstr()[1] == "T:short"
        assert h5py.check_enum_dtype(file["outcome"].dtype)["NEVER_FOUND"] == 4
        assert h5py.check_enum_dtype(file["native_type"].dtype)["UNKNOWN"] == 255
        assert file["number"][5] == -2147483648.0
        assert file["data/DOUBLE"][:].tolist() == [1.5, -2.5, np.inf]
        assert file["data/STRING"][:].tolist()[1:] == [b"one", b"\xb5m"]
        assert file["metadata/enum_strings"].asstr()[0, :3].tolist() == ["Off", "On", "Übrig"]
        datasets = []
        file.visititems(lambda name, item: datasets.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(datasets) < 30


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_existing_file_stays_unless_told(tmp_path, suffix):
    path = tmp_path / f"snap{suffix}"
    path.write_text("precious")
    with pytest.raises(RecordingError, match=r"snap\.\w+ exists: choose another name, or ask to overwrite it"):
        every_kind().save(path)
    assert path.read_text() == "precious"
    every_kind().save(path, overwrite=True)
    assert len(Snapshot.load(path)) == 16
    assert os.listdir(tmp_path) == [path.name]


def test_a_file_that_appears_while_saving_is_not_overwritten(tmp_path, monkeypatch):
    path = tmp_path / "snap.json"
    target = check_target(path)
    path.write_text("precious")
    from daqca.snapshot.files import write_whole

    with pytest.raises(RecordingError, match="exists"):
        write_whole(target, b"mine", overwrite=False)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["snap.json"]


def test_a_link_is_followed_and_kept(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "snap.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    every_kind().save(link, overwrite=True)
    assert link.is_symlink()
    assert len(Snapshot.load(real)) == 16


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.h5").mkdir()
    for bad, why in [
        (tmp_path / "no" / "snap.h5", "No such file or directory"),
        (tmp_path / "file" / "snap.h5", "Not a directory"),
        (tmp_path / "folder.h5", "it is a folder"),
    ]:
        with pytest.raises(RecordingError, match=why):
            check_target(bad)
        with pytest.raises(RecordingError, match=why):
            every_kind().save(bad)
    with pytest.raises(
        ConfigurationError, match=r"snap\.xlsx from its suffix '\.xlsx': use one of \.h5, \.csv, \.json"
    ):
        every_kind().save(tmp_path / "snap.xlsx")
    with pytest.raises(ConfigurationError, match="suffix"):
        Snapshot.load(tmp_path / "snap")


def test_the_file_has_ordinary_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        every_kind().save(tmp_path / "snap.csv")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "snap.csv").stat().st_mode) == 0o644


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_room_leaves_the_old_file(tmp_path, suffix):
    """A limit on the size of files stands in for a full disk: the system refuses to write either way."""
    path = tmp_path / f"snap{suffix}"
    path.write_text("precious")
    code = (
        "from daqca.errors import RecordingError\n"
        f"import sys; sys.path.insert(0, {TESTS!r})\n"
        "from support.snapshots import every_kind\n"
        f"try: every_kind().save({str(path)!r}, overwrite=True)\n"
        "except RecordingError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512)),
        timeout=50,
        check=True,
    )
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", b"", "Expecting value"),
        ("a.json", b"[]", "does not say that its format"),
        ("a.json", b'{"format": "daqca-snapshot", "version": 9}', "of version 9"),
        ("a.json", b'{"format": "daqca-snapshot", "version": 1, "size": 2, "pvs": []}', "holds 0 PVs and says 2"),
        ("a.json", b"\xff\xfe", "decode"),
        ("a.csv", b"", "first line is not the header"),
        ("a.csv", b"name;value\n", "first line is not the header"),
        ("a.csv", dump_csv(every_kind())[:-4], "row 17 has 9 cells"),
        ("a.csv", dump_csv(every_kind()).replace(b"ENUM", b"MENU"), "'MENU' is no type of a PV"),
        ("a.csv", dump_csv(every_kind()).replace(b"never found", b"lost"), "'lost' is no outcome"),
        ("a.csv", dump_csv(every_kind()).replace(b"MINOR", b"minor"), "'minor' is no word of an alarm"),
        ("a.json", dump_json(every_kind()).replace(b"-5", b'"five"'), "value of T:short .*'five' is no number"),
        ("a.json", dump_json(every_kind()).replace(b"-5", b"[1, 2]"), "value of T:short .*2 elements where 1"),
        ("a.h5", b"\x89HDF", "file signature not found"),
    ],
)
def test_files_that_hold_no_snapshot(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=f"(?s){name} holds no snapshot that can be read: .*{why}"):
        Snapshot.load(path)


def test_other_hdf5_files(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["entry/data"] = [1, 2]
    with pytest.raises(RecordingError, match="does not say that its format is daqca-snapshot"):
        Snapshot.load(path)
    with pytest.raises(RecordingError, match=r"cannot read the snapshot .*b\.h5: No such file"):
        Snapshot.load(tmp_path / "b.h5")


def test_twenty_thousand_pvs_in_each_format(tmp_path):
    size = 20_000
    number = np.random.default_rng(1).normal(size=size)
    outcome = np.where(np.arange(size) % 100 == 0, Outcome.NEVER_FOUND, Outcome.OK)
    zeros = np.zeros(size)
    snapshot = Snapshot(
        [f"BL:DEV{i}:VAL" for i in range(size)],
        number,
        status=zeros,
        severity=zeros,
        timestamps=zeros,
        outcome=outcome,
        native_type=np.full(size, 6),
    )
    for suffix in SUFFIXES:
        path = tmp_path / f"big{suffix}"
        snapshot.save(path)
        again = Snapshot.load(path)
        assert np.array_equal(again.number[again.ok], number[snapshot.ok])
        assert len(again.missing) == 200


def test_an_image_fits_into_a_cell():
    pixels = np.arange(300_000, dtype="u1")
    one = {name: [0] for name in ("status", "severity", "timestamps")}
    snapshot = Snapshot(
        ["CAM"], [np.nan], outcome=[1], native_type=[4], data={0: (4, len(pixels), pixels.tobytes())}, **one
    )
    limit = csv.field_size_limit()
    again = parse_csv(dump_csv(snapshot))
    assert np.array_equal(again["CAM"].value, pixels)
    assert csv.field_size_limit() == limit


def test_importing_snapshots_imports_no_hdf5():
    code = "import sys, daqca.snapshot; print([name for name in ('h5py', 'rich', 'csv', 'zmq') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "[]\n"
