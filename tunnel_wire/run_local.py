"""What an event loop has one of, made when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class RunLocal(Generic[T]):
    """Call it for the one of the running `trio.run`. Raises RuntimeError outside of trio."""

    __slots__ = ("_make", "_var")

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        self._var: trio.lowlevel.RunVar[T] = trio.lowlevel.RunVar(name)
        self._make = make

    def __call__(self) -> T:
        """The one of the running event loop."""
        try:
            return self._var.get()
        except LookupError:
            made = self._make()
            self._var.set(made)
            return made
