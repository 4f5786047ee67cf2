"""Snapshots as HDF5: a few columns over all PVs, never a dataset for each. The only module here that imports h5py.

The file is made in memory and handed over as bytes: HDF5 then meets no full disk, and writing it is everyone's code.
"""

from __future__ import annotations

import io
from enum import IntEnum
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from daqca import events
from daqca.outcome import Outcome
from daqca.reading import LIMITS, TYPE_NAMES, UNKNOWN_TYPE, AlarmStatus, Severity, time_text
from daqca.snapshot.container import COLUMNS, Datum, Snapshot
from daqca.snapshot.metadata import MetadataColumns
from daqca.snapshot.text import FORMAT, VERSION

_STATES = 16
_WORDS: dict[str, type[IntEnum]] = {"outcome": Outcome, "severity": Severity, "status": AlarmStatus}
_TYPE_CODES = {**{name: code for code, name in enumerate(TYPE_NAMES)}, "UNKNOWN": UNKNOWN_TYPE}


def dump_hdf5(snapshot: Snapshot) -> bytes:
    """The file of a snapshot; docs/snapshot.md describes its layout."""
    with h5py.File("snapshot", "w", driver="core", backing_store=False) as file:
        file.attrs.update(
            format=FORMAT,
            version=VERSION,
            started=np.int64(snapshot.started),
            started_time=time_text(snapshot.started),
            elapsed=snapshot.elapsed,
        )
        _write(file, "names", _text_column(snapshot.names))
        for name in COLUMNS:
            _write(file, name, getattr(snapshot, name), _column_dtype(name))
        file["timestamps"].attrs["units"] = "ns since 1970-01-01T00:00:00Z, by the clock of each IOC"
        _write_data(file.create_group("data"), snapshot.data)
        if snapshot.metadata is not None:
            _write_metadata(file.create_group("metadata"), snapshot.metadata)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _column_dtype(name: str) -> Any:
    """The dtype of a column in the file: numbers with names are stored as enums, so that viewers show words."""
    if name == "native_type":
        return h5py.enum_dtype(_TYPE_CODES, basetype="u1")
    if name in _WORDS:
        return h5py.enum_dtype({item.name: int(item) for item in _WORDS[name]}, basetype="u1")
    return None


def _text_column(texts: list[str]) -> npt.NDArray[Any]:
    raw = [text.encode() for text in texts]
    return np.array(raw, h5py.string_dtype("utf-8", max(map(len, raw), default=1) or 1))


def _write(group: Any, name: str, column: npt.NDArray[Any], dtype: Any = None) -> None:
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if column.size > 1000 else {}
    group.create_dataset(name, data=column, dtype=dtype or column.dtype, **packed)


def _write_data(group: Any, data: dict[int, Datum]) -> None:
    """Strings and arrays: those of one type one after the other in one dataset, and an index over them."""
    index = np.array(sorted(data), np.uint32)
    dbr_type = np.array([data[i][0] for i in index.tolist()], np.uint8)
    count = np.array([data[i][1] for i in index.tolist()], np.uint64)
    offset = np.zeros(len(index), np.uint64)
    for code in np.unique(dbr_type).tolist():
        mine = dbr_type == code
        ends = np.cumsum(count[mine])
        offset[mine] = ends - count[mine]
        pieces = [events.decode(memoryview(data[i][2]), code, data[i][1]) for i in index[mine].tolist()]
        _write(group, TYPE_NAMES[code], np.concatenate(pieces))
    for name, column in (("index", index), ("offset", offset), ("count", count)):
        _write(group, name, column)
    _write(group, "dbr_type", dbr_type, _column_dtype("native_type"))


def _write_metadata(group: Any, metadata: MetadataColumns) -> None:
    _write(group, "units", metadata.units)
    _write(group, "precision", metadata.precision)
    _write(group, "limits", metadata.limits)
    group["limits"].attrs["columns"] = list(LIMITS)
    index = sorted(metadata.enum_strings)
    _write(group, "enum_index", np.array(index, np.uint32))
    states = [[*metadata.enum_strings[i], *[""] * _STATES][:_STATES] for i in index]
    flat = _text_column([text for row in states for text in row])
    _write(group, "enum_strings", flat.reshape(len(index), _STATES))
    _write(group, "enum_count", np.array([len(metadata.enum_strings[i]) for i in index], np.uint8))


def parse_hdf5(content: bytes) -> Snapshot:
    """The snapshot that `dump_hdf5` wrote.

    Raises
    ------
    ValueError, KeyError, TypeError, OSError
        If it is something else.
    """
    with h5py.File(io.BytesIO(content), "r") as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"it does not say that its format is {FORMAT}")
        if file.attrs["version"] != VERSION:
            raise ValueError(f"it is of version {file.attrs['version']}, and this daqca reads version {VERSION}")
        return Snapshot(
            _texts(file["names"]),
            data=_read_data(file["data"]),
            metadata=_read_metadata(file["metadata"]) if "metadata" in file else None,
            started=int(file.attrs["started"]),
            elapsed=float(file.attrs["elapsed"]),
            **{name: file[name][:] for name in COLUMNS},
        )


def _texts(dataset: Any) -> list[str]:
    return [raw.decode() for raw in dataset[:].ravel().tolist()]


def _read_data(group: Any) -> dict[int, Datum]:
    data: dict[int, Datum] = {}
    index, dbr_type = group["index"][:], group["dbr_type"][:]
    offset, count = group["offset"][:], group["count"][:]
    for code in np.unique(dbr_type).tolist():
        element = events.ELEMENT[code]
        raw = memoryview(group[TYPE_NAMES[code]][:].astype(element).tobytes())
        mine = dbr_type == code
        for i, start, length in zip(index[mine].tolist(), offset[mine].tolist(), count[mine].tolist(), strict=True):
            data[i] = (code, length, raw[start * element.itemsize : (start + length) * element.itemsize])
    return data


def _read_metadata(group: Any) -> MetadataColumns:
    texts = _texts(group["enum_strings"])
    states = {
        i: tuple(texts[row * _STATES : row * _STATES + count])
        for row, (i, count) in enumerate(
            zip(group["enum_index"][:].tolist(), group["enum_count"][:].tolist(), strict=True)
        )
    }
    return MetadataColumns(group["units"][:], group["precision"][:], group["limits"][:], states)
