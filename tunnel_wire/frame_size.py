"""How large a link's frames are: what its path drains while a small write can wait.

What is encrypted can't be overtaken, and neither can what stands in the kernel. On a fast path large frames
save work; on a slow one they are seconds of waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnel_wire.flow import SEGMENT
from tunnel_wire.sockets import NOT_SENT_LOW_WATER, set_low_water

if TYPE_CHECKING:
    import socket

    from tunnel_wire.limits import WireLimits

_DRAIN_TIME: Final = 0.002
"""Seconds that a frame is to take to drain."""


class FrameSize:
    """The size to aim the next frame at, from how fast the kernel took the last ones. Times in seconds."""

    __slots__ = ("_blocked_since", "_limits", "_sock", "framed", "low_water", "target")

    def __init__(self, sock: socket.socket, limits: WireLimits) -> None:
        self._sock = sock
        self._limits = limits
        self.target = 4 * limits.min_frame
        """Bytes."""
        self.framed = 0
        """Bytes of the frames that are encrypted, or were last."""
        self.low_water = NOT_SENT_LOW_WATER
        """Unsent bytes below which the kernel calls."""
        self._blocked_since: float | None = None

    def note_taken(self) -> None:
        """The kernel took all at once."""
        if self.framed >= self.target:
            self._aim(2 * self.target)

    def note_blocked(self, now: float) -> None:
        """The kernel takes no more for now, and will call."""
        if self._blocked_since is None:
            self._blocked_since = now

    def note_called(self, now: float) -> None:
        """The kernel takes more: aim frames at what drains in `_DRAIN_TIME`, given how long the last took."""
        if self._blocked_since is None:
            return
        waited, self._blocked_since = now - self._blocked_since, None
        if waited > _DRAIN_TIME:
            self._aim(max(int(self.target * _DRAIN_TIME / waited), self.target // 4))
        elif waited < _DRAIN_TIME / 2:
            self.note_taken()

    def _aim(self, target: int) -> None:
        self.target = target = max(self._limits.min_frame, min(target, self._limits.max_frame))
        # What is below the mark drains while the next frame is made. With more than a frame, small writes
        # would wait for longer than `_DRAIN_TIME`; with less, a fast path would run dry before each call, and
        # a long one be taken for slow: BBR measures what it is given (tcp_rate.c: application-limited).
        low_water = max(NOT_SENT_LOW_WATER, min(target, SEGMENT))
        if low_water != self.low_water:
            self.low_water = low_water
            set_low_water(self._sock, low_water)
