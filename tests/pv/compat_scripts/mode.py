"""What the scripts of this folder share: the records' prefix, and an engine with so many workers (0: the default)."""

import atexit
import sys
import time

from daqca import Engine, use_engine

PREFIX = sys.argv[1] if len(sys.argv) > 1 else None


def begin():
    workers = int(sys.argv[2])
    if workers:
        engine = Engine(workers=workers)
        atexit.register(engine.close)
        use_engine(engine)


def until(condition, what, patience=20):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        time.sleep(0.001)


def raises(kind, function, *args, **keywords):
    try:
        function(*args, **keywords)
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")
