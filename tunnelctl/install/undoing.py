"""What a run has done so far, and taking it back, newest first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnel_server.kube.failures import ApiFailure
from tunnelctl.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Undoing:
    """The way back. Each entry is written down before the deed, so that a deed of unknown outcome has one."""

    tell: Callable[[str], None]
    _entries: list[tuple[str, Callable[[], str]]] = field(default_factory=list)

    def remember(self, what: str, undo: Callable[[], str]) -> None:
        """Note how to take back `what`; `undo` returns what it did, or "" if there was nothing to do.

        It raises ApiFailure, or CommandError with what it left.
        """
        self._entries.append((what, undo))

    def undo(self) -> list[str]:
        """Take everything back, and go on where something cannot be; returns what could not, a line each.

        Where nobody answers any more, or the user does not want to wait, the rest is not tried.
        """
        failed: list[str] = []
        while self._entries:
            what, undo = self._entries[-1]
            try:
                done = undo()
            except (ApiFailure, CommandError) as failure:
                self.tell(f"  could not take back: {what}: {failure}")
                if isinstance(failure, ApiFailure) and not failure.lasting:
                    return failed + self._rest()
                failed.append(f"{what}: {failure}")
            except KeyboardInterrupt:
                return failed + self._rest()
            else:
                if done:
                    self.tell(f"  {done}")
            self._entries.pop()
        return failed

    def _rest(self) -> list[str]:
        rest = [what for what, _ in reversed(self._entries)]
        self._entries.clear()
        return rest
