"""A caller's connection that is served without a task: nothing is waited for but the agent's answer.

It is the stream's face until then, and the splice after it. Whatever else there may be to wait for (an agent
that is away, a direct target) has a task: `Calls.serve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnel_server.call_accounts import CallAccount
from tunnel_wire import readiness
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.frames import ErrorCode
from tunnel_wire.sockets import close_with_reset
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

CALLER_LEFT = "the caller went away before the edge answered"


def no_answer(seconds: float) -> OpenFailed:
    """The agent has had so long."""
    return OpenFailed(Cause.TIMED_OUT, f"no answer from the agent within {seconds:g} s")


class ServedCall:
    """From the CONNECT to the account of the call."""

    __slots__ = (
        "_begun",
        "_call",
        "_calls",
        "_node",
        "_owner",
        "_sock",
        "_stream",
        "_target",
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
        self._begun = begun
        self._node = node
        self._target = target
        self._stream = stream
        self._watch: readiness.Watch | None = None
        self._waits = False
        self._call: CallAccount | None = None

    def start(self) -> None:
        """Send the CONNECT, and be called for the rest. What it raises, a defect, leaves nothing open."""
        stream = self._stream
        try:
            # A caller that resets before the edge has answered must not hold a dial there.
            self._watch = readiness.watch(self._sock, self._on_ready, self.cut)
            self._calls.enter()
        except BaseException:
            self._release()
            raise
        self._waits = True
        stream.face = self
        self._calls.answers_due.add(self, self._begun.began + self._calls.open_timeout)
        self._owner.add(self)
        stream.flush()

    def cut(self) -> None:
        """End it before the answer, without an account: the server stops."""
        if self._waits:
            self._settle()
            self._calls.leave()
            self._release()

    def overdue(self) -> None:
        """No answer has come in time."""
        self._fail(no_answer(self._calls.open_timeout), self._node.name, self._target)

    def _on_ready(self, events: int) -> None:
        if events & readiness.FAILED:
            self._fail(OpenFailed(Cause.CANCELLED, CALLER_LEFT))
        elif self._watch is not None:
            # Both directions have ended properly: nothing is left to watch.
            self._watch.close()
            self._watch = None

    def _fail(self, why: OpenFailed, node: str = "", target: str = "") -> None:
        if self._waits:
            self.cut()
            self._calls.not_placed(self._begun, why, node, target)

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
            self._fail(exc, self._node.name, self._target)
            return
        self._settle()
        call = self._call = CallAccount(self._begun, self._node, self._target)
        self._calls.came_about(call)
        OwnedSplice(
            self._owner, self._stream, self._sock, self._ended, call.result, is_pooled=call.is_pooled
        ).start(self._watch)

    def _ended(self, result: SpliceResult) -> None:
        assert self._call is not None
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
        """Nothing is written yet."""
