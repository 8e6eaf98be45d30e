"""Keeps the registry in step with the Nodes of a cluster: which are edges, and which addresses they hold.

Before all that the rules ask for is known (other Nodes, kube-apiserver's addresses, the service range),
nobody holds an address: neither the cluster's edges nor those that have theirs from a certificate.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from tunnel_server.kube.claim_warnings import claim_warnings
from tunnel_server.kube.foreign_addresses import ForeignAddresses, RememberedAnswers
from tunnel_server.kube.nodes import (
    APISERVER_SLICES,
    read_endpoints,
    read_node,
    read_service_cidr,
    tell_apart,
)
from tunnel_server.kube.resources import ENDPOINT_SLICES, NODES, SERVICE_CIDRS
from tunnel_server.kube.watching import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from certs.addresses import IPAddress, IPNetwork
    from tunnel_server.kube.claim_warnings import Warned
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.events import Events
    from tunnel_server.kube.nodes import Edges, NodeFacts
    from tunnel_server.kube.settings import KubernetesSettings
    from tunnel_server.kube.watch_set import WatchSet
    from tunnel_server.registry import Registry

log = logging.getLogger(__name__)

_GATHER = 0.1
"""Seconds in which changes gather: a thousand Nodes may come in as many events."""
_ONCE_EDGES = 20_000
"""Names of Nodes that are remembered as edges."""
_UNDECIDED = "the cluster is not known yet, see notes in /readyz: no address is captured before it is"


class EdgeKeeper:
    """Judges the claims of Nodes anew whenever something changes that they are judged by."""

    def __init__(
        self,
        cluster: Cluster,
        settings: KubernetesSettings,
        registry: Registry,
        events: Events,
        watches: WatchSet,
        *,
        is_own: Callable[[IPAddress], bool],
        on_nodes: Callable[[Edges], None],
    ) -> None:
        """Add what is followed to `watches`. `on_nodes` is called with the Nodes at each look."""
        self.settled = trio.Event()
        """Set once what the Nodes say is in force."""
        self._settings = settings
        self._registry = registry
        self._events = events
        self._on_nodes = on_nodes
        self._is_own = RememberedAnswers(is_own)
        self._apiserver = _literal(cluster.host)
        lasting = settings.watch_timeout
        self._nodes = watches.add("nodes", Watcher(cluster, NODES, read_node, self.changed, lasting=lasting))
        self._endpoints = watches.add(
            "endpointslices",
            Watcher(
                cluster, ENDPOINT_SLICES, read_endpoints, self.changed,
                namespace="default", labels=APISERVER_SLICES, lasting=lasting,
            ),
        )  # fmt: skip
        self._ranges: Watcher[tuple[IPNetwork, ...]] | None = None
        if not settings.service_networks:
            ranges = Watcher(cluster, SERVICE_CIDRS, read_service_cidr, self.changed, lasting=lasting)
            self._ranges = watches.add("servicecidrs", ranges)
        self._changed = trio.Event()
        self._judged_by: tuple[object, ...] = ()
        self._once_edges: dict[str, None] = {}
        self._said: set[Warned] = set()
        registry.claims.rules.undecided = _UNDECIDED

    def configure(self, settings: KubernetesSettings) -> None:
        """Go by other settings."""
        self._settings = settings
        self.changed()

    def changed(self) -> None:
        """Look again, soon."""
        self._changed.set()

    async def run(self) -> None:
        """Keep the registry in step until cancelled. Never raises."""
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
        if not all(each.listed.is_set() for each in (self._nodes, self._endpoints, self._ranges) if each):
            return
        nodes = tell_apart(self._nodes.objects.values(), self._settings.node_selector, self._were_edges())
        self._remember(nodes.edges)
        self._on_nodes(nodes)
        others = tuple(nodes.others.values())
        changed = self._judge_by(others)
        self._registry.assign(nodes.addresses(), nodes.others)
        if changed:
            self._registry.review()
        self._say(claim_warnings(nodes, self._registry, self._settings.pod_networks))
        self.settled.set()

    def _judge_by(self, others: tuple[NodeFacts, ...]) -> bool:
        """Replace the rules if what they rest on has changed; whether it has."""
        settings, rules = self._settings, self._registry.claims.rules
        services = settings.service_networks or tuple(
            network for each in (self._ranges.objects.values() if self._ranges else ()) for network in each
        )
        apiservers = [each for slice_ in self._endpoints.objects.values() for each in slice_]
        said = [(facts.name, facts.addresses, facts.pod_networks) for facts in others]
        judged_by = (said, services, settings.pod_networks, apiservers)
        if judged_by == self._judged_by:
            return False
        self._judged_by = judged_by
        foreign = ForeignAddresses(
            others,
            apiservers=[*apiservers, *self._apiserver],
            services=services,
            pods=settings.pod_networks,
            is_own=self._is_own.ask,
        )
        rules.otherwise, rules.elsewhere, rules.undecided = foreign.certain, foreign.said, ""
        return True

    def _were_edges(self) -> set[str]:
        """Those that have an agent's certificate, which outlasts this process, or were edges in its time."""
        certified = (name for name, node in self._registry.nodes.items() if node.certified is not None)
        return {*self._once_edges, *certified}

    def _remember(self, edges: Iterable[str]) -> None:
        self._once_edges.update(dict.fromkeys(edges))
        while len(self._once_edges) > _ONCE_EDGES:
            del self._once_edges[next(iter(self._once_edges))]

    def _say(self, warnings: set[Warned]) -> None:
        """Tell what is new; what has ended is news when it comes back."""
        for about, reason, message in sorted(warnings - self._said, key=lambda each: each[2]):
            self._events.warn(about, reason, message)
        self._said = warnings


def _literal(url: str) -> tuple[IPAddress, ...]:
    """The address in a URL, if it has one instead of a name."""
    try:
        return (ip_address(urlsplit(url).hostname or ""),)
    except ValueError:
        return ()
