"""The one public port: links by ALPN `tunnel/1`, HTTP CONNECT of callers, the HTTPS API for the rest."""

from __future__ import annotations

import logging
import os
import ssl
from functools import partial
from typing import TYPE_CHECKING

import trio

from certs.addresses import format_endpoint
from tunnel_daemon.crowd import Crowd, Use
from tunnel_daemon.descriptors import Acceptor
from tunnel_daemon.failure_log import FailureLog
from tunnel_daemon.http1 import Handler, HttpError, refuse_connection, serve_connection
from tunnel_server.peers import Peer
from tunnel_wire.sockets import from_trio
from tunnel_wire.tls import TlsPump, handshake, strict_context
from tunnel_wire.tls_stream import TlsStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from tunnel_daemon.crowd import Guest
    from tunnel_server.attempts import Attempts
    from tunnel_server.frontends.connect import ConnectFrontend
    from tunnel_server.links import Links
    from tunnel_server.metrics import Metrics
    from tunnel_wire.secret_log import LoggedContext

log = logging.getLogger(__name__)

TUNNEL_PROTOCOL = "tunnel/1"

_X509_V_FLAG_NO_CHECK_TIME = 0x200000  # openssl/x509_vfy.h; `ssl` has no name for it
_CONNECT = b"CONNECT "
_HEAD_TIME = 10.0
"""Seconds from the handshake to the end of the first request's head."""
FOREIGN_EVERY = 60.0
"""Seconds at least between two lines about certificates that are refused for the same reason."""
_API_CONNECTIONS = 256
"""HTTPS connections at once, by strangers: who joins needs one for a second, and gets it."""


def tls_context(
    certificate: bytes,
    key: bytes,
    authority: str,
    *,
    clock_matters: bool = True,
    log_secrets: bool = False,
) -> LoggedContext:
    """The public port's TLS: 1.3, a client certificate asked for but not required, no session tickets.

    `certificate`, its `key` and the `authority` are PEM. Joining has no certificate yet; what needs one
    checks for it after the handshake. Without `clock_matters`, OpenSSL leaves a client certificate's times
    unchecked: whoever uses the context asks `Peer.time_problem`, and can then say whose certificate it was,
    and what both clocks say. With `log_secrets`, links need OpenSSL for their handshakes only
    (`tunnel_wire.link_tls`). Raises OSError, ssl.SSLError.
    """
    context = strict_context(server_side=True)
    context.verify_mode = ssl.CERT_OPTIONAL
    if not clock_matters:
        context.verify_flags |= _X509_V_FLAG_NO_CHECK_TIME
    context.num_tickets = 0
    context.log_secrets = log_secrets
    context.set_alpn_protocols([TUNNEL_PROTOCOL, "http/1.1"])
    # OpenSSL takes the pair from a file only; this one is memory, and never on a disk.
    with os.fdopen(os.memfd_create("edge-tunnel-server"), "wb") as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    context.load_verify_locations(cadata=authority)
    return context


