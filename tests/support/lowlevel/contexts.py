"""Calls about contexts and threads, and about the end of the library: each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .describe import Known, kind, outcome
from .lab import PATIENCE_S, Call, Lab


def in_thread(lab: Lab, call: Callable[[], Any], make: Callable[..., threading.Thread]) -> Any:
    """Return the outcome of a call in a thread of its own, or that it does not end."""
    found: list[Any] = []
    thread = make(target=lambda: found.append(outcome(call, lab.ca)))
    thread.daemon = True
    thread.start()
    thread.join(PATIENCE_S)
    return Known(found[0] if found else "does not end")


def contexts(lab: Lab) -> Iterator[Call]:
    """Contexts of the main thread."""
    ca = lab.ca

    def after(*steps: Callable[[], Any], then: Callable[[], Any]) -> Any:
        lab.read("ai")
        lab.written("ao")
        for step in steps:
            step()
        return then()

    def returned(call: Callable[[], Any]) -> Any:
        return kind(call())

    def is_initial() -> bool:
        return bool(ca.current_context() == ca.initial_context)

    yield "current_context", partial(after, then=lambda: returned(ca.current_context))
    yield "current_context/same", partial(after, then=lambda: ca.current_context() == ca.current_context())
    yield "current_context/initial", partial(after, then=is_initial)
    yield "initial_context", partial(after, then=lambda: kind(ca.initial_context))
    yield "create_context", partial(after, then=ca.create_context)
    yield "context_create", partial(after, then=ca.context_create)
    for argument in (0, 1, None, 2, "1"):
        yield f"context_create/{argument!r}", partial(after, then=partial(ca.context_create, argument))
        yield f"create_context/{argument!r}", partial(after, then=partial(ca.create_context, argument))
    yield "create_context/keyword", partial(after, then=partial(ca.create_context, ctx=1))
    yield (
        "create_context/same",
        partial(after, ca.create_context, then=is_initial),
    )
    yield "attach_context/attached", partial(after, then=lambda: ca.attach_context(ca.current_context()))
    for argument in (None, 0):
        yield f"attach_context/{argument!r}", partial(after, then=partial(ca.attach_context, argument))
        yield (
            f"attach_context/{argument!r}/detached",
            partial(after, ca.detach_context, then=partial(ca.attach_context, argument)),
        )
    for argument in (1, 12_345_678, "text", 1.5):
        yield (
            f"attach_context/rubbish/{argument!r}",
            partial(after, ca.detach_context, then=partial(ca.attach_context, argument)),
        )
    yield "use_initial_context/attached", partial(after, then=ca.use_initial_context)
    yield "detach_context", partial(after, then=lambda: returned(ca.detach_context))
    yield "detach_context/twice", partial(after, ca.detach_context, then=lambda: returned(ca.detach_context))
    yield "detach_context/current", partial(after, ca.detach_context, then=ca.current_context)
    yield (
        "detach_context/use_initial_context",
        partial(after, ca.detach_context, then=lambda: [ca.use_initial_context(), ca.get(lab.read("ai"))]),
    )
    yield "detach_context/attach_context", lambda: _detach_and_attach(lab)
    yield "detach_context/create_context", lambda: _detach_and_create(lab)
    for name, call in _calls(lab).items():
        yield f"detach_context/{name}", partial(after, ca.detach_context, then=call)
        yield f"destroy_context/{name}", partial(after, ca.destroy_context, then=call)
        yield f"finalize_libca/{name}", partial(after, ca.finalize_libca, then=call)
        yield f"clear_cache/{name}", partial(after, ca.clear_cache, then=call)
    for function in ("destroy_context", "context_destroy"):
        yield function, partial(after, then=lambda f=function: returned(getattr(ca, f)))
        yield (
            f"{function}/twice",
            partial(after, getattr(ca, function), then=lambda f=function: returned(getattr(ca, f))),
        )
        yield f"{function}/current", partial(after, getattr(ca, function), then=ca.current_context)
    yield "destroy_context/and create", lambda: _destroy_and_create(lab)
    for function in ("clear_cache", "finalize_libca"):
        yield function, partial(after, then=getattr(ca, function))
        yield f"{function}/twice", partial(after, getattr(ca, function), then=getattr(ca, function))
    yield "clear_cache/again", lambda: _clear_cache(lab)
    yield "clear_cache/initial", partial(after, ca.clear_cache, then=is_initial)
    yield "finalize_libca/time", partial(after, then=lambda: ca.finalize_libca(maxtime=1.0))
    yield "initialize_libca/again", partial(after, then=lambda: returned(ca.initialize_libca))
    yield "initialize_libca", lambda: [returned(ca.initialize_libca), ca.get(lab.read("ai"))]
    yield "register_clear_cache", lambda: _register(lab)
    yield "register_clear_cache/rubbish", lambda: ca.register_clear_cache(5)


def _calls(lab: Lab) -> dict[str, Callable[[], Any]]:
    """Calls with a channel that was made before something happened to its context."""
    ca = lab.ca
    return {
        **{name: partial(_of_old_channel, lab, name) for name in ("isConnected", "state", "field_type", "get")},
        "name": lambda: lab.plain_name(ca.name(lab.read("ai"))),
        "put": lambda: ca.put(lab.written("ao"), 4.5),
        "poll": ca.poll,
        "pend_event": ca.pend_event,
        "flush_io": ca.flush_io,
        "create_channel": lambda: kind(ca.create_channel(lab.shared + "calc")),
        "version": ca.version,
        "message": lambda: ca.message(80),
        "show_cache": lambda: ca.show_cache(print_out=False) is None,
    }


def _of_old_channel(lab: Lab, function: str) -> Any:
    return getattr(lab.ca, function)(lab.read("ai"))


def _detach_and_attach(lab: Lab) -> Any:
    lab.read("ai")
    context = lab.ca.current_context()
    lab.ca.detach_context()
    return [lab.ca.attach_context(context), lab.ca.current_context() == context, lab.ca.get(lab.read("ai"))]


def _detach_and_create(lab: Lab) -> Any:
    """A second context in the main thread, and back."""
    ca = lab.ca
    lab.read("ai")
    first = ca.current_context()
    ca.detach_context()
    ca.create_context()
    found = {"other": ca.current_context() != first, "initial": ca.initial_context == first}
    chid = ca.create_channel(lab.shared + "calc")
    found["connected"] = ca.connect_channel(chid, timeout=PATIENCE_S)
    found["get"] = ca.get(chid)
    ca.destroy_context()
    found["then"] = ca.current_context()
    found["back"] = ca.use_initial_context()
    found["get again"] = ca.get(lab.read("ai"))
    return found


def _destroy_and_create(lab: Lab) -> Any:
    lab.read("ai")
    lab.ca.destroy_context()
    lab.ca.create_context()
    chid = lab.ca.create_channel(lab.shared + "calc")
    return [lab.ca.connect_channel(chid, timeout=PATIENCE_S), lab.ca.get(chid)]


def _clear_cache(lab: Lab) -> Any:
    lab.read("ai")
    lab.ca.clear_cache()
    chid = lab.ca.create_channel(lab.shared + "ai")
    return [lab.ca.connect_channel(chid, timeout=PATIENCE_S), lab.ca.get(chid)]


def _register(lab: Lab) -> Any:
    lab.read("ai")
    seen: list[int] = []
    found = lab.ca.register_clear_cache(lambda: seen.append(1))
    lab.ca.clear_cache()
    return [found, seen]


def threads(lab: Lab) -> Iterator[Call]:
    """What threads of their own see of the main one's channels, attached and not."""
    ca = lab.ca

    def thread(call: Callable[[], Any], *steps: Callable[[], Any], make: Any = threading.Thread) -> Any:
        for ending in ("ai", "text"):
            lab.read(ending)
        lab.written("ao")

        def run() -> Any:
            for step in steps:
                step()
            return call()

        return in_thread(lab, run, make)

    calls: dict[str, Callable[[], Any]] = {
        **{
            name: call
            for name, call in _calls(lab).items()
            if name not in ("message", "version", "show_cache", "flush_io")
        },
        "current_context": lambda: kind(ca.current_context()),
        "current_context is initial": lambda: ca.current_context() == ca.initial_context,
        "get_timevars": lambda: sorted(ca.get_timevars(lab.read("ai"))),
        "put and wait": lambda: [ca.put(lab.written("ao"), 4.75, wait=True, timeout=2), ca.get(lab.written("ao"))],
        "create and get": lambda: _create_and_get(lab),
        "create the same": lambda: lab.read("ai").value == ca.create_channel(lab.shared + "ai").value,
        "subscribe": lambda: _subscribe(lab),
        "use_initial_context": ca.use_initial_context,
        "detach_context": lambda: kind(ca.detach_context()),
        "pend_io": lambda: ca.pend_io(0.1),
    }
    for name, call in calls.items():
        yield f"Thread/{name}", partial(thread, call)
        yield f"Thread/use_initial_context/{name}", partial(thread, call, ca.use_initial_context)
        yield f"CAThread/{name}", partial(thread, call, make=ca.CAThread)
        yield f"Thread/create_context/{name}", partial(thread, call, ca.create_context)
        yield (
            f"Thread/attach_context/{name}",
            partial(thread, call, lambda: ca.attach_context(ca.initial_context)),
        )
    for name in ("get", "current_context is initial"):
        yield f"Thread/withInitialContext/{name}", partial(thread, ca.withInitialContext(calls[name]))
    yield "Thread/create_context/returns", partial(thread, ca.create_context)
    yield "Thread/attach_context", partial(thread, lambda: ca.attach_context(ca.initial_context))
    yield (
        "Thread/attach_context/twice",
        partial(thread, lambda: [ca.attach_context(ca.initial_context) for _ in range(2)]),
    )
    yield "Thread/create_context/of its own", partial(thread, lambda: _own_context(lab))
    yield "Thread/create_context/two threads", lambda: _two_contexts(lab)
    yield "CAThread/many gets", lambda: _many_gets(lab)
    yield "CAThread/many puts", lambda: _many_puts(lab)
    yield "CAThread/the same channel", lambda: _race(lab)
    yield "CAThread/is a Thread", lambda: issubclass(ca.CAThread, threading.Thread)
    yield "CAThread/arguments", lambda: _arguments(lab)
    yield "Thread/callback's thread", lambda: _callback_thread(lab)


