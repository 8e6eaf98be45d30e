"""A local TCP socket and a tunnel stream, joined: bytes, ends and resets, both ways.

FIN to END_STREAM and RST to RST_STREAM, and back, never one for the other: a truncated body must not look
complete.

Nothing here is a task: the socket calls when it is ready (`readiness.py`), the stream when something came (as
its face), and each call moves what it can at once. `splice.py` has it for a task that waits for its end.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import trio

from tunnel_wire.flow import SEGMENT
from tunnel_wire.frames import ErrorCode
from tunnel_wire.readiness import FAILED, HUNG_UP, READABLE, WRITABLE, Watch, watch
from tunnel_wire.sockets import (
    close_properly,
    close_with_reset,
    closed_whole,
    reset_unless_closed_properly,
    unacknowledged,
)
from tunnel_wire.splice_result import End
from tunnel_wire.stream_state import LOST, EndCause, State, StreamFace
from tunnel_wire.timers import Timer
from tunnel_wire.turns import RECEIVED, SENT, SHORT, Messages, turns_of_this_loop

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.session import Stream
    from tunnel_wire.splice_result import SpliceResult

    IsPooled = Callable[[bytes], bool | None]

_COPY_BELOW: Final = SEGMENT * 3 // 4
"""A shorter read is copied: the budget counts bytes, and a kept segment must not hold much more. In bulk
hardly any read is as short.
"""
_DRAIN_LIMIT: Final = 1.0
"""Seconds that a reset waits for the other side to take what came before it."""
_DRAIN_POLL: Final = 0.01


class Splicing(StreamFace):
    """The stream's face, and the socket's. `start` it, and `close` it once it is over, or before.

    When it is over it says so by `on_over`, once, from within whatever call ended it, and both ends stay open
    until `close`: after a reset from the tunnel `drain` lets the socket's peer take what came before.

    A Unix socket knows no reset. With `ends_by_halves` its peer has promised to shut its direction down
    before it closes: when it closes both at once, it was reset or killed.

    `is_pooled` is given what the caller says until it knows whether many requests share the connection
    (None: more is needed). If so, it waits for `resume_grace_pooled` only when its link is lost. The caller
    is at the socket, or with `caller_is_far` at the other end of the tunnel.
    """

    __slots__ = (
        "_ends_by_halves",
        "_failed",
        "_is_pooled",
        "_is_pooled_far",
        "_messages",
        "_on_over",
        "_patience",
        "_read_all",
        "_sock",
        "_stream",
        "_taken",
        "_targets_side",
        "_time",
        "_turns",
        "_watch",
        "_written_all",
        "over",
        "result",
    )

    def __init__(
        self,
        stream: Stream,
        sock: socket.socket,
        result: SpliceResult,
        on_over: Callable[[], None],
        *,
        ends_by_halves: bool = False,
        is_pooled: IsPooled | None = None,
        caller_is_far: bool = False,
    ) -> None:
        self._stream = stream
        self._sock = sock
        self.result = result
        """Counts as they happen, and the end once it is over."""
        self._on_over = on_over
        self._ends_by_halves = ends_by_halves
        self._is_pooled = None if caller_is_far else is_pooled
        """Asked of what is read, until it knows."""
        self._is_pooled_far = is_pooled if caller_is_far else None
        """Asked of what comes from the tunnel."""
        self._targets_side = caller_is_far
        self._watch: Watch | None = None
        self._patience: Timer | None = None
        self._taken = 0
        """Bytes of the first piece in `incoming.queue` that the socket has taken."""
        self._time = trio.lowlevel.current_clock().current_time
        """As `trio.current_time`, without looking for the clock each time."""
        self._turns = turns_of_this_loop()
        self._messages = Messages()
        self.over = False
        self._read_all = False
        """The socket's direction has ended, and the stream's with it."""
        self._written_all = False
        """The stream's direction has ended, and the socket's with it."""
        self._failed = False
        """The socket has failed. Whoever met the error first took it: others see what looks like an end."""

    def start(self, watched: Watch | None = None) -> None:
        """Carry from now on; the socket is non-blocking, and may be `watched` already."""
        stream = self._stream
        stream.face = self
        reset_unless_closed_properly(self._sock)
        if watched is None:
            self._watch = watch(self._sock, self._on_ready, self._end, READABLE)
        else:
            self._watch = watched
            watched.on_ready, watched.on_defect = self._on_ready, self._end
        if stream.state is State.CLOSED:
            self._end()
            return
        if self._targets_side:
            # What came before the answer to the CONNECT.
            for piece in stream.incoming.queue:
                self._look_at(piece)
            # Most targets wait to be spoken to: theirs calls.
            self._write_out()
            return
        # Most callers have spoken by now, and need not call for it.
        self._deliver()
        self._read_in()

    @property
    def drains(self) -> bool:
        """Whether `drain` has something to wait for."""
        return self.result.end in (End.REMOTE_RESET, End.LINK_LOST)

    async def drain(self) -> None:
        """Once it is over: let the socket's peer take what came before a reset, for a bounded time."""
        if not self.drains:
            return
        with trio.move_on_after(_DRAIN_LIMIT):
            while self._stream.incoming.queue and not self._failed:
                if not self._send_queued():
                    await trio.lowlevel.wait_writable(self._sock)
            # The kernel tells nobody when it falls to 0.
            while not self._failed and unacknowledged(self._sock):  # noqa: ASYNC110
                await trio.sleep(_DRAIN_POLL)

    def close(self) -> None:
        """Close both ends as their other side deserves; both are reset if it is not over."""
        self.over = True
        # Who is told has this, as a rule: a cycle, for the collector, of each connection that ends.
        self._on_over = _nothing
        self._unwatch()
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

    # --- the socket calls -------------------------------------------------------------------------

    def _on_ready(self, events: int) -> None:
        if events & FAILED:
            # Nobody need be reading or writing just now: what came before the reset gets a bounded time.
            self._failed = True
            self._patience = Timer(self._end, self._end)
            self._patience.set(trio.current_time() + _DRAIN_LIMIT)
        if events & (FAILED | HUNG_UP) and self._watch is not None:
            # Told once: from now on it would be told for ever.
            self._watch.close()
            self._watch = None
        if events & WRITABLE:
            self._write_out()
        if events & ~WRITABLE:
            self._read_in()

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._patience is not None:
            self._patience.close()

    def _want(self) -> None:
        """Be called for what there is to do: ready for anything else, the socket would call for ever."""
        if self._watch is not None:
            reading = READABLE if not self._read_all and self._stream.room() else 0
            writing = WRITABLE if self._stream.incoming.queue else 0
            self._watch.want(reading | writing)

    def _end(self) -> None:
        """Both directions have ended, or one of them can't go on."""
        if not self.over:
            self.over = True
            self._unwatch()
            self.result.end = End.FINISHED if self._read_all and self._written_all else self._why()
            self._on_over()

    def _why(self) -> End:
        match self._stream.end_cause:
            case None | EndCause.LOCAL_RESET | EndCause.FINISHED:
                # Open, or over at the other end: it was the socket's peer.
                return End.LOCAL_RESET
            case EndCause.STOPPED:
                return End.CANCELLED
            case cause if cause in LOST:
                self.result.detail = cause.value
                return End.LINK_LOST
            case _:
                return End.REMOTE_RESET

    # --- socket to tunnel -------------------------------------------------------------------------

    def _read_in(self) -> None:
        stream, sock, pool = self._stream, self._sock, self._stream.session.pool
        left = turn = self._turns.size
        while not self._read_all and not self.over:
            room = stream.room()
            if not room:
                # What is queued must not wait for the peer's credit: that is its answer.
                stream.flush()
                if not (room := stream.room()):
                    break
            wanted = min(room, turn)
            try:
                segment = pool.peek()
                size = sock.recv_into(segment, wanted)
            except BlockingIOError:
                break
            except OSError:  # or there is no memory for a segment
                self._end()
                break
            if not size:
                self._read_end()
                break
            if self._is_pooled is not None:
                pooled = self._is_pooled(bytes(memoryview(segment)[:size]))
                if pooled is not None:
                    stream.is_pooled, self._is_pooled = pooled, None
            now = self._time()
            self._messages.note(SENT, size, now)
            if size >= SHORT:
                self._turns.note_bulk(now)
            if size < _COPY_BELOW:
                stream.write(segment[:size])  # of a mapping, a slice is a copy
            else:
                stream.write(memoryview(pool.take())[:size], segment)  # it is the one peeked at
            self.result.to_tunnel += size
            left -= size
            # A short read has most likely emptied the socket. One that has hung up does not call again.
            if (size < wanted or left <= 0) and self._watch is not None:
                break
        if not self.over:
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
        self._deliver()
        self._stream.flush()
        self._want()

    def _deliver(self) -> None:
        incoming = self._stream.incoming
        # Started by an answer, it has yet to be told of what came with that: counted it is, not queued.
        if self._send_queued() and incoming.end is not None and not incoming.queued:
            self._write_end()

    def _send_queued(self) -> bool:
        """Send what is queued, and say whether that was all."""
        stream, queue = self._stream, self._stream.incoming.queue
        left = self._turns.size
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
            stream.consume(sent, self._time())
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
            # Also where both are over: one that was reset since it ended its direction says so here.
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
        if self._is_pooled_far is not None:
            self._look_at(bytes(data))
        now = self._time()
        self._messages.note(RECEIVED, len(data), now)
        queue = self._stream.incoming.queue
        if not queue and not self._failed:
            sent = self._send(data)
            if sent:
                self._stream.consume(sent, now)
                if sent == len(data):
                    return
                data = data[sent:]
        self._stream.incoming.keep(data)
        self._want()

    def _look_at(self, data: bytes) -> None:
        if self._is_pooled_far is not None:
            pooled = self._is_pooled_far(data)
            if pooled is not None:
                self._stream.is_pooled, self._is_pooled_far = pooled, None

    def on_end(self) -> None:
        """The peer's direction has ended."""
        if not self._stream.incoming.queue:
            self._write_end()

    def on_reset(self) -> None:
        """The stream is gone."""
        self._end()

    def on_room(self) -> None:
        """Read on, if it was the peer's credit that was missing."""
        if not self._read_all and (self._watch is None or not self._watch.wanted & READABLE):
            self._read_in()


def _nothing() -> None:
    pass
