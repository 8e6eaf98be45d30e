"""A local TCP socket and a tunnel stream joined: for a task that waits for the end, or without one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tunnel_wire.splice_result import End, SpliceResult
from tunnel_wire.splicing import Splicing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tunnel_wire.owner import Owner
    from tunnel_wire.readiness import Watch
    from tunnel_wire.session import Stream
    from tunnel_wire.splicing import IsPooled
    from tunnel_wire.stream import TunnelStream

__all__ = ["End", "OwnedSplice", "SpliceResult", "splice"]

log = logging.getLogger(__name__)


async def splice(
    tunnel: TunnelStream,
    sock: socket.socket,
    result: SpliceResult | None = None,
    *,
    ends_by_halves: bool = False,
    is_pooled: IsPooled | None = None,
    caller_is_far: bool = False,
) -> SpliceResult:
    """Carry bytes between `sock` (non-blocking) and `tunnel` until both have ended or one is reset.

    Both are closed afterwards. Counts go to `result` as they happen. Cancelled, both are reset, and
    trio.Cancelled goes on. Raises nothing else. The rest as for `Splicing`.
    """
    over = trio.Event()
    splicing = Splicing(
        tunnel.release(),
        sock,
        result or SpliceResult(),
        over.set,
        ends_by_halves=ends_by_halves,
        is_pooled=is_pooled,
        caller_is_far=caller_is_far,
    )
    try:
        splicing.start()
        await over.wait()
        await splicing.drain()
    finally:
        splicing.close()
    return splicing.result


class OwnedSplice:
    """The same without a task: an `Owner` has it, and `on_end` is called once both are closed."""

    __slots__ = ("_on_end", "_owner", "_splicing")

    def __init__(
        self,
        owner: Owner,
        stream: Stream,
        sock: socket.socket,
        on_end: Callable[[SpliceResult], None],
        result: SpliceResult | None = None,
        *,
        is_pooled: IsPooled | None = None,
        caller_is_far: bool = False,
    ) -> None:
        self._owner = owner
        self._on_end: Callable[[SpliceResult], None] | None = on_end
        self._splicing = Splicing(
            stream,
            sock,
            result or SpliceResult(),
            self._over,
            is_pooled=is_pooled,
            caller_is_far=caller_is_far,
        )

    def start(self, watched: Watch | None = None) -> None:
        """As for `Splicing`. Never raises: what can't be carried ends."""
        self._owner.add(self)
        try:
            self._splicing.start(watched)
        except Exception:
            # A defect, or a kernel without memory, costs this connection and not the link whose reader asks.
            log.exception("joining a socket and a stream failed")
            self.cut()

    def cut(self) -> None:
        """End it now: what is not over is reset at both ends."""
        self._owner.discard(self)
        self._close()

    def _over(self) -> None:
        self._owner.discard(self)
        if self._splicing.drains:
            self._owner.start_soon(self._drain)
        else:
            self._close()

    async def _drain(self) -> None:
        try:
            await self._splicing.drain()
        finally:
            self._close()

    def _close(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._splicing.close()
            try:
                on_end(self._splicing.result)
            except Exception:
                log.exception("accounting for a connection failed")
