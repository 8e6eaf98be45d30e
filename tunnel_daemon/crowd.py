"""A bounded number of strangers, among whom whoever wastes a place makes room for the next.

A plain limit would be a lever: as many connections that say nothing as there are places, and nobody else
is served until they time out. Dropping merely the oldest would be another, when every agent of a large
site comes back at once. So the oldest that is silent goes first; then the oldest, once it has had its
`_PATIENCE`; and never one that waits for us.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds that everybody who has said something gets, however many wait."""
_WARN_EVERY = 60.0


class Use(Enum):
    """What a guest makes of its place."""

    SILENT = auto()
    """Has said nothing, or nothing since it was last answered."""
    TALKING = auto()
    """It is its turn: to say the rest, or to read."""
    SERVED = auto()
    """It has said all, and we owe it an answer, within a time of our own."""


def talking() -> Use:
    """What is taken to be true of whoever can't be looked at."""
    return Use.TALKING


@dataclass(eq=False)
class Guest:
    """One place. `scope` goes around whatever is done in it: it is cancelled to make room."""

    began: float
    use: Callable[[], Use]
    """Asked when places are short; may be replaced."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Crowd:
    """The places. `what` names the guests in the log, in the plural."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit = limit
        self._what = what
        self._guests: dict[Guest, None] = {}
        self._left = trio.Event()
        self._warned = -_WARN_EVERY

    def __len__(self) -> int:
        return len(self._guests)

    def enter_nowait(self, use: Callable[[], Use] = talking) -> Guest | None:
        """Take a place, sending somebody away if there is none; None if all are in good use."""
        now = trio.current_time()
        if len(self._guests) >= self.limit:
            leaving = self._wasteful(now)
            if leaving is None:
                return None
            self._send_away(leaving, now)
        guest = Guest(now, use)
        self._guests[guest] = None
        return guest

    async def enter(self, use: Callable[[], Use] = talking) -> Guest:
        """The same, but wait for a place. Cancelled, none is taken."""
        while (guest := self.enter_nowait(use)) is None:
            oldest = next(iter(self._guests))
            if self._left.is_set():
                self._left = trio.Event()
            # Whoever is served, and too old for patience already, may be silent when we look again.
            look_again = oldest.began + _PATIENCE
            if look_again <= trio.current_time():
                look_again = trio.current_time() + _PATIENCE
            with trio.move_on_at(look_again):
                await self._left.wait()
        return guest

    def leave(self, guest: Guest) -> None:
        """Give the place back; nothing happens if it was taken away."""
        if guest in self._guests:
            del self._guests[guest]
            self._left.set()

    def owed(self) -> int:
        """How many wait for an answer of ours."""
        return sum(guest.use() is Use.SERVED for guest in self._guests)

    def _wasteful(self, now: float) -> Guest | None:
        oldest = None
        for guest in self._guests:
            use = guest.use()
            if use is Use.SILENT:
                return guest
            if use is Use.TALKING and oldest is None:
                oldest = guest
        return oldest if oldest is not None and now >= oldest.began + _PATIENCE else None

    def _send_away(self, guest: Guest, now: float) -> None:
        del self._guests[guest]
        guest.scope.cancel()
        if now - self._warned >= _WARN_EVERY:
            self._warned = now
            log.warning("all %d places for %s are taken: the idle make room", self.limit, self._what)
