"""Sockets that fail while nobody reads or writes them.

A reset is met by the next read or write; but who waits for something else does neither, and after a
half-close the socket stays readable for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnel_wire import readiness
from tunnel_wire.run_local import RunLocal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_watches_of_this_loop: RunLocal[dict[int, readiness.Watch]] = RunLocal("tunnel_wire failures", dict)


def watch(sock: socket.socket, on_failure: Callable[[], None]) -> None:
    """Call `on_failure` once if `sock` fails: reset, timed out. It must not raise.

    `forget` the socket before closing it.
    """
    watches = _watches_of_this_loop()
    number = sock.fileno()

    def on_ready(events: int) -> None:
        # Hung up alone: both directions have ended properly, and nothing is left to watch.
        watches.pop(number).close()
        if events & readiness.FAILED:
            on_failure()

    watches[number] = readiness.watch(sock, on_ready, on_failure)


def forget(sock: socket.socket) -> None:
    """End what `watch` began; nothing happens if it has ended."""
    watched = _watches_of_this_loop().pop(sock.fileno(), None)
    if watched is not None:
        watched.close()
