"""Names and addresses as callers write them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from tests.tunnel_server.core import running
from tunnel_server.calls import TargetRefused
from tunnel_server.frontends.naming import Naming
from tunnel_server.node_networks import NodeNetworks, NodeSettings
from tunnel_wire.causes import Cause, OpenFailed


async def test_names() -> None:
    async with running() as core:
        core.registry.learn("edge-1", map(ip_address, ("192.168.2.144", "192.168.2.143")))
        core.registry.node("edge-2.factory")
        naming = Naming(core.registry, name_suffix=".Edges.example.org.")
        for name in (
            "edge-1",
            "edge-1.",
            "edge-1.edges.example.org",
            "edge-1.edges.example.org.",
            "192.168.2.143",
        ):
            target = naming.find(name, 80)
            assert (target.node.name, str(target)) == ("edge-1", "192.168.2.143:80"), name
            assert naming.knows(name)
        for name in ("edge-2.factory", "edge-2.factory.edges.example.org"):
            assert str(naming.find(name, 80)) == "127.0.0.1:80"
        for name in ("edge-2", "edges.example.org", "edge-1.example.org", "192.168.2.9", "", ".", "edge-1.."):
            assert not naming.knows(name)
            with pytest.raises(OpenFailed, match="no node"):
                naming.find(name, 80)
        naming.name_suffix = ""
        assert not naming.knows("edge-1.edges.example.org")


async def test_a_shared_address_is_known_and_refused() -> None:
    async with running() as core:
        for name in ("edge-1", "edge-2"):
            core.registry.learn(name, [ip_address("192.168.1.10")])
        naming = Naming(core.registry)
        assert naming.knows("192.168.1.10")
        assert naming.is_edge(ip_address("192.168.1.10"))
        with pytest.raises(
            OpenFailed, match="claimed by several nodes, edge-1, edge-2: reach each by its name"
        ):
            naming.find("192.168.1.10", 80)
        assert naming.find("edge-2", 80).node.name == "edge-2"


async def test_a_refusal_names_the_target_where_there_is_one() -> None:
    async with running() as core:
        core.registry.learn("edge-1", [ip_address("192.168.2.143")])
        naming = Naming(core.registry)
        for host in ("edge-1", "192.168.2.143"):
            refused = naming.refused(host, 22, "not for you")
            assert isinstance(refused, TargetRefused)
            assert (refused.target.node.name, str(refused.target)) == ("edge-1", "192.168.2.143:22")
            assert (refused.cause, refused.detail) == (Cause.NOT_ALLOWED, "not for you")
        refused = naming.refused("edge-9", 22, "not for you")
        assert not isinstance(refused, TargetRefused)
        assert (refused.cause, refused.detail) == (Cause.NOT_ALLOWED, "not for you")


async def test_ports_in_names() -> None:
    async with running() as core:
        for name in ("edge-1", "80.edge-1", "7"):
            core.registry.node(name)
        naming = Naming(core.registry)
        assert naming.split_port("9443.edge-1", 10250) == ("edge-1", 9443)
        assert naming.find(*naming.split_port("9443.edge-1.", 10250)).port == 9443
        assert naming.split_port("80.edge-1", 10250) == ("80.edge-1", 10250), "a node of that name"
        for name in ("edge-1", "7", "99999.edge-1", "0.edge-1", "080.edge-1", "9443.edge-9", "x.edge-1", ""):
            assert naming.split_port(name, 10250) == (name, 10250)


async def test_networks_behind_nodes() -> None:
    async with running() as core:
        core.registry.claims.rules.networks = (ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16"))
        core.registry.learn("edge-1", [ip_address("192.168.2.143")])
        core.registry.learn("edge-2", [ip_address("10.42.1.9")])
        for name in ("edge-3", "edge-4"):
            core.registry.learn(name, [ip_address("10.42.1.10")])
        everything = NodeSettings(networks=(ip_network("10.42.1.0/24"), ip_network("64:ff9b::/96")))
        naming = Naming(core.registry, networks=NodeNetworks({"edge-1": everything}))

        target = naming.find("10.42.1.7", 80)
        assert (target.node.name, str(target)) == ("edge-1", "10.42.1.7:80")
        assert naming.find("10.42.1.9", 80).node.name == "edge-2", "an edge's own address is its own"
        with pytest.raises(OpenFailed, match="claimed by several nodes"):
            naming.find("10.42.1.10", 80)
        for host in ("10.42.2.7", "64:ff9b::192.168.2.143"):
            with pytest.raises(OpenFailed, match="no node has the address"):
                naming.find(host, 80)
            assert not naming.knows(host)
        for host in ("10.42.1.7", "10.42.1.9", "10.42.1.10"):
            assert naming.knows(host)
            assert naming.is_edge(ip_address(host)), "nobody dials it from the server's host"
        with pytest.raises(OpenFailed, match="no node has the address"):
            naming.find_captured(ip_address("10.42.1.7"), 80)

        core.registry.withdraw(core.registry.nodes["edge-2"], "revoked")
        with pytest.raises(OpenFailed, match="edge-2 had it: revoked"):
            naming.find("10.42.1.9", 80)

        naming.networks = NodeNetworks({"edge-9": everything})
        assert naming.knows("10.42.1.7")
        with pytest.raises(OpenFailed, match="is in a network of edge-9, and no node is called so"):
            naming.find("10.42.1.7", 80)
