"""How many dials are under way at once: in all, and to one target.

Dials wait in turn for a place, so that a burst is served and not refused. One target may take only a part of
the places: a dead one, with every caller in the cloud trying it, leaves room for the others.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SHARE = 4
"""One target gets one part in so many of the places."""


@dataclass(eq=False, slots=True)
class _Target:
    places: trio.CapacityLimiter
    users: int = 0


class DialPlaces:
    """Places for dials. Who waits for one is bounded by the streams that there may be."""

    def __init__(self, total: int) -> None:
        self._all = trio.CapacityLimiter(total)
        self._share = _share(total)
        self._targets: dict[tuple[str, int], _Target] = {}

    def change(self, total: int) -> None:
        """Have so many places from now on; who holds one keeps it, who waits takes what is new."""
        self._all.total_tokens = total
        self._share = _share(total)
        for target in self._targets.values():
            target.places.total_tokens = self._share

    @asynccontextmanager
    async def take(self, host: str, port: int) -> AsyncIterator[None]:
        """Hold a place for a dial to this target while the block runs. Cancelled, it is given back."""
        key = (host, port)
        target = self._targets.setdefault(key, _Target(trio.CapacityLimiter(self._share)))
        target.users += 1
        try:
            async with _place(target.places), _place(self._all):
                yield
        finally:
            target.users -= 1
            if not target.users:
                del self._targets[key]


def _share(total: int) -> int:
    return max(1, total // _SHARE)


@asynccontextmanager
async def _place(places: trio.CapacityLimiter) -> AsyncIterator[None]:
    """One of the places, at once if one is free: giving up the turn for each would double a dial's time."""
    try:
        places.acquire_nowait()
    except trio.WouldBlock:
        await places.acquire()
    try:
        yield
    finally:
        places.release()
