"""The account of each call: what is open, what has failed, in log, metrics, status and audit log."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.client_hello import Http2Offer
from tunnel_wire.splice import End, SpliceResult

if TYPE_CHECKING:
    from tunnel_server.asked import Asked
    from tunnel_server.audit import Audit
    from tunnel_server.metrics import Metrics
    from tunnel_server.registry import Node

log = logging.getLogger(__name__)

_FAILURES_KEPT = 100


@dataclass(frozen=True, slots=True)
class Begun:
    """A call as it began, which may come about or not."""

    asked: Asked
    began: float = field(default_factory=trio.current_time)
    when: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def seconds(self) -> float:
        """Since then."""
        return trio.current_time() - self.began


@dataclass(eq=False, slots=True)
class CallAccount:
    """One call that has come about. Whoever carries it says in `result` what went through."""

    begun: Begun
    node: Node | None
    """None for a direct target."""
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


class CallAccounts:
    """All calls of this server, open and lately failed."""

    def __init__(self, metrics: Metrics, *, limit: int, audit: Audit | None) -> None:
        self._metrics = metrics
        self._audit = audit
        self.limit = limit
        self.open = 0
        metrics.calls_open.set_function(lambda: self.open)
        self.opening = 0
        """Of these, calls that have not come about yet."""
        self._placed: set[CallAccount] = set()
        self.closed = ""
        """Why no more calls are opened: this server leaves."""
        self.failures: deque[Failure] = deque(maxlen=_FAILURES_KEPT)
        self.served: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        """By frontend, since the server started; those that came about, and those that did not."""

    def enter(self) -> None:
        """One call more is to come about. Raises `OpenFailed` if it may not."""
        if self.closed:
            raise OpenFailed(Cause.AWAY, self.closed)
        if self.open >= self.limit:
            raise OpenFailed(Cause.NO_ROOM, f"{self.limit} calls are open")
        self.open += 1
        self.opening += 1

    def leave(self) -> None:
        """It has not."""
        self.open -= 1
        self.opening -= 1

    def came_about(self, call: CallAccount) -> None:
        """It has."""
        self.opening -= 1
        self.served[call.begun.asked.frontend] += 1
        self._metrics.call_opened(call.begun.asked.frontend, call.begun.seconds)
        self._placed.add(call)
        if call.node is not None:
            call.node.open_calls += 1

    def over(self, call: CallAccount, detail: str) -> None:
        """One that came about has ended, as `result` says."""
        self.open -= 1
        self._placed.discard(call)
        asked, seconds, result, node = call.begun.asked, call.begun.seconds, call.result, call.node
        if node is not None:
            node.open_calls -= 1
            node.bytes_up += result.to_tunnel
            node.bytes_down += result.from_tunnel
        self._metrics.add_bytes("to_node", result.to_tunnel)
        self._metrics.add_bytes("to_caller", result.from_tunnel)
        self._metrics.call_ended(asked.frontend, "ok" if result.end is End.FINISHED else result.end.value)
        node_name = "" if node is None else node.name
        if log.isEnabledFor(logging.DEBUG):
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
                call.begun.when,
                asked,
                node=node_name,
                target=call.dialled,
                end=result.end.value,
                detail=detail,
                seconds=seconds,
                to_node=result.to_tunnel,
                to_caller=result.from_tunnel,
            )

    def refused(self, asked: Asked, refusal: OpenFailed) -> None:
        """Keep account of a caller who was refused before it could say what it wants."""
        self.not_placed(Begun(asked), refusal)

    def not_placed(self, begun: Begun, failure: OpenFailed, node: str = "", target: str = "") -> None:
        """Keep account of a call that has not come about. Without a target it is what was wanted."""
        asked, target = begun.asked, target or begun.asked.wanted
        self.failed[asked.frontend] += 1
        self.failures.append(
            Failure(begun.when, asked.frontend, asked.caller, node, target, failure.cause, failure.detail)
        )
        self._metrics.call_ended(asked.frontend, failure.cause.value)
        log.warning(
            "call failed: %s",
            failure,
            extra={"frontend": asked.frontend, "caller": asked.caller, "node": node, "target": target},
        )
        if self._audit is not None:
            self._audit.record(
                begun.when,
                asked,
                node=node,
                target=target,
                end=failure.cause.value,
                detail=failure.detail,
                seconds=begun.seconds,
            )

    @property
    def lasting(self) -> int:
        """Of those that are open, how many come to an end by themselves."""
        return self.open - sum(call.pooled for call in self._placed)

    def carried(self) -> int:
        """Bytes that those which are open have carried: it changes as long as one of them is in use."""
        return sum(call.result.to_tunnel + call.result.from_tunnel for call in self._placed)
