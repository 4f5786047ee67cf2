"""os.fork and multiprocessing with the low-level interface: the child begins clean, the parent goes on undisturbed."""

from __future__ import annotations

import pytest
from support.ca_scripts import FORKED, quiet, run, running

from daqca.sim import SimIOC

# A warning of os.fork beside threads, since Python 3.12.
FLAGS = ("-W", "ignore::DeprecationWarning")
CHILD = (
    "\n    import traceback\n"
    + FORKED
    + """
    def refused(call):
        try:
            call()
        except ca.ChannelAccessException as error:
            return
        raise AssertionError("the parent's channel works in the child")

    def clean():
        '''A child has no contexts, and what the parent had is of no use to it; nothing of it hangs.'''
        assert ca.initial_context is None and ca.libca is None and ca._cache == {}
        chid, watch = old
        for call in (
            lambda: ca.get(chid),
            lambda: ca.get(int(chid)),
            lambda: ca.get(chid, wait=False),
            lambda: ca.get_complete(chid),
            lambda: ca.put(chid, 1.0),
            lambda: ca.put(chid, 1.0, wait=True),
            lambda: ca.connect_channel(chid),
            lambda: ca.create_subscription(chid, callback=print),
            lambda: ca.clear_channel(chid),
            lambda: ca.isConnected(chid),
        ):
            refused(call)
        ca.clear_subscription(watch[2])
        ca.poll(), ca.flush_io(), ca.detach_context(), ca.destroy_context()
        assert ca.attach_context(parents) != 1

    def works(own=prefix + "ao00010"):
        '''A child that begins has all that others have.'''
        seen = []
        chid, watch = watched("calc00001", lambda value, **known: seen.append(value))
        output = ca.create_channel(own, connect=True)
        number = float(os.getpid())
        assert ca.put(output, number, wait=True) == 1
        assert ca.get(output) == number
        until(lambda: len(seen) > 2)
        assert ca.current_context() == ca.initial_context is not None
"""
)
PARENT = """
    connections, updates = [], []
    old = watched("calc00001", lambda **known: updates.append(1))
    parents = ca.current_context()
    told = connected("calc00002", lambda conn, **known: connections.append(conn))
    until(lambda: connections)
    output = connected("ao00011")
"""
UNDISTURBED = """
        count = len(updates)
        until(lambda: len(updates) > count + 1)
        ca.put(output, float(round_), wait=True)
        assert ca.get(output) == round_
        assert connections == [True], connections
        assert {link.sock.getsockname() for link in links()} == circuits
"""
LINKS = """
    from daqca.ca.lowlevel.session import session
    def links():
        return [link for client in session.contexts.values() for link in client.context._links.values()]
    circuits = {link.sock.getsockname() for link in links()}
    assert circuits
"""


@pytest.mark.timeout(120)
def test_a_child_begins_clean_and_the_parent_goes_on(ioc: SimIOC):
    """While other threads of the parent are in the middle of everything, with whatever locks they hold."""
    body = f"""
    {CHILD}{PARENT}
    def own_context():
        ca.create_context()
        keep.append(watched("calc00003"))
    keep = []
    thread = threading.Thread(target=own_context)
    thread.start()
    thread.join()
    {LINKS}
    def forever(call):
        while True:
            call()
    chids = [connected(f"ao{{i:05d}}") for i in range(1, 5)]
    for call in (
        lambda: ca.get(chids[0]),
        lambda: ca.put(chids[1], 1.0, wait=True),
        lambda: ca.put(chids[2], 1.0),
        lambda: ca.clear_subscription(ca.create_subscription(chids[3], callback=lambda **known: None)[2]),
        lambda: ca.clear_channel(ca.create_channel(prefix + "ai00002")),
        ca.poll,
    ):
        begun(forever, call)

    def child():
        clean()
        works()
    for round_ in range(6):
        assert forked(child) == 0
        assert forked(clean) == 0
{UNDISTURBED}
    print("well")
    """
    assert quiet(run(body, ioc.prefix, flags=FLAGS, timeout=100)) == "well\n"


def test_a_child_that_ends_as_a_program_does(ioc: SimIOC):
    """Through the end of the script, with everything alive, with and without use of Channel Access."""
    body = f"""
    {CHILD}{PARENT}{LINKS}
    def child(round_):
        signal.alarm(25)
        if round_ % 2:
            works()
        if round_ >= 2:
            ca.finalize_libca()
        print("child", flush=True)
        sys.exit(10 + round_)
    for round_ in range(4):
        pid = os.fork()
        if pid == 0:
            child(round_)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10 + round_
{UNDISTURBED}
    print("well")
    sys.exit(5)
    """
    assert quiet(run(body, ioc.prefix, flags=FLAGS), 5) == "child\n" * 4 + "well\n"


