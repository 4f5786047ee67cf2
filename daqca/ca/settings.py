"""The settings of a CA client, from the EPICS_CA_... environment variables, with EPICS' defaults and meaning.

Only reads and checks; the interfaces of this host are found in `interfaces`, and nothing is opened here.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from daqca.ca.interfaces import broadcast_addresses
from daqca.errors import ConfigurationError

Address = tuple[str, int]
"""IPv4 address in dotted form, and port."""

SERVER_PORT = 5064
REPEATER_PORT = 5065
CONN_TMO = 30.0
MAX_SEARCH_PERIOD = 300.0
LEAST_SEARCH_PERIOD = 60.0
MAX_ARRAY_BYTES = 16_384
MCAST_TTL = 1
REPEATER_LINGER = 60.0
USER_PORTS = 5001
"""EPICS takes no port below (``IPPORT_USERRESERVED``), in clients and servers alike."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a CA client was told about its network; fields bear the names of the variables.

    Parameters
    ----------
    addr_list
        Where to search: the entries of EPICS_CA_ADDR_LIST, resolved, each once.
    auto_addr_list
        Whether to search the networks of all interfaces too: EPICS_CA_AUTO_ADDR_LIST is not NO.
    name_servers
        Where to search by TCP: EPICS_CA_NAME_SERVERS.
    server_port
        The port of addresses without one: EPICS_CA_SERVER_PORT, 5064.
    repeater_port
        EPICS_CA_REPEATER_PORT, 5065.
    conn_tmo
        Seconds of silence after which a server is asked whether it lives: EPICS_CA_CONN_TMO, 30.
    max_search_period
        The longest wait in seconds between two searches for a name: EPICS_CA_MAX_SEARCH_PERIOD, 300, at least 60.
    max_array_bytes
        The largest array to transfer: EPICS_CA_MAX_ARRAY_BYTES, 16384 (see `payload_limit`).
    auto_array_bytes
        Whether any size will do: EPICS_CA_AUTO_ARRAY_BYTES is not NO.
    mcast_ttl
        EPICS_CA_MCAST_TTL, 1.
    repeater_linger
        Seconds that a repeater which we start stays without clients: DAQCA_REPEATER_LINGER, 60.
    problems
        What was wrong and could be left out or corrected, one sentence each: a host that does not resolve, a port or
        a period that EPICS replaces. Not an error, because EPICS carries on with the rest and so do the programs that
        depend on it; ``daqca doctor`` shows them.
    """

    addr_list: tuple[Address, ...] = ()
    auto_addr_list: bool = True
    name_servers: tuple[Address, ...] = ()
    server_port: int = SERVER_PORT
    repeater_port: int = REPEATER_PORT
    conn_tmo: float = CONN_TMO
    max_search_period: float = MAX_SEARCH_PERIOD
    max_array_bytes: int = MAX_ARRAY_BYTES
    auto_array_bytes: bool = True
    mcast_ttl: int = MCAST_TTL
    repeater_linger: float = REPEATER_LINGER
    problems: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; host names are looked up now, which may take the time that DNS takes.

        A variable that is empty counts as not set.

        Raises
        ------
        ConfigurationError
            If a variable that should be a number is none, or one that makes no sense (a port above 65535, a time of
            zero). The message names the variable and its value.
        """
        read = _Reader(environ)
        server_port = read.port("EPICS_CA_SERVER_PORT", SERVER_PORT)
        auto = read.is_on("EPICS_CA_AUTO_ADDR_LIST")
        addr_list = read.addresses("EPICS_CA_ADDR_LIST", server_port)
        name_servers = read.addresses("EPICS_CA_NAME_SERVERS", server_port)
        if not (auto or addr_list or name_servers):
            read.problems.append(
                "no PV will be found, for there is no address to search: EPICS_CA_AUTO_ADDR_LIST is NO, and "
                "EPICS_CA_ADDR_LIST and EPICS_CA_NAME_SERVERS have no usable entry"
            )
        period = read.number("EPICS_CA_MAX_SEARCH_PERIOD", MAX_SEARCH_PERIOD)
        if period < LEAST_SEARCH_PERIOD:
            read.problems.append(f"EPICS_CA_MAX_SEARCH_PERIOD is {period:g} s; {LEAST_SEARCH_PERIOD:g} s is used")
            period = LEAST_SEARCH_PERIOD
        return cls(
            addr_list=addr_list,
            auto_addr_list=auto,
            name_servers=name_servers,
            server_port=server_port,
            repeater_port=read.port("EPICS_CA_REPEATER_PORT", REPEATER_PORT),
            conn_tmo=read.number("EPICS_CA_CONN_TMO", CONN_TMO),
            max_search_period=period,
            max_array_bytes=read.integer("EPICS_CA_MAX_ARRAY_BYTES", MAX_ARRAY_BYTES, 1),
            auto_array_bytes=read.is_on("EPICS_CA_AUTO_ARRAY_BYTES"),
            mcast_ttl=read.integer("EPICS_CA_MCAST_TTL", MCAST_TTL, 0, 255),
            repeater_linger=read.number("DAQCA_REPEATER_LINGER", REPEATER_LINGER),
            problems=tuple(read.problems),
        )

    @property
    def payload_limit(self) -> int | None:
        """The largest payload in bytes that a client should accept or send; None if any will do.

        As in libca: without EPICS_CA_AUTO_ARRAY_BYTES=NO any; else EPICS_CA_MAX_ARRAY_BYTES, but 16384 at least.
        """
        return None if self.auto_array_bytes else max(self.max_array_bytes, MAX_ARRAY_BYTES)

    def search_addresses(self) -> list[Address]:
        """Where to send searches by UDP, each address once: the networks of the interfaces as they are now (unless
        EPICS_CA_AUTO_ADDR_LIST is NO), then the address list.

        Raises
        ------
        OSError
            If the system does not tell its interfaces.
        """
        automatic = broadcast_addresses() if self.auto_addr_list else []
        return list(dict.fromkeys([*((ip, self.server_port) for ip in automatic), *self.addr_list]))


