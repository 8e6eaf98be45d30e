"""Connections that callbacks carry, and who ends them: what a nursery is to tasks.

A task for each connection is a fifth of what a short one costs: spawning, scopes,
and a switch for each thing waited for. What needs no task still must not outlive what it belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Owned(Protocol):
    """A connection without a task."""

    def cut(self) -> None:
        """End it now, as cancelling its task would. It must not raise."""


class Owner:
    """Owns connections until they end. `run` it in the nursery given: cancelled with that, it cuts them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._owned: set[Owned] = set()
        self._closed = self._over = False
        self._empty = trio.Event()

    async def run(self) -> None:
        """Wait until `close` was called and the last of them has ended. Cancelled, cut all there are and
        will be.
        """
        try:
            while self._owned or not self._closed:
                # One that is discarded may have been replaced since.
                self._empty = trio.Event()
                await self._empty.wait()
        finally:
            self._over = True
            for each in list(self._owned):
                each.cut()

    def close(self) -> None:
        """No more will come."""
        self._closed = True
        if not self._owned:
            self._empty.set()

    def add(self, each: Owned) -> None:
        """Own it; it is cut at once if this has ended."""
        self._owned.add(each)
        if self._over:
            each.cut()

    def discard(self, each: Owned) -> None:
        """It has ended, or a task has it."""
        self._owned.discard(each)
        if self._closed and not self._owned:
            self._empty.set()

    def start_soon(self, function: Callable[[], Awaitable[None]]) -> None:
        """What does need a task, in the nursery."""
        self._nursery.start_soon(function)
