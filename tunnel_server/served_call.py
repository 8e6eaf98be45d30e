"""A caller's connection that is served without a task: nothing is waited for but the agent's answer.

It is the stream's face until then, and the splice after it. What the caller says goes with the CONNECT where
the agent takes that (spec.md, 5.2): what the target says to it is here a round trip sooner. Whatever else
there may be to wait for (an agent that is away, a direct target) has a task: `Calls.serve`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tunnel_daemon.descriptors import describe
from tunnel_server.call_accounts import CallAccount
from tunnel_wire import readiness
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.flow import SEGMENT
from tunnel_wire.frames import ErrorCode
from tunnel_wire.sockets import close_with_reset, reset_unless_closed_properly
from tunnel_wire.splice import OwnedSplice
from tunnel_wire.stream import check_opened
from tunnel_wire.stream_state import EndCause

if TYPE_CHECKING:
    import socket

    from tunnel_server.call_accounts import Begun
    from tunnel_server.calls import Calls
    from tunnel_server.registry import Node
    from tunnel_wire.owner import Owner
    from tunnel_wire.session import Stream
    from tunnel_wire.splice import SpliceResult
    from tunnel_wire.splicing import IsPooled

CALLER_LEFT = "the caller went away before the edge answered"


def no_answer(seconds: float) -> OpenFailed:
    """The agent has had so long."""
    return OpenFailed(Cause.TIMED_OUT, f"no answer from the agent within {seconds:g} s")


class ServedCall:
    """From the CONNECT to the account of the call."""

    __slots__ = (
        "_call",
        "_calls",
        "_is_pooled",
        "_owner",
        "_sock",
        "_stream",
        "_waits",
        "_watch",
    )

    def __init__(
        self,
        calls: Calls,
        owner: Owner,
        sock: socket.socket,
        begun: Begun,
        node: Node,
        target: str,
        stream: Stream,
    ) -> None:
        """Take over the caller's socket, and a stream that was asked for just now, and not flushed."""
        self._calls = calls
        self._owner = owner
        self._sock = sock
        self._stream = stream
        self._call = CallAccount(begun, node, target)
        self._is_pooled: IsPooled | None = self._call.is_pooled
        """Asked of what the caller says, until it knows."""
        self._watch: readiness.Watch | None = None
        self._waits = False

    def start(self) -> None:
        """Send the CONNECT, and be called for the rest. What it raises, a defect, leaves nothing open."""
        stream = self._stream
        # Once its words are read, the kernel would close it properly if this process were killed.
        reset_unless_closed_properly(self._sock)
        try:
            # A caller that resets before the edge has answered must not hold a dial there.
            self._watch = readiness.watch(self._sock, self._on_ready, self.cut, readiness.READABLE)
            self._calls.enter()
        except BaseException:
            self._release()
            raise
        self._waits = True
        stream.face = self
        self._calls.answers_due.add(self, self._call.begun.began + self._calls.open_timeout)
        self._owner.add(self)
        try:
            # Most callers have spoken by now.
            self._read_in()
        except BaseException:
            self.cut()
            raise

    def cut(self) -> None:
        """End it before the answer, without an account: the server stops."""
        if self._waits:
            self._settle()
            self._calls.leave()
            self._release()

    def overdue(self) -> None:
        """No answer has come in time."""
        self._fail(no_answer(self._calls.open_timeout), by_edge=True)

    def _on_ready(self, events: int) -> None:
        if events & readiness.FAILED:
            self._fail(OpenFailed(Cause.CANCELLED, CALLER_LEFT))
            return
        if events & readiness.HUNG_UP and self._watch is not None:
            # Both directions have ended properly: nothing is left to watch.
            self._watch.close()
            self._watch = None
        if events & readiness.READABLE:
            self._read_in()

    def _read_in(self) -> None:
        """Send what the caller has said, as far as the stream takes it before the answer."""
        stream, more = self._stream, False
        if room := stream.room():
            try:
                segment = stream.session.pool.peek()
                size = self._sock.recv_into(segment, min(room, SEGMENT))
                more = size > 0
            except BlockingIOError:
                size, more = 0, True
            except OSError as error:
                # A reset: the watch says nothing of it any more.
                why = OpenFailed(Cause.CANCELLED, CALLER_LEFT)
                if error.errno == errno.ENOMEM:  # for the segment
                    why = OpenFailed(Cause.NO_ROOM, describe(error))
                self._fail(why)
                return
            if size:
                data = segment[:size]  # of a mapping, a slice is a copy
                if self._is_pooled is not None and (pooled := self._is_pooled(bytes(data))) is not None:
                    stream.is_pooled, self._is_pooled = pooled, None
                stream.write(data)
                self._call.result.to_tunnel += size
        if not more and self._watch is not None:
            # No room, or the caller's end: the splice will find either.
            self._watch.want(0)
        stream.flush()

    def _fail(self, why: OpenFailed, *, by_edge: bool = False) -> None:
        if self._waits:
            self.cut()
            call = self._call
            node = call.node.name if by_edge and call.node is not None else ""
            self._calls.not_placed(call.begun, why, node, call.dialled if by_edge else "")

    def _settle(self) -> None:
        """It waits no more."""
        self._waits = False
        self._calls.answers_due.discard(self)
        self._owner.discard(self)

    def _release(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._stream.face = None
        self._stream.reset(ErrorCode.CANCEL)
        self._stream.flush()
        close_with_reset(self._sock)

    def _answered(self) -> None:
        if not self._waits:
            return
        if self._stream.end_cause is EndCause.STOPPED:
            self.cut()
            return
        try:
            check_opened(self._stream)
        except OpenFailed as exc:
            self._fail(exc, by_edge=True)
            return
        self._settle()
        call = self._call
        self._calls.came_about(call)
        OwnedSplice(
            self._owner, self._stream, self._sock, self._ended, call.result, is_pooled=self._is_pooled
        ).start(self._watch)

    def _ended(self, result: SpliceResult) -> None:
        self._calls.over(self._call, result.detail)

    # --- the stream's face ------------------------------------------------------------------------

    def on_answer(self) -> None:
        """Join both ends, or tell why not."""
        self._answered()

    def on_reset(self) -> None:
        """The same."""
        self._answered()

    def on_data(self, data: memoryview) -> None:
        """Never before the answer; keep it."""
        self._stream.incoming.keep(data)

    def on_end(self) -> None:
        """It is found when the answer is."""

    def on_room(self) -> None:
        """Nothing: what is not granted before the answer waits for it."""
