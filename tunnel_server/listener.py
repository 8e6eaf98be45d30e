"""The one public port: links by ALPN `tunnel/1`, the HTTPS API for everything else."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.http1 import Handler, serve_connection
from tunnel_server.crowd import Crowd
from tunnel_wire.sockets import from_trio
from tunnel_wire.tls import TlsPump, TlsStream, handshake, strict_context

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from tunnel_server.crowd import Guest
    from tunnel_server.links import Links
    from tunnel_server.metrics import Metrics

log = logging.getLogger(__name__)

TUNNEL_PROTOCOL = "tunnel/1"

_ACCEPT_PAUSE = 0.1
"""Seconds to wait when the process or the system is out of file descriptors or memory."""

_API_CONNECTIONS = 256
"""HTTPS connections at once, by strangers: who joins needs one for a second, and gets it."""


def tls_context(certificate: Path, key: Path, authority: str) -> ssl.SSLContext:
    """The public port's TLS: 1.3, a client certificate asked for but not required, no session tickets.

    Joining has no certificate yet; what needs one checks for it after the handshake. Raises OSError,
    ssl.SSLError.
    """
    context = strict_context(server_side=True)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    context.set_alpn_protocols([TUNNEL_PROTOCOL, "http/1.1"])
    context.load_cert_chain(certificate, key)
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
    ) -> None:
        self.context = context
        """May be replaced by one with a newer certificate at any time."""
        self._links = links
        self._api = api
        self._metrics = metrics
        self._handshakes = Crowd(handshakes, "TLS handshakes")
        self._timeout = handshake_timeout
        self._api_connections = Crowd(_API_CONNECTIONS, "API connections")

    async def serve(self, listeners: Sequence[trio.SocketListener]) -> None:
        """Accept until cancelled, then close everything."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as exc:
                    log.error("cannot accept an agent: %s", exc.strerror or exc)  # noqa: TRY400 - no traceback
                    await trio.sleep(_ACCEPT_PAUSE)
                    continue
                pump = TlsPump(self.context, server_side=True)
                # While there is no place, the others wait in the kernel's backlog.
                try:
                    guest = await self._handshakes.enter(pump)
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
                await self._links.serve(sock, pump, _place(peer))
            else:
                await self._serve_api(TlsStream(sock, pump), peer)
        except Exception:
            # One connection's defect must not end the others.
            log.exception("a connection from %s failed", _place(peer))
        finally:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    async def _serve_api(self, stream: TlsStream, peer: tuple[str, int]) -> None:
        guest = self._api_connections.enter_nowait()
        if guest is None:
            await stream.aclose()
            return
        try:
            with guest.scope:
                await serve_connection(stream, self._api, peer=peer)
        finally:
            self._api_connections.leave(guest)

    async def _handshake(
        self, sock: socket.socket, pump: TlsPump, peer: tuple[str, int], scope: trio.CancelScope
    ) -> bool:
        reason = "timeout"
        scope.deadline = trio.current_time() + self._timeout
        with scope:
            try:
                await handshake(sock, pump)
            except ssl.SSLError as exc:
                reason = "certificate" if isinstance(exc, ssl.SSLCertVerificationError) else "tls"
                detail = exc.reason or str(exc)
            except OSError:
                reason, detail = "cut", "the connection was cut"
            else:
                return True
            log.info("TLS handshake with %s failed: %s", _place(peer), detail)
        self._metrics.handshake_failed(reason)
        return False


def _place(peer: tuple[str, int]) -> str:
    host, port = peer[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
