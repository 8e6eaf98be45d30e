"""Sockets that call back when they are ready, without a task each.

One level-triggered epoll for the event loop (epoll(7)), and one task that waits for it. With trio's own
`wait_readable` each wake-up costs a registration and a task switch; here all sockets that are ready share
them, and take turns: a callback does a bounded piece of work, and is called again while there is more.
"""

from __future__ import annotations

import logging
import select
import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

log = logging.getLogger(__name__)

_VISIT = 0.001
"""Seconds of rounds through the sockets that are ready before other tasks get their turn. A round costs a
twentieth of a turn of trio's loop, so a socket's turns can be short.
"""

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
FAILED = select.EPOLLERR
"""Always reported, wanted or not: the socket was reset, or timed out."""
HUNG_UP = select.EPOLLHUP
"""Always reported: both directions have ended."""


class Watch:
    """One socket's registration. Close it before the socket."""

    __slots__ = ("_number", "_poller", "on_defect", "on_ready", "wanted")

    def __init__(
        self,
        poller: _Poller,
        number: int,
        events: int,
        on_ready: Callable[[int], None],
        on_defect: Callable[[], None],
    ) -> None:
        self._poller = poller
        self._number = number
        self.wanted = events
        self.on_ready = on_ready
        self.on_defect = on_defect
        poller.add(number, self, events)

    def want(self, events: int) -> None:
        """Be called for these from now on (`READABLE | WRITABLE`, or 0), besides `FAILED` and `HUNG_UP`."""
        if events != self.wanted and self._number >= 0:
            self.wanted = events
            self._poller.epoll.modify(self._number, events)

    def close(self) -> None:
        """Be called no more. Closing it again does nothing."""
        if self._number >= 0:
            self._poller.remove(self._number)
            self._number = -1


class _Poller:
    """The event loop's epoll, and the task that waits for it."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._watches: dict[int, Watch] = {}

    def add(self, number: int, watch: Watch, events: int) -> None:
        self.epoll.register(number, events)
        self._watches[number] = watch

    def remove(self, number: int) -> None:
        del self._watches[number]
        self.epoll.unregister(number)

    async def run(self) -> None:
        with self.epoll:
            while True:
                await trio.lowlevel.wait_readable(self.epoll.fileno())
                ends = time.perf_counter() + _VISIT
                while (ready := self.epoll.poll(0)) and self._round(ready) < ends:
                    pass

    def _round(self, ready: list[tuple[int, int]]) -> float:
        """Give each that is ready its turn. Returns the time afterwards."""
        watches = self._watches
        for number, events in ready:
            # Another callback of this round may have closed it.
            watch = watches.get(number)
            if watch is not None:
                try:
                    watch.on_ready(events)
                except Exception:
                    # A defect costs its own connection, and not all the others.
                    log.exception("serving a socket failed")
                    watch.close()
                    watch.on_defect()
        return time.perf_counter()


_poller: trio.lowlevel.RunVar[_Poller] = trio.lowlevel.RunVar("tunnel_wire poller")


def watch(
    sock: socket.socket,
    on_ready: Callable[[int], None],
    on_defect: Callable[[], None],
    events: int = 0,
) -> Watch:
    """Have `on_ready` called from the event loop whenever the non-blocking `sock` is ready for `events`.

    It gets what is ready, of which any may have passed meanwhile. Should it raise, that is logged, and
    `on_defect` is called once and nothing any more.
    """
    try:
        poller = _poller.get()
    except LookupError:
        poller = _Poller()
        _poller.set(poller)
        trio.lowlevel.spawn_system_task(poller.run)
    return Watch(poller, sock.fileno(), events, on_ready, on_defect)
