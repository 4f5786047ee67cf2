"""The embedded IOC, seen by clients that are not daqca's own."""

from __future__ import annotations


def test_answers(ioc):
    answer = ioc.ask(ioc.names[0])
    assert answer.native_type == 6


def test_restart(make_ioc):
    ioc = make_ioc('record(ao, "X:a") { field(VAL, 3) field(PINI, YES)}')
    assert ioc.ask("X:a").payload == b"\x40\x08\0\0\0\0\0\0"
