"""Serving HTTP on plain listeners: how many connections, and what their failures may do (nothing)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.crowd import Crowd, Use
from tunnel_daemon.descriptors import Acceptor
from tunnel_daemon.http1 import Handler, HttpError, HttpLimits, refuse_connection, serve_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunnel_daemon.crowd import Guest

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

    A listener that somebody else closes is left alone from then on.

    `peer` names a connection's other side for ``request.peer``, before anything is read: where it raises
    HttpError, that is the answer, and where it raises OSError, there is none. Neither takes a place. Of
    `max_connections` places, those that the idle take are taken from them (see `Crowd`); the rest wait.
    """
    places = Crowd(max_connections, "HTTP connections")
    refused = Crowd(max_connections, "HTTP connections that are refused")

    async def serve(stream: trio.SocketStream, who: object, guest: Guest) -> None:
        try:
            with guest.scope:
                await serve_connection(stream, handler, peer=who, limits=limits, guest=guest)
        except OSError:
            pass  # the other side has gone
        except Exception:
            log.exception("a connection failed")
        finally:
            places.leave(guest)
            await trio.aclose_forcefully(stream)

    async def refuse(stream: trio.SocketStream, error: HttpError) -> None:
        # Its answer is sent at once; that it may stay to read it is a courtesy.
        guest = await refused.enter(_nothing_said)
        try:
            with guest.scope:
                await refuse_connection(stream, error)
        except Exception:
            log.exception("a connection failed")
        finally:
            refused.leave(guest)
            await trio.aclose_forcefully(stream)

    async def accept(listener: trio.SocketListener) -> None:
        acceptor = Acceptor(listener, "an HTTP connection")
        async with listener:
            while True:
                try:
                    stream = await acceptor.accept()
                except trio.ClosedResourceError:
                    return
                try:
                    who = peer(stream)
                except HttpError as error:
                    nursery.start_soon(refuse, stream, error)
                    continue
                except Exception as error:
                    if not isinstance(error, OSError):
                        log.exception("a connection failed")
                    await trio.aclose_forcefully(stream)
                    continue
                # While there is no place, the others wait in the kernel's backlog.
                try:
                    guest = await places.enter(_nothing_said)
                except trio.Cancelled:
                    stream.socket.close()
                    raise
                nursery.start_soon(serve, stream, who, guest)

    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(accept, listener)


def _nothing_said() -> Use:
    return Use.SILENT
