"""Serving HTTP on plain listeners: how many connections, and what their failures may do (nothing)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.descriptors import Acceptor
from tunnel_daemon.http1 import Handler, HttpLimits, serve_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64


async def serve_http(
    listeners: Sequence[trio.SocketListener],
    handler: Handler,
    *,
    peer: Callable[[trio.SocketStream], object] = lambda _: None,
    limits: HttpLimits | None = None,
    max_connections: int = MAX_CONNECTIONS,
) -> None:
    """Answer HTTP on `listeners` until cancelled; closes them and every connection then.

    `peer` names a connection's other side for ``request.peer``; where it raises OSError, the
    connection is closed. A connection beyond `max_connections` is closed at once.
    """
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        if connections >= max_connections:
            log.warning("a connection was closed: too many are open", extra={"open": connections})
            await trio.aclose_forcefully(stream)
            return
        connections += 1
        try:
            await serve_connection(stream, handler, peer=peer(stream), limits=limits)
        except OSError:
            pass  # the other side has gone
        except Exception:
            log.exception("a connection failed")
        finally:
            connections -= 1
            await trio.aclose_forcefully(stream)

    async def accept(listener: trio.SocketListener) -> None:
        acceptor = Acceptor(listener, "an HTTP connection")
        async with listener:
            while True:
                nursery.start_soon(serve, await acceptor.accept())

    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(accept, listener)
