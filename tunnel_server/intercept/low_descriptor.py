"""A descriptor below those of all connections, for the socket that owns the table.

The kernel closes the descriptors of a process that is killed from the highest to the lowest. A connection
above that socket resets its caller while addresses are still translated; the reset of one below it would
reach nobody, and its caller wait for ever. Numbers that become free while a server takes over would be such.
"""

from __future__ import annotations

import os
import socket

_reserved: list[int] = []


def reserve() -> None:
    """Keep the lowest number that is free: to be called before a socket is opened or received."""
    if not _reserved:
        _reserved.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def move(sock: socket.socket) -> socket.socket:
    """The same socket by the number that is kept, if one is."""
    if not _reserved:
        return sock
    number = _reserved.pop()
    os.dup2(sock.fileno(), number, inheritable=False)
    sock.close()
    return socket.socket(fileno=number)
