"""Servers that are not EPICS base's own: caproto, pcaspy and pythonSoftIOC, each with the same PVs.

Each is a process of its own, as the IOCs are; the programs are in ``servers/``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from daqca.sim import Ports, ServerProcess

KINDS = ("caproto", "pcaspy", "softioc")
# By the end of the name: ``<prefix>double`` and so on. Of the enum its value and states; the waveform has room for 16.
VALUES = {
    "double": 1.5,
    "long": -123456,
    "enum": (2, ("zero", "one", "two")),
    "string": "hello",
    "char": 200,
    "waveform": [0.5, 1.5, 2.5],
    "longstring": "a text that does not fit into the forty characters of a string PV",
}


class OtherServer(ServerProcess):
    """One of the servers of ``KINDS``, with the PVs of ``VALUES``."""

    def __init__(self, kind: str, prefix: str, ports: Ports | None = None):
        self.kind = kind
        self.prefix = prefix
        program = Path(__file__).parent / "servers" / f"{kind}_server.py"
        settings = {"prefix": prefix, "values": VALUES}
        super().__init__((sys.executable, str(program)), settings, f"{prefix}long", ports=ports)

    def name(self, ending: str) -> str:
        return self.prefix + ending
