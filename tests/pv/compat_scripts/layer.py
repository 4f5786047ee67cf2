"""A library's own layer over PyEpics: a PV class whose callbacks run in threads of the library, by their kind."""

import functools
import queue
import threading

import epics
import mode
from epics import ca

mode.begin()
P = mode.PREFIX
TIMES = ("status", "severity", "timestamp", "posixseconds", "nanoseconds")


class Runner(threading.Thread):
    """Runs what it is given, one after the other, in the context of the main thread."""

    def __init__(self, kind, context):
        super().__init__(name=kind)
        self.context = context
        self.tasks = queue.Queue()
        self.start()

    def run(self):
        ca.attach_context(self.context)
        assert ca.current_context() == self.context
        while (task := self.tasks.get()) is not None:
            task()
        ca.detach_context()


RUNNERS = {kind: Runner(kind, ca.current_context()) for kind in ("values", "connections", "ends", "chores")}


def passed_on(kind, function):
    """The function, to be run by the runner of a kind."""
    if function is None or hasattr(function, "is_passed_on"):
        return function

    @functools.wraps(function)
    def pass_on(*args, **keywords):
        RUNNERS[kind].tasks.put(functools.partial(function, *args, **keywords))

    pass_on.is_passed_on = True
    return pass_on


class LayerPV(epics.PV):
    def __init__(
        self,
        pvname,
        callback=None,
        form="time",
        verbose=False,
        auto_monitor=None,
        count=None,
        connection_callback=None,
        connection_timeout=None,
        access_callback=None,
        monitor_delta=None,
    ):
        super().__init__(
            pvname,
            form=form,
            verbose=verbose,
            auto_monitor=auto_monitor,
            count=count,
            connection_timeout=connection_timeout,
            callback=passed_on("values", callback),
            connection_callback=passed_on("connections", connection_callback),
            access_callback=passed_on("connections", access_callback),
        )
        self.key = (pvname, form, self.context)

    def add_callback(self, callback=None, **keywords):
        if not self.auto_monitor:
            self.auto_monitor = ca.DEFAULT_SUBSCRIPTION_MASK
        return super().add_callback(callback=passed_on("values", callback), **keywords)

    def put(self, value, wait=False, timeout=None, use_complete=False, callback=None, callback_data=None):
        return super().put(
            value,
            wait=wait,
            timeout=315_576_000 if timeout is None else timeout,  # ten years
            use_complete=use_complete,
            callback=passed_on("ends", callback),
            callback_data=callback_data,
        )

    def _getarg(self, arg):
        """Of a PV whose value is not known, only what is asked for."""
        if self._args[arg] is None:
            (self.get_timevars if arg in TIMES else self.get_ctrlvars)(timeout=20, warn=False)
        return self._args.get(arg, None)

    def clear_callbacks(self):
        super().clear_callbacks()
        self.access_callbacks.clear()
        self.connection_callbacks.clear()

    def release(self):
        self.clear_callbacks()
        self.clear_auto_monitor()
        if self.chid is not None:
            ca.clear_channel(self.chid)
        self.chid = self.context = None
        epics.pv._PVcache_.pop(self.key, None)

    def describe(self, done):
        """Give what is known beside the value to a function, from another thread."""

        def look():
            if self._args["status"] is None:
                self.get_timevars(timeout=20)
            self.get_ctrlvars(timeout=20)
            known = self._args.copy()
            known.pop("value")
            done(known)

        RUNNERS["chores"].tasks.put(look)


calls = queue.Queue()


def note(*args, **given):
    calls.put((threading.current_thread().name, args, given))


epics.pv.default_pv_class = LayerPV
pv = epics.get_pv(P + "double", auto_monitor=False, connection_callback=note, access_callback=note, timeout=20)
assert type(pv) is LayerPV
(_, _, first), (_, second, _) = sorted((calls.get(timeout=20) for _ in range(2)), key=lambda call: len(call[1]))
assert (first["conn"], first["pv"]) == (True, pv)
assert second == (True, True)
assert epics.get_pv(P + "double") is pv is epics.pv._PVcache_[pv.key]

# Nothing is monitored: what is asked for is asked of the server.
assert not pv.auto_monitor
assert pv.value is None
assert (pv.units, pv.precision, pv.upper_ctrl_limit, pv.enum_strs) == ("mm", 3, 50, None)
assert pv.timestamp > 1e9
assert pv.severity == 0
pv.describe(lambda known: calls.put(known))
known = calls.get(timeout=20)
assert (known["pvname"], known["units"], known["severity"], known["count"]) == (P + "double", "mm", 0, 1)
assert "value" not in known
info = pv.get_with_metadata(as_namespace=True, timeout=20)
assert (info.value, info.units) == (1.5, "mm")

# Values, once somebody wants them.
index = pv.add_callback(note, run_now=True)
name, _, given = calls.get(timeout=20)
assert (name, given["value"], given["cb_info"]) == ("values", 1.5, (index, pv))
assert pv.auto_monitor == ca.DEFAULT_SUBSCRIPTION_MASK
for number in (2.5, 3.5):
    assert pv.put(number, wait=True) == 1
    assert pv.get() == pv.value == number
while given["value"] != 3.5:
    name, _, given = calls.get(timeout=20)
    assert name == "values"

# The end of a put.
slow = epics.get_pv(P + "slow", timeout=20, connect=True)
slow.put(1, use_complete=True, callback=note, callback_data={"who": "layer"})
assert slow.put_complete is False
name, _, given = calls.get(timeout=20)
assert (name, given["pvname"], given["who"]) == ("ends", P + "slow", "layer")
assert slow.put_complete is True

# Arrays, enums and texts by the same way.
array = epics.get_pv(P + "doubles", connect=True, timeout=20, auto_monitor=True)
assert array.get_with_metadata(count=2)["value"].tolist() == [1.5, -2.5]
assert array.count == 3
assert array.nelm == 8
assert array.char_value == "<array size=3, type=time_double>"
enum = epics.get_pv(P + "enum", connect=True, timeout=20)
assert enum.get_with_metadata(as_string=True)["value"] == "Wait for ever"
assert enum.enum_strs == ("Idle", "Run", "Wait for ever")
assert enum.severity == epics.MAJOR_ALARM

# Its end: the next is another one, and works.
pv.release()
assert pv.chid is None
assert pv.key not in epics.pv._PVcache_
again = epics.get_pv(P + "double", connect=True, timeout=20)
assert again is not pv
assert again.get() == 3.5

epics.pv.default_pv_class = epics.PV
for runner in RUNNERS.values():
    runner.tasks.put(None)
    runner.join(20)
    assert not runner.is_alive()
print("all passed on")
