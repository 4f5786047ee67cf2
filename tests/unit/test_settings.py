from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.c.program import compile_c, run_program

from daqca.ca import interfaces as interfaces_module
from daqca.ca.interfaces import Interface, broadcast_addresses, interfaces
from daqca.ca.settings import Settings
from daqca.errors import ConfigurationError


@pytest.fixture(scope="module")
def epics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c("ca_settings.c", tmp_path_factory.mktemp("c"))


def read(**environ: str) -> Settings:
    return Settings.from_environ({f"EPICS_CA_{name}": value for name, value in environ.items()})


def address(text: str) -> tuple[str, int]:
    host, port = text.split(":")
    return host, int(port)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"ADDR_LIST": "10.0.0.255 10.1.0.7:5066", "AUTO_ADDR_LIST": "NO"},
        {"ADDR_LIST": "  10.0.0.255\t10.0.0.255:5064 10.0.0.255 localhost ", "AUTO_ADDR_LIST": "no"},
        {"ADDR_LIST": "10.0.0.255", "AUTO_ADDR_LIST": "YES", "SERVER_PORT": "7064"},
        {"ADDR_LIST": "255.255.255.255 224.0.2.9:9999", "AUTO_ADDR_LIST": "", "REPEATER_PORT": "7065"},
        {"AUTO_ADDR_LIST": "NO", "NAME_SERVERS": "10.0.0.1 10.0.0.2:5070"},
        {"SERVER_PORT": "5000", "REPEATER_PORT": "80", "AUTO_ADDR_LIST": "NO", "ADDR_LIST": "10.0.0.1"},
        {"CONN_TMO": "7.5", "MAX_SEARCH_PERIOD": "90", "MAX_ARRAY_BYTES": "1000000", "MCAST_TTL": "3"},
        {"SERVER_PORT": "", "CONN_TMO": "", "ADDR_LIST": ""},
    ],
    ids=lambda environ: " ".join(environ) or "default",
)
def test_the_environment_is_read_as_epics_reads_it(epics, environ):
    lines = [line.split() for line in run_program(epics, {f"EPICS_CA_{k}": v for k, v in environ.items()}).splitlines()]
    settings = read(**environ)
    assert settings.search_addresses() == [address(text) for name, text in lines if name == "search"]
    assert list(settings.name_servers) == [address(text) for name, text in lines if name == "name_server"]
    numbers = {name: float(text) for name, text in lines if ":" not in text}
    assert {"server_port", "repeater_port"} <= set(numbers)
    for name, number in numbers.items():
        assert getattr(settings, name) == number, name


def test_defaults():
    assert read() == Settings() == Settings.from_environ({"PATH": "/bin"})
    settings = Settings()
    assert (settings.server_port, settings.repeater_port, settings.mcast_ttl) == (5064, 5065, 1)
    assert (settings.conn_tmo, settings.max_search_period, settings.max_array_bytes) == (30.0, 300.0, 16384)
    assert settings.auto_addr_list
    assert settings.auto_array_bytes
    assert settings.problems == ()
    assert [port for _, port in settings.search_addresses()] == [5064] * len(settings.search_addresses())


def test_search_addresses_are_interfaces_then_list(monkeypatch):
    monkeypatch.setattr("daqca.ca.settings.broadcast_addresses", lambda: ["10.0.0.255", "10.1.0.255"])
    settings = read(ADDR_LIST="10.9.0.1:7000 10.1.0.255 10.1.0.255:5065", SERVER_PORT="5065")
    assert settings.search_addresses() == [
        ("10.0.0.255", 5065),
        ("10.1.0.255", 5065),
        ("10.9.0.1", 7000),
    ]
    assert read(ADDR_LIST="10.9.0.1", AUTO_ADDR_LIST="NO").search_addresses() == [("10.9.0.1", 5064)]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("nowhere.invalid", "the host is not known"),
        ("nowhere.invalid:5070", "the host is not known"),
        ("10.0.0.1:0", "it should be"),
        ("10.0.0.1:70000", "it should be"),
        ("10.0.0.1:x", "it should be"),
        (":5064", "it should be"),
        ("[fe80::1]:5064", "it should be"),
        ("a" * 300, "the host is not known"),
    ],
)
@pytest.mark.parametrize("variable", ["ADDR_LIST", "NAME_SERVERS"])
def test_an_entry_that_leads_nowhere_is_left_out_and_told(monkeypatch, variable, entry, why):
    def no_dns(host: str) -> str:
        if host.startswith("10."):
            return host
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", no_dns)
    settings = read(**{variable: f"10.0.0.1 {entry} 10.0.0.2", "AUTO_ADDR_LIST": "NO"})
    found = settings.addr_list if variable == "ADDR_LIST" else settings.name_servers
    assert found == (("10.0.0.1", 5064), ("10.0.0.2", 5064))
    (problem,) = settings.problems
    assert problem.startswith(f"EPICS_CA_{variable}: {entry!r} is left out; {why}")


