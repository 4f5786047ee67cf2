"""Programs with the low-level interface end at any moment: without a word or a hang, with the exit code they ask for.

All are real scripts, each in a process of its own.
"""

from __future__ import annotations

import itertools
import subprocess
import time

import pytest
from support.ca_scripts import BEGIN, QUICK, command, quiet, run, running

from daqca.sim import SimIOC

EVERYTHING = """
    keep = [watched(f"calc0000{i}") for i in range(1, 6)]
    missing = ca.create_channel(prefix + "no:such:record")
    slow, array = connected("slow"), connected("wf:large")
    ca.put(slow, 1, callback=lambda **known: None)
    for chid in (slow, array):
        ca.get(chid, wait=False)
    group = ca.sg_create()
    data = ca.sg_get(group, array)
    ca.put(array, [1.0] * 1000)

    def own_context(preemptive):
        ca.create_context(preemptive)
        chid, watch = watched("calc00001")
        ca.get(chid)
        keep.append(watch)

    for preemptive in (1, 0, 1):
        thread = threading.Thread(target=own_context, args=(preemptive,))
        thread.start()
        thread.join()

    def forever(call):
        while True:
            call()

    chid = keep[0][0]
    for call in (
        lambda: ca.get(chid),
        lambda: ca.get(array),
        lambda: ca.put(chid, 1.0, wait=True),
        lambda: ca.put(chid, 1.0),
        lambda: ca.connect_channel(missing, timeout=0.01),
        lambda: ca.clear_subscription(ca.create_subscription(chid, callback=lambda **known: None)[2]),
        lambda: ca.clear_channel(ca.create_channel(prefix + "ai00002")),
        ca.poll,
    ):
        begun(forever, call)
    begun(lambda: ca.put(slow, 1, wait=True))
    begun(lambda: ca.connect_channel(missing, timeout=60))
"""
"""Of everything something, and threads that nobody waits for in the middle of it."""


# --- everything is alive ------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", range(4))
def test_with_everything_alive(ioc: SimIOC, attempt: int):
    """At a random moment of eight threads, with the warnings of Python's development mode."""
    done = run(EVERYTHING + "    print('end', flush=True); sys.exit(5)", ioc.prefix, flags=("-X", "dev"))
    assert quiet(done, 5) == "end\n"


def test_with_everything_alive_and_no_cleaning_up(ioc: SimIOC):
    assert quiet(run(EVERYTHING + "    ca.AUTO_CLEANUP = False; sys.exit(5)", ioc.prefix), 5) == ""


def test_without_preemption(ioc: SimIOC):
    body = """
    ca.PREEMPTIVE_CALLBACK = False
    keep = [watched(f"calc0000{i}") for i in range(1, 6)]
    ca.put(connected("slow"), 1, callback=lambda **known: None)
    ca.pend_event(0.1)
    ca.get(keep[0][0], wait=False)
    sys.exit(6)
    """
    assert quiet(run(body, ioc.prefix, flags=("-X", "dev")), 6) == ""


@pytest.mark.parametrize(
    "body",
    ["", "ca.initialize_libca()", "ca.version()", "ca.create_channel('no:such:record')", "ca.create_context(0)"],
    ids=["nothing", "begun", "version", "searching", "context"],
)
def test_with_next_to_nothing(ioc: SimIOC, body: str):
    assert quiet(run(body, ioc.prefix)) == ""


def test_callbacks_that_print_are_not_broken_off(ioc: SimIOC):
    """A thread that stands still in the middle of a print would have the interpreter abort."""
    body = """
    seen = []
    def callback(**known):
        print("x" * 2000, flush=True)
        seen.append(1)
    keep = [watched(f"calc{i:05d}", callback) for i in range(1, 11)]
    until(lambda: len(seen) > 20)
    sys.exit(4)
    """
    for _ in range(4):
        assert set(quiet(run(body, ioc.prefix), 4).splitlines()) == {"x" * 2000}


def test_a_callback_that_does_not_return_is_left(ioc: SimIOC):
    body = """
    lock, entered = threading.Lock(), threading.Event()
    def callback(**known):
        entered.set()
        with lock:
            time.sleep(1000)
    with lock:
        keep = watched("calc00001", callback), watched("calc00002", callback)
        assert entered.wait(20)
        print("end", flush=True)
        sys.exit(9)
    """
    with running(body, ioc.prefix) as script:
        script.says("end")
        quiet(script.end(), 9)


