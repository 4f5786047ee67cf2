"""A soak of the low-level interface: ``python lowlevel_soak.py --seconds 60 --seed 1`` prints a report as JSON.

Threads create, read, write, subscribe and clear at random, in two contexts and in some that come and go, while the IOC
is stopped, continued, killed and restarted as the seed says. If anything is wrong the report says what, and the exit
code is not 0.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import secrets
import struct
import sys
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a program, the folder of the tests is not on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from daqca import ca
from daqca.ca.lowlevel.session import session
from daqca.sim import Ports, SoftIOC, free_port
from support.repeater import RepeaterProcess
from support.soak import records, tables, watch
from support.soak.callbacks import PutCallbacks
from support.soak.records import Ledger
from support.soak.weather import Lasting, Weather, schedule
from support.soak.worker import LONG_S, Common, Place, Visitor, Worker

THREADS = 3
"""Of each context."""
SWITCH_S = 1e-4
"""Python's threads take turns so often: what they do to each other shows sooner."""
CONN_TMO_S = 1.0
PROBED = {"double": ">d", "slow": ">d", "long": ">i"}
"""Records that a client of another make reads at the end, too."""
SETTLE_S = 3.0
FAREWELL_S = 200.0
"""Seconds that the end may take at most, before everything is broken off."""


