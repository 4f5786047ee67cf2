"""How a context registers with the CA repeater of its host, to hear beacons, and starts one if there is none.

The repeater itself is in `repeater`; the UDP socket is the context's.
"""

from __future__ import annotations

import contextlib
import socket

from daqca.ca.repeater import is_confirmation, registration_message, spawn_repeater
from daqca.ca.settings import Settings

FIRST_WAIT = 0.1
SPAWN_AFTER = 2
"""Unanswered tries before a repeater is started."""
GIVE_UP_AFTER = 8
REFRESH = 30.0
"""Seconds between registrations: a repeater that was restarted has forgotten us."""


class Registration:
    """The registration of one context, driven by its clock and its datagrams."""

    def __init__(self, settings: Settings):
        self.confirmed = False
        self._settings = settings
        self._tries = 0
        self._due = 0.0
        self._spawned = False

    def check(self, now: float, udp: socket.socket) -> float:
        """Send what is due; returns when to call again."""
        if now < self._due:
            return self._due
        if self.confirmed:
            self.confirmed = False
            self._tries = 0
        if self._tries >= GIVE_UP_AFTER:
            self._tries = 0
            self._due = now + REFRESH
            return self._due
        if self._tries == SPAWN_AFTER and not self._spawned:
            self._spawned = True
            spawn_repeater(self._settings.repeater_port, self._settings.repeater_linger)
        with contextlib.suppress(OSError):
            udp.sendto(registration_message("127.0.0.1"), ("127.0.0.1", self._settings.repeater_port))
        # Quick again after a repeater was started: it takes a moment to be there, and waits for nobody for long.
        doublings = self._tries if self._tries > 2 * SPAWN_AFTER else self._tries % SPAWN_AFTER
        self._due = now + FIRST_WAIT * 2.0**doublings
        self._tries += 1
        return self._due

    def received(self, data: bytes) -> bool:
        """A datagram came; returns whether it was the repeater's confirmation."""
        if not is_confirmation(data):
            return False
        if not self.confirmed:
            self.confirmed = True
            self._spawned = False  # should this one end, another may be started
            self._due += REFRESH
        return True
