"""Where the sockets of a broker are: a directory that only its owner can enter. Opens no socket."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

from daqca.errors import TransportError

PATH_LIMIT: Final = 107
"""Bytes in the path of a socket file (``sun_path`` of ``unix(7)`` less its end)."""
_NAMES = ("data", "requests", "client-data", "client-requests")
_LONGEST = max(map(len, _NAMES))


class Endpoints:
    """The ``ipc://`` endpoints of one broker.

    Parameters
    ----------
    directory
        Where the socket files are, or will be.
    """

    def __init__(self, directory: str):
        self.directory = directory

    @classmethod
    def create(cls) -> Endpoints:
        """Make a directory with mode 0700, under ``XDG_RUNTIME_DIR`` or else where temporary files go.

        Raises
        ------
        TransportError
            No place could be found or made whose path is short enough for a socket file.
        """
        tried = []
        for parent in dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp")):
            if not os.path.isabs(parent):
                continue
            if len(os.fsencode(parent)) + len("/daqca-12345678/") + _LONGEST > PATH_LIMIT:
                tried.append(f"{parent} (its path is too long for a socket)")
                continue
            try:
                return cls(tempfile.mkdtemp(prefix="daqca-", dir=parent))
            except OSError as error:
                tried.append(f"{parent} ({error.strerror})")
        raise TransportError(
            f"the sockets of the workers need a directory, and none could be made in {', '.join(tried)}; "
            "set TMPDIR to one that is writable and has a short path"
        )

    @property
    def data(self) -> str:
        """Where workers publish."""
        return self._endpoint("data")

    @property
    def requests(self) -> str:
        """Where workers take requests."""
        return self._endpoint("requests")

    @property
    def client_data(self) -> str:
        """Where clients in other processes subscribe."""
        return self._endpoint("client-data")

    @property
    def client_requests(self) -> str:
        """Where clients in other processes send requests."""
        return self._endpoint("client-requests")

    def _endpoint(self, name: str) -> str:
        return f"ipc://{self.directory}/{name}"

    def remove(self) -> None:
        """Remove the socket files and the directory, if they are still there; other files stay, and it with them."""
        for name in _NAMES:
            with contextlib.suppress(OSError):
                (Path(self.directory) / name).unlink()
        with contextlib.suppress(OSError):
            os.rmdir(self.directory)
