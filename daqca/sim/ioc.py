"""Soft IOCs of EPICS base as child processes: any database, or the generated one of the simulator.

The process itself is ``serve_ioc.py``; the records are made in ``database.py``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .camera import CameraIOC
from .database import Changing, SimDatabase
from .ports import Ports, ca_environ
from .process import ServerProcess, python_module

if TYPE_CHECKING:
    from typing_extensions import Self


class SoftIOC(ServerProcess):
    """A soft IOC that serves the records of a database text.

    Parameters
    ----------
    database
        EPICS records as in a ``.db`` file.
    access_security
        The rules, as in an ``.acf`` file; everybody may do everything when empty.
    scan_rates_hz
        Rates that records may ask for with ``SCAN`` ``"<rate> Hz"``, beyond the periods of base.
    ports
        The ports to use; free ones are chosen when None.
    """

    def __init__(
        self,
        database: str,
        *,
        access_security: str = "",
        scan_rates_hz: Sequence[float] = (),
        ports: Ports | None = None,
    ):
        self._database = database
        self._access_security = access_security
        self._scan_rates_hz = tuple(scan_rates_hz)
        # A record that no other IOC has: who answers for it is this one.
        probe = f"daqca-sim:{secrets.token_hex(8)}"
        super().__init__(python_module("daqca.sim.serve_ioc"), self._serve, probe, ports=ports)

    def _serve(self) -> dict[str, Any]:
        own = f'record(longin, "{self.probe}") {{ field(PINI, "YES") field(VAL, "1") }}\n'
        return {
            "database": self._database + "\n" + own,
            "access_security": self._access_security,
            "scan_rates_hz": self._scan_rates_hz,
        }

    def restart(self, database: str | None = None) -> Self:
        """Stop the IOC if it runs, and start it on the same ports.

        Parameters
        ----------
        database
            Another database text to serve from now on; the same again when None.
        """
        if database is not None:
            self._database = database
        return super().restart()


class SimIOC(SoftIOC):
    """The simulated control system: thousands of records, and a camera if asked for.

    Parameters
    ----------
    prefix
        What every name begins with.
    scalars
        Number of scalar records.
    changing
        How many of them change by themselves; or groups of them, as pairs of how many and of their own rate.
    rate_hz
        How often each of those in no group changes, per second.
    camera
        Whether a ``CameraIOC`` with this prefix runs too, as a second server.
    camera_options
        Options of ``CameraIOC`` beside prefix and ports.
    arrays
        Whether the waveforms and the other special records are there.
    ports
        The ports to use; free ones are chosen when None.
    access_security
        The rules, as in an ``.acf`` file.
    """

    def __init__(
        self,
        prefix: str = "SIM:",
        scalars: int = 20_000,
        changing: Changing = None,
        rate_hz: float = 10.0,
        *,
        camera: bool = False,
        camera_options: dict[str, Any] | None = None,
        arrays: bool = True,
        ports: Ports | None = None,
        access_security: str = "",
    ):
        self.database = SimDatabase(prefix, scalars, changing, rate_hz, arrays=arrays)
        super().__init__(
            self.database.text, access_security=access_security, scan_rates_hz=self.database.rates_hz, ports=ports
        )
        self.prefix = prefix
        self.camera: CameraIOC | None = None
        if camera:
            camera_ports = Ports.choose(repeater=self.ports.repeater)
            self.camera = CameraIOC(prefix, ports=camera_ports, **(camera_options or {}))

    @property
    def names(self) -> list[str]:
        """The names of the scalar records, in order."""
        return self.database.names

    @property
    def array_names(self) -> list[str]:
        """The names of the arrays and long strings, the frames of the camera last."""
        return [*self.database.array_names, *([self.camera.image] if self.camera is not None else [])]

    @property
    def environ(self) -> dict[str, str]:
        """The EPICS variables that a client needs to find the records, and the camera."""
        return ca_environ(self.ports) if self.camera is None else ca_environ(self.ports, self.camera.ports)

    def start(self) -> Self:
        """Start the IOC, and its camera, and wait until both answer."""
        # Side by side: each takes a second, most of it for loading EPICS.
        launch_camera = self.camera is not None and not self.camera.alive
        self.launch()
        try:
            if self.camera is not None and launch_camera:
                self.camera.launch()
            self.wait_ready()
            if self.camera is not None and launch_camera:
                self.camera.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the IOC, and its camera."""
        if self.camera is not None:
            self.camera.stop()
        super().stop()
