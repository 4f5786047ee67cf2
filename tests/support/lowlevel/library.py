"""Calls that need no record: statuses, messages, decorators, polling, the settings, and the module ``dbr``."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .describe import Text, kind
from .lab import Call, Lab

_MISSING_NAME = "there is no such record"


def statuses(lab: Lab) -> Iterator[Call]:
    """``message`` for every status, and the checks of one."""
    ca = lab.ca
    for status in (*range(520), -1, 2**20, 2**40, None, "1", 1.5, b"1"):
        yield f"message/{status!r}", lambda s=status: ca.message(s)
    yield "version", ca.version
    for arguments in (("f", 1), ("f", 80), ("f", 80, 80), ("f", 1, 80), ("f", None), ("f", "1"), (None, 80), ()):
        yield f"PySEVCHK/{arguments}", lambda a=arguments: ca.PySEVCHK(*a)
    yield "PySEVCHK/expected", lambda: ca.PySEVCHK("f", 339, expected=339)
    yield "PySEVCHK/what it raises", lambda: _raised(lambda: ca.PySEVCHK("name", 80))
    yield "get/what it raises", lambda: _raised(lambda: ca.get(lab.read("ai"), ftype=99))
    for name in ("ChannelAccessException", "ChannelAccessGetFailure", "CASeverityException"):
        yield f"{name}/bases", lambda n=name: [base.__name__ for base in getattr(ca, n).__mro__[-3:]]
    yield "ChannelAccessException/text", lambda: str(ca.ChannelAccessException("a text"))
    yield "ChannelAccessException/arguments", lambda: ca.ChannelAccessException("a text", 5).args
    yield "ChannelAccessGetFailure/arguments", lambda: vars(ca.ChannelAccessGetFailure("a text", 1, 2))
    yield "CASeverityException/arguments", lambda: vars(ca.CASeverityException("f", "text"))
    yield "CASeverityException/text", lambda: str(ca.CASeverityException("f", "text"))


def _raised(call: Callable[[], Any]) -> Any:
    """The attributes and the text of an exception."""
    try:
        call()
    except Exception as error:
        named = {name: value for name, value in vars(error).items() if name in ("fcn", "msg", "chid", "status")}
        return {**named, "text": str(error)}
    return "nothing"


def decorators(lab: Lab) -> Iterator[Call]:
    """The decorators of the manual, chapter 4.4."""
    ca = lab.ca

    def function(*arguments: Any, **options: Any) -> Any:
        """A docstring."""
        return [*arguments, *sorted(options)]

    for name in (
        "withCA",
        "withCHID",
        "withConnectedCHID",
        "withMaybeConnectedCHID",
        "withInitialContext",
        "withSEVCHK",
    ):
        yield f"{name}/wraps", lambda n=name: [(f := getattr(ca, n)(function)).__name__, f.__doc__]
    yield "withCA/call", lambda: ca.withCA(function)(1, two=2)
    yield "withInitialContext/call", lambda: ca.withInitialContext(function)(1, two=2)
    for status in (1, 0, 80, 339, None):
        yield f"withSEVCHK/{status}", lambda s=status: ca.withSEVCHK(lambda: s)()
    for name in ("withCHID", "withConnectedCHID", "withMaybeConnectedCHID"):
        decorated = partial(lambda n, *a, **o: getattr(ca, n)(lambda chid=None, **_: kind(chid))(*a, **o), name)
        yield f"{name}/chid", lambda d=decorated: d(lab.read("ai"))
        yield f"{name}/number", lambda d=decorated: d(getattr(lab.read("ai"), "value", None))
        yield f"{name}/keyword", lambda d=decorated: d(chid=lab.read("ai"))
        for rubbish in (None, "ai", 1.5, ctypes.c_int(5), []):
            yield f"{name}/{kind(rubbish)}", lambda d=decorated, r=rubbish: (lab.read("ai"), d(r))[1]
        yield f"{name}/nothing", lambda d=decorated: d()
        yield f"{name}/missing", lambda d=decorated: d(ca.create_channel(_MISSING_NAME), timeout=0.1)


def polling(lab: Lab) -> Iterator[Call]:
    """What waits for the network."""
    ca = lab.ca
    yield "poll", lambda: ca.poll()
    yield "poll/times", lambda: ca.poll(evt=1e-3, iot=0.1)
    yield "poll/positional", lambda: ca.poll(1e-3, 0.1)
    yield "pend_io", lambda: ca.pend_io()
    yield "flush_io", lambda: ca.flush_io()
    yield "test_io", lambda: ca.test_io()
    yield "pend_event", lambda: (ca.poll(), ca.pend_event())[1]
    for function in ("pend_io", "pend_event"):
        for seconds in (0.05, 1, -1, None, "1"):
            yield f"{function}/{seconds!r}", lambda f=function, s=seconds: (lab.read("ai"), getattr(ca, f)(s))[1]
    yield "pend_io/0", lambda: (lab.read("ai"), ca.pend_io(0))[1]
    yield "pend_event/waits", lambda: _takes(0.1, lambda: ca.pend_event(0.1), lab)
    yield "pend_io/does not wait", lambda: _takes(0.0, lambda: ca.pend_io(0.5), lab)
    yield "poll/with a missing channel", lambda: (ca.create_channel(_MISSING_NAME), ca.poll(iot=0.1))[1]
    yield "pend_io/with a missing channel", lambda: (ca.create_channel(_MISSING_NAME), ca.pend_io(0.1))[1]
    for function in ("pend_event", "poll", "flush_io", "pend_io", "test_io", "current_context", "version"):
        yield f"{function}/first of all", lambda f=function: kind(getattr(ca, f)())
    yield "message/first of all", lambda: ca.message(1)
    yield "show_cache/first of all", lambda: ca.show_cache(print_out=False)
    yield "sg_create/first of all", lambda: kind(ca.sg_create())
    yield "isConnected/first of all", lambda: ca.isConnected(5)
    yield "get/first of all", lambda: ca.get(5)
    yield "detach_context/first of all", lambda: kind(ca.detach_context())
    yield "use_initial_context/first of all", lambda: ca.use_initial_context()
    yield "finalize_libca/first of all", lambda: ca.finalize_libca()


def _takes(seconds: float, call: Callable[[], Any], lab: Lab) -> Any:
    lab.read("ai")
    begin = time.monotonic()
    found = call()
    took = time.monotonic() - begin
    return [found, Text("as long" if seconds * 0.95 <= took < seconds + 0.3 else f"{took:.2f} s")]


def printing(lab: Lab) -> Iterator[Call]:
    """What is shown to people."""
    ca = lab.ca

    def cache(**options: Any) -> Any:
        for ending in ("ai", "wf:double"):
            lab.read(ending)
        ca.create_channel(_MISSING_NAME)
        return ca.show_cache(**options)

    def normal(text: str) -> list[str]:
        return [re.sub(r"\d{3,}", "N", lab.plain_name(line)) for line in text.splitlines()]

    yield "show_cache", lambda: normal(cache(print_out=False))
    yield "show_cache/printed", lambda: normal(lab.printed(cache))
    yield "show_cache/returns", lambda: _quietly(lab, cache)
    yield "show_cache/empty", lambda: normal(ca.show_cache(print_out=False))
    yield "put/array to scalar/printed", lambda: _print_of_put(lab)
    yield "connect_channel/printed", lambda: _print_of_connect(lab)
    yield "client_status", lambda: (lab.read("ai"), kind(ca.client_status(ca.current_context(), 0)))[1]
    yield "replace_printf_handler", lambda: kind(ca.replace_printf_handler())
    yield "replace_printf_handler/function", lambda: kind(ca.replace_printf_handler(print))
    yield "replace_printf_handler/rubbish", lambda: ca.replace_printf_handler(5)
    for function in ("disable_ca_messages", "enable_ca_messages"):
        yield function, lambda f=function: getattr(ca, f)()
    for writer in ("stdout", "stderr", None, print, "rubbish"):
        yield f"enable_ca_messages/{getattr(writer, '__name__', writer)}", lambda w=writer: ca.enable_ca_messages(w)


def _quietly(lab: Lab, call: Callable[[], Any]) -> Any:
    found = []
    lab.printed(lambda: found.append(call()))
    return found[0]


def _print_of_put(lab: Lab) -> Any:
    def put() -> None:
        lab.ca.put(lab.written("wf:double"), 5.0, wait=True)

    def tried() -> None:
        try:
            put()
        except TypeError:
            print("TypeError")

    return " ".join(lab.printed(tried).split())


def _print_of_connect(lab: Lab) -> Any:
    chid = lab.read("ai")
    text = lab.printed(lambda: lab.ca.connect_channel(chid, verbose=True))
    return re.sub(r"\d{3,}", "N", text)


def settings(lab: Lab) -> Iterator[Call]:
    """The variables of the module: their values, and what they change."""
    ca = lab.ca
    for name in ("PREEMPTIVE_CALLBACK", "DEFAULT_CONNECTION_TIMEOUT", "AUTOMONITOR_MAXLENGTH", "HAS_NUMPY"):
        yield f"{name}/value", lambda n=name: getattr(ca, n)
    for name in ("DEFAULT_SUBSCRIPTION_MASK", "AUTO_CLEANUP", "WITH_CA_MESSAGES", "libca", "initial_context"):
        yield f"{name}/value", lambda n=name: getattr(ca, n)

    def set_and(call: Callable[[], Any], **values: Any) -> Any:
        for name, value in values.items():
            setattr(ca, name, value)
        return call()

    for ending in ("wf:double", "text", "ai", "empty:double", "wf:string"):
        yield f"HAS_NUMPY/{ending}", partial(set_and, lambda e=ending: ca.get(lab.read(e)), HAS_NUMPY=False)
    for ending in ("text", "wf:char", "wf:double"):
        call = partial(lambda e: ca.get(lab.read(e), as_string=True), ending)
        yield f"AUTOMONITOR_MAXLENGTH/{ending}", partial(set_and, call, AUTOMONITOR_MAXLENGTH=4)
    missing = partial(lambda: ca.connect_channel(ca.create_channel(_MISSING_NAME)))
    yield (
        "DEFAULT_CONNECTION_TIMEOUT",
        partial(set_and, lambda: _takes(0.3, missing, lab), DEFAULT_CONNECTION_TIMEOUT=0.3),
    )
    for name, sequence in _UNPREEMPTIVE.items():
        yield f"PREEMPTIVE_CALLBACK/{name}", partial(set_and, partial(sequence, lab), PREEMPTIVE_CALLBACK=False)


def _connection_only_by_polling(lab: Lab) -> Any:
    chid = lab.ca.create_channel(lab.shared + "ai")
    time.sleep(0.3)
    before = lab.ca.isConnected(chid)
    return [before, lab.ca.connect_channel(chid, timeout=5)]


def _events_only_by_polling(lab: Lab) -> Any:
    seen: list[Any] = []
    chid = lab.written("ao")
    kept = lab.ca.create_subscription(chid, callback=lambda value, **_given: seen.append(value))
    lab.wait(lambda: seen)
    lab.ca.put(chid, 9.5)
    count = len(seen)
    time.sleep(0.3)
    slept = len(seen) - count
    lab.wait(lambda: seen[-1] == 9.5)
    return {"without polling": slept, "then": seen[-1], "cleared": lab.ca.clear_subscription(kept[2])}


_UNPREEMPTIVE: dict[str, Callable[[Lab], Any]] = {
    "get": lambda lab: lab.ca.get(lab.read("ai")),
    "put": lambda lab: [lab.ca.put(lab.written("ao"), 7.5, wait=True), lab.ca.get(lab.written("ao"))],
    "slow put": lambda lab: lab.ca.put(lab.written("slow"), 1, wait=True, timeout=3),
    "connection": _connection_only_by_polling,
    "events": _events_only_by_polling,
    "get_complete": lambda lab: [lab.ca.get(lab.read("ai"), wait=False), lab.ca.get_complete(lab.read("ai"))],
}


def types(lab: Lab) -> Iterator[Call]:
    """The module ``dbr``."""
    dbr = lab.dbr
    for name in _DBR_NUMBERS:
        yield f"dbr.{name}", lambda n=name: getattr(dbr, n)
    for ftype in (*range(-1, 40), None, "6"):
        yield f"dbr.native_type/{ftype!r}", lambda f=ftype: dbr.native_type(f)
        yield f"dbr.Name/{ftype!r}", lambda f=ftype: dbr.Name(f)
    for name in ("STRING", "double", "TIME_LONG", "CTRL_ENUM", "INT", "SHORT", "TIME_INT", "rubbish", 6):
        yield f"dbr.Name/{name!r}/reverse", lambda n=name: dbr.Name(n, reverse=True)
    for ftype in range(40):
        yield f"dbr.Map/{ftype}", lambda f=ftype: [dbr.Map[f].__name__, ctypes.sizeof(dbr.Map[f])]
        yield f"dbr.Map/{ftype}/fields", lambda f=ftype: _fields(dbr.Map[f])
    for ftype in range(7):
        yield f"dbr.NP_Map/{ftype}", lambda f=ftype: str(dbr.NP_Map[f].__name__)
    yield "dbr.ctrl_limits", lambda: dbr.ctrl_limits
    yield "dbr.make_unixtime", lambda: dbr.make_unixtime(dbr.TimeStamp(1_000_000_000, 123_456_789))
    for name in _DBR_C_TYPES:
        yield f"dbr.{name}", lambda n=name: [kind(getattr(dbr, n)()), ctypes.sizeof(getattr(dbr, n))]
    for enumeration in ("AlarmStatus", "AlarmSeverity"):
        yield (
            f"dbr.{enumeration}",
            lambda e=enumeration: {item.name: int(item) for item in getattr(dbr, e)},
        )
        for number in (0, 3, 99):
            yield f"dbr.{enumeration}/{number}", lambda e=enumeration, n=number: repr(getattr(dbr, e)(n))


_PLAIN = ("STRING", "INT", "SHORT", "FLOAT", "ENUM", "CHAR", "LONG", "DOUBLE")
_DBR_NUMBERS = (
    *("ECA_NORMAL", "ECA_TIMEOUT", "ECA_IODONE", "ECA_ISATTACHED", "ECA_BADCHID", "CS_CONN", "OP_CONN_UP"),
    *("OP_CONN_DOWN", "CS_NEVER_SEARCH", "PUT_ACKT", "PUT_ACKS", "STSACK_STRING", "CLASS_NAME", "MAX_STRING_SIZE"),
    *("MAX_UNITS_SIZE", "MAX_ENUM_STRING_SIZE", "MAX_ENUMS", "EPICS2UNIX_EPOCH", "DBE_VALUE", "DBE_LOG", "DBE_ALARM"),
    *("DBE_PROPERTY", *_PLAIN, *(f"TIME_{name}" for name in _PLAIN), *(f"CTRL_{name}" for name in _PLAIN)),
)
_DBR_C_TYPES = (
    *("chid_t", "short_t", "ushort_t", "int_t", "uint_t", "long_t", "ulong_t", "float_t", "double_t", "byte_t"),
    *("ubyte_t", "string_t", "char_t", "char_p", "void_p", "py_obj", "TimeStamp"),
)


def _fields(structure: Any) -> Any:
    # What fills the gaps is nobody's business, as long as the size is right.
    return [f"{name} {field.__name__}" for name, field in structure._fields_ if not name.startswith("RISC_pad")]


SECTIONS = (statuses, decorators, types)
ALONE = (polling, printing, settings)
