"""What Nodes say: which are edges, and at which addresses.

Pure: objects in, claims out. What of the claims is allowed, `tunnel_server.claims` decides. A Node's one name
is its own: the host names in its status are whatever its kubelet likes, `kubernetes.default.svc` for one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING

from certs.addresses import MAX_ADDRESSES, IPAddress, IPNetwork, parse_address

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Mapping

    from tunnel_server.kube.resources import Object
    from tunnel_server.kube.selector import LabelSelector

_REACHED = ("InternalIP", "ExternalIP", "Hostname")
"""Types of addresses, as Node.status has them; a Hostname may be an address too."""

APISERVER_SLICES = "kubernetes.io/service-name=kubernetes"
"""Label selector, in the namespace `default`, of the EndpointSlices with kube-apiserver's addresses."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is kept of a Node. Two of them are equal where nothing that matters here has changed."""

    name: str
    uid: str
    labels: Mapping[str, str]
    addresses: tuple[IPAddress, ...]
    """The first InternalIP first."""
    pod_networks: tuple[IPNetwork, ...]
    created: float = 0.0
    """In seconds since the epoch."""


def read_node(node: Object) -> NodeFacts:
    """Take what matters of a Node. What is no address or no network is passed over."""
    about, spec = node.get("metadata") or {}, node.get("spec") or {}
    name = str(about.get("name", ""))
    addresses: dict[IPAddress, None] = {}
    listed = (node.get("status") or {}).get("addresses") or ()
    for kind in _REACHED:
        for entry in listed:
            if entry.get("type") != kind:
                continue
            try:
                addresses[parse_address(str(entry.get("address", "")))] = None
            except ValueError:
                continue  # a host name
    return NodeFacts(
        name,
        str(about.get("uid", "")),
        dict(about.get("labels") or {}),
        tuple(addresses),
        tuple(_networks(spec.get("podCIDRs") or [spec.get("podCIDR") or ""])),
        _moment(about.get("creationTimestamp")),
    )


def read_service_cidr(item: Object) -> tuple[IPNetwork, ...]:
    """The ranges of a ServiceCIDR."""
    return tuple(_networks((item.get("spec") or {}).get("cidrs") or ()))


def read_endpoints(item: Object) -> tuple[IPAddress, ...]:
    """The addresses of an EndpointSlice."""
    found: list[IPAddress] = []
    for endpoint in item.get("endpoints") or ():
        for text in endpoint.get("addresses") or ():
            try:
                found.append(parse_address(str(text)))
            except ValueError:
                continue  # of a slice of names
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Edges:
    """The cluster's Nodes, told apart."""

    edges: Mapping[str, NodeFacts]
    others: Mapping[str, NodeFacts]

    def addresses(self) -> dict[str, frozenset[IPAddress]]:
        """What each edge claims; no more than a node may hold."""
        return {name: frozenset(facts.addresses[:MAX_ADDRESSES]) for name, facts in self.edges.items()}


def tell_apart(
    nodes: Iterable[NodeFacts], selectors: Collection[LabelSelector], once_edges: Container[str] = ()
) -> Edges:
    """Which Nodes are edges: those that a selector selects.

    One of `once_edges`, by name, may have taken its label off itself, as kubelets can: it does not gain more
    of a say over others' addresses by it than an edge has.
    """
    edges: dict[str, NodeFacts] = {}
    others: dict[str, NodeFacts] = {}
    for facts in nodes:
        if any(each.matches(facts.labels) for each in selectors):
            edges[facts.name] = facts
        elif facts.name in once_edges:
            others[facts.name] = replace(facts, addresses=facts.addresses[:MAX_ADDRESSES], pod_networks=())
        else:
            others[facts.name] = facts
    return Edges(edges, others)


def _networks(texts: Iterable[object]) -> Iterable[IPNetwork]:
    for text in texts:
        try:
            yield ip_network(str(text), strict=False)
        except ValueError:
            continue


def _moment(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0  # not from an apiserver
