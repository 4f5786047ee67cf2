"""`CAProcess` and `CAPool`: children of multiprocessing have Channel Access for themselves. Manual, chapter 10.5.

Each test runs a script of its own. Under the name of ``epics`` they are in ``test_multiproc_compat.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from support import multiproc
from support.ca_scripts import QUICK, quiet
from support.ioc import IOCFactory, random_prefix
from support.multiproc import COMMAND, METHODS, alive, run, running

from daqca.sim import SimIOC, SoftIOC

command = multiproc.command

# --- processes ----------------------------------------------------------------------------------

CHILD = """
def child(queue, ending):
    seen, moving = [], []
    context = ca.current_context()
    assert context == ca.initial_context is not None
    assert ca._cache[context] == {}
    output = epics.PV(prefix + ending, callback=lambda value, **kw: seen.append(value))
    assert output.put(os.getpid(), wait=True) == 1
    assert output.get() == os.getpid()
    until(lambda: seen and seen[-1] == os.getpid())
    watch = epics.PV(prefix + "calc00001", callback=lambda value, **kw: moving.append(value))
    until(lambda: len(moving) > 2)
    chid = ca.create_channel(prefix + ending, connect=True)
    assert ca.get(chid) == os.getpid()
    assert epics.caput(prefix + ending, 0.5, wait=True) == 1
    queue.put((ending, os.getpid(), output.get(), epics.caget(prefix + "ai00001"), epics.caget(prefix + "longin00003")))
