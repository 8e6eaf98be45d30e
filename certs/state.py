"""What keeps the server's state: named files, changed together or not at all.

`certs.files.StateDirectory` is one such place, for a server that stands alone. The stores know no more of it
than this. Standard library only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Change(Protocol):
    """A change that is open; made by `State.change`, and valid inside it."""

    def write(self, files: Mapping[str, bytes], remove: Iterable[str] = ()) -> None:
        """Replace all of `files` (name to contents) and remove others, or nothing of it; raises StateError.

        Once in a change, and the last thing in it that has an effect.
        """

    def fill(self, files: Mapping[str, bytes]) -> Sequence[str]:
        """Write `files` to a place that has none; raises StateNotEmptyError if it has.

        Returns the names of those that such a place does not keep.
        """


class State(Protocol):
    """Safe for several threads and several processes. Everything blocks and raises `certs.files.StateError`.

    `str()` is the place as a message names it.
    """

    def place(self, name: str) -> str:
        """Return where the file `name` is, as a message names it."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""

    def exists(self, name: str) -> bool:
        """Whether there is a file `name`."""

    def read(self, name: str) -> bytes:
        """Return one file, always a whole version of it."""

    def read_secret(self, name: str) -> bytes:
        """Return a key; raises StateError also if others may read it."""

    def version(self, *names: str) -> object:
        """Return what differs from before when one of the files was changed; cheap, and raises nothing.

        Good enough for a look: a change within the same tick of a clock can stay hidden.
        """

    def change(self, body: Callable[[Change], Result]) -> Result:
        """Return what `body` does with the files to itself: what it reads stays true until it has written.

        Where that cannot be had by keeping others out, `body` is run again when somebody else was faster: it
        decides by what it reads in this run, and has no effect but by the change. Not re-entrant.
        """
