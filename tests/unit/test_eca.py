from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.c.program import run_c

from daqca.ca import eca
from daqca.ca.eca import ECA


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Name of a status: its number and words, as libca has them."""
    folder: Path = tmp_path_factory.mktemp("c")
    lines = (line.split(" ", 2) for line in run_c("eca_messages.c", folder).splitlines())
    return {name: (int(number), words) for name, number, words in lines}


def test_every_status_of_caerr_h_is_here_with_its_words(in_c):
    ours = {status.name.replace("K16", "16K"): (int(status), eca.message(status)) for status in ECA}
    assert len(ours) == 61
    assert ours == {name: status for name, status in in_c.items() if name != "unknown"}


def test_an_unknown_status_has_libcas_words(in_c):
    number, words = in_c["unknown"]
    assert eca.message(number) == words
    assert eca.describe(number) == f"status {number}: {words}"


@pytest.mark.parametrize("status", ECA)
def test_the_message_number_of_an_event_gives_the_status_back(status):
    number = eca.message_number(status)
    assert 0 <= number <= 60
    assert eca.from_number(number) is status


def test_an_unknown_number_becomes_an_error():
    assert eca.from_number(200) == 200 << 3 | eca.Severity.ERROR
    assert not eca.is_success(eca.from_number(200))


@given(st.integers(0, 2**32 - 1))
def test_any_status_a_server_may_send_has_words(status):
    assert eca.message(status)
    assert eca.describe(status).endswith(eca.message(status))
    assert 0 <= eca.message_number(status) < 2**13


def test_describe_and_severity():
    assert eca.describe(ECA.PUTFAIL) == "ECA_PUTFAIL: Channel write request failed"
    assert eca.describe(ECA.K16ARRAYCLIENT).startswith("ECA_16KARRAYCLIENT: Client's protocol")
    assert eca.severity(ECA.INTERNAL) == eca.Severity.FATAL
    assert eca.is_success(ECA.NORMAL)
    assert eca.is_success(ECA.IODONE)
    assert not eca.is_success(ECA.TIMEOUT)
