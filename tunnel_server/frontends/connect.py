"""HTTP CONNECT, as kube-apiserver's EgressSelector and `curl --proxy` speak it (RFC 9110, section 9.3.6).

Over a Unix socket for permitted users of this host, and over mutual TLS, on the public port, for holders of a
caller's certificate. An answer always comes within its deadline, with the cause in its reason phrase; after a
200, not a byte that is not the target's.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import trio

from certs.addresses import format_endpoint, parse_endpoint
from certs.identity import Role
from tunnel_daemon.failure_log import FailureLog
from tunnel_daemon.malformed import what_is_malformed
from tunnel_server.asked import Asked
from tunnel_server.calls import TargetRefused
from tunnel_server.direct import DirectTarget
from tunnel_server.frontends.joining import join
from tunnel_server.frontends.refusals import refusal, refusal_of
from tunnel_server.rights import LOCAL
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.sockets import from_trio
from tunnel_wire.splice import splice
from tunnel_wire.stream import TunnelStream

if TYPE_CHECKING:
    from certs.identity import Identity
    from tunnel_server.acceptance import Acceptance, Ending
    from tunnel_server.calls import Call, Calls, Target
    from tunnel_server.frontends.joining import Side
    from tunnel_server.frontends.naming import Naming
    from tunnel_server.peers import Peer
    from tunnel_server.rights import Rights
    from tunnel_wire.tls_stream import TlsStream

log = logging.getLogger(__name__)

FRONTEND = "connect"
ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"

MAX_HEAD = 16 * 1024
"""Bytes of a request's head."""
_HEAD_TIME = 10.0
"""Seconds from the connection to the end of its request's head."""
_ANSWER_TIME = 10.0
"""Seconds that a caller gets to take an answer, and that one who was refused gets to read it, at most."""
_STRANGERS_EVERY = 60.0
"""Seconds at least between two lines about those who show no certificate of ours."""
_READ = 4096


@dataclass(eq=False, slots=True)
class Caller:
    """Who is at the other end."""

    place: str
    """For the log: `ADDRESS:PORT`, or `uid 1000`."""
    identity: Identity | None = None
    """Of a verified certificate; None for a permitted user of the Unix socket."""
    problem: str = ""
    """Why this is no caller at all."""
    cut: str = ""
    """Why its certificate is accepted no longer, once that has happened."""

    @property
    def name(self) -> str:
        """For the audit log."""
        if self.identity is not None:
            return str(self.identity)
        return "" if self.problem else LOCAL


class ConnectFrontend:
    """Serves CONNECT to whoever may, each to what it may."""

    def __init__(
        self, calls: Calls, naming: Naming, rights: Rights, *, domain: str, acceptance: Acceptance
    ) -> None:
        self._calls = calls
        self._naming = naming
        self._rights = rights
        self._domain = domain
        self._acceptance = acceptance
        self._strangers = FailureLog(log, level=logging.INFO, longest=_STRANGERS_EVERY)
        self._open = 0

    def admits(self, peer: Peer) -> bool:
        """Whether the peer is a caller at all. Who is none gets an answer, but no place of its own."""
        return not self._caller(peer).problem

    async def serve_tls(self, stream: TlsStream, peer: Peer, *, head_by: float | None = None) -> None:
        """Serve a TLS connection to its end, and close it; its head has until `head_by`, in trio's time.

        One whose certificate is no longer accepted meanwhile (expired, revoked, of a root that is trusted no
        longer) is reset.
        """
        caller = self._caller(peer)

        def end(ending: Ending) -> None:
            caller.cut = ending.why
            scope.cancel()

        with trio.CancelScope() as scope, contextlib.ExitStack() as stack:
            if not caller.problem:
                stack.enter_context(self._acceptance.watch(peer, end))
            await self._serve(stream, caller, head_by)

    async def serve_local(self, stream: trio.SocketStream, uid: int) -> None:
        """Serve a connection of a permitted user of the Unix socket to its end, and close it."""
        await self._serve(stream, Caller(f"uid {uid}"))

    async def refuse_local(self, stream: trio.SocketStream, uid: int, why: str) -> None:
        """Answer a user who may not use the Unix socket, and close it; neither reads nor waits."""
        refused = OpenFailed(Cause.NOT_ALLOWED, why)
        self._calls.refused(Asked(FRONTEND, f"uid {uid}", ""), refused)
        answer = _encode(*refusal_of(refused))
        with contextlib.suppress(OSError):
            await stream.socket.send(answer)  # a new socket's buffer takes it at once
        await stream.aclose()

    def _caller(self, peer: Peer) -> Caller:
        place = format_endpoint(*peer.address[:2])
        try:
            identity = peer.identity
        except ValueError as exc:
            return Caller(place, problem=f"CONNECT needs a caller's certificate: {exc}")
        if identity.role is not Role.CALLER or identity.domain != self._domain:
            return Caller(place, identity, f"{identity} is no caller of spiffe://{self._domain}")
        ending = self._acceptance.refusal(peer)
        return Caller(place, identity, ending.why if ending else "")

    async def _serve(
        self, stream: TlsStream | trio.SocketStream, caller: Caller, head_by: float | None = None
    ) -> None:
        self._open += 1
        try:
            if self._open > self._calls.limit:
                text = f"{self._calls.limit} connections are open"
                await _refuse(stream, *refusal_of(OpenFailed(Cause.NO_ROOM, text)))
                return
            await self._connect(
                stream, caller, trio.current_time() + _HEAD_TIME if head_by is None else head_by
            )
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("a caller of CONNECT has gone", extra={"caller": caller.place})
        finally:
            self._open -= 1
            with trio.CancelScope(shield=True):  # waits for nobody
                await stream.aclose()

    async def _connect(self, stream: TlsStream | trio.SocketStream, caller: Caller, head_by: float) -> None:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        try:
            with trio.fail_at(head_by):
                head = await _read_head(stream, parser)
            if head is None:
                return
            host, port = read_target(head)
        except trio.TooSlowError:
            await _refuse(stream, *refusal(408, f"no request within {_HEAD_TIME:g} s"))
            return
        except h11.RemoteProtocolError as exc:
            text = f"malformed request: {what_is_malformed(exc)}"
            await _refuse(stream, *refusal(exc.error_status_hint, text))
            return
        except NotConnect as exc:
            await _refuse(stream, *refusal(405, str(exc)))
            return
        except ValueError as exc:
            await _refuse(stream, *refusal(400, str(exc)))
            return
        if caller.problem and caller.identity is None:
            # Anybody can connect to the public port: strangers do not fill the status and the audit log.
            self._strangers.failed(
                "", f"CONNECT by a stranger was refused ({caller.place}): {caller.problem}"
            )
            await _refuse(stream, *refusal_of(OpenFailed(Cause.NOT_ALLOWED, caller.problem)))
            return
        asked = Asked(FRONTEND, caller.place, format_endpoint(host, port), caller.name)
        try:
            async with self._calls.place(
                asked, lambda: self._find(caller, host, port), lambda: caller.cut
            ) as call:
                with trio.fail_after(_ANSWER_TIME):
                    await stream.send_all(ESTABLISHED)
                await _carry(stream, call, parser.trailing_data[0], ends_by_halves=_ends_by_halves(head))
        except trio.TooSlowError:
            log.debug("a caller of CONNECT does not read", extra={"caller": caller.place})
        except OpenFailed as failed:
            await _refuse(stream, *refusal_of(failed))

    def _find(self, caller: Caller, host: str, port: int) -> Target | DirectTarget:
        if caller.problem:
            raise self._naming.refused(host, port, caller.problem)
        rights = self._rights.of(caller.identity)
        if rights.direct and not self._naming.knows(host):
            return DirectTarget(host, port, rights.direct_special, self._naming)
        target = self._naming.find(host, port)
        if (why := rights.refusal(target.node.name, port)) is not None:
            raise TargetRefused(target, why)
        return target


