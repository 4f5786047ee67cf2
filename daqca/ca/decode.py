"""From the bytes of value-carrying messages to event records, one by one or in columns.

Pure functions over buffers; they know DBR layouts and nothing of channels or circuits.
"""

from __future__ import annotations

import struct
import time
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from daqca.ca import dbr
from daqca.ca.protocol import HEADER_SIZE, U4
from daqca.errors import ProtocolError
from daqca.events import ELEMENT, EPICS_EPOCH_NS, EVENT, EVENT_BLOCK, BatchBuilder, Kind, Records

ECA_NORMAL = 1
TEXT_SIZE = ELEMENT[0].itemsize

VALUE_OFFSET = (
    *(0, 0, 0, 0, 0, 0, 0),
    *(4, 4, 4, 4, 5, 4, 8),
    *(12, 14, 12, 14, 15, 12, 16),
)
"""Bytes before the first value, for the plain, STS and TIME types (0 to 20)."""

_LAST_VALUE_TYPE = 20
_LAST_TYPE = 38
_STSACK = 37
METADATA = range(21, 35)
"""The types that are metadata."""

_unpack_alarm = struct.Struct(">hh").unpack_from
_unpack_time = struct.Struct(">hhII").unpack_from
_unpack_time_double = struct.Struct(">hhII4xd").unpack_from
_unpack_number = (None, *(struct.Struct(code).unpack_from for code in (">h", ">f", ">H", ">B", ">i", ">d")))

OFFSET_NS = EPICS_EPOCH_NS


class Layout(NamedTuple):
    """How messages of one header are laid out."""

    dtype: np.dtype[np.void]
    """The whole message: ``p1``, ``p2``, ``status``, ``severity``, ``seconds``, ``nanoseconds``, ``data``."""
    dbr_type: int
    """As the event says it: the plain type of a value, or the type of metadata."""
    elements: int
    is_text: bool
    """Whether it is one string, which the block keeps in 40 bytes however long it came."""
    inline: bool
    """Whether the value is a number in the record."""
    has_alarm: bool
    has_time: bool
    data_offset: int
    """Of the data in the payload."""
    data_length: int


@lru_cache(maxsize=256)
def layout(data_type: int, count: int, size: int) -> Layout:
    """The layout of messages with this DBR type, count and payload size.

    Raises
    ------
    ProtocolError
        There is no such type, or the values do not fit into the payload.
    """
    if data_type > _LAST_TYPE:
        raise ProtocolError(f"DBR type {data_type} does not exist")
    if data_type <= _LAST_VALUE_TYPE:
        plain = data_type % 7
        data_offset = VALUE_OFFSET[data_type]
        data_length = count * ELEMENT[plain].itemsize
        if plain == 0 and count == 1:
            # One string may be sent without its trailing zeros.
            data_length = min(data_length, max(size - data_offset, 0))
        inline = count == 1 and plain != 0
    else:
        plain, data_offset, data_length, inline = data_type, 0, size, False
    needed = dbr.value_offset(data_type)
    if count != 1 or dbr.plain(data_type) != 0:
        needed = dbr.payload_size(data_type, count)
    if needed > size:
        raise ProtocolError(f"{count} values of DBR type {data_type} do not fit into a payload of {size} bytes")
    has_time = 14 <= data_type <= _LAST_VALUE_TYPE
    has_alarm = 7 <= data_type < 35 or data_type == _STSACK
    fields: list[tuple[str, str | np.dtype[np.generic], int]] = [("p1", ">u4", 8), ("p2", ">u4", 12)]
    if has_alarm:
        fields += [("status", ">i2", 16), ("severity", ">i2", 18)]
    if has_time:
        fields += [("seconds", ">u4", 20), ("nanoseconds", ">u4", 24)]
    if inline:
        fields.append(("data", ELEMENT[plain], HEADER_SIZE + data_offset))
    elif data_length:
        fields.append(("data", np.dtype(f"V{data_length}"), HEADER_SIZE + data_offset))
    names, formats, offsets = zip(*fields, strict=True)
    dtype = np.dtype(
        {"names": list(names), "formats": list(formats), "offsets": list(offsets), "itemsize": HEADER_SIZE + size}
    )
    return Layout(dtype, plain, count, plain == 0 and count == 1, inline, has_alarm, has_time, data_offset, data_length)


