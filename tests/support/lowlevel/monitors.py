"""Calls about subscriptions: what the callbacks are given, first and after a change, and how they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .database import READ
from .lab import Call, Lab, fresh
from .reads import FTYPES, number_of_type

_FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "time": {"use_time": True},
    "ctrl": {"use_ctrl": True},
    "both": {"use_time": True, "use_ctrl": True},
    "count 1": {"count": 1},
    "count 3": {"count": 3, "use_time": True},
    "count 8": {"count": 8},
}


class Seen:
    """A callback that keeps what it is given."""

    def __init__(self, lab: Lab, chid: Any):
        self.calls: list[dict[str, Any]] = []
        self._lab = lab
        self._chid = chid

    def __call__(self, **given: Any) -> None:
        self.calls.append(given)

    def wait(self, number: int) -> bool:
        return self._lab.wait(lambda: len(self.calls) >= number)

    def told(self, index: int, now: bool = False) -> Any:
        """Return what a call of the callback was given, sorted by name; with times that are now told as that."""
        if index >= len(self.calls):
            return "no call"
        given = self._lab.kwargs(self._chid, dict(sorted(self.calls[index].items())))
        return fresh(given) if now else given


def first(lab: Lab) -> Iterator[Call]:
    """The first call of the callback, for every record and form."""
    for ending in READ:
        for form, options in _FORMS.items():
            yield f"create_subscription/{ending}/{form}", partial(_first, lab, ending, **options)
    for ending in ("ai", "mbbi", "stringout", "wf:double", "text"):
        for ftype in FTYPES[1:]:
            yield f"create_subscription/{ending}/ftype {ftype}", partial(_first_as, lab, ending, ftype)
    yield "create_subscription/stringin/ftype DOUBLE", partial(_first_as, lab, "stringin", "DOUBLE")
    for ftype in ("STRING", "DOUBLE", "TIME_DOUBLE"):
        for form in ("time", "ctrl"):
            yield (
                f"create_subscription/ai/ftype {ftype}/{form}",
                partial(_first_as, lab, "ai", ftype, **_FORMS[form]),
            )


def _first(lab: Lab, ending: str, **options: Any) -> Any:
    """The first call, or that there is none: PyEpics never calls for an array without elements, for one."""
    chid, other = lab.read(ending), lab.read("calc")
    seen, end = Seen(lab, chid), Seen(lab, other)
    kept = [lab.ca.create_subscription(chid, callback=seen, **options)]
    # A server sends the first events in the order of the subscriptions: after this one nothing is to come.
    kept.append(lab.ca.create_subscription(other, callback=end))
    lab.wait(lambda: seen.calls or end.calls)
    if not seen.calls:
        time.sleep(0.05)
    for one in kept:
        lab.ca.clear_subscription(one[2])
    return seen.told(0)


def _first_as(lab: Lab, ending: str, ftype: str, **options: Any) -> Any:
    return _first(lab, ending, ftype=number_of_type(lab, ftype), **options)


def changes(lab: Lab) -> Iterator[Call]:
    """The calls after puts, and the options."""
    values = {
        "ao": 3.5,
        "longout": 33,
        "bo": 1,
        "mbbo": 2,
        "stringout": "changed",
        "ao.DESC": "described",
        "wf:double": [4.0, 3.0],
        "wf:char": [1, 2, 3],
        "wf:string": ["one", "two"],
        "text": "changed",
        "one:short": 5,
        "wf:enum": [3, 1],
        "ao.PREC": 5,
        "lso.VAL$": "changed",
        "int64out": 77,
    }
    for ending, value in values.items():
        for form in ("plain", "time", "ctrl"):
            yield f"create_subscription/{ending}/{form}/change", partial(_change, lab, ending, value, _FORMS[form])
    dbr = lab.dbr
    masks = {
        "value": dbr.DBE_VALUE,
        "log": dbr.DBE_LOG,
        "alarm": dbr.DBE_ALARM,
        "value and log": dbr.DBE_VALUE | dbr.DBE_LOG,
        "property": dbr.DBE_PROPERTY,
        "all": 15,
        "0": 0,
        "None": None,
    }
    for name, mask in masks.items():
        yield f"create_subscription/mask {name}", partial(_masked, lab, mask=mask)
    yield "create_subscription/default mask", lambda: _default_mask(lab)
    for mask in (16, -1, 2**20, "1"):
        yield f"create_subscription/mask {mask!r}", partial(_first, lab, "ai", mask=mask)
    for ftype in (-1, 7, 99, "6"):
        yield f"create_subscription/ftype {ftype!r}", lambda f=ftype: len(_bare(lab, ftype=f))
    for count in (-1, 100, "3"):
        yield f"create_subscription/count {count!r}", lambda c=count: len(_bare(lab, count=c))
    yield "create_subscription/callback that fails", lambda: _failing(lab)
    yield "create_subscription/several", lambda: _several(lab)
    yield "create_subscription/callback that gets", lambda: _reading_callback(lab)
    yield "create_subscription/order", lambda: _order(lab)
    yield "create_subscription/own array", lambda: _own_array(lab)


def _change(lab: Lab, ending: str, value: Any, options: dict[str, Any]) -> Any:
    chid = lab.written(ending)
    text = ending in ("text", "lso.VAL$")
    if text:
        lab.ca.put(chid, "before", wait=True)
    before = "before" if text else lab.ca.get(chid)
    seen = Seen(lab, chid)
    kept = lab.ca.create_subscription(chid, callback=seen, **options)
    seen.wait(1)
    lab.ca.put(chid, value, wait=True)
    seen.wait(2)
    cleared = lab.ca.clear_subscription(kept[2])
    # Back again, for the next form to see a change.
    lab.ca.put(chid, before, wait=True)
    return {"change": seen.told(1, now=True), "cleared": cleared}


def _masked(lab: Lab, **options: Any) -> Any:
    """What a subscription says of: nothing new, a change, a change with an alarm, a change of a property."""
    chid, limit = lab.written("ao"), lab.written("ao.HIGH")
    lab.ca.put(chid, 1.0, wait=True)
    lab.ca.put(limit, 10.0, wait=True)
    seen, end = Seen(lab, chid), Seen(lab, chid)
    kept = lab.ca.create_subscription(chid, callback=seen, use_time=True, **options)
    other = lab.ca.create_subscription(chid, callback=end, mask=lab.dbr.DBE_VALUE | lab.dbr.DBE_ALARM)
    end.wait(1)
    for value in (1.0, 2.0, 50.0):
        lab.ca.put(chid, value, wait=True)
    lab.ca.put(limit, 60.0, wait=True)
    lab.ca.put(chid, 3.0, wait=True)
    # Events of one PV come in order: what the first subscription has to say before the last value is here then.
    lab.wait(lambda: end.calls[-1]["value"] == 3.0)
    time.sleep(0.02)
    lab.ca.clear_subscription(kept[2])
    lab.ca.clear_subscription(other[2])
    return [f"{given['value']} severity {given['severity']}" for given in seen.calls]


def _default_mask(lab: Lab) -> Any:
    default = lab.ca.DEFAULT_SUBSCRIPTION_MASK
    lab.ca.DEFAULT_SUBSCRIPTION_MASK = lab.dbr.DBE_ALARM
    try:
        return {"default": default, "events": _masked(lab)}
    finally:
        lab.ca.DEFAULT_SUBSCRIPTION_MASK = default


def _bare(lab: Lab, **options: Any) -> Any:
    chid = lab.read("wf:double")
    kept = lab.ca.create_subscription(chid, callback=Seen(lab, chid), **options)
    lab.ca.clear_subscription(kept[2])
    return kept


def _failing(lab: Lab) -> Any:
    """A callback that fails is called again."""
    chid = lab.written("longout")
    seen: list[Any] = []

    def fail(value: Any, **_given: Any) -> None:
        seen.append(value)
        raise ValueError("on purpose")

    kept = lab.ca.create_subscription(chid, callback=fail)
    for value in (40, 41):
        lab.ca.put(chid, value, wait=True)
    lab.wait(lambda: 41 in seen)
    lab.ca.clear_subscription(kept[2])
    return seen[-2:]


def _several(lab: Lab) -> Any:
    """Several subscriptions of one channel: each has its own type, and ends alone."""
    chid = lab.written("ao")
    seen = [Seen(lab, chid) for _ in range(3)]
    forms: tuple[dict[str, Any], ...] = ({}, {"use_time": True}, {"ftype": lab.dbr.STRING})
    kept = [lab.ca.create_subscription(chid, callback=one, **form) for one, form in zip(seen, forms, strict=True)]
    for one in seen:
        one.wait(1)
    statuses = [lab.ca.clear_subscription(kept[1][2])]
    count = len(seen[1].calls)
    lab.ca.put(chid, 8.25, wait=True)
    seen[0].wait(2)
    seen[2].wait(2)
    time.sleep(0.02)
    statuses += [lab.ca.clear_subscription(kept[0][2]), lab.ca.clear_subscription(kept[2][2])]
    return {
        "statuses": statuses,
        "values": [seen[0].calls[-1]["value"], seen[2].calls[-1]["value"]],
        "after the end": len(seen[1].calls) - count,
    }


def _reading_callback(lab: Lab) -> Any:
    """What a callback may do in spite of the manual: things that need no network."""
    chid = lab.read("ai")
    seen: list[Any] = []

    def read(**given: Any) -> None:
        seen.append([lab.ca.field_type(chid), lab.ca.isConnected(chid), lab.plain_name(lab.ca.name(given["chid"]))])

    kept = lab.ca.create_subscription(chid, callback=read)
    lab.wait(lambda: seen)
    lab.ca.clear_subscription(kept[2])
    return seen


def _order(lab: Lab) -> Any:
    chid = lab.written("longout")
    seen = Seen(lab, chid)
    lab.ca.put(chid, -1, wait=True)
    kept = lab.ca.create_subscription(chid, callback=seen)
    seen.wait(1)
    for value in range(30):
        lab.ca.put(chid, value, wait=True)
    lab.wait(lambda: seen.calls[-1]["value"] == 29)
    lab.ca.clear_subscription(kept[2])
    values = [given["value"] for given in seen.calls]
    return [values == sorted(values), values[0], values[-1]]


def _own_array(lab: Lab) -> Any:
    """What a callback changes in an array, the next one and the other subscription do not see."""
    chid = lab.written("wf:double")
    lab.ca.put(chid, [1.0, 2.0], wait=True)
    seen = [Seen(lab, chid), Seen(lab, chid)]
    kept = [lab.ca.create_subscription(chid, callback=one) for one in seen]
    for one in seen:
        one.wait(1)
    seen[0].calls[0]["value"][0] = 99.0
    found = [seen[1].calls[0]["value"], lab.ca.get(chid)]
    for one in kept:
        lab.ca.clear_subscription(one[2])
    return found


def ends(lab: Lab) -> Iterator[Call]:
    """How subscriptions end, and what is no subscription."""
    ca = lab.ca

    def made(ending: str = "ai", **options: Any) -> Any:
        chid = lab.read(ending)
        seen = Seen(lab, chid)
        kept = ca.create_subscription(chid, callback=seen, **options)
        seen.wait(1)
        return kept

    def after_clear(call: Callable[[Any], Any]) -> Any:
        kept = made()
        ca.clear_channel(lab.read("ai"))
        return call(kept)

    yield "create_subscription/returns", lambda: len(made())
    yield "create_subscription/no callback", lambda: len(ca.create_subscription(lab.read("ai")))
    yield (
        "create_subscription/callback not callable",
        lambda: len(ca.create_subscription(lab.read("ai"), callback="no")),
    )
    yield (
        "create_subscription/positional",
        lambda: len(ca.create_subscription(lab.read("ai"), True, False, None, 5, print)),
    )
    yield "clear_subscription", lambda: ca.clear_subscription(made()[2])
    yield (
        "clear_subscription/twice",
        lambda: [ca.clear_subscription((kept := made())[2]), ca.clear_subscription(kept[2])],
    )
    yield "clear_subscription/its number", lambda: ca.clear_subscription(made()[2].value)
    yield "clear_subscription/after clear_channel", lambda: after_clear(lambda kept: ca.clear_subscription(kept[2]))
    yield "clear_channel/with a subscription", lambda: (made(), ca.clear_channel(lab.read("ai")))[1]
    for name, value in {"None": None, "0": 0, "1": 1, "text": "text", "the tuple": ()}.items():
        yield f"clear_subscription/rubbish/{name}", lambda v=value: (lab.read("ai"), ca.clear_subscription(v))[1]
    yield "clear_subscription/rubbish/chid", lambda: ca.clear_subscription(lab.read("ai"))


SECTIONS = (first, changes)
ALONE = (ends,)
