"""Names that libraries use beyond the manual, over real records."""

import logging

import epics
import mode
import numpy as np
from epics import ca, dbr, pv, utils

mode.begin()
P = mode.PREFIX

# --- ca and dbr
assert isinstance(ca.find_libca(), str)
assert ca.WITH_CA_MESSAGES is False
ca.WITH_CA_MESSAGES = True
assert issubclass(ca.CASeverityException, ca.ChannelAccessException)
assert "Virtual circuit disconnect" in mode.raises(ca.CASeverityException, ca.PySEVCHK, "get", dbr.ECA_DISCONN)
assert dbr.Name(dbr.TIME_DOUBLE) == "TIME_DOUBLE"
assert dbr.Name("TIME_DOUBLE", reverse=True) == dbr.TIME_DOUBLE
chid = ca.create_channel(P + "double")
assert ca.connect_channel(chid, timeout=20)
assert ca.state(chid) == dbr.CS_CONN
ca.write("written")

# --- a PV's own
double = epics.PV(P + "double")
assert double.wait_for_connection(20)
assert double.context == ca.current_context() is not None
assert ca.name(double.chid) == P + "double"
assert ca.get(double.chid) == double.get()
assert double._args["pvname"] == P + "double"
assert double._args["value"] == double.get()
assert double._args.copy()["ftype"] == dbr.TIME_DOUBLE
double._args["mine"] = 7
assert double._args["mine"] == 7
assert double._set_charval(2.34567) == "2.346"
assert set(double.get_timevars(timeout=5, warn=False)) == {
    "status", "severity", "timestamp", "posixseconds", "nanoseconds",
}  # fmt: skip
assert double.get_ctrlvars(timeout=5, warn=True)["units"] == "mm"
heard = []
double.connection_callbacks.append(lambda **given: heard.append(given["conn"]))
double.force_connect(conn=False)
double.force_connect()
assert heard == [False, True]
double.disconnect()
assert not double.connected
double.add_callback(lambda value, **given: heard.append(value))
double.force_connect()
assert double.connected
mode.until(lambda: heard[-1] == double.get(), "an update after force_connect")

# --- HAS_NUMPY
array = epics.PV(P + "doubles")
assert isinstance(array.get(), np.ndarray)
ca.HAS_NUMPY = False
assert array.get() == [1.5, -2.5, 1e300]
ca.HAS_NUMPY = True

# --- the cache
one = epics.get_pv(P + "long", connect=True, timeout=20)
assert epics.get_pv(P + "long") is one is pv._PVcache_[P + "long", "time", ca.current_context()]
assert epics.PV(P + "long") is not one
assert type(one) is epics.PV is pv.default_pv_class
assert pv._PVcache_.pop((P + "long", "time", one.context)) is one
assert epics.get_pv(P + "long") is not one
assert pv.fmt_time(0.5).endswith(":00.50000")
pv.clear_pvcache()
assert len(pv._PVcache_) == 0

# --- text: of the PV, of ca, and of the helpers
text, long_text = epics.PV(P + "string"), epics.PV(P + "text")
assert utils.IOENCODING == ca.IOENCODING == "utf-8"
for encoding, raw in (("utf-8", b"5 \xe2\x82\xac"), ("cp1252", b"5 \x80")):
    utils.IOENCODING = encoding
    assert pv.ca.IOENCODING == utils.IOENCODING == encoding
    assert (utils.str2bytes("5 €"), utils.bytes2str(raw)) == (raw, "5 €")
    assert text.put("5 €", wait=True) == 1
    assert text.get() == text.get(use_monitor=False) == text.char_value == epics.caget(P + "string") == "5 €"
    assert ca.get(text.chid) == "5 €"
    assert epics.caput_many([P + "string"], ["7 €"], wait="all") == [1]
    assert ca.get(text.chid) == "7 €"
    assert epics.caget_many([P + "string", P + "double"]) == ["7 €", double.get()]
    assert epics.caget_many([P + "string"], as_string=True) == ["7 €"]
    assert long_text.put("6 €", wait=True) == 1
    assert bytes(long_text.get()).rstrip(b"\0") == raw.replace(b"5", b"6")
    assert long_text.get(as_string=True) == long_text.char_value == "6 €"
utils.IOENCODING = "utf-8"
assert text.get(use_monitor=False) == "7 \x80"
assert utils.str2bytes(b"a") == b"a"
assert utils.bytes2str(5) == "5"
assert utils.bytes2str(b"\xb5") == "µ"
assert utils.strjoin("-", ["a", "b"]) == utils.strjoin(b"-", [b"a", b"b", b"\0", b"c"]) == "a-b"
assert utils.strjoin(",", []) == ""

# --- functions
epics.poll(1e-3, 1.0)
logging.getLogger("daqca").setLevel("ERROR")  # it says what is missing
assert epics.caput_many([P + "free", P + "none"], [1.5, 2], wait="all", connection_timeout=0.2) == [1, -1]
assert epics.caget_many([P + "free", P + "long"]) == [1.5, 7]
assert epics.caget(P + "double", False, None, True, False) == double.get()
assert epics.caget(P + "double", True, None, True, True, 20.0, 20.0) == double.char_value
assert epics.get_pv(P + "enum", "time", True, None, 20.0).connection_timeout == 20.0
lines = []
epics.camonitor(P + "free", lines.append)
assert list(epics._PVmonitors_) == [P + "free"]
assert epics._PVmonitors_[P + "free"] is epics.get_pv(P + "free")
assert epics.caput(P + "free", 2.5, wait=True) == 1
mode.until(lambda: lines, "a line")
epics.camonitor_clear(P + "free")
assert epics._PVmonitors_ == {}
print("all as said")
