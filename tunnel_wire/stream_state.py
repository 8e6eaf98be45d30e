"""Where a stream of a session is in its life, how it came to its end, and what its user is told of both."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol


class State(Enum):
    """Where a stream is in its life. The two directions' ends are in their ledgers."""

    OPENING = auto()
    OPEN = auto()
    SUSPENDED = auto()
    """It was open, and has no link."""
    ASKED = auto()
    """It was open, and a link has asked for it: the agent has yet to say what it has of it."""
    ENDED = auto()
    """Both directions have ended, as both ends know without a link; what came has yet to be delivered."""
    CLOSED = auto()


class EndCause(Enum):
    """How a stream came to be closed."""

    FINISHED = "both directions ended"
    REFUSED = "the open was refused"
    PEER_RESET = "reset by the other end of the tunnel"
    LOCAL_RESET = "reset at this end of the tunnel"
    PROTOCOL = "the other end of the tunnel broke the protocol"
    LINK_LOST = "the link was lost"
    STOPPED = "this end of the tunnel was stopped"
    EXPIRED = "the link was lost, and no other came in time"
    UNANSWERED = "the link was lost, and the agent did not say in time whether it still has the stream"
    RECLAIMED = "the link was lost, and its memory was needed"
    AGENT_ANEW = "the link was lost, and the agent was started anew"
    SERVER_ANEW = "the link was lost, and the next one led to another server, or to one that was started anew"
    SERVER_LEFT = "the link was lost, and the server was stopped or replaced"
    FORGOTTEN = "the link was lost, and the node was forgotten"
    REVOKED = "the link was lost, and its certificate was revoked"


LOST = frozenset(
    {
        EndCause.LINK_LOST,
        EndCause.STOPPED,
        EndCause.EXPIRED,
        EndCause.UNANSWERED,
        EndCause.RECLAIMED,
        EndCause.AGENT_ANEW,
        EndCause.SERVER_ANEW,
        EndCause.SERVER_LEFT,
        EndCause.FORGOTTEN,
        EndCause.REVOKED,
    }
)
"""What a stream's user calls a lost link."""


class StreamFace(Protocol):
    """What a stream's user is told, synchronously, from within the link's reader or pump.

    As with `FrameSink`, inheriting from it is quicker, and not needed.
    """

    __slots__ = ()

    def on_answer(self) -> None:
        """Our CONNECT was answered."""

    def on_data(self, data: memoryview) -> None:
        """Payload came. It must be sent on, or copied into `incoming.queue`, before this returns."""

    def on_end(self) -> None:
        """The peer's direction has ended."""

    def on_reset(self) -> None:
        """The stream is gone: `stream.end_cause`."""

    def on_room(self) -> None:
        """`stream.room()` may have grown."""
