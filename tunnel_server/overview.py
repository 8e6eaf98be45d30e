"""The server's state as the admin API tells it, and as its gauges count it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio

from tunnel_server.admin.views import (
    FailureView,
    FrontendView,
    InterceptionView,
    LinkView,
    ListenerView,
    MappingView,
    NodeView,
    StatusView,
)
from tunnel_server.registry import forgetting
from tunnel_wire.build import build

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.agent_session import AgentSession
    from tunnel_server.calls import Calls
    from tunnel_server.intercept.interception import Interception
    from tunnel_server.mappings import PortMappings
    from tunnel_server.metrics import Metrics
    from tunnel_server.registry import Node, Registry


class Overview:
    """Reads the parts of a running server; changes none of them."""

    def __init__(
        self,
        *,
        version: str,
        instance: str,
        registry: Registry,
        calls: Calls,
        mappings: PortMappings,
        interception: Interception | None,
        metrics: Metrics,
        problems: Callable[[], tuple[str, ...]],
        entrances: Callable[[], list[ListenerView]],
    ) -> None:
        self.own: list[ListenerView] = []
        """Listeners that are not for callers."""
        self._version = version
        self._instance = instance
        self._registry = registry
        self._calls = calls
        self._mappings = mappings
        self._interception = interception
        self._metrics = metrics
        self._problems = problems
        self._entrances = entrances
        self._restores_counted = 0
        self._started = datetime.now(UTC)
        self._started_clock = trio.current_time()

    def nodes(self) -> list[NodeView]:
        """Every node, by name."""
        captured = frozenset[object](self._interception.statistics().addresses if self._interception else ())
        return [self._node(node, captured) for _, node in sorted(self._registry.nodes.items())]

    def _node(self, node: Node, captured: frozenset[object]) -> NodeView:
        links = self._links(node.agent) if node.agent else ()
        newest = links[-1] if links else None
        version = next(iter(node.agent.links.values())).version if node.agent and links else ""
        return NodeView(
            name=node.name,
            addresses=tuple(sorted(map(str, node.addresses))),
            captured=tuple(sorted(str(a) for a in node.addresses if a in captured)),
            connected=newest is not None,
            since=self._moment(node.since) if node.since is not None else None,
            agent_version=version,
            remote_address=newest.remote_address if newest else "",
            rtt_ms=newest.rtt_ms if newest else None,
            links=links,
            open_calls=node.open_calls,
            suspended_calls=_suspended(node),
            bytes_up=node.bytes_up,
            bytes_down=node.bytes_down,
            problem=self._problem(node),
        )

    def _links(self, agent: AgentSession) -> tuple[LinkView, ...]:
        usable, now = agent.usable, trio.current_time()
        return tuple(
            LinkView(
                index=index,
                remote_address=link.remote,
                since=self._moment(link.since),
                calls=link.connection.load,
                rtt_ms=None if (trip := link.connection.round_trip) is None else round(trip * 1000, 2),
                unanswered_seconds=round(link.connection.unanswered(now), 1),
                retiring=link not in usable,
            )
            for index, link in agent.links.items()
        )

    def _problem(self, node: Node) -> str | None:
        for address in sorted(node.addresses, key=str):
            others = [each for each in self._registry.holders(address) if each is not node]
            if others:
                names = ", ".join(sorted(each.name for each in others))
                claimed = f"{address} is claimed by {names} too: it is refused for all of them"
                gone = next((each.name for each in others if each.agent is None and node.agent), None)
                return f"{claimed}{forgetting(gone)}" if gone else claimed
        if node.revoked and node.agent is None:
            return f"{node.revoked}; others may have its addresses"
        if node.problem:
            return node.problem
        return next((f"{address} is refused: {why}" for address, why in node.refused.items()), None)

    def listeners(self) -> tuple[ListenerView, ...]:
        """Every listening socket, those for callers first."""
        return (*self._entrances(), *self.own)

    def mappings(self) -> list[MappingView]:
        """The port mappings in force."""
        return [
            MappingView(port=each.port, listener_port=each.listener_port, source=each.origin.value)
            for each in self._mappings.describe()
        ]

    def status(self) -> StatusView:
        """The server at a glance."""
        registry = self._registry
        return StatusView(
            version=self._version,
            build=build(),
            instance=self._instance[:8],
            started=self._started,
            uptime_seconds=round(trio.current_time() - self._started_clock, 1),
            listeners=self.listeners(),
            interception=self._intercepting(),
            nodes_known=len(registry.nodes),
            nodes_connected=sum(node.agent is not None for node in registry.nodes.values()),
            calls_open=self._calls.open,
            calls_suspended=sum(map(_suspended, registry.nodes.values())),
            memory_used_bytes=registry.budget.used,
            memory_budget_bytes=registry.budget.total,
            frontends=self._frontends(),
            mappings=tuple(self.mappings()),
            mapping_problems=self._problems(),
            recent_failures=tuple(
                FailureView(
                    time=each.when,
                    frontend=each.frontend,
                    caller=each.caller,
                    node=each.node,
                    target=each.target,
                    cause=each.cause.value,
                    detail=each.detail,
                )
                for each in self._calls.failures
            ),
        )

    def _frontends(self) -> tuple[FrontendView, ...]:
        served, failed = self._calls.served, self._calls.failed
        return tuple(
            FrontendView(name=name, calls=served[name] + failed[name], failed=failed[name])
            for name in sorted(served.keys() | failed.keys())
        )

    def _intercepting(self) -> InterceptionView:
        if self._interception is None:
            return InterceptionView(state="off")
        now = self._interception.statistics()
        problems = [str(each) for each in now.refused]
        if now.problem:
            problems.insert(0, now.problem)
        return InterceptionView(
            state="active" if now.active else "failed",
            addresses=len(now.addresses),
            restored=now.restored,
            problems=tuple(problems),
        )

    def checks(self) -> dict[str, str | None]:
        """What /readyz tells: each part, and what is wrong with it."""
        view = self._intercepting()
        failed = view.state == "failed"
        return {
            "interception": "; ".join(view.problems) or "not active" if failed else None,
            **({"calls": self._calls.closed} if self._calls.closed else {}),
        }

    def count(self) -> None:
        """Set the gauges."""
        metrics, registry = self._metrics, self._registry
        sessions = [node.agent for node in registry.nodes.values() if node.agent is not None]
        metrics.nodes_connected.set(len(sessions))
        metrics.sessions.set(len(sessions))
        metrics.links.set(sum(len(session.links) for session in sessions))
        metrics.streams_suspended.set(sum(map(_suspended, registry.nodes.values())))
        metrics.memory_used.set(registry.budget.used)
        metrics.memory_budget.set(registry.budget.total)
        metrics.tasks.set(trio.lowlevel.current_statistics().tasks_living)
        view = self._intercepting()
        metrics.interception_active.set(view.state == "active")
        metrics.addresses_captured.set(view.addresses)
        metrics.interception_restores.inc(view.restored - self._restores_counted)
        self._restores_counted = view.restored
        metrics.addresses_refused.set(sum(len(node.refused) for node in registry.nodes.values()))
        metrics.addresses_shared.set(len(registry.claims.shared()))
        metrics.mapping_problems.set(len(self._problems()))

    def _moment(self, clock: float) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=trio.current_time() - clock)


def _suspended(node: Node) -> int:
    return len(node.former.session.suspended) if node.former is not None else 0
