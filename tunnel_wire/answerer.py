"""The agent's end of a link: answers hello, CONNECT and drain. It is the HTTP/2 server (spec.md, 2 to 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnel_wire.authority import read_authority
from tunnel_wire.causes import STATUS_OF_CAUSE, Cause, OpenFailed, clean_detail
from tunnel_wire.connection import Connection
from tunnel_wire.events import DrainReceived, HelloReceived, StreamRequested
from tunnel_wire.frames import ErrorCode, Violation
from tunnel_wire.hello import DRAIN_PATH, HELLO_PATH, BadHello, Headers, Hello, read_fields
from tunnel_wire.session import EndCause, State

if TYPE_CHECKING:
    from tunnel_wire.session import Session, Stream


class AnswererConnection(Connection):
    """One link as the agent sees it."""

    def __init__(self, session: Session, hello: Hello, *, now: float) -> None:
        super().__init__(client=False, limits=session.limits, now=now)
        self.session = session
        self._hello = hello

    def accept(self, stream: Stream) -> None:
        """Answer 200: the dial succeeded, and data may come. Nothing happens if the stream has gone."""
        if stream.state is not State.OPENING:
            return
        stream.state = State.OPEN
        fields = [(b"tunnel-received", b"0"), (b"tunnel-limit", b"%d" % stream.incoming.granted)]
        self.send_response(stream.stream_id, [(b":status", b"200"), *fields], ended=False)

    def refuse(self, stream: Stream, cause: Cause, detail: str = "") -> None:
        """Answer with the cause, and close the stream."""
        if stream.state is not State.OPENING:
            return
        stream.refusal = OpenFailed(cause, detail)
        self._send_refusal(stream.stream_id, stream.refusal)
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
            self.send_response(stream_id, [(b":status", b"200"), *self._hello.to_headers()], ended=True)
            self._events.append(HelloReceived(hello))
        elif (method, path) == (b"POST", DRAIN_PATH.encode()):
            self.draining = True
            self.send_response(stream_id, [(b":status", b"200")], ended=True)
            said = read_fields(headers)
            self._events.append(DrainReceived(said.get("reason", ""), clean_detail(said.get("detail", ""))))
        else:
            self.send_response(stream_id, [(b":status", b"404")], ended=True)

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
        if key in self.session.streams:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a stream's key is in use")
        try:
            if fields.get("state", "opening") != "opening":
                raise OpenFailed(Cause.GONE, "streams are not resumed here")
            stream = self.session.new_stream(*target, key=key)
        except OpenFailed as exc:
            self._send_refusal(stream_id, exc)
            return
        self.attach(stream, stream_id)
        self._events.append(StreamRequested(stream))

    def _send_refusal(self, stream_id: int, refusal: OpenFailed) -> None:
        status = STATUS_OF_CAUSE.get(refusal.cause, 500)
        headers = [(b":status", b"%d" % status), (b"tunnel-cause", refusal.cause.value.encode())]
        if detail := clean_detail(refusal.detail):
            headers.append((b"tunnel-detail", detail.encode()))
        self.send_response(stream_id, headers, ended=True)

    def on_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Never: an HTTP/2 client sends no responses, and h2 has refused it."""
        raise Violation(ErrorCode.PROTOCOL_ERROR, "a response from the server's side")


def read_key(text: str) -> int:
    """A stream's key: 16 hex digits. Raises `Violation`."""
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        raise Violation(ErrorCode.PROTOCOL_ERROR, "a stream's key is not 64 bits in hex")
    return int(text, 16)