"""


@METHODS
@pytest.mark.parametrize("workers", [0, 2], ids=["here", "workers"])
def test_children_have_their_own_and_the_parent_goes_on(ioc: SimIOC, command: COMMAND, method: str, workers: int):
    """Three at once, which read, write and have callbacks. The parent has monitors, and writes."""
    main = f"""
    engine = epics.Engine(workers={workers})
    epics.use_engine(engine)
    updates, connections, below = [], [], []
    pv = epics.PV(prefix + "calc00001", callback=lambda value, **kw: updates.append(value))
    told = epics.PV(prefix + "ao00011", connection_callback=lambda conn, **kw: connections.append(conn))
    cached = epics.get_pv(prefix + "ao00012")
    chid, _ = ca.create_channel(prefix + "calc00002", connect=True), ca.current_context()
    subscription = ca.create_subscription(chid, callback=lambda **kw: below.append(1))
    until(lambda: connections and updates and below)
    context, connects = ca.current_context(), engine.stats()["shards"]
    for round_ in range(2):
        queue = mp.Queue()
        children = [epics.CAProcess(target=child, args=(queue, f"ao0002{{i}}")) for i in range(3)]
        assert all(isinstance(one, mp.Process) for one in children)
        for one in children:
            one.start()
        got = sorted(queue.get(timeout=40) for _ in children)
        for one in children:
            joined(one)
        assert got == [(f"ao0002{{i}}", one.pid, 0.5, 0.125, 21) for i, one in enumerate(children)], got
        assert epics.caget_many([prefix + f"ao0002{{i}}" for i in range(3)]) == [0.5] * 3
        count, count_below = len(updates), len(below)
        until(lambda: len(updates) > count + 1 and len(below) > count_below + 1)
        assert told.put(round_ + 1.0, wait=True) == 1 and told.get() == round_ + 1.0
        assert cached.connected and epics.get_pv(prefix + "ao00012") is cached
        assert connections == [True], connections
        assert ca.current_context() == context and ca.isConnected(chid)
    assert engine.stats()["callback_errors"] == 0
    engine.close()
    print("well")
    """
    assert run(command(CHILD, main, ioc.prefix, method)) == "well\n"


@METHODS
def test_arguments_names_and_exit_codes(ioc: SimIOC, command: COMMAND, method: str):
    """All that a `multiprocessing.Process` has; and what the target raises is as there."""
    functions = """
    def said(number, text="", *, exit=None):
        epics.caput(prefix + "ao00030", number)
        print(number, text, mp.current_process().name, mp.current_process().daemon, flush=True)
        if exit is not None:
            sys.exit(exit)

    class Mine(epics.CAProcess):
        def __init__(self, number):
            super().__init__(name="mine", daemon=True)
            self.number = number

        def run(self):
            super().run()
            said(self.number, "of a class", exit=4)
    """
    main = """
    value = lambda: epics.caget(prefix + "ao00030")
    for process, code in (
        (epics.CAProcess(None, said, "one", (1, "two")), 0),
        (epics.CAProcess(target=said, args=[2], kwargs={"exit": 3}, name="two", daemon=True), 3),
        (Mine(3), 4),
    ):
        process.start()
        joined(process, code)
        until(lambda: value() == {"one": 1, "two": 2, "mine": 3}[process.name])
    assert epics.CAProcess().name.startswith("CAProcess-")
    """
    assert run(command(functions, main, ioc.prefix, method)) == (
        "1 two one False\n2  two True\n3 of a class mine True\n"
    )


def test_what_a_target_raises(ioc: SimIOC, command: COMMAND):
    functions = """
    def failed():
        epics.caput(prefix + "ao00031", 31)
        raise ValueError("the target's own")
    """
    main = """
    process = epics.CAProcess(target=failed)
    process.start()
    joined(process, 1)
    assert epics.caget(prefix + "ao00031") == 31
    """
    done = subprocess.run(
        command(functions, main, ioc.prefix, "fork"), capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Process CAProcess-1:\nTraceback ")
    assert done.stderr.endswith("\nValueError: the target's own\n")


def test_run_that_is_called_here(ioc: SimIOC, command: COMMAND):
    """It clears the context of this process, as it says, and ends nothing."""
    main = """
    pv = epics.PV(prefix + "ao00032")
    assert pv.put(1, wait=True) == 1
    chid = ca.create_channel(prefix + "ao00032", connect=True)
    context = ca.current_context()
    epics.CAProcess(target=print, args=("here",)).run()
    assert ca.current_context() not in (None, context)
    assert pv.put(2, wait=True) == 1
    assert epics.caget(prefix + "ao00032") == 2
    """
    assert run(command("", main, ioc.prefix, "fork")) == "here\n"


# --- the end of a child -------------------------------------------------------------------------

RING = """
record(ao, "{P}in") {{ field(FLNK, "{P}ring") }}
record(compress, "{P}ring") {{ field(ALG, "Circular Buffer") field(NSAM, 2000) field(INP, "{P}in NPP") }}
record(waveform, "{P}wave") {{ field(FTVL, DOUBLE) field(NELM, 1000000) field(FLNK, "{P}many") }}
record(calc, "{P}many") {{ field(CALC, "VAL+1") }}
"""
"""What was put to ``in``, one after the other; how often ``wave`` was written."""


@pytest.fixture
def ring(make_ioc: IOCFactory, point_at: Callable[..., object]) -> tuple[SoftIOC, str]:
    prefix = random_prefix()
    ioc = make_ioc(RING.format(P=prefix))
    point_at(ioc)
    return ioc, prefix


PUTS = """
import numpy as np

def putter(way, ending):
    if way == "ca":
        chid = ca.create_channel(prefix + ending, connect=True)
        return lambda value: ca.put(chid, value)
    if way != "0":
        epics.use_engine(epics.Engine(workers=int(way)))
    pv = epics.PV(prefix + ending)
    assert pv.wait_for_connection(20)
    return pv.put

def numbers(way):
    put = putter(way, "in")
    for number in range(1000):
        put(number)

def arrays(way, ready, begin, end):
    put = putter(way, "wave")
    ready.set()
    begin.wait()
    for number in range(3):
        put(np.full(1_000_000, number, float))
    end.set()
