"""What the garbage collector looks at in a process that holds much, for long.

A full collection stops everything while it looks at each container there is: with 10,000 links for over a
second. CPython begins one whenever a quarter as much as that has come and stayed; while agents come back,
that is a sixth of what the server does. So what survives one is set aside, and the next looks at what came
since.

Reference counts free what ends: a link leaves nothing for the collector. What was set aside and is a cycle
when it ends is found when all is looked at again, after as many objects as tens of thousands of links have.
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


class SetAside:
    """A callback for `gc.callbacks`."""

    def __init__(self) -> None:
        self._collections = 0

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        """A collection begins or has ended."""
        if phase != "stop" or info["generation"] != _FULL:
            return
        self._collections += 1
        if self._collections % _LOOK_AT_ALL:
            gc.freeze()
        else:
            gc.unfreeze()


def set_survivors_aside() -> None:
    """From now on, for as long as the process runs."""
    gc.callbacks.append(SetAside())
