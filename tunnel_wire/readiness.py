"""Sockets that call back when they are ready, without a task each.

One level-triggered epoll for the event loop (epoll(7)) has them all, and trio's own epoll as one of them.
With trio's `wait_readable` each wake-up costs a registration and a task switch; here sockets that are ready
share what a wake-up costs, and where nothing else is due they take turn after turn without a turn of trio's
loop. An echo through both ends takes a quarter less for it. A callback does a bounded piece of work, and is
called again while there is more.

Trio has no public place for this. It leans on how this minor release waits: `run` asks its `io_manager` for
events, and passes them back to it.
"""

from __future__ import annotations

import logging
import select
import time
from typing import TYPE_CHECKING, Any, Final

from trio._core._run import GLOBAL_RUN_CONTEXT  # see above

from tunnel_wire.run_local import RunLocal

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

log = logging.getLogger(__name__)

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
FAILED: Final = select.EPOLLERR
"""Always reported, wanted or not: the socket was reset, or timed out."""
HUNG_UP: Final = select.EPOLLHUP
"""Always reported: both directions have ended."""


class Watch:
    """One socket's registration. Close it before the socket."""

    __slots__ = ("_number", "_poller", "on_defect", "on_ready", "since", "wanted")

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
        self.since = poller.rounds
        poller.add(number, self, events)

    def want(self, events: int) -> None:
        """Be called for these from now on (`READABLE | WRITABLE`, or 0), besides `FAILED` and `HUNG_UP`."""
        if events != self.wanted and self._number >= 0:
            self.wanted = events
            self._poller.epoll.modify(self._number, events)

    def close(self) -> None:
        """Be called no more. Closing it again does nothing."""
        if self._number >= 0:
            self._poller.remove(self._number, self)
            self._number = -1
            # Whoever is called has this: a cycle, for the collector, of each connection that ends.
            self.on_ready, self.on_defect = _nothing_ready, _nothing


class _Poller:
    """Trio's `io_manager`, with our epoll in front of its own."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        self.rounds = 0
        self._runner = GLOBAL_RUN_CONTEXT.runner
        self._trios = self._runner.io_manager
        self._trios_number = self._trios._epoll.fileno()  # noqa: SLF001 - see the module's docstring
        self.epoll.register(self._trios_number, READABLE)
        self._runner.io_manager = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else trio asks of it
        return getattr(self._trios, name)

    def close(self) -> None:
        """Trio's run is over."""
        self.epoll.close()
        self._trios.close()

    def add(self, number: int, watch: Watch, events: int) -> None:
        self.epoll.register(number, events)
        self._watches[number] = watch

    def remove(self, number: int, watch: Watch) -> None:
        # The number may be another's by now, if the socket was closed first.
        if self._watches.get(number) is watch:
            del self._watches[number]
            self.epoll.unregister(number)

    def get_events(self, timeout: float) -> list[tuple[int, int]]:
        """Wait at most `timeout` seconds for something that concerns trio, serving sockets meanwhile.

        Empty only if nothing at all has happened.
        """
        runner, poll, watches = self._runner, self.epoll.poll, self._watches
        next_deadline, clock = runner.deadlines.next_deadline, time.perf_counter
        deadline, ends = next_deadline(), clock() + timeout
        trios = served = False
        while ready := poll(timeout):
            self.rounds += 1
            for number, events in ready:
                # Another callback of this round may have closed it, and yet another have got its number for a
                # new socket, of which this says nothing.
                watch = watches.get(number)
                if watch is None:
                    trios = trios or number == self._trios_number
                elif watch.since != self.rounds:
                    served = True
                    try:
                        watch.on_ready(events)
                    except Exception:
                        # A defect costs its own connection, and not all the others.
                        log.exception("serving a socket failed")
                        on_defect = watch.on_defect
                        watch.close()
                        on_defect()
            if trios:
                return self._trios.get_events(0) or [_SERVED]
            timeout = ends - clock()
            if (
                timeout <= 0
                # Woken by a callback, or waiting until nothing happens any more.
                or runner.runq
                or runner.waiting_for_idle
                or next_deadline() < deadline
            ):
                break
        return [_SERVED] if served else []

    def process_events(self, events: list[tuple[int, int]]) -> None:
        """Reschedule the tasks that waited for these."""
        if events != [_SERVED]:
            self._trios.process_events(events)


def _nothing_ready(events: int) -> None:
    pass


def _nothing() -> None:
    pass


_SERVED: Final = (-1, 0)
"""An event that is none of trio's, but not nothing."""

_poller_of_this_loop = RunLocal("tunnel_wire poller", _Poller)


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
    return Watch(_poller_of_this_loop(), sock.fileno(), events, on_ready, on_defect)
