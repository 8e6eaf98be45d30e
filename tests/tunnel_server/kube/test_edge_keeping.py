"""What Nodes come to whose kubelet is an enemy's. Lists and watches are tested with a real apiserver."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from tunnel_server.kube.edge_keeping import EdgeKeeper
from tunnel_server.kube.nodes import read_endpoints, read_node, read_service_cidr
from tunnel_server.kube.selector import LabelSelector
from tunnel_server.kube.settings import KubernetesSettings
from tunnel_server.kube.watch_set import WatchSet
from tunnel_server.registry import Registry
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.limits import WireLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.events import About, Events
    from tunnel_server.kube.nodes import Edges

EDGE = {"edge": "true"}


class Kept:
    """A keeper whose watches say what the test has them say."""

    def __init__(self, nursery: trio.Nursery, **settings: Any) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.nodes: dict[str, dict[str, Any]] = {}
        self.seen: list[Edges] = []
        self.registry = Registry(
            edge_networks=(ip_network("192.168.0.0/16"),),
            budget=Budget(1),
            pool=SegmentPool(),
            limits=WireLimits(),
            links_per_node=1,
            on_addresses=lambda: None,
        )
        self.watches = WatchSet()
        self.settings = KubernetesSettings(
            enabled=True, node_selector=(LabelSelector.parse("edge=true"),), **settings
        )
        self.keeper = EdgeKeeper(
            cast("Cluster", SimpleNamespace(host="https://192.168.1.250:6443")),
            self.settings,
            self.registry,
            cast("Events", self),
            self.watches,
            is_own=lambda _address: False,
            on_nodes=self.seen.append,
        )
        nursery.start_soon(self.keeper.run)

    def warn(self, about: About, reason: str, message: str) -> None:
        self.told.append((about.name, reason, message))

    def say(self, watch: str, objects: dict[str, Any]) -> None:
        """Have one of the watches know these objects."""
        watcher = self.watches[watch]
        watcher.objects = objects
        watcher.listed.set()
        self.keeper.changed()

    def know(self) -> None:
        """Have the cluster known, with a control plane and no edge."""
        self.node("cp-1", "192.168.1.1")
        self.say("endpointslices", {"kubernetes": read_endpoints({})})
        self.say("servicecidrs", {"kubernetes": read_service_cidr({"spec": {"cidrs": ["10.96.0.0/16"]}})})

    def node(self, name: str, *addresses: str, edge: bool = False, pods: str = "", **status: str) -> None:
        """Have a Node be as its kubelet says."""
        listed = [{"type": "InternalIP", "address": each} for each in addresses]
        listed += [{"type": kind, "address": each} for kind, each in status.items()]
        self.nodes[name] = {
            "metadata": {"name": name, "uid": name, "labels": EDGE if edge else {}},
            "spec": {"podCIDR": pods} if pods else {},
            "status": {"addresses": listed},
        }
        self.say("nodes", {name: read_node(each) for name, each in self.nodes.items()})

    def held(self) -> dict[str, list[str]]:
        nodes = self.registry.nodes.values()
        return {node.name: sorted(map(str, node.addresses)) for node in nodes if node.addresses}

    def pin(self, name: str, address: str) -> None:
        self.registry.claims.rules.pins = {ip_address(address): name}
        self.registry.review()
        self.keeper.changed()


@pytest.fixture
def kept(nursery) -> Callable[..., Kept]:
    def make(**settings: Any) -> Kept:
        return Kept(nursery, **settings)

    return make


async def test_nobody_holds_an_address_before_the_cluster_is_known(
    autojump_clock, kept: Callable[..., Kept]
) -> None:
    """Nor who has it from a certificate: it may be another Node's, or a Service's."""
    made = kept()
    made.registry.learn("outside", [ip_address("192.168.2.9"), ip_address("192.168.1.1")])
    made.node("edge-1", "192.168.2.1", edge=True)
    made.node("cp-1", "192.168.1.1")
    made.say("endpointslices", {})
    await trio.sleep(10)
    assert made.held() == {}
    assert not made.keeper.settled.is_set()
    why = made.registry.nodes["outside"].refused[ip_address("192.168.2.9")]
    assert why.startswith("the cluster is not known yet")
    made.say("servicecidrs", {})
    await made.keeper.settled.wait()
    assert made.held() == {"edge-1": ["192.168.2.1"], "outside": ["192.168.2.9"]}
    # Whatever is unknown later, what was known stays in force.
    made.watches["nodes"].problem = "away"
    made.keeper.changed()
    await trio.sleep(10)
    assert made.held() == {"edge-1": ["192.168.2.1"], "outside": ["192.168.2.9"]}


@pytest.mark.parametrize("hostname", ["kubernetes.default.svc", "edge-1", "cp-1", "9100.edge-1", "box"])
async def test_a_host_name_is_no_name(autojump_clock, kept: Callable[..., Kept], hostname: str) -> None:
    made = kept()
    made.know()
    made.node("edge-1", "192.168.2.1", edge=True)
    made.node("evil-1", "192.168.2.66", edge=True, Hostname=hostname, InternalDNS=hostname)
    await trio.sleep(1)
    found = made.registry.find(hostname)
    assert found is None or found.name == hostname
    assert set(made.seen[-1].edges) == {"edge-1", "evil-1"}


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("certified", [True, False])
async def test_no_edge_takes_the_others_addresses_by_its_pod_range(
    autojump_clock, kept: Callable[..., Kept], *, labelled: bool, certified: bool
) -> None:
    made = kept()
    made.know()
    made.node("edge-1", "192.168.2.1", edge=True)
    if certified:  # perhaps of a server before this one
        made.registry.learn("evil-1", [])
    else:
        made.node("evil-1", "192.168.2.66", edge=True)
    await trio.sleep(1)
    made.node("evil-1", "192.168.2.66", edge=labelled, pods="192.168.0.0/16")
    await trio.sleep(1)
    assert made.held()["edge-1"] == ["192.168.2.1"]
    if labelled:
        (told,) = made.told
        assert told[:2] == ("evil-1", "PodRangeIgnored")
        assert "podCIDR 192.168.0.0/16 of evil-1 is in edge-networks" in told[2]
        assert "name the cluster's pod ranges in pod-networks" in told[2]


async def test_a_machine_of_the_cloud_keeps_its_pods_addresses(
    autojump_clock, kept: Callable[..., Kept]
) -> None:
    made = kept()
    made.know()
    made.node("cloud-1", "192.168.1.2", pods="192.168.77.0/24")
    made.node("edge-1", "192.168.77.1", edge=True)
    await trio.sleep(1)
    assert made.held() == {}
    assert "in the pod range 192.168.77.0/24" in made.told[0][2]
    # One that was never an edge can lie, too: the operator's word counts instead, or a pin's.
    made.pin("edge-1", "192.168.77.1")
    assert made.held() == {"edge-1": ["192.168.77.1"]}
    made.registry.claims.rules.pins = {}
    made.keeper.configure(replace(made.settings, pod_networks=(ip_network("192.168.200.0/24"),)))
    made.node("edge-2", "192.168.200.1", edge=True, pods="192.168.200.0/25")
    await trio.sleep(1)
    assert made.held() == {"edge-1": ["192.168.77.1"]}
    assert [each[:2] for each in made.told] == [("edge-1", "AddressRefused"), ("edge-2", "AddressRefused")]


async def test_a_pin_holds_against_a_node_that_takes_its_label_off(
    autojump_clock, kept: Callable[..., Kept]
) -> None:
    made = kept()
    made.know()
    made.node("edge-1", "192.168.2.1", edge=True)
    made.pin("edge-1", "192.168.2.1")
    made.node("evil-1", "192.168.2.1", edge=True)
    await trio.sleep(1)
    assert made.held() == {"edge-1": ["192.168.2.1"]}
    made.node("evil-1", "192.168.2.1", edge=False)
    await trio.sleep(1)
    assert made.held() == {"edge-1": ["192.168.2.1"]}
    # Without one it is nobody's, whether the other is an edge or not; but no more than an edge may hold.
    made.registry.claims.rules.pins = {}
    made.node("evil-1", *(f"192.168.2.{number}" for number in range(2, 200)), "192.168.2.1")
    made.node("edge-2", "192.168.2.2", edge=True)
    made.registry.review()
    await trio.sleep(1)
    assert made.held() == {"edge-1": ["192.168.2.1"]}
    assert "192.168.2.2 is an address of evil-1, which is no edge" in made.told[-1][2]


async def test_a_seventeenth_address_is_told(autojump_clock, kept: Callable[..., Kept]) -> None:
    made = kept()
    made.know()
    made.node("edge-1", *(f"192.168.2.{number}" for number in range(1, 24)), edge=True)
    await trio.sleep(1)
    assert len(made.held()["edge-1"]) == 16
    text = (
        "edge-1 has 23 addresses, and an edge can hold 16: "
        "192.168.2.17, 192.168.2.18, 192.168.2.19, 192.168.2.20, ... not captured"
    )
    assert made.told == [("edge-1", "AddressRefused", text)]
