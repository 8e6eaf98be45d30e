"""The server's end of a link: says hello, opens streams, drains. It is the HTTP/2 client (spec.md, 2 to
5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpack import NeverIndexedHeaderTuple

from tunnel_wire.authority import write_authority
from tunnel_wire.causes import Cause, OpenFailed, clean_detail, read_cause
from tunnel_wire.connection import Connection
from tunnel_wire.events import Answered, HelloReceived, RoomGained, StreamReset
from tunnel_wire.frames import MAX_STREAM_ID, ErrorCode, Violation
from tunnel_wire.hello import (
    DRAIN_PATH,
    HELLO_PATH,
    OPTIMISTIC,
    RESUME,
    RESUMED_PATH,
    BadHello,
    DrainReason,
    Headers,
    Hello,
    read_fields,
    write_links,
)
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.offsets import Offsets
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnel_wire.events import Event
    from tunnel_wire.session import Session, Stream


class OpenerConnection(Connection):
    """One link as the server sees it. `session` is set once the agent's hello has named it."""

    def __init__(self, hello: Hello, *, now: float, limits: WireLimits = DEFAULT_LIMITS) -> None:
        super().__init__(client=True, limits=limits, now=now)
        self._next_id = 1
        self._announced = hello.capabilities
        self._to_resume: list[Stream] = []
        """The first one last. (A deque takes 760 bytes of an idle link.)"""
        self._resuming: set[Stream] = set()
        """Asked for, and not answered yet."""
        self._asking = False
        """It is being asked right now: `POST /resumed` must not come in between."""
        self._resumed_due = False
        """`POST /resumed` has to be sent behind the last of them."""
        self._living: frozenset[int] = frozenset()
        """Links of the session, by index; it says so."""
        self._hello_id = self.send_request(_request(b"GET", HELLO_PATH, hello.to_headers()), ended=True)

    def open_stream(self, session: Session, host: str, port: int) -> Stream:
        """Queue a CONNECT. `Answered` follows, or `StreamReset`. Where the stream has `room` already, what is
        written goes right behind.

        Raises `OpenFailed` when a limit is reached, and for a target that can't be named on the wire (it must
        not get there: the agent would give up the link with all its streams).
        """
        if self._sender.closed:
            raise OpenFailed(Cause.LINK_LOST, "the link has ended")
        if not self.can_open():
            raise OpenFailed(Cause.NO_ROOM, "the agent takes no more streams on this link")
        if not self._resets_are_bearable():
            raise OpenFailed(Cause.NO_ROOM, "calls through this link are reset faster than it bears")
        try:
            authority = write_authority(host, port)
        except ValueError as exc:
            raise OpenFailed(Cause.UNRESOLVABLE, str(exc)) from None
        stream = session.new_stream(host, port)
        stream.resumable = self.resumes
        self._connect(stream, authority)
        return stream

    def _connect(self, stream: Stream, authority: bytes) -> None:
        headers: Headers = [
            (b":method", b"CONNECT"),
            (b":authority", authority),
            (b"tunnel-epoch", b"%d" % stream.epoch),
            (b"tunnel-state", b"opening" if stream.state is State.OPENING else b"open"),
            *Offsets.of(stream.incoming).to_headers(),
            # Unlike the other fields it never comes again: in the table it would drive them out.
            NeverIndexedHeaderTuple(b"tunnel-key", b"%016x" % stream.key),
        ]
        stream_id = self.send_request(headers, ended=False)
        self.attach(stream, stream_id, optimistic=self.optimistic and stream.epoch == 1)

    # --- streams of former links ------------------------------------------------------------------

    def resume(self, streams: Iterable[Stream], now: float, links: Iterable[int] = ()) -> None:
        """Ask for these streams, suspended or carried by other links, on this one.

        For those that were open `RoomGained` follows, or `StreamReset`; for those that were not, `Answered`.
        Then the agent is told that these were all, and which `links` of the session still live here.
        """
        self._living = frozenset(links)
        behind = list(streams)
        if self.session is not None:
            # What another link asks for may not have come there: the agent would take it for unnamed.
            behind += [
                stream
                for stream in self.session.streams.values()
                if stream.connection is not None and stream.epoch > 1 and stream.state is not State.OPEN
            ]
        self._to_resume[:0] = reversed(behind)
        self._resumed_due = True
        self.ask_on(now)

    def ask_on(self, now: float) -> None:
        """Ask for what is still to be resumed, as far as that may be asked for at once."""
        # Taking a stream from another link has that one go on, which may take one from here in its turn.
        if not self._asking:
            self._asking = True
            try:
                self._ask_for_more(now)
            finally:
                self._asking = False

    def _ask_for_more(self, now: float) -> None:
        waiting = self._to_resume
        while waiting and len(self._resuming) < self.limits.resumed_at_once:
            stream = waiting.pop()
            if stream.state in (State.CLOSED, State.ENDED) or stream.connection is self:
                continue
            if not self.can_open():
                if self.draining or self._sender.closed:
                    # The next link asks for the rest, and says when that was all.
                    waiting.clear()
                    self._resumed_due = False
                else:
                    # Until others end, or what is left of some that have.
                    waiting.append(stream)
                return
            self._take_over(stream, now)
        if not waiting and self._resumed_due and self._has_place() and not self._sender.closed:
            self._resumed_due = False
            links = (b"tunnel-links", write_links(self._living).encode())
            self.send_request(_request(b"POST", RESUMED_PATH, [links]), ended=True)

    def _take_over(self, stream: Stream, now: float) -> None:
        old = stream.connection
        if old is not None:
            old.leave(stream)
        stream.ask(now)
        stream.epoch += 1
        stream.incoming.refill()
        if stream.state is State.ASKED:
            # Of the others the agent may be dialling the target for a while.
            self._resuming.add(stream)
            self.set_deadline(stream, now + self.limits.answer_timeout)
        self._connect(stream, write_authority(stream.host, stream.port))
        self.grant_rest(stream)
        if old is not None:
            # Not before the stream is here: that link might ask for this very one.
            assert isinstance(old, OpenerConnection)
            old.ask_on(now)

    def leave(self, stream: Stream) -> None:
        """As every carrier; whoever takes the stream has this link go on asking."""
        self._resuming.discard(stream)
        super().leave(stream)

    def detach(self, stream: Stream) -> None:
        """Also makes place for the next stream to be resumed."""
        super().detach(stream)
        if stream in self._resuming:
            self._resuming.discard(stream)
            self.ask_on(self._now)

    def overdue(self, stream: Stream) -> None:
        """Also ends a stream that was asked for, and of which the agent says nothing."""
        if stream.state is State.ASKED:
            stream.lose(EndCause.UNANSWERED)
        else:
            super().overdue(stream)

    def _goes_on(self, stream: Stream, peer: Offsets | None) -> bool:
        """200 for a CONNECT with a key. False if what it says is impossible."""
        if peer is None:
            return False
        if stream.epoch == 1:
            # What went before the answer may come there behind it.
            outgoing = stream.outgoing
            outgoing.limit = min(outgoing.limit, peer.limit)
            return peer.received <= outgoing.sent
        stream.settled()
        self._resuming.discard(stream)
        self._life.forget(stream)
        return self.go_on(stream, peer, self._now)

    def _on_not_resumed(self, stream: Stream, refusal: OpenFailed) -> None:
        """The agent no longer has a stream that was open."""
        stream.settled()
        self.detach(stream)
        if refusal.cause is Cause.ENDED and stream.incoming.end is not None:
            # It has everything, and knows that we do.
            stream.finish()
            return
        stream.close(EndCause.LINK_LOST if refusal.cause is Cause.GONE else EndCause.PEER_RESET)
        self._events.append(StreamReset(stream))

    def can_open(self) -> bool:
        """Whether one more stream stays below the peer's limit (one beyond it would end the link).

        One place is left for a drain.
        """
        return (
            not self.draining
            and not self._sender.closed
            and self._next_id < MAX_STREAM_ID
            and len(self._h2.streams) + 1 < self._h2.remote_settings.max_concurrent_streams
            and len(self._h2.streams) < self.limits.max_streams
        )

    def _resets_are_bearable(self) -> bool:
        """Whether every open stream may still be reset, by either end, and be no flood.

        Callers and targets reset their connections as they like: one of them must not cost the others the
        link.
        """
        now = self._life.last_received
        open_now = len(self._h2.streams)
        return self._own_resets.left(now) > open_now and self._resets.left(now) > open_now

    def _has_place(self) -> bool:
        """Whether one request more, about the link, is within the peer's limit."""
        return len(self._h2.streams) < self._h2.remote_settings.max_concurrent_streams

    def send_request(self, headers: Headers, *, ended: bool) -> int:
        """Queue a request's header block; returns its stream id."""
        stream_id = self._highest = self._next_id
        self._next_id += 2
        self._h2.send_headers(stream_id, headers, end_stream=ended)
        self._queue(self._h2.data_to_send())
        return stream_id

    def drain(self, reason: DrainReason, detail: str = "") -> None:
        """Retire the link: no stream is opened here from now on."""
        self.draining = True
        if self._sender.closed or not self._has_place():
            return  # The end of the link says it as well.
        fields = [
            (b"tunnel-reason", reason.value.encode()),
            (b"tunnel-detail", clean_detail(detail).encode()),
        ]
        self.send_request(_request(b"POST", DRAIN_PATH, fields), ended=True)

    def receive(self, data: memoryview, now: float) -> list[Event]:
        """As for every connection; what came may have made room for a stream to be resumed."""
        events = super().receive(data, now)
        if self._to_resume or self._resumed_due:
            self.ask_on(now)
        return events

    def on_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Hello's answer, or a CONNECT's."""
        text = dict(headers)[b":status"]
        status = int(text) if len(text) == 3 and text.isdigit() else 0
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id == self._hello_id:
                self._on_hello(headers, status)
            if ended or stream_id not in self._left:
                # A body to hello or drain says nothing to us; of a stream that closed before it was answered,
                # our direction is still open.
                self.returned(stream_id)
                self.reset_exchange(stream_id, ErrorCode.CANCEL)
            return
        if not status:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR)
            return
        fields = read_fields(headers)
        was_open = stream.state is not State.OPENING
        if 200 <= status < 300:
            if (stream.resumable or stream.epoch > 1) and not self._goes_on(stream, Offsets.read(fields)):
                self._stream_error(stream, ErrorCode.PROTOCOL_ERROR)
                return
            stream.opened()
            self._sender.schedule(stream)
        else:
            cause = read_cause(fields.get("cause"), status)
            refusal = OpenFailed(cause, clean_detail(fields.get("detail", "")))
            # Ends our direction too; a body that a stock peer still sends is swallowed.
            if ended:
                self.send_end(stream_id)
            else:
                self.reset_exchange(stream_id, ErrorCode.CANCEL)
            if was_open:
                self._on_not_resumed(stream, refusal)
                return
            stream.refusal = refusal
            stream.close(EndCause.REFUSED)
        self._events.append(RoomGained(stream) if was_open else Answered(stream))

    def _on_hello(self, headers: Headers, status: int) -> None:
        self._hello_id = 0
        try:
            hello = Hello.from_headers(headers) if status == 200 else None
        except BadHello as exc:
            raise Violation(ErrorCode.PROTOCOL_ERROR, str(exc)) from exc
        agreed = self._announced & hello.capabilities if hello is not None else frozenset()
        self.resumes, self.optimistic = RESUME in agreed, OPTIMISTIC in agreed
        self._events.append(HelloReceived(hello))

    def on_request(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Never: an HTTP/2 server sends no requests, and h2 has refused it."""
        raise Violation(ErrorCode.PROTOCOL_ERROR, "a request from the agent's side")


def _request(method: bytes, path: str, fields: Headers) -> Headers:
    pseudo = [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"tunnel"),
        (b":path", path.encode()),
    ]
    return [*pseudo, *(field for field in fields if field[1])]
