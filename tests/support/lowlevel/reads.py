"""Calls that read: every record, as every type, in every form; their metadata; reads that wait for nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .database import READ
from .lab import Call, Lab, fresh, number_of

TYPES = ("STRING", "INT", "FLOAT", "ENUM", "CHAR", "LONG", "DOUBLE")
FTYPES: tuple[str | None, ...] = (
    *(None, *TYPES),
    *(f"TIME_{name}" for name in TYPES),
    *(f"CTRL_{name}" for name in TYPES),
)
_FORMS: tuple[tuple[str, dict[str, bool]], ...] = (
    ("", {}),
    ("/as_string", {"as_string": True}),
    ("/no_numpy", {"as_numpy": False}),
)
_VARIABLES = (*("get_ctrlvars", "get_timevars", "get_timestamp", "get_severity", "get_precision", "get_enum_strings"),)


def number_of_type(lab: Lab, ftype: str | None) -> Any:
    """Return the number of a type."""
    return None if ftype is None else getattr(lab.dbr, ftype)


def types_and_forms(lab: Lab) -> Iterator[Call]:
    """``get`` of every record as every type, with every count and form."""

    def get(ending: str, ftype: str | None, **options: Any) -> Any:
        return lab.ca.get(lab.read(ending), ftype=number_of_type(lab, ftype), **options)

    for ending in READ:
        for ftype in FTYPES:
            for count in (None, 1, 3, 100):
                for form, options in _FORMS:
                    name = f"get/{ending}/{ftype}/count={count}{form}"
                    yield name, partial(get, ending, ftype, count=count, **options)


def odd_requests(lab: Lab) -> Iterator[Call]:
    """``get`` with arguments that few give."""
    ca, read = lab.ca, lab.read
    for ftype in (7, 21, 27, 35, 38, 39, 99, -1, -2, "6", 6.0, None):
        yield f"get/ftype {ftype!r}", lambda ftype=ftype: ca.get(read("ai"), ftype=ftype, timeout=0.3)
    for count in (0, -1, 2, 8, 2**31, 2**40, "3", 3.0):
        yield f"get/count {count!r}", lambda count=count: ca.get(read("wf:double"), count=count, timeout=0.3)
        yield f"get/scalar/count {count!r}", lambda count=count: ca.get(read("ai"), count=count, timeout=0.3)
    yield "get/by number", lambda: ca.get(number_of(read("ai")))
    yield "get/by keyword", lambda: ca.get(chid=read("ai"))
    yield "get/positional", lambda: ca.get(read("wf:double"), lab.dbr.LONG, 2, True, 1.0, False, False)
    for ending in ("large", "text"):
        for form, options in _FORMS:
            for count in (None, 10, 69_999):
                yield (
                    f"get/{ending}/{count}{form}",
                    partial(lambda e, **o: ca.get(read(e), **o), ending, count=count, **options),
                )
    # Often, so that what is kept of an answer for the next one is seen.
    yield "get/twice", lambda: [ca.get(read("ai")) for _ in range(3)]
    yield "get/own array", lambda: ca.get(read("full")) is not ca.get(read("full"))
    yield "get/array kept", lambda: _kept(lab)


def _kept(lab: Lab) -> Any:
    first = lab.ca.get(lab.read("full"))
    first[0] = 99.0
    return [first, lab.ca.get(lab.read("full"))]


def metadata(lab: Lab) -> Iterator[Call]:
    """The metadata of every record, by all functions that give some."""
    ca = lab.ca
    for ending in READ:
        for ftype in FTYPES:
            yield (
                f"get_with_metadata/{ending}/{ftype}",
                lambda e=ending, f=ftype: ca.get_with_metadata(lab.read(e), ftype=number_of_type(lab, f)),
            )
        for function in _VARIABLES:
            yield f"{function}/{ending}", lambda e=ending, f=function: getattr(ca, f)(lab.read(e))
    for function in ("get_ctrlvars", "get_timevars"):
        yield f"{function}/options", lambda f=function: getattr(ca, f)(lab.read("ai"), timeout=2.0, warn=False)
        yield f"{function}/by number", lambda f=function: getattr(ca, f)(number_of(lab.read("ai")))
    yield "get_with_metadata/as_string", lambda: ca.get_with_metadata(lab.read("text"), as_string=True)
    yield "get_with_metadata/no wait", lambda: ca.get_with_metadata(lab.read("ai"), wait=False)
    yield "get_with_metadata/fresh", lambda: _written_now(lab)


def _written_now(lab: Lab) -> Any:
    chid = lab.written("ao")
    lab.ca.put(chid, 2.25, wait=True)
    found = lab.ca.get_with_metadata(chid, ftype=lab.dbr.TIME_DOUBLE)
    total = found["posixseconds"] + found["nanoseconds"] * 1e-9
    return {**fresh(found), "agree": abs(found["timestamp"] - total) < 2e-6}


def incomplete(lab: Lab) -> Iterator[Call]:
    """Reads that do not wait, and what completes them."""
    ca, dbr, read = lab.ca, lab.dbr, lab.read

    def begin_and_complete(ending: str, first: dict[str, Any], then: dict[str, Any]) -> Any:
        chid = read(ending)
        begun = ca.get(chid, wait=False, **first)
        ca.poll(evt=0.02)
        found = {"begun": begun, "complete": ca.get_complete(chid, **then), "again": ca.get_complete(chid, **then)}
        return {**found, "next": ca.get(chid, **first)}

    options: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("plain", {}, {}),
        ("as_string", {}, {"as_string": True}),
        ("no_numpy", {}, {"as_numpy": False}),
        ("count", {"count": 3}, {"count": 3}),
        ("fewer", {}, {"count": 2}),
        ("more", {"count": 2}, {"count": 5}),
        ("time", {"ftype": dbr.TIME_STRING}, {"ftype": dbr.TIME_STRING}),
        ("timeout", {}, {"timeout": 2.0}),
    )
    for ending in ("ai", "mbbi", "stringin", "wf:double", "wf:string", "text", "empty:double", "one:short", "large"):
        for name, first, then in options:
            yield f"get_complete/{ending}/{name}", partial(begin_and_complete, ending, first, then)
    for ending in ("ai", "wf:double", "text"):
        yield f"get_complete/{ending}/metadata", lambda e=ending: _complete_metadata(lab, e)
        yield f"get_complete/{ending}/without get", partial(_alone, lab, ending, lambda chid: ca.get_complete(chid))
        yield (
            f"get_complete/{ending}/after get",
            partial(_alone, lab, ending, lambda chid: [ca.get(chid), ca.get_complete(chid)]),
        )
        yield (
            f"get_complete/{ending}/of another type",
            partial(_alone, lab, ending, lambda c: [ca.get(c, wait=False), ca.get_complete(c, ftype=dbr.TIME_LONG)]),
        )
        yield (
            f"get_complete/{ending}/begun twice",
            partial(_alone, lab, ending, lambda c: [ca.get(c, wait=False), ca.get(c, wait=False), ca.get_complete(c)]),
        )
        yield (
            f"get_complete/{ending}/waited for by get",
            partial(_alone, lab, ending, lambda c: [ca.get(c, wait=False), ca.get(c), ca.get_complete(c)]),
        )
    yield "get_complete/stale", lambda: _stale(lab)
    yield "get_complete/many", lambda: _many(lab)


def _alone(lab: Lab, ending: str, call: Callable[[Any], Any]) -> Any:
    """Make a call with a channel that nothing has been read from."""
    return call(lab.anew(ending))


def _complete_metadata(lab: Lab, ending: str) -> Any:
    chid = lab.read(ending)
    lab.ca.get_with_metadata(chid, ftype=lab.dbr.TIME_DOUBLE, wait=False)
    return lab.ca.get_complete_with_metadata(chid, ftype=lab.dbr.TIME_DOUBLE)


def _stale(lab: Lab) -> Any:
    """What ``get_complete`` says after a get has been completed and the value has changed."""
    chid = lab.written("ao")
    lab.ca.put(chid, 1.0, wait=True)
    lab.ca.get(chid, wait=False)
    time.sleep(0.05)
    lab.ca.put(chid, 2.0, wait=True)
    first = lab.ca.get_complete(chid)
    return {"first": first, "second": lab.ca.get_complete(chid), "get": lab.ca.get(chid)}


def _many(lab: Lab) -> Any:
    """The fast way of the manual to read many PVs, chapter 10.2."""
    names = [lab.shared + ending for ending in READ]
    chids = [lab.ca.create_channel(name, connect=False, auto_cb=False) for name in names]
    for chid in chids:
        lab.ca.connect_channel(chid)
    lab.ca.poll()
    for chid in chids:
        lab.ca.get(chid, wait=False)
    lab.ca.poll()
    return [lab.ca.get_complete(chid) for chid in chids]


SECTIONS = (types_and_forms, metadata, incomplete)
ALONE = (odd_requests,)
