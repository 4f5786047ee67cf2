"""The status codes of Channel Access (ECA), their messages, and the message numbers that events carry.

Raises nothing and knows no requests; which error becomes which exception is the caller's. Source: caerr.h.
"""

from __future__ import annotations

from enum import IntEnum


class Severity(IntEnum):
    """How bad a status is: its lowest three bits."""

    WARNING = 0
    SUCCESS = 1
    ERROR = 2
    INFO = 3
    SEVERE = 4
    FATAL = 6


class ECA(IntEnum):
    """Status codes under their EPICS names without ``ECA_`` (``ECA_16KARRAYCLIENT`` is `K16ARRAYCLIENT`).

    Each is its message number, shifted by three bits, and its `Severity`; the odd ones are no errors.
    """

    NORMAL = 0 << 3 | Severity.SUCCESS
    MAXIOC = 1 << 3 | Severity.ERROR
    UKNHOST = 2 << 3 | Severity.ERROR
    UKNSERV = 3 << 3 | Severity.ERROR
    SOCK = 4 << 3 | Severity.ERROR
    CONN = 5 << 3 | Severity.WARNING
    ALLOCMEM = 6 << 3 | Severity.WARNING
    UKNCHAN = 7 << 3 | Severity.WARNING
    UKNFIELD = 8 << 3 | Severity.WARNING
    TOLARGE = 9 << 3 | Severity.WARNING
    TIMEOUT = 10 << 3 | Severity.WARNING
    NOSUPPORT = 11 << 3 | Severity.WARNING
    STRTOBIG = 12 << 3 | Severity.WARNING
    DISCONNCHID = 13 << 3 | Severity.ERROR
    BADTYPE = 14 << 3 | Severity.ERROR
    CHIDNOTFND = 15 << 3 | Severity.INFO
    CHIDRETRY = 16 << 3 | Severity.INFO
    INTERNAL = 17 << 3 | Severity.FATAL
    DBLCLFAIL = 18 << 3 | Severity.WARNING
    GETFAIL = 19 << 3 | Severity.WARNING
    PUTFAIL = 20 << 3 | Severity.WARNING
    ADDFAIL = 21 << 3 | Severity.WARNING
    BADCOUNT = 22 << 3 | Severity.WARNING
    BADSTR = 23 << 3 | Severity.ERROR
    DISCONN = 24 << 3 | Severity.WARNING
    DBLCHNL = 25 << 3 | Severity.WARNING
    EVDISALLOW = 26 << 3 | Severity.ERROR
    BUILDGET = 27 << 3 | Severity.WARNING
    NEEDSFP = 28 << 3 | Severity.WARNING
    OVEVFAIL = 29 << 3 | Severity.WARNING
    BADMONID = 30 << 3 | Severity.ERROR
    NEWADDR = 31 << 3 | Severity.WARNING
    NEWCONN = 32 << 3 | Severity.INFO
    NOCACTX = 33 << 3 | Severity.WARNING
    DEFUNCT = 34 << 3 | Severity.FATAL
    EMPTYSTR = 35 << 3 | Severity.WARNING
    NOREPEATER = 36 << 3 | Severity.WARNING
    NOCHANMSG = 37 << 3 | Severity.WARNING
    DLCKREST = 38 << 3 | Severity.WARNING
    SERVBEHIND = 39 << 3 | Severity.WARNING
    NOCAST = 40 << 3 | Severity.WARNING
    BADMASK = 41 << 3 | Severity.ERROR
    IODONE = 42 << 3 | Severity.INFO
    IOINPROGRESS = 43 << 3 | Severity.INFO
    BADSYNCGRP = 44 << 3 | Severity.ERROR
    PUTCBINPROG = 45 << 3 | Severity.ERROR
    NORDACCESS = 46 << 3 | Severity.WARNING
    NOWTACCESS = 47 << 3 | Severity.WARNING
    ANACHRONISM = 48 << 3 | Severity.ERROR
    NOSEARCHADDR = 49 << 3 | Severity.WARNING
    NOCONVERT = 50 << 3 | Severity.WARNING
    BADCHID = 51 << 3 | Severity.ERROR
    BADFUNCPTR = 52 << 3 | Severity.ERROR
    ISATTACHED = 53 << 3 | Severity.WARNING
    UNAVAILINSERV = 54 << 3 | Severity.WARNING
    CHANDESTROY = 55 << 3 | Severity.WARNING
    BADPRIORITY = 56 << 3 | Severity.ERROR
    NOTTHREADED = 57 << 3 | Severity.ERROR
    K16ARRAYCLIENT = 58 << 3 | Severity.WARNING
    CONNSEQTMO = 59 << 3 | Severity.WARNING
    UNRESPTMO = 60 << 3 | Severity.WARNING


