"""What PyEpics, on libca, reads of PVs: another client to compare with, in a process of its own.

Run as a program it is that process: names on its standard input, JSON on its standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_UNIX_EPOCH_OF_EPICS = 631_152_000


def read(names: Sequence[str], timeout: float = 40.0) -> dict[str, dict[str, Any]]:
    """Value, alarm, timestamp (ns since the Unix epoch) and metadata of each PV."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        input=json.dumps(list(names)),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def main() -> None:
    from epics import ca

    ca.PREEMPTIVE_CALLBACK = False
    names = json.load(sys.stdin)
    chids = {name: ca.create_channel(name) for name in names}
    result = {}
    for name, chid in chids.items():
        assert ca.connect_channel(chid, timeout=20), name
        found = dict(ca.get_ctrlvars(chid, timeout=20))
        native = ca.field_type(chid)
        data = ca.get_with_metadata(chid, ftype=native + 14, count=0 if ca.element_count(chid) > 1 else 1, timeout=20)
        value = _plain(data["value"])
        if ca.element_count(chid) > 1 and not isinstance(value, list):
            value = [value]
        found.update(value=value, status=data["status"], severity=data["severity"])
        found["timestamp"] = (int(data["posixseconds"]) * 10**9) + int(data["nanoseconds"])
        result[name] = {key: _plain(item) for key, item in found.items()}
    json.dump(result, sys.stdout)
    sys.stdout.flush()
    ca.finalize_libca()


if __name__ == "__main__":
    main()
