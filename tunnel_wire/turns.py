"""How much one socket moves before others get theirs.

Long turns save work: each costs its wake-up, its calls, and cold caches. But whoever exchanges small messages
beside bulk waits for one of them at each hop, four times there and back. So turns are short while somebody
does.
"""

from __future__ import annotations

import math

from tunnel_wire.flow import SEGMENT
from tunnel_wire.run_local import RunLocal

SHORT = SEGMENT // 16
"""Bytes of a short turn. A long one is a segment."""
SMALL = 4096
"""Bytes below which a message is somebody's question, answer or keystroke rather than bulk."""
SENT, RECEIVED = 1, -1
"""Ways of a message: into the tunnel, and out of it."""
_LASTS = 0.1
"""Seconds that turns stay short after the last small message."""


class Turns:
    """One event loop's; get it by `turns_of_this_loop`. Times are in seconds."""

    __slots__ = ("_small_at", "size")

    def __init__(self) -> None:
        self.size = SEGMENT
        """Bytes of a turn, as whoever moved bulk last has found it: without bulk it makes no difference."""
        self._small_at = -math.inf

    def note_small(self, now: float) -> None:
        """A small message is on its way, in answer to another one."""
        self._small_at = now

    def note_bulk(self, now: float) -> None:
        """Something larger is: find out how long turns are to be."""
        self.size = SHORT if now < self._small_at + _LASTS else SEGMENT


turns_of_this_loop = RunLocal("tunnel_wire turns", Turns)
"""Those of the running event loop."""


class Messages:
    """One stream's messages, both ways: it tells whether small ones answer each other."""

    __slots__ = ("_last_small", "_turns")

    def __init__(self) -> None:
        self._turns = turns_of_this_loop()
        self._last_small = 0
        """Which way the last message went, if it was small."""

    def note(self, way: int, size: int, now: float) -> None:
        """A message of `size` bytes was SENT or RECEIVED."""
        if size >= SMALL:
            self._last_small = 0
            return
        # One alone may be a request for bulk, or what a read has left of it; several, a log that is followed.
        if self._last_small == -way:
            self._turns.note_small(now)
        self._last_small = way
