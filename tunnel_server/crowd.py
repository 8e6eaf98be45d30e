"""A bounded number of strangers, among whom whoever wastes a place makes room for the next.

A plain limit would be a lever: as many connections that say nothing as there are places, and nobody else
is served until they time out. Dropping merely the oldest would be another, when every agent of a large
site comes back at once. So the oldest that has said nothing goes first; then the oldest, once it has had its
`_PATIENCE`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_PATIENCE = 1.0
"""Seconds that everybody who has said something gets, however many wait."""
_WARN_EVERY = 60.0


@dataclass(eq=False)
class Guest:
    """One place. `scope` goes around whatever is done in it: it is cancelled to make room."""

    began: float
    pump: TlsPump | None
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

    def enter_nowait(self, pump: TlsPump | None = None) -> Guest | None:
        """Take a place, sending somebody away if there is none; None if all are in good use.

        With `pump`, the guest counts as silent until something has come.
        """
        now = trio.current_time()
        if len(self._guests) >= self.limit:
            leaving = self._wasteful(now)
            if leaving is None:
                return None
            self._send_away(leaving, now)
        guest = Guest(now, pump)
        self._guests[guest] = None
        return guest

    async def enter(self, pump: TlsPump | None = None) -> Guest:
        """The same, but wait for a place. Cancelled, none is taken."""
        while (guest := self.enter_nowait(pump)) is None:
            oldest = next(iter(self._guests))
            if self._left.is_set():
                self._left = trio.Event()
            with trio.move_on_at(oldest.began + _PATIENCE):
                await self._left.wait()
        return guest

    def leave(self, guest: Guest) -> None:
        """Give the place back; nothing happens if it was taken away."""
        if guest in self._guests:
            del self._guests[guest]
            self._left.set()

    def _wasteful(self, now: float) -> Guest | None:
        for guest in self._guests:
            if guest.pump is not None and not guest.pump.heard:
                return guest
        oldest = next(iter(self._guests))
        return oldest if now >= oldest.began + _PATIENCE else None

    def _send_away(self, guest: Guest, now: float) -> None:
        del self._guests[guest]
        guest.scope.cancel()
        if now - self._warned >= _WARN_EVERY:
            self._warned = now
            log.warning("all %d places for %s are taken: the idle make room", self.limit, self._what)
