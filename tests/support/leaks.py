"""What a test must not leave behind: threads, processes, sockets and socket files.

Two snapshots are compared, before the fixtures of a test and after them.
"""

from __future__ import annotations

import gc
import os
import signal
import stat
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from .ioc import SESSION_VARIABLE

_PATIENCE_S = 3.0
# Helpers that Python keeps for the life of the process once something has needed them.
_KEPT_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@dataclass
class Snapshot:
    """What exists now, by kind; each thing is a text that names it."""

    threads: dict[int, str] = field(default_factory=dict)
    processes: dict[int, str] = field(default_factory=dict)
    sockets: dict[int, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def take(cls, session: str, scratch: Path) -> Snapshot:
        """Look at this process, at those of the session, and into its scratch directory."""
        return cls(_threads(), _processes(session), _sockets(), _socket_files(scratch))

    def beyond(self, earlier: Snapshot) -> list[str]:
        """Return what is in this snapshot and was not in the earlier one."""
        found = []
        for kind in ("threads", "processes", "sockets", "files"):
            mine, theirs = getattr(self, kind), getattr(earlier, kind)
            found += [f"{kind}: {text}" for key, text in mine.items() if key not in theirs]
        return found


def wait_for_none(earlier: Snapshot, session: str, scratch: Path, allowed: set[int]) -> list[str]:
    """Return what a test has left behind, after some patience, and end the processes among it.

    Parameters
    ----------
    earlier
        What there was before the test.
    session
        The value of ``SESSION_VARIABLE``.
    scratch
        The directory for temporary files of the session.
    allowed
        Process ids of servers that live longer than a test, which it has started.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        now = Snapshot.take(session, scratch)
        for pid in allowed:
            now.processes.pop(pid, None)
        left = now.beyond(earlier)
        if not left or time.monotonic() > deadline:
            break
        # A socket without an owner is closed by the collector, with a ResourceWarning of its own.
        gc.collect()
        time.sleep(0.02)
    for pid in now.processes.keys() - earlier.processes.keys():
        kill(pid)
    return left


def end_processes(session: str) -> list[str]:
    """End every process of the session but this one; return what they were."""
    found = _processes(session)
    for pid in found:
        kill(pid)
    return list(found.values())


def kill(pid: int) -> None:
    """End a process of the session by force."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _threads() -> dict[int, str]:
    found = {
        thread.native_id: f"{thread.name!r}"
        for thread in threading.enumerate()
        # The readers of servers' output come and go with the servers, which are counted as processes.
        if thread.native_id is not None and not thread.name.startswith("output of ")
    }
    for task in Path("/proc/self/task").iterdir():
        # The I/O threads of ZeroMQ contexts are not Python's.
        try:
            name = (task / "comm").read_text().strip()
        except OSError:
            continue
        if name.startswith("ZMQ"):
            found[int(task.name)] = f"{name!r} of a ZeroMQ context"
    return found


def _processes(session: str) -> dict[int, str]:
    mark = f"{SESSION_VARIABLE}={session}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            # The environment tells also of those that have detached themselves from us.
            if mark not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if not any(helper in command for helper in _KEPT_HELPERS):
            found[int(entry.name)] = f"{entry.name}: {command}"
    for child in _zombies():
        found[child] = f"{child}: a child that ended and that nobody waited for"
    return found


def _zombies() -> list[int]:
    # A zombie has no environment; only its parent is known.
    zombies = []
    for task in Path("/proc/self/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            try:
                state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state == "Z":
                zombies.append(int(child))
    return zombies


def _sockets() -> dict[int, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:"):
            inode = int(target[8:-1])
            found[inode] = f"file descriptor {entry.name}, {target}"
    return found


def _socket_files(scratch: Path) -> dict[str, str]:
    found = {}
    for folder, _, names in os.walk(scratch):
        for name in names:
            path = os.path.join(folder, name)
            try:
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    found[path] = path
            except OSError:
                continue
    return found
