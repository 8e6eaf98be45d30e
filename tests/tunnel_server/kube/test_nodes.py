"""Nodes as their kubelets write them, and what a server makes of them."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from tunnel_server.kube.nodes import (
    NodeFacts,
    read_endpoints,
    read_node,
    read_service_cidr,
    tell_apart,
)
from tunnel_server.kube.settings import DEFAULT_NODE_SELECTOR

EDGE = {"openyurt.io/is-edge-worker": "true"}


def node(
    name: str, *addresses: tuple[str, str], labels: dict[str, str] | None = None, **spec: Any
) -> NodeFacts:
    return read_node(
        {
            "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels},
            "spec": spec,
            "status": {"addresses": [{"type": kind, "address": text} for kind, text in addresses]},
        }
    )


def test_what_is_kept() -> None:
    facts = node(
        "edge-1",
        ("Hostname", "edge-1"),
        ("ExternalIP", "203.0.113.1"),
        ("InternalIP", "192.168.2.1"),
        ("InternalIP", "fd00::1"),
        ("Hostname", "Box.Example"),
        ("InternalDNS", "box.internal"),
        ("InternalIP", "192.168.2.1"),
        labels=EDGE,
        podCIDR="10.244.1.0/24",
        podCIDRs=["10.244.1.0/24", "fd01::/64"],
    )
    assert facts == NodeFacts(
        "edge-1",
        "uid-edge-1",
        EDGE,
        tuple(map(ip_address, ("192.168.2.1", "fd00::1", "203.0.113.1"))),
        tuple(map(ip_network, ("10.244.1.0/24", "fd01::/64"))),
    )


@pytest.mark.parametrize(
    "listed",
    [
        ("InternalIP", ""),
        ("InternalIP", "fe80::1%eth0"),
        ("InternalIP", "::ffff:192.168.2.1"),
        ("InternalIP", "x"),
        ("Hostname", "kubernetes.default.svc"),
    ],
)
def test_what_is_no_address_is_passed_over(listed: tuple[str, str]) -> None:
    assert node("edge-1", listed).addresses == ()


def test_a_hostname_may_be_an_address() -> None:
    assert node("edge-1", ("Hostname", "192.168.2.1")).addresses == (ip_address("192.168.2.1"),)


@pytest.mark.parametrize(
    "empty", [{}, {"metadata": None, "spec": None, "status": None}, {"status": {"addresses": None}}]
)
def test_an_empty_one(empty: dict[str, Any]) -> None:
    assert read_node(empty) == NodeFacts("", "", {}, (), ())


def test_only_a_podcidr_of_before() -> None:
    assert node("cp", podCIDR="10.244.0.0/24").pod_networks == (ip_network("10.244.0.0/24"),)


def test_edges_are_told_apart() -> None:
    nodes = [
        node("edge-1", ("InternalIP", "192.168.2.1"), labels=EDGE),
        node("edge-2", labels=EDGE),
        node("cp-1", ("InternalIP", "192.168.1.1")),
    ]
    found = tell_apart(nodes, DEFAULT_NODE_SELECTOR)
    assert set(found.edges) == {"edge-1", "edge-2"}
    assert set(found.others) == {"cp-1"}
    assert found.addresses()["edge-1"] == {ip_address("192.168.2.1")}
    assert set(tell_apart(nodes, ()).others) == {"edge-1", "edge-2", "cp-1"}


def test_who_takes_its_label_off_has_no_more_of_a_say_than_before() -> None:
    many = [("InternalIP", f"192.168.2.{number}") for number in range(1, 40)]
    nodes = [node(name, *many, podCIDR="192.168.0.0/16") for name in ("edge-1", "cp-1")]
    found = tell_apart(nodes, DEFAULT_NODE_SELECTOR, {"edge-1"})
    assert found.edges == {}
    once, never = found.others["edge-1"], found.others["cp-1"]
    assert (len(once.addresses), once.pod_networks) == (16, ())
    assert (len(never.addresses), never.pod_networks) == (39, (ip_network("192.168.0.0/16"),))


def test_a_node_claims_no_more_than_it_may_hold() -> None:
    many = [("InternalIP", f"192.168.2.{number}") for number in range(1, 40)]
    found = tell_apart([node("edge-1", *many, labels=EDGE)], DEFAULT_NODE_SELECTOR)
    assert found.addresses()["edge-1"] == {IPv4Address(f"192.168.2.{number}") for number in range(1, 17)}


def test_ranges_and_endpoints() -> None:
    assert read_service_cidr({"spec": {"cidrs": ["10.96.0.0/12", "fd02::/108", "?"]}}) == tuple(
        map(ip_network, ("10.96.0.0/12", "fd02::/108"))
    )
    assert read_service_cidr({}) == ()
    slice_ = {"endpoints": [{"addresses": ["192.168.1.1"]}, {"addresses": ["host", "fd00::1"]}, {}]}
    assert read_endpoints(slice_) == tuple(map(ip_address, ("192.168.1.1", "fd00::1")))
    assert read_endpoints({}) == ()
