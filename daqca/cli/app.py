"""The ``daqca`` command: its group of commands, and how everything that can go wrong ends in one line and an exit code.

The commands are in modules of their own; only click is imported to show help.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

import click

from daqca.cli.codes import ExitCode, Terminated, code_of
from daqca.errors import DaqcaError

EPILOG = """\b
Exit codes:
  0    all was done, for every PV
  1    some PV is missing, refused or late; the others were done
  2    an option, a list of names or an EPICS variable makes no sense
  3    the output file exists or cannot be written
  4    a worker or daqca itself failed
  130  Ctrl-C (143: SIGTERM); what was recorded until then is kept

\b
Where PVs are searched is said by the usual variables, EPICS_CA_ADDR_LIST and
its companions. `daqca doctor` explains them, and why a PV is not found.
"""


class _Commands(click.Group):
    """Commands in the order in which one meets them, not in that of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(None, "-V", "--version", package_name="daqca", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Read, watch, write and record EPICS process variables over Channel Access."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(ExitCode.USAGE)


def _add_commands() -> None:
    from daqca.cli import demo, doctor, monitor, put, read, record, sim, snapshot

    for command in (
        read.get,
        put.put,
        monitor.monitor,
        read.info,
        snapshot.snapshot,
        record.record,
        sim.sim,
        doctor.doctor,
        demo.demo,
    ):
        cli.add_command(command)


_add_commands()


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and leave the process with its exit code.

    Parameters
    ----------
    args
        The arguments, without the program; those of this process if None.
    """
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Errors of every kind end here, in one line on stderr."""
    with _terminate_like_ctrl_c():
        try:
            code = cli.main(args=args, prog_name="daqca", standalone_mode=False)
            sys.stdout.flush()
            return int(code or 0)
        except click.exceptions.Abort as error:
            # click's word for Ctrl-C; what was interrupted stands behind it.
            return _told(error.__cause__ or error.__context__ or KeyboardInterrupt())
        except SystemExit as error:
            # Only click leaves so, and only when whoever read the output has gone.
            return _told(BrokenPipeError(str(error)))
        except click.ClickException as error:
            path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "daqca"
            click.echo(f"{path}: {error.format_message().rstrip('.')} (see {path} --help)", err=True)
            return ExitCode.USAGE
        except BaseException as error:
            if os.environ.get("DAQCA_DEBUG"):
                raise
            return _told(error)


def _told(error: BaseException) -> int:
    """Say on stderr what ended the command; returns the exit code."""
    code = code_of(error)
    if code == ExitCode.BROKEN_PIPE:
        # Python flushes stdout once more at its end, and would complain.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    if isinstance(error, DaqcaError):
        message = str(error)
    elif isinstance(error, KeyboardInterrupt):
        message = "terminated" if code == ExitCode.TERMINATED else "interrupted"
    else:
        message = f"{type(error).__name__}: {error} (a mistake in daqca; DAQCA_DEBUG=1 shows where)"
    with contextlib.suppress(OSError):
        click.echo(f"daqca: {message}", err=True)
    return code


@contextlib.contextmanager
def _terminate_like_ctrl_c() -> Iterator[None]:
    def terminate(*_: object) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
