"""Listening for callers on this machine, and a call through the server for each of them."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import trio

from certs.addresses import format_endpoint
from tunnel_wire.sockets import close_with_reset, from_trio
from tunnelctl.dialling import dial, reach
from tunnelctl.ends import SocketEnd
from tunnelctl.errors import CommandError, UsageError
from tunnelctl.relaying import relay
from tunnelctl.standard_streams import tell
from tunnelctl.tables import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnelctl.ports import Forward
    from tunnelctl.ways import Way

MAX_CONNECTIONS = 4096
"""At once; further callers wait in the kernel's backlog."""
_BACKLOG = 512
_ACCEPT_PAUSE = 0.1
"""Seconds to wait when file descriptors have run out."""


Listener = tuple[trio.SocketListener, "Forward"]


async def forward_until_signal(
    way: Way, node: str, forwards: Sequence[Forward], addresses: Sequence[str]
) -> int:
    """Forward until SIGINT or SIGTERM, which reset what is open; returns 128 + the signal's number.

    Raises UsageError for ports that can't be had, CommandError for the server.
    """
    listeners = await open_listeners(way, forwards, addresses)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forward, way, node, listeners)
            number = await anext(signals)
            nursery.cancel_scope.cancel()
    return 128 + number


async def open_listeners(way: Way, forwards: Sequence[Forward], addresses: Sequence[str]) -> list[Listener]:
    """Listen on all ports or none, once the server is seen to answer. Raises UsageError, CommandError."""
    (await reach(way)).close(reset=False)
    return _listen(forwards, addresses)


async def forward(way: Way, node: str, listeners: Sequence[Listener]) -> None:
    """Forward until cancelled, then reset what is open. That the node is away is told at each call."""
    callers = trio.Semaphore(MAX_CONNECTIONS)
    try:
        async with trio.open_nursery() as nursery:
            for listener, entry in listeners:
                host, port = listener.socket.getsockname()[:2]
                place = format_endpoint(host, port)
                tell(f"Forwarding from {place} -> {entry.remote}")
                nursery.start_soon(_accept, listener, callers, nursery, way, node, port, entry.remote)
    finally:
        for listener, _ in listeners:
            listener.socket.close()


def _listen(forwards: Sequence[Forward], addresses: Sequence[str]) -> list[Listener]:
    made: list[Listener] = []
    try:
        for entry in forwards:
            for address in addresses:
                made.append((_listener(address, entry.local), entry))  # noqa: PERF401 - closed below if one fails
    except BaseException:
        for listener, _ in made:
            listener.socket.close()
        raise
    return made


def _listener(address: str, port: int) -> trio.SocketListener:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except OSError as error:
        sock.close()
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"can't listen on {address} port {port}: {reason}; name another, or `:REMOTE` for any free one"
        ) from None


async def _accept(
    listener: trio.SocketListener,
    callers: trio.Semaphore,
    nursery: trio.Nursery,
    way: Way,
    node: str,
    local: int,
    remote: int,
) -> None:
    while True:
        await callers.acquire()
        try:
            stream = await listener.accept()
        except OSError as error:
            callers.release()
            tell(f"can't accept on port {local}: {error.strerror or error}", error=True)
            await trio.sleep(_ACCEPT_PAUSE)
            continue
        tell(f"Handling connection for {local}")
        nursery.start_soon(_serve, stream, callers, way, node, local, remote)


async def _serve(
    stream: trio.SocketStream, callers: trio.Semaphore, way: Way, node: str, local: int, remote: int
) -> None:
    sock = from_trio(stream.socket)
    try:
        try:
            far = await dial(way, node, remote)
        except CommandError as error:
            tell(f"{local} -> {remote}: {show(error)}", error=True)
            return
        except OSError as error:  # no file descriptors, above all
            tell(f"{local} -> {remote}: {error.strerror or error}", error=True)
            return
        await relay(SocketEnd(sock), far)
    finally:
        # Whatever has not come to a proper end is reset; after one, it is closed already.
        if sock.fileno() >= 0:
            close_with_reset(sock)
        callers.release()
