"""The examples of the manual in Python 3, for tests: records of the names there, and what runs a session or a program.

The sessions are as in the manual but for these things: the prompt shows what a function returns, as Python does; the
motor and its fields ``.FOFF`` and ``.P1PA`` are records that every IOC has, which tell a limit of no alarm as NaN;
types are those of PyEpics 3.5, like ``time_double``; and who waits for a minute there waits here for what is to happen.

The modules that use the fixtures give them a name: ``bench, example_ioc = examples.bench, examples.example_ioc``.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import daqca
from daqca import Engine
from daqca.proxies.cache import cache
from daqca.sim import SoftIOC

from .engines import MakeEngine
from .ioc import IOCFactory, Servers, random_prefix
from .recording import eventually

MOTOR = """
record(ao, "{P}m1") {{
    field(DESC, "Motor 1") field(VAL, 1.2001) field(PINI, YES) field(PREC, 5) field(EGU, mm)
    field(DRVH, 12.5) field(DRVL, -12.3) field(HOPR, 12.5) field(LOPR, -12.3)
}}
record(ao, "{P}m3") {{
    field(VAL, 0.2) field(PINI, YES) field(PREC, 3) field(EGU, mm)
    field(DRVH, 5.49393415451) field(DRVL, -14.5060658455) field(HOPR, 5.49393415451) field(LOPR, -14.5060658455)
}}
record(ao, "{P}") {{ field(VAL, 1) field(PINI, YES) field(PREC, 3) }}
record(ao, "{P}Y") {{ field(VAL, 0) field(PINI, YES) }}
record(ao, "{P}Z") {{ field(VAL, 0) field(PINI, YES) }}
record(bo, "{P}m1:FOFF") {{ field(VAL, 1) field(PINI, YES) field(ZNAM, Variable) field(ONAM, Frozen) }}
record(waveform, "{P}scan1:P1PA") {{ field(FTVL, DOUBLE) field(NELM, 2000) }}
record(waveform, "{P}dir") {{ field(FTVL, CHAR) field(NELM, 256) }}
record(waveform, "{P}LargeWaveform") {{ field(FTVL, DOUBLE) field(NELM, 100000) }}
record(calc, "{P}DMM1Ch2_calc") {{ field(CALC, "VAL-0.0625") field(SCAN, ".1 second") field(PREC, 4) }}
record(bo, "{P}busy") {{ field(FLNK, "{P}delay") }}
record(seq, "{P}delay") {{
    field(SELM, Mask) field(SELL, "{P}busy.VAL") field(DLY1, 0.3) field(DO1, 0) field(LNK1, "{P}busy.VAL NPP")
}}
"""

DIRECTORY = r"T:\xas_user\March2010\Fastmap"


class Bench:
    """The records, and what runs the examples."""

    def __init__(self, ioc: SoftIOC, prefix: str):
        self.ioc = ioc
        self.prefix = prefix
        self.names: dict[str, Any] = {}

    def adapt(self, text: str) -> str:
        """An example with the names that the records have here."""
        for name in ("XXX:", "XXX.", "13IDA:", "xxx.", "XX:"):
            text = text.replace(name, self.prefix + ("" if name[-1] == ":" else "."))
        return re.sub(r"'(LargeWaveform|XXX|AAA|BBB|CCC|YYY|ZZZ)'", self._whole_name, text)

    def _whole_name(self, match: re.Match[str]) -> str:
        endings = {"LargeWaveform": "LargeWaveform", "YYY": "Y", "ZZZ": "Z", "BBB": "Y", "CCC": "Z"}
        return repr(self.prefix + endings.get(match[1], ""))

    def session(self, text: str) -> None:
        """Run a session at the prompt; what it shows must be what it says."""
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        test = doctest.DocTestParser().get_doctest(self.adapt(text), self.names, "example", None, None)
        assert test.examples
        wrong: list[str] = []
        doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=wrong.append, clear_globs=False)
        self.names = test.globs
        assert not wrong, "".join(wrong)

    def program(self, text: str, **names: Any) -> dict[str, Any]:
        """Run a program; returns its names."""
        self.names.update(names)
        exec(compile(self.adapt(text), "<example>", "exec"), self.names)
        return self.names


@pytest.fixture(scope="module")
def example_ioc(servers: Servers, repeater: Any) -> Iterator[tuple[SoftIOC, str]]:
    factory, prefix = IOCFactory(servers), random_prefix()
    yield factory(MOTOR.format(P=prefix)), prefix
    factory.stop()


def make_bench(ioc: SoftIOC, prefix: str, engine: Engine) -> Bench:
    values = {"m1": 1.2001, "m3": 0.2, "": 1.0, "Y": 0.0, "Z": 0.0, "m1:FOFF": 1, "dir": DIRECTORY}
    values["scan1:P1PA"] = np.linspace(-0.08, 2, 2000)
    result = engine.put_many([prefix + ending for ending in values], list(values.values()), wait=True, timeout=20)
    assert result.ok, result.failed
    eventually(lambda: engine.get(prefix + "busy").value == 0, "what another test began has ended")
    daqca.use_engine(engine)
    return Bench(ioc, prefix)


@pytest.fixture
def bench(example_ioc: tuple[SoftIOC, str], point_at: Callable[..., Any], make_engine: MakeEngine) -> Iterator[Bench]:
    """The records with their values of the beginning, and an engine of each mode."""
    point_at(example_ioc[0])
    yield make_bench(*example_ioc, make_engine())
    cache.clear()
    daqca.use_engine(None)


@pytest.fixture
def own_bench(make_ioc: IOCFactory, point_at: Callable[..., Any], make_engine: MakeEngine) -> Iterator[Bench]:
    """As ``bench``, with an IOC that the test may stop."""
    prefix = random_prefix()
    ioc = make_ioc(MOTOR.format(P=prefix))
    point_at(ioc)
    yield make_bench(ioc, prefix, make_engine())
    cache.clear()
    daqca.use_engine(None)
