"""When waits are overdue that mostly end long before: one timer for all of them.

A `Timer` each would stay in the event loop's heap until it comes up, and wake the loop then.
"""

from __future__ import annotations

from typing import Protocol

import trio

from tunnel_wire.timers import Timer


class Wait(Protocol):
    """Something that waits, and must not for ever."""

    def overdue(self) -> None:
        """Its time is over; it waits no more."""


class Deadlines:
    """Calls `overdue` on each wait that has not been discarded by then. Of use in a trio run only."""

    def __init__(self) -> None:
        self._due: dict[Wait, float] = {}
        self._timer: Timer | None = None

    def add(self, wait: Wait, when: float) -> None:
        """Have it called at `when`, on trio's clock."""
        self._due[wait] = when
        self._call_at(when)

    def discard(self, wait: Wait) -> None:
        """Never call it. Nothing happens if it was called."""
        self._due.pop(wait, None)

    def _call_at(self, when: float) -> None:
        if self._timer is None:
            self._timer = Timer(self._on_time, self._on_defect)
        if when < self._timer.due:
            self._timer.set(when)

    def _on_time(self) -> None:
        now = trio.current_time()
        for wait in [wait for wait, when in self._due.items() if when <= now]:
            # Another one's end may have ended it.
            if self._due.pop(wait, None) is not None:
                wait.overdue()
        self._go_on()

    def _go_on(self) -> None:
        if self._due:
            self._call_at(min(self._due.values()))

    def _on_defect(self) -> None:
        # This timer calls no more.
        self._timer = None
        self._go_on()
