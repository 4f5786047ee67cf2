"""Calls about channels: how they are made, what is known of them, those that do not exist, and rubbish for one."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .database import LONG_NAME, READ
from .describe import Text, kind
from .lab import Call, Lab, number_of

_FACTS = ("state", "isConnected", "name", "element_count", "field_type", "access", "read_access", "write_access")
_MISSING = "there is no such record"


def facts(lab: Lab) -> Iterator[Call]:
    """What is known of every channel."""
    ca = lab.ca
    for ending in (*READ, "large", "noread", LONG_NAME):
        for function in _FACTS:
            yield f"{function}/{ending}", lambda e=ending, f=function: lab.plain_name(getattr(ca, f)(lab.read(e)))
        yield f"host_name/{ending}", lambda e=ending: ":" in ca.host_name(lab.read(e))
        for times, controls in ((False, False), (True, False), (False, True), (True, True)):
            yield (
                f"promote_type/{ending}/{times}/{controls}",
                lambda e=ending, t=times, c=controls: ca.promote_type(lab.read(e), use_time=t, use_ctrl=c),
            )
    for function in (*_FACTS, "promote_type", "host_name", "connect_channel"):
        call = partial(lambda f, chid: kind(getattr(ca, f)(chid)), function)
        yield f"{function}/by number", lambda call=call: call(number_of(lab.read("ai")))
    for function in (*_FACTS, "promote_type", "connect_channel"):
        yield f"{function}/by keyword", lambda f=function: lab.plain_name(getattr(ca, f)(chid=lab.read("ai")))
    for number in range(-1, 40):
        for times, controls in ((True, False), (False, True)):
            yield (
                f"promote_fieldtype/{number}/{times}/{controls}",
                lambda n=number, t=times, c=controls: ca.promote_fieldtype(n, use_time=t, use_ctrl=c),
            )


def unreadable(lab: Lab) -> Iterator[Call]:
    """A record that may not be read, and those that may not be written."""
    ca = lab.ca
    for function in ("get", "get_with_metadata", "get_ctrlvars", "get_timevars", "get_timestamp", "get_severity"):
        yield f"{function}/noread", lambda f=function: getattr(ca, f)(lab.anew("noread"))
    for function in ("get", "get_with_metadata", "get_ctrlvars", "get_timevars"):
        yield f"{function}/noread/again", lambda f=function: _twice(getattr(ca, f), lab.anew("noread"), timeout=0.1)
    yield "get_complete/noread", lambda: ca.get_complete(lab.anew("noread"), timeout=0.1)
    yield "create_subscription/noread", lambda: len(ca.create_subscription(lab.read("noread"), callback=print))
    for ending in ("noread", "nowrite", "ai.SEVR", "wf:double.NORD"):
        for options in ({}, {"wait": True, "timeout": 2}):
            yield f"put/{ending}/{options}", partial(lambda e, **o: ca.put(lab.read(e), 1, **o), ending, **options)
    # Base refuses the put; the value stays.
    for options in ({}, {"wait": True, "timeout": 2}):
        yield (
            f"put/disabled/{options}",
            partial(lambda **o: [ca.put(lab.written("disabled"), 1, **o), ca.get(lab.written("disabled"))], **options),
        )


def creation(lab: Lab) -> Iterator[Call]:
    """How channels are made, and cleared, and made again."""
    ca, name = lab.ca, lab.shared + "ai"

    yield "create_channel/type", lambda: ca.create_channel(name)
    yield "create_channel/number", lambda: kind(number_of(ca.create_channel(name)))
    yield "create_channel/twice", lambda: number_of(ca.create_channel(name)) == number_of(ca.create_channel(name))
    yield "create_channel/connect", lambda: ca.isConnected(ca.create_channel(lab.shared + "ao", connect=True))
    yield "create_channel/no connect", lambda: _connects(lab, "calc", connect=False)
    yield "create_channel/auto_cb", lambda: _connects(lab, "hihi", auto_cb=False)
    yield "create_channel/callback not callable", lambda: _connects(lab, "longin", callback="rubbish")
    yield "create_channel/positional", lambda: ca.isConnected(ca.create_channel(lab.shared + "bi", True, True, None))
    yield "create_channel/callback", lambda: _callbacks(lab, "longout", 1)
    yield "create_channel/callback of a connected one", lambda: _callbacks(lab, "longout", 1)
    yield "create_channel/two callbacks", lambda: _callbacks(lab, "mbbi", 2)
    yield "create_channel/two callbacks of a connected one", lambda: _callbacks(lab, "mbbi", 2)
    yield "create_channel/the same callback twice", lambda: _same_callback(lab)
    yield "create_channel/callback that fails", lambda: _failing_callback(lab)
    yield "create_channel/with .VAL", lambda: lab.plain_name(ca.name(ca.create_channel(name + ".VAL")))
    yield "connect_channel/connected", lambda: ca.connect_channel(lab.read("ai"))
    yield "connect_channel/no time", lambda: ca.connect_channel(lab.read("ai"), timeout=0)
    yield "connect_channel/verbose", lambda: lab.printed(lambda: ca.connect_channel(lab.read("ai"), verbose=True)) != ""
    yield "clear_channel", lambda: ca.clear_channel(ca.create_channel(lab.shared + "mbbo"))
    for function in (*_FACTS, "host_name", "clear_channel", "connect_channel", "get", "get_ctrlvars", "promote_type"):
        yield f"{function}/cleared", lambda f=function: getattr(ca, f)(_cleared(lab))
    yield "put/cleared", lambda: ca.put(_cleared(lab), 1)
    yield "create_subscription/cleared", lambda: ca.create_subscription(_cleared(lab), callback=print)
    yield "create_channel/after clear", lambda: _again(lab)
    yield "replace_access_rights_event", lambda: _access_events(lab)
    yield "get_cache", lambda: _cache_entry(lab)


def _connects(lab: Lab, ending: str, **options: Any) -> Any:
    chid = lab.ca.create_channel(lab.shared + ending, **options)
    return [lab.ca.connect_channel(chid, timeout=5), lab.ca.isConnected(chid)]


def _callbacks(lab: Lab, ending: str, number: int) -> Any:
    """The arguments of connection callbacks."""
    seen: list[dict[str, Any]] = []
    callbacks = [lambda index=index, **given: seen.append({"index": index, **given}) for index in range(number)]
    name = lab.shared + ending
    for callback in callbacks:
        chid = lab.ca.create_channel(name, callback=callback)
    lab.wait(lambda: len(seen) >= number)
    return {str(given["index"]): lab.kwargs(chid, given) for given in sorted(seen, key=lambda given: given["index"])}


def _same_callback(lab: Lab) -> int:
    seen: list[Any] = []

    def callback(**given: Any) -> None:
        seen.append(given)

    for _ in range(3):
        chid = lab.ca.create_channel(lab.shared + "bo", callback=callback)
        lab.ca.connect_channel(chid)
        lab.wait(lambda: seen)
    return len(seen)


def _failing_callback(lab: Lab) -> Any:
    """Whether the second callback is called, and the channel works, after the first has failed."""
    seen: list[Any] = []

    def fail(**_given: Any) -> None:
        raise ValueError("on purpose")

    name = lab.shared + "stringin"
    chid = lab.ca.create_channel(name, callback=fail)
    connected = lab.ca.connect_channel(chid)
    time.sleep(0.02)
    try:
        lab.ca.create_channel(name, callback=lambda **given: seen.append(given))
    finally:
        found = {"connected": connected, "get": lab.ca.get(chid), "seen": len(seen)}
    return found


def _cleared(lab: Lab) -> Any:
    chid = lab.ca.create_channel(lab.shared + "calc")
    lab.ca.connect_channel(chid)
    lab.ca.clear_channel(chid)
    return chid


def _again(lab: Lab) -> Any:
    _cleared(lab)
    chid = lab.ca.create_channel(lab.shared + "calc")
    return [lab.ca.connect_channel(chid), lab.ca.get(chid)]


def _access_events(lab: Lab) -> Any:
    seen: list[Any] = []
    returned = lab.ca.replace_access_rights_event(lab.read("nowrite"), callback=lambda *rights: seen.append(rights))
    lab.wait(lambda: seen, patience=1.0)
    return [returned, seen]


def _cache_entry(lab: Lab) -> Any:
    entry = lab.ca.get_cache(lab.shared + "ai")
    return [lab.plain_name(entry.pvname), entry.conn, number_of(entry.chid) == number_of(lab.read("ai"))]


def missing(lab: Lab) -> Iterator[Call]:
    """A channel that does not exist."""
    ca, dbr = lab.ca, lab.dbr

    ca.DEFAULT_CONNECTION_TIMEOUT = 0.1
    numbers = itertools.count()

    def chid(**options: Any) -> Any:
        # Another one for each call: what one leaves behind is not seen by the next.
        return ca.create_channel(f"{lab.shared}{_MISSING} {next(numbers)}", **options)

    yield "create_channel/missing", chid
    yield "create_channel/missing/connect", lambda: chid(connect=True)
    yield "connect_channel/missing/default", lambda: _timed(lambda: ca.connect_channel(chid()), 0.1)
    yield "connect_channel/missing", lambda: _timed(lambda: ca.connect_channel(chid(), timeout=0.2), 0.2)
    yield "connect_channel/missing/verbose", lambda: ca.connect_channel(chid(), timeout=0.1, verbose=True)
    for function in (*_FACTS, "host_name", "promote_type"):
        yield f"{function}/missing", lambda f=function: _without_number(lab, getattr(ca, f)(chid()))
    for controls in (False, True):
        yield f"promote_type/missing/{controls}", lambda c=controls: ca.promote_type(chid(), use_time=not c, use_ctrl=c)
    for function in ("get", "get_with_metadata", "get_complete", "get_complete_with_metadata"):
        yield f"{function}/missing", lambda f=function: getattr(ca, f)(chid())
    # Without a time limit some of these take five seconds, or ten.
    for function in ("get", "get_with_metadata", "get_complete", "get_ctrlvars", "get_timevars"):
        yield f"{function}/missing/timeout", lambda f=function: getattr(ca, f)(chid(), timeout=0.1)
        yield f"{function}/missing/timeout, again", lambda f=function: _twice(getattr(ca, f), chid(), timeout=0.1)
    for function in ("get_timestamp", "get_precision", "get_enum_strings"):
        yield f"{function}/missing", lambda f=function: getattr(ca, f)(chid())
    for name, options in (
        *(("as_string", {"as_string": True}), ("no wait", {"wait": False}), ("count", {"count": 3})),
        *(("ftype", {"ftype": dbr.DOUBLE}), ("time", {"ftype": dbr.TIME_DOUBLE})),
    ):
        yield f"get/missing/{name}", partial(lambda **o: ca.get(chid(), timeout=0.1, **o), **options)
    for name, options in (
        *(("", {}), ("/wait", {"wait": True}), ("/callback", {"callback": print}), ("/timeout", {"timeout": 0.1})),
        ("/ftype", {"ftype": dbr.DOUBLE}),
    ):
        yield f"put/missing{name}", partial(lambda **o: ca.put(chid(), 1.0, **o), **options)
    for name, options in (
        *(("", {}), ("/timeout", {"timeout": 0.1}), ("/time", {"use_time": True}), ("/ftype", {"ftype": dbr.DOUBLE})),
    ):
        yield (
            f"create_subscription/missing{name}",
            partial(lambda **o: len(ca.create_subscription(chid(), callback=print, **o)), **options),
        )
    yield "clear_channel/missing", lambda: ca.clear_channel(chid())


def _without_number(lab: Lab, found: Any) -> Any:
    return lab.plain_name(found).rstrip("0123456789 ") if isinstance(found, str) else found


def _twice(function: Callable[..., Any], chid: Any, **options: Any) -> Any:
    """Return what the second call says, of what the first one has left behind."""
    with contextlib.suppress(Exception):
        function(chid, **options)
    return function(chid, **options)


def _timed(call: Any, least: float) -> Any:
    begin = time.monotonic()
    found = call()
    took = time.monotonic() - begin
    return [found, Text("in time" if least <= took < least + 0.5 else f"{took:.2f} s")]


_RUBBISH: dict[str, Any] = {
    "None": None,
    "a name": "SHARED:ai",
    "bytes": b"SHARED:ai",
    "0": 0,
    "1": 1,
    "-1": -1,
    "a number": 94_000_000_000_000,
    "True": True,
    "a float": 1.5,
    "c_long 0": ctypes.c_long(0),
    "c_long": ctypes.c_long(94_000_000_000_000),
    "c_int": ctypes.c_int(1),
    "c_void_p": ctypes.c_void_p(0),
    "a list": [],
    "an object": object(),
}
_TAKE_CHID = (
    *("name", "host_name", "state", "isConnected", "element_count", "field_type", "access", "read_access"),
    *("write_access", "promote_type", "connect_channel", "clear_channel", "get", "get_complete", "get_with_metadata"),
    *("get_complete_with_metadata", "get_ctrlvars", "get_timevars", "get_timestamp", "get_severity", "get_precision"),
    *("get_enum_strings", "create_subscription", "replace_access_rights_event"),
)


def rubbish(lab: Lab) -> Iterator[Call]:
    """What is no channel, in the place of one."""
    ca = lab.ca

    def call(function: str, *arguments: Any) -> Any:
        lab.read("ai")  # the library is there, and has a channel
        return getattr(ca, function)(*arguments)

    for function in _TAKE_CHID:
        for name, value in _RUBBISH.items():
            yield f"{function}/rubbish/{name}", partial(call, function, value)
        yield f"{function}/rubbish/nothing", partial(call, function)
    for name, value in _RUBBISH.items():
        yield f"put/rubbish/{name}", partial(call, "put", value, 1)
    for name in ("", "x" * 60, "x" * 500, "Grüße", "with space", "a\0b"):
        yield f"create_channel/rubbish/{name[:20]!r}", lambda n=name: ca.create_channel(n)
        yield f"create_channel/rubbish/{name[:20]!r}/again", lambda n=name: ca.create_channel(n)
    for name in (None, 5, 1.5, [], b"bytes"):
        yield f"create_channel/rubbish/{name!r}", lambda n=name: ca.create_channel(n)
    yield "create_channel/rubbish/bytes of a record", lambda: _connects_bytes(lab)


def _connects_bytes(lab: Lab) -> Any:
    chid = lab.ca.create_channel((lab.shared + "ai").encode())
    return lab.ca.connect_channel(chid, timeout=0.3)


def by_keyword(lab: Lab) -> Iterator[Call]:
    """A channel as a keyword argument, as its number and as rubbish: nothing checks it in PyEpics."""
    ca = lab.ca
    for function in ("name", "state", "element_count", "field_type", "connect_channel", "get", "promote_type"):
        yield (
            f"{function}/keyword/number",
            lambda f=function: lab.plain_name(getattr(ca, f)(chid=number_of(lab.read("ai")))),
        )
        yield f"{function}/keyword/None", lambda f=function: (lab.read("ai"), getattr(ca, f)(chid=None))[1]
        yield f"{function}/keyword/1", lambda f=function: (lab.read("ai"), getattr(ca, f)(chid=1))[1]
    yield "put/keyword", lambda: [ca.put(chid=lab.written("ao"), value=3.5, wait=True), ca.get(lab.written("ao"))]


SECTIONS = (facts, unreadable, creation, missing, rubbish)
ALONE = (by_keyword,)
