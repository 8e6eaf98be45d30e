"""Sessions and their streams, apart from the links that carry them. No I/O, no clock, no trio.

A session is what one agent process and one server process share; it owns the streams, by key. A connection
(`connection.py`) carries their frames while they are attached to it. Between two links they are suspended
(spec.md, 7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.flow import Budget, Buffer, Incoming, Outgoing, SegmentPool
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import new_id
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.stream_state import EndCause, State
from tunnel_wire.suspended import Suspended

if TYPE_CHECKING:
    from tunnel_wire.answerer import AnswererConnection
    from tunnel_wire.carrier import Carrier
    from tunnel_wire.flow import Segment
    from tunnel_wire.stream_state import StreamFace
    from tunnel_wire.tombstones import Tombstones


class Stream:
    """One tunnelled connection as the protocol sees it."""

    __slots__ = (
        "abandoned",
        "connection",
        "end_came",
        "end_cause",
        "epoch",
        "face",
        "host",
        "incoming",
        "is_pooled",
        "key",
        "left",
        "optimistic",
        "outgoing",
        "pending_reset",
        "port",
        "refusal",
        "reset_code",
        "resumable",
        "scheduled",
        "sent_before_end",
        "session",
        "state",
        "stream_id",
    )

    def __init__(self, session: Session, key: int, host: str, port: int) -> None:
        self.session = session
        self.key = key
        self.epoch = 1
        """One higher on each link that it comes to (spec.md, 5.1): what was asked on a former one is known by
        it.
        """
        self.host = host
        self.port = port
        self.state = State.OPENING
        self.outgoing = Outgoing(session.budget, session.pool, session.limits)
        self.incoming = Incoming(session.budget, session.limits)
        self.connection: Carrier | None = None
        self.stream_id = 0
        self.face: StreamFace | None = None
        """Who is told of what comes; None before there is somebody, and once its user has closed it."""
        self.refusal: OpenFailed | None = None
        self.end_cause: EndCause | None = None
        self.reset_code: int | None = None
        self.pending_reset: int | None = None
        """Code of a reset that waits for the data before it."""
        self.abandoned = False
        """The user has closed it: further data is answered with a reset."""
        self.scheduled = False
        """Stands in its connection's turn-taking."""
        self.resumable = False
        """Both ends will resume it when its link is lost."""
        self.optimistic = False
        """The opener's, opening on its first link: data may go before the answer."""
        self.is_pooled = False
        """Many requests share it: each new one would wait with it for the next link."""
        self.end_came = False
        """The peer has ended its direction, on this link."""
        self.sent_before_end = 0
        """Bytes that had been sent when the peer ended its direction."""
        self.left: tuple[tuple[Carrier, int], ...] = ()
        """Living links that it was taken from, with its ids there, until the peer is known to agree."""

    @property
    def is_awaited(self) -> bool:
        """Whether it still matters to somebody: not if all that is missing is the receipt of an end.

        A peer's user that has ended its direction may wait for what was sent since then. One that ended it
        last, behind everything from here, has most likely closed.
        """
        if self.face is not None or self.incoming.end is None:
            return True
        return self.outgoing.written > self.sent_before_end

    @property
    def only_delivers(self) -> bool:
        """Whether it can do without a link: both directions have ended, as far as is known here, and its own
        end was received, or is awaited by nobody.

        The opening end waits for receipt: a caller's clean end says that the target has everything. A target
        asks for nothing more once both have ended.
        """
        if self.incoming.end is None or not self.outgoing.end_sent or self.pending_reset is not None:
            return False
        return self.outgoing.end_acknowledged or self.session.tombstones is not None

    def room(self) -> int:
        """Bytes that `write` takes now; memory for them is reserved (`Outgoing.room`)."""
        outgoing = self.outgoing
        if self.state is not State.OPEN and not self.optimistic:
            return 0
        if outgoing.end is not None or self.pending_reset is not None:
            return 0
        return outgoing.room()

    def write(self, data: Buffer, segment: Segment | None = None) -> None:
        """Queue at most `room()` bytes; they must not change until the peer has received them."""
        self.outgoing.write(data, segment)
        if self.connection is not None:
            self.connection.schedule(self)

    def write_end(self) -> None:
        """End this direction, after what was written."""
        if self.state not in _TOUCHABLE or self.outgoing.end is not None or self.pending_reset is not None:
            return
        self.outgoing.end = self.outgoing.written
        if self.connection is not None:
            self.connection.schedule(self)

    def consume(self, size: int, now: float) -> None:
        """The user took `size` received bytes: they become credit."""
        connection = self.connection
        if connection is None or self.state is State.CLOSED:
            # What is left of a stream that has gone: nobody waits for credit, and its memory was given back.
            # Or one without a link: the next begins with what is owed.
            self.incoming.consumed += size
            if self.state is not State.CLOSED and self.incoming.end is not None:
                self.finish_if_done()
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
        if self.connection is not None and self.state is State.OPEN:
            self.connection.set_deadline(self, now + self.session.limits.linger)

    def flush(self) -> None:
        """Have the link send what is due now. Call it after a batch of the methods above."""
        if self.connection is not None:
            self.connection.output_ready()

    def opened(self) -> None:
        """The CONNECT was answered: data may go both ways."""
        self.state = State.OPEN
        self.optimistic = False

    def suspend(self, now: float) -> None:
        """The link is gone, and the next has yet to come."""
        self.optimistic = False
        if self.state is not State.OPENING:
            self.state = State.SUSPENDED
        self.connection = None
        self.scheduled = False
        self.session.suspended.add(self, now, self._reclaim)

    def ask(self, now: float) -> None:
        """A link is about to ask for it. Until the answer it waits on, from when it lost its first link.

        One that was opening waits for its target to be dialled: that is its user's to bear, as without a
        loss.
        """
        if self.state is State.OPENING:
            self.session.suspended.discard(self)
        else:
            self.state = State.ASKED
            self.session.suspended.add(self, now, self._reclaim)

    def resume(self, received: int, limit: int) -> bool:
        """The peer has received so much, and takes more within `limit`: as `Outgoing.resume`."""
        if not self.outgoing.resume(received, limit):
            return False
        self.session.suspended.discard(self)
        if self.state is not State.OPENING:
            self.state = State.OPEN
        return True

    def settled(self) -> None:
        """The peer has let go of the links that it was taken from, or nothing depends on it any more."""
        left, self.left = self.left, ()
        for carrier, stream_id in left:
            if carrier.returned(stream_id):
                carrier.output_ready()

    def lose(self, cause: EndCause) -> None:
        """Close it, and tell its user. The peer finds out by itself, or on the link that asks for it."""
        face, asking = self.face, self.connection
        if asking is not None:
            asking.reset_stream(self, ErrorCode.CANCEL)
        self.close(cause)
        if asking is not None:
            asking.output_ready()
        if face is not None:
            face.on_reset()

    def finish(self) -> None:
        """Without a link, both ends know that both directions have ended: deliver what came."""
        self.session.suspended.discard(self)
        if self.connection is not None:
            self.connection.let_go(self)
        self.state = State.ENDED
        self.outgoing.finish()
        self.finish_if_done()

    def _reclaim(self) -> None:
        self.lose(EndCause.RECLAIMED)

    def finish_if_done(self) -> None:
        """Close the stream if both directions are at their end and nothing is kept for them."""
        if self.outgoing.end_acknowledged and self.incoming.end is not None and not self.incoming.queued:
            self.close(EndCause.FINISHED)

    def close(self, cause: EndCause) -> None:
        """Leave the session. The user may still drain `incoming.queue`."""
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.optimistic = False
        self.end_cause = cause
        self.outgoing.discard()
        self.session.forget(self)
        self.settled()
        if self.connection is not None:
            # It stays known: a reset that was queued there still has to be flushed.
            self.connection.detach(self)


