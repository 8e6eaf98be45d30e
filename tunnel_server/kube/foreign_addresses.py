"""What an address is in a cluster, and on this host, if it is no edge's. Pure, but for `RememberedAnswers`.

There are two kinds of answers. Kube-apiserver's own objects, the server's configuration and this host's
interfaces are certain. What other Nodes say of themselves is what their kubelets wrote: a pin overrules it.
"""

from __future__ import annotations

import math
import time
from ipaddress import ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from certs.addresses import IPAddress, IPNetwork
    from tunnel_server.kube.nodes import NodeFacts

_REMEMBERED = 60.0
"""Seconds; what becomes this host's own meanwhile is not captured all the same: the kernel looks first."""


class ForeignAddresses:
    """Whose an address is, to go on with "... is"; None if nothing speaks against an edge's."""

    def __init__(
        self,
        others: Iterable[NodeFacts],
        *,
        apiservers: Iterable[IPAddress],
        services: Iterable[IPNetwork],
        pods: Iterable[IPNetwork],
        is_own: Callable[[IPAddress], bool],
    ) -> None:
        """Take the Nodes that are no edges. With `pods`, the configured ranges, theirs do not count."""
        others = tuple(others)
        self._others = {address: facts.name for facts in others for address in facts.addresses}
        self._apiservers = frozenset(apiservers)
        self._services = _Networks(services)
        self._pods = _Networks(pods)
        self._node_pods = _Networks(
            () if self._pods else (each for facts in others for each in facts.pod_networks)
        )
        self._is_own = is_own

    def certain(self, address: IPAddress) -> str | None:
        """By the word of kube-apiserver, the configuration, or this host."""
        if address in self._apiservers:
            return "an address of kube-apiserver"
        if (network := self._services.of(address)) is not None:
            return f"in the cluster's service range {network}"
        if (network := self._pods.of(address)) is not None:
            return f"in the pod range {network}"
        return "an address of this host itself" if self._is_own(address) else None

    def said(self, address: IPAddress) -> str | None:
        """By the word of Nodes that are no edges."""
        if (name := self._others.get(address)) is not None:
            return f"an address of {name}, which is no edge"
        if (network := self._node_pods.of(address)) is not None:
            return f"in the pod range {network}"
        return None


class RememberedAnswers:
    """Answers about addresses, kept for a while: each costs a socket, and every new Node asks of all."""

    def __init__(self, ask: Callable[[IPAddress], bool]) -> None:
        self._ask = ask
        self._known: dict[IPAddress, bool] = {}
        self._until = -math.inf

    def ask(self, address: IPAddress) -> bool:
        """What `ask` answers, or answered within a minute.

        No, while it raises OSError for want of descriptors: what is this host's own is not captured, whatever
        is said of it here (`intercept/routes.py`), and what is an edge's must not be lost by a shortage: a
        claim that is refused is all of a node's calls. `node_networks.py` answers yes, for nothing looks
        after it there.
        """
        now = time.monotonic()
        if now >= self._until:
            self._known.clear()
            self._until = now + _REMEMBERED
        if (known := self._known.get(address)) is None:
            try:
                known = self._known[address] = self._ask(address)
            except OSError:
                return False
        return known


class _Networks:
    """Finds an address's network among thousands: one look a prefix length."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self._networks = frozenset(networks)
        self._lengths = frozenset((each.version, each.prefixlen) for each in self._networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def of(self, address: IPAddress) -> IPNetwork | None:
        for version, length in self._lengths:
            if version == address.version:
                network = ip_network((address, length), strict=False)
                if network in self._networks:
                    return network
        return None