class _Reader:
    """Reads variables, and collects what can be carried on with."""

    def __init__(self, environ: Mapping[str, str]):
        self.environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return self.environ.get(name, "").strip()

    def is_on(self, name: str) -> bool:
        """Whether a switch is not NO; EPICS looks for "no" or "NO" anywhere in it."""
        said = self.text(name)
        return "no" not in said and "NO" not in said

    def integer(self, name: str, default: int, low: int, high: int | None = None) -> int:
        said = self.text(name)
        if not said:
            return default
        try:
            value = int(said)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise ConfigurationError(f"{name}={said!r} should be a whole number {bounds}; correct it, or unset it")
        return value

    def port(self, name: str, default: int) -> int:
        value = self.integer(name, default, 0, 65535)
        if value < USER_PORTS:
            self.problems.append(f"{name} is {value}; EPICS takes none below {USER_PORTS}, so {default} is used")
            return default
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number of seconds."""
        said = self.text(name)
        if not said:
            return default
        try:
            value = float(said)
        except ValueError:
            value = -1.0
        if not (value > 0 and math.isfinite(value)):
            raise ConfigurationError(f"{name}={said!r} should be a positive number of seconds; correct it, or unset it")
        return value

    def addresses(self, name: str, default_port: int) -> tuple[Address, ...]:
        """The entries ``host[:port]`` of a list, resolved, each once."""
        found: dict[Address, None] = {}
        for entry in self.text(name).split():
            host, colon, port_text = entry.rpartition(":")
            if not colon:
                host, port_text = entry, str(default_port)
            if not host or ":" in host or not port_text.isdecimal() or not 0 < int(port_text) < 65536:
                self.problems.append(f"{name}: {entry!r} is left out; it should be an IPv4 host or host:port")
                continue
            try:
                found[_ip_of(host), int(port_text)] = None
            except (OSError, UnicodeError) as error:
                self.problems.append(f"{name}: {entry!r} is left out; the host is not known ({error})")
        return tuple(found)


def _ip_of(host: str) -> str:
    """The IPv4 address of a host. One in figures is not looked up: names load what they are encoded with, for 4 ms."""
    if host.replace(".", "").isdecimal() and host.isascii():
        return socket.inet_ntoa(socket.inet_aton(host))
    return socket.gethostbyname(host)
