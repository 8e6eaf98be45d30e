"""From what callers call an edge, a name or an address, to the node and what its agent is to dial."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

from certs.addresses import embedded_ipv4
from tunnel_server.calls import Target, TargetRefused
from tunnel_server.node_networks import NO_NETWORKS
from tunnel_wire.causes import Cause, OpenFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from certs.addresses import IPAddress
    from tunnel_server.node_networks import NodeNetworks
    from tunnel_server.registry import Node, Registry

LOOPBACK = "127.0.0.1"
"""What the agent of a node without addresses dials."""

Find: TypeAlias = "Callable[[str, int], Target]"
"""Host and port to a target that this caller may have; raises OpenFailed. Asking has no effect."""


class Naming:
    """Names and addresses of the registry's nodes, as callers write them."""

    def __init__(
        self, registry: Registry, *, name_suffix: str = "", networks: NodeNetworks = NO_NETWORKS
    ) -> None:
        self.networks = networks
        """Behind nodes. Replaced as a whole when they change."""
        self.name_suffix = name_suffix
        """A domain whose names are nodes: `edge-1.SUFFIX` is edge-1. Empty: node names only."""
        self._registry = registry

    def find(self, host: str, port: int) -> Target:
        """The target for `host`: an edge's address, one in a network behind a node, or a node's name in lower
        case.

        By address, that address is dialled; by name, the node's first address, IPv4 before IPv6.
        Raises OpenFailed: no-such-node, or address-shared for one that several nodes claim.
        """
        address = _address(host)
        if address is not None:
            name = self._through(address)
            if name is None:
                return self.find_captured(address, port)
            through = self._registry.nodes.get(name)
            if through is None:
                text = f"{address} is in a network of {name}, and no node is called so; see `tunnelctl nodes`"
                raise OpenFailed(Cause.NO_SUCH_NODE, text)
            return Target(through, str(address), port)
        node = self._node(host) or self._registry.by_name(self._bare(host.removesuffix(".")))
        return Target(node, _dialled(node), port)

    def find_captured(self, address: IPAddress, port: int) -> Target:
        """The target of a connection that was captured on its way to `address`: an edge's own, and no other.

        Raises OpenFailed as `find` does.
        """
        return Target(self._registry.by_address(address), str(address), port)

    def refused(self, host: str, port: int, why: str) -> OpenFailed:
        """The refusal (not-allowed) of a call to `host`, which names the target if there is one."""
        try:
            return TargetRefused(self.find(host, port), why)
        except OpenFailed:
            return OpenFailed(Cause.NOT_ALLOWED, why)

    def knows(self, host: str) -> bool:
        """Whether `host` is an edge's, several edges' included, or in a network behind one."""
        address = _address(host)
        if address is not None:
            return self.is_edge(address)
        return self._node(host) is not None

    def is_edge(self, address: IPAddress) -> bool:
        """Whether a node holds `address`, or would were it not revoked, or it is in a network behind one."""
        return self._registry.is_reserved(address) or self._through(address) is not None

    def may_be_edge(self, address: IPAddress) -> bool:
        """Whether `address` is inside edge-networks, where an edge could claim it."""
        return any(address in network for network in self._registry.claims.rules.networks)

    def split_port(self, name: str, default_port: int) -> tuple[str, int]:
        """Take `PORT.NODE` apart, as a server name can carry a port; a node of that whole name wins."""
        first, _, rest = name.partition(".")
        if rest and first.isascii() and first.isdigit() and first[0] != "0" and self._node(name) is None:
            port = int(first[:6])
            if port < 65536 and self._node(rest) is not None:
                return rest, port
        return name, default_port

    def _through(self, address: IPAddress) -> str | None:
        """The node behind which `address` is, and not at which."""
        if any(map(self._registry.is_reserved, (address, *embedded_ipv4(address)))):
            return None
        return self.networks.node_of(address)

    def _node(self, host: str) -> Node | None:
        host = host.removesuffix(".")  # the root's (RFC 1034, 3.1)
        return self._registry.find(host) or self._registry.find(self._bare(host))

    def _bare(self, host: str) -> str:
        suffix = self.name_suffix.strip(".").lower()
        return host.removesuffix(f".{suffix}") if suffix else host


def _dialled(node: Node) -> str:
    addresses = sorted(node.addresses, key=lambda each: (each.version, each.packed))
    return str(addresses[0]) if addresses else LOOPBACK


def _address(host: str) -> IPAddress | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
