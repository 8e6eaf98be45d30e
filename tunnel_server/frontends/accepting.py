"""Accepting callers: a task for each connection, and nothing that one of them does ends the others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from certs.addresses import format_endpoint
from tunnel_daemon.descriptors import Acceptor
from tunnel_wire.sockets import close_with_reset, from_trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def accept_callers(
    listener: trio.SocketListener, serve: Callable[[socket.socket, str], Awaitable[None]]
) -> None:
    """Call `serve(sock, caller)` in a task of its own for each connection, until cancelled; closes the
    listener.

    `serve` must close the socket. Cancelled, the connections' tasks are cancelled too. If somebody else
    closes the listener, nothing more is accepted, and it returns when the last connection has ended.
    """
    async with listener, trio.open_nursery() as nursery:
        acceptor = Acceptor(listener, "a caller")
        while True:
            try:
                stream = await acceptor.accept()
            except trio.ClosedResourceError:
                return
            nursery.start_soon(_serve, stream, serve)


async def _serve(stream: trio.SocketStream, serve: Callable[[socket.socket, str], Awaitable[None]]) -> None:
    try:
        host, port = stream.socket.getpeername()[:2]
        sock = from_trio(stream.socket)
    except OSError:
        # Gone before we looked.
        await trio.aclose_forcefully(stream)
        return
    try:
        await serve(sock, format_endpoint(host, port))
    except Exception:
        log.exception("serving a caller failed")
        close_with_reset(sock)
