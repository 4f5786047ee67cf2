"""What a context still has in its tables, and which of its objects live: to be nothing once all was cleared.

The one part of the soak that looks into daqca, to find what a program would notice only after days.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from daqca.ca.circuit import Circuit
from daqca.ca.context import Context
from daqca.ca.lowlevel.channel import Channel
from daqca.ca.lowlevel.client import Client
from daqca.ca.lowlevel.operations import Get, Put
from daqca.ca.lowlevel.session import session
from daqca.ca.lowlevel.subscription import Subscription
from daqca.ca.sockets import Link

CLASSES = frozenset((Channel, Subscription, Get, Put, Client, Context, Circuit, Link))
SETTLE_S = 10.0
"""Seconds in which servers confirm that channels and subscriptions are gone."""


def tables(client: Client) -> dict[str, int]:
    """The sizes of all tables of a context that is open."""
    with client.lock:
        shard = client.context.shard
        return {
            "channels by name": len(client.channels),
            "channels by slot": len(client._by_slot),
            "channels to be searched": len(client._new),
            "who waits for a connection": len(client._waits),
            "subscriptions": len(client._subscriptions),
            "operations": len(client.operations),
            "callbacks that wait": len(client.dispatcher._queue),
            "requests": int(np.count_nonzero(shard.requests.kind)),
            "requests of lost channels": len(
                shard.requests.waiting.of(np.arange(len(shard.channels.names), dtype="u4"))
            ),
            "rows of channels": len(shard.channels),
            "rows of subscriptions": len(shard.subscriptions),
            "slots at rest": len(shard.channels._resting),
            "subscriptions at rest": shard.subscriptions._resting,
            "second servers": len(shard.duplicates),
            "messages of names": len(shard.channels._chunks),
            "messages to be sent": sum(len(circuit.out) for circuit in shard.circuits.values()),
        }


def compare(client: Client, subscriptions: int, problem: Callable[[str], None]) -> None:
    """While nothing is done: the tables of an open context agree, and have as many subscriptions as there should be."""
    found = tables(client)
    for what, wanted in (
        ("channels by slot", found["channels by name"]),
        ("rows of channels", found["channels by name"]),
        ("subscriptions", subscriptions),
        ("rows of subscriptions", subscriptions),
    ):
        if found[what] != wanted:
            problem(f"there are {found[what]} {what}, and should be {wanted}: {found}")


def await_empty(clients: dict[str, Client], problem: Callable[[str], None]) -> dict[str, dict[str, int]]:
    """Wait until the tables of contexts whose channels were cleared are empty; returns what is left in them."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        left = {name: {what: n for what, n in tables(client).items() if n} for name, client in clients.items()}
        if not any(left.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for name, found in left.items():
        if found:
            problem(f"after everything was cleared the {name} context still has {found}")
    if session.channels:
        problem(f"after everything was cleared the session still has {list(session.channels.values())[:5]}")
    return left


def alive() -> dict[str, int]:
    """How many objects of each of our classes live."""
    gc.collect()
    counts = Counter(type(each).__name__ for each in gc.get_objects() if type(each) in CLASSES)
    return dict(counts)