class NotConnect(Exception):
    """A request that is none of ours."""


def read_target(head: h11.Request) -> tuple[str, int]:
    """The host, in lower case, and the port that a CONNECT names. Raises NotConnect, ValueError."""
    if head.method != b"CONNECT":
        raise NotConnect("this is for CONNECT only")
    for name, value in head.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and int(value)):
            raise ValueError("a CONNECT has no body")
    text = head.target.decode("ascii")
    host, port = parse_endpoint(text, 0, final_dot=True)
    if not port:
        raise ValueError(f"{text!r} names no port: CONNECT wants HOST:PORT")
    return host, port


async def _read_head(stream: trio.abc.ReceiveStream, parser: h11.Connection) -> h11.Request | None:
    """None if the caller leaves without a word. Raises h11.RemoteProtocolError, BrokenResourceError."""
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        parser.receive_data(bytes(await stream.receive_some(_READ)))


def _ends_by_halves(head: h11.Request) -> bool:
    """Whether the caller shuts its direction down before it closes, as tunnelctl does: see `splice`."""
    return any((name, value) == (b"tunnel-close", b"half") for name, value in head.headers)


async def _carry(
    stream: TlsStream | trio.SocketStream, call: Call, early: bytes, *, ends_by_halves: bool
) -> None:
    """Join the two; `early` is what the caller sent before it had its answer."""
    far: Side
    if isinstance(call.far, TunnelStream):
        far = call.far
    else:
        far = trio.SocketStream(trio.socket.from_stdlib_socket(call.far))
    try:
        if early:
            if call.is_pooled(early) and isinstance(far, TunnelStream):
                far.share()
            await far.send_all(early)
            call.result.to_tunnel += len(early)
    except trio.BrokenResourceError:
        pass  # whoever joins them meets it again, and tells the caller
    if isinstance(far, TunnelStream) and isinstance(stream, trio.SocketStream):
        await splice(
            far,
            from_trio(stream.socket),
            call.result,
            ends_by_halves=ends_by_halves,
            is_pooled=call.is_pooled,
        )
    else:
        await join(stream, far, call.result, call.is_pooled)


async def _refuse(stream: TlsStream | trio.SocketStream, response: h11.Response, body: bytes) -> None:
    """Answer, and read on a moment: unread input would turn the close into a reset that overtakes it."""
    with trio.move_on_after(_ANSWER_TIME):
        await stream.send_all(_encode(response, body))
        await stream.send_eof()
        while await stream.receive_some(_READ):
            pass


def _encode(response: h11.Response, body: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (response.status_code, bytes(response.reason))]
    lines += [b"%s: %s" % (name, value) for name, value in response.headers.raw_items()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
