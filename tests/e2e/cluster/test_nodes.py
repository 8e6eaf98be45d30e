"""Nodes of a real Kubernetes API become edges, and cease to be: names, addresses, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from tests.e2e.cluster.followed import followed, pinned

if TYPE_CHECKING:
    from tests.e2e.cluster.control_plane import ControlPlane


async def test_added_readdressed_relabelled_removed(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        assert made.following.notes() == {}
        made.add("edge-a", "192.168.2.1")
        made.add("edge-b", "192.168.2.2", ExternalIP="192.168.3.2")
        await made.until(lambda: made.held() == {
            "edge-a": {"192.168.2.1"}, "edge-b": {"192.168.2.2", "192.168.3.2"},
        })  # fmt: skip
        assert made.whose("192.168.3.2") == "edge-b"
        made.readdress("edge-a", "192.168.2.7")
        await made.until(lambda: made.whose("192.168.2.7") == "edge-a")
        assert made.whose("192.168.2.1") == "no-such-node"
        made.label_as("edge-b", edge=False)
        await made.until(lambda: set(made.held()) == {"edge-a"})
        # It is another machine's address now.
        made.readdress("edge-a", "192.168.2.7", "192.168.2.2")
        await made.until_told(
            "edge-a", "AddressRefused", "192.168.2.2 is an address of edge-b, which is no edge"
        )
        assert made.held() == {"edge-a": {"192.168.2.7"}}
        made.label_as("edge-b", edge=True)
        await made.until(lambda: made.whose("192.168.2.2") == "address-shared")
        made.remove("edge-a")
        await made.until(lambda: made.whose("192.168.2.2") == "edge-b")
        made.remove("edge-b")
        await made.until(lambda: made.held() == {})


async def test_what_no_edge_may_claim(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        made.add("cp-c", "192.168.1.1", edge=False, pods=["10.244.7.0/24"])
        refused = {
            "203.0.113.9": "outside the edge networks",
            "192.168.1.1": "an address of cp-c, which is no edge",
            "10.96.0.10": "in the cluster's service range 10.96.0.0/16",
            "10.244.7.9": "in the pod range 10.244.7.0/24",
            "127.0.0.1": "a loopback address",
            "192.168.9.9": "an address of this host itself",
        }
        made.add("edge-c", "192.168.2.1", *refused)
        try:
            for address, why in refused.items():
                await made.until_told("edge-c", "AddressRefused", f"{address} is {why}")
            await made.until(lambda: made.held() == {"edge-c": {"192.168.2.1"}})
            before = made.events("edge-c")
            assert len(before) == len(refused)
            # Said once, whatever else happens, and where an operator looks.
            made.add("edge-d", "192.168.2.2")
            await made.until(lambda: "edge-d" in made.held())
            assert made.events("edge-c") == before
            described = made.control.kubectl("describe", "node", "edge-c")
            assert "AddressRefused" in described
            assert 'edge_tunnel_kubernetes_events_total{outcome="told"} 6.0' in made.counted()
        finally:
            made.remove("cp-c")


async def test_where_kube_apiserver_is(apiserver: ControlPlane) -> None:
    apiserver.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.168.1.250"]}],
            "ports": [{"name": "https", "port": 6443}],
        }
    )
    async with followed(apiserver) as made:
        made.add("edge-a", "192.168.1.250", "192.168.2.1")
        await made.until_told("edge-a", "AddressRefused", "192.168.1.250 is an address of kube-apiserver")
        assert made.held() == {"edge-a": {"192.168.2.1"}}
        apiserver.kubectl("delete", "endpointslice", "kubernetes", "-n", "default")
        await made.until(lambda: made.whose("192.168.1.250") == "edge-a")


async def test_two_claimants_and_a_pin(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        made.add("edge-a", "192.168.2.1")
        made.add("edge-b", "192.168.2.1")
        for name in ("edge-a", "edge-b"):
            text = "192.168.2.1 is claimed by edge-a and edge-b: it is refused for all of them"
            await made.until_told(name, "AddressShared", text)
        assert made.whose("192.168.2.1") == "address-shared"
        assert {made.registry.by_name(each).name for each in ("edge-a", "edge-b")} == {"edge-a", "edge-b"}
        # One of them may be no Node at all: it has a certificate.
        made.registry.learn("outside", [ip_address("192.168.2.1")])
        await made.until_told("edge-b", "AddressShared", "is claimed by edge-a and edge-b and outside")
        config = pinned(made.config, edge_b="192.168.2.1")
        made.registry.claims.rules.pins = config.pins()
        made.registry.review()
        made.following.configure(config)
        assert made.whose("192.168.2.1") == "edge-b"
        await made.until_told("edge-a", "AddressRefused", "192.168.2.1 is pinned to edge-b")


async def test_a_certificate_proves_a_name_and_no_address(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        made.add("cp-e", "192.168.1.9", edge=False)
        try:
            made.registry.learn("edge-e", [ip_address("192.168.2.5")])
            made.registry.learn("outside", [ip_address("192.168.2.6"), ip_address("192.168.1.9")])
            made.add("edge-e", "192.168.2.7")
            await made.until(lambda: made.held() == {"edge-e": {"192.168.2.7"}, "outside": {"192.168.2.6"}})
            made.remove("edge-e")
            await made.until(lambda: made.whose("192.168.2.5") == "edge-e")
        finally:
            made.remove("cp-e")


async def test_without_the_service_range_no_address_is_taken(apiserver: ControlPlane) -> None:
    limited = apiserver.as_user("no-cidrs")
    apiserver.kubectl(
        "create", "clusterrole", "no-cidrs", "--verb=list,watch",
        "--resource=nodes,configmaps,endpointslices.discovery.k8s.io",
    )  # fmt: skip
    apiserver.kubectl("create", "clusterrolebinding", "no-cidrs", "--clusterrole=no-cidrs", "--user=no-cidrs")
    async with followed(apiserver, limited) as made:
        made.add("edge-a", "192.168.2.1")
        made.registry.learn("outside", [ip_address("192.168.2.6")])
        note = made.following.notes()["kubernetes servicecidrs"]
        assert "not known yet: apiserver https://127.0.0.1" in note
        assert note.endswith(
            "; its account needs the verb list on servicecidrs.networking.k8s.io in a ClusterRole"
        )
        assert made.held() == {"outside": set()}
        assert made.following.watches["nodes"].listed.is_set()
        counted = made.counted()
        assert 'edge_tunnel_kubernetes_watch_up{resource="servicecidrs"} 0.0' in counted
        assert 'edge_tunnel_kubernetes_watch_up{resource="nodes"} 1.0' in counted
    async with followed(apiserver, limited, service_networks=(ip_network("10.96.0.0/16"),)) as made:
        made.add("edge-a", "192.168.2.1", "10.96.0.1")
        await made.until(lambda: made.held() == {"edge-a": {"192.168.2.1"}})
        assert made.following.notes() == {}
        # An Event cannot be told, and nothing waits for it.
        await made.until(lambda: 'kubernetes_events_total{outcome="failed"} 1.0' in made.counted())


async def test_many_nodes_come_in_pages(apiserver: ControlPlane) -> None:
    count = 510
    async with followed(apiserver) as made:
        for number in range(count):
            made.add(f"many-{number}", f"192.168.{100 + number // 250}.{number % 250}")
        await made.until(lambda: len(made.held()) == count)
        async with followed(apiserver, node_selector=made.config.kubernetes.node_selector) as again:
            await again.until(lambda: len(again.held()) == count)
            assert again.following.watches["nodes"].lists == 1
