"""Timers that call back, without a task each: one heap for the event loop, and one task that waits for its
head.

A timer of a link is mostly moved later, by whatever comes, and rarely due. Moving it later costs nothing: its
entry in the heap is looked at when it comes up, and put back.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from typing import TYPE_CHECKING

import trio

from tunnel_wire.run_local import RunLocal

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Timer:
    """Calls `on_due` once at the time that was set last, on trio's clock."""

    __slots__ = ("_clock", "_entries", "_on_defect", "_on_due", "due")

    def __init__(self, on_due: Callable[[], None], on_defect: Callable[[], None]) -> None:
        """Should `on_due` raise, that is logged, `on_defect` is called, and nothing any more."""
        self._clock = _clock_of_this_loop()
        self._on_due: Callable[[], None] | None = on_due
        self._on_defect: Callable[[], None] | None = on_defect
        self._entries: list[float] = []
        """When the heap's entries for it come up: the latest first."""
        self.due = math.inf

    def set(self, when: float) -> None:
        """Be due at `when`, sooner or later than before."""
        self.due = when
        if not self._entries or when < self._entries[-1]:
            self._entries.append(when)
            self._clock.put(self, when)

    def close(self) -> None:
        """Never call again, nor hold on to whom it called."""
        self._on_due = self._on_defect = None
        self.due = math.inf

    def came_up(self, now: float) -> None:
        """The soonest of the heap's entries has come up."""
        self._entries.pop()
        if self.due > now:
            if self._on_due is not None and self.due < math.inf:
                self.set(self.due)
        elif self._on_due is not None:
            self.due = math.inf
            try:
                self._on_due()
            except Exception:
                # A defect costs its own connection, and not all the others.
                log.exception("a timer failed")
                on_defect = self._on_defect
                self.close()
                if on_defect is not None:
                    on_defect()


class _Clock:
    """The event loop's heap of timers, and the task that waits for the first of them."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        """Of entries for the same moment."""
        self._sooner = trio.Event()

    def put(self, timer: Timer, when: float) -> None:
        if not self._heap or when < self._heap[0][0]:
            self._sooner.set()
        heapq.heappush(self._heap, (when, next(self._order), timer))

    async def run(self) -> None:
        heap = self._heap
        while True:
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                heapq.heappop(heap)[2].came_up(now)
            self._sooner = trio.Event()
            with trio.move_on_at(heap[0][0] if heap else math.inf):
                await self._sooner.wait()


def _started() -> _Clock:
    clock = _Clock()
    trio.lowlevel.spawn_system_task(clock.run)
    return clock


_clock_of_this_loop = RunLocal("tunnel_wire clock", _started)
