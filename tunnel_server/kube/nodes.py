"""What Nodes say: which are edges, at which addresses, by which further names; and whose an address is else.

Pure: objects in, claims out. What of the claims is allowed, `tunnel_server.claims` decides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from certs.addresses import MAX_ADDRESSES, IPAddress, IPNetwork, parse_address
from certs.identity import check_node_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from tunnel_server.kube.resources import Object
    from tunnel_server.kube.selector import LabelSelector

_REACHED = ("InternalIP", "ExternalIP", "Hostname")
"""Types of addresses, as Node.status has them; a Hostname may be an address too."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is kept of a Node. Two of them are equal where nothing that matters here has changed."""

    name: str
    uid: str
    labels: Mapping[str, str]
    addresses: tuple[IPAddress, ...]
    """The first InternalIP first."""
    hostnames: tuple[str, ...]
    """In lower case, its name not among them."""
    pod_networks: tuple[IPNetwork, ...]


def read_node(node: Object) -> NodeFacts:
    """Take what matters of a Node. What is no address, no host name or no network is passed over."""
    about, spec = node.get("metadata") or {}, node.get("spec") or {}
    name = str(about.get("name", ""))
    addresses: dict[IPAddress, None] = {}
    hostnames: dict[str, None] = {}
    listed = (node.get("status") or {}).get("addresses") or ()
    for kind in _REACHED:
        for entry in listed:
            if entry.get("type") != kind:
                continue
            text = str(entry.get("address", ""))
            try:
                addresses[parse_address(text)] = None
            except ValueError:
                if kind == "Hostname":
                    hostnames[text.lower()] = None
    hostnames.pop(name, None)
    return NodeFacts(
        name,
        str(about.get("uid", "")),
        dict(about.get("labels") or {}),
        tuple(addresses),
        tuple(filter(_is_name, hostnames)),
        tuple(_networks(spec.get("podCIDRs") or [spec.get("podCIDR") or ""])),
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
    aliases: Mapping[str, str]
    """Host names of edges that are no Node's name, and one edge's only."""
    contested: Mapping[str, tuple[str, ...]]
    """Host names that are not, and who claims them."""

    def addresses(self) -> dict[str, frozenset[IPAddress]]:
        """What each edge claims; no more than a node may hold."""
        return {name: frozenset(facts.addresses[:MAX_ADDRESSES]) for name, facts in self.edges.items()}


def tell_apart(nodes: Iterable[NodeFacts], selectors: Collection[LabelSelector]) -> Edges:
    """Which Nodes are edges: those that a selector selects."""
    edges: dict[str, NodeFacts] = {}
    others: dict[str, NodeFacts] = {}
    for facts in nodes:
        chosen = any(each.matches(facts.labels) for each in selectors)
        (edges if chosen else others)[facts.name] = facts
    claims = Counter(hostname for facts in edges.values() for hostname in facts.hostnames)
    taken = {*edges, *others, *(hostname for facts in others.values() for hostname in facts.hostnames)}
    aliases: dict[str, str] = {}
    contested: dict[str, tuple[str, ...]] = {}
    for facts in edges.values():
        for hostname in facts.hostnames:
            if hostname not in taken and claims[hostname] == 1:
                aliases[hostname] = facts.name
            else:
                contested[hostname] = (*contested.get(hostname, ()), facts.name)
    return Edges(edges, others, aliases, contested)


class Ground:
    """What an address is in the cluster, and on this host, if it is no edge's."""

    def __init__(
        self,
        others: Iterable[NodeFacts],
        *,
        apiservers: Iterable[IPAddress],
        services: Iterable[IPNetwork],
        pods: Iterable[IPNetwork],
        is_own: Callable[[IPAddress], bool],
    ) -> None:
        self._others = {address: facts.name for facts in others for address in facts.addresses}
        self._apiservers = frozenset(apiservers)
        self._services = _Networks(services)
        self._pods = _Networks(pods)
        self._is_own = is_own

    def what(self, address: IPAddress) -> str | None:
        """What it is, to go on with "... is"; None if nothing speaks against an edge's."""
        if (name := self._others.get(address)) is not None:
            return f"an address of {name}, which is no edge"
        if address in self._apiservers:
            return "an address of kube-apiserver"
        if (network := self._services.of(address)) is not None:
            return f"in the cluster's service range {network}"
        if (network := self._pods.of(address)) is not None:
            return f"in the pod range {network}"
        return "an address of this host itself" if self._is_own(address) else None


class _Networks:
    """Finds an address's network among thousands: one look a prefix length."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._networks = frozenset(networks)
        self._lengths = frozenset((each.version, each.prefixlen) for each in self._networks)

    def of(self, address: IPAddress) -> IPNetwork | None:
        for version, length in self._lengths:
            if version == address.version:
                network = ip_network((address, length), strict=False)
                if network in self._networks:
                    return network
        return None


def _networks(texts: Iterable[object]) -> Iterable[IPNetwork]:
    for text in texts:
        try:
            yield ip_network(str(text), strict=False)
        except ValueError:
            continue


def _is_name(text: str) -> bool:
    try:
        check_node_name(text)
    except ValueError:
        return False
    return True