def test_a_fork_in_a_callback(ioc: SimIOC):
    body = f"""
    {CHILD}{PARENT}{LINKS}
    codes = []
    def child():
        clean()
        works()
    def callback(**known):
        if len(codes) < 2:
            codes.append(forked(child))
    keep = watched("calc00004", callback)
    until(lambda: len(codes) == 2)
    for round_ in range(2):
        assert codes[round_] == 0
{UNDISTURBED}
    print("well")
    """
    assert quiet(run(body, ioc.prefix, flags=FLAGS)) == "well\n"


def test_children_of_children(ioc: SimIOC):
    body = f"""
    {CHILD}{PARENT}{LINKS}
    def grandchild():
        refused(lambda: ca.get(between[0]))
        ca.clear_subscription(between[1][2])
        clean()
        works(prefix + "ao00012")
    def child():
        global between
        works()
        between = watched("calc00005")
        assert forked(grandchild) == 0
        works()
    for round_ in range(2):
        assert forked(child) == 0
{UNDISTURBED}
    print("well")
    """
    assert quiet(run(body, ioc.prefix, flags=FLAGS)) == "well\n"


def test_without_preemption(ioc: SimIOC):
    """In a callback that runs in poll, and between two of them."""
    body = f"""
    ca.PREEMPTIVE_CALLBACK = False
    patiently = until
    def until(condition):
        patiently(lambda: (ca.poll(), condition())[1])
    {CHILD}{PARENT}{LINKS}
    codes = []
    def child():
        clean()
        works()
        ca.finalize_libca()
        ca.PREEMPTIVE_CALLBACK = True
        works()
    def callback(**known):
        if len(codes) < 2:
            codes.append(forked(child))
    keep = watched("calc00004", callback)
    until(lambda: len(codes) == 2)
    for round_ in range(2):
        assert codes[round_] == 0
        assert forked(child) == 0
{UNDISTURBED}
    print("well")
    """
    assert quiet(run(body, ioc.prefix, flags=FLAGS)) == "well\n"


def test_what_synchronous_groups_wait_with_is_forgotten(ioc: SimIOC):
    body = f"""
    {CHILD}{PARENT}{LINKS}
    group = ca.sg_create()
    ca.sg_get(group, old[0])
    ca.sg_put(group, output, 3.0)
    def child():
        clean()
        ca.pend_io(), ca.poll()
        works()
        ca.pend_io(), ca.poll()
    for round_ in range(1):
        assert forked(child) == 0
{UNDISTURBED}
    assert ca.sg_block(group) == 1
    print("well")
    """
    assert quiet(run(body, ioc.prefix, flags=FLAGS)) == "well\n"


@pytest.mark.parametrize("reset", [False, True], ids=["", "clear_cache"])
def test_multiprocessing(ioc: SimIOC, reset: bool):
    """Processes and a pool, by fork; also as the manual's CAProcess does it, which calls clear_cache first."""
    body = f"""
    import multiprocessing
    {CHILD}{PARENT}{LINKS}
    def child(number):
        signal.alarm(25)
        if {reset}:
            ca.clear_cache()
        else:
            clean()
        works(f"{{prefix}}ao{{20 + number:05d}}")
        return number, os.getpid()
    def value(ending):
        return ca.get(connected(ending))
    context = multiprocessing.get_context("fork")
    for round_ in range(2):
        processes = [context.Process(target=child, args=(i,)) for i in range(3)]
        for process in processes:
            process.start()
        for i, process in enumerate(processes):
            process.join(30)
            assert process.exitcode == 0, process.exitcode
            assert value(f"ao{{20 + i:05d}}") == process.pid
        with context.Pool(2) as pool:
            assert pool.map(value, ["ai00001", "longin00003", "ai00002", "longin00001"]) == [0.125, 21, 0.25, 7]
            pool.close()
            pool.join()
{UNDISTURBED}
    print("well")
    """
    assert quiet(run(body, ioc.prefix, flags=FLAGS)) == "well\n"


def test_the_end_of_a_daemon_that_has_forked_itself_twice(ioc: SimIOC):
    """The parent ends while the child, which was forked in the middle of everything, works on."""
    body = f"""
    {CHILD}{PARENT}
    if os.fork():
        os._exit(3)
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.alarm(25)
    clean()
    works()
    print("well", flush=True)
    """
    with running(body, ioc.prefix, flags=FLAGS) as script:
        script.says("well")
        assert quiet(script.end(), 3) == ""
