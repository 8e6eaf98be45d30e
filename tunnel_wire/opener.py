"""The server's end of a link: says hello, opens streams, drains. It is the HTTP/2 client (spec.md, 2 to
5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpack import NeverIndexedHeaderTuple

from tunnel_wire.authority import write_authority
from tunnel_wire.causes import Cause, OpenFailed, clean_detail, read_cause
from tunnel_wire.connection import Connection
from tunnel_wire.events import Answered, HelloReceived
from tunnel_wire.frames import MAX_STREAM_ID, ErrorCode, Violation
from tunnel_wire.hello import DRAIN_PATH, HELLO_PATH, BadHello, DrainReason, Headers, Hello, read_fields
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.session import EndCause, State

if TYPE_CHECKING:
    from tunnel_wire.session import Session, Stream


class OpenerConnection(Connection):
    """One link as the server sees it. `session` is set once the agent's hello has named it."""

    def __init__(self, hello: Hello, *, now: float, limits: WireLimits = DEFAULT_LIMITS) -> None:
        super().__init__(client=True, limits=limits, now=now)
        self._next_id = 1
        self._hello_id = self.send_request(_request(b"GET", HELLO_PATH, hello.to_headers()), ended=True)

    def open_stream(self, session: Session, host: str, port: int) -> Stream:
        """Queue a CONNECT. `Answered` follows, or `StreamReset`.

        Raises `OpenFailed` when a limit is reached, and for a target that can't be named on the wire (it must
        not get there: the agent would give up the link with all its streams).
        """
        if self._sender.closed:
            raise OpenFailed(Cause.LINK_LOST, "the link has ended")
        if not self.can_open():
            raise OpenFailed(Cause.NO_ROOM, "the agent takes no more streams on this link")
        try:
            authority = write_authority(host, port)
        except ValueError as exc:
            raise OpenFailed(Cause.UNRESOLVABLE, str(exc)) from None
        stream = session.new_stream(host, port)
        headers: Headers = [
            (b":method", b"CONNECT"),
            (b":authority", authority),
            (b"tunnel-epoch", b"%d" % stream.epoch),
            (b"tunnel-state", b"opening"),
            (b"tunnel-received", b"0"),
            (b"tunnel-limit", b"%d" % stream.incoming.granted),
            # Unlike the other fields it never comes again: in the table it would drive them out.
            NeverIndexedHeaderTuple(b"tunnel-key", b"%016x" % stream.key),
        ]
        self.attach(stream, self.send_request(headers, ended=False))
        return stream

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
        if self._sender.closed or len(self._h2.streams) >= self._h2.remote_settings.max_concurrent_streams:
            return  # The end of the link says it as well.
        fields = [
            (b"tunnel-reason", reason.value.encode()),
            (b"tunnel-detail", clean_detail(detail).encode()),
        ]
        self.send_request(_request(b"POST", DRAIN_PATH, fields), ended=True)

    def on_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Hello's answer, or a CONNECT's."""
        text = dict(headers)[b":status"]
        status = int(text) if len(text) == 3 and text.isdigit() else 0
        stream = self._streams.get(stream_id)
        if stream is None:
            if stream_id == self._hello_id:
                self._on_hello(headers, status)
            if not ended:
                # A body to hello or drain says nothing to us.
                self.reset_exchange(stream_id, ErrorCode.CANCEL)
            return
        if not status:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR)
            return
        if 200 <= status < 300:
            stream.state = State.OPEN
        else:
            fields = read_fields(headers)
            cause = read_cause(fields.get("cause"), status)
            stream.refusal = OpenFailed(cause, clean_detail(fields.get("detail", "")))
            # Ends our direction too; a body that a stock peer still sends is swallowed.
            if ended:
                self.send_end(stream_id)
            else:
                self.reset_exchange(stream_id, ErrorCode.CANCEL)
            stream.close(EndCause.REFUSED)
        self._events.append(Answered(stream))

    def _on_hello(self, headers: Headers, status: int) -> None:
        self._hello_id = 0
        try:
            hello = Hello.from_headers(headers) if status == 200 else None
        except BadHello as exc:
            raise Violation(ErrorCode.PROTOCOL_ERROR, str(exc)) from exc
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
