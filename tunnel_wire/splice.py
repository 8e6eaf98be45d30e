"""Join a local TCP socket and a tunnel stream: bytes, ends and resets, both ways.

FIN to END_STREAM and RST to RST_STREAM, and back, never one for the other: a truncated body must not look
complete.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import trio

from tunnel_wire.failures import forget, watch
from tunnel_wire.flow import SEGMENT
from tunnel_wire.frames import ErrorCode
from tunnel_wire.session import EndCause
from tunnel_wire.sockets import (
    close_properly,
    close_with_reset,
    closed_whole,
    reset_unless_closed_properly,
    unacknowledged,
)

if TYPE_CHECKING:
    from tunnel_wire.stream import TunnelStream

_TURN = 1024 * 1024
"""Bytes read from the socket before other tasks get their turn."""
_COPY_BELOW = 64 * 1024
"""A shorter read is copied, so that a kept segment is never mostly empty."""
_DRAIN_LIMIT = 1.0
"""Seconds that a reset waits for the other side to take what came before it."""
_DRAIN_POLL = 0.01


class End(StrEnum):
    """How a spliced connection ended."""

    FINISHED = "finished"
    LOCAL_RESET = "local-reset"
    """The socket's peer reset it, or went away."""
    REMOTE_RESET = "remote-reset"
    """The other end of the tunnel reset it."""
    LINK_LOST = "link-lost"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class SpliceResult:
    """What went through. Bytes are counted from the socket's point of view."""

    to_tunnel: int = 0
    from_tunnel: int = 0
    end: End = End.CANCELLED


class _LocalReset(Exception):
    """The local socket failed."""


async def splice(
    tunnel: TunnelStream,
    sock: socket.socket,
    result: SpliceResult | None = None,
    *,
    ends_by_halves: bool = False,
) -> SpliceResult:
    """Carry bytes between `sock` (non-blocking) and `tunnel` until both have ended or one is reset.

    Both are closed afterwards. Counts go to `result` as they happen. Cancelled, both are reset, and
    trio.Cancelled goes on. Raises nothing else.

    A Unix socket knows no reset. With `ends_by_halves` its peer has promised to shut its direction down
    before it closes: when it closes both at once, it was reset or killed.
    """
    splicer = _Splice(tunnel, sock, result or SpliceResult(), ends_by_halves=ends_by_halves)
    await splicer.run()
    return splicer.result


class _Splice:
    def __init__(
        self, tunnel: TunnelStream, sock: socket.socket, result: SpliceResult, *, ends_by_halves: bool
    ) -> None:
        self._ends_by_halves = ends_by_halves
        self._tunnel = tunnel
        self._sock = sock
        self.result = result
        self._life = trio.CancelScope()
        self._failed = False
        """The socket has failed. Whoever met the error first took it: others see what looks like an end."""
        self._ended = False
        """The tunnel has ended its direction, and so have we."""

    async def run(self) -> None:
        tunnel, result = self._tunnel, self.result
        tunnel.sink = self._sink
        tunnel.on_broken = self._life.cancel
        reset_unless_closed_properly(self._sock)
        try:
            watch(self._sock, self._on_failure)
            if tunnel.end_cause is not None:
                self._life.cancel()
            finished = False
            try:
                with self._life:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._from_tunnel)
                        await self._to_tunnel()
                    finished = True
            except* (_LocalReset, trio.BrokenResourceError):
                pass
            result.end = End.FINISHED if finished else self._why()
        finally:
            try:
                if result.end in (End.REMOTE_RESET, End.LINK_LOST):
                    await self._drain()
            finally:
                self._close()

    def _why(self) -> End:
        match self._tunnel.end_cause:
            case None | EndCause.LOCAL_RESET:
                return End.LOCAL_RESET
            case EndCause.LINK_LOST:
                return End.LINK_LOST
            case _:
                return End.REMOTE_RESET

    def _on_failure(self) -> None:
        """Nobody need be reading or writing just now: what came before the reset gets a bounded time."""
        self._failed = True
        self._life.deadline = trio.current_time() + _DRAIN_LIMIT

    def _close(self) -> None:
        """Close both ends as their other side deserves."""
        tunnel, sock, end = self._tunnel, self._sock, self.result.end
        tunnel.sink = tunnel.on_broken = None
        forget(sock)
        if end is End.FINISHED:
            tunnel.close()
            close_properly(sock)
            return
        if end is End.LOCAL_RESET:
            tunnel.reset(ErrorCode.CONNECT_ERROR, behind_data=True)
        elif end is End.CANCELLED:
            tunnel.reset(ErrorCode.CANCEL)
        else:
            tunnel.close()
        close_with_reset(sock)

    async def _drain(self) -> None:
        """Let the local peer take what came before the reset, for a bounded time."""
        with trio.move_on_after(_DRAIN_LIMIT):
            try:
                await self._from_tunnel()
            except (trio.BrokenResourceError, _LocalReset):
                pass
            # The kernel tells nobody when it falls to 0.
            while unacknowledged(self._sock) and not self._failed:  # noqa: ASYNC110
                await trio.sleep(_DRAIN_POLL)

    # --- socket to tunnel -------------------------------------------------------------------------

    async def _to_tunnel(self) -> None:
        tunnel, sock, pool = self._tunnel, self._sock, self._tunnel.pool
        turn = 0
        while True:
            if not (room := tunnel.room()):
                # Nothing may be held back while we wait: the peer's credit is its answer.
                tunnel.flush()
                room = await tunnel.wait_room()
            segment = pool.take()
            try:
                size = sock.recv_into(segment, min(room, SEGMENT))
            except BlockingIOError:
                pool.give(segment)
                tunnel.flush()
                await trio.lowlevel.wait_readable(sock)
                turn = 0
                continue
            except OSError as exc:
                pool.give(segment)
                raise _LocalReset from exc
            if not size:
                pool.give(segment)
                if self._failed or (self._ends_by_halves and not self._ended and closed_whole(sock)):
                    raise _LocalReset
                tunnel.end()
                return
            if size < _COPY_BELOW:
                tunnel.write(bytes(memoryview(segment)[:size]))
                pool.give(segment)
            else:
                tunnel.write(memoryview(segment)[:size], segment)
            self.result.to_tunnel += size
            turn += size
            if size < min(room, SEGMENT):
                # A short read has most likely emptied the socket.
                tunnel.flush()
                await trio.lowlevel.wait_readable(sock)
                turn = 0
            elif turn >= _TURN:
                tunnel.flush()
                await trio.lowlevel.checkpoint()
                turn = 0

    # --- tunnel to socket -------------------------------------------------------------------------

    def _sink(self, data: memoryview) -> int:
        """Called by the link's reader while nothing is queued: the fastest way, without a task switch."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            # It is queued, and the task below meets the error again.
            self._failed = True
            return 0
        self.result.from_tunnel += sent
        return sent

    async def _from_tunnel(self) -> None:
        tunnel, sock = self._tunnel, self._sock
        while True:
            data = await tunnel.wait_arrival()
            if data is None:
                self._ended = True
                try:
                    sock.shutdown(socket.SHUT_WR)
                except OSError as exc:
                    raise _LocalReset from exc
                return
            try:
                sent = sock.send(data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)
                continue
            except OSError as exc:
                self._failed = True
                raise _LocalReset from exc
            self.result.from_tunnel += sent
            tunnel.took(sent)