_TOUCHABLE: Final = (State.OPEN, State.SUSPENDED, State.ASKED)
"""A user may still do something to it."""


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
        self.suspended = Suspended(budget, limits.resume_grace_pooled)
        self.instance = ""
        """Of the server process that an agent's session is with."""
        self.tombstones: Tombstones | None = None
        """Of the answering end, which alone is asked for streams."""
        self.answering: list[AnswererConnection] = []
        """Of the answering end: its links that live, the oldest first."""
        self._next_key = first_key
        self._share = share
        """Part of the budget that this session's streams may take for their floors."""

    def new_stream(self, host: str, port: int, key: int | None = None) -> Stream:
        """A stream with its floor of memory reserved. Raises `OpenFailed` (no-room)."""
        if len(self.streams) >= self.limits.max_streams:
            raise OpenFailed(Cause.NO_ROOM, f"{self.limits.max_streams} streams are open already")
        if (len(self.streams) + 1) * self._floor > self.budget.total * self._share:
            whose = "this node's share of " if self._share < 1 else ""
            raise OpenFailed(Cause.NO_ROOM, f"{whose}the memory budget for streams is used up")
        if not self.budget.reserve_at_cost(self._floor):
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
        self.suspended.discard(stream)
        cause, moved = stream.end_cause, stream.epoch > 1
        if self.tombstones is not None and cause is not None and (stream.resumable or moved):
            finished = cause is EndCause.FINISHED
            self.tombstones.add(stream.key, stream.refusal, finished=finished, moved=moved)
        self.budget.release(self._floor + stream.incoming.window - self.limits.initial_window)

    def lose_link(
        self,
        connection: Carrier,
        now: float,
        *,
        for_good: bool = False,
        cause: EndCause = EndCause.LINK_LOST,
    ) -> list[Stream]:
        """The link is gone. Unless it is `for_good`, streams that both ends can resume are suspended, and
        those that have ended both ways deliver what came.

        Returns the others, which are closed for this `cause`; their users are to be told.
        """
        self.answering = [each for each in self.answering if each is not connection]
        resumes = connection.resumes and self.suspended.grace > 0 and not for_good
        lost = []
        for stream in [each for each in self.streams.values() if each.connection is connection]:
            if resumes and stream.resumable and stream.pending_reset is None:
                stream.suspend(now)
            elif stream.only_delivers and not for_good:
                stream.connection = None
                stream.finish()
            else:
                stream.connection = None
                stream.close(cause)
                lost.append(stream)
        return lost

    def expire(self, now: float) -> None:
        """Reset the streams that have been without a link for their grace, and tell their users."""
        for stream in self.suspended.due(now):
            stream.lose(EndCause.EXPIRED)

    def end_suspended(self, cause: EndCause) -> None:
        """There is no resuming what there is by now: reset every suspended stream, and tell their users.

        One that a living link has asked for may still go on there.
        """
        for stream in list(self.suspended):
            if stream.connection is None:
                stream.lose(cause)
        for stream in self.streams.values():
            stream.resumable = False
