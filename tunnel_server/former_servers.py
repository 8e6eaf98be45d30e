"""Servers that were replaced and still have calls: what they tell their successor, and what it has them do.

Each has one connection with whoever serves now, on which it says each second how many calls it has. When that
one is replaced itself, it gives the connections away with all else.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tunnel_server.admin.views import PredecessorView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnel_server.metrics import Metrics

log = logging.getLogger(__name__)

_EVERY = 1.0
"""Seconds between two reports."""
_CALLS, _REOPEN = b"calls ", b"reopen\n"
_MOST = 4096
"""Bytes that are read at once: many reports, which are each written at once."""


@dataclass(eq=False)
class FormerServer:
    """One that was replaced, as its successor knows it."""

    pid: int
    version: str
    stream: trio.SocketStream
    calls: int = 0

    @property
    def descriptor(self) -> int:
        """Of the connection with it."""
        return self.stream.socket.fileno()


class FormerServers:
    """Those that live still."""

    def __init__(self) -> None:
        self._living: dict[FormerServer, trio.CancelScope] = {}

    def __iter__(self) -> Iterator[FormerServer]:
        return iter(list(self._living))

    def views(self) -> tuple[PredecessorView, ...]:
        """For the status, the last first."""
        return tuple(
            PredecessorView(pid=each.pid, version=each.version, calls_open=each.calls)
            for each in self._living
        )

    def count(self, metrics: Metrics) -> None:
        """Set the gauges: those processes have none that anybody could ask."""
        metrics.predecessors.set(len(self._living))
        metrics.predecessors_calls_open.set(sum(each.calls for each in self._living))

    async def reopen_logs(self) -> None:
        """Have each open its audit log again: the file was moved, and only this process has the signal."""
        for each in self:
            with trio.move_on_after(_EVERY), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await each.stream.send_all(_REOPEN)

    def give_away(self) -> None:
        """They are another server's now: listen to them no more."""
        for listening in self._living.values():
            listening.cancel()

    async def watch(self, former: FormerServer) -> None:
        """Listen to it until it has ended, or is given away; closes the connection."""
        listening = self._living[former] = trio.CancelScope()
        try:
            with listening, suppress(trio.BrokenResourceError):
                async with former.stream:
                    while said := await former.stream.receive_some(_MOST):
                        former.calls = _last_count(bytes(said), former.calls)
            if not listening.cancelled_caught:
                log.info("process %d, which this server took over from, has ended", former.pid)
        finally:
            del self._living[former]


def _last_count(said: bytes, before: int) -> int:
    _, found, number = said.rstrip(b"\n").rpartition(_CALLS)
    return int(number) if found and number.isdigit() else before


async def report(successor: trio.SocketStream, calls: Callable[[], int], reopen: Callable[[], None]) -> None:
    """Tell the successor how many calls there are, and do what it asks, until it has gone."""
    async with successor, trio.open_nursery() as nursery:

        async def obey() -> None:
            with suppress(trio.BrokenResourceError):
                async for said in successor:
                    if _REOPEN in said:
                        reopen()
            nursery.cancel_scope.cancel()

        nursery.start_soon(obey)
        with suppress(trio.BrokenResourceError):
            while True:
                await successor.send_all(b"%b%d\n" % (_CALLS, calls()))
                await trio.sleep(_EVERY)
