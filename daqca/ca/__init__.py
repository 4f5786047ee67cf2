"""The Channel Access client, and the low-level interface of the manual's chapter 4: ``from daqca import ca``.

The client is pure Python and NumPy, without I/O at its core; sockets and threads are in `context`. Here are the options
of the low-level interface, for programs to assign; its functions are handed on from `lowlevel` at their first use.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

PREEMPTIVE_CALLBACK = True
"""Whether threads read the network and run callbacks; else both happens in `poll`, `pend_event` and `pend_io` only."""
DEFAULT_CONNECTION_TIMEOUT = 2.0
"""Seconds that a channel is given to connect, where nothing else is said."""
AUTOMONITOR_MAXLENGTH = 65536
"""Arrays of so many elements and more are not monitored unasked, and have no string form."""
DEFAULT_SUBSCRIPTION_MASK = 5
"""What `create_subscription` asks for: ``DBE_VALUE | DBE_ALARM``."""
AUTO_CLEANUP = True
"""Whether contexts are closed when the program ends."""
WITH_CA_MESSAGES = False
"""Whether messages are written to standard error from the start: see `replace_printf_handler`."""
HAS_NUMPY = True
"""Whether arrays may be NumPy arrays; assign False for ctypes arrays."""
IOENCODING = os.environ.get("PYEPICS_ENCODING") or "utf-8"
"""The encoding of text that is written and read; what was read and is not in it, is taken for Latin-1."""

libca: Any = None
"""What stands for the C library, once there is a context."""
initial_context: int | None = None
"""The context that was made first."""
_cache: dict[int, dict[str, Any]] = {}
"""By context and name: every channel."""
_printf_handler: Callable[[str], Any] | None = None


def say(text: str) -> None:
    """Write a message of Channel Access, if somebody wants such messages."""
    if _printf_handler is not None:
        _printf_handler(text)
    elif WITH_CA_MESSAGES:
        import sys

        sys.stderr.write(text)


_HOMES = {
    "lifecycle": (
        "CAThread attach_context clear_cache context_create context_destroy create_context current_context "
        "destroy_context detach_context finalize_libca flush_io initialize_libca pend_event pend_io poll "
        "register_clear_cache test_io use_initial_context"
    ),
    "checks": ("PySEVCHK withCA withCHID withConnectedCHID withInitialContext withMaybeConnectedCHID withSEVCHK"),
    "channels": (
        "access clear_channel connect_channel create_channel element_count field_type get_cache host_name isConnected "
        "name promote_fieldtype promote_type read_access replace_access_rights_event state write_access"
    ),
    "getting": (
        "get get_complete get_complete_with_metadata get_ctrlvars get_enum_strings get_precision get_severity "
        "get_timestamp get_timevars get_with_metadata"
    ),
    "putting": "put",
    "monitoring": "clear_subscription create_subscription",
    "groups": "sg_block sg_create sg_delete sg_get sg_put sg_reset sg_test",
    "status": (
        "_unpack add_exception_event client_status disable_ca_messages enable_ca_messages message "
        "replace_printf_handler show_cache version"
    ),
}
_MODULES = {name: f"daqca.ca.lowlevel.{module}" for module, names in _HOMES.items() for name in names.split()}
_MODULES |= dict.fromkeys(("CASeverityException", "ChannelAccessException", "ChannelAccessGetFailure"), "daqca.errors")


def __getattr__(name: str) -> Any:
    home = _MODULES.get(name)
    if home is None:
        if name == "dbr":
            return import_module("daqca.ca.dbr")
        raise AttributeError(f"module 'daqca.ca' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
