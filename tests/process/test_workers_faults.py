"""Workers that die, stop, or never start; parents that are killed; scripts that are not guarded; Ctrl-C; forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.pools import PATIENCE, Answers, Heard, connected, is_running, pool_of, read, stopped, wait_until

from daqca.broker.broker import Broker
from daqca.broker.client import BrokerClient
from daqca.broker.port import WorkerPort
from daqca.ca.dbr import Mask
from daqca.ca.settings import Settings
from daqca.errors import EngineClosedError, WorkerError
from daqca.events import Kind, Reason
from daqca.workers import Supervision, WorkerLink, WorkerPool
from daqca.workers.asking import State
from daqca.workers.main import serve
from daqca.workers.worker import Worker

VALUE = int(Mask.VALUE | Mask.ALARM)
ECA_DISCONN = 24


def steady(ioc, n=20):
    """Names of scalar records that do not change, and the numbers they serve."""
    records = [r for r in ioc.database.by_name.values() if not r.changing and r.native_type in (1, 3, 5, 6)][:n]
    return [record.name for record in records], [float(record.value) for record in records]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


# --- a worker dies ----------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_everything_is_restored(ioc):
    names, numbers = steady(ioc)
    changing = ioc.database.changing_names[:5]
    with pool_of(2) as (pool, heard):
        link, other = pool.links
        slots = connected(pool, heard, names + changing)
        theirs = connected(pool, heard, names, 1)
        missing = link.add(["no:such:pv"])
        link.subscribe(slots, VALUE)
        heard.wait(lambda: len(np.unique(heard.of(link, Kind.UPDATE)["slot"])) == len(slots), "first values")
        waits = Answers(1)
        link.read(missing, waits)
        before = pool.pids
        kill(before[0])
        # What was asked fails, by name; every channel is told to be stale, and why.
        assert waits.wait(PATIENCE)
        assert (waits.kinds(), waits.statuses()) == ([Kind.FAILED], [ECA_DISCONN])
        lost = heard.of(link, Kind.DISCONNECTED)
        assert sorted(lost["slot"].tolist()) == slots.tolist()
        assert set(lost["status"].tolist()) == {Reason.WORKER_LOST}
        # Then all of it comes back: each channel connected, each subscription with its value, under the same slots.
        mark = len(heard.of(link))
        heard.wait(lambda: len(heard.of(link, Kind.CONNECTED)) == 2 * len(slots), "channels connected again")
        heard.wait(
            lambda: (
                set(heard.of(link)[mark - len(lost) :]["slot"][heard.of(link)[mark - len(lost) :]["kind"] == 1])
                >= set(slots.tolist())
            ),
            "values after the restart",
        )
        assert read(link, slots[: len(names)]).numbers() == numbers
        after = heard.of(link)
        for slot, number in enumerate(numbers):
            updates = after[(after["kind"] == Kind.UPDATE) & (after["slot"] == slot)]
            assert updates["value"].tolist() == [number, number]
        assert pool.pids[0] != before[0]
        assert not is_running(before[0])
        # The other worker noticed nothing.
        assert pool.pids[1] == before[1]
        assert len(heard.of(other, Kind.DISCONNECTED)) == 0
        assert read(other, theirs).numbers() == numbers
        assert [stats["restarts"] for stats in pool.stats()] == [1, 0]


def test_a_worker_that_dies_again_and_again_is_replaced_each_time(ioc):
    names, numbers = steady(ioc, 3)
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names)
        for turn in range(1, 4):
            pid = pool.pids[0]
            kill(pid)
            wait_until(lambda pid=pid: pool.pids[0] not in (0, pid), "another process")
            heard.wait(
                lambda turn=turn: len(heard.of(link, Kind.CONNECTED)) == (turn + 1) * len(slots), f"connected, {turn}"
            )
            assert read(link, slots).numbers() == numbers
        assert link.stats()["restarts"] == 3


def test_what_is_asked_while_there_is_no_worker_waits_or_fails(ioc):
    """Reads wait for their channel, as always; puts fail at once; nothing hangs and nothing is asked twice."""
    names, numbers = steady(ioc, 3)
    with pool_of(restart=1.0, longest_restart=1.0) as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names)
        kill(pool.pids[0])
        heard.wait(lambda: len(heard.of(link, Kind.DISCONNECTED)) == 3, "the loss")
        assert link.state == State.DOWN
        answers, given_up, put, puts = Answers(3), Answers(3), Answers(), Answers(3)
        link.read(slots, answers)
        link.read(slots, given_up)
        link.cancel(given_up)
        link.write_one(0, 6, 1, bytes(8), put, PATIENCE)
        link.write_doubles(slots, np.zeros(3), puts)
        link.write_one(1, 6, 1, bytes(8), None)
        assert (put.kinds(), put.statuses()) == ([Kind.FAILED], [ECA_DISCONN])
        assert (puts.kinds(), puts.statuses()) == ([Kind.FAILED] * 3, [ECA_DISCONN] * 3)
        assert [int(r["slot"]) for r in heard.of(link, Kind.FAILED) if r["token"] == 0] == [1]
        late = link.add(steady(ioc, 4)[0][3:])
        link.subscribe(late, VALUE)
        assert link.hosts(slots) == [""] * 3
        assert link.stats()["state"] == "down"
        assert answers.wait(PATIENCE)
        assert answers.numbers() == numbers
        heard.wait(lambda: len(heard.of(link, Kind.UPDATE, slot=3)) == 1, "what was subscribed meanwhile")
        assert heard.of(link, Kind.UPDATE, slot=3)["value"].tolist() == steady(ioc, 4)[1][3:]
        assert given_up.kinds() == [0, 0, 0]
        assert len(link.operations) == 0


# --- a worker stops ---------------------------------------------------------------------------------


def test_a_worker_that_stops_for_a_while_goes_on_where_it_was(ioc):
    names, numbers = steady(ioc, 5)
    changing = ioc.database.changing_names[:3]
    with pool_of(silent_after=1.0, replaced_after=60.0) as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names + changing)
        link.subscribe(slots, VALUE)
        heard.wait(lambda: len(np.unique(heard.of(link, Kind.UPDATE)["slot"])) == 8, "first values")
        (pid,) = pool.pids
        with stopped(pid):
            asked = Answers(5)
            link.read(slots[:5], asked)
            assert asked.wait(PATIENCE)
            assert (asked.kinds(), asked.statuses()) == ([Kind.FAILED] * 5, [ECA_DISCONN] * 5)
            lost = heard.of(link, Kind.DISCONNECTED)
            assert sorted(lost["slot"].tolist()) == slots.tolist()
            assert set(lost["status"].tolist()) == {Reason.WORKER_LOST}
            assert link.state == State.SILENT
            held, put = Answers(5), Answers()
            link.read(slots[:5], held)
            link.write_one(0, 6, 1, bytes(8), put, PATIENCE)
            assert put.statuses() == [ECA_DISCONN]
            mark = len(heard.of(link))
        assert held.wait(PATIENCE)
        assert held.numbers() == numbers
        # Connected again, with what they were, and a fresh value of each; then updates as before.
        again = heard.of(link)[mark:]
        told = again[again["kind"] == Kind.CONNECTED]
        first = heard.of(link, Kind.CONNECTED)[: len(slots)]
        fields = ["slot", "dbr_type", "count", "status"]
        assert sorted(told[fields].tolist()) == sorted(first[fields].tolist())
        heard.wait(
            lambda: {int(r["slot"]) for r in heard.of(link)[mark:] if r["kind"] == Kind.UPDATE} == set(slots.tolist()),
            "fresh values",
        )
        last = heard.of(link, Kind.UPDATE, slot=5)["value"][-1]
        heard.wait(lambda: heard.of(link, Kind.UPDATE, slot=5)["value"][-1] > last + 3, "updates as before")
        assert pool.pids == [pid]
        stats = link.stats()
        assert (stats["state"], stats["restarts"], stats["gaps"], stats["lost"]) == ("up", 0, 0, 0)


def test_a_worker_that_stays_stopped_is_replaced(ioc):
    names, numbers = steady(ioc, 5)
    with pool_of(silent_after=0.8, replaced_after=1.6) as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names)
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        heard.wait(lambda: len(heard.of(link, Kind.DISCONNECTED)) == 5, "the channels are stale")
        held = Answers(5)
        link.read(slots, held)
        heard.wait(lambda: len(heard.of(link, Kind.CONNECTED)) == 10, "connected by the next one")
        assert held.wait(PATIENCE)
        assert held.numbers() == numbers
        assert not is_running(pid)
        assert len(heard.of(link, Kind.DISCONNECTED)) == 5
        assert link.stats()["restarts"] == 1


def test_a_short_stop_is_no_news(ioc):
    names, numbers = steady(ioc, 5)
    with pool_of(silent_after=5.0) as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names)
        answers = Answers(5)
        with stopped(pool.pids[0]):
            link.read(slots, answers)
            assert not answers.wait(1.0)
        assert answers.wait(PATIENCE)
        assert answers.numbers() == numbers
        assert len(heard.of(link, Kind.DISCONNECTED)) == 0


def test_a_client_that_is_slow_itself_does_not_blame_the_worker(ioc):
    """The receive thread is held up for longer than a worker may be silent: its heartbeats are in the queue."""
    names, numbers = steady(ioc, 5)
    with pool_of(silent_after=0.6, replaced_after=1.2) as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, names)
        link.subscribe(link.add(ioc.database.changing_names), VALUE)
        heard.hold = threading.Event()
        holding = heard.hold
        time.sleep(2.5)  # the time that passes is what is tested
        heard.hold = None
        holding.set()
        assert read(link, slots).numbers() == numbers
        stats = link.stats()
        assert (stats["state"], stats["restarts"], stats["gaps"]) == ("up", 0, 0)
        assert len(heard.of(link, Kind.DISCONNECTED)) == 0


def test_a_stopped_worker_does_not_hinder_the_end(ioc):
    names, _ = steady(ioc, 3)
    heard = Heard()
    pool = WorkerPool(2, heard, patience=Supervision(silent_after=0.6))
    connected(pool, heard, names)
    pids = pool.pids
    os.kill(pids[0], signal.SIGSTOP)
    heard.wait(lambda: len(heard.of(pool.links[0], Kind.DISCONNECTED)) == 3, "the loss")
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 3.0
    assert not any(map(is_running, pids))


# --- a worker does not start ------------------------------------------------------------------------


def test_a_worker_that_cannot_start_says_why(monkeypatch, tmp_path, ioc):
    (tmp_path / "msgpack").mkdir()
    (tmp_path / "msgpack" / "__init__.py").write_text("raise RuntimeError('this msgpack is broken')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WorkerError, match="this msgpack is broken") as caught:
        WorkerPool(2, lambda link, batch: None)
    assert "exit code 1" in str(caught.value)


def test_a_worker_that_does_not_answer_is_told_and_ended(monkeypatch, tmp_path, ioc):
    (tmp_path / "msgpack").mkdir()
    (tmp_path / "msgpack" / "__init__.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(WorkerError, match=r"did not answer within 0\.5 s"):
        WorkerPool(2, lambda link, batch: None, patience=Supervision(start=0.5))


def test_a_python_that_is_not_there_is_named(monkeypatch, ioc):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(WorkerError, match="/nonexistent/python"):
        WorkerPool(1, lambda link, batch: None)


@pytest.mark.parametrize("spare", [0, 5, 20])
def test_without_file_descriptors_it_says_so_and_leaves_nothing(spare, scratch):
    script = f"""
        import os, resource, threading
        from daqca.errors import DaqcaError
        from daqca.workers import WorkerPool, link, pool
        used, (_, hard) = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + {spare}, hard))
        try:
            WorkerPool(2, lambda link, batch: None)
        except DaqcaError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        print(len(os.listdir("/proc/self/fd")) - used, threading.active_count())
    """
    before = sorted(os.listdir(scratch))
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    reason, left = done.stdout.splitlines()
    assert "Too many open files" in reason
    assert (left, done.stderr, done.returncode) == ("0 1", "", 0)
    assert sorted(os.listdir(scratch)) == before


def test_what_a_worker_logs_is_logged_here(make_ioc, point_at, caplog):
    """Two IOCs with one name: the worker's context warns, and the warning comes out of this process."""
    one = make_ioc('record(ao, "TWICE:a") {}')
    two = make_ioc('record(ao, "TWICE:a") {}')
    point_at(one, two)
    with caplog.at_level("WARNING", "daqca"), pool_of() as (pool, heard):
        connected(pool, heard, ["TWICE:a"])
        wait_until(lambda: "two servers have it" in caplog.text, "the warning")
    (record,) = [record for record in caplog.records if "two servers have it" in record.getMessage()]
    assert (record.name, record.levelname) == ("daqca.ca", "WARNING")
    assert record.getMessage().startswith("worker 0: TWICE:a")


