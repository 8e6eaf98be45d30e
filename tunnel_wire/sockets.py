"""What the tunnel asks of Linux sockets beyond reading and writing."""

from __future__ import annotations

import array
import contextlib
import fcntl
import select
import socket
import struct
import termios
from typing import Final

_SIOCOUTQ: Final = termios.TIOCOUTQ
"""Bytes that the peer's kernel has not acknowledged (tcp(7))."""
_SIOCOUTQNSD: Final = 0x894B
"""Bytes that have not been sent yet (linux/sockios.h)."""
_TCP_NOTSENT_LOWAT: Final = 25
_TCP_USER_TIMEOUT: Final = 18
_LINK_STALL: Final = 15_000
"""Milliseconds that a link's peer may leave sent bytes unacknowledged or take none (tcp(7)): readers of
links never wait, so one that does has stopped.
"""
_LINGER_RESET: Final = struct.pack("ii", 1, 0)
_LINGER_OFF: Final = struct.pack("ii", 0, 0)

NOT_SENT_LOW_WATER: Final = 16 * 1024
"""Bytes not yet sent, below which the kernel calls a link's socket writable: what waits there can't be
overtaken.
"""


_KEEPALIVE_IDLE: Final = 30
"""Seconds without traffic after which the kernel asks a peer whether it is still there. A captured connection
that is half closed is forgotten by conntrack after 60, and with it where its packets go (nf_conntrack-sysctl:
tcp_timeout_close_wait) ...
"""
_KEEPALIVE_INTERVAL: Final = 15
"""... and asks again ..."""
_KEEPALIVE_COUNT: Final = 4
"""... so often: a peer that has vanished without a word is gone after a minute and a half."""


def prepare(sock: socket.socket, *, link: bool = False) -> socket.socket:
    """Non-blocking, without Nagle, with keepalive; a link also with a low-water mark. Returns the socket."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
        if link:
            set_low_water(sock, NOT_SENT_LOW_WATER)
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, _LINK_STALL)
    return sock


def set_low_water(sock: socket.socket, size: int) -> None:
    """Have the kernel call a TCP socket writable when less than `size` bytes of it are unsent."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, size)


def unacknowledged(sock: socket.socket) -> int:
    """Bytes in the socket's send queue that have not reached the peer; 0 if the kernel does not say."""
    return _queue(sock, _SIOCOUTQ)


def unsent(sock: socket.socket) -> int:
    """Bytes in the socket's send queue that have not left this host; 0 if the kernel does not say."""
    return _queue(sock, _SIOCOUTQNSD)


def _queue(sock: socket.socket, request: int) -> int:
    value = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), request, value)
    except (OSError, ValueError):
        return 0
    return value[0]


def closed_whole(sock: socket.socket) -> bool:
    """Whether a Unix socket's peer has closed both directions at once.

    Asked when the peer's direction has ended and ours has not: then it has not merely said that it is done.
    """
    if sock.family != socket.AF_UNIX:
        return False
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def reset_unless_closed_properly(sock: socket.socket) -> None:
    """Should this process be killed, the kernel resets the connection: its peer must see no clean end."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)


def close_properly(sock: socket.socket) -> None:
    """Close so that what is queued still reaches the peer, and a FIN behind it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
    sock.close()


def close_with_reset(sock: socket.socket) -> None:
    """Close so that a TCP peer sees a reset, and what is queued is dropped (SO_LINGER 0, socket(7))."""
    reset_unless_closed_properly(sock)
    sock.close()


def from_trio(stream_socket: object) -> socket.socket:
    """The plain non-blocking socket inside a `trio.socket`, which is left empty."""
    return prepare(socket.socket(fileno=stream_socket.detach()))  # type: ignore[attr-defined]
