"""The manual's own ways with the low-level interface: the examples of chapter 4.8, and many channels as in 10.2."""

from __future__ import annotations

import gc
import socket
from types import ModuleType
from typing import Any

from support import ca_records
from support.ca_records import Records, nothing_under_way
from support.ioc import IOCFactory
from support.recording import eventually

ca, records = ca_records.ca, ca_records.records
record_server = ca_records.record_server


def test_example_of_a_get(ca: ModuleType, records: Records, capsys):
    """Chapter 4.8.1, where a channel needs no waiting for its value, but for what is known of it."""
    chid = ca.create_channel(records("double"), connect=True)
    count = ca.element_count(chid)
    ftype = ca.field_type(chid)
    print("Channel ", chid, count, ftype)
    value = ca.get(chid)
    print(value)
    assert capsys.readouterr().out == f"Channel  {chid!r} 1 6\n1.5\n"
    assert ca.get(ca.create_channel(records("long"))) == 7


def test_example_of_a_put(ca: ModuleType, records: Records):
    """Chapter 4.8.2."""
    chid = ca.create_channel(records("free"))
    assert ca.put(chid, 1.0, wait=True) == 1
    assert ca.get(chid) == 1.0


def test_example_of_a_subscription(ca: ModuleType, records: Records, capsys):
    """Chapter 4.8.3; the return value need not be kept."""
    lines: list[str] = []

    def onChanges(pvname=None, value=None, **kw):
        lines.append(f"New Value: {pvname} value={value}, kw={sorted(kw)}")

    chid = ca.create_channel(records("count"))
    ca.create_subscription(chid, callback=onChanges)
    gc.collect()
    eventually(lambda: lines, "the first value")
    ca.put(chid, 17)
    wanted = f"New Value: {records('count')} value=17, kw=['chid', 'count', 'ftype', 'status']"
    eventually(lambda: wanted in lines, "the second value")


def test_example_of_a_connection_callback(ca: ModuleType, records: Records):
    """Chapter 4.8.4."""
    told: list[Any] = []

    def onConnectionChange(pvname=None, conn=None, chid=None):
        told.append((pvname, conn, chid))

    chid = ca.create_channel(records("double"), callback=onConnectionChange)
    eventually(lambda: told == [(records("double"), True, int(chid))], "the connection is told")


def test_many_channels_in_the_manuals_way(ca: ModuleType, make_ioc: IOCFactory, point_at):
    """Chapter 10.2: nothing is sent name by name, and every value is there."""
    ioc = make_ioc(scalars=2000, changing=0)
    point_at(ioc)
    names = ioc.names
    pvdata = {}
    for name in names:
        chid = ca.create_channel(name, connect=False, auto_cb=False)
        pvdata[name] = [chid, None]
    client = chid.client
    for data in pvdata.values():
        assert ca.connect_channel(data[0], timeout=20)
    ca.poll()
    before = packets_sent(client)
    for data in pvdata.values():
        assert ca.get(data[0], wait=False) is None
    ca.poll()
    for data in pvdata.values():
        data[1] = ca.get_complete(data[0])
    assert packets_sent(client) - before < len(names) / 4
    assert {name: data[1] for name, data in pvdata.items()} == {
        name: record.value for name, record in ioc.database.by_name.items()
    }
    assert client.context.shard.searcher.sent < len(names) / 4
    assert all(nothing_under_way(data[0]) for data in pvdata.values())


def packets_sent(client: Any) -> int:
    """How many packets with data the kernel has sent on the circuits of a context."""
    sent = 0
    for link in client.context._links.values():
        # tcpi_data_segs_out of struct tcp_info (linux/tcp.h).
        info = link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        sent += int.from_bytes(info[156:160], "little")
    return sent
