"""The probe of the network: who answers by UDP and by TCP, who denies, and where nothing listens."""

import time

from daqca.ca.probe import NOTHING_LISTENS, probe_names, repeater_answers, servers_by_name
from daqca.ca.settings import Settings
from daqca.sim import free_port


def settings(addresses, name_servers="", **extra):
    return Settings.from_environ(
        {
            "EPICS_CA_ADDR_LIST": addresses,
            "EPICS_CA_AUTO_ADDR_LIST": "NO",
            "EPICS_CA_NAME_SERVERS": name_servers,
            **extra,
        }
    )


def test_each_address_tells_its_own(make_ioc):
    one = make_ioc('record(ao, "P:both") {} record(ao, "P:one") {}')
    other = make_ioc('record(ao, "P:both") {}')
    silent = free_port()
    addresses = [("127.0.0.1", port) for port in (one.server_port, other.server_port, silent)]
    known = settings(" ".join(f"{ip}:{port}" for ip, port in addresses), f"127.0.0.1:{one.server_port}")
    names = ["P:both", "P:one", "P:none"]
    places = probe_names(names, known, timeout=1.0)
    assert [place.address for place in places] == [*addresses, addresses[0]]
    assert [place.transport for place in places] == ["UDP", "UDP", "UDP", "TCP"]
    assert [{answer.name for answer in place.answers} for place in places] == [
        {"P:both", "P:one"},
        {"P:both"},
        set(),
        {"P:both", "P:one"},
    ]
    assert [place.denied for place in places] == [{"P:none"}, {"P:one", "P:none"}, set(), {"P:none"}]
    assert [place.problem for place in places] == ["", "", NOTHING_LISTENS, ""]
    assert all(answer.minor_version == 13 for place in places[:2] for answer in place.answers)
    assert all(0 < answer.delay < 1 for place in places for answer in place.answers)
    servers = servers_by_name(names, places)
    assert {answer.server for answer in servers["P:both"]} == set(addresses[:2])
    assert [answer.server for answer in servers["P:one"]] == [addresses[0]]
    assert servers["P:none"] == []


def test_many_names_need_many_datagrams_and_little_time(ioc):
    names = ioc.names + [name + ".DESC" for name in ioc.names]
    start = time.monotonic()
    place = probe_names(names, settings(f"127.0.0.1:{ioc.server_port}"), timeout=5.0)[0]
    assert {answer.name for answer in place.answers} == set(names)
    assert time.monotonic() - start < 3.0


def test_a_hanging_server_costs_the_timeout_and_no_more(make_ioc):
    ioc = make_ioc('record(ao, "P:x") {}')
    ioc.suspend()
    start = time.monotonic()
    place = probe_names(["P:x"], settings(f"127.0.0.1:{ioc.server_port}"), timeout=0.3)[0]
    assert time.monotonic() - start < 2.0
    assert (place.answers, place.denied, place.is_alive) == ([], set(), False)


def test_the_repeater_answers_or_not(repeater):
    assert repeater_answers(repeater.repeater_port)
    assert not repeater_answers(free_port(), timeout=0.2)
