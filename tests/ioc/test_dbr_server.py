"""What `dbr` and `conversion` say, said to and by a real IOC, message by message."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from daqca.ca import dbr
from daqca.ca.conversion import encode_value
from daqca.ca.dbr import DBRType, Metadata
from daqca.ca.eca import ECA
from daqca.ca.protocol import Command, message, text_message

RECORDS = """
record(ao, "T:double") { field(EGU, "mm/s") field(PREC, "3") field(HOPR, "10") field(LOPR, "-10") field(DRVH, "9")
  field(DRVL, "-9") field(HIHI, "8") field(HIGH, "7") field(LOW, "-7") field(LOLO, "-8") field(HHSV, "MAJOR")
  field(HSV, "MINOR") field(LSV, "MINOR") field(LLSV, "MAJOR") }
record(longout, "T:long") { field(EGU, "counts") field(HOPR, "100000") field(LOPR, "-5") field(DRVH, "70000")
  field(DRVL, "-70000") }
record(mbbo, "T:enum") { field(ZRST, "Idle") field(ONST, "Run") field(TWST, "Wait for ever") field(TWVL, "2") }
record(stringout, "T:string") { }
record(waveform, "T:chars") { field(FTVL, "CHAR") field(NELM, "100") field(HOPR, "100") field(LOPR, "-100") }
record(waveform, "T:uchars") { field(FTVL, "UCHAR") field(NELM, "100") field(HOPR, "250") field(LOPR, "0") }
record(waveform, "T:shorts") { field(FTVL, "SHORT") field(NELM, "10") }
record(waveform, "T:floats") { field(FTVL, "FLOAT") field(NELM, "10") field(PREC, "2") field(EGU, "\u00b5A") }
record(waveform, "T:longs") { field(FTVL, "LONG") field(NELM, "10") }
record(waveform, "T:doubles") { field(FTVL, "DOUBLE") field(NELM, "5000") }
record(waveform, "T:strings") { field(FTVL, "STRING") field(NELM, "3") }
record(waveform, "T:enums") { field(FTVL, "ENUM") field(NELM, "3") }
"""


class Wire:
    """A client of one channel at a time, which waits for each answer."""

    def __init__(self, port: int):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.stream = self.sock.makefile("rb")
        self.sock.sendall(message(Command.VERSION, count=13))

    def close(self) -> None:
        self.stream.close()
        self.sock.close()

    def ask(self, request: bytes, answer: int) -> tuple[int, int, int, int, bytes]:
        """Data type, count, both parameters and payload of the first answer of this command."""
        self.sock.sendall(request)
        while True:
            command, size, data_type, count, p1, p2 = struct.unpack(">HHHHII", self.stream.read(16))
            if size == 0xFFFF and count == 0:
                size, count = struct.unpack(">II", self.stream.read(8))
            payload = self.stream.read(size)
            if command == answer:
                return data_type, count, p1, p2, payload

    def channel(self, name: str) -> tuple[int, int, int]:
        """Native type, count and SID."""
        native, count, _, sid, _ = self.ask(text_message(Command.CREATE_CHAN, name, 1, 13), Command.CREATE_CHAN)
        return native, count, sid

    def put(self, name: str, value: object) -> int:
        """The ECA status of a put with completion."""
        native, max_count, sid = self.channel(name)
        data_type, count, payload = encode_value(value, native, max_count, name)
        request = message(Command.WRITE_NOTIFY, payload, data_type, count, sid, 7)
        return self.ask(request, Command.WRITE_NOTIFY)[2]

    def read(self, name: str, row: int = 0) -> tuple[DBRType, int, bytes]:
        """DBR type, count and payload of what a get of the plain type + row * 7 brings."""
        native, _, sid = self.channel(name)
        request = message(Command.READ_NOTIFY, b"", native + 7 * row, 0, sid, 7)
        data_type, count, status, _, payload = self.ask(request, Command.READ_NOTIFY)
        assert status == ECA.NORMAL
        return DBRType(data_type), count, payload

    def get(self, name: str) -> list[object]:
        data_type, count, payload = self.read(name)
        values = np.frombuffer(payload, dbr.element(data_type), count)
        return [dbr.text(v) for v in values] if data_type == DBRType.STRING else values.tolist()

    def metadata(self, name: str, row: int) -> Metadata:
        data_type, _, payload = self.read(name, row)
        return dbr.decode_metadata(data_type, payload)


@pytest.fixture
def wire(make_ioc) -> Iterator[Wire]:
    wire = Wire(make_ioc(RECORDS).server_port)
    yield wire
    wire.close()


PUTS = [
    ("T:double", 1.25, [1.25]),
    ("T:double", "1e-3", [1e-3]),
    ("T:long", 65_536, [65_536]),
    ("T:long", -3.9, [-3]),
    ("T:enum", "Run", [1]),
    ("T:enum", 2, [2]),
    ("T:enum", "Wait for ever", [2]),
    ("T:string", "x" * 39, ["x" * 39]),
    ("T:string", "", [""]),
    ("T:string", 0.1, ["0.1"]),
    ("T:string.DESC", "Größe", ["Größe"]),
    ("T:string.DISP", 1, [1]),
    ("T:chars", "a long string, longer than forty bytes are", [*b"a long string, longer than forty bytes are\0"]),
    ("T:chars", [1, -1, 255, 200], [1, 255, 255, 200]),
    ("T:chars", b"\0\xff", [0, 255]),
    ("T:chars", 200, [200]),
    ("T:uchars", 200, [200]),
    ("T:uchars", -1, [255]),
    ("T:shorts", [1, -2.5, 3], [1, -2, 3]),
    ("T:floats", np.array([0.5, -1.5]), [0.5, -1.5]),
    ("T:longs", np.arange(10), list(range(10))),
    ("T:longs", [2**31 - 1, -(2**31)], [2**31 - 1, -(2**31)]),
    ("T:doubles", np.linspace(0, 1, 5000), np.linspace(0, 1, 5000).tolist()),
    ("T:doubles", np.eye(2), [1, 0, 0, 1]),
    ("T:strings", ["a", "", "x" * 39], ["a", "", "x" * 39]),
    ("T:strings", [1.5, 2], ["1.5", "2.0"]),
    ("T:enums", [1, 2, 3], [1, 2, 3]),
]


def test_what_is_put_is_what_is_read(wire):
    for name, value, expected in PUTS:
        assert wire.put(name, value) == ECA.NORMAL, (name, value)
        assert wire.get(name) == expected, (name, value)


def test_a_state_that_the_server_does_not_know_is_its_refusal(wire):
    assert wire.put("T:enum", "Sleep") == ECA.PUTFAIL


def test_metadata_as_the_database_has_it(wire):
    check_metadata(wire, row=3, is_ctrl=False)
    check_metadata(wire, row=4, is_ctrl=True)


def check_metadata(wire: Wire, row: int, is_ctrl: bool) -> None:
    assert wire.put("T:double", 8.5) == ECA.NORMAL
    assert wire.metadata("T:double", row) == Metadata(
        DBRType(6 + 7 * row),
        dbr.AlarmStatus.HIHI,
        dbr.AlarmSeverity.MAJOR,
        "mm/s",
        3,
        *(10.0, -10.0, 8.0, 7.0, -7.0, -8.0),
        *((9.0, -9.0) if is_ctrl else (None, None)),
    )
    long = wire.metadata("T:long", row)
    assert (long.units, long.precision, long.upper_disp_limit, long.lower_disp_limit) == ("counts", None, 100_000, -5)
    assert long.upper_ctrl_limit == (70_000 if is_ctrl else None)
    assert wire.metadata("T:enum", row).enum_strings == ("Idle", "Run", "Wait for ever")
    assert wire.metadata("T:string", row).units == ""
    chars, unsigned = wire.metadata("T:chars", row), wire.metadata("T:uchars", row)
    assert (chars.upper_disp_limit, chars.lower_disp_limit) == (100, -100)
    assert (unsigned.upper_disp_limit, unsigned.lower_disp_limit) == (250, 0)
    floats = wire.metadata("T:floats", row)
    assert (floats.units, floats.precision) == ("µA", 2)


def test_payloads_have_the_size_of_their_layout(wire):
    for name, row in product({name for name, _, _ in PUTS}, range(5)):
        data_type, count, payload = wire.read(name, row)
        size = dbr.payload_size(data_type, count)
        assert size <= len(payload) < size + 8, (name, data_type)
