"""The streams of a session that wait to go on: without a link, or asked for by one and not answered yet. No
I/O, no clock.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnel_wire.flow import Budget
    from tunnel_wire.session import Stream


class Suspended:
    """Streams and when they expire; their memory can be reclaimed, of the longest suspended first."""

    __slots__ = ("_budget", "_due", "_longer", "_pooled_grace", "grace")

    def __init__(self, budget: Budget, pooled_grace: float) -> None:
        self._budget = budget
        self._pooled_grace = pooled_grace
        """Seconds for a stream that many requests share."""
        self._longer = 0.0
        """Seconds that streams are held here beyond their grace."""
        self._due: dict[Stream, float] = {}
        self.grace = 0.0
        """Seconds that a stream may be here from now on; 0: none is suspended, they end with their link."""

    def set_graces(self, grace: float, pooled_grace: float, *, longer: float) -> None:
        """The other end lets streams expire, after these seconds; here they are held so much `longer`."""
        self.grace, self._pooled_grace, self._longer = grace, pooled_grace, longer

    def add(self, stream: Stream, now: float, reclaim: Callable[[], None]) -> None:
        """Its link is gone. `reclaim` closes it when its memory is needed.

        One that is here already has waited since it first came, however many links have asked for it.
        """
        if stream not in self._due:
            grace = min(self._pooled_grace, self.grace) if stream.is_pooled else self.grace
            self._due[stream] = now + grace + self._longer
            self._budget.reclaimable[stream] = reclaim

    def discard(self, stream: Stream) -> None:
        """It goes on, or is closed. Nothing happens if it was not here."""
        if self._due.pop(stream, None) is not None:
            del self._budget.reclaimable[stream]

    def __contains__(self, stream: object) -> bool:
        return stream in self._due

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._due)

    def __len__(self) -> int:
        return len(self._due)

    def next_due(self) -> float:
        """When the first has been here for its grace."""
        return min(self._due.values(), default=math.inf)

    def awaited(self) -> list[Stream]:
        """Those that somebody waits for. The others may be resumed, and are worth nothing else."""
        return [stream for stream in self._due if stream.is_awaited]

    def kept_until(self) -> float:
        """When the last that somebody waits for has been here for its grace; -inf if there is none.

        Whoever decides by it has given them all up then.
        """
        return max((self._due[stream] for stream in self.awaited()), default=-math.inf) - self._longer

    def due(self, now: float) -> list[Stream]:
        """Those that have been here for their grace."""
        return [stream for stream, due in self._due.items() if now >= due]
