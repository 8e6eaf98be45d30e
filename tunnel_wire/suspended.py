"""The streams of a session that have no link, and for how long they may wait for one. No I/O, no clock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnel_wire.flow import Budget
    from tunnel_wire.session import Stream


class Suspended:
    """Streams and since when they have had no link, the longest first. Their memory can be reclaimed."""

    __slots__ = ("_budget", "_pooled_grace", "_since", "grace")

    def __init__(self, budget: Budget, pooled_grace: float) -> None:
        self._budget = budget
        self._pooled_grace = pooled_grace
        """Seconds for a stream that many requests share."""
        self._since: dict[Stream, float] = {}
        self.grace = 0.0
        """Seconds that a stream may be here; 0: none is suspended, they end with their link."""

    def add(self, stream: Stream, now: float, reclaim: Callable[[], None]) -> None:
        """Its link is gone. `reclaim` closes it when its memory is needed."""
        self._since[stream] = now
        self._budget.reclaimable[stream] = reclaim

    def discard(self, stream: Stream) -> None:
        """It has a link again, or is closed. Nothing happens if it was not here."""
        if self._since.pop(stream, None) is not None:
            del self._budget.reclaimable[stream]

    def __contains__(self, stream: object) -> bool:
        return stream in self._since

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._since)

    def __len__(self) -> int:
        return len(self._since)

    def next_due(self) -> float:
        """When the first has been here for its grace."""
        return min(
            (since + self._grace_of(stream) for stream, since in self._since.items()), default=math.inf
        )

    def due(self, now: float) -> list[Stream]:
        """Those that have been here for their grace."""
        return [stream for stream, since in self._since.items() if now >= since + self._grace_of(stream)]

    def _grace_of(self, stream: Stream) -> float:
        return min(self._pooled_grace, self.grace) if stream.is_pooled else self.grace
