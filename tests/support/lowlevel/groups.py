"""Calls about synchronous groups. PyEpics fills the memory of a get after it has let go of it: each is alone here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .describe import kind
from .lab import Call, Lab


def groups(lab: Lab) -> Iterator[Call]:
    """Groups, their gets and puts."""
    ca = lab.ca

    yield "sg_create", lambda: kind(getattr(ca.sg_create(), "value", None))
    yield "sg_delete", lambda: ca.sg_delete(ca.sg_create())
    yield "sg_delete/twice", lambda: [ca.sg_delete(group := ca.sg_create()), ca.sg_delete(group)]
    for function in ("sg_test", "sg_block", "sg_reset"):
        yield f"{function}/empty", lambda f=function: getattr(ca, f)(ca.sg_create())
        yield f"{function}/deleted", lambda f=function: _deleted(lab, getattr(ca, f))
        for name, value in {"None": None, "0": 0, "99": 99, "text": "text"}.items():
            yield f"{function}/rubbish/{name}", lambda f=function, v=value: (lab.read("ai"), getattr(ca, f)(v))[1]
    yield "sg_block/timeout", lambda: ca.sg_block(ca.sg_create(), timeout=0.1)
    for ending in ("ai", "longin", "mbbi", "stringin", "wf:double", "wf:string", "text"):
        for name, options in _GET_FORMS.items():
            yield f"sg_get/{ending}/{name}", partial(_get_type, lab, ending, **options)
        yield f"sg_get/{ending}/unpacked", partial(_get_unpacked, lab, ending)
    yield "sg_get/missing", lambda: _with_group(lab, lambda group: ca.sg_get(group, ca.create_channel("missing")))
    for name, chid in {"None": None, "1": 1, "text": "text"}.items():
        yield f"sg_get/rubbish/{name}", lambda c=chid: _with_group(lab, lambda group: ca.sg_get(group, c))
        yield f"sg_put/rubbish/{name}", lambda c=chid: _with_group(lab, lambda group: ca.sg_put(group, c, 1))
    for ending, value in _PUTS:
        yield f"sg_put/{ending}/{value!r}", partial(_put, lab, ending, value)
    yield "sg_put/several", lambda: _put_several(lab)
    yield "sg_put/nowrite", lambda: _with_group(lab, lambda group: ca.sg_put(group, lab.read("nowrite"), 1.0))
    yield "sg_put/slow", lambda: _put_slow(lab)
    yield "sg_put/reset", lambda: _put_reset(lab)


_GET_FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "as_string": {"as_string": True},
    "not as_string": {"as_string": False},
    "no_numpy": {"as_string": False, "as_numpy": False},
    "ftype": {"as_string": False, "ftype": 0},
}
_PUTS: tuple[tuple[str, Any], ...] = (
    *(("ao", 2.5), ("ao", "2.5"), ("ao", None), ("longout", 5), ("longout", 5.5), ("mbbo", 2), ("mbbo", "state TW")),
    *(("stringout", "text"), ("stringout", b"text"), ("wf:double", [1.0, 2.0]), ("wf:double", 1.0)),
    *(("wf:string", ["a"]), ("wf:string", [b"a", b"b"]), ("text", "text"), ("text", b"text"), ("one:char", 5)),
)


def _with_group(lab: Lab, call: Callable[[Any], Any]) -> Any:
    return call(lab.ca.sg_create())


def _deleted(lab: Lab, function: Callable[[Any], Any]) -> Any:
    group = lab.ca.sg_create()
    lab.ca.sg_delete(group)
    return function(group)


def _get_type(lab: Lab, ending: str, **options: Any) -> Any:
    """The type of what a get returns at once; whether the value is there by then is a matter of luck in PyEpics."""
    group = lab.ca.sg_create()
    found = lab.ca.sg_get(group, lab.read(ending), **options)
    return kind(found)


def _get_unpacked(lab: Lab, ending: str) -> Any:
    """The example of the manual."""
    chid = lab.read(ending)
    group = lab.ca.sg_create()
    data = lab.ca.sg_get(group, chid)
    status = lab.ca.sg_block(group)
    return {"status": status, "value": lab.ca._unpack(data=data, chid=chid)}


def _put(lab: Lab, ending: str, value: Any) -> Any:
    chid = lab.written(ending)
    group = lab.ca.sg_create()
    status = lab.ca.sg_put(group, chid, value)
    return {"status": status, "block": lab.ca.sg_block(group), "get": lab.ca.get(chid)}


def _put_several(lab: Lab) -> Any:
    group = lab.ca.sg_create()
    chids = [lab.written(ending) for ending in ("ao", "longout", "mbbo")]
    statuses = [lab.ca.sg_put(group, chid, 3) for chid in chids]
    return {
        "statuses": statuses,
        "block": lab.ca.sg_block(group),
        "test": lab.ca.sg_test(group),
        "get": [lab.ca.get(chid) for chid in chids],
        "delete": lab.ca.sg_delete(group),
    }


def _put_slow(lab: Lab) -> Any:
    """Whether a group waits for a record that takes its time."""
    chid = lab.written("slow")
    group = lab.ca.sg_create()
    lab.ca.sg_put(group, chid, 1)
    try:
        block = lab.ca.sg_block(group, timeout=0.1)
    except Exception as error:
        block = kind(error)
    return {"block": block, "get": lab.ca.get(chid), "done": lab.wait(lambda: lab.ca.get(chid) == 0)}


def _put_reset(lab: Lab) -> Any:
    chid = lab.written("ao")
    group = lab.ca.sg_create()
    lab.ca.sg_put(group, chid, 6.5)
    return {"reset": lab.ca.sg_reset(group), "block": lab.ca.sg_block(group, timeout=1.0)}


SECTIONS = ()
ALONE = (groups,)
