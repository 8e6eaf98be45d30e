"""What is wrong with the claims of a cluster's edges, for Events. Pure: nothing is told here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from certs.addresses import MAX_ADDRESSES
from tunnel_server.kube.events import About
from tunnel_server.kube.resources import NODES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from certs.addresses import IPNetwork
    from tunnel_server.kube.nodes import Edges, NodeFacts
    from tunnel_server.registry import Registry

Warned = tuple[About, str, str]
"""An object, a reason, and a message."""

_NAMED = 4
"""Addresses that a message names one by one."""


def claim_warnings(nodes: Edges, registry: Registry, pods: Iterable[IPNetwork]) -> set[Warned]:
    """Return what each edge is to be told; `pods` are the configured pod ranges."""
    pods = tuple(pods)
    found: set[Warned] = set()
    for name, facts in nodes.edges.items():
        about = About(NODES, name, uid=facts.uid)
        for address, why in registry.nodes[name].refused.items():
            found.add((about, "AddressRefused", f"{address} is not captured for {name}: {why}"))
        found.update((about, *each) for each in _too_much(facts))
        if not pods:
            found.update((about, *each) for each in _pod_ranges(facts, registry.claims.rules.networks))
    for address, holders in registry.claims.shared().items():
        names = sorted(holder.name for holder in holders)
        text = (
            f"{address} is claimed by {' and '.join(names)}: it is refused for all of them, and each is "
            "reached by its name; pinned-addresses of [nodes.NAME] in the server's configuration decides"
        )
        for name in names:
            if name in nodes.edges:
                found.add((About(NODES, name, uid=nodes.edges[name].uid), "AddressShared", text))
    return found


def _too_much(facts: NodeFacts) -> Iterator[tuple[str, str]]:
    if beyond := facts.addresses[MAX_ADDRESSES:]:
        named = ", ".join(map(str, beyond[:_NAMED])) + (", ..." if len(beyond) > _NAMED else "")
        text = (
            f"{facts.name} has {len(facts.addresses)} addresses, and an edge can hold {MAX_ADDRESSES}: "
            f"{named} not captured"
        )
        yield "AddressRefused", text


def _pod_ranges(facts: NodeFacts, edge_networks: Iterable[IPNetwork]) -> Iterator[tuple[str, str]]:
    for network in facts.pod_networks:
        if any(network.version == each.version and network.overlaps(each) for each in edge_networks):
            text = (
                f"podCIDR {network} of {facts.name} is in edge-networks, and keeps no address from edges, "
                "since an edge's kubelet may write it: name the cluster's pod ranges in pod-networks"
            )
            yield "PodRangeIgnored", text
