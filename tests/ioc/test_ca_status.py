"""What the low-level interface tells of itself: version, messages, status, channels, and what fails unasked."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.access import AccessIOC
from support.background import Background
from support.ioc import IOCFactory, random_prefix
from support.lowlevel.watching import Calls, connected, current, read, when_told

from daqca import ca, dbr
from daqca.ca.eca import ECA
from daqca.errors import ChannelAccessException
from daqca.sim import SoftIOC

STATES = 'field(PINI, "YES") field(ZRST, "zero") field(ONST, "one")'
RECORDS = f"""
record(ao, "U:ao") {{ field(PINI, "YES") }}
record(mbbo, "U:mbbo") {{ {STATES} }}
record(waveform, "U:wave") {{ field(FTVL, "LONG") field(NELM, "5") }}
record(ao, "U:disabled") {{ field(PINI, "YES") field(DISP, "1") }}
"""


@pytest.fixture(scope="module")
def target(servers: Any, repeater: Any) -> Iterator[SoftIOC]:
    factory = IOCFactory(servers)
    yield factory(RECORDS)
    factory.stop()


@pytest.fixture(autouse=True)
def _library(target: SoftIOC, point_at: Any) -> Iterator[None]:
    point_at(target)
    yield
    ca.enable_ca_messages()
    ca.disable_ca_messages()
    ca.finalize_libca()


def fail_unasked(value: int = 7) -> str:
    """A put that the server refuses and nobody waits for; returns what is told of it."""
    chid = connected("U:mbbo")
    ca.put(chid, f"no state {value}", ftype=dbr.STRING)
    assert read(chid) == 0  # by then the server has answered
    when_told()
    return "put U:mbbo: Channel write request failed"


# --- words ----------------------------------------------------------------------------------


def test_the_version():
    assert ca.version() == "4.13"


def test_the_words_of_all_statuses_are_those_of_libca():
    """Also of numbers that are no status. (The libca of PyEpics is an older one, with mistakes of spelling.)"""
    statuses = sorted({int(status) for status in ECA} | set(range(600)) | {2**15, 2**16 - 1})
    code = (
        "import ctypes, json, sys; from epicscorelibs.path import get_lib\n"
        "libca = ctypes.CDLL(get_lib('ca'))\n"
        "libca.ca_message.restype = ctypes.c_char_p\n"
        "print(json.dumps([libca.ca_message(status).decode() for status in json.load(sys.stdin)]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=json.dumps(statuses),
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )
    assert dict(zip(statuses, json.loads(done.stdout), strict=True)) == {each: ca.message(each) for each in statuses}
    assert len({ca.message(status) for status in ECA}) == len(ECA) == 61
    assert ca.message(dbr.ECA_NORMAL) == "Normal successful completion"


# --- messages -------------------------------------------------------------------------------


def written(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    fail_unasked()
    found = capsys.readouterr()
    return found.out, found.err


def test_messages_are_not_written_at_first(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    code = (
        "import threading; from daqca import ca, dbr; from daqca.ca.lowlevel.session import session\n"
        "chid = ca.create_channel('U:mbbo')\n"
        "assert ca.connect_channel(chid, timeout=15)\n"
        "ca.put(chid, 'no state', ftype=dbr.STRING)\n"
        "assert ca.get(chid, timeout=15) == 0\n"
        "told = threading.Event()\n"
        "session.needed().dispatcher.call(told.set)\n"
        "assert told.wait(15)\n"
        "ca.finalize_libca()\n"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", before + code], capture_output=True, text=True, timeout=40, check=True
        ).stderr
        for before in (
            "import logging; logging.getLogger('daqca').addHandler(logging.NullHandler())\n",
            "import logging; logging.getLogger('daqca').addHandler(logging.NullHandler())\n"
            "from daqca import ca; ca.WITH_CA_MESSAGES = True\n",
        )
    ]
    assert texts == ["", "put U:mbbo: Channel write request failed\n"]


def test_where_messages_go(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    text = fail_unasked() + "\n"
    capsys.readouterr()
    ca.replace_printf_handler()
    assert written(capsys) == ("", text)
    ca.disable_ca_messages()
    assert written(capsys) == ("", "")
    monkeypatch.setattr(ca, "WITH_CA_MESSAGES", True)
    assert written(capsys) == ("", "")
    ca.enable_ca_messages()
    assert written(capsys) == ("", text)
    ca.enable_ca_messages("stdout")
    assert written(capsys) == (text, "")
    ca.enable_ca_messages(None)
    assert written(capsys) == ("", "")
    texts: list[str] = []
    for install in (ca.replace_printf_handler, ca.enable_ca_messages):
        install(texts.append)
        assert written(capsys) == ("", "")
    assert texts == [text, text]


def test_a_writer_that_raises(caplog: pytest.LogCaptureFixture):
    """It is counted, and keeps nothing from being told."""
    seen = Calls()
    ca.add_exception_event(seen)
    ca.replace_printf_handler(lambda text: 1 / 0)
    text = fail_unasked()
    assert seen.wait()[0]["message"] == text
    assert ca.client_status()["callback_errors"] == 1
    assert text in caplog.messages


def test_what_cannot_write():
    for writer in (5, "a file", ["stderr"]):
        with pytest.raises(ChannelAccessException, match=r"takes .*function, and got"):
            ca.enable_ca_messages(writer)
        with pytest.raises(ChannelAccessException, match="replace_printf_handler takes a function, and got"):
            ca.replace_printf_handler(writer)


# --- what fails unasked ---------------------------------------------------------------------


def test_exception_events(caplog: pytest.LogCaptureFixture):
    seen, others = Calls(), Calls()
    with caplog.at_level(logging.WARNING, "daqca.ca"):
        ca.add_exception_event(seen)
        ca.add_exception_event(others)
        text = fail_unasked()
        known = {
            "op": "put",
            "status": ECA.PUTFAIL,
            "message": text,
            "pvname": "U:mbbo",
            "chid": int(ca.create_channel("U:mbbo")),
            "context": ca.current_context(),
        }
        assert seen.wait() == others.wait() == [known]
        ca.add_exception_event(None)
        fail_unasked()
    assert len(seen) == len(others) == 1
    assert [record.getMessage() for record in caplog.records] == [text, text]
    with pytest.raises(ChannelAccessException, match="add_exception_event takes a function, and got 'print'"):
        ca.add_exception_event("print")


def test_an_exception_event_may_raise_and_may_call_anything(caplog: pytest.LogCaptureFixture):
    def fail(**_: Any) -> None:
        raise ValueError("on purpose")

    found: list[Any] = []
    seen = Calls(lambda **_: found.extend([read(chid), ca.put(chid, 5, wait=True), read(chid)]))
    ca.add_exception_event(fail)
    ca.add_exception_event(seen)
    chid = connected("U:ao")
    fail_unasked()
    seen.wait_for(lambda: len(found) == 3, "the calls")
    assert found == [0, 1, 5]
    assert "U:mbbo raised; it stays installed" in caplog.text
    ca.put(chid, 0, wait=True)
    assert ca.client_status()["callback_errors"] == 1


def test_exception_events_are_of_one_context():
    seen, elsewhere = Calls(), Calls()
    ca.add_exception_event(seen)

    def other() -> None:
        ca.create_context()
        ca.add_exception_event(elsewhere)
        fail_unasked()
        assert elsewhere.wait()[0]["context"] == ca.current_context()
        ca.destroy_context()

    assert Background(other).join().error is None
    assert not seen.known
    assert len(elsewhere) == 1


def test_puts_that_fail_and_that_somebody_waits_for_are_told_to_him_alone():
    seen = Calls()
    ca.add_exception_event(seen)
    chid = connected("U:mbbo")
    with pytest.raises(ChannelAccessException, match=r"U:mbbo.*Channel write request failed"):
        ca.put(chid, "no state", wait=True, ftype=dbr.STRING)
    when_told()
    assert not seen.known


def test_a_record_that_takes_no_puts():
    """Base refuses them without a word to who does not wait: the value stays."""
    chid = connected("U:disabled")
    ca.put(chid, 5)
    assert read(chid) == 0


# --- the state of things --------------------------------------------------------------------


def test_client_status(capsys: pytest.CaptureFixture[str], access_ioc: AccessIOC, target: SoftIOC, point_at: Any):
    point_at(target, access_ioc)
    ao, wave, nowrite = connected("U:ao"), connected("U:wave"), connected(access_ioc.name("nowrite"))
    missing = ca.create_channel("U:none")
    calls = Calls()
    ca.create_subscription(ao, callback=calls)
    ca.create_subscription(ao, callback=calls)
    calls.wait(2)
    status = ca.client_status()
    assert status["channels"] == {
        "U:ao": {
            "chid": int(ao),
            "connected": True,
            "state": dbr.CS_CONN,
            "host": ca.host_name(ao),
            "type": dbr.DOUBLE,
            "count": 1,
            "access": 3,
            "subscriptions": 2,
        },
        "U:wave": {
            "chid": int(wave),
            "connected": True,
            "state": dbr.CS_CONN,
            "host": ca.host_name(wave),
            "type": dbr.LONG,
            "count": 5,
            "access": 3,
            "subscriptions": 0,
        },
        nowrite.pvname: {
            "chid": int(nowrite),
            "connected": True,
            "state": dbr.CS_CONN,
            "host": ca.host_name(nowrite),
            "type": dbr.DOUBLE,
            "count": 1,
            "access": 1,
            "subscriptions": 0,
        },
        "U:none": {
            "chid": int(missing),
            "connected": False,
            "state": dbr.CS_NEVER_CONN,
            "host": "",
            "type": -1,
            "count": 0,
            "access": 0,
            "subscriptions": 0,
        },
    }
    assert (status["context"], status["preemptive"]) == (ca.current_context(), True)
    assert (status["connected"], status["searching"], status["circuits"], status["subscriptions"]) == (3, 1, 2, 2)
    assert status["callback_errors"] == status["callback_events_dropped"] == status["callback_events_waiting"] == 0
    assert status["searches_sent"] >= status["searches_answered"] >= 3
    line = f"Context {ca.current_context():#x}: 4 channels, 3 connected, 2 circuits, 2 subscriptions\n"
    assert capsys.readouterr().err == line
    ca.client_status(ca.current_context(), 1)
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert lines[0] == line
    assert sorted(lines[1:]) == sorted(
        [
            f"  U:ao: {ca.host_name(ao)}, 1 x type 6\n",
            f"  U:wave: {ca.host_name(wave)}, 5 x type 5\n",
            f"  {nowrite.pvname}: {ca.host_name(nowrite)}, 1 x type 6\n",
            "  U:none: not connected\n",
        ]
    )
    ca.client_status(level=2)
    text = capsys.readouterr().err
    assert "  callback_events_dropped = 0\n" in text
    assert f"  preemptive = {True}\n" in text
    with pytest.raises(ChannelAccessException, match="client_status: there is no context 17"):
        ca.client_status(17)


def test_client_status_without_any_context(capsys: pytest.CaptureFixture[str]):
    ca.finalize_libca()
    assert ca.client_status()["channels"] == {}
    assert ": 0 channels, 0 connected, 0 circuits, 0 subscriptions" in capsys.readouterr().err


def test_client_status_of_a_lost_server(make_ioc: IOCFactory, point_at: Any, capsys: pytest.CaptureFixture[str]):
    prefix = random_prefix()
    ioc = make_ioc(f'record(ao, "{prefix}a") {{ }}')
    point_at(ioc)
    ca.finalize_libca()
    lost = Calls()
    chid = connected(prefix + "a")
    ca.create_channel(prefix + "a", callback=lost)
    ioc.stop()
    lost.wait_for(lambda: not lost.known[-1]["conn"], "the loss")
    known = ca.client_status(level=1)["channels"][chid.pvname]
    assert (known["connected"], known["state"], known["host"]) == (False, dbr.CS_PREV_CONN, "")
    assert f"  {chid.pvname}: not connected" in capsys.readouterr().err


def test_callbacks_that_wait_are_counted():
    release = Background(lambda: None)
    release.join()
    chid = connected("U:ao")
    seen = Calls()
    ca.create_subscription(chid, callback=seen)
    seen.wait()
    when_told()
    assert ca.client_status()["callback_events_waiting"] == 0
    assert current().dispatcher.waiting == 0


def test_show_cache(capsys: pytest.CaptureFixture[str]):
    ao, none = connected("U:ao"), ca.create_channel("U:a name that is longer than others")
    text = ca.show_cache(print_out=False)
    assert capsys.readouterr().out == ""
    context = ca.current_context()
    assert text is not None
    assert text.splitlines() == [
        "#  PVName        ChannelID/Context Connected?",
        "#--------------------------------------------",
        f" U:ao            {int(ao)}/{context}  True",
        f" U:a name that is longer than others {int(none)}/{context}  False",
    ]
    assert ca.show_cache() is None
    assert capsys.readouterr().out == text + "\n"


def test_show_cache_of_several_contexts():
    connected("U:ao")

    def other() -> str:
        ca.create_context()
        connected("U:wave")
        text = ca.show_cache(print_out=False)
        ca.destroy_context()
        return text or ""

    text = Background(other).join().result
    assert "U:ao" in text
    assert "U:wave" in text
    after = ca.show_cache(print_out=False)
    assert after is not None
    assert "U:wave" not in after
    ca.finalize_libca()
    assert len((ca.show_cache(print_out=False) or "").splitlines()) == 2