class Soak:
    """One run: `run` makes its report."""

    def __init__(self, seconds: float, seed: int, is_traced: bool = True):
        self.seconds = seconds
        self.is_traced = is_traced
        self.seed = seed
        self.problems = watch.Problems()
        self.report: dict[str, Any] = {"seconds": seconds, "seed": seed}
        self.log = watch.Log(self.problems)
        self.watchdog = watch.Watchdog(self._hangs)
        self.doing = self.watchdog.doing("the main thread")
        self.prefix = f"S{secrets.token_hex(3).upper()}:"
        self.workers: list[Worker] = []
        self.places: dict[str, Place] = {}

    def run(self) -> dict[str, Any]:
        """Do everything."""
        self._listen()
        repeater = RepeaterProcess(free_port())
        ledgers = self._make_ledgers()
        ioc = SoftIOC(records.database(self.prefix, ledgers), ports=Ports.choose(repeater.repeater_port))
        os.environ.update(ioc.environ, EPICS_CA_CONN_TMO=str(CONN_TMO_S))
        self.weather = Weather(ioc, self.problems, _channels)
        self.puts = PutCallbacks(self.weather, self.problems)
        self.common = Common(self.prefix, self.weather, self.problems, self.puts, ledgers)
        if self.is_traced:
            tracemalloc.start(1)
        sys.setswitchinterval(SWITCH_S)
        begin, began, busy = watch.census(), time.monotonic(), watch.starved()
        self.watchdog.start()
        with repeater, ioc:
            self._begin()
            self._storm()
            self._calm_down()
            if not self.weather.is_lost:  # else everything would wait in vain
                self._check_values()
                self._check_subscriptions()
            self._clear()
            with self.doing.step("finalize_libca", 20.0):
                ca.finalize_libca()
        self._check_nothing_left(begin)
        self.report["processors busy"] = round((watch.starved() - busy) / (time.monotonic() - began), 2)
        self.watchdog.end()
        self._sum_up()
        return self.report

    def _listen(self) -> None:
        logger = logging.getLogger("daqca")
        logger.addHandler(self.log)
        logger.propagate = False
        threading.excepthook = lambda args: self.problems(f"{args.thread} raised {args.exc_value!r}")
        sys.unraisablehook = lambda args: self.problems(f"in {args.object!r}: {args.exc_value!r}")

    def _hangs(self, what: str) -> None:
        self.problems(what)
        self._sum_up()
        print(json.dumps(self.report, indent=1), flush=True)
        os._exit(3)

    # --- the beginning --------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [f"{context} {i}" for context in ("first", "second") for i in range(THREADS)] + ["visitor"]

    def _make_ledgers(self) -> list[Ledger]:
        return [
            Ledger(f"{self.prefix}{name.replace(' ', '')}:{kind}", kind, name != "visitor", self.problems)
            for name in self._names()
            for kind in records.KINDS
        ]

    def _begin(self) -> None:
        ca.DEFAULT_CONNECTION_TIMEOUT = 1.0
        self.clients = {}
        for name in ("first", "second"):
            ca.detach_context()
            ca.create_context()
            number = ca.current_context()
            self.places[name] = Place(number)
            self.clients[name] = session.contexts[number]
            self.weather.lasting += [Lasting(self.prefix + ending, self.problems) for ending in records.LASTING]
        n = len(records.KINDS)
        for i, name in enumerate(self._names()):
            mine = self.common.ledgers[n * i : n * i + n]
            kind, place = (Visitor, None) if name == "visitor" else (Worker, self.places[name.split()[0]])
            self.workers.append(kind(name, self.common, place, mine, self.watchdog.doing(name), self.seed))
        for worker in self.workers:
            worker.start()

    def _storm(self) -> None:
        self.watchdog.looking = True
        faults = schedule(self.seed)
        self.weather.run(faults, self.seconds / 2)
        self.watchdog.needs.keep(at_the_end=False)
        self.weather.run(faults, self.seconds / 2)
        self.watchdog.looking = False
        self.watchdog.needs.keep(at_the_end=True)

    # --- the end --------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """All threads end, and all that they have begun."""
        self.common.ending.set()
        for worker in self.workers:
            worker.join(LONG_S + 2 * watch.HANG_S)  # the watchdog sees before what hangs
        with self.doing.step("reconnecting", 60.0):
            self.weather.await_calm("the end")
        with self.doing.step("waiting for put callbacks", 30.0):
            _wait(lambda: not self.puts.waiting, LONG_S)
        self.puts.check()
        if self.puts.waiting:
            faulthandler.dump_traceback(sys.stderr)

    def _check_values(self) -> None:
        """What was written is there; once more each is written, which everybody hears of."""
        for ledger in self.common.ledgers:
            self._everywhere(ledger, ledger.least(self.weather.epoch), ledger.before(self.weather.epoch), "at the end")
        for worker in self.workers:
            self._enter("first" if worker.place not in self.places.values() else worker.name.split()[0])
            for ledger in worker.ledgers:
                chid = ca.create_channel(ledger.pvname, connect=True)
                number = ledger.next()
                with self.doing.step(f"the last put to {ledger.pvname}", LONG_S):
                    if ca.put(chid, ledger.value(number), wait=True, timeout=LONG_S) != 1:
                        self.problems(f"the last put to {ledger.pvname} was not confirmed")
        for ledger in self.common.ledgers:
            self._everywhere(ledger, ledger.sent, 0, "after the last put")

    def _check_subscriptions(self) -> None:
        """Each that was not cleared is there, and was told what was written last."""
        live = []
        for name, place in self.places.items():
            here = [each for each in place.watches if each.is_live]
            live += [each for each in here if each.ledger]
            tables.compare(self.clients[name], len(here) + len(records.LASTING), self.problems)
        self.report["live subscriptions"] = len(live)
        _wait(lambda: all(each.last == each.ledger.sent for each in live), LONG_S)
        for each in live:
            if each.last != each.ledger.sent:
                self.problems(
                    f"a subscription of {each.ledger.pvname} was told {each.last} last, not {each.ledger.sent}"
                )

    def _everywhere(self, ledger: Ledger, least: int, before: int, when: str) -> None:
        for name in self.places:
            self._enter(name)
            chid = ca.create_channel(ledger.pvname)
            with self.doing.step(f"reading {ledger.pvname}", 2 * LONG_S):
                value = ca.get(chid, timeout=LONG_S)
            if value is None:
                self.problems(f"{when} there was no answer for {ledger.pvname} in the {name} context")
            else:
                ledger.check(value, least, before, f"{when} get in the {name} context")
        if ledger.kind in PROBED:
            answer = self.weather.ioc.ask(ledger.pvname, LONG_S)
            assert answer is not None
            ledger.check(
                struct.unpack_from(PROBED[ledger.kind], answer.payload)[0], least, before, f"{when} another client"
            )

    def _enter(self, name: str) -> None:
        ca.detach_context()
        ca.attach_context(self.places[name].number)

    def _clear(self) -> None:
        """Clear all channels, and look for what is left of them."""
        with self.doing.step("clearing", 20.0):
            for worker in self.workers:
                worker.forget()
            for place in self.places.values():
                place.watches.clear()
            self.weather.lasting.clear()
            for client in self.clients.values():
                for chid in list(client.channels.values()):
                    ca.clear_channel(chid)
        with self.doing.step("waiting for empty tables", tables.SETTLE_S):
            self.report["left in tables"] = tables.await_empty(self.clients, self.problems)
        del chid, client
        self.report["contexts"] = {
            name: {"errors": client.dispatcher.errors, "dropped": client.dispatcher.dropped}
            | {key: client.context.stats()[key] for key in ("batches", "events", "protocol_errors", "beacons")}
            for name, client in self.clients.items()
        }
        for name, counts in self.report["contexts"].items():
            for what in ("errors", "dropped", "protocol_errors"):
                if counts[what]:
                    self.problems(f"the {name} context has counted {counts[what]} {what}")
        self.clients.clear()

    def _check_nothing_left(self, begin: watch.Census) -> None:
        wanted = watch.Census(begin.threads + 1, begin.descriptors)  # the watchdog is one more
        # A thread that was joined takes a moment more to be gone.
        _wait(lambda: watch.census() == wanted, SETTLE_S)
        end = watch.census()
        if end != wanted:
            self.problems(
                f"after finalize_libca there are {end.threads - 1} threads and {end.descriptors} file descriptors; "
                f"before there were {begin.threads} and {begin.descriptors}; threads: {threading.enumerate()}"
            )
        self.report["objects left"] = left = tables.alive()
        if left:
            self.problems(f"after finalize_libca there still are {left}")

    def _sum_up(self) -> None:
        counts, misses, longest = Counter[str](), Counter[str](), dict[str, float]()
        for worker in self.workers:
            counts += worker.counts
            misses += worker.misses
            for what, took in worker.longest.items():
                longest[what] = max(longest.get(what, 0.0), took)
        needs = self.watchdog.needs
        recoveries = sorted(self.weather.recoveries)
        self.report |= {
            "operations": dict(counts),
            "not in time": dict(misses),
            "longest_s": {what: round(took, 2) for what, took in longest.items()},
            "updates": sum(worker.updates for worker in self.workers),
            "put callbacks": self.puts.report(),
            "faults": dict(self.weather.counts),
            "recovery_s": {"median": round(recoveries[len(recoveries) // 2], 2), "longest": round(recoveries[-1], 2)}
            if recoveries
            else {},
            "needs in thirds": needs.report(self.problems) if needs else [],
            "memory grown by lines": needs.grown(),
            "logged": dict(self.log.counts),
            "problems": self.problems.found,
            "number of problems": self.problems.count,
        }


def _channels() -> list[Any]:
    """Those that are there now and should connect, whether anybody waits for them or not."""
    return [
        channel
        for client in list(session.contexts.values())
        if client.preemptive
        for channel in list(client.channels.values())
        if not channel.pvname.endswith(records.MISSING)
    ]


def _wait(condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; the end takes some seconds more")
    parser.add_argument("--seed", type=int, default=None, help="of what happens; a random one when not given")
    parser.add_argument(
        "--untraced",
        action="store_true",
        help="do not trace Python's memory, line by line: what keeps account of it grows, too",
    )
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    faulthandler.dump_traceback_later(options.seconds + FAREWELL_S, exit=True)
    report = Soak(options.seconds, seed, not options.untraced).run()
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(report, indent=1))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
