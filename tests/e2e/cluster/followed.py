"""A server's view of a real cluster, in the test's own event loop, and Nodes made to be seen by it."""

from __future__ import annotations

import itertools
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

import trio

from tunnel_server.config import ServerConfig
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.following import Following
from tunnel_server.kube.resources import EVENTS, NODES, NamespacedName
from tunnel_server.kube.selector import LabelSelector
from tunnel_server.kube.settings import KubernetesSettings
from tunnel_server.metrics import Metrics
from tunnel_server.node_networks import NodeSettings
from tunnel_server.registry import Registry
from tunnel_wire.causes import OpenFailed
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.limits import WireLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.e2e.cluster.control_plane import ControlPlane
    from tunnel_server.port_lists import PortLists

_count = itertools.count(1)


@dataclass
class Followed:
    """A `Following` that runs, and what it feeds."""

    control: ControlPlane
    following: Following
    registry: Registry
    metrics: Metrics
    config: ServerConfig
    admin: Cluster
    label: str
    nursery: trio.Nursery
    lists: list[PortLists] = field(default_factory=list)
    """The lists of ports as they came into force."""

    def add(self, name: str, *addresses: str, edge: bool = True, **status: Any) -> None:
        """Make a Node, as its kubelet does."""
        labels = {"e2e": self.label} if edge else {}
        pods = status.pop("pods", [])
        listed = [{"type": "InternalIP", "address": each} for each in addresses]
        listed += [{"type": kind, "address": each} for kind, each in status.items()]
        spec = {"podCIDR": pods[0], "podCIDRs": pods} if pods else {}
        node = {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": {"addresses": listed}}
        self.admin.create(NODES, node)

    def readdress(self, name: str, *addresses: str) -> None:
        listed = [{"type": "InternalIP", "address": each} for each in addresses]
        change = json.dumps({"status": {"addresses": [{"$patch": "replace"}, *listed]}})
        words = ["--subresource=status", "--type=strategic", "-p", change]
        self.control.kubectl("patch", "node", name, *words)

    def label_as(self, name: str, *, edge: bool) -> None:
        self.admin.merge(NODES, name, {"metadata": {"labels": {"e2e": self.label if edge else None}}})

    def remove(self, name: str) -> None:
        self.admin.delete(NODES, name)

    def held(self) -> dict[str, set[str]]:
        """The addresses of each node that the server knows."""
        return {name: set(map(str, node.addresses)) for name, node in self.registry.nodes.items()}

    def whose(self, address: str) -> str:
        """The node that a call to `address` leads to, or the cause of its failure."""
        try:
            return self.registry.by_address(ip_address(address)).name
        except OpenFailed as failed:
            return failed.cause.value

    def counted(self) -> str:
        """The metrics."""
        self.following.count()
        return self.metrics.render().decode()

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait for what a change in the cluster comes to."""
        with trio.move_on_after(seconds):
            while not condition():
                await trio.sleep(0.02)
        assert condition(), (self.held(), self.following.notes())

    def events(self, name: str, namespace: str = "default") -> list[tuple[str, str]]:
        """The Events on an object: reason and message."""
        found, _ = self.admin.list_all(EVENTS, namespace, fields=f"involvedObject.name={name}")
        return [(each["reason"], each["message"]) for each in found]

    async def until_told(self, name: str, reason: str, text: str, namespace: str = "default") -> None:
        """Wait for an Event."""

        def told() -> bool:
            return any(each == reason and text in said for each, said in self.events(name, namespace))

        await self.until(told)


@asynccontextmanager
async def followed(
    control: ControlPlane, kubeconfig: Path | None = None, **kubernetes: Any
) -> AsyncIterator[Followed]:
    """Follow a cluster, as its administrator unless told; Nodes with a label of this one's own are edges."""
    label = f"{control.port}-{next(_count)}"
    settings = {
        "node_selector": (LabelSelector.parse(f"e2e={label}"),),
        "port_configmap": NamespacedName("kube-system", f"ports-{label}"),
        "request_timeout": 5.0,
        "watch_timeout": 30.0,
        **kubernetes,
    }
    config = ServerConfig(
        edge_networks=(ip_network("192.168.0.0/16"), ip_network("10.0.0.0/8")),
        http_proxy_ports="9081",
        kubernetes=KubernetesSettings(enabled=True, **settings),
    )

    def changed() -> None:
        made.following.changed()

    registry = Registry(
        edge_networks=config.edge_networks,
        budget=Budget(1),
        pool=SegmentPool(),
        limits=WireLimits(),
        links_per_node=1,
        on_addresses=changed,
    )
    metrics = Metrics("test")
    cluster = Cluster(
        partial(from_kubeconfig, kubeconfig or control.kubeconfig), timeout=config.kubernetes.request_timeout
    )
    admin = Cluster(partial(from_kubeconfig, control.kubeconfig))

    async def ports() -> None:
        made.lists.append(made.following.port_lists(made.config))

    following = Following(
        cluster, config, registry, metrics, ports, is_own=lambda each: each == IPv4Address("192.168.9.9")
    )
    async with trio.open_nursery() as nursery:
        made = Followed(control, following, registry, metrics, config, admin, label, nursery)
        try:
            await nursery.start(following.run)
            yield made
        finally:
            nursery.cancel_scope.cancel()
            found, _ = admin.list_all(NODES, labels=f"e2e={label}")
            for node in found:
                admin.delete(NODES, node["metadata"]["name"])
            cluster.close()
            admin.close()


def pinned(config: ServerConfig, **pins: str) -> ServerConfig:
    """The configuration with `pinned-addresses` of nodes, whose names have `_` for `-`."""
    nodes = {
        name.replace("_", "-"): NodeSettings(pinned_addresses=(ip_address(address),))
        for name, address in pins.items()
    }
    return replace(config, nodes=nodes)
