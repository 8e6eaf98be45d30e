"""Sockets that fail while nobody reads or writes them.

A reset is met by the next read or write; but who waits for something else does neither, and after a
half-close the socket stays readable for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tunnel_wire import readiness

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_watches: trio.lowlevel.RunVar[dict[int, readiness.Watch]] = trio.lowlevel.RunVar("tunnel_wire failures")


def watch(sock: socket.socket, on_failure: Callable[[], None]) -> None:
    """Call `on_failure` once if `sock` fails: reset, timed out. It must not raise.

    `forget` the socket before closing it.
    """
    try:
        watches = _watches.get()
    except LookupError:
        watches = {}
        _watches.set(watches)
    number = sock.fileno()

    def on_ready(events: int) -> None:
        # Hung up alone: both directions have ended properly, and nothing is left to watch.
        watches.pop(number).close()
        if events & readiness.FAILED:
            on_failure()

    watches[number] = readiness.watch(sock, on_ready, on_failure)


def forget(sock: socket.socket) -> None:
    """End what `watch` began; nothing happens if it has ended."""
    watched = _watches.get().pop(sock.fileno(), None)
    if watched is not None:
        watched.close()
