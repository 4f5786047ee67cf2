"""The ``daqca`` command. This file only hands names on."""

from daqca.cli.app import main

__all__ = ["main"]
