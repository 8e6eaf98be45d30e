"""What the garbage collector looks at in a process that holds much, for long.

A full collection stops everything while it looks at each container there is: with 10,000 links for over a
second. CPython begins one whenever a quarter as much as that has come and stayed; while agents come back,
that is a sixth of what the server does. So what survives one is set aside, and the next looks at what came
since.

What was set aside and is a cycle when it ends, as a link is, is not found so. All is looked at again when a
quarter as many links have ended as there are, and after many collections anyway.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_FULL = 2
"""The oldest generation."""
_LOOK_AT_ALL = 64
"""Every so many full collections, each of which follows 77,000 new containers at least."""


_ENDED = 256
"""Links that may end before all is looked at, however few there are: they hold 70 KiB each."""


class SetAside:
    """A callback for `gc.callbacks`."""

    def __init__(self) -> None:
        self._collections = 0
        self._ended = 0

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        """A collection begins or has ended."""
        if phase != "stop" or info["generation"] != _FULL:
            return
        self._collections += 1
        if self._collections % _LOOK_AT_ALL:
            gc.freeze()
        else:
            gc.unfreeze()

    def note_link_ended(self, left: int) -> None:
        """A link has ended, and `left` are there: once it is due, the next full collection looks at all."""
        self._ended += 1
        if self._ended >= max(_ENDED, left // 4):
            self._ended = 0
            gc.unfreeze()


_survivors = SetAside()
note_link_ended = _survivors.note_link_ended


def set_survivors_aside() -> None:
    """From now on, for as long as the process runs."""
    gc.callbacks.append(_survivors)
