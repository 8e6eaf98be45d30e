"""What the agent knows about itself: filled in by supervisor and dialer, shown by health."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiting(NamedTuple):
    """Streams whose link was lost."""

    streams: int = 0
    pooled: int = 0
    """Of these, those that many requests share."""
    server: str = ""
    """For which they wait though another one answers."""


@dataclass(slots=True)
class AgentStatus:
    """Times are seconds since the epoch, for people; nothing is decided by them."""

    version: str
    node: str = ""
    started: float = field(default_factory=time.time)
    server: str = ""
    """The server that the link leads to, while there is one."""
    linked_since: float | None = None
    links: int = 0
    """Links that came up since the start."""
    last_failure: str = ""
    last_failure_at: float | None = None
    dialling: int = 0
    """Dials to targets going on now."""
    streams: int = 0
    """Connections to targets open now."""
    opened: int = 0
    """Connections to targets opened since the start."""
    refused: Counter[str] = field(default_factory=Counter)
    """Streams refused since the start, by cause."""
    waiting: Callable[[], Waiting] = Waiting
    """What waits for a link now."""
    names: Callable[[], dict[str, Any]] = dict
    """Of the names that the agent dials by itself: where they lead, and whether DNS answers."""
    lookups: Callable[[], int] = int
    """Threads that ask DNS now, also those that nobody waits for any more."""

    def linked(self, server: str) -> None:
        """A link to `server` is up."""
        self.server = server
        self.linked_since = time.time()
        self.links += 1

    def unlinked(self) -> None:
        """The link has ended."""
        self.server = ""
        self.linked_since = None

    def failed(self, text: str) -> None:
        """The server was not reached, or the link was lost."""
        self.last_failure = text
        self.last_failure_at = time.time()
