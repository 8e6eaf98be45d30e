"""Edges by the name in a TLS ClientHello (RFC 6066, section 3): read, never answered, never terminated.

The hello is looked at where it lies, in the kernel's receive queue, so that every byte of it reaches the edge
as it came. Python's own `ssl` could find the name, but prints a traceback for one that is not ASCII.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING

import trio

from tunnel_server.calls import Asked
from tunnel_wire.causes import Cause, OpenFailed

if TYPE_CHECKING:
    from tunnel_server.calls import Calls, Target
    from tunnel_server.frontends.naming import Find, Naming

FRONTEND = "sni"

MAX_HELLO = 16 * 1024
"""Bytes of a ClientHello, records and all. Post-quantum ones take 2 KiB."""
_HELLO_TIME = 10.0
"""Seconds from the connection to the end of its ClientHello."""
_POLL = 0.05

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME = 22, 1, 0, 0


class NotAHello(ValueError):
    """These bytes do not begin with a TLS ClientHello; the text says why."""


class _Reader:
    """Takes a ClientHello apart; everything beyond its end is an error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise NotAHello("a length in the ClientHello points past its end")
        self._at += size
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))

    @property
    def left(self) -> bool:
        return self._at < len(self._data)


def read_server_name(data: bytes) -> str | None:
    """The server name in the ClientHello that `data` begins with, lower case; "" if it has none.

    None: more bytes are needed. Raises NotAHello.
    """
    message = _handshake_message(data)
    if message is None:
        return None
    hello = _Reader(message)
    hello.take(2 + 32)  # legacy_version, random (RFC 8446, 4.1.2)
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if not hello.left:
        return ""
    extensions = _Reader(hello.vector(2))
    while extensions.left:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            return _host_name(body)
    return ""


def _handshake_message(data: bytes) -> bytes | None:
    """The body of the first handshake message, put together from its records (RFC 8446, 5.1)."""
    message = bytearray()
    at = 0
    while True:
        header = data[at : at + 5]
        if header[:1] and header[0] != _HANDSHAKE:
            raise NotAHello("it is no TLS" if not at else "another record interrupts the ClientHello")
        if header[1:2] and header[1] != 3:
            raise NotAHello(f"it is no TLS 1.x: version {header[1]}")
        if len(header) < 5:
            break
        length = int.from_bytes(header[3:], "big")
        if not 0 < length <= MAX_HELLO:
            raise NotAHello(f"a handshake record of {length} bytes")
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
        if message[:1] and message[0] != _CLIENT_HELLO:
            raise NotAHello(f"handshake message {message[0]} instead of a ClientHello")
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if size > MAX_HELLO:
                raise NotAHello(f"a ClientHello of {size} bytes, more than {MAX_HELLO}")
            if len(message) >= 4 + size:
                return bytes(message[4 : 4 + size])
        if at > len(data):
            break
    if len(data) >= MAX_HELLO:
        raise NotAHello(f"the ClientHello does not end within {MAX_HELLO} bytes")
    return None


def _host_name(body: bytes) -> str:
    names = _Reader(_Reader(body).vector(2))
    while names.left:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            if not name or not all(0x21 <= byte <= 0x7E for byte in name):
                raise NotAHello("its server name is not a host name")
            return name.decode("ascii").lower()
    return ""


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
    seen = 0
    try:
        while True:
            # What has been looked at must not wake us again (tcp(7): poll respects SO_RCVLOWAT).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(MAX_HELLO, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            name = read_server_name(data)
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
