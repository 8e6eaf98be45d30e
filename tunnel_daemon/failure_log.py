"""Logging what fails again and again: at once when it is new, then ever more rarely."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_INTERVAL = 60.0  # seconds
LONGEST_INTERVAL = 3600.0  # seconds
MAX_KINDS = 64


class FailureLog:
    """Lines about one activity (reaching the server, dialling targets), each kind in its own rhythm.

    A kind is logged when it first appears, then at most after 1, 2, 4 ... minutes, up to `longest` seconds
    apart, with the number of times it happened meanwhile. An agent that is offline for a month writes some
    hundred lines, not millions.
    """

    def __init__(
        self,
        log: logging.Logger,
        clock: Callable[[], float] = trio.current_time,
        *,
        level: int = logging.WARNING,
        longest: float = LONGEST_INTERVAL,
    ) -> None:
        self._log = log
        self._clock = clock
        self._level = level
        self._longest = longest
        self._kinds: dict[str, _Kind] = {}

    def failed(self, kind: str, message: str) -> None:
        """Note one failure; `kind` tells it from others, `message` is what to log."""
        now = self._clock()
        known = self._kinds.get(kind)
        if known is None:
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            self._kinds[kind] = _Kind(now)
            self._log.log(self._level, "%s", message)
            return
        known.unlogged += 1
        if now >= known.next_at:
            since = now - known.logged_at
            text = "%s (%d times in the last %.0f s)"
            self._log.log(self._level, text, message, known.unlogged, since)
            known.logged(now, self._longest)

    def over(self) -> None:
        """Forget everything: the activity succeeded, and the next failure is news."""
        self._kinds.clear()


class _Kind:
    def __init__(self, now: float) -> None:
        self._interval = FIRST_INTERVAL
        self.unlogged = 0
        self.logged_at = now
        self.next_at = now + self._interval

    def logged(self, now: float, longest: float) -> None:
        self._interval = min(longest, self._interval * 2)
        self.unlogged = 0
        self.logged_at = now
        self.next_at = now + self._interval
