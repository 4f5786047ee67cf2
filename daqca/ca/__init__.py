"""The Channel Access client, and the low-level interface of the manual's chapter 4: ``from daqca import ca``.

The client is pure Python and NumPy, without I/O at its core; sockets and threads are in `context`. Here are the options
of the low-level interface, for programs to assign; its functions are handed on from `lowlevel`, each at its first use.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daqca.ca.lowlevel.channels import (
        access,
        clear_channel,
        connect_channel,
        create_channel,
        element_count,
        field_type,
        get_cache,
        host_name,
        isConnected,
        name,
        promote_fieldtype,
        promote_type,
        read_access,
        replace_access_rights_event,
        state,
        write_access,
    )
    from daqca.ca.lowlevel.checks import (
        PySEVCHK,
        withCA,
        withCHID,
        withConnectedCHID,
        withInitialContext,
        withMaybeConnectedCHID,
        withSEVCHK,
    )
    from daqca.ca.lowlevel.getting import (
        get,
        get_complete,
        get_complete_with_metadata,
        get_ctrlvars,
        get_enum_strings,
        get_precision,
        get_severity,
        get_timestamp,
        get_timevars,
        get_with_metadata,
    )
    from daqca.ca.lowlevel.groups import sg_block, sg_create, sg_delete, sg_get, sg_put, sg_reset, sg_test
    from daqca.ca.lowlevel.lifecycle import (
        CAThread,
        attach_context,
        clear_cache,
        context_create,
        context_destroy,
        create_context,
        current_context,
        destroy_context,
        detach_context,
        finalize_libca,
        flush_io,
        initialize_libca,
        pend_event,
        pend_io,
        poll,
        register_clear_cache,
        test_io,
        use_initial_context,
    )
    from daqca.ca.lowlevel.monitoring import clear_subscription, create_subscription
    from daqca.ca.lowlevel.putting import put
    from daqca.ca.lowlevel.status import (
        add_exception_event,
        client_status,
        disable_ca_messages,
        enable_ca_messages,
        message,
        replace_printf_handler,
        show_cache,
        version,
    )
    from daqca.errors import CASeverityException, ChannelAccessException, ChannelAccessGetFailure

# Whether threads read the network and run callbacks; else both happens in poll, pend_event and pend_io only.
PREEMPTIVE_CALLBACK = True
# Seconds that a channel is given to connect, where nothing else is said.
DEFAULT_CONNECTION_TIMEOUT = 2.0
# Arrays of so many elements and more are not monitored unasked, and have no string form.
AUTOMONITOR_MAXLENGTH = 65536
# What create_subscription asks for: DBE_VALUE | DBE_ALARM.
DEFAULT_SUBSCRIPTION_MASK = 5
# Whether contexts are closed when the program ends.
AUTO_CLEANUP = True
# Whether messages are written to standard error from the start: see replace_printf_handler.
WITH_CA_MESSAGES = False
# Whether arrays may be NumPy arrays; assign False for ctypes arrays.
HAS_NUMPY = True
# The encoding of text that is written and read; what was read and is not in it, is taken for Latin-1.
IOENCODING = os.environ.get("PYEPICS_ENCODING") or "utf-8"

__all__ = [  # noqa: RUF022 - sorted as everybody sorts
    "AUTOMONITOR_MAXLENGTH",
    "AUTO_CLEANUP",
    "CASeverityException",
    "CAThread",
    "ChannelAccessException",
    "ChannelAccessGetFailure",
    "DEFAULT_CONNECTION_TIMEOUT",
    "DEFAULT_SUBSCRIPTION_MASK",
    "HAS_NUMPY",
    "IOENCODING",
    "PREEMPTIVE_CALLBACK",
    "PySEVCHK",
    "WITH_CA_MESSAGES",
    "access",
    "add_exception_event",
    "attach_context",
    "clear_cache",
    "clear_channel",
    "clear_subscription",
    "client_status",
    "connect_channel",
    "context_create",
    "context_destroy",
    "create_channel",
    "create_context",
    "create_subscription",
    "current_context",
    "destroy_context",
    "detach_context",
    "disable_ca_messages",
    "element_count",
    "enable_ca_messages",
    "field_type",
    "finalize_libca",
    "flush_io",
    "get",
    "get_cache",
    "get_complete",
    "get_complete_with_metadata",
    "get_ctrlvars",
    "get_enum_strings",
    "get_precision",
    "get_severity",
    "get_timestamp",
    "get_timevars",
    "get_with_metadata",
    "host_name",
    "initialize_libca",
    "isConnected",
    "message",
    "name",
    "pend_event",
    "pend_io",
    "poll",
    "promote_fieldtype",
    "promote_type",
    "put",
    "read_access",
    "register_clear_cache",
    "replace_access_rights_event",
    "replace_printf_handler",
    "sg_block",
    "sg_create",
    "sg_delete",
    "sg_get",
    "sg_put",
    "sg_reset",
    "sg_test",
    "show_cache",
    "state",
    "test_io",
    "use_initial_context",
    "version",
    "withCA",
    "withCHID",
    "withConnectedCHID",
    "withInitialContext",
    "withMaybeConnectedCHID",
    "withSEVCHK",
    "write_access",
]

_HOMES = {
    "CAThread": "daqca.ca.lowlevel.lifecycle",
    "PySEVCHK": "daqca.ca.lowlevel.checks",
    "access": "daqca.ca.lowlevel.channels",
    "add_exception_event": "daqca.ca.lowlevel.status",
    "attach_context": "daqca.ca.lowlevel.lifecycle",
    "clear_cache": "daqca.ca.lowlevel.lifecycle",
    "clear_channel": "daqca.ca.lowlevel.channels",
    "clear_subscription": "daqca.ca.lowlevel.monitoring",
    "client_status": "daqca.ca.lowlevel.status",
    "connect_channel": "daqca.ca.lowlevel.channels",
    "context_create": "daqca.ca.lowlevel.lifecycle",
    "context_destroy": "daqca.ca.lowlevel.lifecycle",
    "create_channel": "daqca.ca.lowlevel.channels",
    "create_context": "daqca.ca.lowlevel.lifecycle",
    "create_subscription": "daqca.ca.lowlevel.monitoring",
    "current_context": "daqca.ca.lowlevel.lifecycle",
    "destroy_context": "daqca.ca.lowlevel.lifecycle",
    "detach_context": "daqca.ca.lowlevel.lifecycle",
    "disable_ca_messages": "daqca.ca.lowlevel.status",
    "element_count": "daqca.ca.lowlevel.channels",
    "enable_ca_messages": "daqca.ca.lowlevel.status",
    "field_type": "daqca.ca.lowlevel.channels",
    "finalize_libca": "daqca.ca.lowlevel.lifecycle",
    "flush_io": "daqca.ca.lowlevel.lifecycle",
    "get": "daqca.ca.lowlevel.getting",
    "get_cache": "daqca.ca.lowlevel.channels",
    "get_complete": "daqca.ca.lowlevel.getting",
    "get_complete_with_metadata": "daqca.ca.lowlevel.getting",
    "get_ctrlvars": "daqca.ca.lowlevel.getting",
    "get_enum_strings": "daqca.ca.lowlevel.getting",
    "get_precision": "daqca.ca.lowlevel.getting",
    "get_severity": "daqca.ca.lowlevel.getting",
    "get_timestamp": "daqca.ca.lowlevel.getting",
    "get_timevars": "daqca.ca.lowlevel.getting",
    "get_with_metadata": "daqca.ca.lowlevel.getting",
    "host_name": "daqca.ca.lowlevel.channels",
    "initialize_libca": "daqca.ca.lowlevel.lifecycle",
    "isConnected": "daqca.ca.lowlevel.channels",
    "message": "daqca.ca.lowlevel.status",
    "name": "daqca.ca.lowlevel.channels",
    "pend_event": "daqca.ca.lowlevel.lifecycle",
    "pend_io": "daqca.ca.lowlevel.lifecycle",
    "poll": "daqca.ca.lowlevel.lifecycle",
    "promote_fieldtype": "daqca.ca.lowlevel.channels",
    "promote_type": "daqca.ca.lowlevel.channels",
    "put": "daqca.ca.lowlevel.putting",
    "read_access": "daqca.ca.lowlevel.channels",
    "register_clear_cache": "daqca.ca.lowlevel.lifecycle",
    "replace_access_rights_event": "daqca.ca.lowlevel.channels",
    "replace_printf_handler": "daqca.ca.lowlevel.status",
    "sg_block": "daqca.ca.lowlevel.groups",
    "sg_create": "daqca.ca.lowlevel.groups",
    "sg_delete": "daqca.ca.lowlevel.groups",
    "sg_get": "daqca.ca.lowlevel.groups",
    "sg_put": "daqca.ca.lowlevel.groups",
    "sg_reset": "daqca.ca.lowlevel.groups",
    "sg_test": "daqca.ca.lowlevel.groups",
    "show_cache": "daqca.ca.lowlevel.status",
    "state": "daqca.ca.lowlevel.channels",
    "test_io": "daqca.ca.lowlevel.lifecycle",
    "use_initial_context": "daqca.ca.lowlevel.lifecycle",
    "version": "daqca.ca.lowlevel.status",
    "withCA": "daqca.ca.lowlevel.checks",
    "withCHID": "daqca.ca.lowlevel.checks",
    "withConnectedCHID": "daqca.ca.lowlevel.checks",
    "withInitialContext": "daqca.ca.lowlevel.checks",
    "withMaybeConnectedCHID": "daqca.ca.lowlevel.checks",
    "withSEVCHK": "daqca.ca.lowlevel.checks",
    "write_access": "daqca.ca.lowlevel.channels",
    # Beyond the manual, for programs that know PyEpics.
    "_unpack": "daqca.ca.lowlevel.status",
    "find_libca": "daqca.ca.lowlevel.lifecycle",
    "write": "daqca.ca.lowlevel.status",
    "CASeverityException": "daqca.errors",
    "ChannelAccessException": "daqca.errors",
    "ChannelAccessGetFailure": "daqca.errors",
}
# What changes is asked for each time: the library's stand-in, the first context, the channels of each context.
_CHANGING = {"_cache": "cache", "initial_context": "initial", "libca": "library"}


def __getattr__(name: str) -> Any:
    if name in _CHANGING:
        return getattr(import_module("daqca.ca.lowlevel.session").session, _CHANGING[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'daqca.ca' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_CHANGING})
