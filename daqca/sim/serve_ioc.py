"""The soft IOC process: ``python -m daqca.sim.serve_ioc``, settings on stdin (see ``SoftIOC``).

EPICS base's database and Channel Access server, from ``epicscorelibs``; no PV Access, which would open more ports.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Sequence

from .lifeline import adopt

# Identifier and string of each choice as base has them: it refuses a menu that begins otherwise.
_STANDARD_SCANS = (
    ("menuScanPassive", "Passive"),
    ("menuScanEvent", "Event"),
    ("menuScanI_O_Intr", "I/O Intr"),
    ("menuScan10_second", "10 second"),
    ("menuScan5_second", "5 second"),
    ("menuScan2_second", "2 second"),
    ("menuScan1_second", "1 second"),
    ("menuScan_5_second", ".5 second"),
    ("menuScan_2_second", ".2 second"),
    ("menuScan_1_second", ".1 second"),
)


def scan_menu(rates_hz: Sequence[float]) -> str:
    """Return a database definition that offers ``SCAN`` at ``"<rate> Hz"`` beside the standard periods."""
    extra = ((f"menuScanExtra{index}", f"{rate:g} Hz") for index, rate in enumerate(rates_hz))
    lines = [f'    choice({identifier}, "{choice}")' for identifier, choice in (*_STANDARD_SCANS, *extra)]
    return "menu(menuScan) {\n" + "\n".join(lines) + "\n}\n"


def main() -> None:
    """Load the database and serve it until the parent goes away."""
    settings = adopt()
    # Imported here: loading EPICS reads the environment, and takes its time.
    from epicscorelibs import ioc

    def load(text: str, function: str) -> None:
        with tempfile.NamedTemporaryFile("w", prefix="daqca-sim-", suffix=".db", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            macros = (None,) if function == "dbLoadDatabase" else ()
            if getattr(ioc, function)(file.name.encode(), b"", *(macros or ())):
                sys.exit(f"{function} failed: see the message above")

    # Base hashes record names into 512 lists by default: slow to load, and to search, from some thousands on.
    ioc.dbCore.dbPvdTableSize(65536)
    ioc.iocshRegisterCommon()
    # The first definition of a menu wins, so this one comes before base's.
    load(scan_menu(settings["scan_rates_hz"]), "dbLoadDatabase")
    if ioc.dbLoadDatabase(b"base.dbd", ioc.DEFAULT_DBD_PATH.encode(), None):
        sys.exit("cannot load base.dbd")
    if ioc.registerRecordDeviceDriver(ioc.pdbbase):
        sys.exit("cannot register the record types of EPICS base")
    load(settings["database"], "dbLoadRecords")
    with tempfile.NamedTemporaryFile("w", prefix="daqca-sim-", suffix=".acf", encoding="utf-8") as rules:
        if settings["access_security"]:
            rules.write(settings["access_security"])
            rules.flush()
            ioc.dbCore.asSetFilename(rules.name.encode())
        if ioc.iocInit():
            sys.exit("iocInit failed: see the message above")
    threading.Event().wait()


if __name__ == "__main__":
    main()
