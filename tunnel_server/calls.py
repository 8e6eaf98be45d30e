"""One call: find the node, have its agent dial, splice, keep account. Every frontend ends here."""

from __future__ import annotations

import logging
from collections import Counter, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from certs.addresses import format_endpoint
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.client_hello import Http2Offer
from tunnel_wire.failures import forget, watch
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.splice import End, SpliceResult, splice
from tunnel_wire.stream import TunnelStream

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from tunnel_server.audit import Audit
    from tunnel_server.direct import DirectTarget
    from tunnel_server.metrics import Metrics
    from tunnel_server.registry import Node, Registry

log = logging.getLogger(__name__)

_FAILURES_KEPT = 100


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


@dataclass(frozen=True, slots=True)
class Asked:
    """Who wants what, as it stands in the log, the status and the audit log."""

    frontend: str
    caller: str
    """`ADDRESS:PORT`, or `uid 1000` over a Unix socket."""
    wanted: str
    identity: str = ""
    """SPIFFE URI of the caller's certificate, or `local` over a Unix socket."""


@dataclass(eq=False, slots=True)
class Call:
    """One call that has come about. Whoever placed it splices, and says in `result` what went through."""

    target: Target | DirectTarget
    far: TunnelStream | socket.socket
    """A stream to the node; for a direct target, a connected non-blocking socket."""
    dialled: str
    """`ADDRESS:PORT`; a name that a direct target was given by has become an address."""
    result: SpliceResult = field(default_factory=SpliceResult)
    pooled: bool = False
    """Many requests share it: it has no end of its own."""
    _offer: Http2Offer = field(default_factory=Http2Offer)

    def is_pooled(self, data: bytes) -> bool | None:
        """Whether it is, by the next bytes from the caller; None: more are needed. For `splice`."""
        answer = self._offer(data)
        self.pooled = self.pooled or bool(answer)
        return answer


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that did not come about, for `tunnelctl status`."""

    when: datetime
    frontend: str
    caller: str
    node: str
    target: str
    cause: Cause
    detail: str


class Calls:
    """All calls of this server, open and lately failed."""

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
        self._metrics = metrics
        self._registry = registry
        self.open_timeout = open_timeout
        self.away_wait = away_wait
        self.limit = limit
        self._audit = audit
        self.localhost_ports: frozenset[int] = frozenset()
        """Dialled on the node's own loopback when they are called at one of its addresses."""
        self.open = 0
        self.opening = 0
        """Of these, calls that have not come about yet."""
        self._placed: set[Call] = set()
        self._expected: frozenset[str] = frozenset()
        self._expected_until = 0.0
        self.closed = ""
        """Why no more calls are opened: this server leaves."""
        self.failures: deque[Failure] = deque(maxlen=_FAILURES_KEPT)
        self.served: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        """By frontend, since the server started; those that came about, and those that did not."""

    async def serve(self, sock: socket.socket, asked: Asked, find: Callable[[], Target]) -> None:
        """Serve one caller's connection to its end, and close it. Raises nothing of ours.

        A call that fails is a TCP reset for the caller. Cancelled, both sides are reset.
        """
        began, when = trio.current_time(), datetime.now(UTC)
        try:
            with trio.CancelScope() as waiting:
                # A caller that resets before the edge has answered must not hold a dial there.
                watch(sock, waiting.cancel)
                async with self.place(asked, find) as call:
                    forget(sock)
                    assert isinstance(call.far, TunnelStream)
                    await splice(call.far, sock, call.result, is_pooled=call.is_pooled)
            if waiting.cancelled_caught:
                gone = OpenFailed(Cause.CANCELLED, "the caller went away before the edge answered")
                self._failed(asked, "", asked.wanted, gone, when, trio.current_time() - began)
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
        began, when = trio.current_time(), datetime.now(UTC)
        node_name, wanted = "", asked.wanted
        try:
            if self.closed:
                raise OpenFailed(Cause.AWAY, self.closed)
            if self.open >= self.limit:
                raise OpenFailed(Cause.NO_ROOM, f"{self.limit} calls are open")
            self._count(1)
            self.opening += 1
            try:
                target = find()
                wanted = str(target)
                if isinstance(target, Target):
                    node_name = target.node.name
                far, dialled = await self._open(target)
            except BaseException as exc:
                self._count(-1)
                if isinstance(exc, trio.Cancelled) and (why := cut()):
                    gone = OpenFailed(Cause.CANCELLED, why)
                    self._failed(asked, node_name, wanted, gone, when, trio.current_time() - began)
                raise
            finally:
                self.opening -= 1
        except OpenFailed as exc:
            if isinstance(exc, TargetRefused):
                node_name, wanted = exc.target.node.name, str(exc.target)
            self._failed(asked, node_name, wanted, exc, when, trio.current_time() - began)
            raise
        self.served[asked.frontend] += 1
        self._metrics.call_opened(asked.frontend, trio.current_time() - began)
        call = Call(target, far, dialled)
        self._placed.add(call)
        if isinstance(target, Target):
            target.node.open_calls += 1
        try:
            yield call
        finally:
            self._count(-1)
            self._placed.discard(call)
            detail = call.result.detail
            if call.result.end is End.CANCELLED:
                _abort(far)
                detail = cut()
            self._ended(asked, call, detail, when, trio.current_time() - began)

    def refused(self, asked: Asked, refusal: OpenFailed) -> None:
        """Keep account of a caller who was refused before it could say what it wants."""
        self._failed(asked, "", asked.wanted, refusal, datetime.now(UTC), 0.0)

    def expect(self, nodes: frozenset[str], seconds: float) -> None:
        """The agents of these were linked to the server before this one: they will link here, one by one."""
        self._expected, self._expected_until = nodes, trio.current_time() + seconds

    def _patience(self, node: Node) -> float:
        """Seconds that a call waits for the node's agent."""
        if node.name in self._expected and node.since is None:
            return max(self.away_wait, self._expected_until - trio.current_time())
        return self.away_wait

    @property
    def lasting(self) -> int:
        """Of those that are open, how many come to an end by themselves."""
        return self.open - sum(call.pooled for call in self._placed)

    def carried(self) -> int:
        """Bytes that those which are open have carried: it changes as long as one of them is in use."""
        return sum(call.result.to_tunnel + call.result.from_tunnel for call in self._placed)

    def _count(self, change: int) -> None:
        self.open += change
        self._metrics.calls_open.set(self.open)

    async def _open(self, target: Target | DirectTarget) -> tuple[TunnelStream | socket.socket, str]:
        if not isinstance(target, Target):
            with trio.move_on_after(self.open_timeout):
                sock, address = await target.dial()
                return sock, format_endpoint(str(address), target.port)
            raise OpenFailed(Cause.TIMED_OUT, f"no answer within {self.open_timeout:g} s")
        agent = await self._registry.wait_for(target.node, self._patience(target.node))
        with trio.move_on_after(self.open_timeout):
            return await agent.open(self.dialled(target), target.port), str(target)
        raise OpenFailed(Cause.TIMED_OUT, f"no answer from the agent within {self.open_timeout:g} s")

    def dialled(self, target: Target) -> str:
        """What the agent is asked to dial for `target`."""
        if target.port not in self.localhost_ports:
            return target.host
        own = {str(address): address for address in target.node.addresses}.get(target.host)
        return target.host if own is None else "127.0.0.1" if own.version == 4 else "::1"

    def _ended(self, asked: Asked, call: Call, detail: str, when: datetime, seconds: float) -> None:
        target, result = call.target, call.result
        node_name = ""
        if isinstance(target, Target):
            node = target.node
            node_name = node.name
            node.open_calls -= 1
            node.bytes_up += result.to_tunnel
            node.bytes_down += result.from_tunnel
        self._metrics.add_bytes("to_node", result.to_tunnel)
        self._metrics.add_bytes("to_caller", result.from_tunnel)
        self._metrics.call_ended(asked.frontend, "ok" if result.end is End.FINISHED else result.end.value)
        log.debug(
            "call ended",
            extra={
                "frontend": asked.frontend,
                "caller": asked.caller,
                "node": node_name,
                "target": call.dialled,
                "end": result.end.value,
                "sent": result.to_tunnel,
                "received": result.from_tunnel,
                "seconds": round(seconds, 3),
                **({"detail": detail} if detail else {}),
            },
        )
        if self._audit is not None:
            self._audit.record(
                when,
                asked,
                node=node_name,
                target=call.dialled,
                end=result.end.value,
                detail=detail,
                seconds=seconds,
                to_node=result.to_tunnel,
                to_caller=result.from_tunnel,
            )

    def _failed(
        self, asked: Asked, node: str, target: str, failure: OpenFailed, when: datetime, seconds: float
    ) -> None:
        self.failed[asked.frontend] += 1
        self.failures.append(
            Failure(when, asked.frontend, asked.caller, node, target, failure.cause, failure.detail)
        )
        self._metrics.call_ended(asked.frontend, failure.cause.value)
        log.warning(
            "call failed: %s",
            failure,
            extra={"frontend": asked.frontend, "caller": asked.caller, "node": node, "target": target},
        )
        if self._audit is not None:
            self._audit.record(
                when,
                asked,
                node=node,
                target=target,
                end=failure.cause.value,
                detail=failure.detail,
                seconds=seconds,
            )


def _abort(far: TunnelStream | socket.socket) -> None:
    if isinstance(far, TunnelStream):
        far.reset()
        far.close()
    elif far.fileno() >= 0:
        close_with_reset(far)
