"""Reading and writing many PVs by name, together. They are made no PV objects, and stay in no cache."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

import daqca.ca as ca
from daqca.ca.conversion import encode_value
from daqca.ca.lowlevel.putting import encode_states
from daqca.dbr import TIME_STRING, Name
from daqca.engine.default import default_engine
from daqca.engine.engine import Engine
from daqca.errors import ConfigurationError, ConversionError
from daqca.outcome import Outcome
from daqca.proxies.cache import name_of
from daqca.proxies.texts import value_text
from daqca.reading import data_value
from daqca.snapshot import Snapshot

log = logging.getLogger("daqca.pv")

CONNECTION_TIMEOUT = 5.0
PUT_TIMEOUT = 60.0
_ENUM, _STRING = 3, 0
_OUTCOMES = (Outcome.NEVER_FOUND, Outcome.OK, Outcome.DISCONNECTED)
"""Of the states of a channel."""
_UNCONNECTED = (Outcome.NEVER_FOUND, Outcome.DISCONNECTED)
_NAMED = 10
"""At most so many PVs are named in one line of the log."""


def caget_many(
    pvlist: Iterable[str],
    as_string: bool = False,
    as_numpy: bool = True,
    count: int | None = None,
    timeout: float | None = 1.0,
    connection_timeout: float | None = CONNECTION_TIMEOUT,
    conn_timeout: float | None = None,
) -> list[Any]:
    """The values of many PVs, read together.

    Parameters
    ----------
    pvlist
        The names; one may occur more than once.
    as_string, as_numpy, count
        As for `caget`.
    timeout
        Seconds for the values of all that are connected; None: 1.
    connection_timeout
        Seconds to wait before that until all are connected; only if some are missing so long is waited.
    conn_timeout
        The same, by its older name.

    Returns
    -------
    A value for each; None where it is not connected, or cannot be read, or there is no answer in time: which and why
    is logged in one line.
    """
    names, engine = _names_of(pvlist), default_engine()
    limit, seconds = connecting(connection_timeout, conn_timeout), seconds_of("timeout", timeout, 1.0)
    values: list[Any] = [None] * len(names)
    places, outcomes = _reach(engine, names, limit)
    if places:
        snapshot = engine.snapshot([names[i] for i in places], seconds, form="ctrl" if as_string else "time")
        is_utf8 = ca.IOENCODING == "utf-8"  # as snapshots are
        for number, (i, value, outcome) in enumerate(
            zip(places, snapshot.values, snapshot.outcome.tolist(), strict=True)
        ):
            outcomes[i] = Outcome(outcome)
            if outcomes[i] is Outcome.OK:
                value = value if is_utf8 else _in_encoding(snapshot, number, value)
                value = value[:count] if count and isinstance(value, np.ndarray) else value
                values[i] = _as_text(snapshot, number, value) if as_string else _plain(value, as_numpy)
    _say("caget_many", names, outcomes)
    return values


def caput_many(
    pvlist: Iterable[str],
    values: Sequence[Any] | np.ndarray[Any, Any],
    wait: bool | str | None = False,
    connection_timeout: float | None = CONNECTION_TIMEOUT,
    put_timeout: float | None = PUT_TIMEOUT,
) -> list[int | None]:
    """Write many PVs, in their order.

    Parameters
    ----------
    pvlist, values
        The names, and as many values.
    wait
        ``"each"``: write one when the one before is processed. ``"all"`` or True: write all, then wait until all are
        processed. False: wait for none.
    connection_timeout
        Seconds to wait until all are connected; those that are not are left out.
    put_timeout
        Seconds to wait until all, or with ``"each"`` each, are processed; None: 60.

    Returns
    -------
    For each: 1 if it was sent, or (with `wait`) processed; -1 if not, or if it cannot be written, or was not processed
    in time; None if it is not connected. What is not 1 is logged in one line, and why.
    """
    names, engine = _names_of(pvlist), default_engine()
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise TypeError(f"caput_many takes a list of values, and got {values!r:.200}")
    if len(values) != len(names):
        raise ConfigurationError(f"caput_many takes as many values as names, and got {len(values)} and {len(names)}")
    if wait not in ("each", "all", True, False, None):
        raise ConfigurationError(f"caput_many(wait={wait!r}): it is 'each', 'all' or False")
    limit, seconds = connecting(connection_timeout), seconds_of("put_timeout", put_timeout, PUT_TIMEOUT)
    places, outcomes = _reach(engine, names, limit)
    reasons: dict[str, str] = {}
    puts = _resolved(engine, names, {i: values[i] for i in places}, outcomes, reasons)
    groups = [[i] for i in puts] if wait == "each" else [list(puts)] if puts else []
    for group in groups:
        result = engine.put_many([names[i] for i in group], [puts[i] for i in group], bool(wait), seconds)
        for i, outcome in zip(group, result.outcome.tolist(), strict=True):
            outcomes[i] = Outcome(outcome)
        reasons.update(result.errors)
    _say("caput_many", names, outcomes, reasons)
    return [_status(outcome) for outcome in outcomes]


def _reach(engine: Engine, names: list[str], limit: float) -> tuple[list[int], list[Outcome]]:
    """The places of those names that are connected in time, and an outcome for each name, which is why not."""
    slots = engine.slots(names)
    engine.wait_connected(slots, limit)
    outcomes = [_OUTCOMES[state] for state in engine.table.state[slots]]
    return [i for i, outcome in enumerate(outcomes) if outcome is Outcome.OK], outcomes


def _as_text(snapshot: Snapshot, number: int, value: Any) -> str:
    """One value of a snapshot as `PV.get` gives its text."""
    metadata, native = snapshot.metadata, snapshot.native_type.item(number)
    known = metadata[number] if metadata is not None else None
    is_array = snapshot.native_count.item(number) > 1
    details = {} if known is None else {"precision": known.precision, "enum_strs": known.enum_strings}
    return value_text(value, native, Name(native + TIME_STRING).lower(), is_array, True, details)


def _in_encoding(snapshot: Snapshot, number: int, value: Any) -> Any:
    """One value of a snapshot, if it is text in the encoding ``ca.IOENCODING``."""
    dbr_type, count, data = snapshot.data.get(number, (None, 0, b""))
    if dbr_type != _STRING:
        return value
    return data_value(data, dbr_type, count, snapshot.native_count.item(number) > 1, ca.IOENCODING)


def _plain(value: Any, as_numpy: bool) -> Any:
    return value if not isinstance(value, np.ndarray) or (as_numpy and ca.HAS_NUMPY) else value.tolist()


def _resolved(
    engine: Engine, names: list[str], puts: dict[int, Any], outcomes: list[Outcome], reasons: dict[str, str]
) -> dict[int, Any]:
    """The values by their places; texts for enums were looked up among the states, and those that are none left out."""
    slots, table = engine.slots(names), engine.table
    texts = [i for i, value in puts.items() if table.native_type[slots[i]] == _ENUM and isinstance(value, (str, bytes))]
    if not texts:
        return puts
    columns = engine.snapshot([names[i] for i in texts], CONNECTION_TIMEOUT, form="ctrl")
    puts = dict(puts)
    for number, i in enumerate(texts):
        states = columns.reading(number).enum_strings if columns.ok[number] else None
        most = table.native_count.item(slots[i])
        try:
            encoded = encode_value(puts[i], _ENUM, most, names[i], ca.IOENCODING)
            if encoded[0] == _STRING:
                encoded = encode_states(puts[i], encoded, most, names[i], states, partial(_same, states))
        except ConversionError as error:
            outcomes[i], reasons[names[i]] = Outcome.BAD_VALUE, str(error)
            del puts[i]
            continue
        if encoded[0] == _ENUM:
            puts[i] = np.frombuffer(encoded[2], ">u2", encoded[1]).tolist()
    return puts


def _same(states: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return states


def _status(outcome: Outcome) -> int | None:
    if outcome in _UNCONNECTED:
        return None
    return 1 if outcome in (Outcome.OK, Outcome.SENT) else -1


def _say(operation: str, names: list[str], outcomes: list[Outcome], reasons: dict[str, str] | None = None) -> None:
    """Log which of many went wrong, and why."""
    bad = [
        (reasons or {}).get(name) or f"{name} ({outcome.text})"
        for name, outcome in zip(names, outcomes, strict=True)
        if outcome not in (Outcome.OK, Outcome.SENT)
    ]
    if bad:
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        log.warning("%s: %d of %d PVs failed: %s%s", operation, len(bad), len(names), "; ".join(bad[:_NAMED]), more)


# --- arguments ----------------------------------------------------------------------------------


def _names_of(pvlist: Iterable[str]) -> list[str]:
    if not isinstance(pvlist, Iterable):
        raise TypeError(f"expected a list of names, and got {pvlist!r}")
    if isinstance(pvlist, (str, bytes)):
        raise TypeError(f"expected a list of names, got the text {pvlist!r}; for one PV say [{pvlist!r}]")
    return [name_of(name) for name in pvlist]


def connecting(connection_timeout: float | None, conn_timeout: float | None = None) -> float:
    """The seconds to wait for connections."""
    if conn_timeout is not None:
        return seconds_of("conn_timeout", conn_timeout, CONNECTION_TIMEOUT)
    return seconds_of("connection_timeout", connection_timeout, CONNECTION_TIMEOUT)


def seconds_of(what: str, seconds: float | None, default: float) -> float:
    """A time to wait, or an error that says which one is wrong."""
    if seconds is None:
        return default
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float, np.number)):
        raise TypeError(f"{what}={seconds!r}: expected a number of seconds")
    if not seconds >= 0:
        raise ConfigurationError(f"{what}={seconds!r}: expected seconds, 0 or more")
    return float(seconds)
