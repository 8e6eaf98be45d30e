"""Accepting callers. Nothing that one of them does ends the others."""

from __future__ import annotations

import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from certs.addresses import format_endpoint
from tunnel_daemon import inheritance
from tunnel_daemon.descriptors import Shortage
from tunnel_wire import readiness
from tunnel_wire.owner import Owner
from tunnel_wire.sockets import close_with_reset, prepare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Serve: TypeAlias = Callable[[socket.socket, str], Awaitable[None]]
    Begin: TypeAlias = Callable[[Owner, socket.socket, str], bool]

log = logging.getLogger(__name__)


async def accept_callers(
    listener: trio.SocketListener, serve: Serve, begin: Begin = lambda *_: False
) -> None:
    """Call `serve(sock, caller)` in a task of its own for each connection, until cancelled; closes the
    listener.

    Before that `begin` is asked with an owner, the socket and the caller whether it serves the connection
    without a task. Either must close the socket, which is `prepare`d. Cancelled, the connections are cut.
    Nobody is accepted while sockets are borrowed (`inheritance`). If somebody else closes the listener,
    nothing more is accepted, and it returns when the last connection has ended.
    """
    async with listener, trio.open_nursery() as nursery:
        await inheritance.owned()
        if listener.socket.fileno() < 0:
            return
        owner = Owner(nursery)
        nursery.start_soon(owner.run)
        entrance = _Entrance(listener, nursery, serve, partial(begin, owner))
        try:
            while True:
                # It never is: this waits for whoever closes it.
                await trio.lowlevel.wait_writable(listener.socket)
        except trio.ClosedResourceError:
            pass
        finally:
            entrance.close()
            owner.close()


class _Entrance:
    """A listening socket that calls when somebody comes: without a task, and without trio's own socket for
    each connection, which together cost a tenth of what a short connection costs the server.
    """

    def __init__(
        self,
        listener: trio.SocketListener,
        nursery: trio.Nursery,
        serve: Serve,
        begin: Callable[[socket.socket, str], bool],
    ) -> None:
        self._nursery = nursery
        self._serve = serve
        self._begin = begin
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
        caller = format_endpoint(*address[:2])
        try:
            if self._begin(sock, caller):
                return
        except Exception:
            log.exception("serving a caller failed")
            close_with_reset(sock)
            return
        self._nursery.start_soon(_serve_one, self._serve, sock, caller)

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
