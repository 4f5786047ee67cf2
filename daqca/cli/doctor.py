"""``daqca doctor``: where PVs are searched, who answers, how fast, and why a name is not found."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from daqca.cli.codes import ExitCode
from daqca.cli.options import above_zero, collect_names, open_engine, with_json, with_names
from daqca.outcome import Outcome

if TYPE_CHECKING:
    from rich.console import Console

    from daqca.ca.interfaces import Interface
    from daqca.ca.probe import Answer, Place
    from daqca.ca.settings import Settings
    from daqca.engine import Engine
    from daqca.reading import Reading

MEANINGS = {
    "EPICS_CA_ADDR_LIST": "addresses to search, host[:port] each, besides the automatic ones",
    "EPICS_CA_AUTO_ADDR_LIST": "search the network of every interface too, unless NO",
    "EPICS_CA_NAME_SERVERS": "servers to search by TCP, host[:port] each",
    "EPICS_CA_SERVER_PORT": "port of addresses that name none",
    "EPICS_CA_REPEATER_PORT": "port of this host's repeater, which passes on beacons",
    "EPICS_CA_CONN_TMO": "seconds of silence before a server is asked whether it lives",
    "EPICS_CA_MAX_SEARCH_PERIOD": "longest wait in seconds between two searches for a name",
    "EPICS_CA_MAX_ARRAY_BYTES": "largest array in bytes, if EPICS_CA_AUTO_ARRAY_BYTES is NO",
    "EPICS_CA_AUTO_ARRAY_BYTES": "take arrays of any size, unless NO",
    "EPICS_CA_MCAST_TTL": "how many routers a multicast search may pass",
    "DAQCA_REPEATER_LINGER": "seconds that a repeater started by daqca stays without clients",
}
MAX_NAMES = 100
_TRIES = 3
_TRYING_S = 0.1


@click.command(
    epilog="""\b
Examples:
  daqca doctor                       the settings, and what answers
  daqca doctor BL7:m1.RBV            who has this name, how fast; or why nobody
  daqca doctor --json BL7:m1.RBV
