"""How streams ended that the peer may still ask for (spec.md, 7.4)."""

from __future__ import annotations

from typing import Final

from tunnel_wire.causes import Cause, OpenFailed

_GENERATION: Final = 2048
"""So many of the last are known, and up to as many before them. The peer asks only for what ended in the last
moments of a link: later it knows.
"""


class Tombstones:
    """The answers for streams that are closed, by key."""

    __slots__ = ("_former", "_latest", "_moved")

    def __init__(self) -> None:
        # Not the exceptions themselves: with the traceback each would keep its stream alive.
        self._latest: dict[int, tuple[Cause, str]] = {}
        # Forgotten as a whole. To take the oldest key out of one dict, Python passes over all that were taken
        # before: 2 us for each stream that ends.
        self._former: dict[int, tuple[Cause, str]] = {}
        self._moved: Tombstones | None = None
        """Of streams that had several links. On a former one the first CONNECT may still be on its way, with
        what the caller said: however many others have ended since, no target is to hear that twice.
        """

    def add(self, key: int, refusal: OpenFailed | None, *, finished: bool, moved: bool = False) -> None:
        """A stream was refused, has finished, or else was reset. It has `moved` if it had several links."""
        if moved:
            if self._moved is None:
                self._moved = Tombstones()
            self._moved.add(key, refusal, finished=finished)
            return
        if len(self._latest) >= _GENERATION:
            self._former, self._latest = self._latest, {}
        if refusal is not None:
            self._latest[key] = refusal.cause, refusal.detail
        else:
            self._latest[key] = _ENDED if finished else _RESET

    def get(self, key: int) -> OpenFailed | None:
        """What to answer to who asks for this stream; None if nothing is known of it."""
        answer = self._latest.get(key) or self._former.get(key)
        if answer is None and self._moved is not None:
            return self._moved.get(key)
        return None if answer is None else OpenFailed(*answer)


_ENDED: Final = Cause.ENDED, "both directions of the stream have ended"
_RESET: Final = Cause.RESET, "the stream was reset"
