"""The low-level interface for a test, and the records that its tests read and write.

The modules that use the fixtures give them a name: ``ca, records = ca_records.ca, ca_records.records``.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from daqca import ca as _ca
from daqca.sim import SoftIOC

from .ioc import IOCFactory, Servers, random_prefix

OPTIONS = (
    "AUTOMONITOR_MAXLENGTH",
    "DEFAULT_CONNECTION_TIMEOUT",
    "DEFAULT_SUBSCRIPTION_MASK",
    "HAS_NUMPY",
    "IOENCODING",
    "PREEMPTIVE_CALLBACK",
)
SLOW_S = 0.6
"""A put of 1 to the record ``slow`` takes so long to process."""
TEXT = "More than the forty characters that a string of EPICS can have."
STATES = ("Idle", "Run", "Wait for ever")
LIMITS = {
    "upper_disp_limit": 100,
    "lower_disp_limit": -100,
    "upper_alarm_limit": 90,
    "upper_warning_limit": 80,
    "lower_warning_limit": -80,
    "lower_alarm_limit": -90,
    "upper_ctrl_limit": 50,
    "lower_ctrl_limit": -50,
}
"""Of ``double`` and ``long``."""

_LIMITS = {"HOPR": 100, "LOPR": -100, "HIHI": 90, "HIGH": 80, "LOW": -80, "LOLO": -90, "DRVH": 50, "DRVL": -50}
_SEVERITIES = {"HHSV": "MAJOR", "HSV": "MINOR", "LSV": "MINOR", "LLSV": "MAJOR"}
_STATES = dict(zip(("ZRST", "ONST", "TWST"), STATES, strict=True))
_ARRAYS = {
    "doubles": ("DOUBLE", "[1.5, -2.5, 1e300]"),
    "floats": ("FLOAT", "[1.5, -2.5, 0.25]"),
    "longs": ("LONG", "[-2147483648, 0, 2147483647]"),
    "shorts": ("SHORT", "[-32768, 0, 32767]"),
    "chars": ("UCHAR", "[0, 127, 255]"),
    "enums": ("ENUM", "[0, 1, 65535]"),
    "strings": ("STRING", '["one", "", " three "]'),
}
_ONES = {
    "one:double": ("DOUBLE", "[4.5]"),
    "one:float": ("FLOAT", "[4.5]"),
    "one:short": ("SHORT", "[-3]"),
    "one:char": ("UCHAR", "[200]"),
    "one:string": ("STRING", '["only"]'),
}
_EMPTY = {"no:doubles": "DOUBLE", "no:chars": "CHAR", "no:strings": "STRING", "no:enums": "ENUM"}


def _record(kind: str, name: str, **fields: object) -> str:
    # JSON for the constants of arrays, and texts for all else.
    texts = [
        f"field({key}, {value})" if str(value)[:1] == "[" else f'field({key}, "{value}")'
        for key, value in fields.items()
    ]
    return f'record({kind}, "{name}") {{ {" ".join(texts)} }}'


def database(p: str) -> str:
    """Return all records; arrays have room for 8, and 3 elements in them, or are called ``one``, ``no`` or ``full``."""

    def waveform(name: str, ftvl: str, nelm: int, contents: str = "", **fields: object) -> str:
        more = {"INP": contents} if contents else {}
        return _record("waveform", p + name, PINI="YES", FTVL=ftvl, NELM=nelm, **more, **fields)

    slow = f"{p}slow.VAL"
    return "\n".join(
        (
            _record("ao", p + "double", PINI="YES", VAL=1.5, PREC=3, EGU="mm", **_LIMITS, **_SEVERITIES),
            _record("ao", p + "free", PINI="YES", VAL=0),
            _record("longout", p + "long", PINI="YES", VAL=7, EGU="µs", **_LIMITS, **_SEVERITIES),
            _record("longout", p + "count", PINI="YES", VAL=0),
            _record("mbbo", p + "enum", PINI="YES", VAL=2, TWSV="MAJOR", **_STATES),
            _record("mbbi", p + "stateless", PINI="YES", VAL=1),
            _record("stringout", p + "string", PINI="YES", VAL="a string"),
            _record("ai", p + "alarmed", PINI="YES", VAL=95, HIHI=90, HHSV="MAJOR"),
            _record("ao", p + "disabled", PINI="YES", VAL=7, DISP=1),
            # A put of 1 with completion ends after the delay, when it is 0 again.
            _record("bo", p + "slow", ZNAM="Done", ONAM="Busy", FLNK=p + "delay"),
            _record("seq", p + "delay", SELM="Mask", SELL=slow, DLY1=SLOW_S, DO1=0, LNK1=f"{slow} NPP"),
            *(waveform(name, ftvl, 8, contents, PREC=2, EGU="V") for name, (ftvl, contents) in _ARRAYS.items()),
            *(waveform(name, ftvl, 1, contents) for name, (ftvl, contents) in _ONES.items()),
            *(waveform(name, ftvl, 8) for name, ftvl in _EMPTY.items()),
            waveform("full", "DOUBLE", 3, "[1.0, 2.0, 3.0]"),
            waveform("text", "CHAR", 100),
            waveform("large", "DOUBLE", 200_000),
        )
    )


class Records:
    """A soft IOC with these records, and their names."""

    def __init__(self, ioc: SoftIOC, prefix: str):
        self.ioc = ioc
        self.prefix = prefix

    def __call__(self, ending: str) -> str:
        """Return the name of a record."""
        return self.prefix + ending


@pytest.fixture(scope="module")
def record_server(servers: Servers, repeater: Any) -> Iterator[Records]:
    """An IOC with these records, for a module."""
    factory, prefix = IOCFactory(servers), random_prefix()
    yield Records(factory(database(prefix)), prefix)
    factory.stop()


@pytest.fixture
def records(record_server: Records, point_at: Callable[..., Any]) -> Records:
    """The records of the module; the environment leads to them."""
    point_at(record_server.ioc)
    return record_server


@pytest.fixture
def own_records(make_ioc: IOCFactory, point_at: Callable[..., Any]) -> Records:
    """The same records on an IOC that the test may stop."""
    prefix = random_prefix()
    ioc = make_ioc(database(prefix))
    point_at(ioc)
    return Records(ioc, prefix)


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The low-level interface; all is ended after the test, and the options are as they were."""
    for name in OPTIONS:
        monkeypatch.setattr(_ca, name, getattr(_ca, name))
    yield _ca
    _ca.finalize_libca()


def connected(name: str) -> Any:
    """Return the chid of a channel that is connected."""
    chid = _ca.create_channel(name)
    assert _ca.connect_channel(chid, timeout=20), name
    return chid


def nothing_under_way(chid: Any) -> bool:
    """Whether nothing is left of the requests of a channel's context, nor of the channel itself, if it is cleared."""
    client = chid.client
    shard = client.context.shard
    with client.lock:
        return (
            not len(client.operations)
            and (client.is_closed or not shard.requests.kind.any())
            and not (chid.gets or chid.puts or chid.unanswered)
            and (not chid.is_cleared or (chid.pvname not in client.channels and chid.slot not in client._by_slot))
        )


def is_read_by_who_waits(chid: Any) -> bool:
    """Whether a thread that waits for an answer, and not the I/O thread, reads the circuit of a channel's context."""
    (link,) = chid.client.context._links.values()
    return not link.mask & select.EPOLLIN
