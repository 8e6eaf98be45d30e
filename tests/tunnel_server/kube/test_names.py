"""The fragment for CoreDNS's hosts plugin."""

from ipaddress import ip_address
from typing import Any

import trio
import trio.testing

from tunnel_server.kube.names import NamesKeeper, fragment, read_service
from tunnel_server.kube.nodes import Edges, NodeFacts
from tunnel_server.kube.resources import NamespacedName

SERVICE = (ip_address("10.96.3.4"), ip_address("fd02::4"))


def facts(name: str, *addresses: str) -> NodeFacts:
    return NodeFacts(name, "", {}, tuple(map(ip_address, addresses)), ())


def test_edges_lead_to_the_service_and_others_to_themselves() -> None:
    nodes = Edges(
        {"edge-2": facts("edge-2", "192.168.2.2"), "edge-1": facts("edge-1")},
        {"cp-1": facts("cp-1", "192.168.1.1", "192.168.1.2"), "cp-2": facts("cp-2")},
    )
    assert fragment(nodes, SERVICE[:1]).splitlines() == [
        "192.168.1.1\tcp-1",
        "10.96.3.4\tedge-1",
        "10.96.3.4\tedge-2",
    ]
    assert "fd02::4\tedge-1\n" in fragment(nodes, SERVICE)
    assert fragment(Edges({}, {}), SERVICE) == ""


def test_the_services_addresses() -> None:
    assert (
        read_service({"spec": {"clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4", "fd02::4"]}}) == SERVICE
    )
    assert read_service({"spec": {"clusterIP": "10.96.3.4"}}) == SERVICE[:1]
    assert read_service({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}) == ()
    assert read_service({}) == ()


async def test_a_service_that_goes_while_names_are_written(nursery: trio.Nursery) -> None:
    """It is still said, once that write has succeeded."""
    written = trio.Event()

    class Cluster:
        async def call(self, _write: object) -> None:
            await written.wait()

    cluster: Any = Cluster()
    keeper = NamesKeeper(cluster, NamespacedName("kube-system", "names"))
    nursery.start_soon(keeper.run)
    keeper.changed(Edges({}, {}), SERVICE)
    await trio.testing.wait_all_tasks_blocked()
    keeper.changed(Edges({}, {}), ())
    written.set()
    await trio.testing.wait_all_tasks_blocked()
    assert "is not there" in keeper.problem
    keeper.changed(Edges({}, {}), SERVICE)
    await trio.testing.wait_all_tasks_blocked()
    assert keeper.problem == ""