"""
WAYS = pytest.mark.parametrize("way", ["0", "2", "ca"], ids=["here", "workers", "lowlevel"])


@METHODS
@WAYS
def test_a_thousand_puts_without_waiting_all_arrive(ring: tuple[SoftIOC, str], command: COMMAND, method: str, way: str):
    """Of a child that ends at once."""
    main = """
    for round_ in range(2):
        epics.caput(prefix + "ring.RES", 1, wait=True)
        process = epics.CAProcess(target=numbers, args=(sys.argv[3],))
        process.start()
        joined(process)
        until(lambda: epics.caget(prefix + "ring.NUSE") == 1000)
        assert list(epics.caget(prefix + "ring")) == list(range(1000))
    print("well")
    """
    assert run(command(PUTS, main, ring[1], method, way)) == "well\n"


@WAYS
def test_a_child_ends_when_its_server_has_taken_what_it_put(ring: tuple[SoftIOC, str], command: COMMAND, way: str):
    """The server stands still until the child ends, and has not taken what is more than the buffers of sockets."""
    main = """
    ready, begin, end = mp.Event(), mp.Event(), mp.Event()
    process = epics.CAProcess(target=arrays, args=(sys.argv[3], ready, begin, end))
    process.start()
    pv = epics.PV(prefix + "many")
    assert pv.wait_for_connection(20)
    ready.wait()
    print("suspend", flush=True)
    sys.stdin.readline()
    begin.set()
    end.wait()
    print("resume", flush=True)
    joined(process)
    until(lambda: pv.get(use_monitor=False, timeout=10) == 3)
    print("well")
    """
    ioc, prefix = ring
    with running(command(PUTS, main, prefix, "fork", way)) as script:
        script.says("suspend")
        ioc.suspend()
        script.tell()
        script.says("resume")
        ioc.resume()
        assert quiet(script.end(within=40)) == "well\n"


@METHODS
def test_threads_that_the_target_leaves_are_waited_for(ioc: SimIOC, command: COMMAND, method: str):
    """They use Channel Access until they end; also those of an executor that nobody has shut down."""
    functions = """
    from concurrent.futures import ThreadPoolExecutor

    def later(pv, value):
        threading.main_thread().join(0.2)
        assert pv.put(value, wait=True) == 1
        pv.put(value + 1)

    def child():
        global executor
        pvs = [epics.PV(prefix + f"ao0004{i}") for i in range(2)]
        executor = ThreadPoolExecutor(2)
        executor.submit(later, pvs[0], 40)
        threading.Thread(target=later, args=(pvs[1], 50)).start()
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    """
    main = """
    process = epics.CAProcess(target=child)
    process.start()
    joined(process)
    until(lambda: epics.caget_many([prefix + "ao00040", prefix + "ao00041"]) == [41, 51])
    print("well")
    """
    assert run(command(functions, main, ioc.prefix, method)) == "well\n"


FOREVER = """
def forever(queue, ending):
    try:
        pv = epics.PV(prefix + ending)
        watch = epics.PV(prefix + "calc00003", callback=lambda **kw: None)
        pv.put(os.getpid(), wait=True)
        queue.put(os.getpid())
        while True:
            pv.put(pv.get() + 1, wait=True)
    except KeyboardInterrupt:
        sys.exit(7)
"""


@METHODS
def test_terminate(ioc: SimIOC, command: COMMAND, method: str):
    main = """
    updates = []
    pv = epics.PV(prefix + "calc00001", callback=lambda **kw: updates.append(1))
    queue = mp.SimpleQueue()
    process = epics.CAProcess(target=forever, args=(queue, "ao00051"))
    process.start()
    assert queue.get() == process.pid
    first = epics.caget(prefix + "ao00051")
    until(lambda: epics.caget(prefix + "ao00051") > first)
    process.terminate()
    joined(process, -signal.SIGTERM)
    count = len(updates)
    until(lambda: len(updates) > count)
    print("well")
    """
    assert run(command(FOREVER, main, ioc.prefix, method)) == "well\n"


@METHODS
@pytest.mark.parametrize("whom", ["group", "parent"])
def test_ctrl_c_leaves_nothing_behind(ioc: SimIOC, command: COMMAND, method: str, whom: str):
    """As in the manual's example the parent terminates its child; the other is a daemon, which Python terminates.

    A Ctrl-C at the terminal is one for the children, too, which may end by it.
    """
    main = """
    queue = mp.SimpleQueue()
    try:
        process = epics.CAProcess(target=forever, args=(queue, "ao00052"))
        other = epics.CAProcess(target=forever, args=(queue, "ao00053"), daemon=True)
        for one in (process, other):
            one.start()
            print(queue.get(), flush=True)
        process.join()
    except KeyboardInterrupt:
        process.terminate()
    process.join(20)
    print(process.exitcode)
    """
    with running(command(FOREVER, main, ioc.prefix, method)) as script:
        assert script.process.stdout is not None
        pids = [int(script.process.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in pids)
        send, target = (os.killpg, script.process.pid) if whom == "group" else (os.kill, script.process.pid)
        send(target, signal.SIGINT)
        codes = (f"{-signal.SIGTERM}\n", "7\n")
        assert quiet(script.end()) in (codes if whom == "group" else codes[:1])
        assert not any(alive(pid) for pid in pids)


# --- pools --------------------------------------------------------------------------------------

READ = """
def value(ending):
    return epics.caget(prefix + ending)

