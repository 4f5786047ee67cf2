"""Classes derived from PV, as programs write them, and put in its place."""

import epics
import mode

mode.begin()
P = mode.PREFIX
CALLED = []


class Noted(epics.PV):
    """Takes its arguments as PyEpics' PV does, and notes what is called."""

    def __init__(self, pvname, callback=None, form="time", *args, **keywords):
        super().__init__(pvname, callback, form, *args, **keywords)
        self.label = pvname.removeprefix(P)

    def _getarg(self, arg):
        CALLED.append(f"_getarg {arg}")
        return super()._getarg(arg)

    def get_ctrlvars(self, timeout=5, warn=True):
        CALLED.append("get_ctrlvars")
        return super().get_ctrlvars(timeout=timeout, warn=warn)

    def get_with_metadata(self, **keywords):
        CALLED.append("get_with_metadata")
        found = super().get_with_metadata(**keywords)
        return found and {**found, "value": f"<{found['value']}>"}

    def put(self, value, **keywords):
        CALLED.append(f"put {value} {keywords.get('wait')}")
        return super().put(value, **keywords)


class More(Noted):
    def get(self, *args, **keywords):
        return super().get(*args, **keywords).strip("<>")


def called(*names):
    found = [name for name in CALLED if name.startswith(names)]
    CALLED.clear()
    return found


# Positions as in PyEpics: verbose, auto_monitor, count, connection_callback, connection_timeout, access_callback.
told = []
pv = Noted(
    P + "doubles", None, "ctrl", False, True, 2, lambda **given: told.append(given["conn"]), 20.0,
    lambda read, write, pv: told.append((read, write, pv.label)), None,
)  # fmt: skip
assert pv.wait_for_connection()
mode.until(lambda: len(told) == 2, "both callbacks")
assert sorted(told, key=str) == [(True, True, "doubles"), True]
assert (pv.form, pv.verbose, pv.auto_monitor, pv.connection_timeout) == ("ctrl", False, True, 20.0)
assert super(Noted, pv).get_with_metadata()["count"] == 2

pv = Noted(P + "double", connection_timeout=20, auto_monitor=False)
called()
assert pv.get() == "<1.5>"
assert called("get_with_metadata") == ["get_with_metadata"]
assert pv.units == "mm"
assert called("_getarg", "get_ctrl") == ["_getarg units", "get_ctrlvars"]
assert pv.units == "mm"
assert called("get_ctrl") == []
assert pv.value == "<1.5>"
assert called("_getarg", "get_with") == ["_getarg value", "get_with_metadata"]
pv.value = 2.5
assert called("put") == ["put 2.5 None"]
assert pv.severity == 0
assert called("_getarg") == ["_getarg severity"]
assert More(P + "double", connection_timeout=20).get() == "2.5"
called()

# In the place of PV.
epics.pv.default_pv_class = Noted
assert epics.caput(P + "double", 3.5, wait=True) == 1
assert called("put") == ["put 3.5 True"]
assert epics.caget(P + "double") == "<3.5>"
assert called("get_with") == ["get_with_metadata"]
assert epics.get_pv(P + "long").label == "long"
epics.pv.default_pv_class = epics.PV
epics.pv.clear_pvcache()
assert type(epics.get_pv(P + "long")) is epics.PV
assert epics.caget(P + "double") == 3.5


# A class that gives what it likes to those who ask for attributes.
class Stubborn(epics.PV):
    def _getarg(self, arg):
        return f"no {arg}"


stubborn = Stubborn(P + "double")
assert (stubborn.units, stubborn.value, stubborn.host) == ("no units", "no value", "no host")

# What was assigned is found; the channel does not mind.
pv.chid = pv.context = None
assert pv.chid is None
assert pv.context is None
assert super(Noted, pv).get(use_monitor=False) == 3.5
print("all honoured")
