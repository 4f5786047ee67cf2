"""Shards in worker processes: everything a link promises, against a real IOC."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from support.pools import PATIENCE, Answers, Heard, busy, connected, pool_of, read, wait_until

from daqca.broker.broker import Broker
from daqca.broker.client import BrokerClient
from daqca.broker.port import WorkerPort
from daqca.ca.context import Context
from daqca.ca.dbr import Mask
from daqca.ca.settings import Settings
from daqca.errors import ConfigurationError, EngineClosedError
from daqca.events import ELEMENT, Access, Batch, Kind, decode
from daqca.link import CTRL
from daqca.workers import WorkerLink, WorkerPool
from daqca.workers.main import serve
from daqca.workers.worker import Worker

DOUBLE = 6
VALUE = int(Mask.VALUE | Mask.ALARM)
ECA_DISCONN = 24
ARRAY = 131_072
RECORDS = """
record(ao, "{p}a") {{ field(VAL, "1.5") field(PINI, "YES") }}
record(ao, "{p}b") {{ field(VAL, "-2.5") field(PINI, "YES") }}
record(longout, "{p}n") {{ field(VAL, "7") field(PINI, "YES") }}
record(stringout, "{p}s") {{ field(VAL, "words") field(PINI, "YES") }}
record(waveform, "{p}w") {{ field(FTVL, "DOUBLE") field(NELM, "131072") }}
"""


@pytest.fixture
def few(make_ioc, point_at):
    """An IOC with a few records of its own; returns their names by the last letter."""
    prefix = f"W{os.urandom(3).hex().upper()}:"
    ioc = make_ioc(RECORDS.format(p=prefix))
    point_at(ioc)
    return {letter: prefix + letter for letter in "abnsw"}


def test_reads_are_those_of_a_context_in_this_process(ioc):
    """Every scalar and special record, through two workers, beside a context here."""
    names = [record.name for record in ioc.database.by_name.values() if not record.changing]
    names += sorted(ioc.database.special_values)
    here: list[Batch] = []
    with pool_of(2) as (pool, heard), Context(here.append) as context:
        halves = [names[::2], names[1::2]]
        slots = [connected(pool, heard, half, number) for number, half in enumerate(halves)]
        got = [read(link, part) for link, part in zip(pool.links, slots, strict=True)]
        mine = context.add(names)
        context.read(mine, lambda first: None)
        wait_until(lambda: sum((b.records["kind"] == Kind.READ).sum() for b in list(here)) == len(names), "reads here")
        expected = {}
        for batch in list(here):
            for event in batch:
                if event.kind == Kind.READ:
                    data = bytes(batch.data(*event.value)) if isinstance(event.value, tuple) else event.value
                    expected[names[event.slot]] = (*event[1:6], event.count, data)
        through = {}
        for half, answers in zip(halves, got, strict=True):
            for name, event, block in zip(half, answers.events, answers.blocks, strict=True):
                data = block if isinstance(event.value, tuple) else event.value
                through[name] = (*event[1:6], event.count, data)
        assert through == expected
        assert len({value[1] for value in through.values()}) == 7  # all DBR types


def test_channels_connect_and_tell_what_they_are(ioc):
    record = next(record for record in ioc.database.by_name.values() if record.native_type == 3)
    names = [record.name, ioc.prefix + "wf:large", ioc.prefix + "no-such-record"]
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = link.add(names)
        assert slots.tolist() == [0, 1, 2]
        heard.wait_connected(link, 2)
        told = {int(r["slot"]): r for r in heard.of(link, Kind.CONNECTED)}
        assert (told[0]["dbr_type"], told[0]["count"], told[0]["status"]) == (3, 1, Access.READ | Access.WRITE)
        assert (told[1]["dbr_type"], told[1]["count"]) == (DOUBLE, 100_000)
        host = f"127.0.0.1:{ioc.server_port}"
        assert link.hosts(slots[[2, 1, 0]]) == ["", host, host]
        assert link.add([*names[:1], "another"]).tolist() == [3, 4]
        with pytest.raises(ConfigurationError, match="cannot be the name"):
            link.add(["good", ""])
        with pytest.raises(ConfigurationError, match="cannot be the name"):
            link.add(["x" * 20_000])


def test_metadata_is_read_in_the_ctrl_form(few):
    with pool_of() as (pool, heard):
        slots = connected(pool, heard, [few["a"]])
        answers = read(pool.links[0], slots, CTRL, 1)
        assert answers.kinds() == [Kind.READ]
        assert answers.events[0].dbr_type == 34  # DBR_CTRL_DOUBLE
        assert np.frombuffer(answers.blocks[0][-8:], ">f8")[0] == 1.5


def test_one_value_is_written_confirmed_and_read_back(few):
    with pool_of() as (pool, heard):
        slots = connected(pool, heard, [few["a"], few["s"], few["n"]])
        link = pool.links[0]
        for slot, dbr_type, payload, expected in (
            (0, DOUBLE, np.array([12.25], ">f8").tobytes(), 12.25),
            (1, 0, b"other words".ljust(40, b"\0"), b"other words"),
            (2, 5, np.array([-7], ">i4").tobytes(), -7.0),
        ):
            written = Answers()
            link.write_one(slot, dbr_type, 1, payload, written, PATIENCE)
            assert written.kinds() == [Kind.WRITTEN]
            assert written.statuses() == [0]
            answer = Answers()
            link.read_one(slot, answer, PATIENCE)
            assert answer.kinds() == [Kind.READ]
            value = answer.blocks[0].rstrip(b"\0") if slot == 1 else answer.events[0].value
            assert value == expected
        assert len(slots) == 3
        assert len(link.operations) == 0


def test_a_put_that_nobody_waits_for_arrives(few):
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, [few["a"], few["b"]])
        link.write_one(0, DOUBLE, 1, np.array([3.5], ">f8").tobytes(), None)
        link.write_doubles(slots[1:], np.array([4.5]), None)
        assert read(link, slots).numbers() == [3.5, 4.5]  # one circuit: puts and gets keep their order


def test_many_numbers_are_written_at_once(few):
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = np.concatenate([connected(pool, heard, [few["a"], few["b"], few["n"]]), link.add(["no:such:pv"])])
        answers = Answers(4)
        link.write_doubles(slots, np.array([1.0, 2.0, 3.0, 4.0]), answers)
        assert answers.wait(PATIENCE)
        assert answers.kinds() == [Kind.WRITTEN] * 3 + [Kind.FAILED]
        assert answers.statuses() == [0, 0, 0, ECA_DISCONN]
        assert read(link, slots[:3]).numbers() == [1.0, 2.0, 3.0]
        nothing = Answers(0)
        link.write_doubles(slots[:0], np.zeros(0), nothing)
        link.read(slots[:0], nothing)
        assert nothing.done


def test_a_read_waits_for_its_channel_and_can_be_given_up(few, ioc):
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = link.add([few["a"], "no:such:pv"])
        answers = Answers(2)
        link.read(slots, answers)
        heard.wait(lambda: answers.kinds()[0] == Kind.READ, "the read of the channel that exists")
        assert not answers.wait(0.05)
        assert len(link.operations) == 1
        link.cancel(answers)
        assert len(link.operations) == 0
        wait_until(lambda: link.stats()["requests_pending"] == 0, "the worker forgets the request")


def test_updates_come_with_their_mask_until_unsubscribed(few):
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, [few["a"], few["b"]])
        link.subscribe(slots, VALUE)
        heard.wait(lambda: len(heard.of(link, Kind.UPDATE)) == 2, "the first values")
        for number in range(50):
            link.write_one(0, DOUBLE, 1, np.array([100.0 + number], ">f8").tobytes(), Answers(), PATIENCE)
        # A server may confirm a put before it sends the update that comes of it.
        heard.wait(lambda: len(heard.of(link, Kind.UPDATE, slot=0)) == 51, "all updates")
        updates = heard.of(link, Kind.UPDATE, slot=0)
        assert updates["value"].tolist() == [1.5, *(100.0 + number for number in range(50))]
        assert set(updates["token"].tolist()) == {VALUE}
        link.unsubscribe(slots[:1], VALUE)
        link.write_one(0, DOUBLE, 1, np.array([1.0], ">f8").tobytes(), Answers(), PATIENCE)
        link.write_one(1, DOUBLE, 1, np.array([2.0], ">f8").tobytes(), Answers(), PATIENCE)
        heard.wait(lambda: len(heard.of(link, Kind.UPDATE, slot=1)) == 2, "the other update")
        assert len(heard.of(link, Kind.UPDATE, slot=0)) == 51
        assert heard.of(link, Kind.UPDATE, slot=1)["value"].tolist() == [-2.5, 2.0]


def test_arrays_of_a_megabyte_come_whole(few):
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, [few["w"]])
        link.subscribe(slots, VALUE)
        heard.wait(lambda: len(heard.of(link, Kind.UPDATE)) == 1, "the first value")
        sent = []
        for number in range(20):
            sent.append(np.arange(ARRAY, dtype=">f8") + number)
            written = Answers()
            link.write_one(0, DOUBLE, ARRAY, sent[-1].tobytes(), written, PATIENCE)
            assert written.kinds() == [Kind.WRITTEN]
            # Of two arrays in quick succession a server of EPICS base sends only the newer one.
            heard.wait(lambda n=number: len(heard.of(link, Kind.UPDATE)) == n + 2, "the update")
        updates = heard.of(link, Kind.UPDATE)
        assert updates["count"].tolist() == [0] + [ARRAY] * 20
        for data, expected in zip(heard.data(link, Kind.UPDATE, 0)[1:], sent, strict=True):
            assert np.array_equal(decode(data, DOUBLE, ARRAY), expected)
        answers = read(link, slots)
        assert answers.blocks[0] == sent[-1].tobytes()
        assert ELEMENT[DOUBLE].itemsize * ARRAY == 1 << 20


def test_after_a_put_nothing_older_is_seen(few):
    """A get after a confirmed put gives what was put, and updates come in order and all, whoever else asks."""
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, [few["a"], few["b"], few["n"], few["w"]])
        link.subscribe(slots, VALUE)
        with busy(link, slots):
            for number in range(200):
                written, answer = Answers(), Answers()
                link.write_one(0, DOUBLE, 1, np.array([1000.0 + number], ">f8").tobytes(), written, PATIENCE)
                link.read_one(0, answer, PATIENCE)
                assert answer.numbers() == [1000.0 + number]
        heard.wait(lambda: len(heard.of(link, Kind.UPDATE, slot=0)) == 201, "all updates")
        values = heard.of(link, Kind.UPDATE, slot=0)["value"]
        assert values.tolist() == [1.5, *(1000.0 + number for number in range(200))]
        assert link.stats()["gaps"] == 0


class Watched(Worker):
    """A worker that notes what its context tells it, and in which order."""

    def __init__(self, *args):
        self.told: list[tuple[float, ...]] = []
        super().__init__(*args)

    def _deliver(self, batch):
        self.told += [(int(r["slot"]), int(r["kind"]), float(r["value"])) for r in batch.records]
        super()._deliver(batch)


def test_the_order_of_a_worker_is_the_order_of_its_client(few):
    """Updates and answers of four threads, in one stream: delivered exactly as the context told them."""
    broker = Broker()
    client = BrokerClient(broker)
    heard = Heard()
    link = WorkerLink(0, client, heard)
    port = WorkerPort(broker.endpoints, b"a worker")
    worker = Watched(port, Settings.from_environ())
    serving = threading.Thread(target=serve, args=(worker, port))
    link.expect(b"a worker")
    serving.start()
    try:
        assert link.is_up.wait(PATIENCE)
        slots = link.add([few["a"], few["b"], few["n"]])
        heard.wait_connected(link, 3)
        link.subscribe(slots, VALUE)
        with busy(link, slots):
            for number in range(200):
                link.write_one(0, DOUBLE, 1, np.array([1000.0 + number], ">f8").tobytes(), Answers(), PATIENCE)
        wait_until(lambda: len(heard.of(link)) == len(worker.told), "all that the context told")
        told = [(int(r["slot"]), int(r["kind"]), float(r["value"])) for r in heard.of(link)]
        assert told == worker.told
        assert len(told) > 1000
        mixed = [kind for _, kind, _ in told]
        assert {Kind.UPDATE, Kind.READ, Kind.WRITTEN} <= set(mixed)
    finally:
        link.quit()
        serving.join()
        worker.close()
        port.close()
        client.close()
        broker.close()
        client.join()


def test_many_threads_ask_at_once(few):
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, [few["a"], few["b"], few["n"]])
        wrong = []

        def ask(number: int) -> None:
            for turn in range(60):
                if turn % 3:
                    part = slots[number % 3 :]
                    if read(link, part).numbers() != [1.5, -2.5, 7.0][number % 3 :]:
                        wrong.append((number, turn))
                else:
                    one = Answers()
                    link.read_one(number % 3, one, PATIENCE)
                    if one.numbers() != [[1.5, -2.5, 7.0][number % 3]]:
                        wrong.append((number, turn))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(link.operations) == 0
        assert link.stats()["requests_pending"] == 0


def test_tokens_wrap_round(few):
    with pool_of() as (pool, heard):
        link = pool.links[0]
        slots = connected(pool, heard, [few["a"], few["b"], few["n"]])
        link._next_token = 0xFFFFFFFF - 4
        firsts = []
        for _ in range(4):
            answers = read(link, slots)
            assert answers.numbers() == [1.5, -2.5, 7.0]
            firsts.append(answers.first)
        assert firsts == [0xFFFFFFFB, 1, 4, 7]


def test_the_stats_tell_of_both_ends(few):
    with pool_of(2) as (pool, heard):
        slots = connected(pool, heard, [few["a"], few["b"]], 1)
        read(pool.links[1], slots)
        one, two = pool.stats()
        assert (one["worker"], two["worker"]) == (0, 1)
        assert [one["pid"], two["pid"]] == pool.pids
        assert os.getpid() not in pool.pids
        assert (one["channels"], two["channels"], two["connected"], two["circuits"]) == (0, 2, 2, 1)
        assert two["received_events"] == 4
        assert two["events"] == 4
        assert two["bytes"] > two["received_bytes"] >= 4 * 32
        assert 0 < two["cpu_s"] < 60
        assert 10_000_000 < two["rss"] < 500_000_000
        for name in ("gaps", "lost", "late", "malformed", "restarts", "requests_malformed", "dropped_events"):
            assert two[name] == 0, name
        assert two["messages"] > 2
        assert two["requests"] >= 4


def test_a_closed_pool_says_so(few):
    with pool_of() as (pool, heard):
        slots = connected(pool, heard, [few["a"]])
        pids = pool.pids
    pool.close()
    assert all(not os.path.exists(f"/proc/{pid}") for pid in pids)
    link = pool.links[0]
    with pytest.raises(EngineClosedError):
        link.add(["x"])
    with pytest.raises(EngineClosedError):
        link.read(slots, Answers())
    assert link.hosts(slots) == [""]
    assert link.stats()["state"] == "closed"


def test_pools_stand_side_by_side(few):
    with pool_of() as (one, heard_one), pool_of() as (two, heard_two):
        a = connected(one, heard_one, [few["a"]])
        b = connected(two, heard_two, [few["a"]])
        one.links[0].write_one(0, DOUBLE, 1, np.array([9.0], ">f8").tobytes(), Answers(), PATIENCE)
        assert read(two.links[0], b).numbers() == read(one.links[0], a).numbers() == [9.0]
        assert not set(one.pids) & set(two.pids)


def test_a_pool_without_settings_takes_the_environment(monkeypatch):
    monkeypatch.setenv("EPICS_CA_CONN_TMO", "never")
    with pytest.raises(ConfigurationError, match="EPICS_CA_CONN_TMO"):
        WorkerPool(1, lambda link, batch: None)
