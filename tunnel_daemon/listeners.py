"""Listening TCP sockets, and in one line why there are none."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from tunnel_daemon import inheritance
from tunnel_daemon.program import ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterable

BACKLOG = 1024  # connections; the kernel's somaxconn bounds it further


async def open_tcp_listeners(
    hosts: Iterable[str], port: int, *, setting: str, backlog: int = BACKLOG
) -> list[trio.SocketListener]:
    """Listen on `port` (0: any free one) of each address; all of them, or none.

    `setting` is the key to change if that fails: ProgramError names it. An IPv6 address takes
    IPv6 callers only, so that "0.0.0.0" and "::" go together. A socket that this process was given for the
    place (`inheritance`) is taken instead of a new one.
    """
    listeners: list[trio.SocketListener] = []
    try:
        for host in hosts:
            given = inheritance.claim_tcp(host, port)
            if given is None:
                listeners += await _listen(host, port, setting, backlog)
            else:
                listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(given)))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    for listener in listeners:
        inheritance.note(listener, setting)
    return listeners


async def _listen(host: str, port: int, setting: str, backlog: int) -> list[trio.SocketListener]:
    try:
        # ASCII as bytes: text has Python load its IDNA tables.
        named = host.encode() if host.isascii() else host
        return await trio.open_tcp_listeners(port, host=named, backlog=backlog)
    except OSError as error:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        why = _why(error, setting)
        if error.errno == errno.EADDRINUSE:
            # Only then; a program that was replaced meanwhile may not have it any more.
            with suppress(ImportError):
                from tunnel_daemon.port_owner import why_taken

                why = await trio.to_thread.run_sync(why_taken, host, port, setting)
        raise ProgramError(f"can't listen on {place}: {why}") from None


def _why(error: OSError, setting: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"another program has the port; stop it, or set another {setting}"
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that address; see `ip address`"
        case errno.EACCES:
            return f"ports below 1024 need CAP_NET_BIND_SERVICE; grant it, or set another {setting}"
        case errno.EAFNOSUPPORT:
            return "this machine does not speak that address family; remove the address"
    return (error.strerror or str(error)).lower()
