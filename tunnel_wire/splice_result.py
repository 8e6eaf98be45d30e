"""How a spliced connection ended, and what went through."""

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


class SpliceResult:
    """What went through. Bytes are counted from the socket's point of view."""

    __slots__ = ("detail", "end", "from_tunnel", "to_tunnel")

    def __init__(self) -> None:
        self.to_tunnel = 0
        self.from_tunnel = 0
        self.end = End.CANCELLED
        self.detail = ""
        """More about the end, for the log."""
