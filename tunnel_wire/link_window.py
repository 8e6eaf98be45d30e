"""How much DATA a link's peer may send ahead of our reading, on all streams together."""

from __future__ import annotations

from tunnel_wire.flow import CreditExceeded


class LinkWindow:
    """What a link's peer may send of DATA on all streams together before we have read it: a balance in bytes.

    It holds no memory of ours, only the kernel's. It grows where a round trip needs it and not otherwise:
    where reading is the limit, more would only wait longer, and every small write behind it. So the round
    trip to judge by is the least that the link has had: later ones contain that waiting.
    """

    __slots__ = ("_left", "_mark_time", "_most", "_read", "_spent", "size")

    def __init__(self, size: int, most: int, now: float) -> None:
        self.size = size
        self._most = most
        self._left = size
        self._spent = 0
        """Not given back yet."""
        self._read = 0
        """Since the mark."""
        self._mark_time = now

    def take(self, size: int, now: float, round_trip: float | None) -> int:
        """A DATA frame of this length comes, and counts as read.

        Returns credit to send in WINDOW_UPDATE, in eighths. Raises `CreditExceeded`.
        """
        if size > self._left:
            raise CreditExceeded(f"{size - self._left} bytes beyond the connection's window")
        self._left -= size
        self._spent += size
        if self._spent * 8 < self.size:
            return 0
        increment, self._spent = self._spent, 0
        self._read += increment
        if self._read >= self.size:
            if (
                round_trip is not None
                and now - self._mark_time < 2 * round_trip * self._read / self.size
                and 2 * self.size <= self._most
            ):
                increment += self.size
                self.size *= 2
            self._mark_time, self._read = now, 0
        self._left += increment
        return increment
