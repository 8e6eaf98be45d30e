"""The agent's end of a link: answers hello, CONNECT and drain. It is the HTTP/2 server (spec.md, 2 to 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnel_wire.authority import read_authority
from tunnel_wire.causes import STATUS_OF_CAUSE, Cause, OpenFailed, clean_detail
from tunnel_wire.connection import Connection
from tunnel_wire.events import DrainReceived, HelloReceived, RoomGained, StreamRequested
from tunnel_wire.frames import ErrorCode, Violation
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
    read_links,
    read_number,
)
from tunnel_wire.offsets import Offsets
from tunnel_wire.stream_state import EndCause, State
from tunnel_wire.tombstones import Tombstones

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.carrier import Carrier
    from tunnel_wire.session import Session, Stream

_LONGER: Final = 30.0
"""Seconds that the agent holds suspended streams longer than the server, who decides when they expire."""


class AnswererConnection(Connection):
    """One link as the agent sees it."""

    def __init__(
        self,
        session: Session,
        hello: Hello,
        *,
        now: float,
        admits: Callable[[Hello], bool] = lambda _hello: True,
        on_no_room: Callable[[str], None] = lambda _why: None,
    ) -> None:
        """Take `admits`: asked before the server's hello is answered, and before it has any effect.

        Who says no closes the link. `on_no_room` is told why a stream was refused before anybody was asked.
        """
        super().__init__(client=False, limits=session.limits, now=now)
        self.session = session
        if session.tombstones is None:
            session.tombstones = Tombstones()
        self._tombstones = session.tombstones
        self._hello = hello
        self.index = hello.link
        self._admits = admits
        self._on_no_room = on_no_room
        self._orphans = [(stream, stream.epoch) for stream in session.suspended]
        """Streams that have no link as this one begins: the server names those that it still has."""
        self.instance = ""
        """Of the server process at the other end."""
        self.is_known = False
        """The server holds this link for one of the session's."""
        self.is_given_up = False
        """It does no more, though nothing was heard of that here."""
        self._elders = [each for each in session.answering if each.is_known]
        """Links that it knew as this one began: it names those that it still has."""
        session.answering.append(self)

    def dispose(self) -> None:
        """As every connection; nobody is asked or told any more."""
        super().dispose()
        self._admits, self._on_no_room = _is_over, _unheard

    def accept(self, stream: Stream) -> None:
        """Answer 200: the dial succeeded, and data may come. Nothing happens if the stream has gone.

        Of a stream that another link has by now, that link answers; of a suspended one, the next.
        """
        if stream.state is not State.OPENING:
            return
        carrier = stream.connection
        if carrier is None:
            stream.state = State.SUSPENDED
        else:
            assert isinstance(carrier, AnswererConnection)
            stream.opened()
            carrier.answer_open(stream)

    def answer_open(self, stream: Stream) -> None:
        """Queue the 200."""
        offsets = Offsets.of(stream.incoming)
        if stream.epoch == 1:
            # Nothing depends on what has come by now: the same fields for all streams are a few bytes.
            offsets = Offsets(0, offsets.limit)
        self.send_response(stream.stream_id, [(b":status", b"200"), *offsets.to_headers()], ended=False)

    def refuse(self, stream: Stream, cause: Cause, detail: str = "") -> None:
        """Answer with the cause, and close the stream. As for `accept`, it may have another link or none."""
        if stream.state is not State.OPENING:
            return
        stream.refusal = OpenFailed(cause, detail)
        carrier = stream.connection
        if carrier is not None:
            assert isinstance(carrier, AnswererConnection)
            carrier.send_refusal(stream.stream_id, stream.refusal)
        stream.close(EndCause.REFUSED)

    def on_request(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Dispatch by method and path."""
        fields = dict(headers)
        method, path = fields.get(b":method", b""), fields.get(b":path", b"")
        if method == b"CONNECT":
            self._on_connect(stream_id, headers, ended=ended)
        elif (method, path) == (b"GET", HELLO_PATH.encode()):
            try:
                hello = Hello.from_headers(headers)
            except BadHello as exc:
                raise Violation(ErrorCode.PROTOCOL_ERROR, str(exc)) from exc
            if not self._admits(hello):
                return
            self.send_response(stream_id, [(b":status", b"200"), *self._hello.to_headers()], ended=True)
            self._on_hello(hello)
            self._events.append(HelloReceived(hello))
        elif (method, path) == (b"POST", RESUMED_PATH.encode()) and self.resumes:
            self.send_response(stream_id, [(b":status", b"200")], ended=True)
            said = read_fields(headers)
            try:
                self._on_resumed(read_links(said["links"]) if "links" in said else None)
            except BadHello as exc:
                raise Violation(ErrorCode.PROTOCOL_ERROR, str(exc)) from exc
        elif (method, path) == (b"POST", DRAIN_PATH.encode()):
            self.draining = True
            self.send_response(stream_id, [(b":status", b"200")], ended=True)
            said = read_fields(headers)
            if said.get("reason") == DrainReason.SHUTDOWN:
                self._on_shutdown()
            self._events.append(DrainReceived(said.get("reason", ""), clean_detail(said.get("detail", ""))))
        else:
            self.send_response(stream_id, [(b":status", b"404")], ended=True)

    def _on_hello(self, hello: Hello) -> None:
        session = self.session
        assert session is not None
        self.instance = hello.instance
        if session.instance != hello.instance:
            session.end_suspended(EndCause.SERVER_ANEW)
            session.instance = hello.instance
        agreed = hello.capabilities & self._hello.capabilities
        self.optimistic = OPTIMISTIC in agreed
        self.resumes = RESUME in agreed and hello.grace > 0
        if self.resumes:
            pooled = hello.grace if hello.grace_pooled is None else hello.grace_pooled
            session.suspended.set_graces(hello.grace, pooled, longer=_LONGER)

    def _on_shutdown(self) -> None:
        session = self.session
        assert session is not None
        if self.instance == session.instance:
            # What is on the links of this server goes on there, and nowhere else any more.
            session.end_suspended(EndCause.SERVER_LEFT)

    def _on_resumed(self, links: frozenset[int] | None) -> None:
        """The server has named every stream that it still has, and its links."""
        session = self.session
        assert session is not None
        self.is_known = True
        orphans, self._orphans = self._orphans, []
        for stream, epoch in orphans:
            if stream in session.suspended and stream.epoch == epoch:
                _end_unknown(stream)
        elders, self._elders = self._elders, []
        if links is None:
            return
        for elder in elders:
            # Another server knows nothing of it, and need not.
            if elder.index not in links and elder.instance == self.instance:
                elder.give_up()

    def give_up(self) -> None:
        """The server has: it has asked for what it still has of this link's streams elsewhere.

        What comes here from now on, it had sent before.
        """
        assert self.session is not None
        self.is_given_up = True
        for stream in [each for each in self.session.streams.values() if each.connection is self]:
            _end_unknown(stream)

    def _on_connect(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        assert self.session is not None
        pseudo = dict(headers)
        target = read_authority(pseudo.get(b":authority", b""))
        if target is None or ended or b":protocol" in pseudo:
            self.send_response(stream_id, [(b":status", b"400")], ended=True)
            return
        fields = read_fields(headers)
        # A stock peer brings no key: the session gives its stream one.
        key = read_key(fields["key"]) if "key" in fields else None
        epoch = read_number(fields.get("epoch", "1"))
        if epoch is None:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a stream's epoch is no number")
        try:
            if self.is_given_up:
                raise OpenFailed(Cause.GONE, "another link has taken this one's place")
            if key is not None:
                if (known := self.session.streams.get(key)) is not None:
                    self._take_over(known, stream_id, epoch, Offsets.read(fields))
                    return
                if (answer := self._tombstones.get(key)) is not None:
                    raise answer
            if fields.get("state", "opening") != "opening":
                raise OpenFailed(Cause.GONE, "the stream is not known here")
            try:
                stream = self.session.new_stream(*target, key=key)
            except OpenFailed as exc:
                self._on_no_room(exc.detail)
                raise OpenFailed(exc.cause, f"at the agent, {exc.detail}") from None
        except OpenFailed as exc:
            self.send_refusal(stream_id, exc)
            return
        # Of a server whose successor was heard, the next link is not: nobody would ask for it there.
        stream.resumable = self.resumes and key is not None and self.instance == self.session.instance
        stream.epoch = epoch
        self.attach(stream, stream_id)
        self._events.append(StreamRequested(stream))

    def takes(self, stream: Stream) -> bool:
        """Also before its answer on its first link, where that is agreed."""
        early = stream.state is State.OPENING and self.optimistic and stream.epoch == 1
        return early or stream.state is State.OPEN

    def _take_over(self, stream: Stream, stream_id: int, epoch: int, peer: Offsets | None) -> None:
        """Carry a stream of a former link from now on. Raises `OpenFailed`, `Violation`."""
        if not self.resumes:
            # Who never asks for a stream again has used its key for another one.
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a stream's key is in use")
        if epoch <= stream.epoch or stream.state is State.ENDED:
            # Sent before the server gave this link up, and read only now.
            raise OpenFailed(Cause.GONE, "another link has, or had, the stream")
        old, old_id = stream.connection, stream.stream_id
        if not self._may_take(stream, old):
            raise OpenFailed(Cause.GONE, "the stream is not to be had on this link")
        if old is not None:
            old.let_go(stream)
            old.reset_exchange(old_id, ErrorCode.CANCEL)
            old.output_ready()
        stream.epoch = epoch
        stream.incoming.refill()
        was_opening = stream.state is State.OPENING
        self.attach(stream, stream_id)
        if peer is None or not self.go_on(stream, peer, self._now):
            self.detach(stream)
            stream.connection = None
            stream.lose(EndCause.PROTOCOL)
            raise OpenFailed(Cause.RESET, "what the server says to have is not what was sent")
        if not was_opening:
            self.answer_open(stream)
            self.grant_rest(stream)
            self._events.append(RoomGained(stream))

    def _may_take(self, stream: Stream, old: Carrier | None) -> bool:
        """Whether a stream may come here from the link `old`, or from none.

        What a link carries need not be `resumable` for that: since the server has moved it, a successor may
        have come on another link, and ended the session for what has none.
        """
        if old is None:
            return stream.resumable
        assert isinstance(old, AnswererConnection)
        return old.resumes and old.instance == self.instance

    def send_refusal(self, stream_id: int, refusal: OpenFailed) -> None:
        """Queue an answer that says why not."""
        status = STATUS_OF_CAUSE.get(refusal.cause, 500)
        headers = [(b":status", b"%d" % status), (b"tunnel-cause", refusal.cause.value.encode())]
        if detail := clean_detail(refusal.detail):
            headers.append((b"tunnel-detail", detail.encode()))
        self.send_response(stream_id, headers, ended=True)

    def on_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Never: an HTTP/2 client sends no responses, and h2 has refused it."""
        raise Violation(ErrorCode.PROTOCOL_ERROR, "a response from the server's side")


def _end_unknown(stream: Stream) -> None:
    """The server does not know the stream any more."""
    if stream.only_delivers:
        # The server's direction has ended, and it need not have waited for anything of ours.
        stream.finish()
    else:
        stream.lose(EndCause.PEER_RESET)


def read_key(text: str) -> int:
    """A stream's key: 16 hex digits. Raises `Violation`."""
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise Violation(ErrorCode.PROTOCOL_ERROR, "a stream's key is not 64 bits in hex")
    return int(text, 16)


def _is_over(hello: Hello) -> bool:
    return False


def _unheard(why: str) -> None:
    pass
