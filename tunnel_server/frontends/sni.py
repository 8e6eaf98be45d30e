"""Edges by the name in a TLS ClientHello (RFC 6066, section 3): read, never answered, never terminated.

The hello is looked at where it lies, in the kernel's receive queue, so that every byte of it reaches the edge
as it came. Python's own `ssl` could find the name, but prints a traceback for one that is not ASCII.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import trio

from tunnel_server.asked import Asked
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.client_hello import MAX_HELLO, NotAHello, Records, read_server_name

if TYPE_CHECKING:
    from tunnel_server.calls import Calls, Target
    from tunnel_server.frontends.naming import Find, Naming

FRONTEND = "sni"

_HELLO_TIME = 10.0
"""Seconds from the connection to the end of its ClientHello."""
_POLL = 0.05


class SniFrontend:
    """Serves direct connections to `secure-port`."""

    def __init__(self, calls: Calls, naming: Naming, *, default_port: int) -> None:
        self.default_port = default_port
        """The edge's port where the server name says none."""
        self._calls = calls
        self._naming = naming
        self._waiting = 0

    async def serve(self, sock: socket.socket, caller: str, find: Find) -> None:
        """Serve one connection to its end, and close it."""
        name, failure = "no server name", None
        try:
            name = await self._server_name(sock)
        except OpenFailed as exc:
            failure = exc

        def find_target() -> Target:
            if failure is not None:
                raise failure
            return find(*self._naming.split_port(name, self.default_port))

        await self._calls.serve(sock, Asked(FRONTEND, caller, name), find_target)

    async def _server_name(self, sock: socket.socket) -> str:
        if self._waiting >= self._calls.limit:
            raise OpenFailed(Cause.NO_ROOM, f"{self._waiting} callers have not sent a ClientHello yet")
        self._waiting += 1
        try:
            with trio.move_on_after(_HELLO_TIME):
                name = await peek_server_name(sock)
                if not name:
                    raise OpenFailed(
                        Cause.NO_SUCH_NODE, "the ClientHello names no server: connect by the node's name"
                    )
                return name
        except NotAHello as exc:
            raise OpenFailed(Cause.NOT_ALLOWED, f"a direct connection without a ClientHello: {exc}") from None
        except OSError as exc:
            raise OpenFailed(Cause.CANCELLED, "the caller has gone") from exc
        finally:
            self._waiting -= 1
        raise OpenFailed(Cause.TIMED_OUT, f"no ClientHello within {_HELLO_TIME:g} s")


async def peek_server_name(sock: socket.socket) -> str:
    """Wait for a ClientHello on a non-blocking TCP socket, and leave it there; its server name, or "".

    Raises NotAHello, OSError (also when the peer closes before its end). Cancellable.
    """
    seen, records = 0, Records()
    try:
        while True:
            # What has been looked at must not wake us again (tcp(7): poll respects SO_RCVLOWAT).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(MAX_HELLO, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            name = read_server_name(data, records)
            if name is not None:
                return name
            if len(data) <= seen:
                if _ended(sock):
                    raise ConnectionResetError("the caller closed before the end of its ClientHello")
                await trio.sleep(_POLL)  # short of memory, the kernel wakes readers early
            seen = len(data)
    finally:
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _ended(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))
