"""What a new recording file holds before any data: groups, empty tables, the PV index, the user's metadata.

All that is written later, but for data and the datasets of arrays, has its place from the beginning: it is then
only overwritten, which a kill cannot tear.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from daqca.recording import layout
from daqca.recording.columns import Table
from daqca.recording.options import Options

Places = dict[str, int]
"""Where columns of the PV index and fields of the state are in the file, in bytes from its start."""


def deflate_options(itemsize: int) -> dict[str, Any]:
    """The filters of a compressed dataset, as `daqca.recording.columns.Packer` applies them."""
    return {"shuffle": itemsize > 1, "compression": "gzip", "compression_opts": 1}


def fill(
    file: h5py.File, path: str, names: Sequence[str], options: Options, tables: Sequence[Table], now: int
) -> Places:
    """Fill a new file.

    Parameters
    ----------
    file
        The file, open and empty.
    path, names, options
        As `daqca.recording.store.Store` has them.
    tables
        Their datasets are made.
    now
        The start of the recording, ns since the Unix epoch.

    Returns
    -------
    Where the things are that are overwritten in place.
    """
    start = layout.iso_time(now)
    file.attrs.update(
        NX_class="NXroot",
        default=layout.ENTRY,
        creator="daqca",
        creator_version=_version(),
        daqca_layout=layout.LAYOUT_VERSION,
        host=platform.node(),
        pid=os.getpid(),
        file_name=path,
        file_time=start,
        start_time_ns=now,
        flush_interval=options.flush_interval,
    )
    file.attrs.update(dict.fromkeys(layout.TOTALS, 0), end_time_ns=0, complete=False)
    entry = file.create_group(layout.ENTRY)
    entry.attrs.update(NX_class="NXentry", default=layout.SCALARS.name)
    layout.write_text(entry, "start_time", start)
    layout.write_text(entry, "end_time", " " * len(start))
    entry.create_dataset("duration", data=0.0).attrs["units"] = "s"
    layout.write_text(entry, "title", f"{len(names)} PVs recorded by daqca")
    for table in tables:
        _create_table(file, table)
    for group in (layout.ARRAYS, layout.OVERVIEW):
        _collection(file, group)
    references = file.create_dataset(layout.SEGMENTS, (layout.MAX_SEGMENTS,), h5py.ref_dtype)
    references[0] = references[0]  # HDF5 gives it its disk space when it is first written
    references.attrs["description"] = layout.DESCRIPTIONS["segments"]
    _write_metadata(_collection(file, layout.USER), options.metadata)
    return _create_index(file, names)


def _create_table(file: h5py.File, table: Table) -> None:
    spec = table.spec
    group = file.create_group(spec.path)
    group.attrs.update(NX_class="NXcollection", title=spec.title)
    if spec is layout.SCALARS:  # a plot of all of them: right for one PV, and better than none for many
        group.attrs.update(NX_class="NXdata", signal="value", axes=["time"])
    for (name, code), chunks in zip(spec.columns, table.chunks, strict=True):
        filters = deflate_options(chunks.item) if chunks.packed else {}
        column = group.create_dataset(name, (0,), np.dtype(code), chunks=(spec.chunk,), maxshape=(None,), **filters)
        column.attrs["description"] = layout.DESCRIPTIONS[name]
        if name == "time":
            column.attrs.update(units="ns", start="1970-01-01T00:00:00+00:00")


def _create_index(file: h5py.File, names: Sequence[str]) -> Places:
    places: Places = {}

    def fixed(group: h5py.Group, name: str, data: npt.NDArray[Any]) -> None:
        column = group.create_dataset(name, data=data)
        column.attrs["description"] = layout.DESCRIPTIONS[name]
        places[name] = column.id.get_offset()

    pvs = _collection(file, layout.PVS)
    encoded = [name.encode() for name in names]
    kind = h5py.string_dtype("utf-8", max(map(len, encoded)))
    pvs.create_dataset("name", data=np.array(encoded, f"S{kind.itemsize}").astype(kind))
    for name, code in layout.PV_COLUMNS:
        fixed(pvs, name, np.zeros(len(names), code))
    state = _collection(file, layout.STATE)
    for name, code, length in layout.STATE_FIELDS:
        fixed(state, name, np.zeros(length, code))
    return places


def _collection(parent: h5py.Group, path: str) -> h5py.Group:
    group = parent.create_group(path)
    group.attrs["NX_class"] = "NXcollection"
    return group


def _write_metadata(group: h5py.Group, values: Mapping[str, Any]) -> None:
    """Store the user's metadata: numbers, text and numeric arrays as they are, mappings as groups, the rest as JSON."""
    for key, value in values.items():
        name = str(key).replace("/", "|")
        if isinstance(value, Mapping):
            _write_metadata(_collection(group, name), value)
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind not in "biufcS":
            value = value.tolist()
        if not isinstance(value, (str, bytes, int, float, np.generic, np.ndarray)):
            value = json.dumps(value, default=str)
        if isinstance(value, str):
            layout.write_text(group, name, str(value))
        else:
            group.create_dataset(name, data=value)


def _version() -> str:
    try:
        return metadata.version("daqca")
    except metadata.PackageNotFoundError:
        return "unknown"