class TunnelListener:
    """Accepts agents, each in its own task, with a bounded number of handshakes under a deadline."""

    def __init__(
        self,
        context: ssl.SSLContext,
        links: Links,
        api: Handler,
        metrics: Metrics,
        *,
        handshakes: int,
        handshake_timeout: float,
        connect: ConnectFrontend | None = None,
        attempts: Attempts | None = None,
    ) -> None:
        self.context = context
        """May be replaced by one with a newer certificate at any time."""
        self._links = links
        self._api = api
        self._connect = connect
        self._attempts = attempts
        self._metrics = metrics
        self._handshakes = Crowd(handshakes, "TLS handshakes")
        self._timeout = handshake_timeout
        self._foreign = FailureLog(log, level=logging.INFO, longest=FOREIGN_EVERY)
        self._api_connections = Crowd(_API_CONNECTIONS, "API connections")

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Accept until cancelled, then close everything; if somebody closes a listener, no more from that."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept, listener, nursery)

    def requests(self) -> int:
        """Requests to the HTTPS API that are not answered yet."""
        return self._api_connections.owed()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            acceptor = Acceptor(listener, "an agent")
            while True:
                try:
                    stream = await acceptor.accept()
                except trio.ClosedResourceError:
                    return
                pump = TlsPump(self.context, server_side=True)
                # While there is no place, the others wait in the kernel's backlog.
                try:
                    guest = await self._handshakes.enter(partial(_use_of_handshake, pump))
                except trio.Cancelled:
                    stream.socket.close()
                    raise
                nursery.start_soon(self._serve, stream, pump, guest)

    async def _serve(self, stream: trio.SocketStream, pump: TlsPump, guest: Guest) -> None:
        try:
            peer = stream.socket.getpeername()
            sock = from_trio(stream.socket)
        except OSError:
            # Gone before we looked.
            self._handshakes.leave(guest)
            await trio.aclose_forcefully(stream)
            return
        try:
            try:
                done = await self._handshake(sock, pump, peer, guest.scope)
            finally:
                self._handshakes.leave(guest)
            if not done:
                return
            if pump.alpn == TUNNEL_PROTOCOL:
                await self._links.serve(sock, pump, format_endpoint(*peer[:2]))
            else:
                await self._serve_http(TlsStream(sock, pump), Peer.of(pump, peer))
        except Exception:
            # One connection's defect must not end the others.
            log.exception("a connection from %s failed", format_endpoint(*peer[:2]))
        finally:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    async def _serve_http(self, stream: TlsStream, peer: Peer) -> None:
        guest = self._api_connections.enter_nowait()
        if guest is None:
            await stream.aclose()
            return
        head_by = trio.current_time() + _HEAD_TIME
        connect = None
        try:
            with guest.scope:
                try:
                    connect = self._connect if await _asks_connect(stream, head_by) else None
                except trio.TooSlowError:
                    text = f"no whole request within {_HEAD_TIME:g} s"
                    await refuse_connection(stream, HttpError(408, text))
                    return
                if connect is None:
                    await serve_connection(stream, self._api, peer=peer, head_by=head_by, guest=guest)
                    return
                if not connect.admits(peer):
                    await connect.serve_tls(stream, peer, head_by=head_by)
                    return
        except trio.BrokenResourceError:
            return
        finally:
            self._api_connections.leave(guest)
        if connect is not None and not guest.scope.cancelled_caught:
            await connect.serve_tls(stream, peer, head_by=head_by)

    async def _handshake(
        self, sock: socket.socket, pump: TlsPump, peer: tuple[str, int], scope: trio.CancelScope
    ) -> bool:
        reason = "timeout"
        scope.deadline = trio.current_time() + self._timeout
        with scope:
            try:
                await handshake(sock, pump)
            except ssl.SSLError as exc:
                reason, detail = "tls", exc.reason or str(exc)
                if self._attempts is not None:
                    self._attempts.handshake_failed(peer[0], detail)
                if isinstance(exc, ssl.SSLCertVerificationError):
                    reason, detail = "certificate", f"its certificate is refused: {exc.verify_message}"
            except OSError:
                reason, detail = "cut", "the connection was cut"
            else:
                return True
            text = f"TLS handshake with {format_endpoint(*peer[:2])} failed: {detail}"
            if reason == "certificate":
                # Somebody may have mixed up two servers, or two bundles, and looks here for why.
                self._foreign.failed(detail, text)
            else:
                log.debug("%s", text)
        self._metrics.handshake_failed(reason)
        return False


def _use_of_handshake(pump: TlsPump) -> Use:
    return Use.TALKING if pump.heard else Use.SILENT


async def _asks_connect(stream: TlsStream, by: float) -> bool:
    """Whether the first request is a CONNECT. What was read is read again.

    Raises BrokenResourceError, and TooSlowError when that is not known `by` then.
    """
    start = b""
    with trio.fail_at(by):
        while len(start) < len(_CONNECT) and _CONNECT.startswith(start):
            part = await stream.receive_some(len(_CONNECT) - len(start))
            if not part:
                break
            start += part
    stream.unreceive(start)
    return start == _CONNECT
