"""One call: find the node, have its agent dial, splice, keep account. Every frontend ends here."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from certs.addresses import format_endpoint
from tunnel_server.call_accounts import Begun, CallAccount, CallAccounts
from tunnel_server.served_call import CALLER_LEFT, ServedCall, no_answer
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.deadlines import Deadlines
from tunnel_wire.failures import forget, watch
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.splice import End, splice
from tunnel_wire.stream import TunnelStream

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from tunnel_server.asked import Asked
    from tunnel_server.audit import Audit
    from tunnel_server.direct import DirectTarget
    from tunnel_server.metrics import Metrics
    from tunnel_server.registry import Node, Registry
    from tunnel_wire.owner import Owner


@dataclass(frozen=True, slots=True)
class Target:
    """What a call is for: a node, and what its agent is to dial."""

    node: Node
    host: str
    port: int

    def __str__(self) -> str:
        return format_endpoint(self.host, self.port)


class TargetRefused(OpenFailed):
    """There is such a target, and this caller may not have it: the account of the call names it."""

    def __init__(self, target: Target, detail: str) -> None:
        super().__init__(Cause.NOT_ALLOWED, detail)
        self.target = target


@dataclass(eq=False, slots=True)
class Call(CallAccount):
    """One whose far end somebody has in hand."""

    far: TunnelStream | socket.socket = field(kw_only=True)
    """A stream to the node; for a direct target, a connected non-blocking socket."""


class Calls(CallAccounts):
    """Places calls, and keeps account of them."""

    def __init__(
        self,
        metrics: Metrics,
        registry: Registry,
        *,
        open_timeout: float,
        away_wait: float,
        limit: int,
        audit: Audit | None = None,
    ) -> None:
        super().__init__(metrics, limit=limit, audit=audit)
        self._registry = registry
        self.open_timeout = open_timeout
        self.away_wait = away_wait
        self.answers_due = Deadlines()
        self.localhost_ports: frozenset[int] = frozenset()
        """Dialled on the node's own loopback when they are called at one of its addresses."""
        self._expected: frozenset[str] = frozenset()
        self._expected_until = 0.0

    def begin(self, owner: Owner, sock: socket.socket, asked: Asked, find: Callable[[], Target]) -> bool:
        """Serve one caller's connection as `serve` does, without a task, if its agent can be asked at once.

        False, and nothing has happened, if it can't: then `serve` it. `find` must have no effect: it may be
        asked twice, and the second answer counts. Only defects are raised.
        """
        if self.closed or self.open >= self.limit:
            return False
        try:
            target = find()
            agent = target.node.agent
            stream = None if agent is None else agent.ask(self.dialled(target), target.port)
        except OpenFailed:
            return False  # `serve` finds the same, and tells it
        if stream is None:
            return False
        ServedCall(self, owner, sock, Begun(asked), target.node, str(target), stream).start()
        return True

    async def serve(self, sock: socket.socket, asked: Asked, find: Callable[[], Target]) -> None:
        """Serve one caller's connection to its end, and close it. Raises nothing of ours.

        A call that fails is a TCP reset for the caller. Cancelled, both sides are reset.
        """
        begun = Begun(asked)
        try:
            with trio.CancelScope() as waiting:
                # A caller that resets before the edge has answered must not hold a dial there.
                watch(sock, waiting.cancel)
                async with self.place(asked, find) as call:
                    forget(sock)
                    assert isinstance(call.far, TunnelStream)
                    await splice(call.far, sock, call.result, is_pooled=call.is_pooled)
            if waiting.cancelled_caught:
                self.not_placed(begun, OpenFailed(Cause.CANCELLED, CALLER_LEFT))
        except OpenFailed:
            pass  # told already; the caller learns it by the reset
        finally:
            forget(sock)
            if sock.fileno() >= 0:
                close_with_reset(sock)

    @asynccontextmanager
    async def place(
        self, asked: Asked, find: Callable[[], Target | DirectTarget], cut: Callable[[], str] = lambda: ""
    ) -> AsyncIterator[Call]:
        """Open a call, and keep account of it until the block is left.

        `cut` says why a call that is cancelled ends, if there is more to say. The block closes the far end,
        and sets `result.end` once it has; otherwise it is reset. Raises OpenFailed when the call does not
        come about: told in log, status, metrics and audit log then. It takes at most `away_wait` and
        `open_timeout` seconds together. Cancelled, nothing remains.
        """
        begun = Begun(asked)
        node: Node | None = None
        wanted = asked.wanted
        try:
            self.enter()
            try:
                target = find()
                wanted = str(target)
                if isinstance(target, Target):
                    node = target.node
                far, dialled = await self._open(target)
            except BaseException as exc:
                self.leave()
                if isinstance(exc, trio.Cancelled) and (why := cut()):
                    gone = OpenFailed(Cause.CANCELLED, why)
                    self.not_placed(begun, gone, node.name if node else "", wanted)
                raise
        except OpenFailed as exc:
            if isinstance(exc, TargetRefused):
                node, wanted = exc.target.node, str(exc.target)
            self.not_placed(begun, exc, node.name if node else "", wanted)
            raise
        call = Call(begun, node, dialled, far=far)
        self.came_about(call)
        try:
            yield call
        finally:
            detail = call.result.detail
            if call.result.end is End.CANCELLED:
                _abort(far)
                detail = cut()
            self.over(call, detail)

    def expect(self, nodes: frozenset[str], seconds: float) -> None:
        """The agents of these were linked to the server before this one: they will link here, one by one."""
        self._expected, self._expected_until = nodes, trio.current_time() + seconds

    def _patience(self, node: Node) -> float:
        """Seconds that a call waits for the node's agent."""
        if node.name in self._expected and node.since is None:
            return max(self.away_wait, self._expected_until - trio.current_time())
        return self.away_wait

    async def _open(self, target: Target | DirectTarget) -> tuple[TunnelStream | socket.socket, str]:
        if not isinstance(target, Target):
            with trio.move_on_after(self.open_timeout):
                sock, address = await target.dial()
                return sock, format_endpoint(str(address), target.port)
            raise OpenFailed(Cause.TIMED_OUT, f"no answer within {self.open_timeout:g} s")
        agent = await self._registry.wait_for(target.node, self._patience(target.node))
        with trio.move_on_after(self.open_timeout):
            return await agent.open(self.dialled(target), target.port), str(target)
        raise no_answer(self.open_timeout)

    def dialled(self, target: Target) -> str:
        """What the agent is asked to dial for `target`."""
        if target.port not in self.localhost_ports:
            return target.host
        own = {str(address): address for address in target.node.addresses}.get(target.host)
        return target.host if own is None else "127.0.0.1" if own.version == 4 else "::1"


def _abort(far: TunnelStream | socket.socket) -> None:
    if isinstance(far, TunnelStream):
        far.reset()
        far.close()
    elif far.fileno() >= 0:
        close_with_reset(far)