def test_nothing_to_search_is_told():
    (problem,) = read(AUTO_ADDR_LIST="NO").problems
    assert problem.startswith("no PV will be found, for there is no address to search")
    assert read(AUTO_ADDR_LIST="NO").search_addresses() == []
    assert read(AUTO_ADDR_LIST="NO", NAME_SERVERS="10.0.0.1").problems == ()


def test_what_epics_replaces_is_replaced_and_told():
    settings = read(SERVER_PORT="5000", REPEATER_PORT="0", MAX_SEARCH_PERIOD="5")
    assert (settings.server_port, settings.repeater_port, settings.max_search_period) == (5064, 5065, 60.0)
    assert len(settings.problems) == 3
    assert "EPICS_CA_MAX_SEARCH_PERIOD is 5 s; 60 s is used" in settings.problems
    assert "EPICS_CA_SERVER_PORT is 5000; EPICS takes none below 5001, so 5064 is used" in settings.problems


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SERVER_PORT", "x"),
        ("SERVER_PORT", "65536"),
        ("REPEATER_PORT", "-1"),
        ("REPEATER_PORT", "50.5"),
        ("CONN_TMO", "soon"),
        ("CONN_TMO", "0"),
        ("CONN_TMO", "nan"),
        ("MAX_SEARCH_PERIOD", "inf"),
        ("MAX_ARRAY_BYTES", "16k"),
        ("MAX_ARRAY_BYTES", "0"),
        ("MCAST_TTL", "256"),
    ],
)
def test_a_number_that_makes_no_sense_is_an_error_by_name(variable, value):
    with pytest.raises(ConfigurationError, match=f"EPICS_CA_{variable}='{value}' should be"):
        read(**{variable: value})


def test_the_largest_payload():
    assert read(MAX_ARRAY_BYTES="100").payload_limit is None
    assert read(MAX_ARRAY_BYTES="100", AUTO_ARRAY_BYTES="NO").payload_limit == 16384
    assert read(MAX_ARRAY_BYTES="2000000", AUTO_ARRAY_BYTES="no").payload_limit == 2_000_000


def test_the_repeater_lingers_as_told():
    assert Settings.from_environ({"DAQCA_REPEATER_LINGER": "1.5"}).repeater_linger == 1.5
    with pytest.raises(ConfigurationError, match="DAQCA_REPEATER_LINGER"):
        Settings.from_environ({"DAQCA_REPEATER_LINGER": "never"})


@given(st.dictionaries(st.sampled_from(["SERVER_PORT", "CONN_TMO", "MAX_ARRAY_BYTES", "AUTO_ADDR_LIST"]), st.text()))
def test_any_text_is_settings_or_a_configuration_error(environ):
    try:
        settings = read(**environ)
    except ConfigurationError as error:
        settings, words = Settings(), str(error)
    else:
        words = ""
    assert not words or any(f"EPICS_CA_{variable}=" in words for variable in environ)
    assert 5001 <= settings.server_port <= 65535
    assert settings.conn_tmo > 0


def test_the_loopback_interface_is_known_but_not_searched():
    found = interfaces()
    loopback = [interface for interface in found if interface.address == "127.0.0.1"]
    assert [interface.broadcast for interface in loopback] == [None]
    assert all(interface.is_loopback and interface.is_up and interface.name for interface in loopback)


def test_broadcast_addresses_each_once_without_loopback():
    lo = Interface("lo", "127.0.0.1", None, is_loopback=True)
    down = Interface("eth9", "10.9.0.1", None, is_up=False)
    eth = [Interface("eth0", "10.0.0.1", "10.0.0.255"), Interface("eth0", "10.0.0.2", "10.0.0.255")]
    tunnel = Interface("tun0", "10.8.0.1", "10.8.0.2")
    assert broadcast_addresses([lo, down, *eth, tunnel]) == ["10.0.0.255", "10.8.0.2"]
    assert broadcast_addresses([lo, down]) == ["127.0.0.1"]
    assert broadcast_addresses([]) == ["127.0.0.1"]


def test_elsewhere_than_on_linux_the_limited_broadcast_address_serves(monkeypatch):
    monkeypatch.setattr(interfaces_module, "ioctl", None)
    assert broadcast_addresses() == ["255.255.255.255"]
