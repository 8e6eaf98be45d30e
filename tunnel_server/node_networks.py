"""Networks behind nodes, pods' for one: which node an address that belongs to no edge is reached through.

An address is reached so only where a network of the configuration names it. What is loopback, link-local, a
metadata service's or this host's own never is, however wide the network: it would be the edge's, not the
caller's idea of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from certs.addresses import SPECIAL_ADDRESSES, IPAddress, IPNetwork, is_own_address, never_dialled
from tunnel_daemon.settings import setting
from tunnel_daemon.settings_values import Address, Network


def _check_networks(networks: tuple[Network, ...]) -> None:
    for network in networks:
        if network.is_multicast or network.is_unspecified:
            raise ValueError(f"{network} has the address of no machine")
        for special, text in SPECIAL_ADDRESSES:
            if is_within(network, special):
                raise ValueError(f"{network} is never reached through a node: each is {text}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSettings:
    """What the operator says of one node."""

    pinned_addresses: tuple[Address, ...] = setting(
        (),
        doc="addresses that are this node's alone if others claim them too; it must claim them itself",
        live=True,
    )
    networks: tuple[Network, ...] = setting(
        (),
        doc="networks behind it, as its pods', whose addresses are called through it by CONNECT and by Host; "
        "`allow` of its agent must name them too",
        check=_check_networks,
        live=True,
    )


class NodeNetworks:
    """The networks of all nodes; of nested ones, the longest prefix wins."""

    def __init__(self, nodes: Mapping[str, NodeSettings]) -> None:
        self._nodes = {network: name for name, node in nodes.items() for network in node.networks}
        lengths = {(network.version, network.prefixlen) for network in self._nodes}
        self._lengths = sorted(lengths, reverse=True)

    def node_of(self, address: IPAddress) -> str | None:
        """The name of the node through which `address` is reached; None if it is not reached so."""
        for version, length in self._lengths:
            if version == address.version:
                name = self._nodes.get(ip_network((address, length), strict=False))
                if name is not None:
                    return None if _is_reserved(address) else name
        return None


NO_NETWORKS = NodeNetworks({})


def is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether all of `inner` is part of `outer`."""
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _is_reserved(address: IPAddress) -> bool:
    try:
        if never_dialled(address) is not None or is_own_address(address):
            return True
    except OSError:
        # Nobody knows, for want of a descriptor. Nothing looks at it after this, and a refusal is one call,
        # which needs descriptors itself. (Of an edge's own address `kube/foreign_addresses.py` says the
        # opposite: there the kernel decides, and the node would be lost to everybody.)
        return True
    return any(address in network for network, _ in SPECIAL_ADDRESSES)
