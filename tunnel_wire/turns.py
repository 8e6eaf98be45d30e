"""How much one socket moves before others get their turn.

Long turns save work: each costs its wake-up, its calls, and cold caches. But whoever exchanges small messages
beside bulk waits for one of them at each hop, four times there and back. So turns are short while somebody
does, on any stream of the process.
"""

from __future__ import annotations

import math
from typing import Final

from tunnel_wire.flow import SEGMENT
from tunnel_wire.run_local import RunLocal

SHORT: Final = SEGMENT // 16
"""Bytes of a short turn. A long one is a segment."""
SMALL: Final = 4096
"""Bytes below which a message is somebody's question, answer or keystroke rather than bulk."""
SENT: Final = 1
"""The way of a message into the tunnel."""
RECEIVED: Final = -1
"""And out of it."""
_LASTS: Final = 0.02
"""Seconds that turns stay short after the last small message. Whoever comes back later has a line that is
slower than any turn, or is not in a hurry.
"""
_BULK_LASTS: Final = 0.1
"""Seconds for which a stream that has carried bulk is one of bulk."""


class Turns:
    """One event loop's; get it by `turns_of_this_loop`. Times are in seconds."""

    __slots__ = ("size", "small_at")

    def __init__(self) -> None:
        self.size = SEGMENT
        """Bytes of a turn, as whoever moved bulk last has found it: without bulk it makes no difference."""
        self.small_at = -math.inf
        """When a small message last answered another one."""

    def note_bulk(self, now: float) -> None:
        """Something larger is: find out how long turns are to be."""
        self.size = SHORT if now < self.small_at + _LASTS else SEGMENT


turns_of_this_loop = RunLocal("tunnel_wire turns", Turns)
"""Those of the running event loop."""


class Messages:
    """One stream's messages, both ways: it tells whether small ones answer each other."""

    __slots__ = ("_bulk_at", "_last_small", "_turns")

    def __init__(self) -> None:
        self._turns = turns_of_this_loop()
        self._bulk_at = -math.inf
        self._last_small = 0
        """Which way the last message went, if it was small."""

    def note(self, way: int, size: int, now: float) -> None:
        """A message of `size` bytes was SENT or RECEIVED."""
        if size >= SMALL:
            self._last_small, self._bulk_at = 0, now
        # Bulk has small messages of its own: what a read has left of it, and what acknowledges it.
        elif now >= self._bulk_at + _BULK_LASTS:
            # One alone may be a request for bulk; several, a log that is followed.
            if self._last_small == -way:
                self._turns.small_at = now
            self._last_small = way
