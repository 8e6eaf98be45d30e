"""One TCP connection attempt to one numeric address, and what its failure means."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import TYPE_CHECKING

import trio

from tunnel_wire.sockets import close_with_reset

if TYPE_CHECKING:
    from certs.addresses import IPAddress


async def connect_tcp(address: IPAddress, port: int) -> socket.socket:
    """Connect; return a plain non-blocking socket with TCP_NODELAY set.

    Raises OSError with the kernel's errno. There is no timeout but the caller's cancel scope; cancelled, it
    leaves no socket behind. Not a checkpoint if the kernel answers at once.
    """
    sock, done = _begin(address, port)
    if not done:
        try:
            await trio.lowlevel.wait_writable(sock)
            _check(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), port)
        except BaseException:
            close_with_reset(sock)  # cancelled, it may be connected already: a FIN would be a clean end
            raise
    return sock


def connect_at_once(address: IPAddress, port: int) -> socket.socket | None:
    """The same for an address of this machine itself; None if the kernel does not answer at once."""
    sock, done = _begin(address, port)
    if done:
        return sock
    close_with_reset(sock)
    return None


def _begin(address: IPAddress, port: int) -> tuple[socket.socket, bool]:
    """A socket, and whether it is connected; if not, it is being connected. Raises OSError."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockaddr = _sockaddr(address, port)
        code = sock.connect_ex(sockaddr)
        if code == errno.EINPROGRESS:
            # To this machine itself it is settled by now: the kernel just could not say so in the same call.
            code = sock.connect_ex(sockaddr)
        if code == errno.EALREADY:
            return sock, False
        _check(sock, code, port)
    except BaseException:
        close_with_reset(sock)
        raise
    return sock, True


def _check(sock: socket.socket, code: int, port: int) -> None:
    """Raise the OSError that a connect ended with, if any."""
    # A connect to a free port of this machine's own ephemeral range can, by TCP's simultaneous open, reach
    # itself. To the caller that is what it would have been a moment before or after: nobody listens.
    if not code and (own := sock.getsockname())[1] == port and own == sock.getpeername():
        code = errno.ECONNREFUSED
    if code:
        raise OSError(code, os.strerror(code))


def _sockaddr(address: IPAddress, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    if isinstance(address, ipaddress.IPv4Address):
        return (str(address), port)
    zone = address.scope_id
    if zone is None:
        return (str(address), port, 0, 0)
    scope = int(zone) if zone.isascii() and zone.isdigit() else socket.if_nametoindex(zone)
    return (str(address).partition("%")[0], port, 0, scope)
