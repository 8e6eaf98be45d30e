"""How long to wait before the next try: exponential back-off with full jitter."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def full_jitter(
    minimum: float, maximum: float, uniform: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """Yield delays in seconds, without end: anything from 0 to a ceiling that doubles from minimum to
    maximum.

    Full jitter, because what ends one agent's link (a server restarted, a line cut) ends thousands, and one
    that waited "about as long as the others" would meet all of them again. Each outage takes a generator of
    its own.
    """
    ceiling = minimum
    while True:
        yield uniform(0.0, ceiling)
        ceiling = min(maximum, ceiling * 2)
