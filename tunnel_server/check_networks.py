"""Which addresses in the networks of nodes would lead elsewhere, or nowhere: what an operator may not expect.

Looks only: at the configuration, at the nodes that the state knows, and at this host's addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from certs.addresses import SPECIAL_ADDRESSES, source_towards
from certs.files import StateDirectory, StateError, is_whole
from certs.nodes import NodeStore
from tunnel_server.node_networks import is_within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from certs.addresses import IPAddress
    from tunnel_daemon.toml_lines import KeyPath
    from tunnel_server.config import ServerConfig


def check_networks(config: ServerConfig) -> Iterator[tuple[KeyPath, str]]:
    """Yield (key, what leads elsewhere) for the networks of each node."""
    listed = [(network, name) for name, node in config.nodes.items() for network in node.networks]
    edges = _edges(config) if listed else []
    for network, name in listed:
        for inner, other in listed:
            if other != name and is_within(inner, network):
                yield ("nodes", name, "networks"), f"{inner} in {network} leads to {other}, which names it"
        for address, other in edges:
            if other != name and address in network:
                yield ("nodes", name, "networks"), f"{address} in {network} is {other}'s, and called there"
        for special, text in SPECIAL_ADDRESSES:
            if is_within(special, network):
                yield ("nodes", name, "networks"), f"{special} in {network} is not reached: {text}"
        # What this host would send from is its own, and in a network that it is part of, that network's.
        own = source_towards(network[0])
        if own is not None and own in network:
            yield ("nodes", name, "networks"), f"{own} in {network} is this host's, and not reached"


def _edges(config: ServerConfig) -> list[tuple[IPAddress, str]]:
    path = config.state_dir
    try:
        if not path.exists() or not is_whole(path):
            return []
        nodes = NodeStore(StateDirectory(path)).load().values()
    except (StateError, OSError):
        return []  # told for state-dir
    return [(address, node.name) for node in nodes for address in node.addresses]
