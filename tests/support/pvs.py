"""PV objects for tests."""

from __future__ import annotations

from typing import Any

from daqca.pv_proxy import PV


def made(name: str, **options: Any) -> PV:
    """Return a PV that is connected."""
    pv = PV(name, **options)
    assert pv.wait_for_connection(20), name
    return pv