def test_a_callback_in_the_middle_of_gets_and_puts(ioc: SimIOC):
    body = """
    entered = threading.Event()
    def callback(chid, **known):
        while True:
            ca.get(chid)
            ca.put(output, 1.0, wait=True)
            entered.set()
    output = connected("ao00001")
    keep = watched("calc00001", callback)
    assert entered.wait(20)
    """
    begin = time.monotonic()
    assert quiet(run(body, ioc.prefix)) == ""
    assert time.monotonic() - begin < QUICK


def test_threads_that_are_waited_for_go_on(ioc: SimIOC):
    body = """
    over = threading.Event()
    def work():
        over.wait()
        chid = connected("ao00001")
        for i in range(50):
            ca.put(chid, float(i), wait=True)
            assert ca.get(chid) == i
        print("worked")
    ca.initialize_libca()
    threading.Thread(target=work).start()
    threading.Timer(0.2, over.set).start()
    """
    assert quiet(run(body, ioc.prefix)) == "worked\n"


# --- the order of things ------------------------------------------------------------------------

STEPS = {
    "subscription": "ca.clear_subscription(watch[2])",
    "channel": "ca.clear_channel(chid)",
    "context": "ca.destroy_context()",
    "all": "ca.finalize_libca()",
}


@pytest.mark.timeout(120)
def test_torn_down_in_every_order(ioc: SimIOC):
    """What comes too late says so with one kind of error, or does nothing; and the end is quiet."""
    body = """
    names = sys.argv[2].split()
    steps = {STEPS}
    ca.PREEMPTIVE_CALLBACK = names.pop() == "1"
    chid, watch = watched("calc00001")
    late = ca.create_channel(prefix + "no:such:record")
    for name in names:
        try:
            exec(steps[name])
        except ca.ChannelAccessException:
            pass
        ca.poll()
    sys.exit(len(names))
    """.replace("{STEPS}", repr(STEPS))
    orders = [order for n in (1, 2, 4) for order in itertools.permutations(STEPS, n)]
    commands = [command(body, ioc.prefix, " ".join((*order, str(i % 2)))) for i, order in enumerate(orders)]
    for start in range(0, len(orders), 4):
        processes = [
            subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for each in commands[start : start + 4]
        ]
        for order, process in zip(orders[start:], processes, strict=False):
            output, _ = process.communicate(timeout=50)
            assert (process.returncode, output) == (len(order), ""), order


@pytest.mark.parametrize("preemptive", [True, False])
def test_what_a_program_has_called_at_its_end_works(ioc: SimIOC, preemptive: bool):
    """In whatever order it was registered; without preemption, if that was after the first call."""
    begin = """
import atexit, sys
def early():
    if ca.PREEMPTIVE_CALLBACK:
        use("early")
    ca.clear_subscription(watch[2]), ca.pend_event(0.01), ca.flush_io(), ca.finalize_libca(), ca.destroy_context()
    print("over")
atexit.register(early)
"""
    body = """
    ca.PREEMPTIVE_CALLBACK = sys.argv[2] == "True"
    def use(when):
        ca.put(output, 4.5, wait=True)
        ca.put(other, "text")
        print(when, ca.get(output), ca.get(other), ca.get(connected("ai00001")))
    if ca.PREEMPTIVE_CALLBACK:
        atexit.register(lambda: use("second"))
    chid, watch = watched("calc00001")
    output, other = connected("ao00003"), connected("stringout00003")
    atexit.register(lambda: use("third"))
    print("end")
    """
    out = quiet(run(body, ioc.prefix, str(preemptive), begin=begin + BEGIN))
    said = [f"{when} 4.5 text 0.125" for when in ("third", "second", "early")]
    assert out.splitlines() == ["end", *(said if preemptive else said[:1]), "over"]


def test_objects_that_tear_down_when_the_interpreter_goes(ioc: SimIOC):
    """When nothing can be imported any more, and other threads stand still with their locks."""
    body = """
    class Holder:
        def __init__(self):
            self.chid, self.watch = watched("calc00001")
            self.write = os.write
        def __del__(self):
            ca.clear_subscription(self.watch[2])
            ca.clear_channel(self.chid)
            ca.flush_io(), ca.poll(), ca.detach_context(), ca.destroy_context(), ca.finalize_libca(1.0)
            assert ca.current_context() is None or ca.current_context() > 0
            for call in (lambda: ca.get(self.chid), lambda: ca.put(self.chid, 1.0), lambda: ca.create_channel("new")):
                try:
                    call()
                except ca.ChannelAccessException:
                    pass
            self.write(1, b"gone ")
    ca.get, ca.put, ca.ChannelAccessException
    def forever(chid):
        while True:
            ca.put(chid, 1.0)
            ca.get(chid)
    for i in range(3):
        begun(forever, connected(f"ao{i + 1:05d}"))
    import builtins
    holder, builtins.holder = Holder(), Holder()
    cycle = [Holder()]
    cycle.append(cycle)
    """
    for _ in range(8):
        done = run(body, ioc.prefix)
        assert set(quiet(done).split()) == {"gone"}


