"""The engine: what a client program holds. This file only hands names on."""

from daqca.engine.engine import Engine
from daqca.engine.info import ChannelInfo, PutResult
from daqca.engine.sinks import Sink, Subscription

__all__ = ["ChannelInfo", "Engine", "PutResult", "Sink", "Subscription"]
