"""Operations that collect the answers of gets and puts in columns, and make a snapshot of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from daqca.ca.dbr import decode_metadata
from daqca.ca.eca import ECA, message_number
from daqca.engine.table import Table
from daqca.events import EVENT, EVENT_BLOCK, Batch, BatchBuilder, Kind, Records, has_block, has_number, pick, place
from daqca.link import Link
from daqca.operations import Operation
from daqca.outcome import Outcome
from daqca.reading import Metadata
from daqca.snapshot import MetadataColumns, Snapshot
from daqca.snapshot.container import Datum

NO_READ_ACCESS = message_number(ECA.NORDACCESS)
NO_WRITE_ACCESS = message_number(ECA.NOWTACCESS)
DISCONNECTED = message_number(ECA.DISCONN)

# Plain numbers: beside an enum's member NumPy looks for attributes, slowly, and drops a Ctrl-C that comes meanwhile.
_READ, _UPDATE, _FAILED = int(Kind.READ), int(Kind.UPDATE), int(Kind.FAILED)
_OK = np.uint8(Outcome.OK)
UNANSWERED = np.array([Outcome.NEVER_FOUND, Outcome.TIMEOUT, Outcome.DISCONNECTED], np.uint8)
"""By state of the channel: the outcome of a request without an answer."""
_REFUSALS = np.full(256, Outcome.REFUSED, np.uint8)
"""By ECA message number: the outcome of a request that failed."""
_REFUSALS[NO_READ_ACCESS] = Outcome.NO_READ_ACCESS
_REFUSALS[NO_WRITE_ACCESS] = Outcome.NO_WRITE_ACCESS
_REFUSALS[DISCONNECTED] = Outcome.DISCONNECTED

Positions = npt.NDArray[np.int64]


class Collected:
    """The answers to n requests, in columns; operations on several shards fill in their parts.

    Attributes
    ----------
    records
        `EVENT`, shape (n,); ``kind`` 0 where no answer came yet.
    """

    def __init__(self, n: int):
        self.records: Records = np.zeros(n, EVENT)
        self._block_of = np.zeros(n, np.uint32)
        self._blocks: list[bytes | bytearray | memoryview] = []

    def put(self, positions: Positions, records: Records, batch: Batch) -> None:
        """Take in answers."""
        place(self.records, positions, records)
        blocked = has_block(records)
        if blocked.any():
            self._block_of[positions[blocked]] = len(self._blocks)
            self._blocks.append(batch.block)

    def take(self, positions: Positions, records: Records, slots: npt.NDArray[np.uint32], table: Table) -> None:
        """Take in last values of the table, with their data there."""
        builder = BatchBuilder()
        places = records.view(EVENT_BLOCK)
        for i in np.flatnonzero(has_block(records)).tolist():
            places["offset"][i], places["length"][i] = builder.store(table.datum(int(slots[i]))[2])
        builder.extend(records)
        batch = builder.build()
        self.put(positions, batch.records, batch)

    def data(self) -> dict[int, Datum]:
        """By position: DBR type, count and bytes of what is not a number."""
        rows = np.flatnonzero(has_block(self.records))
        part = pick(self.records, rows)
        places = part.view(EVENT_BLOCK)
        blocks = [memoryview(block) for block in self._blocks]
        return {
            row: (dbr_type, count, blocks[block][offset : offset + length])
            for row, dbr_type, count, block, offset, length in zip(
                rows.tolist(),
                part["dbr_type"].tolist(),
                part["count"].tolist(),
                self._block_of[rows].tolist(),
                places["offset"].tolist(),
                places["length"].tolist(),
                strict=True,
            )
        }


class Collect(Operation):
    """The part of a `Collected` that one shard answers."""

    __slots__ = ("collected", "positions")

    def __init__(self, collected: Collected, positions: Positions):
        super().__init__(len(positions))
        self.collected = collected
        self.positions = positions

    def accept(self, places: npt.NDArray[np.int64], records: Records, batch: Batch) -> None:
        """See `Operation.accept`."""
        self.collected.put(self.positions[places], records, batch)


def give_up(link: Link, operation: Operation) -> None:
    """Forget an operation that was asked of a link and is not complete: no answer to it is waited for any more."""
    if not operation.done and operation.first:
        link.cancel(operation)


def read_outcome(records: Records, state: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Outcomes of reads: answered, failed, or why there is no answer, by the state of the channel."""
    kind, status = records["kind"], records["status"]
    outcome = np.where(kind == _READ, _OK, UNANSWERED[state])
    failed = kind == _FAILED
    if failed.any():
        outcome[failed] = _REFUSALS[status[failed]]
    return outcome


def make_snapshot(
    names: Sequence[str],
    slots: npt.NDArray[np.uint32],
    collected: Collected,
    outcome: npt.NDArray[np.uint8],
    table: Table,
    metadata: MetadataColumns | None,
    started: int,
    elapsed: float,
) -> Snapshot:
    """The snapshot of what was collected."""
    records = collected.records
    valued = (records["kind"] == _READ) | (records["kind"] == _UPDATE)
    number = np.where(has_number(records), records["value"], np.nan)
    return Snapshot(
        names,
        number,
        status=np.where(valued, records["status"], 0),
        severity=np.where(valued, records["severity"], 0),
        timestamps=np.where(valued, records["timestamp"], 0),
        outcome=outcome,
        native_type=table.native_type[slots],
        count=np.where(valued, records["count"], 0),
        native_count=table.native_count[slots],
        data=collected.data,
        metadata=metadata,
        started=started,
        elapsed=elapsed,
    )


def make_metadata(collected: Collected) -> MetadataColumns:
    """The metadata in DBR_CTRL answers."""
    columns = MetadataColumns.empty(len(collected.records))
    for position, (dbr_type, _, payload) in collected.data().items():
        if dbr_type == 28:  # DBR_CTRL_STRING has none
            continue
        columns.set(position, metadata_of(dbr_type, payload))
    return columns


def metadata_of(dbr_type: int, payload: bytes | bytearray | memoryview) -> Metadata:
    """The metadata of one DBR_CTRL structure."""
    known = decode_metadata(dbr_type, memoryview(payload))
    limits = {
        name: value
        for name in Metadata.__dataclass_fields__
        if name.endswith("_limit") and (value := getattr(known, name)) is not None
    }
    return Metadata(known.units, known.precision, known.enum_strings, **limits)
