"""Fixtures that the tests of this folder share with those of ``tests/process``."""

from support.engines import engine, make_engine

__all__ = ["engine", "make_engine"]
