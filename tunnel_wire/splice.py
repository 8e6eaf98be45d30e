"""Join a local TCP socket and a tunnel stream: bytes, ends and resets, both ways.

FIN to END_STREAM and RST to RST_STREAM, and back, never one for the other: a truncated body must not look
complete.

Nothing here is a task but whoever waits for the end: the socket calls when it is ready (`readiness.py`), the
stream when something came (as its face), and each call moves what it can at once.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import trio

from tunnel_wire.flow import SEGMENT
from tunnel_wire.frames import ErrorCode
from tunnel_wire.readiness import FAILED, HUNG_UP, READABLE, WRITABLE, Watch, watch
from tunnel_wire.session import LOST, EndCause, State
from tunnel_wire.sockets import (
    close_properly,
    close_with_reset,
    closed_whole,
    reset_unless_closed_properly,
    unacknowledged,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.session import Stream
    from tunnel_wire.stream import TunnelStream

_TURN = SEGMENT
"""Bytes that one direction moves before other sockets get their turn."""
_COPY_BELOW = SEGMENT * 3 // 4
"""A shorter read is copied: the budget counts bytes, and a kept segment must not hold much more. In bulk
hardly any read is as short.
"""
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
    detail: str = ""
    """More about the end, for the log."""


async def splice(
    tunnel: TunnelStream,
    sock: socket.socket,
    result: SpliceResult | None = None,
    *,
    ends_by_halves: bool = False,
    is_pooled: Callable[[bytes], bool | None] | None = None,
    caller_is_far: bool = False,
) -> SpliceResult:
    """Carry bytes between `sock` (non-blocking) and `tunnel` until both have ended or one is reset.

    Both are closed afterwards. Counts go to `result` as they happen. Cancelled, both are reset, and
    trio.Cancelled goes on. Raises nothing else.

    A Unix socket knows no reset. With `ends_by_halves` its peer has promised to shut its direction down
    before it closes: when it closes both at once, it was reset or killed.

    `is_pooled` is given what the caller says until it knows whether many requests share the connection
    (None: more is needed). If so, it waits for `resume_grace_pooled` only when its link is lost. The caller
    is at the socket, or with `caller_is_far` at the other end of the tunnel.
    """
    splicer = _Splice(tunnel.release(), sock, result or SpliceResult(), ends_by_halves=ends_by_halves)
    if caller_is_far:
        splicer.is_pooled_far = is_pooled
    else:
        splicer.is_pooled = is_pooled
    await splicer.run()
    return splicer.result


class _Splice:
    """The stream's face, and the socket's."""

    def __init__(
        self, stream: Stream, sock: socket.socket, result: SpliceResult, *, ends_by_halves: bool
    ) -> None:
        self._ends_by_halves = ends_by_halves
        self.is_pooled: Callable[[bytes], bool | None] | None = None
        """Asked of what is read, until it knows."""
        self.is_pooled_far: Callable[[bytes], bool | None] | None = None
        """Asked of what comes from the tunnel."""
        self._stream = stream
        self._sock = sock
        self.result = result
        self._watch: Watch | None = None
        self._taken = 0
        """Bytes of the first piece in `incoming.queue` that the socket has taken."""
        self._life = trio.CancelScope()
        self._done = trio.Event()
        self._read_all = False
        """The socket's direction has ended, and the stream's with it."""
        self._written_all = False
        """The stream's direction has ended, and the socket's with it."""
        self._failed = False
        """The socket has failed. Whoever met the error first took it: others see what looks like an end."""

    async def run(self) -> None:
        stream, result = self._stream, self.result
        stream.face = self
        reset_unless_closed_properly(self._sock)
        try:
            self._watch = watch(self._sock, self._on_ready, self._life.cancel, READABLE)
            if stream.state is State.CLOSED:
                self._life.cancel()
            self._write_out()
            # Most callers have spoken by now, and need not call for it.
            self._read_in()
            with self._life:
                await self._done.wait()
            result.end = End.FINISHED if self._read_all and self._written_all else self._why()
        finally:
            self._unwatch()
            try:
                if result.end in (End.REMOTE_RESET, End.LINK_LOST):
                    await self._drain()
            finally:
                self._close()

    def _why(self) -> End:
        match self._stream.end_cause:
            case None | EndCause.LOCAL_RESET:
                return End.LOCAL_RESET
            case cause if cause in LOST:
                self.result.detail = cause.value
                return End.LINK_LOST
            case _:
                return End.REMOTE_RESET

    def _close(self) -> None:
        """Close both ends as their other side deserves."""
        stream, sock, end = self._stream, self._sock, self.result.end
        now = trio.current_time()
        if end is End.LOCAL_RESET:
            stream.reset_behind_data(ErrorCode.CONNECT_ERROR, now)
        elif end is End.CANCELLED:
            stream.reset(ErrorCode.CANCEL)
        else:
            stream.abandon(now)
        stream.face = None
        stream.flush()
        if end is End.FINISHED:
            close_properly(sock)
        else:
            close_with_reset(sock)

    async def _drain(self) -> None:
        """Let the local peer take what came before the reset, for a bounded time."""
        with trio.move_on_after(_DRAIN_LIMIT):
            while self._stream.incoming.queue and not self._failed:
                if not self._send_queued():
                    await trio.lowlevel.wait_writable(self._sock)
            # The kernel tells nobody when it falls to 0.
            while not self._failed and unacknowledged(self._sock):  # noqa: ASYNC110
                await trio.sleep(_DRAIN_POLL)

    # --- the socket calls -------------------------------------------------------------------------

    def _on_ready(self, events: int) -> None:
        if events & FAILED:
            # Nobody need be reading or writing just now: what came before the reset gets a bounded time.
            self._failed = True
            self._life.deadline = trio.current_time() + _DRAIN_LIMIT
        if events & (FAILED | HUNG_UP):
            # Told once: from now on it would be told for ever.
            self._unwatch()
        if events & WRITABLE:
            self._write_out()
        if events & ~WRITABLE:
            self._read_in()

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _want(self) -> None:
        """Be called for what there is to do: ready for anything else, the socket would call for ever."""
        if self._watch is not None:
            reading = READABLE if not self._read_all and self._stream.room() else 0
            writing = WRITABLE if self._stream.incoming.queue else 0
            self._watch.want(reading | writing)

    def _end(self) -> None:
        """Both directions have ended, or the socket has failed."""
        self._unwatch()
        self._done.set()

    # --- socket to tunnel -------------------------------------------------------------------------

    def _read_in(self) -> None:
        stream, sock, pool = self._stream, self._sock, self._stream.session.pool
        left = _TURN
        while not self._read_all and not self._done.is_set():
            room = stream.room()
            if not room:
                # What is queued must not wait for the peer's credit: that is its answer.
                stream.flush()
                if not (room := stream.room()):
                    break
            segment = pool.take()
            wanted = min(room, SEGMENT)
            try:
                size = sock.recv_into(segment, wanted)
            except BlockingIOError:
                pool.give(segment)
                break
            except OSError:
                pool.give(segment)
                self._end()
                break
            if not size:
                pool.give(segment)
                self._read_end()
                break
            if self.is_pooled is not None:
                pooled = self.is_pooled(bytes(memoryview(segment)[:size]))
                if pooled is not None:
                    stream.is_pooled, self.is_pooled = pooled, None
            if size < _COPY_BELOW:
                stream.write(bytes(memoryview(segment)[:size]))
                pool.give(segment)
            else:
                stream.write(memoryview(segment)[:size], segment)
            self.result.to_tunnel += size
            left -= size
            # A short read has most likely emptied the socket. One that has hung up does not call again.
            if (size < wanted or left <= 0) and self._watch is not None:
                break
        stream.flush()
        self._want()

    def _read_end(self) -> None:
        sock = self._sock
        if self._failed or (self._ends_by_halves and not self._written_all and closed_whole(sock)):
            self._end()
            return
        self._read_all = True
        self._stream.write_end()
        if self._written_all:
            self._end()

    # --- tunnel to socket -------------------------------------------------------------------------

    def _write_out(self) -> None:
        if self._send_queued() and self._stream.incoming.end is not None:
            self._write_end()
        self._stream.flush()
        self._want()

    def _send_queued(self) -> bool:
        """Send what is queued, and say whether that was all."""
        stream, queue = self._stream, self._stream.incoming.queue
        left = _TURN
        while queue and left > 0:
            piece = memoryview(queue[0])[self._taken :]
            sent = self._send(piece)
            if not sent:
                return False
            if sent == len(piece):
                queue.popleft()
                self._taken = 0
            else:
                self._taken += sent
            left -= sent
            stream.consume(sent, trio.current_time())
        return not queue

    def _send(self, data: memoryview) -> int:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._failed = True
            self._end()
            return 0
        self.result.from_tunnel += sent
        return sent

    def _write_end(self) -> None:
        if self._written_all:
            return
        self._written_all = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._written_all = False
            self._failed = True
            self._end()
            return
        if self._read_all:
            self._end()

    # --- the stream calls: StreamFace -------------------------------------------------------------

    def on_answer(self) -> None:
        """Never here: it is open."""

    def on_data(self, data: memoryview) -> None:
        """Pass it on at once where that is possible, else queue a copy."""
        if self.is_pooled_far is not None:
            pooled = self.is_pooled_far(bytes(data))
            if pooled is not None:
                self._stream.is_pooled, self.is_pooled_far = pooled, None
        queue = self._stream.incoming.queue
        if not queue and not self._failed:
            sent = self._send(data)
            if sent:
                self._stream.consume(sent, trio.current_time())
                if sent == len(data):
                    return
                data = data[sent:]
        self._stream.incoming.keep(data)
        self._want()

    def on_end(self) -> None:
        """The peer's direction has ended."""
        if not self._stream.incoming.queue:
            self._write_end()

    def on_reset(self) -> None:
        """The stream is gone."""
        self._life.cancel()

    def on_room(self) -> None:
        """Read on, if it was the peer's credit that was missing."""
        if not self._read_all and (self._watch is None or not self._watch.wanted & READABLE):
            self._read_in()
