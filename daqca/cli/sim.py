"""``daqca sim``: the embedded IOC on free ports of this machine, until Ctrl-C."""

from __future__ import annotations

import importlib.util
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from daqca.cli.codes import ExitCode, code_of
from daqca.cli.options import above_zero, with_json
from daqca.errors import ConfigurationError

if TYPE_CHECKING:
    from daqca.sim import SimIOC


def _groups(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[tuple[int, float | None]]:
    """Callback of --changing: how many, and at which rate if it is given, of each ``N`` or ``N@HZ``."""
    groups = []
    for value in values:
        count, at, text = value.partition("@")
        try:
            rate = above_zero(ctx, param, float(text)) if at else None
        except ValueError:
            count = ""
        if not count.isdecimal():
            raise click.BadParameter(f"{value!r} is not of the form N or N@HZ", ctx, param)
        groups.append((int(count), rate))
    return groups


@click.command(
    epilog="""\b
Examples:
  daqca sim --names names.txt --env sim.sh
  daqca sim --scalars 1000 --changing 1000 --rate 100 --no-camera
  daqca sim --changing 500@1 --changing 100@50 --array-names arrays.txt
  daqca sim --camera-size 2048x2048 --camera-rate 50 --acquire

\b
In another terminal:
  source sim.sh
  daqca snapshot -f names.txt -o snap.h5
"""
)
@click.option("--prefix", default="SIM:", show_default=True, help="What every name begins with.")
@click.option("--scalars", type=click.IntRange(min=1), default=20_000, show_default=True, help="Scalar records.")
@click.option(
    "--changing",
    callback=_groups,
    multiple=True,
    metavar="N[@HZ]",
    help="How many of them change by themselves, and how often each does. May be repeated.  [default: 5 %, at --rate]",
)
@click.option(
    "--rate",
    type=float,
    callback=above_zero,
    default=10.0,
    show_default=True,
    help="How often each of those changes that --changing gives no rate, in Hz.",
)
@click.option("--arrays/--no-arrays", default=True, help="With waveforms, long strings, a scaler, or without.")
@click.option("--camera/--no-camera", default=True, help="With a camera (PREFIXcam1:, PREFIXimage1:), or without.")
@click.option("--camera-size", default="1024x1024", show_default=True, metavar="WxH", help="Pixels of a frame.")
@click.option("--camera-type", default="UInt8", show_default=True, help="UInt8, UInt16, ...: type of a pixel.")
@click.option(
    "--camera-rate", type=float, callback=above_zero, default=200.0, show_default=True, help="Frames per second."
)
@click.option("--acquire", is_flag=True, help="Let the camera acquire from the start.")
@click.option("--port", type=click.IntRange(5001, 65535), help="The CA server port.  [default: a free one]")
@click.option("--names", "names_file", metavar="FILE", help="Write the names of the scalar records to FILE.")
@click.option(
    "--array-names",
    "arrays_file",
    metavar="FILE",
    help="Write the names of the waveforms, the long strings and the camera's frames to FILE.",
)
@click.option("--env", "env_file", metavar="FILE", help="Write the variables to FILE, to be sourced by a shell.")
@click.option(
    "-d", "--duration", type=float, callback=above_zero, metavar="SECONDS", help="End after so long; else at Ctrl-C."
)
@with_json
def sim(
    prefix: str,
    scalars: int,
    changing: list[tuple[int, float | None]],
    rate: float,
    arrays: bool,
    camera: bool,
    camera_size: str,
    camera_type: str,
    camera_rate: float,
    acquire: bool,
    port: int | None,
    names_file: str | None,
    arrays_file: str | None,
    env_file: str | None,
    duration: float | None,
    as_json: bool,
) -> int:
    """Run an IOC with generated records, and a camera, on this machine alone; print how to find it.

    It listens on the loopback interface and on free ports, so it disturbs no control system. Needs the extra
    'sim' (pip install 'daqca[sim]'). Ctrl-C ends it.
    """
    from daqca.cli.output import ProgressBar
    from daqca.sim import Ports, SimIOC

    require_simulator(camera)
    options: dict[str, Any] = {"arrays": arrays, "camera": camera, "ports": Ports.choose() if port is None else None}
    if port is not None:
        from daqca.sim import free_port

        options["ports"] = Ports(port, free_port())
    if camera:
        width, height = _size(camera_size)
        options["camera_options"] = {
            "width": width,
            "height": height,
            "data_type": camera_type,
            "rate_hz": camera_rate,
            "acquire": acquire,
        }
    groups = [(count, rate if own is None else own) for count, own in changing]
    server = SimIOC(prefix, scalars, groups or None, rate, **options)
    for path, names in ((names_file, server.names), (arrays_file, server.array_names)):
        if path is not None:
            _write(path, "".join(f"{name}\n" for name in names))
    if env_file is not None:
        _write(env_file, _exports(server.environ))
    with ProgressBar("starting the IOC"):
        server.start()
    with server:
        _announce(server, [path for path in (names_file, arrays_file) if path is not None], env_file, as_json)
        return _wait(server, duration)


def require_simulator(camera: bool) -> None:
    """Say now if what the simulated IOC runs on is not installed.

    Raises
    ------
    ConfigurationError
        Naming what to install.
    """
    for module in ("epicscorelibs", "softioc")[: 2 if camera else 1]:
        if importlib.util.find_spec(module) is None:
            raise ConfigurationError(f"the simulated IOC needs {module}: pip install 'daqca[sim]'")


def _size(text: str) -> Sequence[int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"{text!r} is not of the form WIDTHxHEIGHT", param_hint="--camera-size")
    return int(width), int(height)


def _write(path: str, text: str) -> None:
    """Write a small file of ours, replacing an earlier one: it only holds what this command can make again."""
    from daqca.snapshot.files import check_place, write_whole

    write_whole(check_place(path, overwrite=True), text.encode(), overwrite=True)


def _exports(environ: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items())


def _announce(server: SimIOC, files: list[str], env_file: str | None, as_json: bool) -> None:
    """Say that it runs, and how to find it."""
    from daqca.cli.output import note, print_json_line

    count = len(server.names)
    if as_json:
        camera = server.camera.image if server.camera is not None else None
        print_json_line({"environ": server.environ, "prefix": server.prefix, "scalars": count, "camera": camera})
        return
    click.echo(_exports(server.environ), nl=False)
    first, last = server.names[0], server.names[-1]
    note(f"{count:,} records from {first} to {last} on port {server.server_port}")
    if server.camera is not None:
        note(f"camera {server.prefix}cam1:, its frames {server.camera.image}; put 1 to {server.prefix}cam1:Acquire")
    if files:
        note(f"the names are in {' and '.join(files)}")
    note(f"in another terminal: {'source ' + env_file if env_file else 'copy the export lines'}, then run daqca there")
    note("Ctrl-C ends it")


def _wait(server: SimIOC, duration: float | None) -> int:
    """Wait for the end of the time, for Ctrl-C, or for an IOC that ends by itself."""
    from daqca.cli.output import note

    deadline = None if duration is None else time.monotonic() + duration
    try:
        while deadline is None or time.monotonic() < deadline:
            if not server.alive:
                note(f"the IOC has ended; it printed:\n{server.output}")
                return ExitCode.FAILED
            time.sleep(0.2)
    except KeyboardInterrupt as interrupt:
        note("stopped")
        return code_of(interrupt)
    return ExitCode.OK
