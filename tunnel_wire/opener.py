"""The server's end of a link: says hello, opens streams, drains. It is the HTTP/2 client (spec.md, 2 to
5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnel_wire.causes import Cause, OpenFailed, clean_detail, read_cause
from tunnel_wire.connection import Connection
from tunnel_wire.events import Answered, HelloReceived
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import DRAIN_PATH, HELLO_PATH, BadHello, DrainReason, Headers, Hello, read_fields
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.session import EndCause, State

if TYPE_CHECKING:
    from tunnel_wire.session import Session, Stream


class OpenerConnection(Connection):
    """One link as the server sees it. `session` is set once the agent's hello has named it."""

    def __init__(self, hello: Hello, *, now: float, limits: WireLimits = DEFAULT_LIMITS) -> None:
        super().__init__(client=True, limits=limits, now=now)
        self._hello_id = self.send_request(_request(b"GET", HELLO_PATH, hello.to_headers()), ended=True)

    def open_stream(self, session: Session, host: str, port: int) -> Stream:
        """Queue a CONNECT. `Answered` follows, or `StreamReset`. Raises `OpenFailed` when a limit is
        reached.
        """
        if not self.can_open():
            raise OpenFailed(Cause.NO_ROOM, "the agent takes no more streams on this link")
        stream = session.new_stream(host, port)
        headers: Headers = [
            (b":method", b"CONNECT"),
            (b":authority", authority(host, port)),
            (b"tunnel-key", b"%016x" % stream.key),
            (b"tunnel-epoch", b"%d" % stream.epoch),
            (b"tunnel-state", b"opening"),
            (b"tunnel-received", b"0"),
            (b"tunnel-limit", b"%d" % stream.incoming.granted),
        ]
        self.attach(stream, self.send_request(headers, ended=False))
        return stream

    def drain(self, reason: DrainReason, detail: str = "") -> None:
        """Retire the link: no stream is opened here from now on."""
        self.draining = True
        fields = [
            (b"tunnel-reason", reason.value.encode()),
            (b"tunnel-detail", clean_detail(detail).encode()),
        ]
        self.send_request(_request(b"POST", DRAIN_PATH, fields), ended=True)

    def on_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Hello's answer, or a CONNECT's."""
        status = int(dict(headers)[b":status"])
        if stream_id == self._hello_id:
            self._hello_id = 0
            try:
                hello = Hello.from_headers(headers) if status == 200 else None
            except BadHello as exc:
                raise self._failure(ErrorCode.PROTOCOL_ERROR, str(exc)) from exc
            self._events.append(HelloReceived(hello))
            return
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is not State.OPENING:
            return
        if 200 <= status < 300:
            stream.state = State.OPEN
        else:
            fields = read_fields(headers)
            cause = read_cause(fields.get("cause"), status)
            stream.refusal = OpenFailed(cause, clean_detail(fields.get("detail", "")))
            # Ends our direction too; a body that a stock peer still sends is swallowed.
            if ended:
                self._h2.end_stream(stream_id)
                self._control += self._h2.data_to_send()
            else:
                self.reset_exchange(stream_id, ErrorCode.CANCEL)
            stream.close(EndCause.REFUSED)
        self._events.append(Answered(stream))

    def on_request(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Never: an HTTP/2 server sends no requests, and h2 has refused it."""
        raise self._failure(ErrorCode.PROTOCOL_ERROR, "a request from the agent's side")


def authority(host: str, port: int) -> bytes:
    """`host:port` as it stands in `:authority`, IPv6 in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}".encode("ascii") if ":" in host else f"{host}:{port}".encode("ascii")


def _request(method: bytes, path: str, fields: Headers) -> Headers:
    pseudo = [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"tunnel"),
        (b":path", path.encode()),
    ]
    return [*pseudo, *(field for field in fields if field[1])]
