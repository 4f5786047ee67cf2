"""The exit codes of the ``daqca`` command, and how an error becomes one. Nothing is printed here."""

from __future__ import annotations

from enum import IntEnum

from daqca.errors import ChannelError, ConfigurationError, DaqcaError, NameListError, RecordingError


class ExitCode(IntEnum):
    """What the command tells the shell."""

    OK = 0
    """All was done for every PV."""
    MISSING = 1
    """Some PV was not found, not readable, refused, or late; the others were done."""
    USAGE = 2
    """An option, a list of names or an environment variable makes no sense; nothing was done."""
    OUTPUT = 3
    """The output file exists, or cannot be written."""
    FAILED = 4
    """daqca itself failed: a worker, the simulator, or a mistake in daqca."""
    INTERRUPTED = 130
    """Ctrl-C. What was recorded until then is kept."""
    BROKEN_PIPE = 141
    """Whoever read the output has gone."""
    TERMINATED = 143
    """SIGTERM; as Ctrl-C."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything ends as with Ctrl-C, under another code."""


def code_of(error: BaseException) -> ExitCode:
    """The exit code that an error ends the command with."""
    # The first that fits counts: the tree of errors has leaves under built-ins too.
    kinds: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], ExitCode], ...] = (
        (Terminated, ExitCode.TERMINATED),
        (KeyboardInterrupt, ExitCode.INTERRUPTED),
        (BrokenPipeError, ExitCode.BROKEN_PIPE),
        ((NameListError, ConfigurationError), ExitCode.USAGE),
        (RecordingError, ExitCode.OUTPUT),
        (ChannelError, ExitCode.MISSING),
        (DaqcaError, ExitCode.FAILED),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), ExitCode.FAILED)