def begun(number, names):
    global started
    started = number, mp.current_process().name, type(mp.current_process()).__name__
    global held
    held = [epics.get_pv(prefix + name) for name in names]

def told(index):
    return (*started, held[index].get())

def who(number):
    epics.caput(prefix + "ao00055", number, wait=True)
    return os.getpid()
"""
CIRCUITS = """
def undisturbed(pv, updates):
    count = len(updates)
    until(lambda: len(updates) > count + 1)
    assert pv.connected
"""


@METHODS
def test_a_pool(ioc: SimIOC, command: COMMAND, method: str):
    """Values, an initializer, tasks that a process has at most, and its end; beside a parent that has monitors."""
    main = """
    updates = []
    pv = epics.PV(prefix + "calc00001", callback=lambda **kw: updates.append(1))
    undisturbed(pv, updates)
    names = ["ai00001", "longin00003", "ai00002", "longin00001"]
    with epics.CAPool(2) as pool:
        assert isinstance(pool, mp.pool.Pool)
        assert all(type(process) is epics.CAProcess for process in pool._pool)
        assert pool.map(value, names) == [0.125, 21, 0.25, 7]
        assert list(pool.imap(value, names, chunksize=2)) == [0.125, 21, 0.25, 7]
        assert pool.apply_async(value, ("ai00001",)).get(30) == 0.125
        undisturbed(pv, updates)
        pool.close()
        pool.join()
    with epics.CAPool(processes=1, initializer=begun, initargs=(5, names)) as pool:
        got = pool.map(told, range(4))
        assert [one[3] for one in got] == [0.125, 21, 0.25, 7]
        assert {one[0] for one in got} == {5} and {one[2] for one in got} == {"CAProcess"}
        assert got[0][1].startswith("CAPoolWorker-"), got
    with epics.CAPool(2, maxtasksperchild=1) as pool:
        pids = pool.map(who, range(4), chunksize=1)
        assert len(set(pids)) == 4 and os.getpid() not in pids, pids
        pool.close()
        pool.join()
    assert epics.caget(prefix + "ao00055") in range(4)
    undisturbed(pv, updates)
    print("well")
    """
    assert run(command(READ + CIRCUITS, main, ioc.prefix, method)) == "well\n"


def test_what_a_pool_refuses(ioc: SimIOC, command: COMMAND):
    main = """
    for arguments in ({"processes": 0}, {"processes": 1, "maxtasksperchild": 0}):
        try:
            epics.CAPool(**arguments)
        except ValueError as error:
            print(error)
    """
    done = run(command("", main, ioc.prefix, "fork"))
    assert done.startswith("Number of processes must be at least 1\n")


def test_the_puts_of_a_pool_that_is_left(ring: tuple[SoftIOC, str], command: COMMAND):
    """Leaving ``with`` terminates its processes: what its tasks have put was sent by then."""
    functions = """
    def put(number):
        epics.get_pv(prefix + "in").put(number)
    """
    main = """
    with epics.CAPool(2) as pool:
        pool.map(put, range(1000))
    until(lambda: epics.caget(prefix + "ring.NUSE") == 1000)
    assert sorted(epics.caget(prefix + "ring")) == list(range(1000))
    print("well")
    """
    assert run(command(functions, main, ring[1], "fork")) == "well\n"


# --- the import -----------------------------------------------------------------------------------


def test_importing_daqca_stays_light():
    text = "import sys, daqca; print([name for name in ('multiprocessing', 'daqca.multiproc') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=QUICK, check=False)
    assert quiet(done) == "[]\n"