# --- the parent -------------------------------------------------------------------------------------

SCRIPT = """
    import os, sys, time
    from daqca.workers import WorkerPool
    {before}
    pool = WorkerPool(2, lambda link, batch: None)
    pool.links[0].add(["a", "b"])
    print(*pool.pids, pool._broker.endpoints.directory, flush=True)
    {after}
"""


def run_script(tmp_path, before="", after="", **options):
    """A user's script as a process; its workers' ids and the directory of their sockets."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT).format(before=before, after=after))
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate()[1])
    *pids, directory = line.split()
    return process, [int(pid) for pid in pids], directory


def all_gone(pids, directory):
    return not any(map(is_running, pids)) and not os.path.exists(directory)


def test_an_unguarded_script_works_and_leaves_nothing(tmp_path, ioc):
    process, pids, directory = run_script(tmp_path, before='print("once", file=sys.stderr)')
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert errors == "once\n"  # nobody else has run the script
    assert len(pids) == 2
    assert all_gone(pids, directory)


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_workers_of_a_killed_parent_end(tmp_path, ioc, state):
    process, pids, directory = run_script(tmp_path, after="time.sleep(600)")
    assert os.stat(directory).st_mode & 0o777 == 0o700
    if state == "stopped":
        os.kill(pids[0], signal.SIGSTOP)
    process.kill()
    process.communicate(timeout=PATIENCE)
    wait_until(lambda: all_gone(pids, directory), "the workers and their directory gone", 5.0)


def test_a_heir_of_the_pipes_does_not_keep_the_workers_alive(tmp_path, ioc):
    """Another process has our ends of the pipes too; still the workers notice that their parent is gone."""
    after = """
        import subprocess
        for member in pool._supervisor.members:
            os.set_inheritable(member.process._popen.stdin.fileno(), True)
        subprocess.Popen(["sleep", "6"], close_fds=False)
        time.sleep(600)
    """
    process, pids, directory = run_script(tmp_path, after=textwrap.dedent(after).strip())
    wait_until(lambda: has_child(process.pid, b"sleep"), "the heir")
    process.kill()
    process.wait(PATIENCE)
    wait_until(lambda: all_gone(pids, directory), "the workers and their directory gone", 4.0)
    process.communicate(timeout=PATIENCE)  # the heir has our end of this pipe, too


def has_child(pid, name):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(Path(f"/proc/{child}/cmdline").read_bytes().startswith(name) for child in children)


def test_ctrl_c_ends_the_script_and_its_workers(tmp_path, ioc):
    process, pids, directory = run_script(tmp_path, after="time.sleep(600)", start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1  # the workers have nothing to say
    assert all_gone(pids, directory)


def test_workers_take_no_notice_of_ctrl_c(ioc):
    names, numbers = steady(ioc, 5)
    with pool_of(2) as (pool, heard):
        slots = connected(pool, heard, names)
        for pid in pool.pids:
            os.kill(pid, signal.SIGINT)
            assert os.getpgid(pid) == pid
        assert read(pool.links[0], slots).numbers() == numbers
        assert pool.links[0].stats()["restarts"] == 0


FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@FORKS
def test_a_fork_leaves_the_workers_to_the_parent(ioc):
    names, numbers = steady(ioc, 5)
    with pool_of() as (pool, heard):
        slots = connected(pool, heard, names)
        link = pool.links[0]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                try:
                    link.read(slots, Answers(5))
                except EngineClosedError:
                    pool.close()
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert read(link, slots).numbers() == numbers
        assert is_running(pool.pids[0])


def test_a_forked_child_ends_in_peace(tmp_path, ioc):
    """It runs its exit handlers and collects its garbage, with the parent's sockets and threads that it has not."""
    after = """
        import gc, warnings
        warnings.simplefilter("ignore")
        child = os.fork()
        if child == 0:
            pool.close()
            del pool
            gc.collect()
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(len(pool.links[0].hosts(__import__("numpy").arange(2))))
    """
    process, pids, directory = run_script(tmp_path, after=textwrap.dedent(after).strip())
    output, errors = process.communicate(timeout=PATIENCE)
    assert (output, errors, process.returncode) == ("7\n2\n", "", 0)
    assert all_gone(pids, directory)


def test_a_request_that_cannot_be_made_fails(ioc):
    """A worker whose context is gone: nobody waits for what it cannot ask any more."""
    names, _ = steady(ioc, 3)
    broker = Broker()
    client, heard = BrokerClient(broker), Heard()
    link, port = WorkerLink(0, client, heard), WorkerPort(broker.endpoints, b"a worker")
    worker = Worker(port, Settings.from_environ())
    serving = threading.Thread(target=serve, args=(worker, port))
    link.expect(b"a worker")
    serving.start()
    try:
        assert link.is_up.wait(PATIENCE)
        slots = link.add(names)
        heard.wait_connected(link, 3)
        worker.context.close()
        one = Answers()
        link.read_one(1, one, PATIENCE)
        assert (one.kinds(), one.statuses()) == ([Kind.FAILED], [17])
        assert one.events[0].slot == 1
        assert read(link, slots).statuses() == [17] * 3
        assert len(link.operations) == 0
    finally:
        link.quit()
        serving.join()
        worker.close()
        port.close()
        client.close()
        broker.close()
        client.join()
