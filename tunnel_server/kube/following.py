"""Keeps a server in step with its cluster: nodes and addresses, ports, names, and what is told there.

While the apiserver is away, everything stays as it was. Before all that the rules ask for is known (other
Nodes, kube-apiserver's addresses, the service range), the cluster's Nodes are nobody's edges yet.
"""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from certs.addresses import is_own_address
from tunnel_server.intercept.config import InterceptUnavailable
from tunnel_server.kube.events import About, Events
from tunnel_server.kube.names import NamesKeeper, read_service
from tunnel_server.kube.nodes import Ground, read_endpoints, read_node, read_service_cidr, tell_apart
from tunnel_server.kube.port_config import port_lists, problems_in, read_port_config
from tunnel_server.kube.resources import CONFIG_MAPS, ENDPOINT_SLICES, NODES, SERVICE_CIDRS, SERVICES
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

_FIRST = 5.0
"""Seconds for which a server that starts waits for the cluster's answers, to begin with what it says."""
_GATHER = 0.1
"""Seconds in which changes gather: a thousand Nodes may come in as many events."""
_REMEMBERED = 60.0
"""Seconds; what becomes this host's own meanwhile is not captured all the same: the kernel looks first."""
_AGAIN = 5.0
"""Seconds until ports that could not be captured are tried again."""
_TOLD = 20
"""Bad entries of one ConfigMap that are told: the log and the status have all of them."""

