"""Sockets that fail while nobody reads or writes them.

A reset is met by the next read or write; but a stalled stream does neither, and after a half-close the socket
stays readable for ever. One epoll for the event loop watches for errors alone (EPOLLERR is always reported,
epoll_ctl(2)), at two system calls a socket.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class _Watcher:
    """The event loop's epoll, and the task that waits for it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def add(self, number: int, callback: Callable[[], None]) -> None:
        self._epoll.register(number, 0)
        self._callbacks[number] = callback

    def remove(self, number: int) -> None:
        if self._callbacks.pop(number, None) is not None:
            self._epoll.unregister(number)

    async def run(self) -> None:
        with self._epoll:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for number, events in self._epoll.poll(0):
                    # EPOLLHUP alone: both directions have ended properly, and nothing is left to watch.
                    self._epoll.unregister(number)
                    callback = self._callbacks.pop(number)
                    if events & select.EPOLLERR:
                        callback()


_watcher: trio.lowlevel.RunVar[_Watcher] = trio.lowlevel.RunVar("tunnel_wire failure watcher")


def watch(sock: socket.socket, on_failure: Callable[[], None]) -> None:
    """Call `on_failure` once if `sock` fails: reset, timed out. It must not raise.

    `forget` the socket before closing it.
    """
    try:
        watcher = _watcher.get()
    except LookupError:
        watcher = _Watcher()
        _watcher.set(watcher)
        trio.lowlevel.spawn_system_task(watcher.run)
    watcher.add(sock.fileno(), on_failure)


def forget(sock: socket.socket) -> None:
    """End what `watch` began; nothing happens if it has ended."""
    _watcher.get().remove(sock.fileno())
