"""Token buckets over a clock that is passed in."""


class Allowance:
    """`burst` events at once, `rate` a second in the long run."""

    __slots__ = ("_burst", "_left", "_rate", "_when")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._when = now

    def spend(self, now: float, cost: float = 1) -> bool:
        """Count an event worth `cost` at `now`; false when it is too many."""
        self._left = min(self._burst, self._left + (now - self._when) * self._rate)
        self._when = now
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def left(self, now: float) -> float:
        """How much may be spent at `now`."""
        return min(self._burst, self._left + (now - self._when) * self._rate)
