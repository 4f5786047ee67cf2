"""Calls with a channel whose server goes away, and comes back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from daqca.sim import Ports, SoftIOC

from .describe import Known, outcome
from .lab import Call, Lab
from .monitors import Seen

# libca looks for a lost channel after ten seconds only.
_RECONNECTION_S = 13.0
_RECORDS = """
record(ao, "{prefix}ao") {{ field(PINI, YES) field(VAL, {value}) field(EGU, "mm") }}
record(bo, "{prefix}slow") {{ field(VAL, 0) field(FLNK, "{prefix}delay") }}
record(seq, "{prefix}delay") {{ field(SELM, All) field(DLY1, 5) field(DO1, 0) field(LNK1, "{prefix}slow.VAL NPP") }}
"""


def loss(lab: Lab) -> Iterator[Call]:
    """One call: everything happens with one server, step by step."""
    yield "loss", lambda: _lose(lab)


def _lose(lab: Lab) -> Any:
    prefix = f"{lab.own}lost:"
    # The same repeater: its beacons tell the client that it is back.
    ports = Ports.choose(repeater=int(os.environ["EPICS_CA_REPEATER_PORT"]))
    server = SoftIOC(_RECORDS.format(prefix=prefix, value=1.5), ports=ports)
    # Before the library looks at it for the first time.
    os.environ["EPICS_CA_ADDR_LIST"] += f" 127.0.0.1:{server.server_port}"
    with server:
        return _with_server(lab, server, prefix)


def _with_server(lab: Lab, server: SoftIOC, prefix: str) -> Any:
    ca = lab.ca
    connections: list[dict[str, Any]] = []
    chid = ca.create_channel(prefix + "ao", callback=lambda **given: connections.append(given))
    slow = ca.create_channel(prefix + "slow")
    found = {"connected": [ca.connect_channel(one, timeout=5) for one in (chid, slow)]}
    seen = Seen(lab, chid)
    kept = ca.create_subscription(chid, callback=seen)
    seen.wait(1)
    puts: list[Any] = []
    ca.put(slow, 1, callback=lambda **given: puts.append(given))

    server.stop()
    found["told"] = lab.wait(lambda: len(connections) == 2)
    found["callback"] = lab.kwargs(chid, connections[-1])
    found["put callback"] = len(puts)
    for name, call in _calls(lab, chid).items():
        found[f"lost/{name}"] = Known(outcome(call, ca))
    events = len(seen.calls)

    server.restart(_RECORDS.format(prefix=prefix, value=2.5))
    found["told again"] = lab.wait(lambda: len(connections) == 3, patience=_RECONNECTION_S)
    found["callback again"] = lab.kwargs(chid, connections[-1])
    lab.wait(lambda: len(seen.calls) > events)
    found["events"] = [given["value"] for given in seen.calls]
    for name, call in _calls(lab, chid).items():
        found[f"back/{name}"] = Known(outcome(call, ca))
    found["clear_subscription"] = ca.clear_subscription(kept[2])
    return found


def _calls(lab: Lab, chid: Any) -> dict[str, Callable[[], Any]]:
    ca = lab.ca
    return {
        **{name: lambda name=name: getattr(ca, name)(chid) for name in _FACTS},
        "name": lambda: lab.plain_name(ca.name(chid)),
        "host_name": lambda: ":" in ca.host_name(chid),
        "connect_channel": lambda: ca.connect_channel(chid, timeout=0.1),
        "get": lambda: ca.get(chid, timeout=0.1),
        "get/time": lambda: ca.get(chid, ftype=lab.dbr.TIME_DOUBLE, timeout=0.1),
        "get/no wait": lambda: ca.get(chid, ftype=lab.dbr.LONG, wait=False, timeout=0.1),
        "get_complete": lambda: ca.get_complete(chid, ftype=lab.dbr.LONG, timeout=0.1),
        "get_ctrlvars": lambda: ca.get_ctrlvars(chid, timeout=0.1),
        "put": lambda: ca.put(chid, 3.5, timeout=0.1),
        "put/wait": lambda: ca.put(chid, 4.5, wait=True, timeout=0.2),
        "create_subscription": lambda: len(ca.create_subscription(chid, callback=print, timeout=0.1)),
        "create_channel": lambda: ca.create_channel(lab.own + "lost:ao").value == chid.value,
    }


_FACTS = (
    "state",
    "isConnected",
    "element_count",
    "field_type",
    "access",
    "read_access",
    "write_access",
    "promote_type",
)

SECTIONS = ()
ALONE = (loss,)
