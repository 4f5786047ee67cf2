"""How far each topic of a stream has come: counted by the sender, followed by the receiver, who so finds every gap."""

from __future__ import annotations

from typing import NamedTuple

from daqca.broker.messages import Message


class Position(NamedTuple):
    """Messages and events that were sent with one topic."""

    messages: int = 0
    events: int = 0


class Gap(NamedTuple):
    """What is missing of one topic: messages, and the events that were in them."""

    messages: int
    events: int


class Follower:
    """Follows one topic of one stream.

    Parameters
    ----------
    position
        Where the topic stands; messages from before are not missed.
    """

    __slots__ = ("events", "messages")

    def __init__(self, position: Position):
        self.messages, self.events = position

    def follow(self, message: Message) -> Gap | None:
        """Take note of a message; returns what should have come before it and did not."""
        gap = self.reach(Position(message.number, message.before))
        self.messages = message.number + message.span
        self.events = message.before + message.events
        return gap

    def reach(self, position: Position) -> Gap | None:
        """The topic is known to stand at `position`; returns what did not come on the way."""
        if position.messages == self.messages and position.events == self.events:
            return None
        gap = Gap(max(position.messages - self.messages, 0), max(position.events - self.events, 0))
        self.messages, self.events = position
        return gap
