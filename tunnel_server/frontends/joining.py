"""Join two ordinary streams: bytes, ends and resets, both ways. `tunnel_wire.splice` is for plain sockets.

A caller over TLS, or a target that this host dials itself, is no pair of tunnel stream and plain socket.
What holds there holds here: an end is passed on as an end, and a reset as a reset, behind what came before
it. Over TLS an end is close_notify; a connection that closes without it was cut, which is a reset.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeAlias

import trio

from tunnel_wire.failures import forget, watch
from tunnel_wire.frames import ErrorCode
from tunnel_wire.sockets import close_with_reset, unacknowledged
from tunnel_wire.splice import End, SpliceResult
from tunnel_wire.stream import TunnelStream
from tunnel_wire.stream_state import LOST
from tunnel_wire.tls_stream import TlsStream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

Side: TypeAlias = TunnelStream | TlsStream | trio.SocketStream

_PIECE = 64 * 1024
_DRAIN_LIMIT = 1.0
"""Seconds that a reset waits for the other side to take what came before it."""
_DRAIN_POLL = 0.01


async def join(
    near: Side, far: Side, result: SpliceResult, is_pooled: Callable[[bytes], bool | None]
) -> None:
    """Carry bytes between the caller, `near`, and the target, `far`, until both have ended or one was reset.

    Both are closed afterwards. Counts go to `result` as they happen. Cancelled, both are reset, and
    trio.Cancelled goes on. Raises nothing else. `is_pooled` is asked as by `splice`.
    """
    await _Join(near, far, result, is_pooled).run()


class _Join:
    def __init__(
        self, near: Side, far: Side, result: SpliceResult, is_pooled: Callable[[bytes], bool | None]
    ) -> None:
        self._near = near
        self._far = far
        self._result = result
        self._is_pooled: Callable[[bytes], bool | None] | None = is_pooled
        """Asked of what the caller says, until it knows."""
        self._life = trio.CancelScope()
        self._broken: Side | None = None
        """Which side failed first."""
        self._ended = 0
        """How many directions have come to their end, whether that could be passed on or not."""

    async def run(self) -> None:
        finished = False
        try:
            with contextlib.ExitStack() as stack:
                for side in (self._near, self._far):
                    stack.enter_context(self._watched(side))
                with self._life:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._carry, self._near, self._far)
                        nursery.start_soon(self._carry, self._far, self._near)
                    finished = self._broken is None
            self._result.end = End.FINISHED if finished else self._why()
            if not finished:
                await self._drain(self._far if self._broken is self._near else self._near)
        finally:
            if finished:
                await self._close()
            else:
                for side in (self._near, self._far):
                    _abort(side, ErrorCode.CANCEL if self._broken is None else ErrorCode.CONNECT_ERROR)

    async def _carry(self, source: Side, sink: Side) -> None:
        while True:
            try:
                data = await source.receive_some(_PIECE)
            except trio.BrokenResourceError:
                self._failed(source)
                self._life.cancel()
                return
            if not data and self._broken is source:
                # Whoever met the error first took it from the socket: here it looks like an end.
                self._life.cancel()
                return
            if not data:
                self._ended += 1
            elif source is self._near and self._is_pooled is not None:
                self._look(data)
            try:
                if not data:
                    await sink.send_eof()
                    return
                await sink.send_all(data)
            except trio.BrokenResourceError:
                self._failed(sink)
                # What the target said before it went still gets through, for a bounded time.
                if sink is self._near and data:
                    self._life.cancel()
                return
            if source is self._near:
                self._result.to_tunnel += len(data)
            else:
                self._result.from_tunnel += len(data)

    def _look(self, data: bytes) -> None:
        assert self._is_pooled is not None
        pooled = self._is_pooled(data)
        if pooled is not None:
            self._is_pooled = None
        if pooled and isinstance(self._far, TunnelStream):
            self._far.share()

    def _failed(self, side: Side) -> None:
        """Nobody need be reading or writing just now: what came before the reset gets a bounded time."""
        # A TLS peer that has ended, and closed its socket, answers our close_notify with a reset: it has all.
        if self._broken is None and self._ended < 2:
            self._broken = side
            self._life.deadline = trio.current_time() + _DRAIN_LIMIT

    def _why(self) -> End:
        if self._broken is self._near:
            return End.LOCAL_RESET
        cause = self._far.end_cause if isinstance(self._far, TunnelStream) else None
        if cause is not None and cause in LOST:
            self._result.detail = cause.value
            return End.LINK_LOST
        return End.REMOTE_RESET

    async def _drain(self, side: Side) -> None:
        """Let this side's peer take what came before the reset, for a bounded time."""
        sock = _socket(side)
        if sock is None:
            return  # the tunnel's reset travels behind its data by itself
        with trio.move_on_after(_DRAIN_LIMIT):
            while unacknowledged(sock):  # noqa: ASYNC110 - the kernel tells nobody when it falls to 0
                await trio.sleep(_DRAIN_POLL)

    async def _close(self) -> None:
        with trio.CancelScope(shield=True):  # neither waits for anybody
            await self._near.aclose()
            await self._far.aclose()

    @contextlib.contextmanager
    def _watched(self, side: Side) -> Iterator[None]:
        """Notice a failure of this side while nobody reads or writes it."""
        if isinstance(side, TunnelStream):
            side.on_broken = lambda: self._failed(side)
            if side.end_cause is not None:
                self._failed(side)
            try:
                yield
            finally:
                side.on_broken = None
            return
        sock = _socket(side)
        assert sock is not None
        watch(sock, lambda: self._failed(side))
        try:
            yield
        finally:
            forget(sock)


def _socket(side: Side) -> socket.socket | None:
    if isinstance(side, TlsStream):
        return side.socket
    if isinstance(side, trio.SocketStream):
        return side.socket  # type: ignore[return-value]  # trio's has the methods that are used here
    return None


def _abort(side: Side, code: int) -> None:
    if isinstance(side, TunnelStream):
        side.reset(code, behind_data=code != ErrorCode.CANCEL)
    elif isinstance(side, TlsStream):
        side.abort()
    elif side.socket.fileno() >= 0:
        close_with_reset(side.socket)  # type: ignore[arg-type]
