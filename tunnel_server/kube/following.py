"""Keeps a server in step with its cluster: the parts that do it, started, reported and stopped together.

While the apiserver is away, everything stays as it was.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from certs.addresses import is_own_address
from tunnel_daemon.program import ProgramError
from tunnel_server.kube.edge_keeping import EdgeKeeper
from tunnel_server.kube.events import Events
from tunnel_server.kube.names import NamesKeeper, read_service
from tunnel_server.kube.port_keeping import PortKeeper
from tunnel_server.kube.resources import SERVICES
from tunnel_server.kube.watch_set import WatchSet
from tunnel_server.kube.watching import Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from certs.addresses import IPAddress
    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.nodes import Edges
    from tunnel_server.metrics import Metrics
    from tunnel_server.port_lists import PortLists
    from tunnel_server.registry import Registry

log = logging.getLogger(__name__)

_FIRST, _FIRST_REPLACING = 5.0, 20.0
"""Seconds for which a server that starts waits for the cluster's answers, to begin with what it says; and for
which one that takes over does: as long as the old one serves, nobody waits for it."""


class Following:
    """One server's view of its cluster."""

    def __init__(
        self,
        cluster: Cluster,
        config: ServerConfig,
        registry: Registry,
        metrics: Metrics,
        on_ports: Callable[[], Awaitable[None]],
        *,
        replacing: bool = False,
        is_own: Callable[[IPAddress], bool] = is_own_address,
    ) -> None:
        """Take `on_ports`, which puts what `port_lists` says into force; may raise InterceptUnavailable.

        From now on no node holds an address, until the cluster is known.
        """
        settings = config.kubernetes
        self._replacing = replacing
        self.watches = WatchSet()
        self.on_nodes: Callable[[Mapping[str, float]], None] = lambda _since: None
        """Called when Nodes may have changed: since when there is each, in seconds since the epoch."""
        self._metrics = metrics
        self._events = Events(cluster, metrics.cluster_event_ended)
        self._edges = EdgeKeeper(
            cluster, settings, registry, self._events, self.watches,
            is_own=is_own, on_nodes=self._nodes_are,
        )  # fmt: skip
        self._ports = PortKeeper(cluster, config, self._events, self.watches, on_ports)
        self._names = self._service = None
        if settings.names_configmap:
            self._names = NamesKeeper(cluster, settings.names_configmap)
            self._service = self.watches.add(
                "service",
                Watcher(
                    cluster, SERVICES, read_service, self.changed, namespace=settings.namespace,
                    name=settings.names_service, lasting=settings.watch_timeout,
                ),
            )  # fmt: skip

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled. Started when what the cluster says is in force, or after some seconds.

        Raises ProgramError if it does not say it in time to a server that takes over: the old one knows more.
        """
        async with trio.open_nursery() as nursery:
            self.watches.start(nursery)
            nursery.start_soon(self._events.run)
            nursery.start_soon(self._edges.run)
            nursery.start_soon(self._ports.run)
            if self._names:
                nursery.start_soon(self._names.run)
            with trio.move_on_after(_FIRST_REPLACING if self._replacing else _FIRST) as first:
                await self._edges.settled.wait()
                await self._ports.listed.wait()
            for name, text in self.notes().items():
                log.warning("the cluster is not followed yet: %s: %s", name, text)
            if first.cancelled_caught and self._replacing:
                raise ProgramError("the cluster does not answer, see above: the server that runs goes on")
            task_status.started()

    def configure(self, config: ServerConfig) -> None:
        """Go by another configuration; its ports are whoever's calls this."""
        self._ports.config = config
        self._edges.configure(config.kubernetes)

    def changed(self) -> None:
        """Look at Nodes and addresses again, soon."""
        self._edges.changed()

    def port_lists(self, config: ServerConfig) -> PortLists:
        """The lists of ports that are in force with this configuration."""
        return self._ports.lists(config)

    def notes(self) -> Mapping[str, str]:
        """What may not be as the cluster has it now, and why."""
        found = self.watches.notes()
        if self._names and self._names.problem:
            found["kubernetes names"] = self._names.problem
        return found

    def count(self) -> None:
        """Set the metrics."""
        self.watches.count(self._metrics)

    def _nodes_are(self, nodes: Edges) -> None:
        if self._names and self._service:
            self._names.changed(nodes, next(iter(self._service.objects.values()), ()))
        everyone = (*nodes.edges.values(), *nodes.others.values())
        self.on_nodes({facts.name: facts.created for facts in everyone})
