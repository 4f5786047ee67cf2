"""A context and the repeater of its host: registering, hearing of new servers, starting one where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from support.ioc import IOCFactory, Servers
from support.repeater import RepeaterProcess

from daqca import Engine
from daqca.sim import Ports


def wait_until(condition: Callable[[], Any], timeout: float = 20.0) -> None:
    """Look until it is true: what is waited for is only in counters."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def shard(engine: Engine) -> dict[str, Any]:
    stats: dict[str, Any] = engine.stats()["shards"][0]
    return stats


def test_a_context_registers_and_hears_of_a_server_that_starts_later(
    make_ioc: IOCFactory, repeater: RepeaterProcess, point_at: Callable[..., dict[str, str]]
) -> None:
    ioc = make_ioc('record(ao, "LATE:value") { field(VAL, "4.25") field(PINI, "YES") }', start=False)
    point_at(ioc)
    with Engine() as engine:
        wait_until(lambda: shard(engine)["repeater"])
        (info,) = engine.connect(["LATE:value"], timeout=0.2)
        assert not info.connected
        before = shard(engine)["beacon_anomalies"]
        ioc.start()
        wait_until(lambda: shard(engine)["beacon_anomalies"] > before)
        assert engine.get("LATE:value").value == 4.25


def test_a_context_starts_a_repeater_where_there_is_none(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EPICS_CA_REPEATER_PORT", str(Ports.choose().repeater))
    # It ends by itself soon after its last client; the leak check of every test waits for that.
    monkeypatch.setenv("DAQCA_REPEATER_LINGER", "1")
    with Engine() as engine:
        wait_until(lambda: shard(engine)["repeater"])
        with Engine() as second:
            wait_until(lambda: shard(second)["repeater"])
    assert capfd.readouterr() == ("", "")
