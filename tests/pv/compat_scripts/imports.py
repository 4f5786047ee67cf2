"""Every way to import what there is of ``epics``, and what there is not yet."""

import importlib
import importlib.util
import pickle
import sys

assert importlib.util.find_spec("epics").submodule_search_locations == []
assert importlib.util.find_spec("epics.ca") is not None
assert importlib.util.find_spec("epics.nothing") is None

import epics.ca as ca  # noqa: E402
import epics.dbr  # noqa: E402
import epics.multiproc  # noqa: E402
import mode  # noqa: E402
from epics import PV, CAPool, CAProcess, caget, caput, dbr, multiproc, pv, utils  # noqa: E402
from epics.ca import withInitialContext  # noqa: E402
from epics.multiproc import clear_ca_cache  # noqa: E402
from epics.pv import PV as AlsoPV  # noqa: E402
from epics.pv import get_pv  # noqa: E402
from epics.utils import bytes2str  # noqa: E402

import daqca  # noqa: E402
import daqca.ca  # noqa: E402
import daqca.dbr  # noqa: E402
import daqca.multiproc  # noqa: E402

assert ca is epics.ca is daqca.ca is sys.modules["epics.ca"] is importlib.import_module("epics.ca")
assert dbr is epics.dbr is daqca.dbr
assert daqca.ca.__name__ == daqca.ca.__spec__.name == "daqca.ca"
assert epics.__name__ == epics.__spec__.name == "epics"
assert importlib.util.find_spec("epics") is epics.__spec__
assert PV is AlsoPV is pv.PV is epics.PV
assert issubclass(PV, daqca.PV)
assert get_pv is epics.get_pv
assert bytes2str is utils.bytes2str
assert withInitialContext is daqca.ca.withInitialContext
assert multiproc is epics.multiproc is daqca.multiproc
assert CAProcess is epics.CAProcess is multiproc.CAProcess is daqca.CAProcess
assert CAPool is epics.CAPool is multiproc.CAPool is daqca.CAPool
assert clear_ca_cache is multiproc.clear_ca_cache is ca.clear_cache
assert caget.__name__ == "caget"
assert caput.__name__ == "caput"
assert pickle.loads(pickle.dumps(PV)) is PV
assert importlib.reload(epics) is epics

for module in ("alarm", "autosave", "device", "devices", "motor", "wx", "devices.xspress3"):
    why = mode.raises(ImportError, importlib.import_module, f"epics.{module}")
    assert why.startswith(f"epics.{module.partition('.')[0]} is not in daqca yet")
for name in ("Device", "Motor", "Alarm", "devices"):
    assert not hasattr(epics, name)
    assert mode.raises(ImportError, exec, f"from epics import {name}").startswith(f"epics.{name} is not in daqca yet")
assert mode.raises(ModuleNotFoundError, exec, "import epics.nothing") == "No module named 'epics.nothing'"
assert "cannot import name 'nothing' from 'epics'" in mode.raises(ImportError, exec, "from epics import nothing")

every = {}
exec("from epics import *", every)
assert {"PV", "ca", "caget", "caput", "camonitor", "get_pv", "poll", "NO_ALARM"} <= every.keys()
assert {"PV", "ca", "pv", "utils", "caget_many", "CAProcess", "CAPool"} <= set(dir(epics))

assert (epics.NO_ALARM, epics.MINOR_ALARM, epics.MAJOR_ALARM, epics.INVALID_ALARM) == (0, 1, 2, 3)
assert tuple(int(part) for part in epics.__version__.split(".")[:3]) >= (3, 5, 10)
assert epics.__version__.endswith(f"+daqca.{daqca.__version__}")
print("all imported")
