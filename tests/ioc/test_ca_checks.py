"""Checks of statuses and arguments, as functions and as decorators. Manual, chapters 4.4.2 and 4.4.3."""

from __future__ import annotations

import ctypes
import pickle
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from support import ca_records
from support.background import Background
from support.ca_records import Records, connected

from daqca import dbr
from daqca.ca.eca import ECA, message
from daqca.errors import CASeverityException, ChannelAccessException, DaqcaError

ca, records = ca_records.ca, ca_records.records
record_server = ca_records.record_server

WITH_A_CHANNEL = ("withCHID", "withConnectedCHID", "withMaybeConnectedCHID")
NO_CHANNELS = (5, -1, "name", None, 1.5, True, b"x", [], dbr.chid_t(5), ctypes.c_int(5), object())


# --- statuses -----------------------------------------------------------------------------------


def test_a_status_that_is_expected_is_returned(ca: ModuleType):
    assert ca.PySEVCHK("function", 1) == 1
    assert ca.PySEVCHK("function", dbr.ECA_NORMAL) == 1
    assert ca.PySEVCHK("function", dbr.ECA_TIMEOUT, dbr.ECA_TIMEOUT) == 80
    assert ca.PySEVCHK("function", 80, expected=80) == 80
    assert type(ca.PySEVCHK("function", ECA.NORMAL)) is int


@pytest.mark.parametrize("status", [int(each) for each in ECA if each != ECA.NORMAL] + [-1, 12345])
def test_another_status_is_raised_in_the_words_of_epics(ca: ModuleType, status: int):
    with pytest.raises(ca.CASeverityException) as caught:
        ca.PySEVCHK("a_function", status)
    error = caught.value
    assert str(error) == f"a_function returned '{message(status)}'"
    assert (error.fcn, error.msg) == ("a_function", ca.message(status))
    assert isinstance(error, ca.ChannelAccessException)  # manual, 4.4.2
    assert isinstance(error, DaqcaError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.fcn, again.msg) == (str(error), error.fcn, error.msg)
    with pytest.raises(ca.CASeverityException):
        ca.PySEVCHK("a_function", 1, expected=status)


def test_with_sevchk(ca: ModuleType):
    @ca.withSEVCHK  # type: ignore[untyped-decorator]
    def some_function(status: int, *, more: int = 0) -> int:
        """Says what it is for."""
        return status + more

    assert (some_function.__name__, some_function.__doc__) == ("some_function", "Says what it is for.")
    assert some_function(1) == some_function(0, more=1) == 1
    with pytest.raises(CASeverityException, match=f"^some_function returned '{message(80)}'$"):
        some_function(80)


def test_with_ca(ca: ModuleType, records: Records):
    """There is a context when the function runs, in every thread."""

    @ca.withCA  # type: ignore[untyped-decorator]
    def function(number: int, *, more: int) -> Any:
        """Says what it is for."""
        return ca.current_context(), number + more

    assert function.__doc__ == "Says what it is for."
    context, number = function(1, more=2)
    assert (context, number) == (ca.initial_context, 3)
    assert context is not None
    assert Background(function, 1, more=2).join().result == (context, 3)
    ca.finalize_libca()
    assert function(1, more=2)[0] not in (None, context)


# --- channels -----------------------------------------------------------------------------------


def decorated(ca: ModuleType, decorator: str) -> Callable[..., Any]:
    def function(chid: Any, *args: Any, **kwargs: Any) -> Any:
        """Says what it is for."""
        return chid, args, kwargs

    result: Callable[..., Any] = getattr(ca, decorator)(function)
    assert (result.__name__, result.__doc__) == ("function", "Says what it is for.")
    return result


@pytest.mark.parametrize("decorator", WITH_A_CHANNEL)
def test_a_channel_its_number_and_what_is_none(ca: ModuleType, records: Records, decorator: str):
    """The number of a channel is made one, as PyEpics does."""
    function = decorated(ca, decorator)
    chid = connected(records("double"))
    for given in (chid, int(chid), chid.value, dbr.chid_t(chid.value)):
        found, args, kwargs = function(given, 1, timeout=2, other=3)
        assert found is chid
        assert isinstance(found, dbr.chid_t)
        assert (args, kwargs) == ((1,), {"timeout": 2, "other": 3})
    for rubbish in NO_CHANNELS:
        with pytest.raises(ChannelAccessException, match=r"^function: "):
            function(rubbish)
    # Only the first positional argument is looked at.
    assert function(chid=5) == (5, (), {})
    with pytest.raises(TypeError):
        function()
    ca.clear_channel(chid)
    for given in (chid, int(chid)):
        with pytest.raises(ChannelAccessException, match="cleared"):
            function(given)


def test_what_is_waited_for(ca: ModuleType, records: Records):
    """`withCHID` does not wait for a connection, the others do, as long as the timeout says."""
    ca.DEFAULT_CONNECTION_TIMEOUT = 0.3
    missing = ca.create_channel(records("no:such:record"))

    def took(call: Callable[[], Any]) -> float:
        begin = time.monotonic()
        call()
        return time.monotonic() - begin

    assert took(lambda: decorated(ca, "withCHID")(missing)) < 0.25
    maybe = decorated(ca, "withMaybeConnectedCHID")
    assert maybe(missing) == (missing, (), {})
    assert 0.3 <= took(lambda: maybe(missing)) < 3
    assert took(lambda: maybe(missing, timeout=0.05)) < 0.25
    assert 0.3 <= took(lambda: maybe(missing, timeout=None)) < 3
    must = decorated(ca, "withConnectedCHID")
    for options, seconds in (({}, "0.3"), ({"timeout": 0.05}, "0.05"), ({"timeout": None}, "0.3")):
        text = rf"^function\(\) timed out waiting for '{records('no:such:record')}' to connect \({seconds} seconds\)$"
        with pytest.raises(ChannelAccessException, match=text):
            must(missing, **options)
    for decorator in ("withMaybeConnectedCHID", "withConnectedCHID"):
        fresh = ca.create_channel(records("long"))
        decorated(ca, decorator)(fresh, timeout=20)
        assert ca.isConnected(fresh)
        ca.clear_channel(fresh)


def test_a_function_of_ones_own(ca: ModuleType, records: Records):
    """As programs use the decorators: on top of the functions, in any thread, and one on the other."""

    @ca.withCA  # type: ignore[untyped-decorator]
    @ca.withConnectedCHID  # type: ignore[untyped-decorator]
    def twice(chid: Any, timeout: float | None = None) -> Any:
        return 2 * ca.get(chid, timeout=timeout)

    chid = ca.create_channel(records("alarmed"))
    assert twice(chid, timeout=20) == 190.0
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(twice(chid)))
    thread.start()
    thread.join()
    assert found == [190.0]
