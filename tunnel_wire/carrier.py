"""The streams that a link carries, and what is queued for it: requests, responses, ends, resets, credit.

It is the lowest of the four levels of a connection (`connection.py` shows them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnel_wire import frames
from tunnel_wire.causes import clean_detail
from tunnel_wire.control_plane import ControlPlane
from tunnel_wire.frames import ErrorCode
from tunnel_wire.life import Life
from tunnel_wire.rates import Allowance
from tunnel_wire.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.hello import Headers
    from tunnel_wire.limits import WireLimits
    from tunnel_wire.offsets import Offsets
    from tunnel_wire.session import Session, Stream


_END_WEIGHT: Final = 2048
"""An end's receipt frees a stream's memory: so many bytes more to ask for."""
_MARGIN: Final = 0.9
"""Of the resets a second that the peer bears: what is sent evenly need not arrive so."""


class Carrier:
    """The sending half of a connection. Nothing goes out here: `Sender` has it."""

    # Attributes beyond the 30 that CPython lets instances share would make a dictionary of 1.6 KiB of them.
    __slots__ = (
        "_h2",
        "_left",
        "_life",
        "_own_resets",
        "_peer_window",
        "_sender",
        "_streams",
        "_withheld",
        "draining",
        "limits",
        "optimistic",
        "output_ready",
        "resumes",
        "schedule",
        "session",
    )

    def __init__(self, *, client: bool, limits: WireLimits, now: float) -> None:
        self.limits = limits
        self.session: Session | None = None
        self.output_ready: Callable[[], None] = lambda: None
        """Set by the link: sends what is due."""
        self.draining = False
        """No new streams: this end or the other retires the link."""
        self._h2 = ControlPlane(client=client, limits=limits)
        self._life = Life(limits, now, self._queue)
        self._sender = Sender(
            max_frame=min(frames.DEFAULT_MAX_FRAME, limits.max_frame),
            on_framed=self._on_framed,
            note_sent=self._life.note_sent,
        )
        self.schedule = self._sender.schedule
        """Give a stream its turn if it has something to send. (Bound once: each write calls it.)"""
        self._streams: dict[int, Stream] = {}
        """Streams attached to this link, by HTTP/2 id, until both of their directions have ended."""
        self.resumes = False
        """Both ends have said that they resume streams."""
        self.optimistic = False
        """Both ends have said that a stream's data may come before the answer to its CONNECT."""
        self._left: dict[int, Stream] = {}
        """Streams taken from this link while it lives, by the ids that they had: the peer may still take an
        answered PING for a receipt of their frames.
        """
        self._withheld: list[bytes] = []
        """Answers to such PINGs."""
        self._peer_window = frames.DEFAULT_WINDOW
        """What the peer lets a new stream send."""
        self._own_resets = Allowance(_MARGIN * limits.reset_rate, limits.reset_burst, now)
        """How many more the peer would bear."""
        self._h2.initiate_connection()
        self._queue(self._h2.data_to_send())

    # --- what streams call ------------------------------------------------------------------------

    def attach(self, stream: Stream, stream_id: int, *, optimistic: bool = False) -> None:
        """Carry `stream` under this HTTP/2 id from now on."""
        stream.connection, stream.stream_id, stream.end_came = self, stream_id, False
        stream.optimistic = optimistic
        stream.outgoing.limit = stream.outgoing.sent + self._peer_window
        self._streams[stream_id] = stream
        self._sender.expect_updates()

    def detach(self, stream: Stream) -> None:
        """Forget a stream that is closed."""
        self._streams.pop(stream.stream_id, None)
        self._life.forget(stream)

    def go_on(self, stream: Stream, peer: Offsets, now: float) -> bool:
        """The peer has said where an attached stream goes on. False if it cannot.

        Where the link's initial window would let more come than was ever granted, the sender withholds the
        difference; where it falls short, `grant_rest` adds it.
        """
        limit = min(peer.limit, peer.received + self._peer_window)
        if not stream.resume(peer.received, limit):
            return False
        self.schedule(stream)
        if stream.abandoned:
            self.set_deadline(stream, now + self.limits.linger)
        return True

    def grant_rest(self, stream: Stream) -> None:
        """Credit for what was granted on former links beyond this link's initial window."""
        incoming = stream.incoming
        if (rest := incoming.granted - incoming.received - self.limits.initial_window) > 0:
            self._queue(frames.window_update(stream.stream_id, rest))

    def let_go(self, stream: Stream) -> None:
        """Another link has the stream: nothing that comes here counts for it from now on."""
        self.detach(stream)
        self._sender.drop(stream)
        stream.connection = None

    def leave(self, stream: Stream) -> None:
        """The same, before the peer has done it: what it will learn of here is no receipt."""
        self._left[stream.stream_id] = stream
        stream.left += ((self, stream.stream_id),)
        self.let_go(stream)

    def returned(self, stream_id: int) -> bool:
        """The peer, too, has let go of a stream in `_left`. True if something is to be sent now."""
        self._left.pop(stream_id, None)
        if self._left or not self._withheld:
            return False
        for answer in self._withheld:
            self._sender.answer(answer)
        self._withheld.clear()
        return True

    def grant(self, stream: Stream, increment: int, now: float) -> None:
        """Queue credit for the peer."""
        if stream.stream_id in self._streams:
            self._queue(frames.window_update(stream.stream_id, increment))
            self._life.refresh_round_trip(now)

    def reset_stream(self, stream: Stream, code: int) -> None:
        """Queue a RST_STREAM for an attached stream."""
        if self._streams.get(stream.stream_id) is stream:
            self.reset_exchange(stream.stream_id, code)

    def reset_all(self, code: int) -> None:
        """Queue a RST_STREAM for every attached stream."""
        for stream_id in list(self._streams):
            self.reset_exchange(stream_id, code)

    @property
    def load(self) -> int:
        """How many streams are attached that have not ended."""
        return len(self._streams)

    @property
    def round_trip(self) -> float | None:
        """Seconds, from the last answered PING."""
        return self._life.round_trip

    @property
    def last_received(self) -> float:
        """When anything last came."""
        return self._life.last_received

    def unanswered(self, now: float) -> float:
        """Seconds for which a PING has been open and nothing at all has come; 0 if none is open."""
        return self._life.unanswered(now)

    def set_deadline(self, stream: Stream, when: float) -> None:
        """Reset the stream at `when` unless it has ended by then."""
        self._life.set_deadline(stream, when)

    def _on_framed(self, stream: Stream) -> None:
        """All that the stream had written is framed: its end, or its reset, comes right behind."""
        outgoing = stream.outgoing
        if stream.pending_reset is not None:
            stream.reset(stream.pending_reset)
        elif outgoing.end is not None and not outgoing.end_sent:
            outgoing.end_sent = True
            self._life.note_sent(stream, _END_WEIGHT)
            self.send_end(stream.stream_id)

    # --- requests, responses, resets --------------------------------------------------------------

    def _queue(self, control: bytes) -> None:
        self._sender.queue(control)

    def send_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Queue a response's header block, unless the request is gone."""
        if stream_id in self._h2.streams and not self._sender.closed:
            self._h2.send_headers(stream_id, headers, end_stream=ended)
            self._sender.answer(self._h2.data_to_send())
            self._h2.reap(stream_id)

    def send_end(self, stream_id: int) -> None:
        """Queue END_STREAM."""
        self._h2.end_stream(stream_id)
        self._queue(self._h2.data_to_send())
        if self._h2.reap(stream_id):
            # As in `_receive_end`.
            self._streams.pop(stream_id, None)

    def reset_exchange(self, stream_id: int, code: int) -> None:
        """Queue a RST_STREAM, if the id is not closed already."""
        if not self._h2.reap(stream_id) and not self._sender.closed:
            self._h2.reset_stream(stream_id, code)
            self._own_resets.spend(self._life.last_received)
            self._queue(self._h2.data_to_send())
            self._h2.reap(stream_id)

    def close(self, code: int = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Queue the GOAWAY that ends the link. Nothing may be sent after it."""
        if not self._sender.closed:
            self._sender.closed = True
            self._h2.close_connection(code, clean_detail(reason).encode())
            self._queue(self._h2.data_to_send())
