"""Accepting callers: a task for each connection, and nothing that one of them does ends the others."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, TypeAlias

import trio

from certs.addresses import format_endpoint
from tunnel_daemon import inheritance
from tunnel_daemon.descriptors import Shortage
from tunnel_wire import readiness
from tunnel_wire.sockets import close_with_reset, prepare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Serve: TypeAlias = Callable[[socket.socket, str], Awaitable[None]]

log = logging.getLogger(__name__)


async def accept_callers(listener: trio.SocketListener, serve: Serve) -> None:
    """Call `serve(sock, caller)` in a task of its own for each connection, until cancelled; closes the
    listener.

    `serve` must close the socket, which is `prepare`d. Cancelled, the connections' tasks are cancelled too.
    Nobody is accepted while sockets are borrowed (`inheritance`). If somebody else closes the listener,
    nothing more is accepted, and it returns when the last connection has ended.
    """
    async with listener, trio.open_nursery() as nursery:
        await inheritance.owned()
        if listener.socket.fileno() < 0:
            return
        entrance = _Entrance(listener, nursery, serve)
        try:
            while True:
                # It never is: this waits for whoever closes it.
                await trio.lowlevel.wait_writable(listener.socket)
        except trio.ClosedResourceError:
            pass
        finally:
            entrance.close()


class _Entrance:
    """A listening socket that calls when somebody comes: without a task, and without trio's own socket for
    each connection, which together cost a tenth of what a short connection costs the server.
    """

    def __init__(self, listener: trio.SocketListener, nursery: trio.Nursery, serve: Serve) -> None:
        self._nursery = nursery
        self._serve = serve
        self._shortage = Shortage("a caller")
        # With a descriptor of our own nobody can take it away from the watch. Accepted sockets inherit what
        # `prepare` sets (tcp(7)), but not that they don't block.
        self._sock = prepare(socket.socket(fileno=os.dup(listener.socket.fileno())))
        self._watch = readiness.watch(self._sock, self._on_ready, self._watch_again, readiness.READABLE)

    def close(self) -> None:
        self._watch.close()
        self._sock.close()

    def _on_ready(self, events: int) -> None:
        try:
            sock, address = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._watch.want(0)
            self._nursery.start_soon(self._wait_out, error)
            return
        sock.setblocking(False)
        self._nursery.start_soon(_serve_one, self._serve, sock, format_endpoint(*address[:2]))

    async def _wait_out(self, error: OSError) -> None:
        await self._shortage.wait_out(error)
        self._watch.want(readiness.READABLE)

    def _watch_again(self) -> None:
        self._watch = readiness.watch(self._sock, self._on_ready, self._watch_again, readiness.READABLE)


async def _serve_one(serve: Serve, sock: socket.socket, caller: str) -> None:
    try:
        await serve(sock, caller)
    except Exception:
        log.exception("serving a caller failed")
        close_with_reset(sock)
