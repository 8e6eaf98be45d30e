"""How a spliced connection ended, and what went through."""

from dataclasses import dataclass
from enum import StrEnum


class End(StrEnum):
    """How a spliced connection ended."""

    FINISHED = "finished"
    LOCAL_RESET = "local-reset"
    """The socket's peer reset it, or went away."""
    REMOTE_RESET = "remote-reset"
    """The other end of the tunnel reset it."""
    LINK_LOST = "link-lost"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class SpliceResult:
    """What went through. Bytes are counted from the socket's point of view."""

    to_tunnel: int = 0
    from_tunnel: int = 0
    end: End = End.CANCELLED
    detail: str = ""
    """More about the end, for the log."""