_NOT_OF_THREADS = ("message", "version", "show_cache", "flush_io")


def _create_and_get(lab: Lab) -> Any:
    chid = lab.ca.create_channel(lab.shared + "calc")
    return [lab.ca.connect_channel(chid, timeout=2), lab.ca.get(chid, timeout=1)]


def _subscribe(lab: Lab) -> Any:
    seen: list[Any] = []
    kept = lab.ca.create_subscription(lab.read("ai"), callback=lambda value, **_given: seen.append(value))
    lab.wait(lambda: seen, patience=1.0)
    return [lab.ca.clear_subscription(kept[2]), seen]


def _own_context(lab: Lab) -> Any:
    """The second way of the manual to use threads: a context for each."""
    ca = lab.ca
    ca.create_context()
    found: dict[str, Any] = {"other": ca.current_context() != ca.initial_context}
    chid = ca.create_channel(lab.shared + "ai")
    found["same channel"] = getattr(chid, "value", chid) == getattr(lab.read("ai"), "value", None)
    found["connected"] = ca.connect_channel(chid, timeout=2)
    found["get"] = ca.get(chid)
    ca.destroy_context()
    found["then"] = ca.current_context()
    return found


def _two_contexts(lab: Lab) -> Any:
    lab.read("ai")
    found: list[Any] = []

    def run() -> None:
        found.append(_own_context(lab))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return {str(index): one for index, one in enumerate(found)}


