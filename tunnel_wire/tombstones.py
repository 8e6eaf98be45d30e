"""How streams ended that the peer may still ask for (spec.md, 7.4)."""

from __future__ import annotations

from tunnel_wire.causes import Cause, OpenFailed

_KEPT = 4096
"""The oldest beyond are forgotten. The peer asks only for what ended in the last moments of a link: later it
knows.
"""


class Tombstones:
    """The answers for streams that are closed, by key."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        # Not the exceptions themselves: with the traceback each would keep its stream alive.
        self._answers: dict[int, tuple[Cause, str]] = {}

    def add(self, key: int, refusal: OpenFailed | None, *, finished: bool) -> None:
        """A stream was refused, has finished, or else was reset."""
        if refusal is not None:
            self._answers[key] = refusal.cause, refusal.detail
        else:
            self._answers[key] = _ENDED if finished else _RESET
        if len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]

    def get(self, key: int) -> OpenFailed | None:
        """What to answer to who asks for this stream; None if nothing is known of it."""
        answer = self._answers.get(key)
        return None if answer is None else OpenFailed(*answer)


_ENDED = Cause.ENDED, "both directions of the stream have ended"
_RESET = Cause.RESET, "the stream was reset"
