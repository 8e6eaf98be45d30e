"""One task at a time in one half of a stream: trio's contract for streams, which keeps its own check
private.
"""

from types import TracebackType

import trio


class Exclusive:
    """`with` it around what only one task may do; another that tries gets BusyResourceError."""

    __slots__ = ("_busy", "_message")

    def __init__(self, message: str) -> None:
        self._message = message
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(self._message)
        self._busy = True

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._busy = False
