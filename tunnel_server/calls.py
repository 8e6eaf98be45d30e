"""One call: find the node, have its agent dial, splice, keep account. Every frontend ends here."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.splice import End, SpliceResult, splice

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tunnel_server.metrics import Metrics
    from tunnel_server.registry import Node
    from tunnel_wire.stream import TunnelStream

log = logging.getLogger(__name__)

_FAILURES_KEPT = 100


@dataclass(frozen=True, slots=True)
class Target:
    """What a call is for: a node, and what its agent is to dial."""

    node: Node
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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

    def __init__(self, metrics: Metrics, *, open_timeout: float, limit: int) -> None:
        self._metrics = metrics
        self.open_timeout = open_timeout
        self.limit = limit
        self.localhost_ports: frozenset[int] = frozenset()
        """Dialled on the node's own loopback when they are called at one of its addresses."""
        self.open = 0
        self.failures: deque[Failure] = deque(maxlen=_FAILURES_KEPT)

    async def serve(
        self, sock: socket.socket, frontend: str, caller: str, wanted: str, find: Callable[[], Target]
    ) -> None:
        """Serve one caller's connection to its end, and close it. Raises nothing of ours.

        `wanted` is what the caller asked for, as it stands in the log if `find` raises OpenFailed. A call
        that
        fails is a TCP reset for the caller. Cancelled, both sides are reset.
        """
        if self.open >= self.limit:
            self._failed(
                sock, frontend, caller, "", wanted, OpenFailed(Cause.NO_ROOM, f"{self.limit} calls are open")
            )
            return
        self.open += 1
        self._metrics.calls_open.set(self.open)
        try:
            await self._serve(sock, frontend, caller, wanted, find)
        finally:
            self.open -= 1
            self._metrics.calls_open.set(self.open)
            if sock.fileno() >= 0:
                close_with_reset(sock)

    async def _serve(
        self, sock: socket.socket, frontend: str, caller: str, wanted: str, find: Callable[[], Target]
    ) -> None:
        began = trio.current_time()
        node_name = ""
        try:
            target = find()
            node_name, wanted = target.node.name, str(target)
            tunnel = await self._open(target)
        except OpenFailed as exc:
            self._failed(sock, frontend, caller, node_name, wanted, exc)
            return
        self._metrics.call_opened(frontend, trio.current_time() - began)
        node, result = target.node, SpliceResult()
        node.open_calls += 1
        try:
            await splice(tunnel, sock, result)
        finally:
            node.open_calls -= 1
            node.bytes_up += result.to_tunnel
            node.bytes_down += result.from_tunnel
            self._metrics.add_bytes("to_node", result.to_tunnel)
            self._metrics.add_bytes("to_caller", result.from_tunnel)
            self._metrics.call_ended(frontend, "ok" if result.end is End.FINISHED else result.end.value)
            log.debug(
                "call ended",
                extra={
                    "frontend": frontend,
                    "caller": caller,
                    "node": node_name,
                    "target": wanted,
                    "end": result.end.value,
                    "sent": result.to_tunnel,
                    "received": result.from_tunnel,
                    "seconds": round(trio.current_time() - began, 3),
                },
            )

    async def _open(self, target: Target) -> TunnelStream:
        agent = target.node.agent
        if agent is None:
            raise OpenFailed(Cause.AWAY, f"{target.node.name} is not connected")
        with trio.move_on_after(self.open_timeout):
            return await agent.open(self._host(target), target.port)
        raise OpenFailed(Cause.TIMED_OUT, f"no answer from the agent within {self.open_timeout:g} s")

    def _host(self, target: Target) -> str:
        if target.port not in self.localhost_ports:
            return target.host
        own = {str(address): address for address in target.node.addresses}.get(target.host)
        return target.host if own is None else "127.0.0.1" if own.version == 4 else "::1"

    def _failed(
        self, sock: socket.socket, frontend: str, caller: str, node: str, target: str, failure: OpenFailed
    ) -> None:
        close_with_reset(sock)
        self.failures.append(
            Failure(datetime.now(UTC), frontend, caller, node, target, failure.cause, failure.detail)
        )
        self._metrics.call_ended(frontend, failure.cause.value)
        log.warning(
            "call failed: %s",
            failure,
            extra={"frontend": frontend, "caller": caller, "node": node, "target": target},
        )