_Warning = tuple[About, str, str]


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
        is_own: Callable[[IPAddress], bool] = is_own_address,
    ) -> None:
        """Take `on_ports`, which puts what `port_lists` says into force; may raise InterceptUnavailable."""
        self._config = config
        self._registry = registry
        self._metrics = metrics
        self._on_ports = on_ports
        self._is_own = _Remembered(is_own)
        self._apiserver = _literal(cluster.host)
        self._events = Events(cluster, metrics.cluster_event_ended)
        settings = config.kubernetes
        where = settings.port_configmap
        lasting = settings.watch_timeout
        self._nodes = Watcher(cluster, NODES, read_node, self.changed, lasting=lasting)
        self._endpoints = Watcher(
            cluster, ENDPOINT_SLICES, read_endpoints, self.changed,
            namespace="default", labels="kubernetes.io/service-name=kubernetes", lasting=lasting,
        )  # fmt: skip
        self._ports = Watcher(
            cluster, CONFIG_MAPS, read_port_config, self._ports_changed,
            namespace=where.namespace, name=where.name, lasting=lasting,
        )  # fmt: skip
        self._watchers: dict[str, Watcher[Any]] = {
            "nodes": self._nodes,
            "endpointslices": self._endpoints,
            "configmap": self._ports,
        }
        self._ranges = None
        if not settings.service_networks:
            self._ranges = Watcher(cluster, SERVICE_CIDRS, read_service_cidr, self.changed, lasting=lasting)
            self._watchers["servicecidrs"] = self._ranges
        self._names = self._service = None
        if settings.names_configmap:
            self._names = NamesKeeper(cluster, settings.names_configmap)
            self._service = Watcher(
                cluster, SERVICES, read_service, self.changed,
                namespace=settings.namespace, name=settings.names_service, lasting=lasting,
            )  # fmt: skip
            self._watchers["service"] = self._service
        self._counted = dict.fromkeys(self._watchers, 0)
        self._changed = trio.Event()
        self._other_ports = trio.Event()
        self._ground: tuple[object, ...] = ()
        self._said: set[_Warning] = set()
        self._settled = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled. Started when what the cluster says is in force, or after some seconds."""
        async with trio.open_nursery() as nursery:
            for watcher in self._watchers.values():
                nursery.start_soon(watcher.run)
            nursery.start_soon(self._events.run)
            nursery.start_soon(self._keep_nodes)
            nursery.start_soon(self._keep_ports)
            if self._names:
                nursery.start_soon(self._names.run)
            with trio.move_on_after(_FIRST):
                await self._settled.wait()
                await self._ports.listed.wait()
            for name, text in self.notes().items():
                log.warning("the cluster is not followed yet: %s: %s", name, text)
            task_status.started()

    def configure(self, config: ServerConfig) -> None:
        """Go by another configuration; its ports are whoever's calls this."""
        self._config = config
        self.changed()

    def changed(self) -> None:
        """Look at Nodes and addresses again, soon."""
        self._changed.set()

    def port_lists(self, config: ServerConfig) -> PortLists:
        """The lists of ports that are in force with this configuration."""
        where = self._config.kubernetes.port_configmap
        return port_lists(config, self._ports.objects.get(str(where)), where)

    def notes(self) -> Mapping[str, str]:
        """What may not be as the cluster has it now, and why."""
        found = {}
        for name, watcher in self._watchers.items():
            if watcher.problem:
                since = datetime.fromtimestamp(watcher.since, UTC).isoformat(timespec="seconds")
                state = "what was known stays in force" if watcher.listed.is_set() else "not known yet"
                found[f"kubernetes {name}"] = f"since {since}, {state}: {watcher.problem}"
        if self._names and self._names.problem:
            found["kubernetes names"] = self._names.problem
        return found

    def count(self) -> None:
        """Set the metrics."""
        for name, watcher in self._watchers.items():
            up = watcher.listed.is_set() and not watcher.problem
            self._metrics.watch_seen(name, up=up, failures=watcher.failures - self._counted[name])
            self._counted[name] = watcher.failures

    # --- nodes ------------------------------------------------------------------------------------

    async def _keep_nodes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            try:
                self._review()
            except Exception:
                # A defect, or what no apiserver says: it must not end a server that works.
                log.exception("edges stay as they were")
            await trio.sleep(_GATHER)

    def _review(self) -> None:
        """Put what the Nodes say into force, once all is known that it is judged by."""
        settings = self._config.kubernetes
        if not all(each.listed.is_set() for each in (self._nodes, self._endpoints, self._ranges) if each):
            return
        nodes = tell_apart(self._nodes.objects.values(), settings.node_selector)
        if self._names and self._service:
            self._names.changed(nodes, next(iter(self._service.objects.values()), ()))
        services = settings.service_networks or tuple(
            network for each in (self._ranges.objects.values() if self._ranges else ()) for network in each
        )
        pods = [each for facts in self._nodes.objects.values() for each in facts.pod_networks]
        apiservers = [each for slice_ in self._endpoints.objects.values() for each in slice_]
        others = [(facts.name, facts.addresses) for facts in nodes.others.values()]
        ground = (others, services, pods, settings.pod_networks, apiservers)
        if ground != self._ground:
            self._registry.claims.rules.otherwise = Ground(
                nodes.others.values(),
                apiservers=[*apiservers, *self._apiserver],
                services=services,
                pods=(*settings.pod_networks, *pods),
                is_own=self._is_own.ask,
            ).what
        self._registry.assign(nodes.addresses(), nodes.others, nodes.aliases)
        if ground != self._ground:
            self._registry.review()
        self._ground = ground
        self._say(self._warnings(nodes))
        self._settled.set()

    def _warnings(self, nodes: Edges) -> set[_Warning]:
        """What is wrong with the claims of edges."""
        found = set()

        def warn(name: str, reason: str, message: str) -> None:
            found.add((About(NODES, name, uid=nodes.edges[name].uid), reason, message))

        for name in nodes.edges:
            for address, why in self._registry.nodes[name].refused.items():
                warn(name, "AddressRefused", f"{address} is not captured for {name}: {why}")
        for address, holders in self._registry.claims.shared().items():
            names = sorted(holder.name for holder in holders)
            text = (
                f"{address} is claimed by {' and '.join(names)}: it is refused for all of them, and each is "
                "reached by its name; pinned-addresses of [nodes.NAME] in the server's configuration decides"
            )
            for name in names:
                if name in nodes.edges:
                    warn(name, "AddressShared", text)
        for hostname, claimants in nodes.contested.items():
            for name in claimants:
                text = f"the host name {hostname} is no name of {name}: another Node has it or claims it too"
                warn(name, "NameRefused", text)
        return found

    def _say(self, warnings: set[_Warning]) -> None:
        """Tell what is new; what has ended is news when it comes back."""
        for about, reason, message in sorted(warnings - self._said, key=lambda each: each[2]):
            self._events.warn(about, reason, message)
        self._said = warnings

    # --- ports ------------------------------------------------------------------------------------

    def _ports_changed(self) -> None:
        self._other_ports.set()

    async def _keep_ports(self) -> None:
        while True:
            await self._other_ports.wait()
            self._other_ports = trio.Event()
            self._tell_ports()
            try:
                await self._on_ports()
            except InterceptUnavailable as error:
                log.error("the captured ports stay as they were: %s", error)  # noqa: TRY400 - no traceback
                self._other_ports.set()
                await trio.sleep(_AGAIN)

    def _tell_ports(self) -> None:
        where = self._config.kubernetes.port_configmap
        found = self._ports.objects.get(str(where))
        if found is None:
            log.info("there is no ConfigMap %s: the server's own lists of ports are in force", where)
            return
        about = About(CONFIG_MAPS, where.name, where.namespace, found.uid)
        for problem in problems_in(self.port_lists(self._config), where)[:_TOLD]:
            self._events.warn(about, "PortRefused", problem)


class _Remembered:
    """Answers about addresses, kept for a while: each costs a socket, and every new Node asks of all."""

    def __init__(self, ask: Callable[[IPAddress], bool]) -> None:
        self._ask = ask
        self._known: dict[IPAddress, bool] = {}
        self._until = -math.inf

    def ask(self, address: IPAddress) -> bool:
        now = time.monotonic()
        if now >= self._until:
            self._known.clear()
            self._until = now + _REMEMBERED
        if (known := self._known.get(address)) is None:
            known = self._known[address] = self._ask(address)
        return known


def _literal(url: str) -> tuple[IPAddress, ...]:
    """The address in a URL, if it has one instead of a name."""
    try:
        return (ip_address(urlsplit(url).hostname or ""),)
    except ValueError:
        return ()
