"""Scripts as users write them: ending without a close, broken off with Ctrl-C, forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from daqca.sim import SimIOC

WORKERS = pytest.mark.parametrize("workers", [0, 2], ids=["here", "workers"])
BEGIN = """
import json, os, sys, threading, time, warnings
from daqca import Engine
from daqca.events import Kind
names, workers = json.loads(sys.argv[1]), int(sys.argv[2])
name = names[0]
def until_asked(engine):
    while not (any(len(link.operations) for link in engine._links) or engine._delivery._connecting):
        time.sleep(0.001)
"""

Done = subprocess.CompletedProcess[str]


def run(body: str, names: list[str], workers: int, *flags: str, timeout: float = 50.0) -> Done:
    """Run a script to its end. Whatever it says on its standard error is a fault, unless the test looks for it."""
    return subprocess.run(
        [sys.executable, "-W", "error", *flags, "-c", BEGIN + textwrap.dedent(body), json.dumps(names), str(workers)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def quiet(done: Done) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


# --- ending without a close -----------------------------------------------------------------


@WORKERS
def test_a_script_that_ends_without_closing(ioc: SimIOC, workers: int):
    body = """
    engine = Engine(workers=workers)
    assert engine.snapshot(names, timeout=20).missing == {}
    engine.put(name, 1.0)
    subscription = engine.subscribe(names, lambda batch: None)
    keep = engine.subscribe(names, lambda batch: time.sleep(0.001))
    print(engine.get(name, timeout=20).value)
    """
    names = [ioc.prefix + "ao00002", *ioc.database.changing_names]
    assert quiet(run(body, names, workers)) == "1.0\n"
    # The same where the engine is a global that lives until the very end, and where a thread uses it until then.
    body += """
    import atexit
    def work():
        while True:
            engine.get(name)
    threading.Thread(target=work, daemon=True).start()
    atexit.register(lambda: print("at exit", flush=True))
    """
    assert quiet(run(body, names, workers)) == "1.0\nat exit\n"


@WORKERS
def test_a_script_that_ends_with_an_error(ioc: SimIOC, workers: int):
    body = """
    engine = Engine(workers=workers)
    engine.get(name, timeout=20)
    subscription = engine.subscribe(names, lambda batch: None)
    raise SystemExit(engine.get("NO:SUCH:PV", timeout=0.1))
    """
    done = run(body, [ioc.prefix + "ao00002"], workers)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1].startswith("daqca.errors.PVNotFoundError: cannot read NO:SUCH:PV")
    assert done.stderr.count("Traceback") == 1


@WORKERS
def test_a_script_with_an_unguarded_main(ioc: SimIOC, workers: int, tmp_path: Any):
    """A worker never runs the user's program again."""
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import sys\nprint('run')\nfrom daqca import Engine\n"
        f"with Engine(workers={workers}) as engine:\n    print(engine.get(sys.argv[1], timeout=20).value)\n"
    )
    command = [sys.executable, "-W", "error", str(script), ioc.prefix + "longin00003"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert quiet(done) == f"run\n{7 * 3}\n"


# --- Ctrl-C ---------------------------------------------------------------------------------


@WORKERS
def test_a_signal_that_another_thread_took_ends_a_wait(ioc: SimIOC, workers: int):
    """The waiting thread is not woken by it; nor by one that comes just before it falls asleep."""
    body = """
    import signal
    with Engine(workers=workers) as engine:
        engine.get(name, timeout=20)
        for call in (
            lambda: engine.get("NO:SUCH:PV", timeout=60),
            lambda: engine.snapshot([*names, "NO:SUCH:PV"], timeout=60),
            lambda: engine.connect([*names, "NO:SUCH:PV"], timeout=60),
        ):
            def interrupt():
                until_asked(engine)
                global when
                when = time.monotonic()
                os.kill(os.getpid(), signal.SIGINT)
            thread = threading.Thread(target=interrupt)
            thread.start()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                call()
            except KeyboardInterrupt:
                took = time.monotonic() - when
            thread.join()
            assert took < 2, took
            print("interrupted")
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    """
    names = [ioc.prefix + "ao00003", *ioc.names[100:140]]
    assert quiet(run(body, names, workers)) == "interrupted\n" * 3


@WORKERS
def test_ctrl_c_ends_a_wait_at_once(ioc: SimIOC, workers: int):
    """The whole group of the terminal gets the signal, the workers too."""
    body = """
    import signal
    slow = names.pop()
    with Engine(workers=workers) as engine:
        while engine.get(slow, timeout=20).value != 0:  # as it was put before
            time.sleep(0.01)
        engine.snapshot([*names, slow], timeout=20)
        def interrupt():
            until_asked(engine)
            global when
            when = time.monotonic()
            os.killpg(0, signal.SIGINT)
        for call in (
            lambda: engine.get("NO:SUCH:PV", timeout=60),
            lambda: engine.put("NO:SUCH:PV", 1, timeout=60),
            lambda: engine.snapshot([*names, "NO:SUCH:PV"], timeout=60),
            lambda: engine.connect([*names, "NO:SUCH:PV"], timeout=60, progress=lambda done, total: None),
            lambda: engine.put_many([*names[:1], "NO:SUCH:PV"], [1, 2], wait=True, timeout=60),
            lambda: engine.put(slow, 1, timeout=60),
        ):
            thread = threading.Thread(target=interrupt)
            thread.start()
            try:
                call()
            except KeyboardInterrupt:
                took = time.monotonic() - when
                print("interrupted")
            thread.join()
            assert took < 0.4, took
            assert engine.snapshot(names, timeout=20).missing == {}
            engine.put(name, 2.5)
            assert engine.get(name).value == 2.5
            assert [len(link.operations) for link in engine._links] == [0] * len(engine._links)
    """
    names = [ioc.prefix + "ao00003", *ioc.names[100:140], ioc.prefix + "slow"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGIN + textwrap.dedent(body), json.dumps(names), str(workers)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        start_new_session=True,
    )
    assert quiet(done) == "interrupted\n" * 6


@WORKERS
def test_ctrl_c_at_any_moment_leaves_the_engine_whole(ioc: SimIOC, workers: int):
    """A hundred times at a random moment of gets, puts and snapshots in a tight loop.

    NumPy drops one that comes while it looks for attributes of an operand: then it takes a second one.
    """
    body = """
    import random, signal
    done, again, rounds = 0, 0, 100
    go, heard = threading.Event(), threading.Event()
    with Engine(workers=workers) as engine:
        engine.snapshot(names, timeout=20)
        last = []
        def told(batch):
            last.extend(event.value for event in batch if event.kind == Kind.UPDATE)
        subscription = engine.subscribe([name], told)
        def interrupt():
            for _ in range(rounds):
                go.wait()
                go.clear()
                time.sleep(random.random() * 0.003)
                os.kill(os.getpid(), signal.SIGINT)
                while not heard.wait(1):
                    global again
                    again += 1
                    os.kill(os.getpid(), signal.SIGINT)
                heard.clear()
        thread = threading.Thread(target=interrupt)
        thread.start()
        calls = [
            lambda: engine.get(name),
            lambda: engine.put(name, random.random()),
            lambda: engine.snapshot(names, form="ctrl"),
            lambda: engine.put_many(names[:1], [random.random()], wait=True),
        ]
        for round_ in range(rounds):
            begin = time.monotonic()
            try:
                go.set()
                while time.monotonic() < begin + 20:
                    calls[round_ % 4]()
            except KeyboardInterrupt:
                heard.set()
                done += 1
            engine.put(name, -1.0 - round_)
            assert engine.get(name).value == -1.0 - round_
            assert engine.snapshot(names).missing == {}
        thread.join()
        begin = time.monotonic()
        while not last or last[-1] != -1.0 * rounds:
            assert time.monotonic() < begin + 20, last[-5:]
        assert [len(link.operations) for link in engine._links] == [0] * len(engine._links)
    print(done, again)
    """
    done, again = quiet(run(body, [ioc.prefix + "ao00004", *ioc.names[100:130]], workers)).split()
    assert done == "100"
    assert int(again) < 8


@WORKERS
def test_ctrl_c_ends_a_script_and_its_workers(ioc: SimIOC, workers: int):
    """Not caught at all: one traceback of KeyboardInterrupt, and nothing more."""
    body = """
    with Engine(workers=workers) as engine:
        engine.snapshot(names, timeout=20)
        subscription = engine.subscribe(names, lambda batch: None)
        print("ready", flush=True)
        engine.get("NO:SUCH:PV", timeout=60)
    """
    command = [sys.executable, "-W", "error", "-c", BEGIN + textwrap.dedent(body)]
    process = subprocess.Popen(
        [*command, json.dumps(ioc.names[:30]), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1


# --- fork -----------------------------------------------------------------------------------


@WORKERS
def test_a_forked_child_has_no_engine_until_it_makes_one(ioc: SimIOC, workers: int):
    """While other threads of the parent are in the middle of everything, with whatever locks they hold."""
    body = """
    from daqca.errors import EngineClosedError
    engine = Engine(workers=workers)
    assert engine.snapshot(names, timeout=20).missing == {}
    updates = []
    subscription = engine.subscribe(names, lambda batch: updates.append(len(batch)))
    stop = threading.Event()
    def work(call):
        while not stop.is_set():
            call()
    threads = [
        threading.Thread(target=work, args=(call,), daemon=True)
        for call in (lambda: engine.get(name), lambda: engine.snapshot(names), lambda: engine.stats(),
                     lambda: engine.subscribe(names[:5], lambda batch: None).close())
    ]
    for thread in threads:
        thread.start()

    def child():
        for call in (
            lambda: engine.get(name),
            lambda: engine.put(name, 1),
            lambda: engine.snapshot(names),
            lambda: engine.connect(names),
            lambda: engine.connect(["NEW:NAME"]),
            lambda: engine.put_many(names[:1], [1.0]),
            lambda: engine.subscribe(names, lambda batch: None),
        ):
            try:
                call()
            except EngineClosedError as error:
                assert "fork" in str(error), error
            else:
                raise AssertionError("the parent's engine works in the child")
        subscription.close()
        engine.close()
        with Engine(workers=workers) as mine:
            assert mine.snapshot(names, timeout=20).missing == {}
            mine.put(names[1], float(os.getpid()))
            assert mine.get(names[1]).value == float(os.getpid())

    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                threading.Timer(25, lambda: os._exit(3)).start()
                child()
                code = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, status
        assert engine.get(names[1]).value == float(pid)
        told = len(updates)
        while len(updates) == told:
            time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert engine.snapshot(names).missing == {}
    assert engine.stats()["lost"] == 0
    engine.close()
    print("well")
    """
    names = [ioc.prefix + "ao00005", ioc.prefix + "ao00006", *ioc.database.changing_names]
    flags = ("-W", "ignore::DeprecationWarning")  # of os.fork beside threads, since Python 3.12
    assert quiet(run(body, names, workers, *flags)) == "well\n"