"""
)
@with_names
@with_json
@click.option(
    "-w",
    "--timeout",
    type=float,
    callback=above_zero,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait at most so long for answers to a search, and then to a read.",
)
def doctor(names: tuple[str, ...], files: tuple[str, ...], as_json: bool, timeout: float) -> int:
    """Explain the settings, and find out why a PV is found or not.

    Shows the EPICS variables and what they mean, the interfaces, the addresses searched, the repeater; and for each
    name who answers, from where and after how long, whether several servers have it, and whether it can be read.
    """
    from daqca.ca.interfaces import interfaces
    from daqca.ca.probe import probe_names, repeater_answers, servers_by_name
    from daqca.ca.settings import Settings
    from daqca.cli.output import ProgressBar, note, print_json

    wanted = collect_names(names, files) if names or files else []
    if len(wanted) > MAX_NAMES:
        note(f"the first {MAX_NAMES} of {len(wanted):,} names are looked at")
        wanted = wanted[:MAX_NAMES]
    settings = Settings.from_environ()
    with ProgressBar("asking the network"):
        found = interfaces()
        repeater = repeater_answers(settings.repeater_port)
        # A name that nobody has still shows which addresses somebody listens at.
        places = probe_names(wanted or ["daqca:doctor"], settings, timeout)
        servers = servers_by_name(wanted, places)
        readings = _read(wanted, timeout)
    report = _Report(settings, found, repeater, places, servers, readings, timeout)
    if as_json:
        print_json(report.as_dict())
    else:
        report.print()
    return ExitCode.OK if all(reading.ok for reading, _ in readings.values()) else ExitCode.MISSING


def _read(names: Sequence[str], timeout: float) -> dict[str, tuple[Reading, float]]:
    """Read each name: what came, and after how many seconds if it was read."""
    if not names:
        return {}
    with open_engine(0) as engine:
        # Together, so that what is missing, and servers that do not answer, cost one timeout and not one each.
        engine.connect(names, timeout=timeout)
        first = engine.snapshot(names, timeout=timeout)
        return {
            reading.name: _time_read(engine, reading.name, timeout) if reading.ok else (reading, 0.0)
            for reading in first
        }


def _time_read(engine: Engine, name: str, timeout: float) -> tuple[Reading, float]:
    """Read a connected name again, a few times if that is quick: the fastest counts."""
    best: tuple[Reading, float] | None = None
    begin = time.perf_counter()
    for _ in range(_TRIES):
        start = time.perf_counter()
        reading = next(iter(engine.snapshot([name], timeout=timeout)))
        now = time.perf_counter()
        if not reading.ok:  # it was read a moment ago: this is what is wrong with it
            return reading, now - start
        if best is None or now - start < best[1]:
            best = reading, now - start
        if now - begin > _TRYING_S:
            break
    assert best is not None
    return best


class _Report:
    """All that was found out, as text and as JSON."""

    def __init__(
        self,
        settings: Settings,
        found: list[Interface],
        repeater: bool,
        places: list[Place],
        servers: dict[str, list[Answer]],
        readings: dict[str, tuple[Reading, float]],
        timeout: float,
    ):
        self._settings = settings
        self._interfaces = found
        self._repeater = repeater
        self._places = places
        self._servers = servers
        self._readings = readings
        self._timeout = timeout

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "variables": {name: os.environ.get(name) for name in MEANINGS},
            "problems": list(self._settings.problems),
            "interfaces": [
                {"name": item.name, "address": item.address, "broadcast": item.broadcast, "up": item.is_up}
                for item in self._interfaces
            ],
            "repeater": self._repeater,
            "addresses": [
                {"address": _address(place.address), "transport": place.transport, "state": self._state(place)}
                for place in self._places
            ],
            "names": [
                {
                    "name": name,
                    "servers": [
                        {"server": _address(answer.server), "milliseconds": answer.delay * 1e3} for answer in answers
                    ],
                    "outcome": self._readings[name][0].outcome.text,
                    "explanation": self.explanation(name),
                }
                for name, answers in self._servers.items()
            ],
        }

    def print(self) -> None:
        """Everything, in tables."""
        from daqca.cli.output import console

        screen = console()
        self._print_settings(screen)
        self._print_network(screen)
        self._print_names(screen)

    def _print_settings(self, screen: Console) -> None:
        from rich.markup import escape

        table = _table("Variables", "name", "value", "what it does")
        defaults = self._defaults()
        for name, meaning in MEANINGS.items():
            value = os.environ.get(name, "").strip()
            table.add_row(name, escape(value) or f"[dim]{defaults[name]} (not set)[/]", meaning)
        screen.print(table)
        for problem in self._settings.problems:
            screen.print(f"[red]problem:[/] {escape(problem)}")

    def _defaults(self) -> dict[str, str]:
        from daqca.ca.settings import Settings

        values = Settings.from_environ({})
        return {
            "EPICS_CA_ADDR_LIST": "none",
            "EPICS_CA_AUTO_ADDR_LIST": "YES",
            "EPICS_CA_NAME_SERVERS": "none",
            "EPICS_CA_SERVER_PORT": str(values.server_port),
            "EPICS_CA_REPEATER_PORT": str(values.repeater_port),
            "EPICS_CA_CONN_TMO": f"{values.conn_tmo:g}",
            "EPICS_CA_MAX_SEARCH_PERIOD": f"{values.max_search_period:g}",
            "EPICS_CA_MAX_ARRAY_BYTES": str(values.max_array_bytes),
            "EPICS_CA_AUTO_ARRAY_BYTES": "YES",
            "EPICS_CA_MCAST_TTL": str(values.mcast_ttl),
            "DAQCA_REPEATER_LINGER": f"{values.repeater_linger:g}",
        }

    def _print_network(self, screen: Console) -> None:
        table = _table("Interfaces", "name", "address", "searched by", "state")
        for item in self._interfaces:
            by = item.broadcast if item.broadcast and self._settings.auto_addr_list else "-"
            table.add_row(item.name, item.address, by, "up" if item.is_up else "down")
        screen.print(table)
        table = _table("Searched addresses", "address", "by", "what answers")
        for place in self._places:
            table.add_row(_address(place.address), place.transport, self._state(place))
        screen.print(table if self._places else "[red]No address is searched.[/]")
        port = self._settings.repeater_port
        screen.print(
            f"Repeater: one answers on port {port}."
            if self._repeater
            else f"Repeater: none on port {port} yet; a client starts one. Without it, new servers are noticed later."
        )
        self._show_receive_buffer(screen)

    def _show_receive_buffer(self, screen: Console) -> None:
        from daqca.ca.sockets import RECEIVE_BUFFER, receive_buffer

        size = receive_buffer()
        if size < RECEIVE_BUFFER:
            screen.print(
                f"Receive buffer: this host allows {size:,} bytes. A server merges the updates that a busy client "
                f"leaves waiting. To record at full speed, allow more: sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
            )

    def _state(self, place: Place) -> str:
        """What is known of an address, in words."""
        if place.problem:
            return place.problem
        if place.answers:
            servers = {answer.server for answer in place.answers}
            fastest = min(answer.delay for answer in place.answers)
            who = ", ".join(_address(server) for server in sorted(servers))
            return f"{who} after {fastest * 1e3:.2f} ms"
        if place.denied:
            return "a server that has none of the names" if self._servers else "a server"
        if place.is_broadcast:
            return "silent (servers are silent about names they do not have)"
        return "silent"

    def _print_names(self, screen: Console) -> None:
        from rich.markup import escape

        for name in self._servers:
            reading, _ = self._readings[name]
            colour = "green" if reading.ok else "red"
            screen.print(f"\n[bold]{escape(name)}[/]: [{colour}]{reading.outcome.text}[/]")
            for answer in self._servers[name]:
                version = f", CA 4.{answer.minor_version}" if answer.minor_version else ""
                screen.print(f"  {_address(answer.server)} has it: found in {answer.delay * 1e3:.2f} ms{version}")
            screen.print(f"  {escape(self.explanation(name))}")

    def explanation(self, name: str) -> str:
        """What the findings mean for one name, and what to do."""
        answers, (reading, seconds) = self._servers[name], self._readings[name]
        if len(answers) > 1:
            who = " and ".join(_address(answer.server) for answer in answers)
            return (
                f"{len(answers)} servers have this name: {who}. A client takes whichever answers first, so it may be "
                "the wrong one: stop one of them, or give each client an address list that reaches one only."
            )
        if answers and reading.ok:
            return f"It is read in {seconds * 1e3:.2f} ms when connected."
        if answers and reading.outcome == Outcome.TIMEOUT:
            return (
                f"The server has it and is connected, but did not answer a read within {self._timeout:g} s: it "
                "hangs, or is slow. A longer --timeout tells which."
            )
        if answers:
            return (
                f"The server answers the search, but reading it ends with: {reading.outcome.text}. Its TCP port may be "
                "closed by a firewall, the server may hang, or it may not allow reading."
            )
        return self._why_nobody(name)

    def _why_nobody(self, name: str) -> str:
        """Why no server answered for a name, as far as can be told."""
        if not self._places:
            return "No address is searched: set EPICS_CA_ADDR_LIST, or EPICS_CA_AUTO_ADDR_LIST=YES."
        if all(place.problem for place in self._places):
            problems = "; ".join(f"{_address(place.address)}: {place.problem}" for place in self._places)
            return (
                f"Nobody can answer ({problems}). Start the IOC, or correct EPICS_CA_ADDR_LIST or EPICS_CA_SERVER_PORT."
            )
        alive = [_address(place.address) for place in self._places if place.is_alive]
        if alive:
            return (
                f"Servers answer at {', '.join(alive)}, but not for this name. Look for a typing mistake, or for the "
                "IOC of this record: it may be down, or not reached by the addresses searched."
            )
        return (
            "No server answered at any address. The IOC may be down, in another network (add its address to "
            "EPICS_CA_ADDR_LIST), on another port (EPICS_CA_SERVER_PORT), or behind a firewall that drops UDP."
        )


def _address(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