def _many_gets(lab: Lab) -> Any:
    endings = ("ai", "mbbi", "wf:double", "text")
    chids = [lab.read(ending) for ending in endings]
    found: list[Any] = []

    def run(chid: Any) -> None:
        found.append(len({str(lab.ca.get(chid)) for _ in range(50)}))

    threads = [lab.ca.CAThread(target=run, args=(chid,)) for chid in chids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return found


def _many_puts(lab: Lab) -> Any:
    chids = [lab.written(ending) for ending in ("ao", "longout", "one:long")]
    found: list[Any] = []

    def run(chid: Any) -> None:
        statuses = {lab.ca.put(chid, number, wait=True) for number in range(30)}
        found.append([sorted(statuses), int(lab.ca.get(chid))])

    threads = [lab.ca.CAThread(target=run, args=(chid,)) for chid in chids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return found


def _race(lab: Lab) -> Any:
    """Two threads that make the same channel get one."""
    lab.read("ai")
    found: list[int] = []

    def run() -> None:
        found.append(lab.ca.create_channel(lab.shared + "mbbo").value)

    threads = [lab.ca.CAThread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return [len(found), len(set(found))]


def _arguments(lab: Lab) -> Any:
    lab.read("ai")
    found: list[Any] = []
    thread = lab.ca.CAThread(
        target=lambda *args, **kwargs: found.append([args, sorted(kwargs)]), name="a name", args=(1,), kwargs={"two": 2}
    )
    thread.start()
    thread.join(PATIENCE_S)
    return [thread.name, found[0]]


def _callback_thread(lab: Lab) -> Any:
    """Whether callbacks come in the main thread."""
    seen: list[bool] = []
    chid = lab.read("ai")
    kept = lab.ca.create_subscription(chid, callback=lambda **_given: seen.append(_is_main()))
    lab.wait(lambda: seen)
    lab.ca.clear_subscription(kept[2])
    return seen


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


_SCRIPTS = {
    "nothing": "",
    "a channel": "chid = ca.create_channel(NAME); ca.connect_channel(chid); print(ca.isConnected(chid))",
    "a get": "chid = ca.create_channel(NAME); ca.connect_channel(chid); print(ca.get(chid))",
    "a subscription": (
        "chid = ca.create_channel(NAME); ca.connect_channel(chid); "
        "kept = ca.create_subscription(chid, callback=lambda **given: None); time.sleep(0.1)"
    ),
    "a missing channel": "chid = ca.create_channel(NAME + 'missing'); print(ca.connect_channel(chid, timeout=0.1))",
    "an exception": "chid = ca.create_channel(NAME); ca.connect_channel(chid); sys.exit(3)",
    "a put that nobody waits for": "chid = ca.create_channel(OWN); ca.connect_channel(chid); ca.put(chid, 9.25)",
    "no preemption": "ca.PREEMPTIVE_CALLBACK = False; chid = ca.create_channel(NAME); print(ca.get(chid))",
    "finalize": "chid = ca.create_channel(NAME); print(ca.get(chid)); ca.finalize_libca(); print(ca.get(chid))",
    "fork": (
        "import os; chid = ca.create_channel(NAME); first = ca.get(chid); pid = os.fork()\n"
        "if pid == 0:\n"
        "    ca.clear_cache(); second = ca.get(ca.create_channel(NAME)); os._exit(0 if second == first else 7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    ),
}


def scripts(lab: Lab) -> Iterator[Call]:
    """Whole programs: whether they end, with which status, and what they say."""
    library = lab.ca.__name__.partition(".")[0]
    for name, text in _SCRIPTS.items():
        yield f"script/{name}", partial(_run_script, lab, library, text)
    yield "script/a put that nobody waits for/then", lambda: lab.ca.get(lab.written("ao"))


def _run_script(lab: Lab, library: str, text: str) -> Any:
    head = f"import sys, time; from {library} import ca; NAME, OWN = {lab.shared + 'ai'!r}, {lab.own + 'ao'!r}\n"
    done = subprocess.run([sys.executable, "-c", head + text], capture_output=True, text=True, timeout=40, check=False)
    return {"status": done.returncode, "says": done.stdout, "complains": done.stderr[-200:]}


SECTIONS = (scripts,)
ALONE = (threads, contexts)