def data_records(
    messages: npt.NDArray[np.void],
    form: Layout,
    slots: U4,
    kinds: npt.NDArray[np.uint8] | int,
    tokens: U4,
    builder: BatchBuilder,
) -> Records:
    """Events of messages of one layout; their data goes to the builder's block.

    Parameters
    ----------
    messages
        Array of ``form.dtype``, shape (n,).
    slots, kinds, tokens
        Of the events, shape (n,), or one kind for all.

    Returns
    -------
    Array of `EVENT`, shape (n,). Failed ones (``p1`` is not ECA_NORMAL) are still to be marked by the caller.
    """
    records = np.empty(len(messages), EVENT)
    records["slot"] = slots
    records["kind"] = kinds
    records["dbr_type"] = form.dbr_type
    records["count"] = form.elements
    records["token"] = tokens
    if form.has_alarm:
        records["status"] = messages["status"]
        records["severity"] = messages["severity"]
    else:
        records["status"] = 0
        records["severity"] = 0
    if form.has_time:
        timestamps = messages["seconds"].astype(np.int64)
        timestamps *= 1_000_000_000
        timestamps += messages["nanoseconds"]
        timestamps += OFFSET_NS
        records["timestamp"] = timestamps
    else:
        records["timestamp"] = 0
    if form.inline:
        records["value"] = messages["data"]
    else:
        places = records.view(EVENT_BLOCK)
        data = messages["data"].tobytes() if form.data_length else b""
        length = form.data_length
        if form.is_text and length < TEXT_SIZE:
            length = TEXT_SIZE
            texts = np.frombuffer(data, f"S{form.data_length}").astype(f"S{length}") if data else bytes(length)
            data = texts.tobytes() if not isinstance(texts, bytes) else texts * len(messages)
        places["length"] = length
        if data:
            start, _ = builder.store(data)
            places["offset"] = start + np.arange(len(messages), dtype=np.uint32) * np.uint32(length)
        else:
            places["offset"] = 0
    return records


def data_row(
    payload: memoryview | bytearray,
    start: int,
    form: Layout,
    slot: int,
    kind: int,
    token: int,
    builder: BatchBuilder,
    keep: bool = False,
) -> None:
    """One event as a row of the builder.

    Parameters
    ----------
    payload, start
        Where the message's payload begins.
    keep
        The payload is a buffer of its own that nobody will change: refer to it instead of copying.
    """
    dbr_type, count = form.dbr_type, form.elements
    status = severity = timestamp = 0
    if form.has_time:
        if form.inline and dbr_type == 6:
            status, severity, seconds, nanoseconds, value = _unpack_time_double(payload, start)
            timestamp = seconds * 1_000_000_000 + nanoseconds + OFFSET_NS
            builder.rows.append((slot, kind, 6, status & 0xFF, severity & 0xFF, timestamp, value, 1, token))
            return
        status, severity, seconds, nanoseconds = _unpack_time(payload, start)
        timestamp = seconds * 1_000_000_000 + nanoseconds + OFFSET_NS
    elif form.has_alarm:
        status, severity = _unpack_alarm(payload, start)
    place: float | tuple[int, int]
    begin = start + form.data_offset
    if form.inline:
        unpack = _unpack_number[dbr_type]
        assert unpack is not None
        place = float(unpack(payload, begin)[0])
    else:
        data = memoryview(payload)[begin : begin + form.data_length]
        text = form.is_text and form.data_length < TEXT_SIZE
        place = builder.store(bytes(data).ljust(TEXT_SIZE, b"\0") if text else data if keep else bytes(data))
    builder.rows.append((slot, kind, dbr_type, status & 0xFF, severity & 0xFF, timestamp, place, count, token))


def failed_rows(records: Records, eca: U4, kind: int) -> None:
    """Make the events whose ECA status is not normal ones of `kind`, with its message number as their status."""
    bad = eca != ECA_NORMAL
    if bad.any():
        failed = np.zeros(np.count_nonzero(bad), EVENT)
        failed["slot"], failed["token"] = records["slot"][bad], records["token"][bad]
        failed["kind"] = kind
        failed["status"] = np.minimum(eca[bad] >> 3, 255)
        failed["timestamp"] = time.time_ns()
        records[bad] = failed


def unsigned_chars(records: Records, is_char: npt.NDArray[np.bool_]) -> None:
    """Undo what a server does to a CHAR above 127 when it is asked for a double: make it 0 to 255 again."""
    wrong = is_char & (records["value"] < 0) & (records["dbr_type"] == 6) & (records["kind"] <= Kind.READ)
    if wrong.any():
        records["value"][wrong] += 256.0