# --- sys.exit, errors, signals ------------------------------------------------------------------


def test_sys_exit_in_a_callback_ends_the_callback(ioc: SimIOC):
    """As it ends no more than a thread in any other thread than the main one; callbacks go on."""
    body = """
    seen, told = [], []
    def callback(value, **known):
        seen.append(value)
        sys.exit(3)
    keep = watched("calc00001", callback), watched("calc00002", lambda value, **known: told.append(value))
    def connection(conn, **known):
        seen.append(conn)
        if threading.current_thread() is not threading.main_thread():  # which is told itself if it connects at once
            sys.exit(3)
    until(lambda: len(seen) > 3 and len(told) > 3)
    seen.clear(), told.clear()
    ca.create_channel(prefix + "ao00001", callback=connection)
    chid = connected("ao00001", lambda conn, **known: told.append(conn))
    until(lambda: True in seen and True in told)
    seen.clear()
    ca.put(chid, 1.0, callback=lambda **known: (seen.append("put"), sys.exit(3)))
    until(lambda: "put" in seen and len(seen) > 3)
    sys.exit(8)
    """
    assert quiet(run(body, ioc.prefix), 8) == ""


@pytest.mark.parametrize(
    "wait",
    [
        "ca.pend_event(60)",
        "while True: ca.poll()",
        "while True: ca.pend_io()",
        "while True: ca.get(chid)",
        "ca.connect_channel(missing, timeout=60)",
    ],
)
def test_sys_exit_in_a_callback_of_a_polling_program_ends_it(ioc: SimIOC, wait: str):
    body = f"""
    ca.PREEMPTIVE_CALLBACK = False
    def callback(**known):
        sys.exit(3)
    missing = ca.create_channel(prefix + "no:such:record")
    chid, watch = watched("calc00001", callback)
    {wait}
    """
    assert quiet(run(body, ioc.prefix), 3) == ""


def test_os_exit(ioc: SimIOC):
    assert quiet(run(EVERYTHING + "    os._exit(7)", ioc.prefix), 7) == ""
    body = """
    keep = watched("calc00001", lambda **known: os._exit(7))
    time.sleep(1000)
    """
    assert quiet(run(body, ioc.prefix), 7) == ""


def test_an_error_ends_a_program_with_one_traceback(ioc: SimIOC):
    done = run(EVERYTHING + "    ca.get(5)", ioc.prefix)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Traceback")
    assert done.stderr.count("Traceback") == 1
    assert "ChannelAccessException" in done.stderr.splitlines()[-1]


# --- finalize_libca, contexts, processes --------------------------------------------------------


def test_finalized_before_at_and_after_the_end(ioc: SimIOC):
    body = """
    def use():
        keep.append(watched("calc00001"))
        assert ca.get(keep[-1][0]) is not None
    keep = []
    ca.finalize_libca()
    use()
    ca.finalize_libca()
    ca.finalize_libca()
    if sys.argv[2] == "again":
        use()
    elif sys.argv[2] == "exit":
        use()
        atexit.register(ca.finalize_libca)
    elif sys.argv[2] == "thread":
        use()
        thread = begun(ca.finalize_libca)
    elif sys.argv[2] == "callback":
        done = threading.Event()
        keep.append(watched("calc00001", lambda **known: (ca.finalize_libca(), done.set())))
        assert done.wait(20)
    sys.exit(2)
    """
    for how in ("never", "again", "exit", "thread", "callback"):
        assert quiet(run(body, ioc.prefix, how), 2) == "", how


def test_contexts_of_threads_that_have_ended(ioc: SimIOC):
    body = """
    ca.initialize_libca()
    keep = []
    def work(preemptive, tidy):
        ca.create_context(preemptive)
        keep.append(watched("calc00001"))
        assert ca.get(keep[-1][0]) is not None
        if tidy:
            ca.destroy_context()
    threads = [threading.Thread(target=work, args=(i % 2, i % 3 == 0)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(ca._cache))
    """
    assert quiet(run(body, ioc.prefix)) == "7\n"


def test_a_process_of_a_process_is_left_alone(ioc: SimIOC):
    """Descriptors are not passed on to programs that are started."""
    body = """
    import subprocess
    keep = watched("calc00001")
    listing = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False)
    print("socket:" in listing.stdout, "eventpoll" in listing.stdout)
    """
    assert quiet(run(body, ioc.prefix)) == "False False\n"