_MESSAGES = (
    "Normal successful completion",
    "Maximum simultaneous IOC connections exceeded",
    "Unknown internet host",
    "Unknown internet service",
    "Unable to allocate a new socket",
    "Unable to connect to internet host or service",
    "Unable to allocate additional dynamic memory",
    "Unknown IO channel",
    "Record field specified inappropriate for channel specified",
    "The requested data transfer is greater than available memory or EPICS_CA_MAX_ARRAY_BYTES",
    "User specified timeout on IO operation expired",
    "Sorry, that feature is planned but not supported at this time",
    "The supplied string is unusually large",
    "The request was ignored because the specified channel is disconnected",
    "The data type specified is invalid",
    "Remote Channel not found",
    "Unable to locate all user specified channels",
    "Channel Access Internal Failure",
    "The requested local DB operation failed",
    "Channel read request failed",
    "Channel write request failed",
    "Channel subscription request failed",
    "Invalid element count requested",
    "Invalid string",
    "Virtual circuit disconnect",
    "Identical process variable names on multiple servers",
    "Request inappropriate within subscription (monitor) update callback",
    "Database value get for that channel failed during channel search",
    "Unable to initialize without the vxWorks VX_FP_TASK task option set",
    "Event queue overflow has prevented first pass event after event add",
    "Bad event subscription (monitor) identifier",
    "Remote channel has new network address",
    "New or resumed network connection",
    "Specified task isn't a member of a CA context",
    "Attempt to use defunct CA feature failed",
    "The supplied string is empty",
    "Unable to spawn the CA repeater thread- auto reconnect will fail",
    "No channel id match for search reply- search reply ignored",
    "Resetting dead connection- will try to reconnect",
    "Server (IOC) has fallen behind or is not responding- still waiting",
    "No internet interface with broadcast available",
    "Invalid event selection mask",
    "IO operations have completed",
    "IO operations are in progress",
    "Invalid synchronous group identifier",
    "Put callback timed out",
    "Read access denied",
    "Write access denied",
    "Requested feature is no longer supported",
    "Empty PV search address list",
    "No reasonable data conversion between client and server types",
    "Invalid channel identifier",
    "Invalid function pointer",
    "Thread is already attached to a client context",
    "Not supported by attached service",
    "User destroyed channel",
    "Invalid channel priority",
    "Preemptive callback not enabled - additional threads may not join context",
    "Client's protocol revision does not support transfers exceeding 16k bytes",
    "Virtual circuit connection sequence aborted",
    "Virtual circuit unresponsive",
)
_UNKNOWN = "new CA message number known only by server - see caerr.h"
_BY_NUMBER = {status >> 3: status for status in ECA}


def message_number(status: int) -> int:
    """The message number of a status, which is what an event's one byte for it holds."""
    return (status & 0xFFF8) >> 3


def from_number(number: int) -> int:
    """The full status of a message number: an `ECA`, or for a number we do not know an error with that number."""
    return _BY_NUMBER.get(number, number << 3 | Severity.ERROR)


def severity(status: int) -> int:
    """The `Severity` of a status, as a number (5 and 7 exist, and have no name)."""
    return status & 7


def is_success(status: int) -> bool:
    """Whether a status tells of success or merely informs (``CA_M_SUCCESS``)."""
    return bool(status & 1)


def message(status: int) -> str:
    """EPICS' words for a status."""
    number = message_number(status)
    return _MESSAGES[number] if number < len(_MESSAGES) else _UNKNOWN


def describe(status: int) -> str:
    """The name and the words of a status, for errors: ``ECA_PUTFAIL: Channel write request failed``."""
    known = _BY_NUMBER.get(message_number(status))
    name = f"status {status}" if known is None else f"ECA_{known.name}".replace("ECA_K16", "ECA_16K")
    return f"{name}: {message(status)}"
