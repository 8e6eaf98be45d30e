"""Sessions and their streams, apart from the links that carry them. No I/O, no clock, no trio.

A session is what one agent process and one server process share; it owns the streams, by key. A connection
(`connection.py`) carries their frames while they are attached to it. In this version streams end with
their link; what resumption needs (keys, epochs, absolute offsets, kept bytes) is owned here already.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.flow import Budget, Buffer, Incoming, Outgoing, SegmentPool
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import new_id
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits

if TYPE_CHECKING:
    from tunnel_wire.carrier import Carrier


class State(Enum):
    """Where a stream is in its life. The two directions' ends are in their ledgers."""

    OPENING = auto()
    OPEN = auto()
    CLOSED = auto()


class EndCause(Enum):
    """How a stream came to be closed."""

    FINISHED = "both directions ended"
    REFUSED = "the open was refused"
    PEER_RESET = "reset by the other end of the tunnel"
    LOCAL_RESET = "reset at this end of the tunnel"
    PROTOCOL = "the other end of the tunnel broke the protocol"
    LINK_LOST = "the link was lost"


class StreamFace(Protocol):
    """What a stream's user is told, synchronously, from within the link's reader or pump."""

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


class Stream:
    """One tunnelled connection as the protocol sees it."""

    __slots__ = (
        "abandoned",
        "connection",
        "end_cause",
        "epoch",
        "face",
        "host",
        "incoming",
        "key",
        "outgoing",
        "pending_reset",
        "port",
        "refusal",
        "reset_code",
        "scheduled",
        "session",
        "state",
        "stream_id",
    )

    def __init__(self, session: Session, key: int, host: str, port: int) -> None:
        self.session = session
        self.key = key
        self.epoch = 1
        self.host = host
        self.port = port
        self.state = State.OPENING
        self.outgoing = Outgoing(session.budget, session.pool, session.limits)
        self.incoming = Incoming(session.budget, session.limits)
        self.connection: Carrier | None = None
        self.stream_id = 0
        self.face: StreamFace | None = None
        self.refusal: OpenFailed | None = None
        self.end_cause: EndCause | None = None
        self.reset_code: int | None = None
        self.pending_reset: int | None = None
        """Code of a reset that waits for the data before it."""
        self.abandoned = False
        """The user has closed it: further data is answered with a reset."""
        self.scheduled = False
        """Stands in its connection's turn-taking."""

    def room(self) -> int:
        """Bytes that `write` takes now."""
        outgoing = self.outgoing
        if self.state is not State.OPEN or outgoing.end is not None or self.pending_reset is not None:
            return 0
        return outgoing.room()

    def write(self, data: Buffer, segment: bytearray | None = None) -> None:
        """Queue at most `room()` bytes; they must not change until the peer has received them."""
        self.outgoing.write(data, segment)
        if self.connection is not None:
            self.connection.schedule(self)

    def write_end(self) -> None:
        """End this direction, after what was written."""
        if self.state is not State.OPEN or self.outgoing.end is not None or self.pending_reset is not None:
            return
        self.outgoing.end = self.outgoing.written
        if self.connection is not None:
            self.connection.schedule(self)

    def consume(self, size: int, now: float) -> None:
        """The user took `size` received bytes: they become credit."""
        connection = self.connection
        if connection is None or self.state is State.CLOSED:
            # What is left of a stream that has gone: nobody waits for credit, and its memory was given back.
            self.incoming.consumed += size
            return
        increment = self.incoming.consume(size, now, connection.round_trip)
        if increment:
            connection.grant(self, increment, now)
        if self.incoming.end is not None:
            self.finish_if_done()

    def reset(self, code: int, cause: EndCause = EndCause.LOCAL_RESET) -> None:
        """End the stream at once, both ways. What was queued to send is dropped."""
        if self.state is State.CLOSED:
            return
        if self.connection is not None:
            self.connection.reset_stream(self, code)
        self.reset_code = code
        self.close(cause)

    def reset_behind_data(self, code: int, now: float) -> None:
        """Reset once what was written has been framed, or after `reset_behind_data` seconds."""
        if self.state is not State.OPEN or self.connection is None or not self.outgoing.queued:
            self.reset(code)
            return
        self.pending_reset = code
        self.connection.set_deadline(self, now + self.session.limits.reset_behind_data)

    def abandon(self, now: float) -> None:
        """The user closes it: ends this direction, and takes no more data (as close() does for TCP)."""
        if self.state is State.CLOSED:
            return
        self.abandoned = True
        self.face = None
        if self.pending_reset is not None:
            return
        if self.state is State.OPENING or self.incoming.queued:
            self.reset(ErrorCode.CANCEL)
            return
        self.write_end()
        if self.connection is not None:
            self.connection.set_deadline(self, now + self.session.limits.linger)

    def flush(self) -> None:
        """Have the link send what is due now. Call it after a batch of the methods above."""
        if self.connection is not None:
            self.connection.output_ready()

    def finish_if_done(self) -> None:
        """Close the stream if both directions are at their end and nothing is kept for them."""
        if self.outgoing.end_acknowledged and self.incoming.end is not None and not self.incoming.queued:
            self.close(EndCause.FINISHED)

    def close(self, cause: EndCause) -> None:
        """Leave the session. The user may still drain `incoming.queue`."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.end_cause = cause
        self.outgoing.discard()
        self.session.forget(self)
        if self.connection is not None:
            # It stays known: a reset that was queued there still has to be flushed.
            self.connection.detach(self)


class Session:
    """The streams that one agent process and one server process share."""

    def __init__(
        self,
        *,
        budget: Budget,
        limits: WireLimits = DEFAULT_LIMITS,
        pool: SegmentPool | None = None,
        identifier: str | None = None,
        first_key: int = 1,
        share: float = 1.0,
    ) -> None:
        self.identifier = identifier or new_id()
        """128 random bits, hex; never logged."""
        self.budget = budget
        self.limits = limits
        self.pool = pool or SegmentPool()
        self.streams: dict[int, Stream] = {}
        self._next_key = first_key
        self._share = share
        """Part of the budget that this session's streams may take for their floors."""

    def new_stream(self, host: str, port: int, key: int | None = None) -> Stream:
        """A stream with its floor of memory reserved. Raises `OpenFailed` (no-room)."""
        if len(self.streams) >= self.limits.max_streams:
            raise OpenFailed(Cause.NO_ROOM, f"{self.limits.max_streams} streams are open already")
        if (len(self.streams) + 1) * self._floor > self.budget.total * self._share:
            raise OpenFailed(Cause.NO_ROOM, "this node's share of the memory budget is used up")
        if not self.budget.reserve(self._floor):
            raise OpenFailed(Cause.NO_ROOM, "the memory budget for streams is used up")
        if key is None:
            key = self._next_key
            self._next_key += 1
        stream = Stream(self, key, host, port)
        self.streams[key] = stream
        return stream

    @property
    def _floor(self) -> int:
        return self.limits.initial_window + self.limits.kept_floor

    def forget(self, stream: Stream) -> None:
        """The stream is closed: its key and its memory are free."""
        del self.streams[stream.key]
        self.budget.release(self._floor + stream.incoming.window - self.limits.initial_window)

    def end_streams(self, connection: Carrier) -> list[Stream]:
        """The link is gone: its streams end with it. Returns them; their users are to be told."""
        lost = [stream for stream in self.streams.values() if stream.connection is connection]
        for stream in lost:
            stream.connection = None
            stream.close(EndCause.LINK_LOST)
        return lost
