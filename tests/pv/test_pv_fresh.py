"""After a put that was waited for, a PV shows what was put, or what came after it."""

from __future__ import annotations

import threading

from support.ca_records import Records

from daqca import Engine
from daqca.pv_proxy import PV


def test_a_put_that_was_waited_for_is_seen(engine: Engine, records: Records):
    """In a monitored PV, though its update may come later than the confirmation, and under load."""
    pv = PV(records("free"))
    busy = [PV(records(name)) for name in ("double", "long", "count")]
    stop = threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for other in busy:
                other.put(number % 40, wait=True)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert pv.wait_for_connection(20)
        for number in range(300):
            assert pv.put(number, wait=True) == 1
            assert pv.get() == number
            assert pv.value == number
    finally:
        stop.set()
        thread.join()
